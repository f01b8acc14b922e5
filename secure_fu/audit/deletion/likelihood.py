"""A likelihood ratio between two parts of the runs, learned for every run on the other runs alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Parted", "likelihood_ratios"]

_PRIOR_RUNS: Final = 4.0  # how many runs the pooled variance weighs against those of one record
_FLOOR: Final = 1e-12  # of a variance, against the overall one


@dataclass(frozen=True, kw_only=True, eq=False)
class Parted:
    """Which of two parts each record had in each run.

    Attributes:
        inside: the part that a large score speaks for, bool (R, u).
        outside: the other one, bool (R, u). A unit may be in neither.
        units: the unit of each record, int64 (t,).
    """

    inside: NDArray[np.bool_]
    outside: NDArray[np.bool_]
    units: NDArray[np.int64]

    def without(self, run: int) -> Parted:
        """The same without one run."""
        return Parted(
            inside=np.delete(self.inside, run, axis=0), outside=np.delete(self.outside, run, axis=0), units=self.units
        )


def likelihood_ratios(
    signal: NDArray[np.float64], parted: Parted, scored: Sequence[NDArray[np.float64]]
) -> tuple[NDArray[np.float64], ...]:
    """Log N(x; inside) - log N(x; outside) of every unit in every run, summed over the unit's records.

    A Gaussian for each record and part, as the U-LiRA attack has them (Hayes et al. 2024, arXiv 2403.01218), learned
    for run r on the other runs. Some records have few runs in a part, clients very few, so all is shrunken: variances
    towards the pooled one of their part, and the gap between a record's two means towards the mean gap of all records
    by as much as the gaps agree (DerSimonian and Laird 1986). With no run in one part the mean gap alone speaks.

    Parts must be drawn in each run on its own: then, where there is nothing to find, the other runs say nothing of the
    part that a unit has in this one, and the expected area under the curve is 1/2 exactly.

    Args:
        signal: what is learned from, (R, t), finite.
        parted: the two parts, of the same runs.
        scored: what is scored, each (R, t): ``signal`` itself, or another signal of the same runs.

    Returns:
        Scores (R, u), one array for each that was asked for. Where a unit is in neither part they mean nothing.
    """
    centre = signal.mean(axis=0)
    values = signal - centre
    n1, a1, q1 = _sums_of_others(values, parted.inside[:, parted.units])
    n0, a0, q0 = _sums_of_others(values, parted.outside[:, parted.units])
    floor = _FLOOR * (1.0 + float(values.var()))
    rest1, rest0 = _rest(n1, a1, q1), _rest(n0, a0, q0)
    f1, f0 = (n1 - 1.0).clip(min=0.0), (n0 - 1.0).clip(min=0.0)
    v1, v0 = _shrunken_variance(rest1, f1, floor), _shrunken_variance(rest0, f0, floor)
    gap = _shrunken_gap(n1, a1, n0, a0, _shrunken_variance(rest1 + rest0, f1 + f0, floor))
    low = (a0 + a1 - n1 * gap) / (n0 + n1).clip(min=1.0)
    high = low + gap
    sum_by_unit = np.zeros((len(parted.units), parted.inside.shape[1]))
    sum_by_unit[np.arange(len(parted.units)), parted.units] = 1.0
    results = []
    for other in scored:
        x = other - centre
        ratio = 0.5 * (np.log(v0 / v1) + (x - low) ** 2 / v0 - (x - high) ** 2 / v1)
        results.append(ratio @ sum_by_unit if len(parted.units) > parted.inside.shape[1] else _ordered(ratio, parted))
    return tuple(results)


def _ordered(ratio: NDArray[np.float64], parted: Parted) -> NDArray[np.float64]:
    """One record a unit: the records in the order of the units."""
    return ratio[:, np.argsort(parted.units)]


def _sums_of_others(
    values: NDArray[np.float64], mask: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Count, sum and sum of squares over the runs of a part, each run itself left out: (R, t) each."""
    kept = np.where(mask, values, 0.0)
    count = mask.sum(axis=0) - mask.astype(np.float64)
    total = kept.sum(axis=0) - kept
    squares = (kept**2).sum(axis=0) - kept**2
    # What is left of nothing is rounding error.
    return count, np.where(count > 0, total, 0.0), np.where(count > 0, squares, 0.0)


def _rest(n: NDArray[np.float64], a: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum of squared deviations from the mean."""
    result: NDArray[np.float64] = (q - a**2 / n.clip(min=1.0)).clip(min=0.0)
    return result


def _shrunken_variance(rest: NDArray[np.float64], freedom: NDArray[np.float64], floor: float) -> NDArray[np.float64]:
    """Each record's variance, drawn towards the pooled one of all records: (R, t)."""
    pooled = rest.sum(axis=1, keepdims=True) / freedom.sum(axis=1, keepdims=True).clip(min=1.0)
    result: NDArray[np.float64] = (_PRIOR_RUNS * pooled + rest) / (_PRIOR_RUNS + freedom) + floor
    return result


def _shrunken_gap(
    n1: NDArray[np.float64],
    a1: NDArray[np.float64],
    n0: NDArray[np.float64],
    a0: NDArray[np.float64],
    variance: NDArray[np.float64],
) -> NDArray[np.float64]:
    known = (n1 > 0) & (n0 > 0)
    raw = np.where(known, a1 / n1.clip(min=1.0) - a0 / n0.clip(min=1.0), 0.0)
    error = variance * (1.0 / n1.clip(min=1.0) + 1.0 / n0.clip(min=1.0))
    weight = np.where(known, 1.0 / error, 0.0)
    total = weight.sum(axis=1, keepdims=True).clip(min=1e-300)
    mean = (weight * raw).sum(axis=1, keepdims=True) / total
    excess = (weight * (raw - mean) ** 2).sum(axis=1, keepdims=True) - (known.sum(axis=1, keepdims=True) - 1.0)
    between = (excess / (total - (weight**2).sum(axis=1, keepdims=True) / total).clip(min=1e-300)).clip(min=0.0)
    result: NDArray[np.float64] = np.where(known, (between * raw + error * mean) / (between + error), mean)
    return result
