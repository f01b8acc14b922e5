"""Rounds over an exchange: who is silent, late, lying or gone, and what that costs."""

from __future__ import annotations

import gc
import logging
from dataclasses import replace

import pytest
from deployment_cast import CLIENTS, BareNode, RoundCast, request

from secure_fu.crypto.wire import encode
from secure_fu.deployment.exchange.exchange import InProcessExchange
from secure_fu.deployment.exchange.messages import PROTOCOL, Hello, Kind, NodeRequest, Outcome, PartyAnswer
from secure_fu.deployment.server.hosts import PartiesAway
from secure_fu.errors import CohortTooSmall, RecordError, RoundAborted

SCHEMES = ("kahe", "bfv")


@pytest.fixture
def cast(tmp_path):
    built = []

    def make(scheme_name="kahe", **arguments):
        built.append(RoundCast(tmp_path / f"cast-{len(built)}", scheme_name, **arguments))
        return built[-1]

    yield make
    for one in built:
        one.close()


def statuses(made):
    return [(event.round_number, event.status.value, event.charged) for event in made.ledger.events()]


def same_sum(made, clients=CLIENTS, rounds=1):
    """Of the last round of a fresh local run in which these clients answer."""
    sums = made.local_sums(clients)
    for _ in range(rounds):
        released = sums.secure_sum(request())
    return released.values.tolist()


def test_a_released_round_is_an_event_of_its_own(cast, caplog):
    made = cast()
    with caplog.at_level(logging.INFO, "secure_fu"):
        made.sums().secure_sum(request())
    (record,) = [one for one in caplog.records if getattr(one, "secure_fu_event", "") == "round-released"]
    seconds = record.secure_fu_fields.pop("seconds")
    assert record.secure_fu_fields == {"round": 0, "purpose": request().purpose, "clients": len(CLIENTS)}
    assert seconds >= 0


@pytest.mark.parametrize("scheme_name", SCHEMES)
def test_a_sum_is_that_of_one_process(cast, scheme_name):
    made = cast(scheme_name)
    sums, local = made.sums(), made.local_sums()
    for number in range(2):
        ours, theirs = sums.secure_sum(request()), local.secure_sum(request())
        assert ours.values.tolist() == theirs.values.tolist()
        assert sums.next_round == local.next_round == number + 1
    assert [replace(one, download_bytes=0) for one in sums.traffic] == [
        replace(one, download_bytes=0) for one in local.traffic
    ]
    assert statuses(made) == [(0, "committed", CLIENTS), (1, "committed", CLIENTS)]
    # The oracle can tell: another cast of answers gives another sum.
    assert same_sum(cast(scheme_name), CLIENTS[:3]) != same_sum(cast(scheme_name))


# Who is silent


def test_a_silent_client_is_left_out_and_pays_nothing(cast):
    made = cast()
    made.at("silo-2").dies_at = lambda kind: kind is Kind.INVITE
    released = made.sums().secure_sum(request())
    there = ("silo-0", "silo-1", "silo-3")
    assert released.participants == there
    assert released.values.tolist() == same_sum(made, there)
    assert statuses(made) == [(0, "committed", there)]


def test_too_few_uploads_are_never_opened_and_cost_nothing(cast):
    made = cast()
    away = [True]
    for name in ("silo-1", "silo-2"):
        made.at(name).dies_at = lambda kind: kind is Kind.INVITE and away[0]
    sums = made.sums()
    with pytest.raises(CohortTooSmall):
        sums.secure_sum(request())
    assert {status for _, status, _ in statuses(made)} == {"void"}
    assert all(Kind.BALLOT not in made.at(name).asked for name in made.openers)
    away[0] = False
    number = sums.next_round
    assert sums.secure_sum(request()).participants == CLIENTS
    assert statuses(made)[-1] == (number, "committed", CLIENTS)


@pytest.mark.parametrize(("gone", "says"), [(CLIENTS[:2], "2 clients"), (("member-0", "member-3"), "2 of those who")])
def test_where_too_few_can_be_reached_nothing_is_asked_or_charged(cast, gone, says):
    made = cast()
    for name in gone:
        made.at(name).dies_at = lambda _: True
    with pytest.raises(PartiesAway, match=says):
        made.sums().secure_sum(request())
    assert statuses(made) == []
    assert all(set(node.asked) <= {Kind.HELLO} for node in made.nodes.values())


def test_a_client_that_comes_back_is_asked_again(cast):
    made = cast()
    away = [True]
    made.at("silo-0").dies_at = lambda _: away[0]
    sums = made.sums()
    assert sums.secure_sum(request()).participants == CLIENTS[1:]
    away[0] = False
    assert sums.secure_sum(request()).participants == CLIENTS


def test_a_client_that_does_not_know_the_run_is_told_within_the_round(cast):
    made = cast()
    sums = made.sums()
    sums.secure_sum(request())
    made.at("silo-1").knows.clear()  # it has been started anew, from nothing
    released = sums.secure_sum(request())
    assert released.participants == CLIENTS
    assert released.values.tolist() == same_sum(made, rounds=2)
    assert [kind for kind in made.at("silo-1").asked if kind is not Kind.HELLO] == [
        *(Kind.BEGIN, Kind.INVITE),
        *(Kind.INVITE, Kind.BEGIN, Kind.INVITE),
    ]
    assert [number for number, _, _ in statuses(made)] == [0, 1]


# Who opens


def test_members_may_die_between_vote_and_answer(cast):
    made = cast()
    made.at("member-1").dies_at = lambda kind: kind is Kind.QUORUM
    assert made.sums().secure_sum(request()).values.tolist() == same_sum(made)


def test_members_that_come_back_answer_with_what_they_wrote_down(cast):
    made = cast()
    for name in ("member-1", "member-2"):
        node, died = made.at(name), []

        def dies(kind, died=died, node=node, name=name):
            if kind is Kind.QUORUM and not died:
                died.append(kind)
                node.machines[name] = made.machine(name)  # a new process over the same record
                return True
            return False

        node.dies_at = dies
    assert made.sums().secure_sum(request()).values.tolist() == same_sum(made)
    assert statuses(made) == [(0, "committed", CLIENTS)]


def test_a_round_that_too_few_members_answer_stays_charged_and_is_not_released(cast):
    made = cast()
    for name in ("member-1", "member-2"):
        made.at(name).dies_at = lambda kind: kind is Kind.QUORUM
    sums = made.sums()
    with pytest.raises(RoundAborted, match="2 members answered; 3 are needed"):
        sums.secure_sum(request())
    assert statuses(made) == [(0, "committed", CLIENTS)]
    assert made.logged == []
    for name in ("member-1", "member-2"):
        made.at(name).dies_at = lambda _: False
    sums.secure_sum(request())
    assert made.logged == [1], "another round, under another number"


def test_a_key_holder_that_was_started_anew_has_lost_the_round(cast):
    made = cast("bfv")
    node = made.at("key-holder")

    def dies(kind):
        if kind is Kind.OPEN:
            node.machines["key-holder"] = made.machine("key-holder")
            node.dies_at = lambda _: False
            return True
        return False

    node.dies_at = dies
    sums = made.sums()
    with pytest.raises(RoundAborted, match="did not open"):
        sums.secure_sum(request())
    assert statuses(made) == [(0, "committed", CLIENTS)]
    assert made.logged == []
    sums.secure_sum(request())
    assert made.logged == [1]


def test_a_roll_that_nobody_was_there_to_read_is_charged_all_the_same(cast):
    """The server cannot know that nobody read it."""
    made = cast("bfv")
    made.at("key-holder").dies_at = lambda kind: kind is Kind.OPEN
    with pytest.raises(RoundAborted, match="did not open"):
        made.sums().secure_sum(request())
    assert statuses(made) == [(0, "committed", CLIENTS)]
    assert made.logged == []


def test_an_opening_that_was_lost_on_the_way_is_asked_for_again(cast):
    made = cast("bfv")
    lost = []

    def loses(kind, answers):
        if kind is Kind.OPEN and not lost:
            lost.append(kind)
            raise ConnectionError("lost")
        return answers

    made.at("key-holder").tampers = loses
    assert made.sums().secure_sum(request()).values.tolist() == same_sum(made)
    assert lost
    assert made.logged[0] == 0


def test_a_key_holder_that_issues_no_key_costs_nothing(cast):
    made = cast("bfv")
    made.at("key-holder").dies_at = lambda kind: kind is Kind.ISSUE_KEY
    with pytest.raises(PartiesAway):
        made.sums().secure_sum(request())
    assert {status for _, status, _ in statuses(made)} == {"void"}
    assert all(Kind.INVITE not in made.at(name).asked for name in CLIENTS)


# Who lies


def done(party, body):
    return PartyAnswer(party=party, outcome=Outcome.DONE, body=body)


def old_upload(made, seen):
    """The client's upload to the first round, again in every later one."""

    def tampers(kind, answers):
        if kind is Kind.INVITE:
            seen.append(answers[0].body)
            return (done(answers[0].party, seen[0]),)
        return answers

    return tampers


LIES = {
    "garbage": lambda answers: b"\x00garbage",
    "nothing": lambda answers: b"",
    "no answers": lambda answers: (),
    "of nobody who was asked": lambda answers: (done("silo-3", answers[0].body),),
    "a body of garbage": lambda answers: (done(answers[0].party, b"garbage"),),
    "an empty body": lambda answers: (done(answers[0].party, b""),),
    "a bit is other": lambda answers: (
        done(answers[0].party, answers[0].body[:-1] + bytes([answers[0].body[-1] ^ 1])),
    ),
    "refused": lambda answers: (PartyAnswer(party=answers[0].party, outcome=Outcome.REFUSED, body=b""),),
    "failed": lambda answers: (PartyAnswer(party=answers[0].party, outcome=Outcome.FAILED, body=b""),),
    "unknown for ever": lambda answers: (PartyAnswer(party=answers[0].party, outcome=Outcome.UNKNOWN_RUN, body=b""),),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_a_client_should_not_say_leaves_it_out_and_changes_no_sum(cast, lie):
    made = cast()
    made.at("silo-1").tampers = lambda kind, answers: LIES[lie](answers) if kind is Kind.INVITE else answers
    released = made.sums().secure_sum(request())
    there = ("silo-0", "silo-2", "silo-3")
    assert released.participants == there
    assert released.values.tolist() == same_sum(made, there)


@pytest.mark.parametrize("lie", [name for name in LIES if name != "of nobody who was asked"])
@pytest.mark.parametrize("kind", [Kind.BALLOT, Kind.QUORUM])
def test_what_a_member_should_not_say_leaves_it_out(cast, lie, kind):
    made = cast()
    made.at("member-1").tampers = lambda asked, answers: LIES[lie](answers) if asked is kind else answers
    assert made.sums().secure_sum(request()).values.tolist() == same_sum(made)


def test_an_answer_that_is_given_twice_counts_once(cast):
    made = cast()
    made.at("silo-1").tampers = lambda kind, answers: answers * 2 if kind is Kind.INVITE else answers
    assert made.sums().secure_sum(request()).values.tolist() == same_sum(made)


def test_an_upload_that_is_replayed_is_not_taken(cast):
    made = cast()
    seen = []
    made.at("silo-1").tampers = old_upload(made, seen)
    sums = made.sums()
    assert sums.secure_sum(request()).participants == CLIENTS
    assert sums.secure_sum(request()).participants == ("silo-0", "silo-2", "silo-3")


def test_a_node_cannot_answer_for_another_member(cast):
    """Votes and answers of two members that one node hands in twice are still those of two."""
    made = cast()
    copied = {}

    def copies(kind, answers):
        copied.setdefault(kind, answers[0].body)
        return answers

    made.at("member-0").tampers = copies
    for name in ("member-1", "member-2"):
        made.at(name).tampers = lambda kind, answers: (
            (done(answers[0].party, copied[kind]),) if kind is Kind.BALLOT else answers
        )
    with pytest.raises(RoundAborted, match="2 members voted; a quorum is 3"):
        made.sums().secure_sum(request())


# What is held, and whose faults are not the others'


class Counted(bytes):
    """A reply that tells how many of its kind are alive."""

    alive = 0
    most = 0

    def __new__(cls, content):
        made = super().__new__(cls, content)
        Counted.alive += 1
        Counted.most = max(Counted.most, Counted.alive)
        return made

    def __del__(self):
        Counted.alive -= 1


class Counting:
    def __init__(self, nodes):
        self.exchange = InProcessExchange(nodes)

    def nodes(self):
        return self.exchange.nodes()

    def ask(self, requests, *, timeout):
        for address, reply in self.exchange.ask(requests, timeout=timeout):
            size = len(reply)
            counted = Counted(reply) if size > 2000 else reply
            del reply
            yield address, counted
            del counted


def test_no_two_uploads_are_held_at_a_time(cast):
    made = cast()
    made.hosts._exchange = Counting(made.nodes)
    Counted.alive = Counted.most = 0
    made.sums().secure_sum(request())
    gc.collect()
    assert (Counted.most, Counted.alive) == (1, 0)
    # The count can tell: who gathers them holds them all.
    requests = {f"node-of-{name}": encode_invitation(made) for name in CLIENTS}
    kept = list(Counting(made.nodes).ask(requests, timeout=9.0))
    assert Counted.most >= len(kept) > 1


def encode_invitation(made):
    """Something that any node answers with much."""
    hello = Hello(nonce=bytes(32), roster_digest=made.roster.digest, protocol=PROTOCOL, software="x")
    for name in CLIENTS:
        made.at(name).tampers = lambda _, answers: (replace(answers[0], body=bytes(3000)),)
    return encode(NodeRequest(kind=Kind.HELLO, parties=(), bodies=(encode(hello),)))


def test_a_fault_of_the_server_s_own_disk_is_not_taken_for_a_party_s(cast, monkeypatch):
    made = cast("bfv")
    sums = made.sums()

    def full(*_):
        raise RecordError("the disk is full")

    monkeypatch.setattr(made, "logged", type("Full", (list,), {"append": full})())
    with pytest.raises(RecordError, match="full"):
        sums.secure_sum(request())
    assert made.at("key-holder").asked.count(Kind.OPEN) == 1


def test_several_parties_at_one_node(cast):
    made = cast()
    together = BareNode(
        {name: made.machine(name) for name in ("silo-0", "silo-1", "member-0", "member-1")}, made.identities, made
    )
    for name in ("silo-0", "silo-1", "member-0", "member-1"):
        del made.nodes[f"node-of-{name}"]
    made.nodes["together"] = together
    assert made.sums().secure_sum(request()).values.tolist() == same_sum(made)
    assert together.asked.count(Kind.INVITE) == together.asked.count(Kind.BALLOT) == 1


def test_why_somebody_is_left_out_is_in_the_log(cast, caplog):
    made = cast()
    made.at("silo-1").tampers = lambda kind, answers: LIES["refused"](answers) if kind is Kind.INVITE else answers
    with caplog.at_level(logging.WARNING, logger="secure_fu"):
        made.sums().secure_sum(request())
    assert "without silo-1: refused to invite" in caplog.text
