"""Clipping vectors to an L2 ball in float64, with the rounding error on the safe side."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from secure_fu.errors import ArgumentError

__all__ = ["check_clip_norm", "clip_l2"]

_SMALLEST_CLIP_NORM = 2.0**-500
_LARGEST_CLIP_NORM = 2.0**500


def check_clip_norm(clip_norm: float) -> None:
    """Raises ArgumentError unless `clip_norm` lies in [2**-500, 2**500], far from float64's underflow and overflow."""
    if not _SMALLEST_CLIP_NORM <= clip_norm <= _LARGEST_CLIP_NORM:
        raise ArgumentError("clip_norm", clip_norm, "a positive finite number between 2**-500 and 2**500")


def clip_l2(vectors: NDArray[np.float64], clip_norm: float) -> NDArray[np.float64]:
    """Scales every vector that is longer than `clip_norm` down to it.

    Args:
        vectors: shape (..., d), float64; each vector along the last axis is one unit's contribution.
        clip_norm: L2 bound C, between 2**-500 and 2**500.

    Returns:
        New array of the same shape, float64.

    Raises:
        ArgumentError: `vectors` has no axis, or holds NaN or an infinity; `clip_norm` is out of range. The message
            names no coordinate.

    Formal Guarantees:
        The exact L2 norm of every returned vector is at most C, and so is its norm as computed in float64 by any order
        of summation.

        Why: with u = 2**-53, m = max |v_i| and w = v / m, the sum s of the squares of w is computed with relative error
        at most (d + 2) u (Higham 2002, section 3.1; w itself is off by u, and s >= 1 makes underflow irrelevant), so
        sqrt(s) is off by less than (d/2 + 4) u. Dividing, and multiplying w by the result, add less than 4 u. Whoever
        measures the norm again in float64 adds (d/2 + 2) u. The target norm is therefore C (1 - (d + 16) 2u), which is
        more than twice what is needed: 1.1e-10 below C, relatively, at d = 500,000.

    Edge cases:
        ==========================  =====================================================
        input                       result
        ==========================  =====================================================
        zero vector                 zero vector
        norm <= C (1 - (d+16) 2u)   unchanged, bit for bit
        norm up to 1.8e308 sqrt(d)  clipped; no intermediate overflow
        NaN, infinity               ArgumentError
        d = 0                       unchanged (empty)
        ==========================  =====================================================
    """
    check_clip_norm(clip_norm)
    vectors = np.asarray(vectors, dtype=np.float64)
    if vectors.ndim == 0:
        raise ArgumentError("vectors", "an array without axes", "an array of shape (..., d)")
    if not np.isfinite(vectors).all():
        raise ArgumentError("vectors", "an array with NaN or infinite coordinates", "finite coordinates only")
    dimension = vectors.shape[-1]
    if dimension == 0:
        return vectors.copy()
    largest = np.abs(vectors).max(axis=-1, keepdims=True)
    directions = vectors / np.where(largest > 0.0, largest, 1.0)
    lengths = np.sqrt(np.einsum("...i,...i->...", directions, directions))[..., np.newaxis]
    target = clip_norm * (1.0 - (dimension + 16) * math.ulp(1.0))
    allowed = target / np.where(largest > 0.0, lengths, 1.0)
    clipped: NDArray[np.float64] = np.where(largest > allowed, directions * allowed, vectors)
    return clipped
