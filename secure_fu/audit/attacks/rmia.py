"""RMIA: is the record's likelihood ratio larger than that of most records of the population?

Zarifzadeh, Liu, Shokri 2024, arXiv 2312.03262. With p(x | theta) the target's probability of the true label and p(x)
its average over the shadow models, a record scores

    P_z [ (p(x | theta) / p(x)) / (p(z | theta) / p(z)) >= gamma ]

over records z of the population that the target was not trained on.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from secure_fu.audit.attacks._shadow_scores import ShadowScores
from secure_fu.audit.attacks.signals import log_probability
from secure_fu.errors import ArgumentError

__all__ = ["offline_scaling", "rmia"]

_GAMMA: Final = 2.0


def rmia(
    target: ArrayLike,
    shadows: ArrayLike,
    members: ArrayLike,
    *,
    population: NDArray[np.bool_],
    gamma: float = _GAMMA,
    scaling: float | None = None,
) -> NDArray[np.float64]:
    """RMIA's score of each record.

    p(z) is the mean over the shadow models without z. p(x) is the mean of the two means over shadow models with and
    without x; offline, where no shadow model knows x, ((1 + a) p_out(x) + 1 - a) / 2 with the scaling a (section 3.2
    of the paper; p_in(x) is taken for a p_out(x) + 1 - a).

    The paper's score has only as many values as there are records z, and many records tie at its ends. Ties are broken
    by the ratio itself: of a record that dominates k of m records z, the score is (k + s) / (m + 1), where s in (0, 1)
    grows with p(x | theta) / p(x). So k / m is the paper's score.

    Args:
        target: phi of the target model, shape (n,).
        shadows: phi of the shadow models, shape (S, n).
        members: bool, shape (S, n).
        population: which records are z, bool, shape (n,); none that the target was trained on.
        gamma: how much larger the ratio has to be, > 0. It moves no record past another, ties apart.
        scaling: a in [0, 1] for the offline attack; None for the online one.

    Returns:
        Scores in (0, 1), shape (n,); larger speaks for membership.

    Raises:
        ArgumentError: shapes do not fit, a value is not finite or out of range, there is no z, or too few shadow
            models for one of the records.
    """
    scores = ShadowScores.checked(target, shadows, members)
    chosen = np.asarray(population)
    if chosen.dtype != np.bool_ or chosen.shape != scores.target.shape or not chosen.any():
        raise ArgumentError(
            "population",
            f"{chosen.dtype} of shape {chosen.shape}, {int(np.count_nonzero(chosen))} of them chosen",
            f"bools of shape {scores.target.shape}, at least one true",
        )
    if not (math.isfinite(gamma) and gamma > 0.0):
        raise ArgumentError("gamma", gamma, "a finite number above 0")
    if scaling is not None and not 0.0 <= scaling <= 1.0:
        raise ArgumentError("scaling", scaling, "a number in [0, 1], or None for the online attack")
    scores.need(inside=0 if scaling is not None else 1, outside=1, attack="RMIA")
    probabilities = log_probability(scores.shadows)
    own = log_probability(scores.target)
    outside = _log_mean(probabilities, ~scores.members)
    if scaling is None:
        usual: NDArray[np.float64] = np.logaddexp(outside, _log_mean(probabilities, scores.members)) - math.log(2.0)
    else:
        # In the logarithm: exp would underflow where a record is very unlikely.
        rest = math.log(1.0 - scaling) if scaling < 1.0 else -math.inf
        usual = np.logaddexp(math.log1p(scaling) + outside, rest) - math.log(2.0)
    ratios = own - usual
    against = np.sort((own - outside)[chosen])
    dominated = np.searchsorted(against, ratios - math.log(gamma), side="right")
    result: NDArray[np.float64] = (dominated + _between_0_and_1(ratios)) / (len(against) + 1.0)
    return result


def offline_scaling(shadows: ArrayLike, members: ArrayLike) -> float:
    """The offline attack's a, by least squares on records of which shadow models with and without are at hand.

    It fits p_in(x) = a p_out(x) + 1 - a over those records: a near 1 for models that hardly memorise, near 0 for those
    that know what they have seen by heart.

    Args:
        shadows: phi of the shadow models on a pool, shape (S, n).
        members: bool, shape (S, n).

    Returns:
        a in [0, 1]; 1 where no record has shadow models on both sides.

    Raises:
        ArgumentError: shapes do not fit or a value is not finite.
    """
    array = np.asarray(shadows, dtype=np.float64)
    scores = ShadowScores.checked(array[0] if array.ndim == 2 and len(array) else array, array, members)
    both = scores.members.any(axis=0) & ~scores.members.all(axis=0)
    doubt = -np.expm1(log_probability(scores.shadows[:, both]))  # 1 - p
    inside = scores.members[:, both]
    with_it = np.where(inside, doubt, 0.0).sum(axis=0) / inside.sum(axis=0)
    without = np.where(inside, 0.0, doubt).sum(axis=0) / (~inside).sum(axis=0)
    square = float((without**2).sum())
    return 1.0 if square == 0.0 else min(1.0, float((with_it * without).sum()) / square)


def _log_mean(log_values: NDArray[np.float64], where: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Log of the mean over the models where a mask is true; shape (n,)."""
    total = special.logsumexp(np.where(where, log_values, -np.inf), axis=0)
    result: NDArray[np.float64] = total - np.log(where.sum(axis=0))
    return result


def _between_0_and_1(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A strictly growing map into (0, 1): by rank, since any fixed function would round distinct values to one."""
    distinct, place = np.unique(values, return_inverse=True)
    result: NDArray[np.float64] = (place + 1.0).astype(np.float64) / (len(distinct) + 1.0)
    return result
