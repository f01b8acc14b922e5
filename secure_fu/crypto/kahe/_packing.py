"""Signed digits and errors to residues, and back: exact integer arithmetic throughout.

A coefficient is V = T e + m, with m = sum_k digit_k 2^(k b) and T = 2^(D b). Packing needs V modulo each prime only:
that is a sum of digits times constants, with one reduction at its end. Unpacking adds the largest negative value that V
can honestly have, so that what is found modulo q is

    W = V + E T + sum_k 2^(b - 1) 2^(k b),    0 <= W < (2 E + 1) T <= q / 2  for an honest coefficient,

whose bits are the digits, each plus 2^(b - 1), and above them e + E. W comes from its residues by Garner's mixed-radix
digits, put together in limbs of 32 bits. See :class:`~secure_fu.crypto.kahe.Layout` for which coordinate is where.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from secure_fu.compiled import kernel
from secure_fu.crypto.kahe._ntt import Residues, ring_tables, shoup_quotients
from secure_fu.crypto.kahe.layout import Layout
from secure_fu.errors import OpeningError

__all__ = ["pack_block", "unpack_block"]

_CHUNK = 512
_PIECE_BITS: Final = 31
_U32 = np.uint32
_U64 = np.uint64
_WORD = np.uint64(32)
_LOW_WORD = np.uint64(0xFFFFFFFF)


@dataclass(frozen=True, kw_only=True, eq=False)
class _PackTables:
    """Attributes, for L primes and D digits, each in S pieces of 31 bits (S = 1 for b <= 31, otherwise 2).

    weights: shape (L, D S + 1), int32: 2^(k b + 31 s) modulo each prime, digit by digit, piece by piece; then T.
    power, power_quotient: shape (L,), uint32: 2^32 modulo the prime and its Shoup quotient.
    one_quotient: shape (L,), uint32: the Shoup quotient of 1.
    lift: shape (L,), uint64: a multiple of the prime that makes every sum of digits and weights positive.
    """

    weights: NDArray[np.int32]
    power: Residues
    power_quotient: Residues
    one_quotient: Residues
    lift: NDArray[np.uint64]


@functools.lru_cache(maxsize=16)
def _pack_tables(layout: Layout) -> _PackTables:
    primes = layout.parameter_set.primes
    shifts = [k * layout.digit_bits + s for k in range(layout.digits) for s in range(0, layout.digit_bits, _PIECE_BITS)]
    shifts.append(layout.digits * layout.digit_bits)
    table = ring_tables(layout.parameter_set).primes
    power = np.array([(1 << 32) % p for p in primes], dtype=np.uint32)
    return _PackTables(
        weights=np.array([[pow(2, shift, p) for shift in shifts] for p in primes], dtype=np.int32),
        power=power,
        power_quotient=shoup_quotients(power, table),
        one_quotient=shoup_quotients(np.ones_like(power), table),
        lift=np.array([-(-(1 << 63) // p) * p for p in primes], dtype=np.uint64),
    )


def pack_block(
    layout: Layout, block: int, values: NDArray[np.int64], errors: NDArray[np.int64], masks: Residues, out: Residues
) -> None:
    """Write the residues of one block of a ciphertext, masks + T e + m, to ``out``.

    Args:
        layout: the round's.
        block: number of the block.
        values: shape (length,), int64, C-contiguous, each within ``largest_digit``; the whole vector.
        errors: shape (n,), int64: e for the n coefficients of the block that travel.
        masks: shape (L, N), uint32, below 2p: a s for the block.
        out: shape (L n,), uint32: written, one prime after another, below p.
    """
    tables = _pack_tables(layout)
    _pack(
        values,
        errors,
        masks,
        out,
        block * layout.parameter_set.degree,
        layout.coefficients,
        layout.digits,
        1 + (layout.digit_bits > _PIECE_BITS),
        ring_tables(layout.parameter_set).primes,
        tables.weights,
        tables.power,
        tables.power_quotient,
        tables.one_quotient,
        tables.lift,
    )


@kernel
def _pack(
    values: NDArray[np.int64],
    errors: NDArray[np.int64],
    masks: Residues,
    out: Residues,
    first: int,
    coefficients: int,
    digits: int,
    split: int,
    primes: Residues,
    weights: NDArray[np.int32],
    power: Residues,
    power_quotient: Residues,
    one_quotient: Residues,
    lift: NDArray[np.uint64],
) -> None:
    n = errors.size
    # No sum reaches 2^63: weights are below 2^28, D b <= 196, and pieces are D of at most 2^(b - 1) for b <= 31,
    # otherwise D of at most 2^31 and D of at most 2^30, D <= 6.
    pieces = np.empty((digits * split, _CHUNK), dtype=np.int32)
    sums = np.empty(_CHUNK, dtype=np.int64)
    for start in range(0, n, _CHUNK):
        count = min(_CHUNK, n - start)
        for k in range(digits):
            offset = k * coefficients + first + start
            filled = min(max(values.size - offset, 0), count)
            if split == 1:
                for j in range(filled):
                    pieces[k, j] = np.int32(values[offset + j])
                for j in range(filled, count):
                    pieces[k, j] = 0
            else:
                for j in range(filled):
                    pieces[2 * k, j] = np.int32(values[offset + j] & 0x7FFFFFFF)
                    pieces[2 * k + 1, j] = np.int32(values[offset + j] >> 31)
                for j in range(filled, count):
                    pieces[2 * k, j] = 0
                    pieces[2 * k + 1, j] = 0
        for row in range(primes.size):
            last = np.int64(weights[row, digits * split])
            for j in range(count):
                sums[j] = errors[start + j] * last
            for k in range(digits * split):
                weight = np.int64(weights[row, k])
                for j in range(count):
                    sums[j] += np.int64(pieces[k, j]) * weight
            p = primes[row]
            p2 = _U32(p + p)
            p4 = _U32(p2 + p2)
            target = row * n + start
            for j in range(count):
                value = _U64(sums[j]) + lift[row]
                high = value >> _WORD
                low = value & _LOW_WORD
                high_shoup = _U32((high * _U64(power_quotient[row])) >> _WORD)
                low_shoup = _U32((low * _U64(one_quotient[row])) >> _WORD)
                residue = _U32(_U32(high * _U64(power[row])) - _U32(high_shoup * p))  # below 2p
                residue = _U32(residue + _U32(_U32(low) - _U32(low_shoup * p)))  # below 4p
                residue = _U32(residue + masks[row, start + j])  # below 6p
                residue = min(residue, _U32(residue - p4))
                residue = min(residue, _U32(residue - p2))
                out[target + j] = min(residue, _U32(residue - p))


@dataclass(frozen=True, kw_only=True, eq=False)
class _UnpackTables:
    """Attributes, for L primes.

    offsets: shape (L,), uint32: E T + sum_k 2^(b - 1 + k b) modulo each prime.
    inverses, inverse_quotients: shape (L, L), uint32: in row i and column m < i, p_m^-1 modulo p_i.
    radix: shape (L, limbs), uint64: the limbs of 32 bits of p_0 ... p_(i-1), the weight of mixed-radix digit i.
    """

    offsets: Residues
    inverses: Residues
    inverse_quotients: Residues
    radix: NDArray[np.uint64]


@functools.lru_cache(maxsize=16)
def _unpack_tables(layout: Layout, bound: int) -> _UnpackTables:
    primes = layout.parameter_set.primes
    offset = bound * layout.scale + sum(1 << (layout.digit_bits * (k + 1) - 1) for k in range(layout.digits))
    inverses = np.array(
        [[pow(m, -1, p) if at < row else 0 for at, m in enumerate(primes)] for row, p in enumerate(primes)],
        dtype=np.uint32,
    )
    limbs = -(-layout.parameter_set.modulus.bit_length() // 32)
    radix, weight = [], 1
    for p in primes:
        radix.append([(weight >> (32 * limb)) & 0xFFFFFFFF for limb in range(limbs)])
        weight *= p
    return _UnpackTables(
        offsets=np.array([offset % p for p in primes], dtype=np.uint32),
        inverses=inverses,
        inverse_quotients=shoup_quotients(inverses, ring_tables(layout.parameter_set).primes),
        radix=np.array(radix, dtype=np.uint64),
    )


def unpack_block(
    layout: Layout,
    block: int,
    *,
    bound: int,
    residues: Residues,
    masks: Residues,
    values: NDArray[np.int64],
    errors: NDArray[np.int64],
) -> None:
    """Open one block of a total: write the digits and errors of residues - masks.

    Args:
        layout: the round's.
        block: number of the block.
        bound: the largest absolute error that is accepted, E.
        residues: shape (L n,), uint32, below p: the block of the total, one prime after another.
        masks: shape (L, N), uint32, below 2p: a s for the block, s the summed key.
        values: shape (length,), int64: the coordinates in this block are written.
        errors: shape (n,), int64: written.

    Raises:
        OpeningError: an error is beyond the bound, a digit has a value that no sum within bounds has, or padding is not
            zero. What was written means nothing then.
    """
    tables = _unpack_tables(layout, bound)
    verdict = _unpack(
        residues,
        masks,
        values,
        errors,
        block * layout.parameter_set.degree,
        layout.coefficients,
        layout.digits,
        layout.digit_bits,
        bound,
        ring_tables(layout.parameter_set).primes,
        tables.offsets,
        tables.inverses,
        tables.inverse_quotients,
        tables.radix,
    )
    if verdict:
        raise OpeningError(_VERDICTS[verdict])


_VERDICTS: Final = {
    1: "an error coefficient is beyond its bound: not the key of this total, or not a sum of so many uploads",
    2: "a digit is one that no sum within the layout's bounds has, or padding is not zero",
}


@kernel
def _unpack(
    residues: Residues,
    masks: Residues,
    values: NDArray[np.int64],
    errors: NDArray[np.int64],
    first: int,
    coefficients: int,
    digits: int,
    digit_bits: int,
    bound: int,
    primes: Residues,
    offsets: Residues,
    inverses: Residues,
    inverse_quotients: Residues,
    radix: NDArray[np.uint64],
) -> int:
    n = errors.size
    rows, limb_count = radix.shape
    mixed = np.empty((rows, _CHUNK), dtype=np.uint32)
    limbs = np.zeros((limb_count + 2, _CHUNK), dtype=np.uint64)  # two more, so that every window has three
    half = np.int64(1) << np.int64(digit_bits - 1)
    mask = (_U64(1) << _U64(digit_bits)) - _U64(1)
    for start in range(0, n, _CHUNK):
        count = min(_CHUNK, n - start)
        for row in range(rows):
            p = primes[row]
            p2 = _U32(p + p)
            source = row * n + start
            lift = _U32(p2 + offsets[row])
            for j in range(count):
                value = _U32(_U32(residues[source + j] + lift) - masks[row, start + j])  # below 4p
                mixed[row, j] = min(value, _U32(value - p2))
            for earlier in range(row):
                inverse = _U64(inverses[row, earlier])
                quotient = _U64(inverse_quotients[row, earlier])
                for j in range(count):
                    # All primes have the same bits: what is below another is below 2p here.
                    value64 = _U64(_U32(_U32(mixed[row, j] + p2) - mixed[earlier, j]))
                    shoup = _U32((quotient * value64) >> _WORD)
                    mixed[row, j] = _U32(_U32(inverse * value64) - _U32(shoup * p))
            for j in range(count):
                mixed[row, j] = min(mixed[row, j], _U32(mixed[row, j] - p))
        for limb in range(limb_count):
            limbs[limb] = _U64(0)
            for row in range(rows):
                weight = radix[row, limb]
                for j in range(count):
                    limbs[limb, j] += weight * _U64(mixed[row, j])
        for limb in range(limb_count - 1):
            for j in range(count):
                limbs[limb + 1, j] += limbs[limb, j] >> _WORD
                limbs[limb, j] &= _LOW_WORD
        bad_digit = False
        for k in range(digits):
            at = (k * digit_bits) >> 5
            shift = _U64((k * digit_bits) & 31)
            beyond = _U64(64) - shift
            target = k * coefficients + first + start
            filled = min(max(values.size - target, 0), count)
            for j in range(count):
                window = (limbs[at, j] | (limbs[at + 1, j] << _WORD)) >> shift
                if digit_bits > 33:  # a narrower digit ends within two limbs
                    # In two steps, because a shift by 64 is undefined.
                    window |= (limbs[at + 2, j] << (beyond - _U64(1))) << _U64(1)
                digit = np.int64(window & mask) - half
                bad_digit |= digit == -half
                if j < filled:
                    values[target + j] = digit
                else:
                    bad_digit |= digit != 0
        at = (digits * digit_bits) >> 5
        shift = _U64((digits * digit_bits) & 31)
        largest = _U64(2 * bound)
        bad_error = False
        for j in range(count):
            window = (limbs[at, j] | (limbs[at + 1, j] << _WORD)) >> shift
            window |= (limbs[at + 2, j] << (_U64(63) - shift)) << _U64(1)
            beyond_window = limbs[at + 2, j] >> shift
            for limb in range(at + 3, limb_count):
                beyond_window |= limbs[limb, j]
            bad_error |= (window > largest) | (beyond_window != _U64(0))
            errors[start + j] = np.int64(window) - np.int64(bound)
        if bad_error:
            return 1
        if bad_digit:
            return 2
    return 0
