"""The ledger's filter: what it admits, what it refuses, and which budgets make sense."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from ledger_cast import BUDGET, DELTA, SILOS, event, train

from secure_fu.errors import ArgumentError, BudgetExceededError
from secure_fu.privacy.accounting import ORDERS, order_for_events, rdp, renyi_limit
from secure_fu.privacy.calibration import calibrate_noise
from secure_fu.privacy.epsilon import Phase, Subject
from secure_fu.privacy.ledger import PrivacyLedger


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
