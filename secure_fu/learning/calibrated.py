"""Sums of gradients that have the direction of one model and the size of another: the calibration of FedEraser.

Liu, Ma, Yang, Liu 2021 (FedEraser), the step that scales a new update to the length of an old one; here for each unit
on its own, so that it bounds the unit.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secure_fu.errors import ArgumentError, DataError
from secure_fu.learning._linear import LARGEST_NORM
from secure_fu.learning.losses import Loss, cross_entropy
from secure_fu.learning.per_record import PerRecordGradients
from secure_fu.learning.records import Records

__all__ = ["calibrated_group_sum", "calibrated_sum"]

_ROWS = 4096  # a chunk's worth of records
_LEAST_NORM = 1e-140
_UNCLIPPED = 1e100  # of the clip norms that gradients take, the largest


def calibrated_sum(
    gradients: PerRecordGradients,
    old: NDArray[np.float64],
    new: NDArray[np.float64],
    records: Records,
    *,
    clip_norm: float,
    ratio_limit: float,
    loss: Loss = cross_entropy,
) -> NDArray[np.float64]:
    """Sum over records of g(new) min(min(|g(old)|, C) / |g(new)|, ratio_limit), g(w) the record's gradient at w.

    Guarantee:
        Adding or removing one record moves the result by at most ``clip_norm`` in L2, up to the float64 rounding of
        the sum, whatever the two models are and whatever ``ratio_limit``: the ratio is the record's own, and its
        product with the gradient is no longer than C. Assumes what :class:`PerRecordGradients` assumes.

    Edge cases:
        ==================================  =====================================================
        no records                          the zero vector
        g(new) or g(old) is zero            adds zero
        |g(new)| far below |g(old)|         is scaled up by ``ratio_limit`` and no more
        a norm that is NaN or above 1e200,  adds exactly zero
        at either model
        ==================================  =====================================================

    Args:
        gradients: of the model.
        old, new: models, float64, shape (d,).
        records: n of them, n = 0 allowed.
        clip_norm: C, in [1e-100, 1e100].
        ratio_limit: bound on the factor; public, positive and finite.

    Returns:
        float64, shape (d,).

    Raises:
        ArgumentError: an argument does not fit.
    """
    bound = _check(clip_norm, ratio_limit, len(new))
    total = torch.zeros(len(new), dtype=torch.float64)
    if len(records) == 0:
        return np.asarray(total.numpy())
    sizes = torch.zeros(len(records), dtype=torch.float64)

    def at_old(start: int, norms: Tensor) -> Tensor:
        kept = torch.where(norms <= LARGEST_NORM, norms, torch.zeros_like(norms))
        sizes[start : start + len(norms)] = kept.clamp(max=bound)
        return torch.zeros_like(norms)

    def at_new(start: int, norms: Tensor) -> Tensor:
        return (sizes[start : start + len(norms)] / norms.clamp(min=_LEAST_NORM)).clamp(max=ratio_limit)

    for vector, scales in ((old, at_old), (new, at_new)):
        for start, part in gradients.scaled_sums(vector, records, scales, rows=_ROWS, loss=loss):
            total += part
    return np.asarray(total.numpy())
