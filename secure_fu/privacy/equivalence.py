"""Are two procedures the same but for a margin? Two one-sided tests, their power, and what many tests at once cost.

"No difference was found" says little: a test with few runs finds none. So a procedure passes only where the gap to its
reference is shown to be smaller than a margin (Schuirmann 1987), and the margin and the power to show that are stated
before the gaps are seen. Gaps are paired by run, so unequal spreads of the two procedures do not matter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, stdtr, stdtrit

from secure_fu.errors import ArgumentError
from secure_fu.privacy._checks import positive, positive_integer, probability
from secure_fu.privacy._student import scale_nodes
from secure_fu.privacy.statistics import Interval, mean_interval

__all__ = ["EquivalenceTest", "equivalence_power", "equivalence_test", "holm", "runs_needed"]

_MOST_RUNS = 10**7


@dataclass(frozen=True, kw_only=True)
class EquivalenceTest:
    """Whether a mean gap is smaller than a margin, and whether it differs from 0. Both can be so, or neither.

    Args:
        gap: mean gap, with the interval that lies within the margin exactly where ``equivalent``: its two-sided level
            is 2 level - 1, 90 % for a level of 95 %.
        margin: gaps below this count as none; fixed beforehand.
        level: 1 - level is the error of either verdict.
        runs: how many gaps there were.
        p_value: of "the gap is at least the margin", either way; equivalent where it is at most 1 - level.
        equivalent: the gap is shown to be smaller than the margin.
        p_different: of "the gap is 0", two-sided.
        different: the gap is shown not to be 0.
    """

    gap: Interval
    margin: float
    level: float
    runs: int
    p_value: float
    equivalent: bool
    p_different: float
    different: bool

    def to_json(self) -> dict[str, object]:
        """The test as ``audit.json`` carries it."""
        return {
            "gap": self.gap.to_json(),
            "margin": self.margin,
            "level": self.level,
            "runs": self.runs,
            "p_value": self.p_value,
            "equivalent": self.equivalent,
            "p_different": self.p_different,
            "different": self.different,
        }


def equivalence_test(gaps: ArrayLike, *, margin: float, level: float = 0.95) -> EquivalenceTest:
    """Two one-sided t-tests of the mean of paired gaps; exact for normal gaps.

    Gaps that are all equal leave no error to speak of: they count as known exactly.

    Args:
        gaps: one a run, shape (runs,), at least two; runs are independent.
        margin: above 0, fixed before the gaps were seen.
        level: at least 1/2; 1 - level is the probability of calling a gap of ``margin`` equivalent.

    Raises:
        ArgumentError: fewer than two or non-finite gaps, or an argument outside its domain.
    """
    tail = _tail(level)
    positive("margin", margin)
    gap = mean_interval(gaps, level=max(1.0 - 2.0 * tail, 1e-9))
    sample = np.asarray(gaps, dtype=np.float64)
    error = float(sample.std(ddof=1)) / math.sqrt(len(sample))
    freedom = len(sample) - 1

    def below(distance: float) -> float:
        """P[t <= distance / error]."""
        if error > 0.0:
            return float(stdtr(freedom, distance / error))
        return 0.5 + 0.5 * float(np.sign(distance))

    p_value = below(abs(gap.value) - margin)
    p_different = 2.0 * below(-abs(gap.value))
    return EquivalenceTest(
        gap=gap,
        margin=margin,
        level=level,
        runs=len(sample),
        p_value=p_value,
        equivalent=p_value <= tail,
        p_different=p_different,
        different=p_different <= tail,
    )


def equivalence_power(spread: float, runs: int, *, margin: float, level: float = 0.95, gap: float = 0.0) -> float:
    """The probability that :func:`equivalence_test` says "equivalent", exact for normal gaps.

    With U the estimated over the true standard deviation, the mean has to lie within margin - t U spread / sqrt(runs);
    that probability is averaged over the law of U.

    Args:
        spread: standard deviation of a gap from run to run, above 0.
        runs: number of runs, at least 2.
        margin: above 0.
        level: of the test.
        gap: the true gap.

    Raises:
        ArgumentError: an argument is outside its domain.
    """
    count = positive_integer("runs", runs)
    if count < 2:
        raise ArgumentError("runs", runs, "at least 2")
    if not math.isfinite(gap):
        raise ArgumentError("gap", gap, "a finite number")
    error = positive("spread", spread) / math.sqrt(count)
    quantile = -float(stdtrit(count - 1, _tail(level)))
    within = positive("margin", margin) / error
    scales, shares = scale_nodes(count - 1, most=within / quantile if quantile > 0.0 else math.inf)
    room = within - quantile * scales
    inside = ndtr(room - gap / error) - ndtr(-room - gap / error)
    return float(shares @ np.maximum(inside, 0.0))


def runs_needed(spread: float, *, margin: float, power: float = 0.8, level: float = 0.95, gap: float = 0.0) -> int:
    """The fewest runs with which equivalence within ``margin`` is shown with probability ``power``.

    Args:
        spread: standard deviation of a gap from run to run.
        margin: above ``|gap|``.
        power: between 0 and 1.
        level: of the test.
        gap: the true gap.

    Raises:
        ArgumentError: an argument is outside its domain, or ten million runs are not enough.
    """
    probability("power", power)
    if abs(gap) >= positive("margin", margin):
        raise ArgumentError("margin", margin, f"a margin above the gap, {abs(gap)}")

    def enough(runs: int) -> bool:
        return equivalence_power(spread, runs, margin=margin, level=level, gap=gap) >= power

    high = 2
    while not enough(high):
        high *= 2
        if high > _MOST_RUNS:
            raise ArgumentError("margin", margin, f"a margin that {_MOST_RUNS} runs can show at this spread")
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return max(high, 2)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjusted p-values (1979): whichever are at most alpha, the chance of any false one is at most alpha.

    Holds however the tests depend on each other.

    Args:
        p_values: by name.

    Returns:
        Adjusted p-values by name, in the order of the argument; at most 1.

    Raises:
        ArgumentError: a value is outside [0, 1].
    """
    for name, value in p_values.items():
        if not 0.0 <= value <= 1.0:
            raise ArgumentError(f"p_values[{name!r}]", value, "a number from 0 to 1")
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def _tail(level: float) -> float:
    """1 - level, for a level of at least 1/2."""
    if probability("level", level) < 0.5:
        raise ArgumentError("level", level, "a confidence level of at least 1/2 and below 1")
    return 1.0 - level
