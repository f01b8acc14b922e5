"""What sums of clipped gradients share: the factors of a clip, and the refusal of a sum that is none."""

from __future__ import annotations

import logging
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from secure_fu.errors import ArgumentError, NonFiniteError
from secure_fu.learning._linear import LARGEST_NORM

__all__ = ["LARGEST_CLIP_NORM", "LEAST_NORM", "Clip", "attainable", "finite"]

LEAST_NORM: Final = 1e-140
"""Shorter gradients are scaled as if they had this length: with clip norms up to 1e100, factors stay finite."""

LARGEST_CLIP_NORM: Final = 1e100

_LOGGER = logging.getLogger("secure_fu")


def attainable(clip_norm: float, dimension: int) -> float:
    """What to aim at, so that the rounding of norms and products carries nothing over the clip norm.

    Raises:
        ArgumentError: the clip norm is out of range.
    """
    if not 1e-100 <= clip_norm <= LARGEST_CLIP_NORM:
        raise ArgumentError("clip_norm", clip_norm, f"a number in [1e-100, {LARGEST_CLIP_NORM:g}]")
    return clip_norm * (1.0 - (dimension + 64) * 2.0**-52)


class Clip:
    """From the norms of gradients to the factors that bring them to at most ``clip_norm``.

    Args:
        clip_norm: in [1e-100, 1e100].
        dimension: d, of a gradient.
        normalise: scale shorter gradients up as well.

    Raises:
        ArgumentError: the clip norm is out of range.
    """

    def __init__(self, clip_norm: float, dimension: int, normalise: bool) -> None:
        self._bound = attainable(clip_norm, dimension)
        self._normalise = normalise
        self._all_finite = True

    def scales(self, norms: Tensor) -> Tensor:
        """Not to be used where a norm is NaN or above LARGEST_NORM: whoever multiplies leaves these rows out."""
        self._all_finite &= bool((norms <= LARGEST_NORM).all())
        scales = self._bound / norms.clamp(min=LEAST_NORM)
        return scales if self._normalise else scales.clamp(max=1.0)

    def warn(self) -> None:
        """Say in the log that some gradients counted as zero, if some did."""
        if not self._all_finite:
            _LOGGER.warning("some gradients are not finite and count as zero")


def finite(total: Tensor) -> NDArray[np.float64]:
    """A sum (d,) as an array.

    Raises:
        NonFiniteError: it is none.
    """
    result: NDArray[np.float64] = total.numpy()
    if not np.isfinite(result).all():
        raise NonFiniteError("the sum of clipped gradients is NaN or infinite; expected a finite one")
    return result
