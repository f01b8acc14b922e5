"""The check before each round: does it fit the budget of every client it would charge?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from secure_fu.errors import BudgetExceededError
from secure_fu.privacy.accounting import ORDERS, rdp
from secure_fu.privacy.budget import Budget
from secure_fu.privacy.discretisation import discretisation_divergence
from secure_fu.privacy.epsilon import Phase, Subject
from secure_fu.privacy.events import GaussianSumEvent
from secure_fu.privacy.spending import Spending

__all__ = ["check_round"]


def check_round(
    budget: Budget,
    spending: Spending,
    *,
    lineages: Mapping[str, Sequence[str]],
    round_name: str,
    phase: Phase,
    charges: Mapping[Subject, GaussianSumEvent | None],
    cohort: Sequence[str],
) -> None:
    """Raise unless one more round fits, for each client and subject, in each branch that it counts in.

    Guarantee: see :mod:`secure_fu.privacy.budget`. Nothing is changed.

    Args:
        budget: what each unit may spend.
        spending: what has been spent.
        lineages: the round's branch and those that come from it, each with the branches whose spending it inherits,
            itself included.
        round_name: how the error names the round.
        phase: training or unlearning; rounds of training together may not touch the deletion reserve.
        charges: what the round costs a unit, by subject.
        cohort: the clients that it would be charged to.

    Raises:
        BudgetExceededError: names the client, the epsilon it would have spent and the budget.
    """
    order = ORDERS.index(budget.order)
    rows = spending.rows(cohort)
    for branch, lineage in lineages.items():
        for subject, event in charges.items():
            if event is None:
                continue
            counts = spending.counts(branches=lineage, subject=subject, phase=Phase.BOTH, rows=rows)
            counts[event] = counts.get(event, np.zeros(len(rows), dtype=np.int64)) + 1
            divergence = np.zeros(len(rows))
            discretisation = np.zeros(len(rows))
            for spent, times in counts.items():
                divergence += times * rdp(spent, budget.group_size)[order]
                discretisation += times * discretisation_divergence(spent)
            checks = [(divergence, budget.limit(Phase.UNLEARNING), "all rounds together may go")]
            if phase is Phase.TRAINING:
                # What training leaves for deletions is for deletions: their own rounds do not count against it.
                trained = spending.counts(branches=lineage, subject=subject, phase=Phase.TRAINING, rows=rows)
                trained[event] = trained.get(event, np.zeros(len(rows), dtype=np.int64)) + 1
                own = np.zeros(len(rows))
                for spent, times in trained.items():
                    own += times * rdp(spent, budget.group_size)[order]
                checks.append((own, budget.limit(Phase.TRAINING), "training, deletion_reserve kept, may go"))
            for spent_by, limit, who in checks:
                worst = int(np.argmax(spent_by))
                # "not <=" rather than ">": NaN must never pass.
                if not spent_by[worst] <= limit:
                    raise BudgetExceededError(
                        f"{round_name} would take client {cohort[worst]!r} ({subject.value} units, branch {branch!r}) "
                        f"to epsilon {budget.epsilon_at(float(spent_by[worst])):.4f}; {who} up to "
                        f"{budget.epsilon_at(limit):.4f} of the budget's {budget.epsilon:g} at delta {budget.delta:g} "
                        f"(group size {budget.group_size}, Renyi order {budget.order:g})"
                    )
            worst = int(np.argmax(discretisation))
            if not discretisation[worst] <= budget.divergence_limit:
                raise BudgetExceededError(
                    f"{round_name} would take the discretisation of client {cohort[worst]!r}'s noise (branch "
                    f"{branch!r}) out of the part of delta {budget.delta:g} that is set aside for it; noise of more "
                    f"than {event.grid_ratio:.4g} grid steps, that is a finer grid, is needed"
                )
