"""A malicious server (or anybody on the way) against `kahe`: no bit of any message can be flipped to any effect."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from committee_attacker import attempt, contributions, stands_and_falls

from secure_fu.crypto.wire import decode
from secure_fu.errors import SecureFUError, TranscriptError
from secure_fu.protocol import Header
from secure_fu.protocol.messages import Release
from secure_fu.protocol.transcript import transcript_line
from secure_fu.protocol.verification import verify_transcript

SMALL_MESSAGE = 700
"""Of messages up to so many bytes every bit is tried; of longer ones every bit of both ends, and a sample between."""
SAMPLED = 800


def flips(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The message with one bit flipped: (position, message)."""
    size = len(message)
    bits = range(8 * size)
    if size > SMALL_MESSAGE:
        ends = 8 * 64
        # One bit of each of as many equal pieces, another one at each run.
        edges = np.linspace(ends, 8 * size - ends, SAMPLED + 1).astype(int)
        chance = np.random.default_rng()
        between = [int(chance.integers(low, high)) for low, high in itertools.pairwise(edges) if low < high]
        bits = [*range(ends), *between, *range(8 * size - ends, 8 * size)]
    for bit in bits:
        changed = bytearray(message)
        changed[bit // 8] ^= 1 << (bit % 8)
        yield bit // 8, bytes(changed)


def accepted(receive: Callable[[bytes], object], message: bytes) -> list[int]:
    """At which positions a flipped bit is not refused. Any other error than the package's own goes through."""
    found = []
    for position, changed in flips(message):
        try:
            receive(changed)
        except SecureFUError:
            continue
        found.append(position)
    return found


def check_flips(receive: Callable[[bytes], object], message: bytes, *, defended: bool, place: int = -64) -> None:
    """All flips are refused; where nobody verifies signatures, one in the signature at `place` is not."""
    if defended:
        assert accepted(receive, message) == []
        return
    changed = bytearray(message)
    changed[place + 10] ^= 4
    receive(bytes(changed))


@pytest.fixture
def machines(federate, monkeypatch, defended):
    """Parties of one round; without their defence, they verify no signature."""
    if not defended:
        monkeypatch.setattr("secure_fu.crypto.identity.Roster.verify", lambda *_: None)
    return federate(contributions=contributions)


@stands_and_falls
def test_flipped_bits_of_an_invitation(machines, defended):
    """The server's invitation is altered on its way to a client, so that it uploads to another round or model."""
    invitation = machines.invited(0)
    place = invitation.index(machines.server._state.announcement.signature)
    check_flips(machines.clients["client-0"].respond, invitation, defended=defended, place=place)
    assert machines.client_record.rounds("client-0") == (0 if defended else 1)
    assert machines.clients["client-1"].respond(invitation)


@stands_and_falls
def test_flipped_bits_of_an_upload(machines, defended):
    """A client's upload is altered on its way to the server: ciphertext, boxes, name or signature."""
    upload = machines.clients["client-0"].respond(machines.invited(0))
    check_flips(machines.server.receive, upload, defended=defended)
    assert len(machines.server._state.entries) == (0 if defended else 1)


@stands_and_falls
def test_flipped_bits_of_a_ballot(machines, defended):
    """The server alters one bit of what a member votes on: header, roll, anybody's signature, digests or boxes."""
    machines.collected(0)
    machines.server.close()
    ballot = machines.server.ballot("member-00")
    place = ballot.index(machines.server._state.roll.signature)
    check_flips(machines.members["member-00"].vote, ballot, defended=defended, place=place)
    assert (machines.member_record.newest("member-00", machines.run.run_id) is None) is defended
    assert machines.members["member-01"].vote(machines.server.ballot("member-01"))


@stands_and_falls
def test_flipped_bits_of_a_vote(machines, defended):
    """A member's vote is altered on its way to the server."""
    machines.collected(0)
    machines.server.close()
    vote = machines.members["member-00"].vote(machines.server.ballot("member-00"))
    check_flips(machines.server.receive_vote, vote, defended=defended)
    assert len(machines.server._votes) == (0 if defended else 1)


@stands_and_falls
def test_flipped_bits_of_a_quorum(machines, defended):
    """The server alters one bit of the votes that it shows for an answer."""
    machines.collected(0)
    quorum = machines.voted()
    check_flips(machines.members["member-00"].answer, quorum, defended=defended)
    assert machines.members["member-00"].answer(quorum)


@stands_and_falls
def test_flipped_bits_of_an_answer(machines, defended):
    """A member's answer is altered on its way to the server, so that the sum does not open or opens as another."""
    machines.collected(0)
    answer = machines.members["member-00"].answer(machines.voted())
    check_flips(machines.server.receive_answer, answer, defended=defended)
    assert len(machines.server._answers) == (0 if defended else 1)


@stands_and_falls
def test_flipped_bits_of_a_release_line(machines, tmp_path, defended):
    """The server's transcript is altered on its way to an auditor; nobody signs the label of its branch, all the rest.

    In the end somebody alters the released values and writes what the line says for readers anew.
    """
    machines.collected(0)
    machines.finish()
    line = (machines.directory / "transcript.jsonl").read_bytes()
    path = tmp_path / "altered.jsonl"

    def verify(changed: bytes):
        path.write_bytes(changed)
        return verify_transcript(path, roster=machines.roster, policy=machines.policy)

    (true,) = verify(line)
    if defended:
        assert accepted(verify, line) == []
    (labelled,) = verify(line.replace(b'"branch": ""', b'"branch": "other"'))
    assert replace(labelled, name=true.name) == true
    release = decode(Release, base64.b64decode(json.loads(line)["release"]))
    release = replace(release, values_digest=bytes(32))
    altered = transcript_line("", decode(Header, release.announcement.header), release)
    attempt(
        lambda: verify(json.dumps(altered).encode()),
        refused=TranscriptError if defended else None,
        match="signature of 'server'",
    )
