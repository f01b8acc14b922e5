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
import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["rotate", "rotate_back", "transform_length"]

_DOMAIN = b"secure-fu/1/rotation-signs\0"
_FACTOR_BITS = 5  # H is applied as a Kronecker product of matrices of order 32: few passes, and each a matrix product


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
    rotated[:length] = _transform(rotated[:length] * first)
    if length < vector.size:
        rotated[-length:] = _transform(rotated[-length:] * second)
    return rotated


def rotate_back(vector: NDArray[np.float64], seed: bytes) -> NDArray[np.float64]:
    """The transpose, and inverse, of :func:`rotate` with the same seed; shapes and errors as there."""
    length = transform_length(vector.size)
    first, second = _signs(length, seed)
    rotated = vector.copy()
    if length < vector.size:
        rotated[-length:] = _transform(rotated[-length:]) * second
    rotated[:length] = _transform(rotated[:length]) * first
    return rotated


def _signs(length: int, seed: bytes) -> NDArray[np.float64]:
    """D_1 and D_2, shape (2, length), float64: 1 or -1."""
    row = -(-length // 8)
    digest = np.frombuffer(hashlib.shake_256(_DOMAIN + seed).digest(2 * row), dtype=np.uint8).reshape(2, row)
    bits = np.unpackbits(digest, axis=1, count=length, bitorder="little")
    return 1.0 - 2.0 * bits.astype(np.float64)


def _transform(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """H times a vector whose length is a power of two."""
    length = vector.size
    product, done = vector.reshape(-1, 1, 1), 1
    while done < length:
        order = min(1 << _FACTOR_BITS, length // done)
        # The matrices are symmetric, so a product from the right serves the innermost factor, without tiny columns.
        if done == 1:
            product = (product.reshape(-1, order) @ _matrix(order)).reshape(-1, 1, order)
        else:
            product = np.matmul(_matrix(order), product.reshape(-1, order, done))
        done *= order
    return product.reshape(length) / math.sqrt(length)


@cache
def _matrix(order: int) -> NDArray[np.float64]:
    """The Walsh-Hadamard matrix of 1 and -1, shape (order, order); `order` is a power of two (Sylvester)."""
    matrix = np.ones((1, 1))
    while len(matrix) < order:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix
