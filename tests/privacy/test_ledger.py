from __future__ import annotations

import dataclasses
import math
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.rdp import RdpAccountant

from secure_fu.errors import ArgumentError, BudgetExceededError, LedgerError, ReuseError
from secure_fu.privacy.accounting import ORDERS, GaussianSumEvent, order_for_events, rdp, renyi_epsilon, renyi_limit
from secure_fu.privacy.budget import Budget
from secure_fu.privacy.calibration import calibrate_noise
from secure_fu.privacy.epsilon import Phase, Subject
from secure_fu.privacy.ledger import EventStatus, PrivacyLedger, Reservation
from secure_fu.privacy.units import Unit

DELTA = 1e-5
SILOS = tuple(f"silo-{i:02d}" for i in range(10))


def event(noise_multiplier: float = 2.43, sampling_rate: float = 0.25) -> GaussianSumEvent:
    return GaussianSumEvent(
        noise_multiplier=noise_multiplier,
        sampling_rate=sampling_rate,
        grid_ratio=noise_multiplier * 4911,
        dimension=2410,
        shares=8,
    )


BUDGET = Budget(epsilon=8.0, delta=DELTA, order=4.0, deletion_reserve=0.5, unit=Unit.RECORD)
ALIKE = {Subject.RETAINED: event(), Subject.FORGOTTEN: event()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path):
    with PrivacyLedger.create(path, budget=BUDGET) as made:
        made.branch("original")
        yield made


def train(ledger, rounds, *, branch="original", phase=Phase.TRAINING, charges=ALIKE, cohort=SILOS, participants=None):
    """Reserve and commit rounds."""
    for number in rounds:
        reservation = ledger.reserve(
            branch, round_number=number, purpose="train", phase=phase, charges=charges, cohort=cohort
        )
        ledger.commit(reservation, cohort if participants is None else participants)


def independent_epsilon(rounds_of: Counter) -> float:
    """Dp-accounting used directly, at integer orders, on (noise multiplier, sampling rate) pairs."""
    accountant = RdpAccountant([order for order in ORDERS if order.is_integer()])
    for (z, q), rounds in rounds_of.items():
        accountant.compose(PoissonSampledDpEvent(q, GaussianDpEvent(z)), rounds)
    return accountant.get_epsilon(DELTA)


# What is charged


def test_epsilon_is_that_of_dp_accounting_for_the_rounds_taken_part_in(ledger):
    train(ledger, range(50), participants=SILOS[:9])
    train(ledger, range(50, 90))
    for client, rounds in (("silo-00", 90), ("silo-09", 40)):
        spent = ledger.epsilon("original", client, Subject.RETAINED, Phase.TRAINING)
        exact = independent_epsilon(Counter({(2.43, 0.25): rounds}))
        # The ledger's fractional orders can only make it a little smaller.
        assert 0.995 * exact < spent <= exact * (1 + 1e-9)
        assert spent == renyi_epsilon({event(): rounds}, delta=DELTA)
        assert ledger.event_counts("original", client, Subject.FORGOTTEN, Phase.BOTH) == {event(): rounds}


def test_every_field_of_a_charge_comes_back_from_the_file(ledger, path):
    charges = {
        Subject.RETAINED: GaussianSumEvent(
            noise_multiplier=2.0 / 3.0, sampling_rate=0.1, grid_ratio=1234.5678, dimension=77, shares=5
        ),
        Subject.FORGOTTEN: None,
    }
    train(ledger, [3], charges=charges, cohort=SILOS[:4], participants=SILOS[1:3])
    ledger.close()
    with PrivacyLedger.open(path, read_only=True) as opened:
        (row,) = opened.events()
        assert row.charges == charges
        assert (row.branch, row.round_number, row.purpose, row.phase) == ("original", 3, "train", Phase.TRAINING)
        assert (row.cohort, row.participants, row.status) == (SILOS[:4], SILOS[1:3], EventStatus.COMMITTED)
        assert row.charged == SILOS[1:3]
        assert opened.budget == BUDGET
        assert opened.branches == {"original": None}


def test_phases_and_subjects_are_kept_apart(ledger):
    train(ledger, range(50))
    unlearn = {Subject.RETAINED: event(), Subject.FORGOTTEN: event(4.0, 0.5)}
    train(ledger, range(50, 57), phase=Phase.UNLEARNING, charges=unlearn)
    train(ledger, range(57, 60), phase=Phase.UNLEARNING, charges={Subject.RETAINED: event(), Subject.FORGOTTEN: None})
    expected = {
        (Subject.FORGOTTEN, Phase.TRAINING): {event(): 50},
        (Subject.FORGOTTEN, Phase.UNLEARNING): {event(4.0, 0.5): 7},
        (Subject.FORGOTTEN, Phase.BOTH): {event(): 50, event(4.0, 0.5): 7},
        (Subject.RETAINED, Phase.TRAINING): {event(): 50},
        (Subject.RETAINED, Phase.UNLEARNING): {event(): 10},
        (Subject.RETAINED, Phase.BOTH): {event(): 60},
    }
    entries = ledger.epsilon_entries("original", forgotten=["silo-09"], retained=SILOS[:9])
    assert [(entry.subject, entry.phase) for entry in entries] == list(expected)
    for entry in entries:
        assert entry.value == renyi_epsilon(expected[entry.subject, entry.phase], delta=DELTA)
        assert (entry.delta, entry.group_size) == (DELTA, 1)


def test_entries_take_the_largest_client_and_any_group_size(ledger):
    train(ledger, range(20), participants=SILOS[:5])
    train(ledger, range(20, 30), participants=SILOS[3:8])
    one, many = (ledger.epsilon_entries("original", retained=SILOS, group_size=size)[-1].value for size in (1, 2))
    assert one == renyi_epsilon({event(): 30}, delta=DELTA)
    assert many == renyi_epsilon({event(): 30}, delta=DELTA, group_size=2)
    assert ledger.epsilon("original", "silo-09", Subject.RETAINED, Phase.BOTH) == 0.0
    tighter = ledger.epsilon_entries("original", forgotten=SILOS[:1], delta=1e-7)[0]
    assert (tighter.delta, tighter.value) == (1e-7, renyi_epsilon({event(): 20}, delta=1e-7))
    vacuous = ledger.epsilon_entries("original", forgotten=SILOS, group_size=10_000)
    assert [entry.value for entry in vacuous] == [None, 0.0, None]


def test_who_joins_late_has_more_left(path):
    # The order fixes how many rounds the budget admits; whoever joins at round 60 may stay 60 rounds longer.
    budget = dataclasses.replace(BUDGET, deletion_reserve=0.0)
    admitted = math.floor(budget.limit(Phase.TRAINING) / rdp(event())[ORDERS.index(4.0)])
    with PrivacyLedger.create(path, budget=budget) as ledger:
        ledger.branch("original")
        train(ledger, range(60), cohort=SILOS[:9])
        train(ledger, range(60, admitted), cohort=SILOS)
        with pytest.raises(BudgetExceededError, match="silo-00"):
            train(ledger, [admitted], cohort=SILOS)
        train(ledger, range(admitted, admitted + 60), cohort=["silo-09"])
        with pytest.raises(BudgetExceededError, match="silo-09"):
            train(ledger, [admitted + 60], cohort=["silo-09"])


# The filter


def test_it_refuses_exactly_at_the_budget(path):
    spent = rdp(event())[ORDERS.index(4.0)]
    for rounds in (1, 7, 150):
        # A budget of exactly this many rounds at its order, found by bisection on epsilon.
        low, high = 0.1, 30.0
        while np.nextafter(low, high) < high:
            middle = (low + high) / 2
            fits = renyi_limit(epsilon=middle, delta=DELTA, order=4.0) >= rounds * spent
            low, high = (low, middle) if fits else (middle, high)
        for epsilon, admitted in ((high, rounds), (low, rounds - 1)):
            file = path.with_name(f"{rounds}-{admitted}.sqlite")
            budget = dataclasses.replace(BUDGET, epsilon=epsilon, deletion_reserve=0.0)
            with PrivacyLedger.create(file, budget=budget) as ledger:
                ledger.branch("b")
                train(ledger, range(admitted), branch="b", cohort=["a"])
                with pytest.raises(BudgetExceededError, match=f"round {admitted} of branch 'b' would take client 'a'"):
                    train(ledger, [admitted], branch="b", cohort=["a"])
                assert ledger.rounds("b") == tuple(range(admitted))


def test_a_calibrated_plan_fits_its_own_budget_and_a_smaller_noise_does_not(path):
    plan = calibrate_noise(
        epsilon=8.0, delta=DELTA, rounds={0.25: 200}, sensitivity_in_steps=4911.0, dimension=2410, shares=8
    )
    budget = dataclasses.replace(BUDGET, order=plan.order)
    for noise, outcome in ((plan.noise_multiplier, 200), (0.99 * plan.noise_multiplier, 196)):
        with PrivacyLedger.create(path.with_name(f"{noise}.sqlite"), budget=budget) as ledger:
            ledger.branch("original")
            ledger.branch("retrained", parent="original")
            charges = dict.fromkeys(Subject, event(noise))
            done = 0
            try:
                for branch, phase in (("original", Phase.TRAINING), ("retrained", Phase.UNLEARNING)):
                    for number in range(100):
                        train(ledger, [number], branch=branch, phase=phase, charges=charges, cohort=SILOS[:2])
                        done += 1
            except BudgetExceededError:
                pass
            assert done == 200 if outcome == 200 else done <= outcome
            assert order_for_events({event(plan.noise_multiplier): 200}, delta=DELTA) == plan.order


def test_nothing_is_written_when_the_budget_refuses(ledger, path):
    train(ledger, range(10))
    before = list(ledger.events())
    greedy = dict.fromkeys(Subject, event(0.5))
    with pytest.raises(BudgetExceededError) as caught:
        train(ledger, [10], charges=greedy)
    told = str(caught.value)
    assert "silo-00" in told
    assert "budget's 8 at delta 1e-05" in told
    assert "forgotten units" in told or "retained units" in told
    assert list(ledger.events()) == before
    assert ledger.pending() == ()
    assert ledger.event_counts("original", "silo-00", Subject.RETAINED, Phase.BOTH) == {event(): 10}
    # The number of the refused round is still free.
    train(ledger, [10])


def test_training_leaves_the_reserve_and_unlearning_may_use_all_of_it(ledger):
    spent = rdp(event())[ORDERS.index(4.0)]
    training = math.floor(BUDGET.limit(Phase.TRAINING) / spent)
    both = math.floor(BUDGET.limit(Phase.UNLEARNING) / spent)
    assert both >= 2 * training > 100
    train(ledger, range(training))
    with pytest.raises(BudgetExceededError, match="training, deletion_reserve kept, may go up to"):
        train(ledger, [training])
    train(ledger, range(training, both), phase=Phase.UNLEARNING)
    with pytest.raises(BudgetExceededError, match="all rounds together may go up to 8"):
        train(ledger, [both], phase=Phase.UNLEARNING)
    # A round that touches nobody is still allowed: everybody sends only noise.
    train(ledger, [both], phase=Phase.UNLEARNING, charges=dict.fromkeys(Subject))


def test_a_deletion_in_between_does_not_take_from_training(ledger):
    """What training leaves is for deletions; what they use of it does not end training early."""
    spent = rdp(event())[ORDERS.index(4.0)]
    training = math.floor(BUDGET.limit(Phase.TRAINING) / spent)
    both = math.floor(BUDGET.limit(Phase.UNLEARNING) / spent)
    train(ledger, range(training // 2))
    ledger.branch("deletion", parent="original")
    deletion = range(training // 2, training // 2 + both - training)
    train(ledger, deletion, branch="deletion", phase=Phase.UNLEARNING)
    rest = range(deletion.stop, deletion.stop + training - training // 2)
    train(ledger, rest, branch="deletion")
    for phase in (Phase.TRAINING, Phase.UNLEARNING):
        with pytest.raises(BudgetExceededError):
            train(ledger, [rest.stop], branch="deletion", phase=phase)


def test_either_subject_can_exhaust_the_budget(ledger):
    for subject in Subject:
        charges = {other: event(0.4, 1.0) if other is subject else None for other in Subject}
        with pytest.raises(BudgetExceededError, match=f"{subject.value} units"):
            train(ledger, [0], charges=charges)


def test_groups_are_charged_as_groups(path):
    with PrivacyLedger.create(path, budget=dataclasses.replace(BUDGET, group_size=2)) as ledger:
        ledger.branch("b")
        admitted = math.floor(ledger.budget.limit(Phase.TRAINING) / rdp(event(), 2)[ORDERS.index(4.0)])
        assert admitted < 50
        train(ledger, range(admitted), branch="b")
        with pytest.raises(BudgetExceededError, match="group size 2"):
            train(ledger, [admitted], branch="b")


def test_a_coarse_grid_is_refused_by_the_filter(ledger):
    coarse = dataclasses.replace(event(50.0), grid_ratio=5.0)
    with pytest.raises(BudgetExceededError, match="finer grid"):
        train(ledger, [0], charges=dict.fromkeys(Subject, coarse))


# Branches


def test_branches_inherit_and_do_not_mix(ledger):
    train(ledger, range(30))
    ledger.branch("retrained", parent="original")
    ledger.branch("scrub", parent="original")
    train(ledger, range(20), branch="retrained", phase=Phase.UNLEARNING)
    train(ledger, range(5), branch="scrub", phase=Phase.UNLEARNING)

    def counted(branch, phase):
        return ledger.event_counts(branch, "silo-03", Subject.RETAINED, phase).total()

    assert [counted("original", phase) for phase in Phase] == [30, 0, 30]
    assert [counted("retrained", phase) for phase in Phase] == [30, 20, 50]
    assert [counted("scrub", phase) for phase in Phase] == [30, 5, 35]
    assert ledger.rounds("scrub") == tuple(range(5))
    assert ledger.branches == {"original": None, "retrained": "original", "scrub": "original"}


def test_a_parent_cannot_push_its_children_over_the_budget(ledger):
    train(ledger, range(10))
    ledger.branch("child", parent="original")
    spent = rdp(event())[ORDERS.index(4.0)]
    both = math.floor(BUDGET.limit(Phase.UNLEARNING) / spent)
    train(ledger, range(both - 10), branch="child", phase=Phase.UNLEARNING)
    with pytest.raises(BudgetExceededError, match="branch 'child'"):
        train(ledger, [10])


def test_branch_names(ledger):
    with pytest.raises(LedgerError, match="exists"):
        ledger.branch("original")
    with pytest.raises(ArgumentError, match="parent"):
        ledger.branch("b", parent="nowhere")
    with pytest.raises(ArgumentError, match="name"):
        ledger.branch("")


# The life of a round


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


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epsilon", 0.0),
        ("delta", 1.0),
        ("order", 3.33),
        ("order", 1024.0 + 1),
        ("deletion_reserve", 1.0),
        ("deletion_reserve", -0.1),
        ("group_size", 0),
        ("unit", "record"),
    ],
)
def test_budgets_refuse_what_makes_no_sense(field, value):
    with pytest.raises(ArgumentError, match=field):
        dataclasses.replace(BUDGET, **{field: value})


def test_a_budget_refuses_an_order_that_admits_nothing():
    with pytest.raises(ArgumentError, match="order"):
        dataclasses.replace(BUDGET, epsilon=1.0, order=2.0)


# Speed


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
