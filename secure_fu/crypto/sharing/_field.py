"""The prime field of 65521 elements, which key shares live in, and matrices over it.

Elements are int64 arrays with values from 0 to p - 1. A product of two is below 2^32, so a matrix product with an inner
dimension up to 2^31 is exact. Logarithms are taken of evaluation points only, which are public; what is shared is added
and multiplied, and never an index into a table.
"""

from __future__ import annotations

import functools
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secure_fu.crypto.randomness import RandomStream
from secure_fu.errors import ArgumentError

__all__ = [
    "FIELD_PRIME",
    "Elements",
    "check_elements",
    "evaluation_matrix",
    "lagrange",
    "null_space",
    "parity_checks",
    "uniform_elements",
]

FIELD_PRIME: Final = 65521
"""p, the largest prime below 2^16: an element is two bytes."""

LARGEST_LIFTED: Final = FIELD_PRIME // 2
"""The largest absolute value of an integer that its residue modulo p stands for."""

_GENERATOR: Final = 17  # the smallest primitive root

Elements: TypeAlias = NDArray[np.int64]


def check_elements(argument: str, values: NDArray[np.uint16], *, length: int) -> None:
    """Check that ``values`` is uint16 of shape (length,), every value below p.

    Raises:
        ArgumentError: it is not. The message says type and shape only, for the values are secret.
    """
    if values.dtype != np.uint16 or values.shape != (length,) or not length or int(values.max()) >= FIELD_PRIME:
        found = f"{values.dtype} of shape {values.shape}"
        raise ArgumentError(argument, found, f"uint16 of shape ({max(length, 1)},), every value below {FIELD_PRIME}")


def uniform_elements(count: int, *, stream: RandomStream) -> Elements:
    """Draw ``count`` independent, exactly uniform elements from a stream of uniform words: shape (count,).

    Each word is four candidates of 16 bits, lowest first; those not below p (15 of 65536) are thrown away.
    """
    found = np.empty(count, dtype=np.int64)
    filled = 0
    while filled < count:
        candidates = stream.words(-(-(count - filled) // 4)).astype("<u8", copy=False).view("<u2")
        good = candidates[candidates < FIELD_PRIME][: count - filled]
        found[filled : filled + good.size] = good
        filled += good.size
    return found


@functools.cache
def _tables() -> tuple[Elements, Elements]:
    """Powers of the generator, shape (p - 1,), and logarithms to its base, shape (p,); that of zero is set to zero."""
    powers = np.ones(1, dtype=np.int64)
    while powers.size < FIELD_PRIME - 1:
        powers = np.concatenate([powers, powers * pow(_GENERATOR, powers.size, FIELD_PRIME) % FIELD_PRIME])
    powers = powers[: FIELD_PRIME - 1]
    logs = np.zeros(FIELD_PRIME, dtype=np.int64)
    logs[powers] = np.arange(FIELD_PRIME - 1)
    return powers, logs


def _log_differences(targets: Elements, points: Elements) -> Elements:
    logs: Elements = _tables()[1][(targets[:, None] - points) % FIELD_PRIME]
    return logs


def lagrange(points: Elements, targets: Elements, *, keep: NDArray[np.bool_] | None = None) -> Elements:
    """Return the matrices that take a polynomial's values at the kept points to its values at ``targets``.

    Args:
        points: shape (r,), distinct.
        targets: shape (s,). The row of a target that is one of the kept points is that point's unit vector.
        keep: shape (b, r), one choice of points a row; ``None`` keeps all of them, once.

    Returns:
        shape (b, s, r), zero in the columns of points that are not kept; for polynomials of a degree below the number
        of kept points.
    """
    kept = np.ones((1, points.size), dtype=np.bool_) if keep is None else keep
    powers, _ = _tables()
    to_targets = _log_differences(targets, points)
    # The difference of a point with itself is zero, whose logarithm counts as zero: it drops out of the product.
    numerators = kept.astype(np.int64) @ to_targets.T
    denominators = kept.astype(np.int64) @ _log_differences(points, points).T
    exponents = numerators[:, :, None] - to_targets - denominators[:, None, :]
    found = np.where(kept[:, None, :], powers[exponents % (FIELD_PRIME - 1)], 0)
    same = (targets[:, None] == points) & kept[:, None, :]
    hit = same.any(axis=2, keepdims=True)
    return np.where(hit, same.astype(np.int64), found)


def parity_checks(points: Elements, dimension: int) -> Elements:
    """Return H, shape (r - dimension, r), with H y = 0 just if y are values of a polynomial of degree < ``dimension``.

    Row i is v_l x_l^i with v_l the inverse of the product of x_l - x_k over all k other than l: the dual of the
    generalised Reed-Solomon code (MacWilliams and Sloane, chapter 10, theorem 4). ``points`` are distinct and not zero.
    """
    powers, logs = _tables()
    inverse = -_log_differences(points, points).sum(axis=1)
    rows = np.arange(points.size - dimension)
    checks: Elements = powers[(rows[:, None] * logs[points] + inverse) % (FIELD_PRIME - 1)]
    return checks


def evaluation_matrix(points: Elements, count: int) -> Elements:
    """Return the matrix of x^k for k < ``count``, shape (r, count); ``points`` are not zero."""
    powers, logs = _tables()
    matrix: Elements = powers[logs[points][:, None] * np.arange(count) % (FIELD_PRIME - 1)]
    return matrix


def null_space(matrix: Elements) -> Elements:
    """Return a basis of the vectors that ``matrix``, shape (a, b), takes to zero, as columns: shape (b, b - rank)."""
    rows = matrix % FIELD_PRIME
    width = rows.shape[1]
    pivots: list[int] = []
    for column in range(width):
        rank = len(pivots)
        candidates = np.flatnonzero(rows[rank:, column])
        if not candidates.size:
            continue
        chosen = rank + int(candidates[0])
        rows[[rank, chosen]] = rows[[chosen, rank]]
        rows[rank] = rows[rank] * pow(int(rows[rank, column]), -1, FIELD_PRIME) % FIELD_PRIME
        factors = rows[:, column].copy()
        factors[rank] = 0
        rows = (rows - factors[:, None] * rows[rank]) % FIELD_PRIME
        pivots.append(column)
    free = [column for column in range(width) if column not in pivots]
    basis = np.zeros((width, len(free)), dtype=np.int64)
    basis[free, np.arange(len(free))] = 1
    basis[pivots] = -rows[: len(pivots), free] % FIELD_PRIME
    return basis


def lifted(values: Elements) -> Elements:
    """Return the integers from -(p - 1) / 2 to (p - 1) / 2 that ``values`` are congruent to, modulo p."""
    return (values + LARGEST_LIFTED) % FIELD_PRIME - LARGEST_LIFTED
