"""What the ledger charges: by client, phase, subject and branch."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter

import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.rdp import RdpAccountant
from ledger_cast import BUDGET, DELTA, SILOS, event, train

from secure_fu.errors import ArgumentError, BudgetExceededError, LedgerError
from secure_fu.privacy.accounting import ORDERS, GaussianSumEvent, rdp, renyi_epsilon
from secure_fu.privacy.epsilon import Phase, Subject
from secure_fu.privacy.ledger import EventStatus, PrivacyLedger


def independent_epsilon(rounds_of: Counter) -> float:
    """Dp-accounting used directly, at integer orders, on (noise multiplier, sampling rate) pairs."""
    accountant = RdpAccountant([order for order in ORDERS if order.is_integer()])
    for (z, q), rounds in rounds_of.items():
        accountant.compose(PoissonSampledDpEvent(q, GaussianDpEvent(z)), rounds)
    return accountant.get_epsilon(DELTA)


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
