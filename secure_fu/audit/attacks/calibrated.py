"""The loss against what it usually is without the record (Watson et al. 2022, arXiv 2111.08440)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from secure_fu.audit.attacks._shadow_scores import ShadowScores
from secure_fu.audit.attacks.signals import log_probability

__all__ = ["calibrated_attack"]


def calibrated_attack(target: ArrayLike, shadows: ArrayLike, members: ArrayLike) -> NDArray[np.float64]:
    """By how much the target's loss on a record is below the mean loss of the shadow models without that record.

    Args:
        target: phi of the target model, shape (n,).
        shadows: phi of the shadow models, shape (S, n).
        members: bool, shape (S, n).

    Returns:
        Scores of shape (n,); larger speaks for membership.

    Raises:
        ArgumentError: shapes do not fit, a value is not finite, or a record is in every shadow model.
    """
    scores = ShadowScores.checked(target, shadows, members)
    scores.need(inside=0, outside=1, attack="the calibrated loss")
    outside = ~scores.members
    usual = np.where(outside, log_probability(scores.shadows), 0.0).sum(axis=0) / outside.sum(axis=0)
    result: NDArray[np.float64] = log_probability(scores.target) - usual
    return result
