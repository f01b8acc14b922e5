"""What the server takes from clients: late, repeated, forged, altered or foreign uploads change nothing."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import numpy as np
import pytest
from machines import header_of
from memory_walk import find, needles

from secure_fu.crypto import seal
from secure_fu.crypto.bfv import _PublicKeyMessage
from secure_fu.crypto.bfv import _Upload as _Ciphertext
from secure_fu.crypto.wire import decode, encode
from secure_fu.errors import (
    CiphertextError,
    CohortTooSmall,
    ProtocolError,
    SealError,
    SecretKeyExposedError,
    SignatureError,
    WireError,
)
from secure_fu.privacy import Phase, Subject
from secure_fu.protocol import verify_transcript
from secure_fu.protocol.header import grid_of
from secure_fu.protocol.key_holder.encryption import upload_associated_data
from secure_fu.protocol.key_holder.messages import Opening
from secure_fu.protocol.messages import Announcement, Invitation, Release, RoundKey, Upload, digest


def release_of_the_rest(machines, invitation, honest):
    """Let `honest` upload and end the round; the release must hold them and nothing else."""
    header = header_of(invitation)
    noise = 0
    for name in honest:
        machines.server.receive(machines.clients[name].respond(invitation))
    released = machines.finish()
    noise = sum(machines.noise(name, header) for name in released.participants)
    total = sum(grid_of(header).quantise(machines.tasks[name].contribution_given) for name in released.participants)
    assert np.array_equal(released.values, (noise + total) * header.grid_step)
    return released


def altered(message, field, position=0):
    value = getattr(message, field)
    return replace(message, **{field: value[:position] + bytes([value[position] ^ 1]) + value[position + 1 :]})


def resealed(machines, message, ciphertext, *, name=None, header_digest=None):
    """The same upload with another content of its box."""
    associated_data = upload_associated_data(header_digest or message.header_digest, name or message.client)
    recipient = machines.roster.party("server").sealing_key
    return replace(message, body=seal(recipient, ciphertext, associated_data=associated_data))


def resigned(machines, message):
    return replace(message, signature=machines.identities[message.client].sign("upload", message.statement))


def opened(machines, message):
    associated_data = upload_associated_data(message.header_digest, message.client)
    return machines.identities["server"].unseal(message.body, associated_data=associated_data)


BAD_UPLOADS = {
    "forged signature": (lambda m, u: altered(u, "signature"), SignatureError),
    "signed by another client": (
        lambda m, u: replace(u, signature=m.identities["client-1"].sign("upload", u.statement)),
        SignatureError,
    ),
    "signed for another purpose": (
        lambda m, u: replace(u, signature=m.identities["client-0"].sign("roll", u.statement)),
        SignatureError,
    ),
    "another client's name": (lambda m, u: replace(u, client="client-1"), SignatureError),
    "a name outside the cohort": (lambda m, u: replace(u, client="client-4"), ProtocolError),
    "an unknown name": (lambda m, u: replace(u, client="nobody"), ProtocolError),
    "the server's name": (lambda m, u: replace(u, client="server"), ProtocolError),
    "a name that is not ASCII": (lambda m, u: replace(u, client="clïent"), ProtocolError),
    "altered digest": (lambda m, u: altered(u, "ciphertext_digest"), SignatureError),
    "altered header digest": (lambda m, u: altered(u, "header_digest"), ProtocolError),
    "altered box": (lambda m, u: altered(u, "body", 2000), SealError),
    "altered end of the box": (lambda m, u: altered(u, "body", len(u.body) - 1), SealError),
    "empty box": (lambda m, u: replace(u, body=b""), SealError),
    "shares that the client did not sign": (lambda m, u: replace(u, shares=(b"share",)), SignatureError),
    "shares of nothing": (lambda m, u: replace(u, shares=(b"",)), SignatureError),
    "signed shares, which nobody here can use": (
        lambda m, u: resigned(m, replace(u, shares=(b"share",))),
        CiphertextError,
    ),
    "box sealed for another client": (lambda m, u: resealed(m, u, opened(m, u), name="client-1"), SealError),
    "box sealed for another round": (lambda m, u: resealed(m, u, opened(m, u), header_digest=bytes(32)), SealError),
    "another ciphertext in the box": (lambda m, u: resealed(m, u, opened(m, u)[:-1] + b"\0"), SignatureError),
}


@pytest.mark.parametrize("kind", BAD_UPLOADS)
def test_a_bad_upload_is_refused_and_the_round_goes_on(build, kind):
    machines = build(clients=5, contributions=lambda number: np.full(6, number / 8.0))
    announcement = machines.server.announce(machines.request(), machines.names[:4], 0)
    invitation = machines.server.invite(machines.key_holder.issue_key(announcement))
    alter, error = BAD_UPLOADS[kind]
    good = machines.clients["client-0"].respond(invitation)
    with pytest.raises(error):
        machines.server.receive(encode(alter(machines, decode(Upload, good))))
    machines.server.receive(good)  # and the very upload that was altered is still welcome
    assert release_of_the_rest(machines, invitation, machines.names[1:4]).participants == machines.names[:4]


EMPTY = ("blocks of zeros, which hide nothing",)


def ciphertext_with(machines, invitation, **changes):
    """A ciphertext container of this round with other fields."""
    key = machines.scheme.load_public_key(decode(Invitation, invitation).round_key[0].public_key)
    parts = decode(_Ciphertext, machines.scheme.encrypt(key, np.zeros(machines.length, dtype=np.int64)))
    if changes.get("blocks") is EMPTY:
        changes["blocks"] = tuple(bytes(len(block)) for block in parts.blocks)
    return encode(replace(parts, **changes))


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda m, i: b"", WireError),
        (lambda m, i: b"not a ciphertext", WireError),
        (lambda m, i: ciphertext_with(m, i, length=5), CiphertextError),
        (lambda m, i: ciphertext_with(m, i, length=4097), CiphertextError),
        (lambda m, i: ciphertext_with(m, i, key_id=bytes(16)), CiphertextError),
        (lambda m, i: ciphertext_with(m, i, blocks=()), CiphertextError),
        (lambda m, i: ciphertext_with(m, i, blocks=EMPTY), CiphertextError),
        (
            lambda m, i: m.scheme.encrypt(
                m.scheme.load_public_key(m.scheme.generate_key().public_bytes), np.zeros(6, dtype=np.int64)
            ),
            CiphertextError,
        ),
    ],
)
def test_a_signed_upload_that_is_no_ciphertext_of_this_round_is_refused(build, make, error):
    machines = build()
    invitation = machines.invited(0)
    with pytest.raises(error):
        machines.server.receive(machines.forged_upload(invitation, "client-0", make(machines, invitation)))
    machines.server.receive(machines.clients["client-0"].respond(invitation))
    release_of_the_rest(machines, invitation, machines.names[1:])


def test_an_upload_twice_counts_once(build):
    machines = build(contributions=lambda number: np.full(6, 0.5))
    invitation = machines.invited(0)
    upload = machines.clients["client-0"].respond(invitation)
    machines.server.receive(upload)
    with pytest.raises(ProtocolError, match="already"):
        machines.server.receive(upload)
    second = machines.forged_upload(invitation, "client-0", np.ones(6, dtype=np.int64))
    with pytest.raises(ProtocolError, match="already"):
        machines.server.receive(second)
    release_of_the_rest(machines, invitation, machines.names[1:])


def test_an_answer_after_the_roll_left_is_too_late(build):
    machines = build()
    invitation = machines.collected(0, machines.names[:3])
    late = machines.clients["client-3"].respond(invitation)
    request = machines.server.close()
    with pytest.raises(ProtocolError, match="closed"):
        machines.server.receive(late)
    released = machines.server.release(machines.key_holder.open(request))
    assert released.participants == machines.names[:3]
    with pytest.raises(ProtocolError, match="idle"):
        machines.server.receive(late)
    # Not even in the next round; and who was late is charged for nothing by the server, which has nothing of it.
    second = machines.invited(1)
    with pytest.raises(ProtocolError, match="another round"):
        machines.server.receive(late)
    release_of_the_rest(machines, second, machines.names)
    counts = [
        machines.ledger.event_counts("original", name, Subject.RETAINED, Phase.TRAINING).total()
        for name in machines.names
    ]
    assert counts == [2, 2, 2, 1]
    assert [machines.client_record.rounds(name) for name in machines.names] == [2, 2, 2, 2], "their own record"


def test_an_upload_for_another_run_is_refused(build):
    machines, others = build(), build()
    foreign = others.clients["client-0"].respond(others.invited(0))
    invitation = machines.invited(0)
    with pytest.raises(ProtocolError, match="another round"):
        machines.server.receive(foreign)
    release_of_the_rest(machines, invitation, machines.names)


def test_a_client_answers_a_round_once_and_never_an_older_one(build):
    machines = build()
    first = machines.invited(3)
    client = machines.clients["client-0"]
    client.respond(first)
    drawn = len(machines.tape.streams)
    with pytest.raises(ProtocolError, match="round_number is 3"):
        client.respond(first)
    machines.server.abort("test")
    second = machines.invited(4)
    client.respond(second)
    with pytest.raises(ProtocolError, match="round_number is 3"):
        client.respond(first)
    assert len(machines.tape.streams) == drawn + 3, "sampling, noise and rounding for the second round"
    assert machines.client_record.rounds("client-0") == 2


def test_rounds_of_two_runs_are_counted_apart(build):
    machines, others = build(), build()  # the same parties, two runs
    client = machines.clients["client-0"]
    client.respond(machines.invited(7))
    invitation = others.invited(2)
    others.server.receive(client.respond(invitation))
    with pytest.raises(ProtocolError, match="expected one after 2"):
        client.respond(invitation)


def test_below_the_minimum_cohort_nothing_is_opened_and_nothing_charged(build):
    machines = build()
    machines.collected(0, machines.names[:2])
    with pytest.raises(CohortTooSmall, match="2 uploads, fewer than the minimum cohort of 3"):
        machines.server.close()
    (event,) = machines.ledger.events("original")
    assert (event.status.value, event.participants) == ("void", None)
    assert machines.ledger.pending() == ()
    for name in machines.names:
        assert machines.ledger.epsilon("original", name, Subject.FORGOTTEN, Phase.BOTH) == 0.0
    with pytest.raises(ProtocolError, match="idle"):
        machines.server.close()
    invitation = machines.invited(1)
    release_of_the_rest(machines, invitation, machines.names[:3])
    assert machines.transcript.head != bytes(32)


# What the server takes from the key-holder.


def bad_round_keys(machines, announcement, good):
    message = decode(RoundKey, good)
    context = machines.scheme.generate_key()._secret

    def holding(**secrets):
        flags = {"save_public_key": True, "save_secret_key": False, "save_galois_keys": False, "save_relin_keys": False}
        return encode(
            _PublicKeyMessage(parameter_set=machines.scheme.parameter_set, context=context.serialize(**flags | secrets))
        )

    def signed(public_key, **arguments):
        return machines.forged_round_key(announcement, public_key, **arguments)

    context.generate_galois_keys()
    other = machines.forged_announcement(announcement, round_number=1)
    return {
        "secret key": (signed(holding(save_secret_key=True)), SecretKeyExposedError),
        "relinearisation keys": (signed(holding(save_relin_keys=True)), SecretKeyExposedError),
        "Galois keys": (signed(holding(save_galois_keys=True)), SecretKeyExposedError),
        "no key at all": (signed(holding(save_public_key=False)), CiphertextError),
        "garbage": (signed(b"garbage"), WireError),
        "signed by a client": (signed(message.public_key, signer="client-0"), SignatureError),
        "signed by the server": (signed(message.public_key, signer="server"), SignatureError),
        "for another header": (machines.forged_round_key(other, message.public_key), ProtocolError),
        "another key under the signature": (
            encode(replace(message, public_key=machines.scheme.generate_key().public_bytes)),
            SignatureError,
        ),
    }


KEY_KINDS = (
    "secret key",
    "relinearisation keys",
    "Galois keys",
    "no key at all",
    "garbage",
    "signed by a client",
    "signed by the server",
    "for another header",
    "another key under the signature",
)


@pytest.mark.parametrize("kind", KEY_KINDS)
def test_the_server_and_the_clients_refuse_a_bad_round_key_and_take_the_good_one(build, kind):
    machines = build()
    announcement = machines.server.announce(machines.request(), machines.names, 0)
    good = machines.key_holder.issue_key(announcement)
    cases = bad_round_keys(machines, announcement, good)
    assert set(cases) == set(KEY_KINDS)
    bad, error = cases[kind]
    with pytest.raises(error):
        machines.server.invite(bad)
    model = machines.request().model.encode()
    unchecked = Invitation(
        announcement=decode(Announcement, announcement), round_key=(decode(RoundKey, bad),), model=model
    )
    with pytest.raises(error):
        machines.clients["client-0"].respond(encode(unchecked))
    with pytest.raises(ProtocolError, match="no round key"):
        machines.clients["client-0"].respond(encode(replace(unchecked, round_key=())))
    release_of_the_rest(machines, machines.server.invite(good), machines.names)


def test_the_server_takes_only_the_opening_of_its_own_roll(build):
    machines = build()
    machines.collected(0)
    first = machines.key_holder.open(machines.server.close())
    machines.server.release(first)
    machines.collected(1)
    opening = decode(Opening, machines.key_holder.open(machines.server.close()))

    def signed(message, name="keeper"):
        return encode(replace(message, signature=machines.identities[name].sign("opening", message.statement)))

    head = machines.transcript.head
    for bad, error in (
        (first, ProtocolError),
        (signed(opening, "server"), SignatureError),
        (signed(opening, "client-0"), SignatureError),
        (encode(replace(opening, values=bytes(len(opening.values)))), SignatureError),
        (signed(replace(opening, roll_digest=bytes(32))), ProtocolError),
        (signed(replace(opening, header_digest=bytes(32))), ProtocolError),
        (signed(replace(opening, values=opening.values[:-8])), ProtocolError),
        (signed(replace(opening, values=opening.values + bytes(8))), ProtocolError),
        (signed(replace(opening, values=opening.values[:-1])), ProtocolError),
    ):
        with pytest.raises(error):
            machines.server.release(bad)
        assert len(machines.ledger.pending()) == 1
        assert machines.transcript.head == head
    released = machines.server.release(encode(opening))
    assert machines.transcript.head == released.transcript != head
    with pytest.raises(ProtocolError, match="idle"):
        machines.server.release(encode(opening))


def test_messages_out_of_turn_are_refused(build):
    machines = build()
    request = machines.request()
    server = machines.server

    def refused(*calls):
        for name, call in calls:
            with pytest.raises(ProtocolError, match=name):
                call()

    announce = ("announced|collecting|closed", lambda: server.announce(request, machines.names, 9))
    invite = ("idle|collecting|closed", lambda: server.invite(b""))
    receive = ("idle|announced|closed", lambda: server.receive(b""))
    close = ("idle|announced|closed", server.close)
    release = ("idle|announced|collecting", lambda: server.release(b""))
    forfeit = ("idle|announced|collecting", server.forfeit)
    abort = ("idle|closed", lambda: server.abort("test"))
    refused(invite, receive, close, release, forfeit, abort)
    announcement = server.announce(request, machines.names, 0)
    refused(announce, receive, close, release, forfeit)
    invitation = server.invite(machines.key_holder.issue_key(announcement))
    refused(announce, invite, release, forfeit)
    for name in machines.names:
        server.receive(machines.clients[name].respond(invitation))
    opening = server.close()
    refused(announce, invite, receive, close, abort)
    server.release(machines.key_holder.open(opening))
    refused(invite, receive, close, release, forfeit, abort)


def test_a_closed_round_that_is_given_up_stays_charged_and_an_open_one_does_not(build):
    machines = build()
    machines.server.give_up("nothing to give up")
    machines.invited(0)
    machines.server.give_up("before its roll left")
    machines.collected(1, machines.names[:3])
    machines.server.close()
    machines.server.give_up("after its roll left")
    events = list(machines.ledger.events("original"))
    assert [event.status.value for event in events] == ["void", "committed"]
    assert events[1].participants == machines.names[:3]
    machines.collected(2)
    machines.finish()


def test_the_transcript_binds_every_release_and_names_no_number(build, tmp_path):
    machines = build(contributions=lambda number: np.full(6, 0.125))
    path = tmp_path / "transcript.jsonl"
    heads = [bytes(32)]
    for number in range(3):
        invitation = machines.collected(number)
        assert header_of(invitation).previous_transcript == heads[-1]
        opening = machines.key_holder.open(machines.server.close())
        released = machines.server.release(opening)
        heads.append(released.transcript)
        values = decode(Opening, opening).values
        line = json.loads(path.read_text().splitlines()[-1])
        assert line["sum"] == digest(values).hex()
        assert line["hash"] == machines.transcript.head.hex() == heads[-1].hex()
        assert line["participants"] == list(machines.names)
        body = base64.b64decode(line["release"], validate=True)
        assert digest(body) == heads[-1]
        release = decode(Release, body)
        assert release.announcement == decode(Invitation, invitation).announcement
        assert (release.roll.participants, release.values_digest) == (machines.names, digest(values))
        assert [approval.name for approval in release.approvals] == ["keeper"]
        integers = np.frombuffer(values, dtype="<i8")
        wanted = needles("released", released.values) | needles("opened", integers)
        assert wanted
        assert find(wanted, [path.read_text(), body]) == []
    assert len(set(heads)) == 4
    (branch,) = verify_transcript(path, roster=machines.roster, policy=machines.policy)
    assert (branch.head, len(branch.releases)) == (heads[-1], 3)


def test_a_transcript_that_cannot_be_written_loses_the_release_and_not_the_server(build, tmp_path):
    machines = build()
    machines.collected(0)
    opening = machines.key_holder.open(machines.server.close())
    (tmp_path / "transcript.jsonl").mkdir()
    head = machines.transcript.head
    with pytest.raises(OSError, match="transcript"):
        machines.server.release(opening)
    assert machines.transcript.head == head
    assert [event.status.value for event in machines.ledger.events()] == ["committed"]
    (tmp_path / "transcript.jsonl").rmdir()
    machines.collected(1)
    assert machines.finish().transcript == machines.transcript.head
