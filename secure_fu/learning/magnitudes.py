"""Sums of the magnitudes of gradients: how much each parameter matters to records or groups, whatever the direction.

A Fisher diagonal is the mean of the squares g_i^2 of single records' gradients (Amari 1998). Under a bound on each
record's contribution the squares are a poor use of it: a gradient of norm C over k like coordinates has squares of
norm C^2 / sqrt(k). Magnitudes |g_i| have the norm of the gradient itself.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from secure_fu.errors import DataError
from secure_fu.learning._clip import Clip, finite
from secure_fu.learning._explicit import combine
from secure_fu.learning.losses import Loss, cross_entropy
from secure_fu.learning.per_record import PerRecordGradients
from secure_fu.learning.records import Records

__all__ = ["magnitude_sum"]


def magnitude_sum(
    gradients: PerRecordGradients,
    vector: NDArray[np.float64],
    records: Records,
    *,
    clip_norm: float,
    by_group: bool = False,
    loss: Loss = cross_entropy,
) -> NDArray[np.float64]:
    """Sum over records, or over groups, of |g| scaled to norm C: g is the gradient, |.| goes coordinate by coordinate.

    Guarantee:
        Adding or removing one record (one group) moves the result by at most ``clip_norm`` in L2, up to the float64
        rounding of the sum itself.

    Why it holds:
        | |g| | = |g|, and g is scaled as :class:`PerRecordGradients` scales with ``normalise``: what that class says of
        rounding and of its tests holds here as well. What comes of one record shows in no error: a gradient (of a
        group: its sum) that is NaN, infinite or longer than 1e200 adds exactly zero.

    Gradients are formed one by one, in chunks of at most 32 MiB.

    Args:
        gradients: of the model.
        vector: the model, float64 (d,).
        records: n of them, n = 0 allowed.
        clip_norm: C, the L2 norm of what one record or group adds; a gradient of zero adds zero.
        by_group: clip the sum of a group's gradients as a whole.
        loss: (logits (n, classes), labels (n,)) -> (n,), in float64.

    Returns:
        float64, shape (d,), no coordinate below 0.

    Raises:
        ArgumentError, NonFiniteError: as :meth:`PerRecordGradients.clipped_sum`.
        DataError: groups are asked for and the records have none.
    """
    clip = Clip(clip_norm, len(vector), normalise=True)
    units = records.groups if by_group else np.arange(len(records))
    if units is None:
        raise DataError("the records have no groups; expected records with a group column for the group unit")
    total = torch.zeros(len(vector), dtype=torch.float64)
    for _, sums in gradients.unit_sums(vector, records, units, loss=loss):
        total += combine([block.abs_() for block in sums], clip.scales)
    clip.warn()
    return finite(total)
