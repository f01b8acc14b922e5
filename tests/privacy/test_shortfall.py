"""Rounds priced before the first of them: what fits is admitted one by one, and one more is not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from ledger_cast import BUDGET, event, train

from secure_fu.errors import BudgetExceededError
from secure_fu.privacy import Subject, budgeted_times, shortfall
from secure_fu.privacy.epsilon import Phase
from secure_fu.privacy.ledger import PrivacyLedger


@pytest.fixture
def ledger(path):
    with PrivacyLedger.create(path, budget=dataclasses.replace(BUDGET, deletion_reserve=0.0)) as made:
        made.branch("original")
        yield made


def most(ledger, cohort):
    """How many more rounds fit, by asking."""
    count = 0
    while shortfall(ledger, {event(): count + 1}, cohort=cohort) is None:
        count += 1
    return count


def test_what_fits_is_what_the_ledger_admits(ledger):
    train(ledger, range(3), branch="original", cohort=["a", "b"])
    fits = most(ledger, ["b", "a", "new"])
    assert fits > 3
    assert most(ledger, ["new"]) == fits + 3
    short = shortfall(ledger, {event(): fits + 1}, cohort=["new", "a"])
    assert short is not None
    assert (short.client, short.epsilon > BUDGET.epsilon) == ("a", True)
    assert str(short) == (
        f"client 'a' would come to epsilon {short.epsilon:.4f}, and the budget is {BUDGET.epsilon:g} at delta "
        f"{BUDGET.delta:g}"
    )
    train(ledger, range(3, 3 + fits), branch="original", cohort=["a"])
    with pytest.raises(BudgetExceededError, match=f"epsilon {short.epsilon:.4f}"):
        train(ledger, [3 + fits], branch="original", cohort=["a"])
    assert shortfall(ledger, {}, cohort=["a"]) is None


def test_rounds_of_a_branch_that_came_to_nothing_count(ledger):
    """Clients have answered them, and their own records refuse what goes beyond."""
    train(ledger, range(2), branch="original", cohort=["a"])
    before = most(ledger, ["a"])
    ledger.branch("abandoned", parent="original")
    charges = {Subject.RETAINED: None, Subject.FORGOTTEN: event()}
    train(ledger, range(2, 4), branch="abandoned", phase=Phase.UNLEARNING, charges=charges, cohort=["a"])
    assert most(ledger, ["a"]) == before - 2


def test_how_often_rounds_fit_a_budget(ledger):
    fits = most(ledger, ["a"])
    assert budgeted_times(BUDGET, event(), first=fits, each=1) == 0
    assert budgeted_times(BUDGET, event(), first=fits + 1, each=1) == -1
    assert budgeted_times(BUDGET, event(), first=fits - 7, each=3) == 2
    assert np.isfinite(fits)
