"""Is the noise of a sum as large as it is said to be? A round in which everybody sends nothing but noise tells."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import chdtr, chdtrc, chdtri

from secure_fu.errors import ArgumentError
from secure_fu.privacy._checks import positive, probability
from secure_fu.privacy.statistics import Interval

__all__ = ["VarianceTest", "noise_variance_test"]


@dataclass(frozen=True, kw_only=True)
class VarianceTest:
    """How the noise that was found compares with the noise that was expected.

    Args:
        ratio: standard deviation found over expected, with its two-sided interval.
        p_too_small: p-value against "at least as large as expected".
        p_too_large: p-value against "at most as large as expected".
        values: how many values there were.
        level: of the interval.
    """

    ratio: Interval
    p_too_small: float
    p_too_large: float
    values: int
    level: float

    @property
    def too_small(self) -> bool:
        """Whether the noise is too small, at a one-sided error of 1 - level."""
        return self.p_too_small <= 1.0 - self.level

    @property
    def too_large(self) -> bool:
        """Whether it is too large, at a one-sided error of 1 - level."""
        return self.p_too_large <= 1.0 - self.level

    def to_json(self) -> dict[str, object]:
        """The test as ``audit.json`` carries it."""
        return {
            "ratio": self.ratio.to_json(),
            "p_too_small": self.p_too_small,
            "p_too_large": self.p_too_large,
            "values": self.values,
            "level": self.level,
        }


def noise_variance_test(values: ArrayLike, *, expected: float, level: float = 0.95) -> VarianceTest:
    """Chi-square test of the standard deviation of noise with known mean 0.

    The sum of n squares over ``expected``^2 is chi-square with n degrees of freedom for independent Gaussian values. A
    discrete Gaussian on a grid much finer than its deviation has the same law for all purposes here.

    Power: noise that is 5 % too small is found at level 0.95 with probability 0.9998 from n = 5000 values, 0.74 from
    1000.

    Args:
        values: all coordinates of a sum whose true value is 0, shape (n,), n >= 1.
        expected: the standard deviation that they should have.
        level: of the ratio's interval, and of the verdicts.

    Raises:
        ArgumentError: no or non-finite values, or an argument outside its domain.
    """
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or len(found) == 0 or not np.isfinite(found).all():
        raise ArgumentError("values", f"an array of shape {found.shape}", "a one-dimensional array of finite values")
    n = len(found)
    tail = (1.0 - probability("level", level)) / 2.0
    squares = float(((found / positive("expected", expected)) ** 2).sum())
    return VarianceTest(
        ratio=Interval(
            value=math.sqrt(squares / n),
            low=math.sqrt(squares / float(chdtri(n, tail))),
            high=math.sqrt(squares / float(chdtri(n, 1.0 - tail))),
        ),
        p_too_small=float(chdtr(n, squares)),
        p_too_large=float(chdtrc(n, squares)),
        values=n,
        level=level,
    )
