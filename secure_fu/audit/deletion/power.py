"""What the tests against retraining could show, from the retrained models alone, before a method is looked at."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from secure_fu.audit.deletion.after_only import LIKELIHOOD, LOSS
from secure_fu.audit.deletion.areas import areas, learned_areas, unit_means
from secure_fu.audit.deletion.likelihood import Parted
from secure_fu.audit.deletion.outputs import Outputs
from secure_fu.audit.deletion.performance import FORGET_EXCESS
from secure_fu.errors import ArgumentError
from secure_fu.privacy import equivalence_power, runs_needed

__all__ = ["Power", "power_of_tests"]

_WANTED: Final = 0.8


@dataclass(frozen=True, kw_only=True)
class Power:
    """The chance that a test passes a method that is as good as retraining.

    Attributes:
        name: of the figure that is tested.
        margin: stated for it.
        spread: standard deviation from run to run of the gap between two retrainings.
        runs: how many runs there are.
        power: the chance that the gap of such a method is shown to be within the margin.
        runs_needed: the fewest runs for a chance of 80 %; None where no number is enough.
    """

    name: str
    margin: float
    spread: float
    runs: int
    power: float
    runs_needed: int | None

    def to_json(self) -> dict[str, object]:
        """Every number of it."""
        return {
            "name": self.name,
            "margin": self.margin,
            "spread": self.spread,
            "runs": self.runs,
            "power": self.power,
            "runs_needed": self.runs_needed,
        }


def power_of_tests(
    retrained: Outputs, parted: Parted, *, margin: float, accuracy_margin: float, level: float
) -> tuple[Power, ...]:
    """Power of each test of the after-only verdict.

    Loss and accuracy of two retrainings of one run are paired, for they share the hard and the easy records. The
    second retraining of run r is that of run r + 1, on the units that it did not see either; the spread is scaled to
    all units. For the likelihood ratio nothing in common is counted on: an area by a rule that learned from its like
    has twice the variance that the same rule's area on a foreign model has (see
    :func:`~secure_fu.audit.deletion.areas.learned_areas`), and the gap has both.

    Args:
        retrained: outputs of the retrained models.
        parted: forgotten inside, never seen outside.
        margin: of areas.
        accuracy_margin: of the accuracy on the forgotten.
        level: of the tests.
    """
    learned = learned_areas(retrained.confidence, parted, [retrained.confidence])[0]
    losses = unit_means(retrained.losses, parted.units)
    correct = unit_means(retrained.correct.astype(np.float64), parted.units)
    spreads = {
        LIKELIHOOD: (math.sqrt(1.5) * float(learned.std(ddof=1)), margin),
        LOSS: (_area_spread(-losses, parted), margin),
        FORGET_EXCESS: (_excess_spread(correct, parted), accuracy_margin),
    }
    return tuple(_power(name, spread, len(learned), own, level) for name, (spread, own) in spreads.items())


def _power(name: str, spread: float, runs: int, margin: float, level: float) -> Power:
    power, needed = 1.0, 2
    if spread > 0.0:
        power = equivalence_power(spread, runs, margin=margin, level=level)
        try:
            needed = runs_needed(spread, margin=margin, power=_WANTED, level=level)
        except ArgumentError:
            return Power(name=name, margin=margin, spread=spread, runs=runs, power=power, runs_needed=None)
    return Power(name=name, margin=margin, spread=spread, runs=runs, power=power, runs_needed=needed)


def _area_spread(scores: NDArray[np.float64], parted: Parted) -> float:
    """Spread of the gap of two areas on one run's units."""
    out = parted.inside | parted.outside
    gaps = []
    for run in range(len(scores)):
        other = (run + 1) % len(scores)
        inside, outside = parted.inside[run] & out[other], parted.outside[run] & out[other]
        if not inside.any() or not outside.any():
            continue
        both = np.broadcast_to(inside, (2, len(inside))), np.broadcast_to(outside, (2, len(outside)))
        own, next_run = areas(
            scores[[run, other]], Parted(inside=both[0], outside=both[1], units=np.arange(len(inside)))
        )
        # The error of an area falls with the smaller group's size.
        share = min(inside.sum(), outside.sum()) / min(parted.inside[run].sum(), parted.outside[run].sum())
        gaps.append((own - next_run) * math.sqrt(share))
    if len(gaps) >= 2:
        return _about_zero(gaps)
    return math.sqrt(2.0) * float(areas(scores, parted).std(ddof=1))


def _excess_spread(correct: NDArray[np.float64], parted: Parted) -> float:
    """Spread of the gap of two excesses, forgotten over never seen units of one run."""
    out = parted.inside | parted.outside
    gaps = []
    for run in range(len(correct)):
        other = (run + 1) % len(correct)
        inside, outside = parted.inside[run] & out[other], parted.outside[run] & out[other]
        if inside.any() and outside.any():
            change = correct[run] - correct[other]
            share = min(inside.sum(), outside.sum()) / min(parted.inside[run].sum(), parted.outside[run].sum())
            gaps.append(float(change[inside].mean() - change[outside].mean()) * math.sqrt(share))
    if len(gaps) >= 2:
        return _about_zero(gaps)
    means = [np.where(part, correct, 0.0).sum(axis=1) / part.sum(axis=1) for part in (parted.inside, parted.outside)]
    return math.sqrt(2.0) * float((means[0] - means[1]).std(ddof=1))


def _about_zero(gaps: list[float]) -> float:
    """Root mean square: the mean gap of two retrainings is 0."""
    return math.sqrt(float(np.mean(np.square(gaps))))
