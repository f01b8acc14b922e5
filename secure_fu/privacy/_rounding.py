"""The inner loop of stochastic rounding, compiled: one pass, and no copies of a vector."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secure_fu.compiled import kernel

__all__ = ["round_at_random"]

_U64 = np.uint64
_WORDS = 2.0**64


@kernel
def round_at_random(scaled: NDArray[np.float64], words: NDArray[np.uint64], rounded: NDArray[np.int64]) -> float:
    """Round each coordinate away from zero if its word is below its distance from the neighbour towards zero.

    Args:
        scaled: shape (d,), float64, finite and below 2**53 in absolute value.
        words: shape (d,), uint64; zeros everywhere round all away from zero that can be, 2**64 - 1 everywhere none.
        rounded: shape (d,), int64; written.

    Returns:
        The squared norm of `rounded`: exact up to 2**53; a larger one comes out as 2**53 or more. Partial sums of
        squares are integers, exact up to there, and 2**53 is a float64, so that no rounding falls back below it.
    """
    squared = 0.0
    for i in range(scaled.size):
        magnitude = abs(scaled[i])
        floor = np.floor(magnitude)
        # Exact: of magnitudes, the difference is a float64, and the integer part of 2**64 times it favours zero.
        if words[i] < _U64((magnitude - floor) * _WORDS):
            floor += 1.0
        squared += floor * floor
        rounded[i] = -np.int64(floor) if scaled[i] < 0.0 else np.int64(floor)
    return squared
