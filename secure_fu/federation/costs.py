"""What an unlearning method will cost, told before it runs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from secure_fu.planning import Plan
from secure_fu.privacy import (
    EpsilonEntry,
    GaussianSumEvent,
    Grid,
    NoiseShare,
    Phase,
    PrivacyLedger,
    RotatedGrid,
    Subject,
    View,
    assured_clients,
    renyi_epsilon,
)
from secure_fu.protocol import GridKind
from secure_fu.unlearning import Guarantee, PlannedRounds

__all__ = ["Cost", "dearest_events", "predicted_epsilon", "predicted_events"]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What an unlearning run will cost and guarantee, if every round is answered at the first asking.

    Attributes:
        rounds: that it takes.
        retraining_rounds: that retraining takes.
        guarantee: about forgetting, at least.
        epsilon: what units will have paid afterwards, by subject and phase; the largest over the clients that hold such
            units.
    """

    rounds: int
    retraining_rounds: int
    guarantee: Guarantee
    epsilon: tuple[EpsilonEntry, ...]

    def describe(self) -> str:
        """The cost in words."""
        rounds = "1 round" if self.rounds == 1 else f"{self.rounds} rounds"
        return f"{rounds}, where retraining takes {self.retraining_rounds}. {self.guarantee.describe()}"


def predicted_events(
    planned: Sequence[PlannedRounds], subject: Subject, *, plan: Plan, cohort: int
) -> Counter[GaussianSumEvent]:
    """What planned rounds will charge a unit.

    Args:
        cohort: number of clients that they invite.
    """
    events: Counter[GaussianSumEvent] = Counter()
    for rounds in planned:
        rate = rounds.forgotten_rate if subject is Subject.FORGOTTEN else rounds.retained_rate
        if rate > 0.0 and rounds.count:
            events[_event(rounds, rate, plan, cohort)] += rounds.count
    return events


def dearest_events(planned: Sequence[PlannedRounds], *, plan: Plan, cohort: int) -> Counter[GaussianSumEvent]:
    """What planned rounds will charge by a client's own record, which tells no kinds of units apart.

    Args:
        cohort: number of clients that they invite.
    """
    dearer = [replace(one, retained_rate=max(one.retained_rate, one.forgotten_rate)) for one in planned]
    return predicted_events(dearer, Subject.RETAINED, plan=plan, cohort=cohort)


def _event(rounds: PlannedRounds, rate: float, plan: Plan, cohort: int) -> GaussianSumEvent:
    unit, assured = plan.recipe.unit, assured_clients(plan.minimum_cohort, plan.colluders)
    grid: Grid | RotatedGrid
    if plan.grid is GridKind.ROTATED:
        grid = RotatedGrid.for_sums(
            clip_norm=rounds.clip_norm,
            dimension=rounds.length,
            clients=cohort,
            noise_multiplier=rounds.noise_multiplier,
            assured=assured,
            sum_bits=plan.sum_bits,
            unit=unit,
        )
    else:
        grid = Grid.fine(clip_norm=rounds.clip_norm, dimension=rounds.length, saturation=rounds.saturation, unit=unit)
    share = NoiseShare(
        noise_multiplier=rounds.noise_multiplier, sensitivity=grid.sensitivity, step=grid.step, assured=assured
    )
    return GaussianSumEvent(
        noise_multiplier=rounds.noise_multiplier,
        sampling_rate=rate,
        grid_ratio=share.total_grid_ratio,
        dimension=grid.encoded_dimension,
        shares=share.assured,
    )


def predicted_epsilon(
    planned: Sequence[PlannedRounds],
    *,
    plan: Plan,
    cohort: int,
    ledger: PrivacyLedger,
    branch: str,
    forgotten: Collection[str],
    retained: Collection[str],
) -> tuple[EpsilonEntry, ...]:
    """The epsilon list after planned rounds, in the order of :meth:`PrivacyLedger.epsilon_entries`.

    Args:
        branch: that the rounds go on from.
        forgotten: clients that hold units to be forgotten.
        retained: clients that hold others.
    """
    delta = ledger.budget.delta
    entries = []
    for subject, clients in ((Subject.FORGOTTEN, forgotten), (Subject.RETAINED, retained)):
        added = predicted_events(planned, subject, plan=plan, cohort=cohort)
        for phase in Phase if clients else ():
            new = Counter() if phase is Phase.TRAINING else added
            paid = {frozenset((spent + new).items()) for spent in _spent(ledger, branch, clients, phase)}
            value = max((renyi_epsilon(dict(events), delta=delta) for events in paid if events), default=0.0)
            entries.append(
                EpsilonEntry(
                    subject=subject,
                    phase=phase,
                    view=View.EVERY_RELEASE,
                    value=value if math.isfinite(value) else None,
                    delta=delta,
                    group_size=1,
                )
            )
    return tuple(entries)


def _spent(
    ledger: PrivacyLedger, branch: str, clients: Collection[str], phase: Phase
) -> Iterator[Counter[GaussianSumEvent]]:
    # So far all of them have been retained units.
    for client in clients:
        known = client in ledger
        yield ledger.event_counts(branch, client, Subject.RETAINED, phase) if known else Counter()
