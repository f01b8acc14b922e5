"""The bound of two Gaussians: how far apart inserted and left-out canaries score, in standard deviations."""

from __future__ import annotations

import math

from numpy.typing import ArrayLike

from secure_fu.privacy._student import least_shift
from secure_fu.privacy.gaussian import gaussian_epsilon
from secure_fu.privacy.lower_bounds._inputs import finite_values, one_sided_tail
from secure_fu.privacy.lower_bounds.bound import Assumption, EpsilonBound

__all__ = ["MOST_SHIFT", "gaussian_bound", "shift_bound", "shift_limit"]

# More than this many standard deviations is as good as no noise, and is reported as this many: epsilon 500 000.
MOST_SHIFT = 1000.0


def gaussian_bound(inserted: ArrayLike, left_out: ArrayLike, *, delta: float, level: float = 0.95) -> EpsilonBound:
    """Lower bound on epsilon from the mean difference, for Gaussian scores of one variance.

    Scores N(a, s^2) of inserted and N(b, s^2) of left-out canaries are a Gaussian mechanism with mu = (a - b) / s
    (Dong, Roth, Su 2022, arXiv 1905.02383). Student's t of the two groups is noncentral with shift
    mu / sqrt(1/n + 1/m), which gives an exact lower limit of mu for any numbers of canaries; epsilon at ``delta``
    follows exactly (Balle, Wang 2018).

    For scores that are not Gaussian it can exceed the truth: on Laplace noise it nearly always does.

    Args:
        inserted: scores of the canaries that were inserted, shape (n,), n >= 2; larger speaks for insertion.
        left_out: scores of those that were left out, shape (m,), m >= 2.
        delta: the delta of the claim.
        level: one-sided confidence level.

    Raises:
        ArgumentError: fewer than two or non-finite scores, or an argument outside its domain.
    """
    inside = finite_values("inserted", inserted, fewest=2)
    outside = finite_values("left_out", left_out, fewest=2)
    tail = one_sided_tail(delta, level)
    n, m = len(inside), len(outside)
    freedom = n + m - 2
    variance = (float(inside.var()) * n + float(outside.var()) * m) / freedom
    unit = math.sqrt(1.0 / n + 1.0 / m)
    gap = float(inside.mean()) - float(outside.mean())
    return shift_bound(
        "Gaussian scores",
        Assumption.GAUSSIAN,
        shift_limit(gap, math.sqrt(variance), unit, freedom, tail),
        delta=delta,
        level=level,
        canaries=n + m,
    )


def shift_limit(gap: float, deviation: float, unit: float, freedom: int, tail: float) -> float:
    """Lower limit of gap / deviation, whose estimate has standard error ``unit`` but for the deviation's own error."""
    if gap <= 0.0:
        return 0.0
    if gap >= 100.0 * MOST_SHIFT * deviation:
        return MOST_SHIFT
    return least_shift(gap / (deviation * unit), freedom, tail) * unit


def shift_bound(
    method: str, assumption: Assumption, shift: float, *, delta: float, level: float, canaries: int
) -> EpsilonBound:
    """The bound that a lower limit of mu gives."""
    return EpsilonBound(
        method=method,
        assumption=assumption,
        value=gaussian_epsilon(min(shift, MOST_SHIFT), 1.0, delta),
        largest=math.inf,
        delta=delta,
        level=level,
        canaries=canaries,
    )
