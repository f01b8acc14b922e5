"""The mean test on canary dot products: what a canary scores that was left out is known, and not measured."""

from __future__ import annotations

import math

from numpy.typing import ArrayLike
from scipy.special import ndtri

from secure_fu.errors import ArgumentError
from secure_fu.privacy._checks import positive
from secure_fu.privacy.lower_bounds._inputs import finite_values, one_sided_tail
from secure_fu.privacy.lower_bounds.bound import Assumption, EpsilonBound
from secure_fu.privacy.lower_bounds.gaussian_scores import shift_bound, shift_limit

__all__ = ["mean_bound"]


def mean_bound(
    inserted: ArrayLike,
    left_out: ArrayLike,
    *,
    centre: float = 0.0,
    noise: ArrayLike | None = None,
    scale: float | None = None,
    delta: float,
    level: float = 0.95,
) -> EpsilonBound:
    """Lower bound on epsilon from the mean of inserted canaries, for Gaussian scores of one variance.

    The dot product of a noisy sum with a canary's secret random direction has mean 0 if the canary was left out,
    whatever else is in the sum, as the direction's sign is random. So only the mean of the inserted canaries is
    measured, with half the variance of :func:`gaussian_bound`'s difference, and canaries that were left out measure the
    noise. Its square is estimated from sum (x - mean)^2 over the n inserted, sum (x - centre)^2 over the m left out and
    over ``noise``; (mean - centre) sqrt(n) over its root is noncentral t with shift mu sqrt(n), exactly.

    It assumes what :func:`gaussian_bound` assumes, and ``centre``. A known ``scale`` makes it a z-test; it must have
    been measured. The scale that somebody claims would hide noise that is too small.

    Args:
        inserted: scores of the canaries that were inserted, shape (n,), n >= 2; larger speaks for insertion.
        left_out: scores of those that were left out, shape (m,), m >= 2.
        centre: mean score of a canary that was left out.
        noise: scores of directions that no canary has, such as a zero round's; mean 0 and the scores' variance.
        scale: standard deviation of the scores, where it is known; instead of ``noise``.
        delta: the delta of the claim.
        level: one-sided confidence level.

    Raises:
        ArgumentError: fewer than two or non-finite scores, both ``noise`` and ``scale``, or an argument outside its
        domain.
    """
    inside = finite_values("inserted", inserted, fewest=2)
    outside = finite_values("left_out", left_out, fewest=2)
    tail = one_sided_tail(delta, level)
    if not math.isfinite(centre):
        raise ArgumentError("centre", centre, "a finite number")
    gap = float(inside.mean()) - centre
    unit = 1.0 / math.sqrt(len(inside))
    if scale is not None:
        if noise is not None:
            raise ArgumentError("scale", scale, "either scale or noise")
        shift = max(gap / positive("scale", scale) + float(ndtri(tail)) * unit, 0.0)
    else:
        further = finite_values("noise", [] if noise is None else noise, fewest=0)
        freedom = len(inside) - 1 + len(outside) + len(further)
        squares = float(inside.var()) * len(inside)
        squares += float(((outside - centre) ** 2).sum()) + float((further**2).sum())
        shift = shift_limit(gap, math.sqrt(squares / freedom), unit, freedom, tail)
    canaries = len(inside) + len(outside)
    return shift_bound("mean test", Assumption.CENTRED_GAUSSIAN, shift, delta=delta, level=level, canaries=canaries)
