"""A malicious server against `kahe`: asking twice, and old messages in new rounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from committee_attacker import (
    MEMBER,
    Attacker,
    ForgetfulRecord,
    attempt,
    bind_seals_to,
    collected,
    contributions,
    stands_and_falls,
)
from committee_machines import announcement_in

from secure_fu.crypto import CommitteeTerms
from secure_fu.crypto.wire import decode, encode
from secure_fu.errors import ProtocolError, ShareMisfit, SignatureError
from secure_fu.protocol import ClientRecord, CommitteeServer, MemberRecord
from secure_fu.protocol.committee.messages import Answer, AnswerStatement, Vote, VoteStatement
from secure_fu.protocol.messages import UploadStatement

LOW = CommitteeTerms(members=4, threshold=2, quorum=3, corrupt=1)


@stands_and_falls
def test_a_second_roll_of_a_round_is_not_voted_for(federate, defended):
    """All members vote for and answer one roll, then are asked for another of the same round: the sums' difference."""
    machines = federate(contributions=contributions)
    if not defended:
        for name in machines.members:
            machines.members[name] = machines.member(name, record=ForgetfulRecord())
    attacker = collected(machines)
    fewer, more = machines.names[:4], machines.names
    smaller = attacker.opened(attacker.of(*fewer), dict.fromkeys(fewer, 1))
    read = attempt(
        lambda: attacker.opened(attacker.of(*more), dict.fromkeys(more, 1)) - smaller,
        refused=ProtocolError if defended else None,
        match="bound to another roll",
    )
    assert defended or np.array_equal(read, attacker.truth["client-4"])


def test_the_record_alone_refuses_a_second_roll(federate, monkeypatch):
    """Two writers race: a member that found nothing in its record is refused by the record when it comes to bind."""
    attacker = collected(federate(contributions=contributions))
    fewer = attacker.machines.names[:4]
    attacker.opened(attacker.of(*fewer), dict.fromkeys(fewer, 1))
    monkeypatch.setattr(MemberRecord, "newest", lambda *_: None)
    with pytest.raises(ProtocolError, match="is bound in round 0"):
        attacker.opened(attacker.uploads, dict.fromkeys(attacker.uploads, 1))


@stands_and_falls
def test_a_member_that_was_restarted_is_still_bound(federate, defended):
    """The server has a roll answered, crashes the members, and asks for another roll of that round."""
    machines = federate(contributions=contributions, durable=True)
    attacker = collected(machines)
    fewer = machines.names[:4]
    smaller = attacker.opened(attacker.of(*fewer), dict.fromkeys(fewer, 1))
    machines.member_record.close()
    path = machines.directory / ("committee.sqlite" if defended else "lost.sqlite")
    machines.member_record = MemberRecord(path, new=not defended)
    for name in machines.members:
        machines.members[name] = machines.member(name)
    read = attempt(
        lambda: attacker.opened(attacker.uploads, dict.fromkeys(attacker.uploads, 1)) - smaller,
        refused=ProtocolError if defended else None,
        match="bound to another roll",
    )
    assert defended or np.array_equal(read, attacker.truth["client-4"])


@stands_and_falls
@pytest.mark.parametrize("number", [5, 3], ids=["the same number", "a lower number"])
def test_one_header_a_round_and_no_way_back(federate, defended, number):
    """Two groups of clients get two headers, of one round number or the second of a lower: both are to be opened."""
    machines = federate(contributions=contributions, clients=6)
    if not defended:
        for name in machines.members:
            machines.members[name] = machines.member(name, record=ForgetfulRecord())
    first, second = machines.names[:3], machines.names[3:]
    invitation = machines.invited(5)
    ones = Attacker.tapping(machines, invitation, first)
    others = Attacker.tapping(machines, machines.forged_invitation(round_number=number, settings='{"group":2}'), second)
    assert np.array_equal(ones.opened(ones.uploads, dict.fromkeys(first, 1)), ones.sum_of(*first))
    read = attempt(
        lambda: others.opened(others.uploads, dict.fromkeys(second, 1)),
        refused=ProtocolError if defended else None,
        match="bound to another roll, in round 5",
    )
    assert defended or np.array_equal(read, others.sum_of(*second))


def test_a_retry_gets_the_same_bytes(federate):
    """The server asks for the same roll again and again, for a second answer that differs from the first."""
    attacker = collected(federate(contributions=contributions))
    roll = attacker.roll(attacker.uploads)
    ballots, member = attacker.ballots(roll, attacker.uploads), attacker.machines.members["member-00"]
    votes = attacker.votes(roll, ballots)
    quorum = attacker.machines.quorum_of(attacker.announcement, roll, votes)
    assert len({member.vote(ballots("member-00")) for _ in range(3)}) == 1
    assert len({member.answer(quorum) for _ in range(3)}) == 1


class ForgetfulClientRecord(ClientRecord):
    """Charges, and forgets which rounds were answered."""

    def accept(self, client, header, header_digest, *, budget):
        self._last.clear()
        self._file.write("DELETE FROM round", ())
        super().accept(client, header, header_digest, budget=budget)


@stands_and_falls
@pytest.mark.parametrize(
    "changes",
    [None, {"settings": '{"again":1}'}, {"round_number": 3}],
    ids=["the same invitation", "another header of the round", "a lower round"],
)
def test_a_client_answers_no_round_twice(federate, defended, changes):
    """The server has a client upload again, with fresh noise on the same data, to average the noise out."""
    machines = federate(contributions=contributions)
    if not defended:
        for name in machines.clients:
            machines.clients[name] = machines.client(name, record=ForgetfulClientRecord())
    invitation = machines.invited(5)
    first = Attacker.tapping(machines, invitation, machines.names)
    again = invitation if changes is None else machines.forged_invitation(**changes)
    streams = len(machines.tape.streams)
    second = attempt(
        lambda: Attacker.tapping(machines, again, machines.names),
        refused=ProtocolError if defended else None,
        match="the last answered",
    )
    assert (len(machines.tape.streams) == streams) is defended, "a client that refuses draws nothing"
    assert defended or any(not np.array_equal(first.truth[name], second.truth[name]) for name in machines.names)


def without_headers_in_signatures(monkeypatch):
    """Clients sign, and everybody verifies, uploads to no round in particular."""
    monkeypatch.setattr(
        "secure_fu.protocol.messages.UploadStatement",
        lambda **fields: UploadStatement(**(fields | {"header_digest": bytes(32)})),
    )


REPLAYS = {
    "stopped by signature and seal": ((), SignatureError, "signature of 'client-0'"),
    "stopped by the signature": (("seal",), SignatureError, "signature of 'client-0'"),
    "stopped by the seal": (("signature",), ShareMisfit, "share of client 'client-0'"),
    "not stopped": (("signature", "seal"), None, None),
}


@pytest.mark.parametrize("changes", [{"round_number": 1}, {"run_id": bytes(16)}], ids=["another round", "another run"])
@pytest.mark.parametrize(("without", "refused", "match"), REPLAYS.values(), ids=REPLAYS)
def test_uploads_do_not_serve_twice(federate, monkeypatch, without, refused, match, changes):
    """The server lists uploads of an opened round in a roll of another one, for the sum of all of them but one.

    The signature of the client and the seal of its shares each stop it alone.
    """
    if "signature" in without:
        without_headers_in_signatures(monkeypatch)
    if "seal" in without:
        bind_seals_to(monkeypatch, header_digest=bytes(32))
    machines = federate(contributions=contributions)
    first = collected(machines)
    larger = first.opened(first.uploads, dict.fromkeys(first.uploads, 1))
    second = Attacker(machines, machines.forged_announcement(**changes), first.uploads, first.truth)
    fewer = machines.names[:4]

    def difference():
        roll = second.roll(first.of(*fewer))
        told = second.answers(roll, second.votes(roll, second.ballots(roll, first.of(*fewer))))
        first.refusals += second.refusals
        return larger - first.read(told, dict.fromkeys(fewer, 1))

    read = attempt(difference, refused=refused, match=match)
    assert refused or np.array_equal(read, first.truth["client-4"])


@stands_and_falls
def test_votes_of_another_round_do_not_count(federate, monkeypatch, defended):
    """One member votes in a round and gets, as the quorum for its roll, everybody's votes of the round before."""
    if not defended:
        said = VoteStatement(run_id=bytes(16), round_number=0, header_digest=bytes(32), roll_digest=bytes(32))
        monkeypatch.setattr(VoteStatement, "of", staticmethod(lambda *_: said))
    machines = federate(contributions=contributions, terms=LOW)
    before = collected(machines)
    roll = before.roll(before.uploads)
    votes = before.votes(roll, before.ballots(roll, before.uploads))
    machines.server.abort("the server goes its own ways")
    now = collected(machines, 1)
    roll, everybody = now.roll(now.uploads), dict.fromkeys(now.uploads, 1)
    read = attempt(
        lambda: now.opened_roll(
            roll, everybody, ballots=now.ballots(roll, now.uploads), members=["member-00"], votes=votes
        ),
        refused=SignatureError if defended else None,
        match="signature of 'member-0",
    )
    assert defended or np.array_equal(read, now.sum_of(*now.uploads))


def statements_that_say_nothing(monkeypatch):
    """Members sign votes and answers for no round and roll in particular."""
    nothing = VoteStatement(run_id=bytes(16), round_number=0, header_digest=bytes(32), roll_digest=bytes(32))
    monkeypatch.setattr(VoteStatement, "of", staticmethod(lambda *_: nothing))

    def answer(*, share_digest, **_):
        return AnswerStatement(header_digest=bytes(32), roll_digest=bytes(32), share_digest=share_digest)

    monkeypatch.setattr("secure_fu.protocol.committee.messages.AnswerStatement", answer)
    monkeypatch.setattr(f"{MEMBER}.AnswerStatement", answer)


@stands_and_falls
@pytest.mark.parametrize("relabelled", [False, True], ids=["as it was", "relabelled"])
@pytest.mark.parametrize("kind", [Vote, Answer])
def test_an_honest_server_takes_nothing_of_another_round(federate, monkeypatch, defended, relabelled, kind):
    """Somebody on the way replays a vote or an answer of the round before, as it was or under this round's name."""
    if not defended:
        statements_that_say_nothing(monkeypatch)
        if not relabelled:
            monkeypatch.setattr(CommitteeServer, "_belongs", staticmethod(lambda *_: None))
    machines = federate()
    machines.collected(0)
    quorum = machines.voted()
    member = machines.members["member-00"]
    old = member.vote(machines.server.ballot("member-00")) if kind is Vote else member.answer(quorum)
    machines.answered(quorum)

    invitation = machines.collected(1)
    machines.server.close()
    message = decode(kind, old)
    if relabelled:
        roll_digest = machines.server._state.roll_digest
        message = replace(message, header_digest=announcement_in(invitation).header_digest, roll_digest=roll_digest)
    take = machines.server.receive_vote if kind is Vote else machines.server.receive_answer
    attempt(
        lambda: take(encode(message)),
        refused=(SignatureError if relabelled else ProtocolError) if defended else None,
        match="does not verify" if relabelled else "for another roll",
    )
    taken = machines.server._votes if kind is Vote else machines.server._answers
    assert len(taken) == (0 if defended else 1)
