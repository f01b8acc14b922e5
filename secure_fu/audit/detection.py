"""Is a separation beyond chance, and how large would it have to be to be found?

Both tests are of one null hypothesis: scores of members and of non-members are exchangeable, so that membership leaves
no mark on them. Their levels hold whatever the distribution of the scores is.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

from secure_fu.errors import ArgumentError

__all__ = [
    "auc_power",
    "can_find_anything",
    "detectable_auc",
    "fewest_records",
    "members_needed",
    "non_members_needed",
    "rank_test",
    "top_count",
    "top_test",
]

_TOP_SHARE: Final = 0.01
_FEWEST_TOP: Final = 10
_FEW: Final = 50  # records, below which the normal approximation does not keep its level under ties
_PERMUTATIONS: Final = 9999
_FEWEST_FALSE_POSITIVES: Final = 10
_MOST_RECORDS: Final = 10**9


def rank_test(members: ArrayLike, non_members: ArrayLike) -> float:
    """Two-sided p-value of Mann and Whitney's test (1947): is the area under the ROC curve other than 1/2?

    Exact for few records without ties; for few with ties by random permutations, which keeps the level; else by the
    normal approximation with ties allowed for. Two-sided, because forgotten records that score below others are found
    out as well.

    Args:
        members: finite scores, shape (m,), m >= 1.
        non_members: finite scores, shape (n,), n >= 1.
    """
    inside, outside = np.asarray(members, dtype=np.float64), np.asarray(non_members, dtype=np.float64)
    if np.ptp(np.concatenate([inside, outside])) == 0.0:
        return 1.0
    few = min(len(inside), len(outside)) < _FEW
    if few and len(np.unique(np.concatenate([inside, outside]))) < len(inside) + len(outside):
        return _permuted(inside, outside)
    return min(1.0, float(stats.mannwhitneyu(inside, outside, alternative="two-sided").pvalue))


def _permuted(inside: NDArray[np.float64], outside: NDArray[np.float64]) -> float:
    """The rank sum of the smaller group among those of random groups of its size; two-sided, never below 1 / draws."""
    small, large = sorted((inside, outside), key=len)
    ranks = stats.rankdata(np.concatenate([small, large]))
    ranks -= ranks.mean()
    found = abs(ranks[: len(small)].sum())
    generator = np.random.default_rng(0)
    sums = [generator.choice(ranks, len(small), replace=False, shuffle=False).sum() for _ in range(_PERMUTATIONS)]
    return (1 + int((np.abs(sums) >= found - 1e-9).sum())) / (1 + _PERMUTATIONS)


def top_count(records: int) -> int:
    """How many of the highest scores :func:`top_test` looks at: 1 % of all, at least ten."""
    return min(records, max(_FEWEST_TOP, math.ceil(_TOP_SHARE * records)))


def top_test(members: ArrayLike, non_members: ArrayLike) -> tuple[float, int]:
    """Are there more members among the highest scores than chance puts there?

    Finds a few exposed records that the area under the curve averages away. Under exchangeability the number of members
    among the :func:`top_count` highest scores is hypergeometric, exactly; of tied scores non-members are counted first,
    which makes the test cautious.

    Returns:
        One-sided p-value, and the number of members found there.
    """
    inside, outside = np.asarray(members, dtype=np.float64), np.asarray(non_members, dtype=np.float64)
    values = np.concatenate([inside, outside])
    member = np.repeat([True, False], [len(inside), len(outside)])
    top = top_count(len(values))
    found = int(member[np.lexsort((member, -values))[:top]].sum())
    return float(stats.hypergeom.sf(found - 1, len(values), len(inside), top)), found


def auc_power(area: float, *, members: int, non_members: int, level: float = 0.95) -> float:
    """Chance that :func:`rank_test` finds a given area under the ROC curve at 1 - ``level``, by normal approximation.

    The spread under the null is Mann and Whitney's; under the alternative that of Hanley and McNeil 1982.

    Args:
        area: in [1/2, 1).
        members, non_members: numbers of records, >= 1.
        level: 1 minus the significance level, in (0, 1).
    """
    if not 0.5 <= area < 1.0:
        raise ArgumentError("area", area, "a number in [0.5, 1)")
    m, n = members, non_members
    under_null = math.sqrt((m + n + 1) / (12.0 * m * n))
    one, other = area / (2.0 - area), 2.0 * area**2 / (1.0 + area)
    variance = area * (1.0 - area) + (m - 1) * (one - area**2) + (n - 1) * (other - area**2)
    spread = math.sqrt(variance / (m * n))
    critical = float(stats.norm.isf((1.0 - level) / 2.0)) * under_null
    return float(
        stats.norm.sf((critical - (area - 0.5)) / spread) + stats.norm.cdf((-critical - (area - 0.5)) / spread)
    )


def detectable_auc(*, members: int, non_members: int, power: float = 0.95, level: float = 0.95) -> float | None:
    """The smallest area under the ROC curve that :func:`rank_test` finds with this power; None where no area is."""
    highest = 1.0 - 1e-6

    def missing(area: float) -> float:
        return auc_power(area, members=members, non_members=non_members, level=level) - power

    if _least_p_value(members, non_members) > 1.0 - level or missing(highest) < 0.0:
        return None
    return float(optimize.brentq(missing, 0.5, highest)) if missing(0.5) < 0.0 else 0.5


def members_needed(margin: float, *, power: float = 0.8, level: float = 0.95) -> int:
    """How many members, and as many non-members, it takes to find an area of 1/2 + margin with this power.

    Raises:
        ArgumentError: the margin is not in (0, 0.5), or power or level is not in (0, 1).
    """
    if not 0.0 < margin < 0.5:
        raise ArgumentError("margin", margin, "a number in (0, 0.5)")
    for name, value in (("power", power), ("level", level)):
        if not 0.0 < value < 1.0:
            raise ArgumentError(name, value, "a number in (0, 1)")

    def enough(count: int) -> bool:
        found = auc_power(0.5 + margin, members=count, non_members=count, level=level) >= power
        return found and _least_p_value(count, count) <= 1.0 - level

    low, high = 1, 2
    while not enough(high):
        low, high = high, 2 * high
        if high > _MOST_RECORDS:
            raise ArgumentError("margin", margin, f"one that {_MOST_RECORDS} records can show")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def non_members_needed(false_positive_rate: float) -> int:
    """How many non-members it takes to state a true positive rate at this false positive rate: ten beyond it.

    Raises:
        ArgumentError: the rate is not in (0, 1).
    """
    if not 0.0 < false_positive_rate < 1.0:
        raise ArgumentError("false_positive_rate", false_positive_rate, "a number in (0, 1)")
    return math.ceil(_FEWEST_FALSE_POSITIVES / false_positive_rate * (1.0 - 1e-9))


def fewest_records(level: float) -> int:
    """How many members, and as many non-members, it takes before even perfect separation is beyond chance."""
    count = 1
    while _least_p_value(count, count) > 1.0 - level:
        count += 1
    return count


def can_find_anything(members: int, non_members: int, *, level: float) -> bool:
    """Whether perfect separation of so many records is beyond chance at this level."""
    return _least_p_value(members, non_members) <= 1.0 - level


def _least_p_value(members: int, non_members: int) -> float:
    """Two-sided p-value of perfect separation: two of all the ways to place the members among the ranks."""
    ways = math.lgamma(members + non_members + 1) - math.lgamma(members + 1) - math.lgamma(non_members + 1)
    return min(1.0, 2.0 * math.exp(-ways))
