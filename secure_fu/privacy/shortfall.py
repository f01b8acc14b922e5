"""Whether rounds that are planned fit the budget, told before the first of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from secure_fu.privacy.accounting import ORDERS, rdp
from secure_fu.privacy.budget import Budget
from secure_fu.privacy.discretisation import discretisation_divergence
from secure_fu.privacy.epsilon import Phase, Subject
from secure_fu.privacy.events import GaussianSumEvent
from secure_fu.privacy.ledger import PrivacyLedger
from secure_fu.privacy.spending import Spending

__all__ = ["Shortfall", "budgeted_times", "shortfall"]

_ALL = "all branches"


@dataclass(frozen=True, kw_only=True)
class Shortfall:
    """What keeps rounds from fitting a budget.

    Attributes:
        client: whose units would spend most.
        epsilon: that they would have spent, at the budget's order and delta.
        budget: what they may spend.
    """

    client: str
    epsilon: float
    budget: Budget

    def __str__(self) -> str:
        if self.epsilon <= self.budget.epsilon:
            return (
                f"the discretisation of client {self.client!r}'s noise would leave the part of delta "
                f"{self.budget.delta:g} that is set aside for it"
            )
        return (
            f"client {self.client!r} would come to epsilon {self.epsilon:.4f}, and the budget is "
            f"{self.budget.epsilon:g} at delta {self.budget.delta:g}"
        )


def shortfall(
    ledger: PrivacyLedger, rounds: Mapping[GaussianSumEvent, int], *, cohort: Collection[str]
) -> Shortfall | None:
    """What would keep further rounds from fitting the budget of one of the clients; None if they fit.

    Reckoned as clients reckon, whose records know neither branches nor kinds of units: every round of every branch
    counts, at the dearer of its two charges. So what fits here :meth:`PrivacyLedger.reserve` does not refuse, if every
    round is answered at the first asking.

    Args:
        ledger: with what was charged up to now; nothing is changed.
        rounds: how often each event is to be charged to all of the cohort.
        cohort: names of clients, at least one.
    """
    budget, members = ledger.budget, sorted(cohort)
    account = Spending()
    rows = account.rows(members)
    for event in ledger.events():
        dearer = max((one for one in event.charges.values() if one is not None), key=_rate, default=None)
        charges = {Subject.RETAINED: dearer}
        account.add(branch=_ALL, phase=event.phase, charges=charges, clients=event.charged, rounds=1)
    spent = account.counts(branches=(_ALL,), subject=Subject.RETAINED, phase=Phase.BOTH, rows=rows)
    planned = {event: np.full(len(members), count, dtype=np.int64) for event, count in rounds.items()}
    order = ORDERS.index(budget.order)
    divergence, discretisation = np.zeros(len(members)), np.zeros(len(members))
    for counts in (spent, planned):
        for charge, times in counts.items():
            divergence += times * rdp(charge, budget.group_size)[order]
            discretisation += times * discretisation_divergence(charge)
    limits = ((divergence, budget.limit(Phase.UNLEARNING)), (discretisation, budget.divergence_limit))
    for reached, limit in limits:
        worst = int(np.argmax(reached))
        if not reached[worst] <= limit:  # "not <=" rather than ">": NaN must never pass
            return Shortfall(client=members[worst], epsilon=budget.epsilon_at(float(divergence[worst])), budget=budget)
    return None


def budgeted_times(budget: Budget, event: GaussianSumEvent, *, first: int, each: int) -> int:
    """How often a number of equal rounds fits a budget after the first ones.

    Args:
        event: that every round charges.
        first: rounds that come before.
        each: rounds of one time, at least 1.

    Returns:
        how many times `each` rounds fit; -1 where not even the first ones do.
    """
    once = float(rdp(event, budget.group_size)[ORDERS.index(budget.order)]), discretisation_divergence(event)
    limits = budget.limit(Phase.UNLEARNING), budget.divergence_limit
    most = min(int(limit // cost) if cost > 0.0 else 1 << 62 for limit, cost in zip(limits, once, strict=True))
    return -1 if most < first else (most - first) // each


def _rate(event: GaussianSumEvent) -> float:
    return event.sampling_rate
