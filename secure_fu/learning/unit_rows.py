"""The clipped gradient of each unit on its own, as rows: for who adds up one unit's gradients over many models."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from secure_fu.errors import ArgumentError
from secure_fu.learning._clip import Clip
from secure_fu.learning._linear import LARGEST_NORM, row_norms
from secure_fu.learning.losses import Loss, cross_entropy
from secure_fu.learning.per_record import PerRecordGradients
from secure_fu.learning.records import Records

__all__ = ["clipped_rows"]


def clipped_rows(
    gradients: PerRecordGradients,
    vector: NDArray[np.float64],
    records: Records,
    units: NDArray[np.int64],
    *,
    clip_norm: float,
    loss: Loss = cross_entropy,
) -> NDArray[np.float64]:
    """For each unit clip(sum of the gradients of its records), in one pass over the records.

    Guarantee:
        Every row's L2 norm is at most ``clip_norm``, and a row is a function of its unit's own records alone, up to the
        rounding of products of other sizes; what :class:`PerRecordGradients` says of both, and of its tests, holds here
        as well. A unit whose sum is NaN, infinite or longer than 1e200 has a row of zeros.

    Args:
        gradients: of the model.
        vector: the model, float64 (d,).
        records: n of them, n = 0 allowed.
        units: number of the unit that each record belongs to, shape (n,).
        clip_norm: C.

    Returns:
        float64, shape (k, d): a row for each of the k different numbers, in ascending order. The caller sees to it that
        so many fit in memory.

    Raises:
        ArgumentError: an argument does not fit, or the module mixes records.
    """
    if units.shape != (len(records),):
        raise ArgumentError("units", units.shape, f"shape ({len(records)},)")
    clip = Clip(clip_norm, len(vector), normalise=False)
    rows = np.empty((len(np.unique(units)), len(vector)))
    for places, sums in gradients.unit_sums(vector, records, units, loss=loss):
        part = torch.cat(sums, dim=1)
        norms = row_norms(part)
        part *= clip.scales(norms)[:, None]
        part[~(norms <= LARGEST_NORM)] = 0.0
        rows[places] = part.numpy()
    clip.warn()
    return rows
