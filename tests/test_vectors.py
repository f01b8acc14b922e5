"""Known answers of scheme kahe and its protocol: the code gives them, refuses the bad ones, and they are made anew."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from secure_fu import errors
from secure_fu.crypto import CommitteeTerms, Identity, Role, Roster, SealingKey, SigningKey
from secure_fu.crypto.kahe import PARAMETER_SETS, CiphertextSum, Layout, open_sum
from secure_fu.crypto.kahe._expansion import expand
from secure_fu.crypto.kahe._planes import from_wire, to_wire
from secure_fu.crypto.sharing import FIELD_PRIME, decode_share, encode_share, recover_key, share_key
from secure_fu.crypto.wire import decode, encode
from secure_fu.privacy import Budget, Unit
from secure_fu.protocol import Header, Member, MemberRecord, Policy
from secure_fu.protocol.committee.layout import layout_of
from secure_fu.protocol.committee.messages import Ballot, Delivery, ShareBinding
from secure_fu.protocol.messages import Announcement, Domain, Roll, Upload, digest

TESTS = Path(__file__).parent
VECTORS = TESTS / "vectors"
FILES = ("kahe.json", "sharing.json", "protocol.json", "members.json")


def load(name: str) -> Any:
    return json.loads((VECTORS / name).read_text(encoding="utf-8"))


KAHE, SHARING, PROTOCOL, MEMBERS = (load(name) for name in FILES)
SEED = bytes.fromhex(KAHE["seed"]["hex"])
HEADER_DIGEST = bytes.fromhex(PROTOCOL["header_digest"])
Integers = NDArray[np.int64]


def imported(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def by(name: str) -> Callable[[dict[str, Any]], str]:
    return lambda case: str(case[name])


@contextmanager
def refused(case: dict[str, Any]) -> Iterator[None]:
    """The very error that the vector names, not one derived from it."""
    with pytest.raises(errors.SecureFUError) as caught:
        yield
    assert type(caught.value).__name__ == case["error"]


def test_running_the_generator_again_makes_the_same_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(VECTORS), *sys.path])
    made = imported(VECTORS / "make_vectors.py").files()
    assert sorted(made) == sorted(FILES)
    for name, text in made.items():
        assert text.encode() == (VECTORS / name).read_bytes(), f"{name} is another one: is the change meant?"


# Scheme kahe. Keys, errors and vectors by the formulas in the file.


def layout_from(case: dict[str, Any]) -> Layout:
    return Layout(
        parameter_set=PARAMETER_SETS[case["parameter_set"]],
        length=case["length"],
        digit_bits=case["digit_bits"],
        clients=case["clients"],
    )


def key_of(degree: int, c: int) -> Integers:
    i = np.arange(degree)
    return (7 * i * i + 3 * i + c) % 27 - 13


def errors_of(count: int, c: int) -> Integers:
    i = np.arange(count)
    return (5 * i * i + i + c) % 23 - 11


def values_of(layout: Layout, c: int) -> Integers:
    most = layout.largest_digit // layout.clients
    return (40503 * np.arange(layout.length) + 7 * c) % (2 * most + 1) - most


def coefficients_of(layout: Layout, c: int) -> list[int]:
    values, k = values_of(layout, c).tolist(), layout.coefficients
    values += [0] * (layout.digits * k - len(values))
    found = [layout.scale * e for e in errors_of(k, c).tolist()]
    return [
        v + sum(values[i * k + j] << (i * layout.digit_bits) for i in range(layout.digits)) for j, v in enumerate(found)
    ]


def test_parameter_sets() -> None:
    for case, found in zip(KAHE["parameter_sets"], PARAMETER_SETS.values(), strict=True):
        assert (found.name, found.degree, found.residue_bits) == (case["name"], case["degree"], case["residue_bits"])
        assert list(found.primes) == case["primes"]


@pytest.mark.parametrize("case", KAHE["expansion"], ids=by("parameter_set"))
def test_expansion(case: dict[str, Any]) -> None:
    residues = expand(PARAMETER_SETS[case["parameter_set"]], SEED, case["block"] + 1)[
        case["block"], case["prime_index"]
    ]
    assert residues[:8].tolist() == case["first"]
    assert hashlib.sha256(residues.astype("<u4").tobytes()).hexdigest() == case["sha256"]


@pytest.mark.parametrize("case", KAHE["layouts"], ids=by("parameter_set"))
def test_layouts(case: dict[str, Any]) -> None:
    layout = layout_from(case)
    for name in ("digits", "coefficients", "blocks", "ciphertext_bytes", "largest_digit"):
        assert getattr(layout, name) == case[name]
    assert layout.scale == 1 << case["scale_bits"]
    assert [layout.error_bound(n) for n in (1, layout.clients)] == [
        case["error_bound_of_one"],
        case["error_bound_of_all"],
    ]
    assert [layout.key_bound(n) for n in (1, layout.clients)] == [case["key_bound_of_one"], case["key_bound_of_all"]]


@pytest.mark.parametrize("case", KAHE["bad_layouts"], ids=by("comment"))
def test_bad_layouts(case: dict[str, Any]) -> None:
    with refused(case):
        layout_from(case)


@pytest.mark.parametrize("case", KAHE["planes"], ids=by("parameter_set"))
def test_planes(case: dict[str, Any]) -> None:
    layout, data = layout_from(case), bytes.fromhex(case["hex"])
    residues = np.array(case["residues"], dtype=np.uint32).reshape(-1)
    assert to_wire(layout, residues) == data
    assert np.array_equal(from_wire(layout, data), residues)


@pytest.mark.parametrize("case", KAHE["encryption"], ids=lambda case: f"{case['parameter_set']}, {case['length']}")
def test_packing(case: dict[str, Any]) -> None:
    layout = layout_from(case)
    for upload in case["uploads"]:
        packed = coefficients_of(layout, upload["client"])
        assert [str(value) for value in packed[:2]] == upload["first_coefficients"]
        assert hashlib.sha256(",".join(map(str, packed)).encode()).hexdigest() == upload["coefficients_sha256"]


def test_encryption_sum_and_opening_in_full() -> None:
    (case,) = [case for case in KAHE["encryption"] if "ciphertext" in case["uploads"][0]]
    layout, total = layout_from(case), CiphertextSum(layout_from(case))
    for upload in case["uploads"]:
        ciphertext = bytes.fromhex(upload["ciphertext"])
        assert hashlib.sha256(ciphertext).hexdigest() == upload["ciphertext_sha256"]
        assert ciphertext.startswith(bytes.fromhex(upload["ciphertext_start"]))
        opened = open_sum(layout, ciphertext, key_of(1024, upload["client"]), seed=SEED, uploads=1)
        assert np.array_equal(opened, values_of(layout, upload["client"]))
        total.add(ciphertext)
    assert hashlib.sha256(total.total()).hexdigest() == case["total_sha256"]
    key = np.sum([key_of(1024, c) for c in range(3)], axis=0)
    opened = open_sum(layout, total.total(), key, seed=SEED, uploads=3)
    assert opened[:4].tolist() == case["opened_first"]
    assert hashlib.sha256(opened.astype("<i8").tobytes()).hexdigest() == case["opened_sha256"]
    assert np.array_equal(opened, np.sum([values_of(layout, c) for c in range(3)], axis=0))


@pytest.mark.parametrize("case", KAHE["encryption"][:3], ids=lambda case: f"{case['parameter_set']}, {case['length']}")
def test_a_second_opinion_on_the_ciphertexts(case: dict[str, Any]) -> None:
    """Schoolbook products and the wire format by hand; of the first two rings, whose products are quick."""
    oracle = imported(TESTS / "crypto" / "kahe" / "kahe_oracle.py")
    layout, upload = layout_from(case), case["uploads"][0]
    primes, degree = layout.parameter_set.primes, layout.parameter_set.degree
    packed, rows = coefficients_of(layout, upload["client"]), []
    for block, n in oracle.blocks_of(layout):
        for index, p in enumerate(primes):
            a = np.array(oracle.expansion(layout.parameter_set, SEED, block, index))
            mask = oracle.negacyclic(oracle.coefficients_of(a, p), key_of(degree, upload["client"]), p)
            rows.append([(int(mask[j]) + packed[block * degree + j]) % p for j in range(n)])
    data = oracle.write_wire(layout, rows)
    assert data.startswith(bytes.fromhex(upload["ciphertext_start"]))
    assert hashlib.sha256(data).hexdigest() == upload["ciphertext_sha256"]


@pytest.mark.parametrize("case", KAHE["bad_ciphertexts"], ids=by("comment"))
def test_bad_ciphertexts(case: dict[str, Any]) -> None:
    layout = layout_from(case)
    with refused(case):
        CiphertextSum(layout).add(bytes.fromhex(case["hex"]))
    with refused(case):
        open_sum(layout, bytes.fromhex(case["hex"]), key_of(1024, 0), seed=SEED, uploads=1)


@pytest.mark.parametrize("case", KAHE["bad_openings"], ids=by("comment"))
def test_bad_openings(case: dict[str, Any]) -> None:
    layout, total = layout_from(case), bytes.fromhex(case["hex"])
    CiphertextSum(layout).add(total)  # it is a ciphertext
    with refused(case):
        open_sum(layout, total, np.array(case["key"]), seed=SEED, uploads=case["uploads"])


# Sharing.


class GivenValues:
    """A stream of which each 16-bit part is a value below p, in the order given."""

    def __init__(self, rows: list[list[int]]) -> None:
        self._values = [value for row in rows for value in row]

    def words(self, count: int) -> NDArray[np.uint64]:
        taken, self._values = self._values[: 4 * count], self._values[4 * count :]
        return np.array(taken + [0] * (4 * count - len(taken)), dtype="<u2").view("<u8").astype(np.uint64)


@pytest.mark.parametrize("case", SHARING["sharings"], ids=by("terms"))
def test_sharing(case: dict[str, Any]) -> None:
    assert SHARING["field_prime"] == FIELD_PRIME
    terms = CommitteeTerms(**case["terms"])
    shares = share_key(np.array(case["key"]), terms, stream=GivenValues(case["random"]))
    assert shares.tolist() == case["shares"]
    assert encode_share(shares[-1]).hex() == case["encoded_last_share"]


@pytest.mark.parametrize("case", SHARING["recoveries"], ids=by("comment"))
def test_recovery(case: dict[str, Any]) -> None:
    answers = {int(member): np.array(answer, dtype=np.uint16) for member, answer in case["answers"].items()}

    def accept(key: Integers) -> list[int]:
        if key.tolist() != case["key"]:
            raise errors.OpeningError("another key")
        return key.tolist()

    def recover() -> Any:
        terms = CommitteeTerms(**case["terms"])
        return recover_key(answers, terms, length=case["length"], bound=case["bound"], accept=accept)

    if "error" in case:
        with refused(case):
            recover()
    else:
        assert recover().value == case["key"]
        assert list(recover().misfits) == case["misfits"]


@pytest.mark.parametrize("case", SHARING["bad_shares"], ids=by("comment"))
def test_bad_shares(case: dict[str, Any]) -> None:
    with refused(case):
        decode_share(bytes.fromhex(case["hex"]), terms=CommitteeTerms(**case["terms"]), degree=case["length"])


@pytest.mark.parametrize("case", SHARING["bad_terms"], ids=by("terms"))
def test_bad_terms(case: dict[str, Any]) -> None:
    with refused(case):
        CommitteeTerms(**case["terms"])


# Messages and signatures.


def identity_from(party: dict[str, str]) -> Identity:
    return Identity(
        party["name"],
        Role(party["role"]),
        signing_key=SigningKey.from_secret_bytes(bytes.fromhex(party["signing_secret"])),
        sealing_key=SealingKey.from_secret_bytes(bytes.fromhex(party["sealing_secret"])),
    )


@pytest.fixture(scope="module")
def parties() -> dict[str, Identity]:
    return {party["name"]: identity_from(party) for party in PROTOCOL["identities"]}


@pytest.fixture(scope="module")
def roster(parties: dict[str, Identity]) -> Roster:
    return Roster.of(identity.party for identity in parties.values())


def test_identities_and_roster(parties: dict[str, Identity], roster: Roster) -> None:
    for case in PROTOCOL["identities"]:
        party = parties[case["name"]].party
        assert party.verify_key.hex() == case["verify_key"]
        assert hashlib.sha256(party.sealing_key).hexdigest() == case["sealing_key_sha256"]
    assert roster.digest.hex() == PROTOCOL["roster_digest"]


def test_header_and_what_it_implies() -> None:
    header = decode(Header, bytes.fromhex(PROTOCOL["header_encoded"]))
    assert encode(header).hex() == PROTOCOL["header_encoded"]
    assert digest(encode(header)) == HEADER_DIGEST
    for name, value in PROTOCOL["header"].items():
        found = getattr(header, name)
        assert (
            found.hex() if isinstance(found, bytes) else list(found) if isinstance(found, tuple) else found
        ) == value
    for name in ("digits", "coefficients", "ciphertext_bytes"):
        assert getattr(layout_of(header), name) == PROTOCOL["layout"][name]


@pytest.mark.parametrize("what", ["header", "upload", "roll", "vote", "answer", "release"])
def test_statements_and_their_signatures(what: str, parties: dict[str, Identity], roster: Roster) -> None:
    case = PROTOCOL[f"{what}_signed"]
    statement, signature = bytes.fromhex(case["statement"]), bytes.fromhex(case["signature"])
    assert parties[case["signer"]].sign(case["domain"], statement) == signature
    role = parties[case["signer"]].role
    roster.verify(case["signer"], role, case["domain"], statement, signature)
    for domain in set(Domain) - {case["domain"]}:
        with pytest.raises(errors.SignatureError):
            roster.verify(case["signer"], role, domain, statement, signature)


def test_upload() -> None:
    upload = decode(Upload, bytes.fromhex(PROTOCOL["upload"]))
    assert encode(upload).hex() == PROTOCOL["upload"]
    assert upload.statement.hex() == PROTOCOL["upload_signed"]["statement"]
    assert upload.signature.hex() == PROTOCOL["upload_signed"]["signature"]


@pytest.mark.parametrize("case", PROTOCOL["bad_uploads"], ids=by("comment"))
def test_bad_uploads(case: dict[str, Any]) -> None:
    with refused(case):
        decode(Upload, bytes.fromhex(case["hex"]))


def test_a_sealed_share_opens_under_its_binding_only(parties: dict[str, Identity]) -> None:
    case, member = PROTOCOL["share_binding"], parties["member-a"]
    bound = ShareBinding(header_digest=HEADER_DIGEST, client="client-a", member="member-a")
    assert encode(bound).hex() == case["encoded"]
    box = bytes.fromhex(case["box"])
    assert member.unseal(box, associated_data=encode(bound)).hex() == case["plaintext"]
    for other in (b"", bytes.fromhex(case["encoded"]) + b"\0"):
        with pytest.raises(errors.SealError):
            member.unseal(box, associated_data=other)


# What a member votes for.


@contextmanager
def member(parties: dict[str, Identity], roster: Roster) -> Iterator[Member]:
    given = MEMBERS["policy"]
    unit, record = Unit(given["unit"]), MemberRecord()
    policy = Policy(
        **given
        | {name: frozenset(given[name]) for name in ("purposes", "parameter_sets", "grids")}
        | {
            "unit": unit,
            "committee": tuple(given["committee"]),
            "terms": CommitteeTerms(**given["terms"]),
            "roster_digest": bytes.fromhex(given["roster_digest"]),
            "budget": Budget(**given["budget"] | {"unit": unit}),
        }
    )
    try:
        yield Member(parties["member-a"], roster=roster, policy=policy, record=record)
    finally:
        record.close()


def test_a_member_votes_and_answers(parties: dict[str, Identity], roster: Roster) -> None:
    good = {name: bytes.fromhex(data) for name, data in MEMBERS["good"].items() if name != "comment"}
    with member(parties, roster) as voting:
        assert voting.vote(good["ballot"]) == good["vote"]
        assert voting.answer(good["quorum"]) == good["answer"]
    assert good["vote"].hex() == PROTOCOL["vote"]
    assert good["answer"].hex() == PROTOCOL["answer"]


@pytest.mark.parametrize("case", MEMBERS["bad_ballots"], ids=by("comment"))
def test_a_member_refuses(case: dict[str, Any], parties: dict[str, Identity], roster: Roster) -> None:
    good = decode(Ballot, bytes.fromhex(MEMBERS["good"]["ballot"]))
    ballot = encode(
        Ballot(
            announcement=decode(Announcement, bytes.fromhex(case["announcement"]))
            if "announcement" in case
            else good.announcement,
            roll=decode(Roll, bytes.fromhex(case["roll"])) if "roll" in case else good.roll,
            deliveries=tuple(
                good.deliveries[each] if isinstance(each, int) else decode(Delivery, bytes.fromhex(each))
                for each in case.get("deliveries", range(3))
            ),
        )
    )
    assert hashlib.sha256(ballot).hexdigest() == case["ballot_sha256"]
    with member(parties, roster) as voting:
        with refused(case):
            voting.vote(ballot)
        assert voting.vote(bytes.fromhex(MEMBERS["good"]["ballot"])).hex() == MEMBERS["good"]["vote"]


@pytest.mark.parametrize("case", MEMBERS["bad_quorums"], ids=by("comment"))
def test_a_member_does_not_answer(case: dict[str, Any], parties: dict[str, Identity], roster: Roster) -> None:
    with member(parties, roster) as voting:
        voting.vote(bytes.fromhex(MEMBERS["good"]["ballot"]))
        with refused(case):
            voting.answer(bytes.fromhex(case["quorum"]))
