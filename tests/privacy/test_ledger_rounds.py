"""The life of a round in the ledger: reserved, then committed or void; what is refused; how long it takes."""

from __future__ import annotations

import dataclasses
import time

import pytest
from ledger_cast import ALIKE, BUDGET, SILOS, event, train

from secure_fu.errors import ArgumentError, LedgerError, ReuseError
from secure_fu.privacy.epsilon import Phase, Subject
from secure_fu.privacy.ledger import EventStatus, PrivacyLedger, Reservation
from secure_fu.privacy.units import Unit


def test_a_reservation_counts_for_the_whole_cohort_until_settled(ledger):
    def rounds_of(client):
        return ledger.event_counts("original", client, Subject.RETAINED, Phase.BOTH).total()

    first = ledger.reserve(
        "original", round_number=0, purpose="train", phase=Phase.TRAINING, charges=ALIKE, cohort=SILOS
    )
    assert ledger.pending() == (first,)
    assert [rounds_of(client) for client in SILOS] == [1] * 10
    ledger.commit(first, SILOS[:7])
    assert [rounds_of(client) for client in SILOS] == [1] * 7 + [0] * 3
    assert ledger.pending() == ()
    assert ledger.participants("original", 0) == SILOS[:7]
    second = ledger.reserve(
        "original", round_number=4, purpose="train", phase=Phase.TRAINING, charges=ALIKE, cohort=SILOS[::-1]
    )
    assert second.cohort == SILOS
    ledger.void(second, reason="no opening key was made")
    assert [rounds_of(client) for client in SILOS] == [1] * 7 + [0] * 3
    assert [row.status for row in ledger.events()] == [EventStatus.COMMITTED, EventStatus.VOID]
    assert next(row for row in ledger.events() if row.round_number == 4).void_reason == "no opening key was made"
    assert ledger.rounds("original") == (0,)
    with pytest.raises(ArgumentError, match="round_number"):
        ledger.participants("original", 4)


def test_reservations_are_settled_once_and_belong_to_their_ledger(ledger):
    done = ledger.reserve("original", round_number=0, purpose="p", phase=Phase.TRAINING, charges=ALIKE, cohort=SILOS)
    ledger.commit(done, SILOS)
    for settle in (lambda r: ledger.commit(r, SILOS), lambda r: ledger.void(r, reason="x")):
        with pytest.raises(ReuseError, match="already settled"):
            settle(done)
    alien = Reservation(event_id=99, branch="original", round_number=7, cohort=SILOS)
    with pytest.raises(LedgerError, match="round 7"):
        ledger.commit(alien, SILOS)
    pending = ledger.reserve("original", round_number=1, purpose="p", phase=Phase.TRAINING, charges=ALIKE, cohort=SILOS)
    with pytest.raises(LedgerError, match="round 1"):
        ledger.commit(dataclasses.replace(pending, cohort=SILOS[:1]), SILOS[:1])
    ledger.commit(pending, SILOS)


def test_round_numbers_strictly_increase_within_a_branch(ledger):
    train(ledger, [5])
    for number in (5, 4, 0):
        with pytest.raises(LedgerError, match=f"round {number} .* last was 5"):
            train(ledger, [number])
    voided = ledger.reserve("original", round_number=6, purpose="p", phase=Phase.TRAINING, charges=ALIKE, cohort=SILOS)
    ledger.void(voided, reason="unopened")
    with pytest.raises(LedgerError, match="out of order"):
        train(ledger, [6])
    ledger.branch("other")
    train(ledger, [0], branch="other")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"branch": "nowhere"}, "branch"),
        ({"round_number": -1}, "round_number"),
        ({"round_number": True}, "round_number"),
        ({"purpose": ""}, "purpose"),
        ({"phase": Phase.BOTH}, "phase"),
        ({"charges": {Subject.RETAINED: event()}}, "charges"),
        ({"cohort": ()}, "cohort"),
        ({"cohort": ("a", "a")}, "cohort"),
        ({"cohort": "silo"}, "cohort"),
        ({"cohort": ("a", "")}, "cohort"),
    ],
)
def test_bad_reservations_are_named_and_leave_no_trace(ledger, changes, named):
    arguments = {
        "branch": "original",
        "round_number": 0,
        "purpose": "train",
        "phase": Phase.TRAINING,
        "charges": ALIKE,
        "cohort": SILOS,
    } | changes
    with pytest.raises(ArgumentError, match=named):
        ledger.reserve(arguments.pop("branch"), **arguments)
    assert list(ledger.events()) == []


def test_bad_settlements_and_questions_are_named(ledger):
    pending = ledger.reserve(
        "original", round_number=0, purpose="p", phase=Phase.TRAINING, charges=ALIKE, cohort=SILOS[:3]
    )
    with pytest.raises(ArgumentError, match="participants"):
        ledger.commit(pending, [])
    with pytest.raises(ArgumentError, match="silo-07"):
        ledger.commit(pending, ["silo-00", "silo-07"])
    with pytest.raises(ArgumentError, match="reason"):
        ledger.void(pending, reason="  ")
    assert ledger.pending() == (pending,)
    with pytest.raises(ArgumentError, match="client"):
        ledger.epsilon("original", "silo-07", Subject.RETAINED, Phase.BOTH)
    with pytest.raises(ArgumentError, match="branch"):
        ledger.epsilon("nowhere", "silo-00", Subject.RETAINED, Phase.BOTH)
    with pytest.raises(ArgumentError, match="delta"):
        ledger.epsilon("original", "silo-00", Subject.RETAINED, Phase.BOTH, delta=0.0)
    with pytest.raises(ArgumentError, match="group_size"):
        ledger.epsilon("original", "silo-00", Subject.RETAINED, Phase.BOTH, group_size=0)
    with pytest.raises(ArgumentError, match="branch"):
        ledger.events("nowhere")


def test_the_client_unit_is_never_amplified(path):
    with PrivacyLedger.create(path, budget=dataclasses.replace(BUDGET, unit=Unit.CLIENT)) as ledger:
        ledger.branch("b")
        with pytest.raises(ArgumentError, match="sampling_rate"):
            train(ledger, [0], branch="b")
        train(ledger, [0], branch="b", charges=dict.fromkeys(Subject, event(8.0, 1.0)))


def test_a_thousand_clients_are_fast(ledger):
    cohort = [f"device-{i:04d}" for i in range(1000)]
    train(ledger, range(3), cohort=cohort, participants=cohort[:900])
    reserving, committing = [], []
    for number in range(3, 13):
        start = time.process_time()
        reservation = ledger.reserve(
            "original", round_number=number, purpose="train", phase=Phase.TRAINING, charges=ALIKE, cohort=cohort
        )
        middle = time.process_time()
        ledger.commit(reservation, cohort[: 900 + number])
        reserving.append(middle - start)
        committing.append(time.process_time() - middle)
    assert sorted(reserving)[5] < 0.020
    assert sorted(committing)[5] < 0.020


def test_three_hundred_rounds_are_fast(path):
    with PrivacyLedger.create(path, budget=dataclasses.replace(BUDGET, deletion_reserve=0.0)) as ledger:
        ledger.branch("original")
        charges = dict.fromkeys(Subject, event(3.2))
        start = time.process_time()
        train(ledger, range(300), charges=charges)
        assert time.process_time() - start < 3.0
