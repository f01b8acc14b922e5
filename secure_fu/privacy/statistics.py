"""Statistics of an audit: how well a score tells members from non-members, always with an interval.

Scores are arrays of finite floats, one per record; a larger score speaks for membership. Every interval assumes that
the records of a group are independent draws of one distribution, and that members and non-members were drawn
independently. Coverage is what the name says, tested by simulation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from secure_fu.errors import ArgumentError
from secure_fu.privacy._checks import positive_integer, probability

__all__ = [
    "Interval",
    "RocCurve",
    "auc",
    "clopper_pearson",
    "mean_interval",
    "paired_gap_interval",
    "roc_curve",
    "true_positive_rate",
]

_FEWEST_FALSE_POSITIVES = 10.0
_NO_VARIANCE = 1e-24  # below this a variance of shares is rounding error


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate and a two-sided confidence interval around it."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """The interval as ``result.json`` carries it."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True, kw_only=True)
class RocCurve:
    """A receiver operating characteristic from (0, 0) to (1, 1).

    Args:
        false_positive_rates: share of non-members at or above each threshold, ascending; shape (k,).
        true_positive_rates: share of members at or above it; shape (k,).
        low: lower pointwise confidence limit of the true positive rate at that threshold; shape (k,).
        high: upper one; shape (k,).
    """

    false_positive_rates: NDArray[np.float64]
    true_positive_rates: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def _scores(argument: str, values: ArrayLike, fewest: int = 1) -> NDArray[np.float64]:
    """Values as a one-dimensional float64 array; ArgumentError unless finite and at least ``fewest``."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) < fewest:
        raise ArgumentError(
            argument, f"an array of shape {array.shape}", f"a one-dimensional array, length >= {fewest}"
        )
    if not np.isfinite(array).all():
        raise ArgumentError(argument, "an array with NaN or infinite entries", "finite values only")
    return array


def _beta_limits(successes: ArrayLike, trials: int, level: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Clopper-Pearson limits for each entry of ``successes``; counts need not be whole numbers."""
    found = np.asarray(successes, dtype=np.float64)
    tail = (1.0 - level) / 2.0
    # The clips keep the arguments positive where the limit is 0 or 1 anyway.
    low = stats.beta.ppf(tail, found.clip(min=1e-9), trials - found + 1.0)
    high = stats.beta.isf(tail, found + 1.0, (trials - found).clip(min=1e-9))
    return np.where(found <= 0.0, 0.0, low), np.where(found >= trials, 1.0, high)


def clopper_pearson(successes: int, trials: int, *, level: float = 0.95) -> Interval:
    """Clopper and Pearson's exact interval for a probability (1934): covers at least ``level``, whatever it is.

    Raises:
        ArgumentError: trials below 1, successes outside [0, trials], or level outside (0, 1).
    """
    count = positive_integer("trials", trials)
    if not 0 <= successes <= count:
        raise ArgumentError("successes", successes, f"an integer from 0 to trials, {count}")
    low, high = _beta_limits(successes, count, probability("level", level))
    return Interval(value=successes / count, low=float(low), high=float(high))


def auc(members: ArrayLike, non_members: ArrayLike, *, level: float = 0.95) -> Interval:
    """Area under the ROC curve: the probability that a member scores above a non-member, ties counting half.

    Interval: DeLong, DeLong, Clarke-Pearson 1988, with the variance taken to the logit scale, so that it stays within
    [0, 1] and keeps its coverage away from 1/2, and Student's quantile with Welch and Satterthwaite's degrees of
    freedom for small groups. Where DeLong's variance is 0 or undefined (perfect separation, all scores equal, a
    single record) it says nothing; then the n = min(members, non-members) disjoint pairs are counted as n trials of
    which a share ``value`` succeeded, and Clopper-Pearson's limits are taken. For perfect separation that is exact;
    pairs that tie vary less than trials do, so it is wide otherwise. Simulated coverage of the 95 % interval is 0.94 to
    0.99 for five to 360 records a group and areas up to 0.98, except 0.90 for ten against 200 at 0.98.

    Args:
        members: shape (m,), m >= 1.
        non_members: shape (n,), n >= 1.
        level: coverage of the interval.

    Raises:
        ArgumentError: an empty, non-finite or not one-dimensional array, or level outside (0, 1).
    """
    inside = _scores("members", members)
    outside = _scores("non_members", non_members)
    probability("level", level)
    m, n = len(inside), len(outside)
    ranks = stats.rankdata(np.concatenate([inside, outside]))
    # DeLong's structural components: for each record, the share of the other group that it is placed right against.
    of_members = (ranks[:m] - stats.rankdata(inside)) / n
    of_non_members = 1.0 - (ranks[m:] - stats.rankdata(outside)) / m
    value = float(of_members.mean())
    parts = np.zeros(2)
    if m > 1 and n > 1:
        parts = np.array([of_members.var(ddof=1) / m, of_non_members.var(ddof=1) / n])
    variance = float(parts.sum())
    if variance < _NO_VARIANCE:
        pairs = min(m, n)
        lowest, highest = _beta_limits(value * pairs, pairs, level)
        return Interval(value=value, low=float(lowest), high=float(highest))
    freedom = variance**2 / float((parts**2 / np.array([m - 1, n - 1])).sum())
    centre = math.log(value / (1.0 - value))
    margin = float(stats.t.ppf((1.0 + level) / 2.0, freedom)) * math.sqrt(variance) / (value * (1.0 - value))
    low, high = (1.0 / (1.0 + math.exp(-(centre + side * margin))) for side in (-1.0, 1.0))
    return Interval(value=value, low=low, high=high)


def true_positive_rate(
    members: ArrayLike, non_members: ArrayLike, *, false_positive_rate: float = 0.01, level: float = 0.95
) -> Interval | None:
    """Share of members found at a threshold that a given share of non-members passes.

    The threshold is the largest non-member score that at most that share of the non-members lies above. The interval is
    for the true positive rate at exactly that false positive rate of the distribution, so it allows for the threshold's
    own error: Clopper-Pearson's limits are taken at the ends of an order-statistics interval of the threshold (the
    number of non-members above the true one is binomial). Both are at ``level``; as the two errors are independent
    and the interval adds them, it usually covers at least ``level``. That is heuristic: the union bound gives
    1 - 2 (1 - ``level``), which is 90 % for two intervals at 95 %.

    Returns:
        None where fewer than ten non-members are expected above the threshold: then the figure would be noise.

    Raises:
        ArgumentError: an empty, non-finite or not one-dimensional array, or a rate or level outside (0, 1).
    """
    inside = np.sort(_scores("members", members))
    outside = np.sort(_scores("non_members", non_members))[::-1]
    rate = probability("false_positive_rate", false_positive_rate)
    tail = (1.0 - probability("level", level)) / 2.0
    m, n = len(inside), len(outside)
    if n * rate < _FEWEST_FALSE_POSITIVES * (1.0 - 1e-9):
        return None

    def above(passed: int) -> int:
        """How many members lie strictly above the (passed + 1)-th largest non-member; all of them if there is none."""
        return m if passed >= n else m - int(np.searchsorted(inside, outside[passed], side="right"))

    # The count of non-members above the true threshold lies in [fewest, most] with probability `level`.
    fewest = int(stats.binom.ppf(tail, n, rate))
    most = int(stats.binom.isf(tail, n, rate))
    # Between the fewest-th and the (most + 1)-th largest non-member lies the true threshold.
    strict = above(fewest - 1) if fewest >= 1 else 0
    lenient = above(most)
    return Interval(
        value=above(math.floor(n * rate * (1.0 + 1e-9))) / m,
        low=float(_beta_limits(strict, m, level)[0]),
        high=float(_beta_limits(lenient, m, level)[1]),
    )


def roc_curve(members: ArrayLike, non_members: ArrayLike, *, level: float = 0.95, points: int = 200) -> RocCurve:
    """The ROC curve, with Clopper-Pearson's interval of the true positive rate at each of its thresholds.

    The bands are pointwise and hold the threshold fixed; they do not cover the whole curve at once.

    Args:
        members: shape (m,).
        non_members: shape (n,).
        level: coverage of each point's interval.
        points: at least 2; a curve with more thresholds is thinned to about this many, its ends kept.

    Raises:
        ArgumentError: an empty, non-finite or not one-dimensional array, level outside (0, 1), or fewer than two
        points.
    """
    inside = np.sort(_scores("members", members))
    outside = np.sort(_scores("non_members", non_members))
    probability("level", level)
    if positive_integer("points", points) < 2:
        raise ArgumentError("points", points, "at least 2")
    thresholds = np.unique(np.concatenate([inside, outside]))[::-1]
    hits = np.append(0, len(inside) - np.searchsorted(inside, thresholds))
    alarms = np.append(0, len(outside) - np.searchsorted(outside, thresholds))
    if len(hits) > points:
        # Evenly along the curve, not along the thresholds: both axes count.
        along = (hits / len(inside) + alarms / len(outside)) / 2.0
        kept = np.unique(np.searchsorted(along, np.linspace(0.0, 1.0, points)).clip(max=len(hits) - 1))
        hits, alarms = hits[kept], alarms[kept]
    low, high = _beta_limits(hits, len(inside), level)
    return RocCurve(
        false_positive_rates=alarms / len(outside),
        true_positive_rates=hits / len(inside),
        low=low,
        high=high,
    )


def mean_interval(values: ArrayLike, *, level: float = 0.95) -> Interval:
    """Mean of independent values, such as one figure over seeds, with Student's interval; exact for normal values.

    Args:
        values: shape (n,), n >= 2.
        level: coverage of the interval.

    Raises:
        ArgumentError: fewer than two or non-finite values, or level outside (0, 1).
    """
    sample = _scores("values", values, fewest=2)
    mean = float(sample.mean())
    margin = float(stats.t.ppf((1.0 + probability("level", level)) / 2.0, len(sample) - 1))
    margin *= float(sample.std(ddof=1)) / math.sqrt(len(sample))
    return Interval(value=mean, low=mean - margin, high=mean + margin)


def paired_gap_interval(first: ArrayLike, second: ArrayLike, *, level: float = 0.9) -> Interval:
    """Mean of ``first - second`` over pairs that share a seed, with Student's interval of the differences.

    Args:
        first: shape (n,), n >= 2.
        second: shape (n,), paired with ``first``.
        level: coverage; 0.9 is the level of a two one-sided test of equivalence at 5 %.

    Raises:
        ArgumentError: arrays of unequal length, fewer than two pairs or non-finite values, or level outside (0, 1).
    """
    one, other = _scores("first", first, fewest=2), _scores("second", second, fewest=2)
    if len(one) != len(other):
        raise ArgumentError("second", f"{len(other)} values", f"as many as first has, {len(one)}")
    return mean_interval(one - other, level=level)
