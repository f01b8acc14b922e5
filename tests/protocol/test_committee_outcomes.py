"""What becomes of a round whose members answer wrongly, twice, late, never, or in another's name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from committee_machines import TEN, CommitteeMachines, announcement_in, make_committee_machines, share_in
from numpy.typing import NDArray

from secure_fu.crypto import CommitteeTerms
from secure_fu.crypto.wire import decode, encode
from secure_fu.errors import (
    CohortTooSmall,
    OpeningError,
    PolicyRefusal,
    ProtocolError,
    RosterError,
    RoundAborted,
    SignatureError,
    WireError,
)
from secure_fu.privacy import EventStatus, Phase, Subject
from secure_fu.protocol import CommitteeOpening, Header, ReleasedSum
from secure_fu.protocol.committee.messages import Answer, Vote
from secure_fu.protocol.messages import Announcement, Domain

SPARE = TEN.members - TEN.threshold
Build = Callable[..., CommitteeMachines]


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Build]:
    """Five clients that contribute something, and ten members; closed after the test."""
    built: list[CommitteeMachines] = []

    def make(**arguments: object) -> CommitteeMachines:
        given = {"terms": TEN, "contributions": lambda k: np.linspace(-0.3, 0.3, 6) * (k + 1), **arguments}
        built.append(make_committee_machines(tmp_path, **given))  # type: ignore[arg-type]
        return built[-1]

    yield make
    for machines in built:
        machines.close()


def header_in(invitation: bytes) -> Header:
    return decode(Header, announcement_in(invitation).header)


def expected(machines: CommitteeMachines, invitation: bytes, participants: tuple[str, ...]) -> NDArray[np.float64]:
    announcement = announcement_in(invitation)
    return machines.expected(participants, header_in(invitation), announcement.header_digest)


def check_release(
    machines: CommitteeMachines, released: ReleasedSum, invitation: bytes, participants: tuple[str, ...] | None = None
) -> None:
    """The release is the plain sum over the survivors plus exactly the noise that they drew, and charged to them."""
    survivors = machines.names if participants is None else participants
    assert released.participants == survivors
    np.testing.assert_array_equal(released.values, expected(machines, invitation, survivors))
    (*_, event) = machines.ledger.events("original")
    assert (event.status, event.participants) == (EventStatus.COMMITTED, survivors)


def check_lost(machines: CommitteeMachines, head: bytes, participants: tuple[str, ...] | None = None) -> None:
    """Nothing was released since `head`, whoever was in the roll has paid, and the next round is a round like any."""
    survivors = machines.names if participants is None else participants
    assert machines.run.transcript.head == head
    (*_, event) = machines.ledger.events("original")
    assert (event.status, event.participants) == (EventStatus.COMMITTED, survivors)
    rounds = len(list(machines.ledger.events("original")))
    for name in machines.names:
        spent = machines.ledger.event_counts("original", name, Subject.RETAINED, Phase.TRAINING).total()
        assert spent == (rounds if name in survivors else rounds - 1)
    check_goes_on(machines)


def check_goes_on(machines: CommitteeMachines) -> None:
    number = 1 + max(event.round_number for event in machines.ledger.events("original"))
    invitation = machines.collected(number)
    check_release(machines, machines.finish(), invitation)


def lied(machines: CommitteeMachines, answer: bytes, **changes: object) -> bytes:
    """A member's answer with other content, under its true signature."""
    message = replace(decode(Answer, answer), **changes)  # type: ignore[arg-type]
    signature = machines.identities[message.member].sign(Domain.ANSWER, message.statement)
    return encode(replace(message, signature=signature))


def other_share(answer: bytes, seed: int = 1) -> bytes:
    share = np.random.default_rng(seed).integers(0, 65521, len(share_in(answer)))
    return share.astype("<u2").tobytes()


# Wrong


@pytest.mark.parametrize("wrong", range(SPARE))
def test_members_that_answer_wrongly_are_left_out_and_named(
    build: Build, wrong: int, caplog: pytest.LogCaptureFixture
) -> None:
    machines = build()
    invitation = machines.collected(0)
    quorum = machines.voted()
    liars = list(machines.members)[2 : 3 + wrong]
    for name, member in machines.members.items():
        answer = member.answer(quorum)
        if name in liars:
            answer = lied(machines, answer, share=other_share(answer, seed=len(name) + wrong))
        machines.server.receive_answer(answer)
    with caplog.at_level(logging.WARNING, "secure_fu"):
        released = machines.server.release()
    assert [line.args[1] for line in caplog.records if "does not fit" in line.message] == liars  # type: ignore[index]
    check_release(machines, released, invitation)


def test_with_no_answer_to_spare_a_wrong_one_ends_the_round(build: Build) -> None:
    machines = build()
    machines.collected(0)
    head = machines.run.transcript.head
    quorum = machines.voted()
    answers = [member.answer(quorum) for member in list(machines.members.values())[: TEN.threshold]]
    answers[3] = lied(machines, answers[3], share=other_share(answers[3]))
    for answer in answers:
        machines.server.receive_answer(answer)
    with pytest.raises(OpeningError):
        machines.server.release()
    with pytest.raises(ProtocolError, match="only a round whose roll has not left can be aborted"):
        machines.server.abort("it did not open")
    machines.server.give_up("it did not open")
    check_lost(machines, head)


def test_one_more_answer_heals_a_round_that_did_not_open(build: Build) -> None:
    machines = build()
    invitation = machines.collected(0)
    quorum = machines.voted()
    names = list(machines.members)
    answers = {name: machines.members[name].answer(quorum) for name in names}
    answers[names[0]] = lied(machines, answers[names[0]], share=other_share(answers[names[0]]))
    for name in names[: TEN.threshold]:
        machines.server.receive_answer(answers[name])
    with pytest.raises(OpeningError):
        machines.server.release()
    machines.server.receive_answer(answers[names[7]])
    check_release(machines, machines.server.release(), invitation)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda share: share[:-2], WireError),
        (lambda share: share + b"\0\0", WireError),
        (lambda share: b"", WireError),
        (lambda share: b"\xff\xff" + share[2:], WireError),
    ],
)
def test_a_malformed_answer_is_refused_and_a_good_one_still_taken(
    build: Build, change: Callable[[bytes], bytes], error: type[Exception]
) -> None:
    machines = build()
    invitation = machines.collected(0)
    quorum = machines.voted()
    answers = [member.answer(quorum) for member in machines.members.values()]
    share = decode(Answer, answers[0]).share
    with pytest.raises(error):
        machines.server.receive_answer(lied(machines, answers[0], share=change(share)))
    for answer in answers[: TEN.threshold]:
        machines.server.receive_answer(answer)
    check_release(machines, machines.server.release(), invitation)


# Twice, late, in another's name


def test_a_second_answer_of_a_member_changes_nothing(build: Build) -> None:
    machines = build()
    invitation = machines.collected(0)
    quorum = machines.voted()
    for member in list(machines.members.values())[: TEN.threshold]:
        answer = member.answer(quorum)
        machines.server.receive_answer(answer)
        machines.server.receive_answer(answer)
        machines.server.receive_answer(lied(machines, answer, share=other_share(answer)))
    check_release(machines, machines.server.release(), invitation)


def test_a_second_vote_of_a_member_counts_once(build: Build) -> None:
    machines = build()
    machines.collected(0)
    machines.server.close()
    names = list(machines.members)
    for name in names[: TEN.quorum - 1]:
        vote = machines.members[name].vote(machines.server.ballot(name))
        for _ in range(3):
            machines.server.receive_vote(vote)
    with pytest.raises(RoundAborted, match="6 members voted; a quorum is 7"):
        machines.server.quorum()
    machines.server.receive_vote(machines.members[names[8]].vote(machines.server.ballot(names[8])))
    machines.server.quorum()


def test_what_comes_late_is_refused_and_harms_no_later_round(build: Build) -> None:
    machines = build()
    machines.collected(0)
    machines.server.close()
    votes = {name: member.vote(machines.server.ballot(name)) for name, member in machines.members.items()}
    for vote in votes.values():
        machines.server.receive_vote(vote)
    quorum = machines.server.quorum()
    answers = [member.answer(quorum) for member in machines.members.values()]
    for answer in answers[:-1]:
        machines.server.receive_answer(answer)
    machines.server.release()
    late_vote, late_answer = votes["member-09"], answers[-1]
    for idle in (lambda: machines.server.receive_answer(late_answer), lambda: machines.server.receive_vote(late_vote)):
        with pytest.raises(ProtocolError, match="the server is idle"):
            idle()
    invitation = machines.collected(1)
    with pytest.raises(ProtocolError, match="the server is collecting"):
        machines.server.receive_answer(late_answer)
    machines.server.close()
    with pytest.raises(ProtocolError, match="the message is for another roll"):
        machines.server.receive_vote(late_vote)
    with pytest.raises(ProtocolError, match="the message is for another roll"):
        machines.server.receive_answer(late_answer)
    for name, member in machines.members.items():
        machines.server.receive_vote(member.vote(machines.server.ballot(name)))
    check_release(machines, machines.answered(machines.server.quorum()), invitation)


def test_a_vote_or_an_answer_in_anothers_name_is_refused(build: Build) -> None:
    machines = build()
    invitation = machines.collected(0)
    server = machines.server
    server.close()
    vote = decode(Vote, machines.members["member-01"].vote(server.ballot("member-01")))
    for name, error in (("member-02", SignatureError), ("client-1", ProtocolError), ("nobody", ProtocolError)):
        with pytest.raises(error):
            server.receive_vote(encode(replace(vote, approval=replace(vote.approval, name=name))))
    for name in machines.members:
        server.receive_vote(machines.members[name].vote(server.ballot(name)))
    quorum = server.quorum()
    answer = decode(Answer, machines.members["member-01"].answer(quorum))
    for name, error in (("member-02", SignatureError), ("client-1", ProtocolError), ("nobody", ProtocolError)):
        with pytest.raises(error):
            server.receive_answer(encode(replace(answer, member=name)))
    with pytest.raises(RoundAborted, match="0 members answered; 7 are needed"):
        server.release()
    check_release(machines, machines.answered(quorum, list(machines.members)[3:]), invitation)


def test_a_member_votes_under_its_own_name_only(build: Build) -> None:
    machines = build()
    machines.collected(0)
    machines.server.close()
    with pytest.raises(ProtocolError, match="is not the one to member 'member-02'"):
        machines.members["member-02"].vote(machines.server.ballot("member-01"))
    for name in ("client-0", "server", "member-10"):
        with pytest.raises((ProtocolError, RosterError)):
            machines.server.ballot(name)


# Never


def gone(machines: CommitteeMachines, away: int, when: str) -> tuple[CommitteeOpening, list[Announcement]]:
    """An opening in which some members vanish before they vote, or between vote and answer; and what was announced."""
    names = list(machines.members)[:away]
    asked: dict[str, int] = {}
    seen: list[Announcement] = []

    def vanishes(_: int, name: str) -> bool:
        seen[:] = [machines.server._state.announcement]  # type: ignore[union-attr]
        asked[name] = asked.get(name, 0) + 1
        return name in names and (when == "vote" or asked[name] > 1)

    opening = CommitteeOpening(
        machines.server, tuple(machines.members.values()), machines.member_record, vanishes=vanishes
    )
    return opening, seen


@pytest.mark.parametrize("when", ["vote", "answer"])
@pytest.mark.parametrize("away", [1, SPARE])
def test_as_many_members_as_are_to_spare_may_vanish(build: Build, away: int, when: str) -> None:
    machines = build()
    opening, seen = gone(machines, away, when)
    sums = machines.sums(opening=opening, vanishes=lambda _number, name: name == "client-3")
    released = sums.secure_sum(machines.request())
    survivors = ("client-0", "client-1", "client-2", "client-4")
    assert released.participants == survivors
    header = decode(Header, seen[0].header)
    np.testing.assert_array_equal(released.values, machines.expected(survivors, header, seen[0].header_digest))


@pytest.mark.parametrize(
    ("when", "words"), [("vote", "6 members voted; a quorum is 7"), ("answer", "6 members answered; 7 are needed")]
)
def test_one_more_and_the_round_ends_unreleased_but_charged(build: Build, when: str, words: str) -> None:
    machines = build()
    head = machines.run.transcript.head
    opening, _ = gone(machines, SPARE + 1, when)
    sums = machines.sums(opening=opening, vanishes=lambda _number, name: name == "client-3")
    with pytest.raises(RoundAborted, match=words) as caught:
        sums.secure_sum(machines.request())
    assert not isinstance(caught.value, CohortTooSmall)  # which would be asked again, and paid again
    assert sums.next_round == 1
    assert not sums.traffic
    check_lost(machines, head, ("client-0", "client-1", "client-2", "client-4"))


def test_the_members_that_come_back_bring_the_round_to_its_end(build: Build) -> None:
    machines = build()
    invitation = machines.collected(0)
    names = list(machines.members)
    quorum = machines.voted(names[:8])
    for name in names[:6]:
        machines.server.receive_answer(machines.members[name].answer(quorum))
    with pytest.raises(RoundAborted, match="6 members answered; 7 are needed"):
        machines.server.release()
    with pytest.raises(ProtocolError, match="is not bound to this roll"):
        machines.members[names[9]].answer(quorum)
    machines.server.receive_answer(machines.members[names[7]].answer(quorum))
    check_release(machines, machines.server.release(), invitation)


def test_enough_members_to_open_are_not_enough_to_agree(build: Build) -> None:
    """Six of ten could interpolate; seven have to vote."""
    machines = build(terms=CommitteeTerms(members=10, threshold=4, quorum=7, corrupt=3))
    machines.collected(0)
    head = machines.run.transcript.head
    machines.server.close()
    state = machines.server._state
    votes = []
    for name in list(machines.members)[:6]:
        votes.append(machines.members[name].vote(machines.server.ballot(name)))
        machines.server.receive_vote(votes[-1])
    with pytest.raises(RoundAborted, match="6 members voted; a quorum is 7"):
        machines.server.quorum()
    forged = machines.quorum_of(state.announcement, state.roll, votes)  # type: ignore[union-attr]
    with pytest.raises(PolicyRefusal, match="6 members voted for this roll; a quorum is 7"):
        machines.members["member-00"].answer(forged)
    twice = machines.quorum_of(state.announcement, state.roll, [*votes, votes[0]])  # type: ignore[union-attr]
    with pytest.raises(PolicyRefusal, match="counted twice"):
        machines.members["member-00"].answer(twice)
    machines.server.give_up("no quorum")
    check_lost(machines, head)


# Order


@pytest.mark.parametrize("seed", range(3))
def test_votes_and_answers_may_come_in_any_order(build: Build, seed: int) -> None:
    machines = build()
    invitation = machines.collected(0)
    draw = np.random.default_rng(seed)
    names = list(machines.members)
    quorum = machines.voted(draw.permutation(names).tolist())
    chosen = draw.permutation(names).tolist()[: TEN.threshold]
    check_release(machines, machines.answered(quorum, chosen), invitation)
    assert [name for name, _ in machines.server._votes.items()] != names
