"""A public random rotation of any length: random signs and two overlapping Walsh-Hadamard transforms, no padding.

Let P be the largest power of two that is at most d, so P > d / 2. With H the orthonormal Walsh-Hadamard matrix of order
P and D_1, D_2 diagonal matrices of independent random signs, y = R x is made in two steps:

1. the first P coordinates of x are multiplied by H D_1;
2. the last P coordinates of the result are multiplied by H D_2. Left out if P = d.

R is a product of orthonormal matrices, hence orthonormal. Every coordinate is the outcome of one step or of both, and
the last step that made it is a sum of P independent signs times fixed numbers / sqrt(P): by Hoeffding's lemma every
coordinate of R x is sub-Gaussian with variance proxy |x|**2 / P, for every x that does not depend on the signs. Cutting
the vector into blocks, as large as a small padding allows, can do far worse: for d = 7850 and 1 % of padding these are
blocks of 64, and all of |x| may sit in one of them.

The signs are the bits of SHAKE-256("secure-fu/1/rotation-signs" || 00 || seed), low bit of a byte first; a set bit
is -1. D_1 takes the first P bits, D_2 starts at the next whole byte.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from secure_fu.compiled import kernel

__all__ = ["rotate", "rotate_back", "transform_length"]

_DOMAIN = b"secure-fu/1/rotation-signs\0"


def transform_length(dimension: int) -> int:
    """P, the largest power of two that is at most `dimension`."""
    return 1 << (dimension.bit_length() - 1)


def rotate(vector: NDArray[np.float64], seed: bytes) -> NDArray[np.float64]:
    """R x.

    Args:
        vector: x, shape (d,), d at least 1, float64; not changed.
        seed: public.

    Returns:
        New array of shape (d,), float64; off by less than 2 (log2(d) + 2) 2**-52 |x| in L2.
    """
    length = transform_length(vector.size)
    first, second = _signs(length, seed)
    rotated = vector.copy()
    _turn(rotated[:length], first)
    _transform(rotated[:length])
    if length < vector.size:
        _turn(rotated[-length:], second)
        _transform(rotated[-length:])
    return rotated


def rotate_back(vector: NDArray[np.float64], seed: bytes) -> NDArray[np.float64]:
    """The transpose, and inverse, of :func:`rotate` with the same seed; shapes and errors as there."""
    length = transform_length(vector.size)
    first, second = _signs(length, seed)
    rotated = vector.copy()
    if length < vector.size:
        _transform(rotated[-length:])
        _turn(rotated[-length:], second)
    _transform(rotated[:length])
    _turn(rotated[:length], first)
    return rotated


def _signs(length: int, seed: bytes) -> NDArray[np.uint8]:
    """D_1 and D_2 as bits, shape (2, ceil(length / 8))."""
    row = -(-length // 8)
    return np.frombuffer(hashlib.shake_256(_DOMAIN + seed).digest(2 * row), dtype=np.uint8).reshape(2, row)


@kernel
def _turn(vector: NDArray[np.float64], signs: NDArray[np.uint8]) -> None:
    """Multiply by signs, in place: bit i, low bit of a byte first, turns coordinate i."""
    for i in range(vector.size):
        if (signs[i >> 3] >> np.uint8(i & 7)) & np.uint8(1):
            vector[i] = -vector[i]


@kernel
def _transform(vector: NDArray[np.float64]) -> None:
    """Multiply by H, in place, a vector whose length is a power of two (Sylvester's order): two steps in each pass."""
    half = 1
    while 4 * half <= vector.size:
        for start in range(0, vector.size, 4 * half):
            first = vector[start : start + half]
            second = vector[start + half : start + 2 * half]
            third = vector[start + 2 * half : start + 3 * half]
            fourth = vector[start + 3 * half : start + 4 * half]
            for i in range(half):
                a, b = first[i] + second[i], first[i] - second[i]
                c, d = third[i] + fourth[i], third[i] - fourth[i]
                first[i], second[i], third[i], fourth[i] = a + c, b + d, a - c, b - d
        half *= 4
    if half < vector.size:
        for i in range(half):
            a, b = vector[i], vector[half + i]
            vector[i], vector[half + i] = a + b, a - b
    root = np.sqrt(vector.size)
    for i in range(vector.size):
        vector[i] /= root
