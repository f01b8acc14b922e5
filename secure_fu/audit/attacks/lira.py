"""LiRA: how likely the target's phi is for a model trained with the record, against one trained without it.

Carlini et al. 2022, arXiv 2112.03570. Both sides' means and variances come from shadow models. The offline attack knows
shadow models without the record only, and asks how far in their upper tail the target lies: it is a test of one side,
and its score is a tail probability, not a density, which would call records that the target fits too badly members.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from secure_fu.audit.attacks._shadow_scores import Moments, ShadowScores, moments
from secure_fu.audit.attacks.shrinkage import offline_predictive, online_predictives

__all__ = ["Variance", "lira_offline", "lira_online"]

_LEAST_DEVIATION: Final = 1e-6
_UNDERFLOW: Final = -600.0  # logs of tails below this are of numbers that are about to round to 0


class Variance(Enum):
    """How the variance of phi over models is had for one record.

    SHRUNKEN: the record's own, drawn towards that of all records; with a prior of the means, online, and a Student
        distribution. For any number of shadow models.
    FIXED: one variance for all records, each side its own: the mean of the records' variances.
    PER_RECORD: the record's own; for at least 64 shadow models.
    """

    SHRUNKEN = "shrunken"
    FIXED = "fixed"
    PER_RECORD = "per record"


def lira_online(
    target: ArrayLike, shadows: ArrayLike, members: ArrayLike, *, variance: Variance = Variance.SHRUNKEN
) -> NDArray[np.float64]:
    """Log of the likelihood ratio of the target's phi, with the record against without it.

    Args:
        target: phi of the target model, shape (n,).
        shadows: phi of the shadow models, shape (S, n).
        members: bool, shape (S, n); at least two true and two false for each record.
        variance: how variances are had.

    Returns:
        Scores of shape (n,); larger speaks for membership.

    Raises:
        ArgumentError: shapes do not fit, a value is not finite, or a record has fewer than two models on a side.
    """
    scores = ShadowScores.checked(target, shadows, members)
    scores.need(inside=2, outside=2, attack="online LiRA")
    inside, outside = moments(scores, inside=True), moments(scores, inside=False)
    if variance is Variance.SHRUNKEN:
        with_it, without = (
            stats.t.logpdf(scores.target, side.freedom, loc=side.location, scale=side.scale)
            for side in online_predictives(inside, outside)
        )
    else:
        with_it, without = (
            stats.norm.logpdf(scores.target, loc=side.mean, scale=_deviation(side, variance))
            for side in (inside, outside)
        )
    result: NDArray[np.float64] = with_it - without
    return result


def lira_offline(
    target: ArrayLike, shadows: ArrayLike, members: ArrayLike, *, variance: Variance = Variance.SHRUNKEN
) -> NDArray[np.float64]:
    """Minus the log of the chance that a model without the record has at least the target's phi.

    Args:
        target: phi of the target model, shape (n,).
        shadows: phi of the shadow models, shape (S, n).
        members: bool, shape (S, n); at least two false for each record. Models with the record are not looked at.
        variance: how variances are had.

    Returns:
        Scores of shape (n,), at least 0; larger speaks for membership.

    Raises:
        ArgumentError: shapes do not fit, a value is not finite, or a record has fewer than two models without it.
    """
    scores = ShadowScores.checked(target, shadows, members)
    scores.need(inside=0, outside=2, attack="offline LiRA")
    outside = moments(scores, inside=False)
    if variance is Variance.SHRUNKEN:
        side = offline_predictive(outside)
        tail = _student_tail((scores.target - side.location) / side.scale, side.freedom)
    else:
        tail = stats.norm.logsf(scores.target, loc=outside.mean, scale=_deviation(outside, variance))
    result: NDArray[np.float64] = -tail
    return result


def _deviation(side: Moments, variance: Variance) -> NDArray[np.float64]:
    """Standard deviation of phi for each record, from this side's models and no others."""
    freedom = side.count - 1.0
    own = side.scatter / freedom
    if variance is Variance.FIXED:
        own = np.full(len(own), side.scatter.sum() / freedom.sum())
    return np.maximum(np.sqrt(own), _LEAST_DEVIATION)


def _student_tail(values: NDArray[np.float64], freedom: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log of the chance that a Student variable is above each value, also where that chance is below 1e-300.

    There the first term of the tail's expansion is right to a relative error of about 1 / value^2.
    """
    with np.errstate(divide="ignore"):
        tail: NDArray[np.float64] = np.asarray(stats.t.logsf(values, freedom))
    deep = tail < _UNDERFLOW
    z, nu = values[deep], freedom[deep]
    tail[deep] = stats.t.logpdf(z, nu) + np.log((nu + z**2) / (nu * z))
    return tail
