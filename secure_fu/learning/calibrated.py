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
from secure_fu.learning._clip import LARGEST_CLIP_NORM, LEAST_NORM, attainable
from secure_fu.learning._linear import LARGEST_NORM
from secure_fu.learning.losses import Loss, cross_entropy
from secure_fu.learning.per_record import PerRecordGradients
from secure_fu.learning.records import Records

__all__ = ["calibrated_sum"]


def calibrated_sum(
    gradients: PerRecordGradients,
    old: NDArray[np.float64],
    new: NDArray[np.float64],
    records: Records,
    *,
    clip_norm: float,
    ratio_limit: float,
    by_group: bool = False,
    loss: Loss = cross_entropy,
) -> NDArray[np.float64]:
    """Sum over records of g(new) min(min(|g(old)|, C) / |g(new)|, ratio_limit), g(w) the record's gradient at w.

    Guarantee:
        Adding or removing one record (one group) moves the result by at most ``clip_norm`` in L2, up to the float64
        rounding of the sum, whatever the two models are and whatever ``ratio_limit``: the ratio is the record's own,
        and its product with the gradient is no longer than C. Assumes what :class:`PerRecordGradients` assumes.

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
        by_group: the sum of a group's gradients in the place of a record's.

    Returns:
        float64, shape (d,).

    Raises:
        ArgumentError: an argument does not fit.
        DataError: groups are asked for and the records have none.
        NonFiniteError: the sum overflows; clip norms in range cannot do that.
    """
    bound = attainable(clip_norm, len(new))
    if not 0.0 < ratio_limit <= LARGEST_CLIP_NORM:
        raise ArgumentError("ratio_limit", ratio_limit, f"a positive number of at most {LARGEST_CLIP_NORM:g}")
    units = records.groups if by_group else None
    if by_group and units is None:
        raise DataError("the records have no groups; expected records with a group column for the group unit")
    sizes = torch.zeros(len(records), dtype=torch.float64)  # of units there are no more than of records

    def keep(places: slice, norms: Tensor) -> Tensor:
        sizes[places] = torch.where(norms <= LARGEST_NORM, norms, 0.0).clamp(max=bound)
        return torch.zeros_like(norms)

    def factors(places: slice, norms: Tensor) -> Tensor:
        return (sizes[places] / norms.clamp(min=LEAST_NORM)).clamp(max=ratio_limit)

    gradients.scaled_sum(old, records, keep, units=units, loss=loss)
    return gradients.scaled_sum(new, records, factors, units=units, loss=loss)
