"""What becomes of a round whose clients vanish or send what does not fit, and how much the server holds."""

from __future__ import annotations

import io
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from committee_machines import SMALL, TEN, CommitteeMachines, announcement_in, make_committee_machines
from memory_walk import reachable

from secure_fu.crypto import SEAL_OVERHEAD_BYTES, SecureStream, seal
from secure_fu.crypto.kahe import CiphertextSum, ClientKey
from secure_fu.crypto.sharing import FIELD_PRIME, encode_share, share_key
from secure_fu.crypto.wire import decode, encode
from secure_fu.errors import (
    CiphertextError,
    CohortTooSmall,
    OpeningError,
    ProtocolError,
    RosterError,
    RoundAborted,
    ShareMisfit,
    SignatureError,
    WireError,
)
from secure_fu.privacy import EventStatus, Phase, Subject
from secure_fu.protocol import CommitteeServer, Header, ReleasedSum
from secure_fu.protocol.committee import sealed_shares
from secure_fu.protocol.committee.layout import layout_of
from secure_fu.protocol.committee.messages import ShareBinding
from secure_fu.protocol.messages import Domain, Upload, digest

Build = Callable[..., CommitteeMachines]
LIAR = "client-1"


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Build]:
    """Five clients that contribute something, and four members; closed after the test."""
    built: list[CommitteeMachines] = []

    def make(**arguments: object) -> CommitteeMachines:
        given = {"contributions": lambda k: np.linspace(-0.3, 0.3, 6) * (k + 1), **arguments}
        built.append(make_committee_machines(tmp_path, **given))  # type: ignore[arg-type]
        return built[-1]

    yield make
    for machines in built:
        machines.close()


def check_release(
    machines: CommitteeMachines, released: ReleasedSum, invitation: bytes, participants: tuple[str, ...] | None = None
) -> None:
    """The release is the plain sum over the survivors plus exactly the noise that they drew, and charged to them."""
    survivors = tuple(sorted(machines.names)) if participants is None else participants
    announcement = announcement_in(invitation)
    want = machines.expected(survivors, decode(Header, announcement.header), announcement.header_digest)
    np.testing.assert_array_equal(released.values, want)
    (*_, event) = machines.ledger.events("original")
    assert (event.status, event.participants) == (EventStatus.COMMITTED, survivors)
    assert released.participants == survivors


def check_goes_on(machines: CommitteeMachines) -> None:
    number = 1 + max(event.round_number for event in machines.ledger.events("original"))
    invitation = machines.collected(number)
    check_release(machines, machines.finish(), invitation)


def resigned(machines: CommitteeMachines, upload: bytes, *, signer: str | None = None, **changes: object) -> bytes:
    """An upload with other fields, signed by its client, who means it."""
    message = replace(decode(Upload, upload), **changes)  # type: ignore[arg-type]
    signature = machines.identities[signer or message.client].sign(Domain.UPLOAD, message.statement)
    return encode(replace(message, signature=signature))


def reshared(machines: CommitteeMachines, upload: bytes, boxes: Mapping[str, bytes]) -> bytes:
    """An upload with other boxes for some members."""
    shares = dict(zip(machines.policy.committee, decode(Upload, upload).shares, strict=True)) | boxes
    return resigned(machines, upload, shares=tuple(shares.values()))


def box_of(machines: CommitteeMachines, invitation: bytes, content: bytes, member: str, *, client: str = LIAR) -> bytes:
    """Whatever content, properly sealed to a member."""
    binding = ShareBinding(header_digest=announcement_in(invitation).header_digest, client=client, member=member)
    return seal(machines.roster.party(member).sealing_key, content, associated_data=encode(binding))


def share_bytes(machines: CommitteeMachines, invitation: bytes) -> int:
    degree = layout_of(decode(Header, announcement_in(invitation).header)).parameter_set.degree
    return machines.policy.terms.share_bytes(degree)


# Clients that vanish


@pytest.mark.parametrize("moment", ["invited", "accepted", "begun", "finished", "uploaded"])
def test_a_client_may_vanish_at_every_point(build: Build, moment: str) -> None:
    machines = build()
    invitation = machines.invited(0)
    client = machines.clients[LIAR]
    moments = ["invited", "accepted", "begun", "finished", "uploaded"]
    reached = moments.index(moment)
    upload = b""
    if reached >= 1:
        accepted = client.accept(invitation)
    if reached >= 2:
        pending = accepted.begin()
    if reached >= 3:
        upload = pending.finish()
    if reached >= 4:
        machines.server.receive(upload)
    survivors = tuple(name for name in machines.names if name != LIAR or moment == "uploaded")
    for name in machines.names:
        if name != LIAR:
            machines.server.receive(machines.clients[name].respond(invitation))
    check_release(machines, machines.finish(), invitation, survivors)
    assert machines.client_record.rounds(LIAR) == (0 if moment == "invited" else 1)
    charged = machines.ledger.event_counts("original", LIAR, Subject.FORGOTTEN, Phase.TRAINING).total()
    assert charged == (1 if moment == "uploaded" else 0)
    machines.invited(1)
    with pytest.raises(WireError if not upload else ProtocolError):
        machines.server.receive(upload)
    machines.server.abort("another round is checked below")
    check_goes_on(machines)
    with pytest.raises(ProtocolError, match="round_number is 0; expected one after 2"):
        client.accept(invitation)


def test_a_client_that_vanishes_in_the_driver_is_missed_by_nobody(build: Build) -> None:
    machines = build()
    released = machines.sums(vanishes=lambda _, name: name in ("client-0", "client-4")).secure_sum(machines.request())
    assert released.participants == ("client-1", "client-2", "client-3")
    assert machines.client_record.rounds("client-0") == 0


def test_too_few_uploads_cost_nobody_anything_on_the_servers_ledger(build: Build) -> None:
    machines = build()
    machines.collected(0, machines.names[:2])
    with pytest.raises(CohortTooSmall, match="2 uploads, fewer than the minimum cohort of 3"):
        machines.server.close()
    (event,) = machines.ledger.events("original")
    assert event.status is EventStatus.VOID
    check_goes_on(machines)


def test_an_upload_after_the_roll_has_left_is_refused(build: Build) -> None:
    machines = build()
    invitation = machines.collected(0, machines.names[:4])
    quorum = machines.voted()
    with pytest.raises(ProtocolError, match="the server is closed"):
        machines.server.receive(machines.clients["client-4"].respond(invitation))
    check_release(machines, machines.answered(quorum), invitation, machines.names[:4])


# Shares that do not fit

MISFITS: dict[str, Callable[[CommitteeMachines, bytes, str], bytes]] = {
    "junk": lambda m, i, _: bytes(share_bytes(m, i) + SEAL_OVERHEAD_BYTES),
    "for another member": lambda m, i, name: box_of(
        m, i, bytes(share_bytes(m, i)), next(other for other in m.policy.committee if other != name)
    ),
    "of another client": lambda m, i, name: box_of(m, i, bytes(share_bytes(m, i)), name, client="client-2"),
    "no field elements": lambda m, i, name: box_of(m, i, b"\xf1\xff" * (share_bytes(m, i) // 2), name),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_member_whose_share_does_not_fit_abstains_and_names_the_position(build: Build, misfit: str) -> None:
    machines = build()
    invitation = machines.invited(0)
    uploads = machines.uploads(invitation)
    box = MISFITS[misfit](machines, invitation, "member-02")
    uploads[LIAR] = reshared(machines, uploads[LIAR], {"member-02": box})
    for upload in uploads.values():
        machines.server.receive(upload)
    machines.server.close()
    with pytest.raises(ShareMisfit, match=f"the share of client '{LIAR}' to member 'member-02' does not fit"):
        machines.members["member-02"].vote(machines.server.ballot("member-02"))
    assert machines.member_record.newest("member-02", machines.run.run_id) is None
    others = [name for name in machines.members if name != "member-02"]
    for name in others:
        machines.server.receive_vote(machines.members[name].vote(machines.server.ballot(name)))
    check_release(machines, machines.answered(machines.server.quorum(), others), invitation)
    check_goes_on(machines)


@pytest.mark.parametrize(("misfits", "opens"), [(3, True), (4, False)])
def test_a_client_can_shut_out_as_many_members_as_are_to_spare_and_stops_the_round_with_one_more(
    build: Build, misfits: int, opens: bool, caplog: pytest.LogCaptureFixture
) -> None:
    machines = build(terms=TEN)
    head = machines.run.transcript.head
    members = list(machines.members)[2 : 2 + misfits]
    honest = machines.clients[LIAR]._signed_upload

    def misshared(header_digest: bytes, vector: object) -> bytes:
        upload = honest(header_digest, vector)  # type: ignore[arg-type]
        return reshared(machines, upload, dict.fromkeys(members, bytes(len(decode(Upload, upload).shares[0]))))

    machines.clients[LIAR]._signed_upload = misshared  # type: ignore[method-assign]
    sums = machines.sums()
    with caplog.at_level(logging.WARNING, "secure_fu"):
        if opens:
            assert sums.secure_sum(machines.request()).participants == machines.names
        else:
            with pytest.raises(RoundAborted, match="6 members voted; a quorum is 7"):
                sums.secure_sum(machines.request())
    for member in members:
        assert f"the share of client '{LIAR}' to member '{member}' does not fit" in caplog.text
    assert (machines.run.transcript.head == head) is not opens
    (event,) = machines.ledger.events("original")
    assert (event.status, event.participants) == (EventStatus.COMMITTED, machines.names)
    machines.clients[LIAR]._signed_upload = honest  # type: ignore[method-assign]
    check_goes_on(machines)


def test_a_share_that_is_well_formed_and_wrong_is_found_when_the_sum_opens(
    build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    machines = build(terms=TEN)
    invitation = machines.invited(0)
    uploads = machines.uploads(invitation)
    wrong = np.random.default_rng(3).integers(0, FIELD_PRIME, share_bytes(machines, invitation) // 2)
    boxes = {"member-04": box_of(machines, invitation, wrong.astype("<u2").tobytes(), "member-04")}
    uploads[LIAR] = reshared(machines, uploads[LIAR], boxes)
    for upload in uploads.values():
        machines.server.receive(upload)
    with caplog.at_level(logging.WARNING, "secure_fu"):
        check_release(machines, machines.finish(), invitation)
    assert "the answer of member member-04 does not fit; it, or a client's share to it, is wrong" in caplog.text


def test_a_client_that_shares_another_key_than_it_encrypted_under_stops_the_round(build: Build) -> None:
    machines = build()
    head = machines.run.transcript.head
    invitation = machines.invited(0)
    uploads = machines.uploads(invitation)
    layout = layout_of(decode(Header, announcement_in(invitation).header))
    shares = share_key(ClientKey.generate(layout).coefficients, SMALL, stream=SecureStream())
    boxes = {
        member: box_of(machines, invitation, encode_share(share), member)
        for member, share in zip(machines.policy.committee, shares, strict=True)
    }
    uploads[LIAR] = reshared(machines, uploads[LIAR], boxes)
    for upload in uploads.values():
        machines.server.receive(upload)
    with pytest.raises(OpeningError):
        machines.finish()
    assert machines.run.transcript.head == head
    machines.server.give_up("it did not open")
    (event,) = machines.ledger.events("original")
    assert (event.status, event.participants) == (EventStatus.COMMITTED, machines.names)
    check_goes_on(machines)


# Uploads that the server refuses


def changed_body(change: Callable[[bytes], bytes]) -> Callable[[CommitteeMachines, bytes], bytes]:
    def make(machines: CommitteeMachines, upload: bytes) -> bytes:
        body = change(decode(Upload, upload).body)
        return resigned(machines, upload, body=body, ciphertext_digest=digest(body))

    return make


def changed_shares(change: Callable[[tuple[bytes, ...]], tuple[bytes, ...]]) -> Callable[..., bytes]:
    return lambda machines, upload: resigned(machines, upload, shares=change(decode(Upload, upload).shares))


REFUSED: dict[str, tuple[Callable[[CommitteeMachines, bytes], bytes], type[Exception]]] = {
    "a byte too much": (changed_body(lambda body: body + b"\0"), CiphertextError),
    "a byte too few": (changed_body(lambda body: body[:-1]), CiphertextError),
    "twice as long": (changed_body(lambda body: body * 2), CiphertextError),
    "empty": (changed_body(lambda _: b""), CiphertextError),
    "residues beyond the prime": (changed_body(lambda body: b"\xff" * len(body)), CiphertextError),
    "not the signed one": (
        lambda machines, upload: resigned(machines, upload, body=bytes(len(decode(Upload, upload).body))),
        SignatureError,
    ),
    "a share too few": (changed_shares(lambda shares: shares[:-1]), CiphertextError),
    "a share too many": (changed_shares(lambda shares: (*shares, shares[0])), CiphertextError),
    "no shares": (changed_shares(lambda _: ()), CiphertextError),
    "signed by another client": (
        lambda machines, upload: resigned(machines, upload, signer="client-2"),
        SignatureError,
    ),
    "in another client's name": (
        lambda machines, upload: resigned(machines, upload, signer=LIAR, client="client-2"),
        SignatureError,
    ),
    "in a member's name": (lambda machines, upload: resigned(machines, upload, client="member-00"), ProtocolError),
    "in a stranger's name": (
        lambda machines, upload: resigned(machines, upload, signer=LIAR, client="client-9"),
        ProtocolError,
    ),
    "for another round": (
        lambda machines, upload: resigned(machines, upload, header_digest=bytes(32)),
        ProtocolError,
    ),
    "not a message": (lambda _machines, upload: upload[:-1], WireError),
    "with bytes left over": (lambda _machines, upload: upload + b"\0", WireError),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_an_upload_that_is_refused_leaves_the_round_as_it_was(build: Build, fault: str) -> None:
    machines = build()
    invitation = machines.invited(0)
    uploads = machines.uploads(invitation)
    make, error = REFUSED[fault]
    bad = make(machines, uploads[LIAR])
    machines.server.receive(uploads["client-0"])
    before = machines.server._state.total.total()  # type: ignore[union-attr]
    for _ in range(2):
        with pytest.raises(error):
            machines.server.receive(bad)
    assert machines.server._state.total.total() == before  # type: ignore[union-attr]
    for name in machines.names[1:]:
        machines.server.receive(uploads[name])  # the true one is still taken
    check_release(machines, machines.finish(), invitation)


def test_a_repeated_upload_is_refused_whoever_sends_it(build: Build) -> None:
    machines = build()
    invitation = machines.invited(0)
    uploads = machines.uploads(invitation)
    for upload in uploads.values():
        machines.server.receive(upload)
    body = bytes(len(decode(Upload, uploads[LIAR]).body))
    for again in (uploads[LIAR], resigned(machines, uploads[LIAR], body=body, ciphertext_digest=digest(body))):
        with pytest.raises(ProtocolError, match="has uploaded to this round already"):
            machines.server.receive(again)
    check_release(machines, machines.finish(), invitation)


def test_a_box_sealed_for_one_client_serves_no_other(build: Build) -> None:
    """A client that hands in another's boxes with a ciphertext of its own gets nothing opened."""
    machines = build()
    invitation = machines.invited(0)
    uploads = machines.uploads(invitation)
    theirs = decode(Upload, uploads["client-2"])
    stolen = resigned(machines, uploads[LIAR], shares=theirs.shares)
    for name in machines.names:
        machines.server.receive(stolen if name == LIAR else uploads[name])
    machines.server.close()
    for name, member in machines.members.items():
        with pytest.raises(ShareMisfit, match=f"client '{LIAR}' to member '{name}'"):
            member.vote(machines.server.ballot(name))


def test_no_other_role_uploads(build: Build) -> None:
    machines = build()
    invitation = machines.invited(0)
    upload = machines.clients[LIAR].respond(invitation)
    state = machines.server._state
    header = replace(state.header, cohort=(*state.header.cohort, "member-00"))  # type: ignore[union-attr]
    machines.server._state = replace(state, header=header)  # type: ignore[arg-type, type-var]
    with pytest.raises(RosterError, match="in the roster as member"):
        machines.server.receive(resigned(machines, upload, client="member-00"))


# Order and memory


def test_uploads_in_any_order_give_the_same_ballots_and_the_same_sum(build: Build) -> None:
    machines = build()
    invitation = machines.invited(0)
    uploads = list(machines.uploads(invitation).values())
    seen = []
    for order in ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 4, 1, 0, 3]):
        server = CommitteeServer(machines.identities["server"], machines.run)
        layout = layout_of(decode(Header, announcement_in(invitation).header))
        server._state = replace(machines.server._state, total=CiphertextSum(layout), entries={})  # type: ignore[arg-type, type-var]
        for position in order:
            server.receive(uploads[position])
        server.close()
        seen.append((server._total, [server.ballot(name) for name in machines.members]))
    assert seen[0] == seen[1] == seen[2]
    for position in (3, 0, 4, 2, 1):
        machines.server.receive(uploads[position])
    check_release(machines, machines.finish(), invitation)


def held(server: CommitteeServer) -> int:
    """Bytes of everything that the server can reach, its identities and ledger aside."""
    roots = (server._state, server._shares, server._votes, server._answers, server._total)
    return sum(sys.getsizeof(item) for item in reachable(*roots) if not isinstance(item, type))


@pytest.mark.parametrize("spills", [False, True])
def test_the_server_holds_one_ciphertext_whatever_the_number_of_uploads(
    build: Build, spills: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "spilled"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    if spills:
        monkeypatch.setattr(sealed_shares, "_IN_MEMORY_BYTES", 10_000)
    machines = build(clients=24, length=60_000, contributions=None)
    invitation = machines.invited(0)
    sizes = []
    for name in machines.names:
        upload = machines.clients[name].respond(invitation)
        machines.server.receive(upload)
        sizes.append(held(machines.server))
    message = decode(Upload, upload)
    boxes = sum(map(len, message.shares))
    growth = (sizes[-1] - sizes[3]) / 20
    allowed = 3000 + (0 if spills else 1.3 * boxes)  # digests and names; what a buffer grows by
    assert growth < allowed
    assert len(message.body) > 3 * allowed  # one ciphertext more would show
    assert isinstance(machines.server._shares._file, io.BytesIO) is not spills
    assert not list(folder.iterdir())  # unlinked from the start
    kept = machines.server._shares._file
    check_release(machines, machines.finish(), invitation)
    assert kept.closed
    with pytest.raises(KeyError):
        machines.server._shares.delivery("client-0", 0)
