"""Sums of gradients that have the direction of one model and the size of another: the calibration of FedEraser.

Liu, Ma, Yang, Liu 2021 (FedEraser), the step that scales a new update to the length of an old one; here for each unit
on its own, so that it bounds the unit.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secure_fu.errors import ArgumentError, DataError
from secure_fu.learning._linear import LARGEST_NORM, row_norms
from secure_fu.learning.losses import Loss, cross_entropy
from secure_fu.learning.per_record import PerRecordGradients, _finite
from secure_fu.learning.records import Records

__all__ = ["calibrated_group_sum", "calibrated_sum"]

_CHUNK_BYTES: Final = 2**28
_LEAST_NORM: Final = 1e-140
_UNCLIPPED: Final = 1e100  # the largest clip norm that gradients take


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
        NonFiniteError: the sum overflows; clip norms in range cannot do that.
    """
    bound = _checked_bound(clip_norm, ratio_limit, len(new))
    sizes = torch.zeros(len(records), dtype=torch.float64)
    _scaled_sum(gradients, old, records, loss, lambda chunk, norms: _keep_sizes(sizes[chunk], norms, bound))
    return _scaled_sum(gradients, new, records, loss, lambda chunk, norms: _factors(sizes[chunk], norms, ratio_limit))


def calibrated_group_sum(
    gradients: PerRecordGradients,
    old: NDArray[np.float64],
    new: NDArray[np.float64],
    records: Records,
    *,
    clip_norm: float,
    ratio_limit: float,
    loss: Loss = cross_entropy,
) -> NDArray[np.float64]:
    """The same with the sum of a group's gradients in the place of a record's; one group after the other.

    Raises:
        DataError: the records have no groups.
        ArgumentError: an argument does not fit.
    """
    if records.groups is None:
        raise DataError("the records have no groups; expected records with a group column for the group unit")
    bound = _checked_bound(clip_norm, ratio_limit, len(new))
    total = np.zeros(len(new))
    for group in np.unique(records.groups):
        own = records.subset(records.groups == group)
        then, now = (gradients.clipped_group_sum(vector, own, clip_norm=_UNCLIPPED, loss=loss) for vector in (old, new))
        sizes, norms = (row_norms(torch.from_numpy(gradient)[None]) for gradient in (then, now))
        total += now * float(_factors(sizes.clamp(max=bound), norms, ratio_limit))
    return total


def _checked_bound(clip_norm: float, ratio_limit: float, dimension: int) -> float:
    """What to aim at, so that the rounding of norms and products carries nothing over the clip norm."""
    if not 1e-100 <= clip_norm <= _UNCLIPPED:
        raise ArgumentError("clip_norm", clip_norm, f"a number in [1e-100, {_UNCLIPPED:g}]")
    if not 0.0 < ratio_limit <= _UNCLIPPED:
        raise ArgumentError("ratio_limit", ratio_limit, f"a positive number of at most {_UNCLIPPED:g}")
    return clip_norm * (1.0 - (dimension + 64) * 2.0**-52)


def _keep_sizes(sizes: Tensor, norms: Tensor, bound: float) -> Tensor:
    sizes.copy_(torch.where(norms <= LARGEST_NORM, norms, torch.zeros_like(norms)).clamp(max=bound))
    return torch.zeros_like(norms)


def _factors(sizes: Tensor, norms: Tensor, ratio_limit: float) -> Tensor:
    return (sizes / norms.clamp(min=_LEAST_NORM)).clamp(max=ratio_limit)


def _scaled_sum(
    gradients: PerRecordGradients,
    vector: NDArray[np.float64],
    records: Records,
    loss: Loss,
    scales: Callable[[slice, Tensor], Tensor],
) -> NDArray[np.float64]:
    """Sum of gradients times what `scales` makes of their norms, a chunk of records at a time."""
    rule = gradients._rule(vector, records, loss)
    total = torch.zeros(len(vector), dtype=torch.float64)
    rows = max(1, _CHUNK_BYTES // rule.row_bytes(records.features))
    for start in range(0, len(records), rows):
        chunk = slice(start, start + rows)
        with gradients._explained(records):
            part = rule.scaled_sum(
                records.features[chunk].to(torch.float64), records.labels[chunk], loss, partial(scales, chunk)
            )
        if part is None:
            raise ArgumentError("records", f"of shape {records.shape}", "the shape of the first records seen")
        total += part
    return _finite(total)
