"""What a certificate says, what it refuses to say, what it gives away, and how it is chained."""

from __future__ import annotations

import hashlib
import itertools
import json

import certificate_cast as cast
import pytest
from certificate_cast import (
    CLIENTS,
    NOW,
    accounts,
    batch,
    certificate,
    certified,
    execution,
    identities,
    request,
    roster,
)

from secure_fu.crypto.wire import encode
from secure_fu.deletion import DeletionBatch, DeletionRequest
from secure_fu.deletion.certificates import (
    Certificate,
    CertificateError,
    CertificateStore,
    concerned_clients,
    read_certificates,
)
from secure_fu.deletion.certificates.certificate import build_certificate
from secure_fu.deletion.certificates.evidence import check_chain
from secure_fu.deletion.execution import pack_execution, unpack_execution
from secure_fu.errors import ArgumentError, RecordError, SignatureError


def build(asked, known, **changes):
    terms = {"identity": identities()["server"], "roster": roster(), "policy_digest": bytes(32), "issued": NOW + 90}
    return Certificate.of(build_certificate(asked, known, **(terms | changes)))


# What it says


def test_a_named_request_is_told_and_the_window_with_it():
    named = request("bob", disclose=True)
    asked = batch(named)
    body = certificate(asked, own=accounts(("bob",))).body
    assert body["asked"] == {
        "signed": True,
        "hidden_units": 0,
        "units": 3,
        "requests": [
            {
                "request_id": named.request_id.hex(),
                "scope": "records",
                "requester": {"name": "bob", "commitment": hashlib.sha256(encode(named)).hexdigest()},
                "client": "bob",
                "units": 3,
                "submitted": "2026-09-20T14:13:20Z",
                "deadline": "2026-09-22T14:13:20Z",
                "deadline_met": True,
            }
        ],
    }
    assert (body["window"], body["number"], body["previous"]) == (asked.window_id.hex(), 1, "00" * 32)
    assert body["times"] == {
        "started": "2026-09-21T14:13:20Z",
        "finished": "2026-09-21T14:14:20Z",
        "issued": "2026-09-21T14:14:50Z",
    }
    assert [entry["client"] for entry in body["wiped"]] == ["ada", "bob"]
    assert body["unconfirmed"] == ["eve"]
    assert body["audit"] is None


def test_a_deadline_that_was_missed_is_told_also_of_who_is_hidden():
    late = request(deadline=NOW + 59)
    just = request(deadline=NOW + 60)
    entries = {
        entry["requester"]["commitment"]: entry["deadline_met"]
        for entry in certificate(batch(late, just)).body["asked"]["requests"]
    }
    assert entries == {late.digest.hex(): False, just.digest.hex(): True}


def test_the_same_window_makes_the_same_bytes():
    asked = batch()
    known = execution(asked=asked, units=asked.units)
    assert build(asked, known).content == build(asked, known).content


def test_a_cover_round_has_a_certificate_too():
    body = certificate(batch_of_nobody()).body
    assert (body["asked"]["requests"], body["asked"]["hidden_units"], body["asked"]["units"]) == ([], 5, 15)


def batch_of_nobody():
    return cast.SignedBatch.of(NOW, (), 5)


def test_what_an_audit_said_is_quoted_and_its_figures_of_records_are_not():
    audit = {
        "created": "2026-09-01T00:00:00+00:00",
        "complete": True,
        "source": {"kind": "config", "name": "wards", "config": {"seed": 77123}, "quick": True},
        "verdict": {"outcome": "cannot tell", "sentences": ["Nothing was found by weak tests."]},
        "membership": {"most_exposed": [{"record": 990077, "score": 3.0}]},
        "deletion": {"rows": [{"name": "scrub", "verdict": {"outcome": "passed", "sentence": "As retraining."}}]},
        "assumptions": ["silos are alike"],
        "not_seen": ["other attacks"],
        "insecure": [],
    }
    made = certificate(audit=(audit, b"the file"))
    said = made.body["audit"]
    assert said["sha256"] == hashlib.sha256(b"the file").hexdigest()
    assert (said["outcome"], said["quick"], said["source"]) == ("cannot tell", True, "wards")
    assert said["method"] == {"outcome": "passed", "sentence": "As retraining."}
    assert b"990077" not in made.content
    assert b"77123" not in made.content
    with pytest.raises(ArgumentError, match="audit"):
        certificate(audit=({"verdict": None}, b""))


# What it refuses to say


def test_figures_that_are_too_small_are_not_signed():
    asked = batch()
    honest = execution(asked=asked, units=3)
    for name in ("pair", "who_asked", "pair_of_group"):
        smaller = dict(honest.confidentiality)
        smaller[name] = smaller[name] | {"value": smaller[name]["value"] * 0.999}
        with pytest.raises(CertificateError, match="confidentiality"):
            build(asked, execution(asked=asked, units=3, confidentiality=smaller))
    build(asked, honest)


def test_statements_of_others_and_of_other_windows_are_not_passed_on():
    asked = batch()
    forged = encode(cast.replace_signature(cast.statement("bob", asked), cast.statement("ada", asked)))
    for wiped, error in (
        ((encode(cast.statement("ada", batch())),), ArgumentError),
        ((encode(cast.statement("ada", asked, order=bytes(32))),), ArgumentError),
        ((forged,), SignatureError),
    ):
        known = execution(asked=asked, units=3)
        with pytest.raises(error):
            build(asked, cast.replaced(known, wiped=wiped))


def test_a_hidden_requester_is_not_betrayed_by_whose_charges_are_counted():
    asked = batch(request("eve"))
    betraying = execution(accounts(("eve",)), asked=asked, units=3)
    with pytest.raises(ArgumentError, match="charges of all clients"):
        build(asked, betraying)
    named = batch(request("eve", disclose=True))
    build(named, execution(accounts(("eve",)), asked=named, units=3))


def test_whose_charges_count():
    named, hidden = request("ada", disclose=True), request("eve")
    assert concerned_clients(batch(named)) == {"ada"}
    assert concerned_clients(batch(named, request("bob", disclose=True))) == {"ada", "bob"}
    assert concerned_clients(batch(named, hidden)) is None
    assert concerned_clients(batch(named, hidden_units=1)) is None
    assert concerned_clients(batch_of_nobody()) is None
    person = DeletionRequest.person("p1")
    assert concerned_clients(DeletionRequest.whole_client("ada"), disclose=True) == {"ada"}
    assert concerned_clients(DeletionRequest.whole_client("ada")) is None
    # Which clients have a person's records is what a certificate must not tell.
    assert concerned_clients(DeletionBatch((DeletionRequest.whole_client("ada"), person)), disclose=True) is None


def test_an_execution_of_another_window_is_refused():
    with pytest.raises(ArgumentError, match="the batch's window"):
        build(batch(), execution(asked=batch(request("bob")), units=3))


def test_what_clients_were_told_is_known_of_signed_requests_and_of_no_others():
    asked = batch()
    known = execution(asked=asked, units=3)
    assert unpack_execution(pack_execution(known)) == known
    bare = {"order": "", "run_key": ""}
    with pytest.raises(ArgumentError, match=r"execution\.order"):
        build(asked, cast.replaced(known, **bare))
    with pytest.raises(ArgumentError, match=r"execution\.order"):
        build(DeletionRequest.whole_client("ada"), known)
    with pytest.raises(CertificateError, match="order is not that"):
        build(asked, cast.replaced(known, opened=known.opened + 1))
    with pytest.raises(CertificateError, match="that of its order"):
        build(asked, cast.replaced(known, run_id="00" * 16))
    for changes in ({"order": ""}, {"run_key": "zz" * 32}, {"order": "00"}, {"opened": -1}, {"continues_after": -1}):
        with pytest.raises(ArgumentError):
            cast.replaced(known, **changes)
    unsigned = cast.replaced(known, **bare, wiped=(), missing=())
    assert build(DeletionRequest.whole_client("ada"), unsigned).body["order"] is None
    # Stored by an earlier version: it had none of these.
    old = json.loads(pack_execution(unsigned))
    for name in ("opened", "order", "run_key", "continues_after"):
        del old[name]
    assert unpack_execution(json.dumps(old).encode()).order == ""


# What it gives away


def test_no_position_person_or_label_is_in_it():
    requests = [
        request("ada", (271828, 314159), disclose=True),
        cast.sign_request(
            identities()["bob"],
            DeletionRequest.person("patient-Ludwig", client="bob"),
            roster=roster(),
            units=1,
            submitted=NOW,
            deadline=NOW + 100,
            disclose=True,
        ),
        cast.sign_request(
            identities()["eve"],
            DeletionRequest.whole_class(661661, "eve"),
            roster=roster(),
            units=2,
            submitted=NOW,
            deadline=NOW + 100,
            disclose=True,
        ),
    ]
    content = certificate(batch(*requests)).content
    for secret in (b"271828", b"314159", b"Ludwig", b"661661", b"661662"):
        assert secret not in content


def neutral(made):
    """All of a certificate but what is random: hashes of requests, window and signature."""
    body = json.loads(made.content)["certificate"]
    for entry in body["asked"]["requests"]:
        entry["requester"]["commitment"] = None
    body["window"] = body["order"]["digest"] = body["ledger"]["branch"] = None
    body["transcript"]["run_id"] = body["transcript"]["root"] = None
    body["wiped"] = [entry | {"signature": None} for entry in body["wiped"]]
    return body


def guess_by_dictionary(made, candidates):
    """Who asked, to somebody who knows every client's name and tries the obvious hashes; None if nobody fits."""
    digests = {entry["requester"]["commitment"] for entry in made.body["asked"]["requests"]}
    for name in candidates:
        for text in (name.encode(), b"requester" + name.encode(), encode(identities()[name].party)):
            if hashlib.sha256(text).hexdigest() in digests:
                return name
    return None


def test_two_hidden_requesters_make_the_same_certificate_but_for_random_hashes():
    one, other = certificate(batch(request("bob"))), certificate(batch(request("eve", records=(1,))))
    assert neutral(one) == neutral(other)
    assert len(one.content) == len(other.content)
    for name in ("bob", "eve"):  # which no hash can spell
        assert guess_by_dictionary(one, CLIENTS) is None
        texts = [str(entry) for entry in one.body["asked"]["requests"]]
        assert not any(name in text for text in texts)


def test_a_distinguisher_finds_nothing_in_bytes_and_would_find_a_commitment_without_salt():
    """Nearest class means on the bytes: 40 certificates to learn from, 40 to tell; a coin is within 8 of 20."""
    made = {name: [certificate(batch(request(name))) for _ in range(40)] for name in ("ada", "eve")}

    def right(contents):
        learned = {
            name: [sum(column) / 20 for column in zip(*some[:20], strict=True)] for name, some in contents.items()
        }

        def distance(content, mean):
            return sum((byte - m) ** 2 for byte, m in zip(content, mean, strict=True))

        return sum(
            min(learned, key=lambda guess: distance(content, learned[guess])) == name
            for name, some in contents.items()
            for content in some[20:]
        )

    honest = {name: [one.content for one in some] for name, some in made.items()}
    assert {len(content) for some in honest.values() for content in some} == {len(honest["ada"][0])}
    assert 4 <= right(honest) <= 36
    unsalted = {
        name: [
            content.replace(
                one.body["asked"]["requests"][0]["requester"]["commitment"].encode(),
                hashlib.sha256(name.encode()).hexdigest().encode(),
            )
            for one, content in zip(made[name], some, strict=True)
        ]
        for name, some in honest.items()
    }
    assert right(unsalted) == 40


def test_the_order_of_hidden_requests_tells_nothing():
    orders = set()
    for _ in range(40):
        mine, other = request("ada"), request("eve")
        commitments = [e["requester"]["commitment"] for e in certificate(batch(mine, other)).body["asked"]["requests"]]
        assert commitments == sorted(commitments)
        orders.add(commitments.index(mine.digest.hex()))
    assert orders == {0, 1}


def test_who_has_the_request_can_show_that_it_was_served():
    mine, other = request("ada"), request("ada")
    commitments = {e["requester"]["commitment"] for e in certificate(batch(mine)).body["asked"]["requests"]}
    assert hashlib.sha256(encode(mine)).hexdigest() in commitments
    assert hashlib.sha256(encode(other)).hexdigest() not in commitments


def test_a_confirmation_looks_alike_whoever_asked():
    assert len({len(encode(cast.statement(name))) for name in CLIENTS}) == 1


# The chain and the folder


def test_certificates_are_chained_and_the_chain_shows_what_is_missing():
    first = certificate()
    second = certificate(previous=first, ledger_events=12, started=NOW + 100, finished=NOW + 200, issued=NOW + 200)
    assert (second.body["number"], second.body["previous"]) == (2, hashlib.sha256(first.content).hexdigest())
    check_chain(first, None)
    check_chain(second, first)
    third = certificate(previous=second, ledger_events=14, started=NOW + 300, finished=NOW + 400, issued=NOW + 400)
    for one, before in ((third, first), (second, None), (first, second), (second, certificate())):
        with pytest.raises(CertificateError):
            check_chain(one, before)
    back = certificate(previous=second, ledger_events=11, started=NOW + 300, finished=NOW + 400, issued=NOW + 400)
    with pytest.raises(CertificateError, match="ledger position"):
        check_chain(back, second)


def store(folder, clock=lambda: NOW + 90):
    return CertificateStore(
        folder, identity=identities()["server"], roster=roster(), policy_digest=bytes(32), clock=clock
    )


def test_a_window_has_one_certificate_whenever_it_is_asked_for(tmp_path):
    asked = [batch(request(name)) for name in CLIENTS]
    known = [execution(asked=one, units=3, ledger_events=10 + n) for n, one in enumerate(asked)]
    first = store(tmp_path / "new" / "certificates")
    name = first.certify(asked[0], known[0])
    content = (tmp_path / "new" / "certificates" / name).read_bytes()
    assert first.certify(asked[0], known[0]) == name
    again = store(tmp_path / "new" / "certificates", clock=itertools.count(NOW + 1000).__next__)
    assert again.certify(asked[0], cast.replaced(known[0], missing=())) == name
    assert (tmp_path / "new" / "certificates" / name).read_bytes() == content
    names = [again.certify(one, two) for one, two in zip(asked, known, strict=True)]
    chain = read_certificates(tmp_path / "new" / "certificates")
    assert [one.body["number"] for one in chain] == [1, 2, 3]
    assert [f"certificate-{n:06}-{one.window_id.hex()}.json" for n, one in enumerate(asked, start=1)] == names
    check_chain(chain[2], chain[1])


def test_a_kill_while_it_is_written_leaves_the_folder_as_it_was(tmp_path, monkeypatch):
    made = store(tmp_path)
    asked = batch()
    known = execution(asked=asked, units=3)

    def killed(path, content):
        path.with_name(f".{path.name}.part").write_bytes(content[:100])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("secure_fu.deletion.certificates.store.write_whole", killed)
        with pytest.raises(RecordError, match="No space left"):
            made.certify(asked, known)
    assert made.certify(asked, known) == store(tmp_path).certify(asked, known)
    assert [path.name[0] for path in tmp_path.iterdir()] == ["c"]


def test_a_folder_with_a_gap_or_a_touched_file_is_refused(tmp_path):
    made = store(tmp_path)
    windows = enumerate(batch() for _ in range(3))
    names = [made.certify(one, execution(asked=one, units=3, ledger_events=10 + n)) for n, one in windows]
    middle = tmp_path / names[1]
    content = middle.read_bytes()
    middle.unlink()
    with pytest.raises(RecordError, match="follows"):
        store(tmp_path)
    middle.write_bytes(content.replace(b'"scrub"', b'"sCrub"', 1))
    with pytest.raises(RecordError):
        store(tmp_path)
    middle.write_bytes(content)
    store(tmp_path)


def test_a_certified_guarantee_is_of_at_least_what_was_asked():
    own = accounts(story=cast.RERUN_STORY)
    asked = batch()
    assert certificate(asked, own, guarantee=certified(own)).body["forgetting"]["group_size"] == 3
    with pytest.raises(CertificateError, match="certifies 2 units"):
        certificate(asked, own, guarantee=certified(own, units=2))
