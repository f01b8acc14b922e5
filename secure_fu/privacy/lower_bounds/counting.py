"""The classical bound: how often a threshold that was fixed beforehand is passed, by Clopper and Pearson."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv

from secure_fu.errors import ArgumentError
from secure_fu.privacy.lower_bounds._inputs import finite_values, one_sided_tail
from secure_fu.privacy.lower_bounds.bound import Assumption, EpsilonBound

__all__ = ["counting_bound", "epsilon_of_counts"]


def counting_bound(
    inserted: ArrayLike, left_out: ArrayLike, *, threshold: float, delta: float, level: float = 0.95
) -> EpsilonBound:
    """Lower bound on epsilon from true and false positives at one threshold.

    Every (epsilon, delta)-DP mechanism has true positive rate <= e^epsilon * false positive rate + delta (Kairouz, Oh,
    Viswanath 2015, arXiv 1311.0776, theorem 2.1). The lower limit of the first and the upper limit of the second,
    each Clopper and Pearson's at (1 - ``level``) / 2, put into it (Jagielski, Ullman, Oprea 2020, arXiv 2006.07709).

    Assumes that the scores of different canaries are independent, as they are over independent runs. Canaries of one
    run share its noise; then nothing proves this bound, and :func:`one_run_bound` is the one to go by.

    Args:
        inserted: scores of the canaries that were inserted, shape (a,), a >= 1; larger speaks for insertion.
        left_out: scores of those that were left out, shape (b,), b >= 1.
        threshold: a score of at least this counts as a guess that the canary was inserted. Fixed before the scores
            were seen: the best of many thresholds is not a bound.
        delta: the delta of the claim.
        level: one-sided confidence level.

    Raises:
        ArgumentError: an empty, non-finite or not one-dimensional array, or an argument outside its domain.
    """
    inside = finite_values("inserted", inserted, fewest=1)
    outside = finite_values("left_out", left_out, fewest=1)
    tail = one_sided_tail(delta, level)
    if not math.isfinite(threshold):
        raise ArgumentError("threshold", threshold, "a finite number")

    def epsilon(hits: int, alarms: int) -> float:
        return float(epsilon_of_counts(hits, len(inside), alarms, len(outside), delta=delta, tail=tail))

    return EpsilonBound(
        method="Clopper-Pearson",
        assumption=Assumption.INDEPENDENT,
        value=epsilon(int((inside >= threshold).sum()), int((outside >= threshold).sum())),
        largest=epsilon(len(inside), 0),
        delta=delta,
        level=level,
        canaries=len(inside) + len(outside),
    )


def epsilon_of_counts(
    hits: ArrayLike, inserted: int, alarms: ArrayLike, left_out: int, *, delta: float, tail: float
) -> NDArray[np.float64]:
    """The bound from counts, which need not be whole numbers; arrays of one shape.

    Args:
        hits: inserted canaries at or above the threshold.
        inserted: number of inserted canaries.
        alarms: canaries at or above the threshold that were left out.
        left_out: their number.
        delta: the delta of the claim.
        tail: 1 - level.
    """
    found, raised = np.asarray(hits, dtype=np.float64), np.asarray(alarms, dtype=np.float64)
    # The clips keep the arguments positive where the limit is 0 or 1 anyway.
    least = betaincinv(found.clip(min=1e-9), inserted - found + 1.0, tail / 2.0)
    most = betaincinv(raised + 1.0, (left_out - raised).clip(min=1e-9), 1.0 - tail / 2.0)
    least = np.where(found <= 0.0, 0.0, least)
    most = np.where(raised >= left_out, 1.0, most)
    return np.log(np.maximum((least - delta) / most, 1.0))
