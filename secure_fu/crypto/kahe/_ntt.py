"""The number-theoretic transform modulo primes below 2^28: products in Z_p[X] / (X^N + 1).

The transform of s is its values at the N roots of X^N + 1 in Z_p, in the order s^[j] = s(psi^(2 r(j) + 1)), where r
reverses the log2(N) bits of j and psi = x^((p - 1) / 2N) for the smallest x >= 2 that makes psi^N = -1 (the smallest
quadratic non-residue). Merged twiddle factors as in Longa, Naehrig, "Speeding up the number theoretic transform for
faster ideal lattice-based cryptography" (CANS 2016), with lazy reduction after Harvey, "Faster arithmetic for
number-theoretic transforms" (2014): residues stay below 2p or 4p, which is below 2^30, and multiplication by a constant
w uses Shoup's quotient floor(2^32 w / p), for which any multiplicand below 2^32 gives a result below 2p.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from secure_fu.compiled import kernel
from secure_fu.crypto.kahe.parameters import ParameterSet

__all__ = ["Residues", "RingTables", "ring_tables", "shoup_quotients", "times_key", "transform_key"]

Residues: TypeAlias = NDArray[np.uint32]

_U32 = np.uint32
_U64 = np.uint64
_WORD = np.uint64(32)
_LANES = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class RingTables:
    """Constants of one parameter set with L primes and degree N.

    Attributes:
        primes: shape (L,), uint32.
        powers, power_quotients: shape (L, N): psi^r(j) and their Shoup quotients.
        inverses, inverse_quotients: shape (L, N): psi^-r(j) and their Shoup quotients.
        degree_inverse: N^-1 modulo each prime.
    """

    primes: Residues
    powers: Residues
    power_quotients: Residues
    inverses: Residues
    inverse_quotients: Residues
    degree_inverse: tuple[int, ...]


@functools.cache
def ring_tables(parameter_set: ParameterSet) -> RingTables:
    """Return the constants of a parameter set. Nobody may write to them."""
    n = parameter_set.degree
    reversal = _bit_reversal(n)
    primes = np.array(parameter_set.primes, dtype=np.uint32)
    roots = [_root(p, n) for p in parameter_set.primes]
    powers = np.stack([_powers(psi, n, p)[reversal] for psi, p in zip(roots, parameter_set.primes, strict=True)])
    inverses = np.stack(
        [_powers(pow(psi, -1, p), n, p)[reversal] for psi, p in zip(roots, parameter_set.primes, strict=True)]
    )
    return RingTables(
        primes=primes,
        powers=powers.astype(np.uint32),
        power_quotients=shoup_quotients(powers, primes),
        inverses=inverses.astype(np.uint32),
        inverse_quotients=shoup_quotients(inverses, primes),
        degree_inverse=tuple(pow(n, -1, p) for p in parameter_set.primes),
    )


def shoup_quotients(factors: NDArray[np.unsignedinteger], primes: Residues) -> Residues:
    """Return floor(2^32 w / p) for factors w below p: shape (L, ...), one prime a row."""
    divisors = primes.astype(np.uint64).reshape(-1, *[1] * (factors.ndim - 1))
    return ((factors.astype(np.uint64) << _WORD) // divisors).astype(np.uint32)


def transform_key(coefficients: NDArray[np.int64], tables: RingTables) -> tuple[Residues, Residues]:
    """Return the transform of a key over N, and its Shoup quotients: what :func:`times_key` multiplies by.

    Args:
        coefficients: shape (N,), int64.

    Returns:
        two arrays of shape (L, N), uint32, below p. The factor 1/N is in there, so that the inverse transform need not
        scale.
    """
    primes = tables.primes.astype(np.int64)[:, None]
    residues = np.ascontiguousarray(np.mod(coefficients, primes).astype(np.uint32))
    _forward(residues, tables.powers, tables.power_quotients, tables.primes)
    scale = np.array(tables.degree_inverse, dtype=np.uint64)[:, None]
    scaled = residues * scale % tables.primes.astype(np.uint64)[:, None]
    return scaled.astype(np.uint32), shoup_quotients(scaled, tables.primes)


def times_key(block: Residues, key: tuple[Residues, Residues], tables: RingTables, out: Residues) -> None:
    """Write a s to ``out``, shape (L, N), residues below 2p. ``block`` is a in transformed form, shape (L, N)."""
    _multiply_inverse(block, key[0], key[1], tables.inverses, tables.inverse_quotients, tables.primes, out)


def _bit_reversal(n: int) -> NDArray[np.int64]:
    order = np.zeros(1, dtype=np.int64)
    while order.size < n:
        order = np.concatenate([2 * order, 2 * order + 1])
    return order


def _root(p: int, n: int) -> int:
    x = 2
    while pow(x, (p - 1) // 2, p) != p - 1:
        x += 1
    return pow(x, (p - 1) // (2 * n), p)


def _powers(base: int, count: int, p: int) -> NDArray[np.uint64]:
    powers = np.ones(1, dtype=np.uint64)
    while powers.size < count:
        powers = np.concatenate([powers, powers * _U64(pow(base, powers.size, p)) % _U64(p)])
    return powers


# The innermost loops run over pieces of rows, from zero on. So numba sees that no index is negative; and LLVM, which
# checks for overlap before it enters the next outer loop, sees that what is written lies apart from what is read.
# Vector code needs both.


@kernel
def _forward(x: Residues, powers: Residues, quotients: Residues, primes: Residues) -> None:
    """Transform each row of x in place; residues below p before, below 2p after."""
    rows, n = x.shape
    for row in range(rows):
        p = primes[row]
        p2 = _U32(p + p)
        width = n >> 1
        groups = 1
        while groups < n:
            lanes = min(width, _LANES)
            apart = width // lanes
            pieces = x[row].reshape((n // lanes, lanes))
            for group in range(groups):
                w = _U64(powers[row, groups + group])
                quotient = _U64(quotients[row, groups + group])
                for piece in range(2 * group * apart, (2 * group + 1) * apart):
                    upper = pieces[piece]
                    lower = pieces[piece + apart]
                    for j in range(lanes):
                        v = _U64(lower[j])
                        shoup = _U32((quotient * v) >> _WORD)
                        product = _U32(_U32(w * v) - _U32(shoup * p))  # below 2p
                        total = _U32(upper[j] + product)
                        difference = _U32(_U32(upper[j] + p2) - product)
                        upper[j] = min(total, _U32(total - p2))
                        lower[j] = min(difference, _U32(difference - p2))
            groups <<= 1
            width >>= 1


@kernel
def _untwist(
    u: np.uint32, v: np.uint32, w: np.uint32, quotient: np.uint32, p: np.uint32
) -> tuple[np.uint32, np.uint32]:
    """Return u + v and w (u - v), below 2p if u and v are."""
    p2 = _U32(p + p)
    total = _U32(u + v)
    difference = _U64(_U32(_U32(u + p2) - v))
    shoup = _U32((_U64(quotient) * difference) >> _WORD)
    return min(total, _U32(total - p2)), _U32(_U32(_U64(w) * difference) - _U32(shoup * p))


@kernel
def _multiply_inverse(
    block: Residues,
    key: Residues,
    key_quotients: Residues,
    inverses: Residues,
    quotients: Residues,
    primes: Residues,
    x: Residues,
) -> None:
    """Write the inverse transform, times N, of the products of block and key to x: residues below 2p."""
    rows, n = x.shape
    for row in range(rows):
        p = primes[row]
        for j in range(n):
            a = _U64(block[row, j])
            shoup = _U32((a * _U64(key_quotients[row, j])) >> _WORD)
            x[row, j] = _U32(_U32(a * _U64(key[row, j])) - _U32(shoup * p))
        # Three layers, of neighbours 1, 2 and 4 apart, in one pass: apart they would be too narrow for vectors.
        eights = x[row].reshape((n >> 3, 8))
        first = inverses[row, n >> 1 :].reshape((n >> 3, 4))
        first_quotients = quotients[row, n >> 1 :].reshape((n >> 3, 4))
        second = inverses[row, n >> 2 : n >> 1].reshape((n >> 3, 2))
        second_quotients = quotients[row, n >> 2 : n >> 1].reshape((n >> 3, 2))
        third = inverses[row, n >> 3 : n >> 2]
        third_quotients = quotients[row, n >> 3 : n >> 2]
        for group in range(n >> 3):
            x0, x1 = _untwist(eights[group, 0], eights[group, 1], first[group, 0], first_quotients[group, 0], p)
            x2, x3 = _untwist(eights[group, 2], eights[group, 3], first[group, 1], first_quotients[group, 1], p)
            x4, x5 = _untwist(eights[group, 4], eights[group, 5], first[group, 2], first_quotients[group, 2], p)
            x6, x7 = _untwist(eights[group, 6], eights[group, 7], first[group, 3], first_quotients[group, 3], p)
            x0, x2 = _untwist(x0, x2, second[group, 0], second_quotients[group, 0], p)
            x1, x3 = _untwist(x1, x3, second[group, 0], second_quotients[group, 0], p)
            x4, x6 = _untwist(x4, x6, second[group, 1], second_quotients[group, 1], p)
            x5, x7 = _untwist(x5, x7, second[group, 1], second_quotients[group, 1], p)
            eights[group, 0], eights[group, 4] = _untwist(x0, x4, third[group], third_quotients[group], p)
            eights[group, 1], eights[group, 5] = _untwist(x1, x5, third[group], third_quotients[group], p)
            eights[group, 2], eights[group, 6] = _untwist(x2, x6, third[group], third_quotients[group], p)
            eights[group, 3], eights[group, 7] = _untwist(x3, x7, third[group], third_quotients[group], p)
        width = 8
        groups = n >> 4
        while groups > 0:
            lanes = min(width, _LANES)
            apart = width // lanes
            pieces = x[row].reshape((n // lanes, lanes))
            for group in range(groups):
                w = inverses[row, groups + group]
                quotient = quotients[row, groups + group]
                for piece in range(2 * group * apart, (2 * group + 1) * apart):
                    upper = pieces[piece]
                    lower = pieces[piece + apart]
                    for j in range(lanes):
                        upper[j], lower[j] = _untwist(upper[j], lower[j], w, quotient, p)
            groups >>= 1
            width <<= 1
