"""Solving (H + damping) x = b where all that is known of H is noisy: as a matrix, or by its products."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from secure_fu.errors import ArgumentError

__all__ = ["chebyshev", "solve_damped"]


def solve_damped(matrix: NDArray[np.float64], damping: float, right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Solve (H + damping) x = b for the nearest positive semidefinite H: the true one is, only its noise is not.

    Args:
        matrix: symmetric, shape (d, d).
        damping: above 0.
        right: b, shape (d,).

    Returns:
        x, shape (d,).

    Raises:
        ArgumentError: the damping is not positive.
    """
    if not damping > 0.0:
        raise ArgumentError("damping", damping, "a positive number")
    values, vectors = np.linalg.eigh(matrix)
    solved: NDArray[np.float64] = vectors @ ((vectors.T @ right) / (np.maximum(values, 0.0) + damping))
    return solved


def chebyshev(
    product: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    right: NDArray[np.float64],
    *,
    lowest: float,
    highest: float,
    products: int,
) -> NDArray[np.float64]:
    """Solve A x = b by Chebyshev's semi-iteration, from so many products with A (Golub and Varga 1961).

    Its coefficients follow from the interval alone. Those of conjugate gradients are ratios of inner products of what
    was measured: noise in one of them bends every later direction, and conjugacy, from which its speed comes, is lost.
    Here the noise of a product, which shrinks with the direction, is carried along by a recurrence that contracts.

    Args:
        product: A times a vector (d,), with noise.
        right: b, shape (d,).
        lowest, highest: an interval, above 0, that holds the eigenvalues of A.
        products: how many to take, at least 1. Without noise the error is at most 2 r^(products + 1) of b's solution,
            r = (sqrt(c) - 1) / (sqrt(c) + 1), c = highest / lowest.

    Returns:
        x, shape (d,).

    Raises:
        ArgumentError: the interval is none.
    """
    if not 0.0 < lowest < highest < math.inf:
        raise ArgumentError("lowest", lowest, f"a number between 0 and highest, {highest!r}")
    centre, radius = (highest + lowest) / 2.0, (highest - lowest) / 2.0
    ratio = radius / centre
    residual = right.astype(np.float64)
    direction = residual / centre
    found = direction
    for _ in range(products):
        residual = residual - product(direction)
        following = 1.0 / (2.0 * centre / radius - ratio)
        direction = following * ratio * direction + (2.0 * following / radius) * residual
        ratio = following
        found = found + direction
    return found
