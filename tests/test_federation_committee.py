"""Federations under scheme `kahe`: a committee, of which some are away, what stays on disk, what clients remember."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from small_federations import REQUESTS, federation, plan_for, silos

from secure_fu.crypto import CommitteeTerms, InsecureDeterministicRandomness, Role, Roster
from secure_fu.errors import ArgumentError, CohortTooSmall, RoundAborted, SecureFUError, TranscriptError
from secure_fu.federation import DEFAULT_COMMITTEE
from secure_fu.learning import mlp
from secure_fu.privacy import EventStatus, GaussianSumEvent, Phase, Unit, renyi_epsilon
from secure_fu.privacy.accounting import ORDERS, rdp
from secure_fu.protocol import ClientRecord, GridKind, RoundTerms, read_policy, verify_transcript
from secure_fu.unlearning import Correction, FineTune, Heuristic, Outcome, PlannedRounds, Retrain, UnlearningMethod

MEMBERS = [f"member-{number}" for number in range(10)]
ONE = CommitteeTerms(members=1, threshold=1, quorum=1, corrupt=0)
FOUR = CommitteeTerms(members=4, threshold=2, quorum=3, corrupt=1)
# Fewer answers than votes, so that the two ways of being away can be told apart.
FEWER_ANSWERS = CommitteeTerms(members=10, threshold=5, quorum=7, corrupt=3)


class Away:
    """Says who is away: each member is asked before it votes and, in the same round, before it answers."""

    def __init__(self, *, voting=(), answering=()):
        self._away = (set(voting), set(answering))
        self.asked = Counter()

    def __call__(self, number, member):
        self.asked[number, member] += 1
        return member in self._away[self.asked[number, member] - 1]


def trained(scheme_name, *, seed=11, **arguments):
    """The vector after training with randomness from a seed, in which schemes differ by nothing but the encryption."""
    randomness = InsecureDeterministicRandomness(seed)
    with federation(scheme_name=scheme_name, randomness=randomness, **arguments) as federated:
        return federated.train().model.vector


# A committee


@pytest.mark.parametrize("unit", [Unit.RECORD, Unit.CLIENT])
def test_the_sum_that_a_committee_opens_is_the_plain_sum(unit):
    plain = trained("plain", unit=unit)
    np.testing.assert_array_equal(trained("kahe", unit=unit), plain)
    assert not np.array_equal(trained("plain", unit=unit, seed=12), plain)


@pytest.mark.parametrize(
    ("committee", "away"),
    [
        (DEFAULT_COMMITTEE, lambda _round, member: member in MEMBERS[7:]),
        (DEFAULT_COMMITTEE, lambda number, member: member in MEMBERS[number : number + 3]),
        (DEFAULT_COMMITTEE, Away(answering=MEMBERS[2:5])),
        (FEWER_ANSWERS, Away(voting=MEMBERS[:3], answering=MEMBERS[:5])),
        (CommitteeTerms(members=1, threshold=1, quorum=1, corrupt=0), Away()),
        (
            CommitteeTerms(members=4, threshold=2, quorum=3, corrupt=1),
            Away(voting=["member-0"], answering=["member-3"]),
        ),
    ],
)
def test_with_as_many_members_away_as_may_be_the_sum_is_the_same(committee, away):
    absent = {(1, "silo-3")}
    others = {"vanishes": lambda number, name: (number, name) in absent, "committee": committee}
    np.testing.assert_array_equal(trained("kahe", member_vanishes=away, **others), trained("plain", **others))


@pytest.mark.parametrize(
    ("committee", "away", "message"),
    [
        (DEFAULT_COMMITTEE, Away(voting=MEMBERS[:4]), "6 members voted; a quorum is 7"),
        (DEFAULT_COMMITTEE, Away(answering=MEMBERS[:4]), "6 members answered; 7 are needed"),
        (DEFAULT_COMMITTEE, Away(voting=MEMBERS), "0 members voted"),
        # Who did not vote may not answer.
        (DEFAULT_COMMITTEE, Away(voting=MEMBERS[:3], answering=MEMBERS[3:4]), "6 members answered; 7 are needed"),
        (FEWER_ANSWERS, Away(answering=MEMBERS[:6]), "4 members answered; 5 are needed"),
    ],
)
def test_with_one_more_away_the_round_is_charged_and_releases_nothing(tmp_path, committee, away, message):
    with federation(scheme_name="kahe", directory=tmp_path, committee=committee, member_vanishes=away) as federated:
        with pytest.raises(RoundAborted, match=message) as caught:
            federated.train()
        assert not isinstance(caught.value, CohortTooSmall)
        (event,) = federated.ledger.events("original")
        assert event.status is EventStatus.COMMITTED
        assert event.participants == federated.clients
        assert federated.training_traffic == ()
        assert federated.checkpoints.rounds == (0,)
    assert not (tmp_path / "transcript.jsonl").exists()
    assert rounds_answered(tmp_path / "clients" / "original.sqlite") == dict.fromkeys(silos(), 1)


def test_a_lost_round_does_not_end_the_federation():
    plan = plan_for(mlp(5, (), 3, 0), noise_multiplier=50.0)
    with federation(
        plan=plan,
        scheme_name="kahe",
        member_vanishes=lambda number, member: number == 1 and member in MEMBERS[:4],
    ) as federated:
        with pytest.raises(RoundAborted, match="round 1"):
            federated.train()
        assert federated.state.rounds == 1
        assert federated.train().rounds == 2
        assert federated.ledger.rounds("original") == (0, 1, 2)
        assert [traffic.round_number for traffic in federated.training_traffic] == [0, 2]


def test_traffic_says_what_was_encrypted_and_how():
    with federation(scheme_name="kahe") as federated:
        assert federated.parameter_set == "chosen by the first round"
        federated.train()
        traffic = federated.training_traffic[-1]
        assert traffic.parameter_set == federated.parameter_set
        assert traffic.parameter_set in federated.policy.parameter_sets
        assert 8 <= traffic.digit_bits <= 62
        assert traffic.uploads == 4
    for scheme_name in ("bfv", "plain"):
        with federation(scheme_name=scheme_name) as federated:
            federated.train()
            assert {entry.digit_bits for entry in federated.training_traffic} == {0}
            assert {federated.parameter_set} == federated.policy.parameter_sets


# Names


@pytest.mark.parametrize(
    ("scheme_name", "name"),
    [("kahe", "server"), ("kahe", "member-0"), ("kahe", "member-9"), ("bfv", "server"), ("bfv", "key-holder")],
)
def test_a_client_with_the_name_of_another_party_is_refused(tmp_path, scheme_name, name):
    with pytest.raises(ArgumentError, match=name) as caught:
        federation(clients={**silos(3), name: silos(1)["silo-0"]}, scheme_name=scheme_name, directory=tmp_path)
    assert caught.value.argument == "clients"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("scheme_name", "name"), [("kahe", "key-holder"), ("kahe", "member-10"), ("bfv", "member-0"), ("plain", "member-0")]
)
def test_names_that_nobody_else_has_are_free(scheme_name, name):
    with federation(clients={**silos(3), name: silos(1)["silo-0"]}, scheme_name=scheme_name) as federated:
        assert name in federated.clients


def test_members_have_names_of_one_length_so_that_they_sort_by_number():
    terms = CommitteeTerms(members=11, threshold=8, quorum=8, corrupt=3)
    with federation(scheme_name="kahe", committee=terms) as federated:
        assert federated.policy.committee == tuple(f"member-{number:02}" for number in range(11))
        assert federated.roster.names(Role.MEMBER) == federated.policy.committee
        assert federated.policy.terms == terms


# What stays on disk

RECORDS = {"kahe": "committee.sqlite", "bfv": "key_holder.sqlite", "plain": "key_holder.sqlite"}


@pytest.mark.parametrize("scheme_name", RECORDS)
def test_whoever_has_roster_and_policy_can_check_a_finished_run(tmp_path, scheme_name):
    with federation(scheme_name=scheme_name, directory=tmp_path) as federated:
        federated.train()
        federated.unlearn(REQUESTS[Unit.RECORD], FineTune(length=1), adaptive=False)
        federated.unlearn(REQUESTS[Unit.RECORD], Correction(length=2), adaptive=False)
        policy, roster = federated.policy, federated.roster
    assert {
        str(path.relative_to(tmp_path))
        for path in tmp_path.rglob("*")
        if path.is_file() and path.relative_to(tmp_path).parts[0] != "checkpoints"
    } == {
        *("ledger.sqlite", "roster.bin", "policy.toml", "transcript.jsonl", RECORDS[scheme_name]),
        *(f"clients/{name}.sqlite" for name in ("original", "unlearn-finetune", "unlearn-correction")),
    }
    assert read_policy(tmp_path / "policy.toml") == policy
    pinned = Roster.decode((tmp_path / "roster.bin").read_bytes())
    assert pinned.digest == roster.digest
    branches = verify_transcript(tmp_path / "transcript.jsonl", roster=pinned, policy=policy)
    assert [(branch.name, len(branch.releases)) for branch in branches] == [
        ("original", 2),
        ("unlearn/finetune", 1),
        ("unlearn/correction", 2),
    ]
    assert [release.round_number for branch in branches for release in branch.releases] == [0, 1, 2, 2, 3]
    assert {release.participants for branch in branches for release in branch.releases} == {tuple(silos())}
    expected = "key-holder key-holder" if scheme_name != "kahe" else "committee of 10, quorum 7, at most 3 corrupt"
    assert {branch.openers for branch in branches} == {expected}


def test_a_transcript_of_a_run_does_not_pass_for_anothers(tmp_path):
    rosters = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        with federation(scheme_name="kahe", directory=tmp_path / name) as federated:
            federated.train()
            rosters.append(federated.roster)
    transcript = tmp_path / "one" / "transcript.jsonl"
    assert len(verify_transcript(transcript, roster=rosters[0])) == 1
    with pytest.raises(TranscriptError, match="line 1"):
        verify_transcript(transcript, roster=rosters[1])
    with pytest.raises(TranscriptError, match="line 1"):
        verify_transcript(transcript, roster=rosters[0], policy=read_policy(tmp_path / "other" / "policy.toml"))
    first, second = transcript.read_text().splitlines()
    transcript.write_text(second + "\n")
    with pytest.raises(TranscriptError, match="line 1: it follows no earlier line"):
        verify_transcript(transcript, roster=rosters[0])
    transcript.write_text(first.replace('"silo-0", ', "", 1) + "\n")
    with pytest.raises(TranscriptError, match="line 1"):
        verify_transcript(transcript, roster=rosters[0])


def test_a_directory_in_use_is_refused_and_left_as_it_was(tmp_path):
    with federation(scheme_name="kahe", directory=tmp_path) as federated:
        federated.train()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(SecureFUError, match="exists"):
        federation(scheme_name="kahe", directory=tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_without_a_directory_nothing_is_left():
    with federation(scheme_name="kahe") as federated:
        directory = Path(federated._scratch.name)
        federated.train()
        assert (directory / "committee.sqlite").is_file()
    assert not directory.exists()


# What clients remember


def rounds_answered(path):
    record = ClientRecord(path)
    try:
        return {name: record.rounds(name) for name in silos()}
    finally:
        record.close()


def charged(path):
    """What each client has written down, as events with their numbers; read without the code that wrote it."""
    found = {name: Counter() for name in silos()}
    with sqlite3.connect(path) as database:
        for client, charge in database.execute("SELECT client, charge FROM round"):
            found[client][GaussianSumEvent(**json.loads(charge))] += 1
    database.close()
    return found


def test_each_branch_goes_on_from_what_clients_remembered_of_training(tmp_path):
    with federation(scheme_name="kahe", directory=tmp_path) as federated:
        federated.train()
        for method in (FineTune(length=1), Retrain(), Retrain()):
            federated.unlearn(REQUESTS[Unit.RECORD], method, adaptive=False)
    answered = {path.stem: rounds_answered(path) for path in (tmp_path / "clients").iterdir()}
    assert answered == {
        "original": dict.fromkeys(silos(), 2),
        "unlearn-finetune": dict.fromkeys(silos(), 3),
        "unlearn-retrain": dict.fromkeys(silos(), 4),
        "unlearn-retrain#2": dict.fromkeys(silos(), 4),
    }


def test_a_client_that_was_away_has_not_paid(tmp_path):
    with federation(
        scheme_name="kahe", directory=tmp_path, vanishes=lambda number, name: (number, name) == (0, "silo-2")
    ) as federated:
        federated.train()
    assert rounds_answered(tmp_path / "clients" / "original.sqlite") == {**dict.fromkeys(silos(), 2), "silo-2": 1}


@pytest.mark.parametrize("unit", [Unit.RECORD, Unit.CLIENT])
def test_what_clients_have_written_down_stays_within_their_budget(tmp_path, unit):
    with federation(unit, scheme_name="kahe", rounds=4, directory=tmp_path) as federated:
        federated.train()
        federated.unlearn(REQUESTS[unit], Retrain(), adaptive=False)
        budget = federated.budget
    for branch, rounds in (("original", 4), ("unlearn-retrain", 8)):
        for events in charged(tmp_path / "clients" / f"{branch}.sqlite").values():
            assert sum(events.values()) == rounds
            assert 0.0 < renyi_epsilon(events, delta=budget.delta) <= budget.epsilon


def test_rounds_that_never_close_cost_clients_until_they_refuse(tmp_path, caplog):
    """The server's ledger lets a void round go for nothing; a client has no way of knowing, and pays."""
    answering = {"silo-0", "silo-1"}
    with federation(
        scheme_name="kahe", directory=tmp_path, rounds=6, vanishes=lambda _round, name: name not in answering
    ) as federated:
        sums = federated.training_sums()
        request = federated.recipe.request(
            purpose="train", phase=Phase.TRAINING, model=federated.state.model, forgotten_rate=0.5
        )
        while "the client's own ledger refuses" not in caplog.text:
            assert sums.next_round < 100
            with pytest.raises(CohortTooSmall):
                sums.secure_sum(request)
        assert {event.status for event in federated.ledger.events()} == {EventStatus.VOID}
        budget = federated.budget
    found = charged(tmp_path / "clients" / "original.sqlite")
    assert {name for name, events in found.items() if events} == answering
    for name in answering:
        ((event, rounds),) = found[name].items()
        one = rdp(event)[ORDERS.index(budget.order)]
        limit = budget.limit(Phase.TRAINING)
        assert rounds * one <= limit < (rounds + 1) * one, "as many rounds as fit, and none more"
        assert rounds >= 6


# The rotated grid


class KnownVectors:
    """A client's code that gives a vector known to the test."""

    def __init__(self, vector):
        self._vector = vector

    def contribution(self, model, terms: RoundTerms, stream):
        return self._vector


@dataclass(frozen=True)
class Ask(UnlearningMethod):
    """What the method says beforehand."""

    name: ClassVar[str] = "ask"
    title: ClassVar[str] = "Ask"

    def plan(self, deletion):
        return (PlannedRounds.of(deletion, 1, forgotten_rate=1.0),)

    def start_state(self, deletion):
        return deletion.original

    def guarantee(self, deletion):
        return Heuristic("none")


def asking(vectors, released):
    """A method of one round over vectors that the test knows; what was released is added to a list."""

    @dataclass(frozen=True)
    class Told(Ask):
        def client_tasks(self, silo):
            return {self.purpose: KnownVectors(vectors[silo.name])}

        def run(self, sums, deletion, on_round=None):
            request = deletion.recipe.request(
                purpose=self.purpose, phase=Phase.UNLEARNING, model=deletion.original.model, forgotten_rate=1.0
            )
            released.append(sums.secure_sum(request))
            return Outcome(state=deletion.original, guarantee=self.guarantee(deletion))

    return Told()


@pytest.mark.parametrize("sum_bits", [16, 20])
def test_on_the_rotated_grid_the_release_is_the_sum_plus_the_noise_that_is_accounted(sum_bits):
    module = mlp(5, (200,), 3, 0)
    plan = plan_for(module, Unit.CLIENT, rounds=1, grid=GridKind.ROTATED, sum_bits=sum_bits)
    draw = np.random.default_rng(0)
    size = sum(parameter.numel() for parameter in module.parameters())
    vectors = {name: draw.normal(size=size) for name in silos()}
    vectors = {name: vector / np.linalg.norm(vector) for name, vector in vectors.items()}
    released = []
    ask = asking(vectors, released)
    with federation(
        Unit.CLIENT,
        plan=plan,
        scheme_name="kahe",
        methods=[ask],
        member_vanishes=lambda _round, member: member in MEMBERS[:3],
        module=module,
    ) as federated:
        federated.train()
        assert {entry.digit_bits for entry in federated.training_traffic} == {sum_bits}
        federated.unlearn(REQUESTS[Unit.CLIENT], ask, adaptive=False)
        (event,) = {charge for event in federated.ledger.events() for charge in event.charges.values() if charge}
    apart = released[0].values - sum(vectors.values())
    # Four uploads, of which two clients' noise is counted on: twice the variance. Rounding adds a little.
    assured = plan.recipe.noise_multiplier**2 * plan.recipe.clip_norm**2
    assert event.dimension == size
    ratio = float(np.mean(apart**2)) / (2.0 * assured)
    assert 1.0 - 6.0 * np.sqrt(2.0 / size) < ratio < 1.21 * (1.0 + 6.0 * np.sqrt(2.0 / size))


@pytest.mark.parametrize("scheme_name", ["bfv", "plain"])
def test_the_rotated_grid_is_for_the_committee_only(tmp_path, scheme_name):
    plan = plan_for(mlp(5, (), 3, 0), Unit.CLIENT, grid=GridKind.ROTATED)
    with pytest.raises(ArgumentError, match=f"plan.grid is 'rotated'; expected 'fine', with scheme {scheme_name}"):
        federation(Unit.CLIENT, plan=plan, scheme_name=scheme_name, directory=tmp_path)
    assert list(tmp_path.iterdir()) == []
