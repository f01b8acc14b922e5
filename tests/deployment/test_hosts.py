"""Who is believed to host whom."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace

import pytest
from deployment_cast import CLIENTS, SERVER, RoundCast, identity_of

from secure_fu.crypto import Role
from secure_fu.crypto.wire import decode, encode
from secure_fu.deployment.exchange.exchange import InProcessExchange
from secure_fu.deployment.exchange.messages import HelloAnswer, Kind, Outcome, PartyAnswer
from secure_fu.deployment.server.hosts import Hosts, PartiesAway


@pytest.fixture
def cast(tmp_path):
    made = RoundCast(tmp_path / "cast")
    yield made
    made.close()


ALL = frozenset((*CLIENTS, "member-0", "member-1", "member-2", "member-3"))


def test_all_parties_are_found_where_they_are(cast):
    cast.hosts.survey()
    assert cast.hosts.present == ALL
    assert cast.hosts.left_out == ()
    assert {len(node.asked) for node in cast.nodes.values()} == {1}
    cast.hosts.survey()
    assert {len(node.asked) for node in cast.nodes.values()} == {1}, "who is known is not asked again"
    cast.hosts.survey(anew=True)
    assert {len(node.asked) for node in cast.nodes.values()} == {2}


def says(**changes):
    def arrange(cast, node):
        node.hello = changes

    return arrange


def signed_by_another(cast, node):
    node.identities = {**cast.identities, "silo-1": cast.identities["silo-2"]}
    node.hello = {"party": "silo-1"}


def claims_another(cast, node):
    """A node of silo-1 that says that it is the host of silo-2 too, with its own key."""

    def tampers(kind, answers):
        own = decode(HelloAnswer, answers[0].body)
        other = replace(own, party="silo-2").signed(cast.identities["silo-1"])
        return (*answers, replace(answers[0], party="silo-2", body=encode(other)))

    node.tampers = tampers


def unknown_party(cast, node):
    node.identities = {**cast.identities, "silo-1": identity_of("silo-9", Role.CLIENT)}
    node.hello = {"party": "silo-9"}


def speaks_for_another(cast, node):
    node.tampers = lambda _, answers: (replace(answers[0], party="silo-2"),)


def replays(cast, node):
    kept = []

    def tampers(kind, answers):
        kept.append(answers)
        return kept[0]

    node.tampers = tampers
    cast.hosts.survey()
    assert "silo-1" in cast.hosts.present


CASES = {
    "another version": (says(software="0.0.9"), "it runs secure_fu 0.0.9 with protocol secure-fu/1; this server runs"),
    "another protocol": (says(protocol="secure-fu/2"), "with protocol secure-fu/2"),
    "another roster": (says(roster_digest=bytes(32)), "it has the roster 0000"),
    "another policy": (says(policy_digest=bytes(32)), "it has the policy 0000"),
    "no parameter sets": (says(parameter_sets=()), "it has not the parameter sets kahe-"),
    "signed by another": (signed_by_another, "the signature of 'silo-1' for 'hello' does not verify"),
    "unknown party": (unknown_party, "'silo-9' is not in the roster"),
    "an answer of before": (replays, "for another greeting"),
    "in another's name": (speaks_for_another, "for another greeting or another party"),
    "garbage": (lambda _, node: setattr(node, "tampers", lambda *_: b"garbage"), "none of protocol secure-fu/1"),
    "nobody": (lambda _, node: setattr(node, "tampers", lambda *_: ()), "it hosts no party"),
    "refused": (
        lambda _, node: setattr(
            node, "tampers", lambda *_: (PartyAnswer(party="silo-1", outcome=Outcome.REFUSED, body=b""),)
        ),
        "answers a greeting with 'refused'",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_who_is_not_what_it_should_be_is_named_and_left_out(cast, case, caplog):
    arrange, reason = CASES[case]
    arrange(cast, cast.at("silo-1"))
    with caplog.at_level(logging.WARNING, logger="secure_fu"):
        cast.hosts.survey(anew=True)
        assert cast.hosts.present == ALL - {"silo-1"}
        (left,) = cast.hosts.left_out
        assert (left.node, reason in left.reason) == ("node-of-silo-1", True), left
        assert caplog.text.count("left out: node node-of-silo-1") == 1
        cast.hosts.survey(anew=True)
    assert list(cast.hosts.ask(Kind.BEGIN, ("silo-1",), b"", timeout=9.0)) == []
    assert set(cast.at("silo-1").asked) == {Kind.HELLO}


def test_a_claim_to_be_another_costs_only_the_claim(cast):
    claims_another(cast, cast.at("silo-1"))
    cast.hosts.survey()
    assert cast.hosts.present == ALL
    (left,) = cast.hosts.left_out
    assert (left.node, left.party) == ("node-of-silo-1", "silo-2")


def test_a_party_with_two_nodes_is_asked_at_neither(cast):
    cast.nodes["copy"] = cast.node({"silo-1": cast.machine("silo-1")})
    cast.hosts.survey()
    assert cast.hosts.present == ALL - {"silo-1"}
    assert {left.node for left in cast.hosts.left_out} == {"copy", "node-of-silo-1"}
    del cast.nodes["copy"]
    cast.hosts.survey()
    assert cast.hosts.present == ALL
    assert cast.hosts.left_out == ()


def test_what_was_wrong_is_forgotten_when_it_is_put_right(cast):
    cast.at("silo-1").hello = {"software": "0.0.9"}
    cast.hosts.survey()
    assert cast.hosts.left_out
    cast.at("silo-1").hello = {}
    cast.hosts.survey()
    assert cast.hosts.present == ALL
    assert cast.hosts.left_out == ()


def test_a_round_that_cannot_be_says_who_is_away_and_why(cast):
    for name in CLIENTS[:2]:
        cast.at(name).hello = {"software": "0.0.9"}
    cast.hosts.survey()
    with pytest.raises(
        PartiesAway, match=r"2 clients can be reached, and a round needs 3; away: silo-0, silo-1; .*0\.9"
    ):
        cast.hosts.require(clients=CLIENTS)


def test_a_node_that_falls_silent_is_not_asked_before_it_is_greeted(cast):
    cast.hosts.survey()
    node = cast.at("silo-1")
    node.dies_at = lambda kind: kind is Kind.BEGIN
    assert list(cast.hosts.ask(Kind.BEGIN, ("silo-1",), b"", timeout=9.0)) == []
    assert "silo-1" not in cast.hosts.present
    assert list(cast.hosts.ask(Kind.INVITE, ("silo-1",), b"", timeout=9.0)) == []
    assert Kind.INVITE not in node.asked
    cast.hosts.survey()
    assert "silo-1" in cast.hosts.present


def test_an_exchange_may_look_requests_up_in_threads(cast):
    """Each body is made while no other is: what makes them need not be safe for threads."""

    class Threads(InProcessExchange):
        def ask(self, requests, *, timeout):
            found = {}
            threads = [
                threading.Thread(target=lambda address=address: found.setdefault(address, requests[address]))
                for address in requests
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            yield from super().ask(found, timeout=timeout)

    inside = threading.Lock()

    def body(party):
        assert inside.acquire(blocking=False)
        inside.release()
        return party.encode()

    hosts = Hosts(Threads(cast.nodes), roster=cast.roster, policy=cast.policy)
    hosts.survey()
    answers = list(hosts.ask(Kind.BEGIN, CLIENTS, body, timeout=9.0))
    assert sorted(answer.party for answer in answers) == sorted(CLIENTS)


def test_the_server_is_no_party_of_a_node(cast):
    cast.nodes["mine"] = cast.node({SERVER: None})
    cast.hosts.survey()
    assert SERVER not in cast.hosts.present
    assert "which no node may have" in str(cast.hosts.left_out)
