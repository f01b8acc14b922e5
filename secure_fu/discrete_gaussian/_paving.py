"""A paving of the half Gaussian curve by equal cells, and exact verdicts on the cells that the curve crosses."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import isqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

from secure_fu.compiled import kernel, read_only
from secure_fu.discrete_gaussian._exponential import exponential_enclosure

__all__ = ["SLOT_BITS", "Paving", "pave"]

SLOT_BITS: Final = 13
"""The paving has 2**13 slots, one for each value of the slot bits of a random word."""

_SLOTS = 2**SLOT_BITS
_PRECISION = 96
_FRACTION_BITS = 27
_TERMS = 10
_U64 = np.uint64
_UNIT = np.uint64(32)
_ONE = np.uint64(2**32)
_COLUMN_SHIFT = np.uint64(_FRACTION_BITS + 1)
_DECAY_SHIFT = np.uint64(31)


@dataclass(frozen=True, kw_only=True, eq=False)
class Paving:
    """The region under exp(-y**2 / (2 sigma**2)), y = 0, 1, 2, ..., covered by cells of equal area.

    Column k stands over the 2**width_bits integers from k * 2**width_bits on. It is divided into cells of height
    1/levels: cell i spans heights [i, i + 1) / levels. A column has just enough cells to cover the curve; all integers
    from `tail_start` on share the one tail cell. Slots 0 to first_edge - 1 are the cells that lie wholly below the
    curve, then come the edge cells (which the curve may cross), the tail cell, and slots that stand for nothing.

    Attributes:
        sigma_squared: exact sigma**2.
        width_bits: log2 of the column width; the width is 1 for sigma < 32, otherwise between sigma/32 and sigma/16.
        levels: cells per unit height, n.
        start: shape (2**13,), int64: first integer of the slot's column; 0 for the tail and empty slots.
        first_edge: number of inner slots.
        edge_column, edge_level: shape (edges,), uint64: k and i of the edge cells.
        tail_start: first integer that is in no column.
        tail_bits: log2 of the width of a tail block.
        acceptance: expected fraction of slots drawn that end as a sample before signs, a float for sizing only.
        column_height: shape (columns,), uint64: floor(2**height_bits n exp(-start**2 / (2 sigma**2))).
        height_bits: fractional bits of heights.
        decay: floor(2**41 * 4**width_bits / (2 sigma**2)), or 0 if columns have width 1.
        slack: bound on the error of the fixed-point height of the curve, in units of 2**-height_bits.
    """

    sigma_squared: Fraction
    width_bits: int
    levels: int
    start: NDArray[np.int64]
    first_edge: int
    edge_column: NDArray[np.uint64]
    edge_level: NDArray[np.uint64]
    tail_start: int
    tail_bits: int
    acceptance: float
    column_height: NDArray[np.uint64]
    height_bits: int
    decay: int
    slack: int

    @property
    def tail_slot(self) -> int:
        """Slot of the tail cell; larger slots are empty."""
        return self.first_edge + len(self.edge_column)

    def edge_verdicts(
        self, edges: NDArray[np.int64], offsets: NDArray[np.uint64], words: NDArray[np.uint64]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Whether points in edge cells lie below the curve, as far as fixed-point arithmetic can tell.

        Args:
            edges: shape (m,), indices of edge cells.
            offsets: shape (m,), offsets of the integers in their columns, below 2**width_bits.
            words: shape (m,), uniform words: the first 64 bits of the heights within the cells.

        Returns:
            `(below, decided)`, each of shape (m,): where `decided`, `below` is the exact answer for every continuation
            of the height's bits; where not, `below` is False and means nothing.

        Formal Guarantees:
            Let k be the column, w its width, f = offset / w, z = a f (2k + f) with a = w**2 / (2 sigma**2), so that the
            curve's height is n E_k exp(-z), E_k = exp(-(k w)**2 / (2 sigma**2)). Columns of width 1 have z = 0; wider
            ones have a <= 2**-9 and z < 1/2. All quantities are unsigned 64-bit integers, and with k < 2**8 (see
            `pave`) and n 2**height_bits < 2**32 no product of two reaches 2**64. Errors, all roundings being downwards:

            - F = floor(2**27 f) and Q = floor(F (2k 2**27 + F) / 2**32) < 2**31: f (2k + f) exceeds 2**-22 Q by less
              than 2**-22 + 2**-26 (k + 1).
            - A = decay and Z = floor(Q A / 2**31): z exceeds 2**-32 Z by less than 1 + 1 + 2 + (k + 1) / 8 units of
              2**-32, hence by less than 5 + columns // 8.
            - P, Horner's scheme on the first eleven terms of exp(-2**-32 Z): each step halves the error that it
              inherits and adds less than 2 units of 2**-32, and the remainder is below 2**-11 / 11!: less than 5 units
              in all.
            - R = floor(column_height P / 2**32), where column_height < 2**32 is less than 1 + 2**-40 too small: the
              true height in units of 2**-height_bits lies between R - 10 - columns // 8 and R + 7 + 2**-40.

            slack = 11 + columns // 8 bounds both. V = floor(2**height_bits (i + height in the cell)) is exact. So
            V + 1 <= R - slack proves "below", V >= R + slack proves "not below".
        """
        below = np.empty(len(edges), dtype=np.bool_)
        decided = np.empty(len(edges), dtype=np.bool_)
        curves = (self.edge_column, self.edge_level, self.column_height)
        _verdicts(
            read_only(edges),
            read_only(offsets),
            read_only(words),
            *curves,
            self.width_bits,
            self.height_bits,
            self.decay,
            self.slack,
            below,
            decided,
        )
        return below, decided


@kernel
def _verdicts(
    edges: NDArray[np.int64],
    offsets: NDArray[np.uint64],
    words: NDArray[np.uint64],
    edge_column: NDArray[np.uint64],
    edge_level: NDArray[np.uint64],
    column_height: NDArray[np.uint64],
    width_bits: int,
    height_bits: int,
    decay: int,
    slack: int,
    below: NDArray[np.bool_],
    decided: NDArray[np.bool_],
) -> None:
    """See :meth:`Paving.edge_verdicts`, whose names these are."""
    shift = width_bits - _FRACTION_BITS
    for i in range(edges.size):
        k = edge_column[edges[i]]
        f = offsets[i] >> _U64(shift) if shift > 0 else offsets[i] << _U64(-shift)
        q = (f * ((k << _COLUMN_SHIFT) + f)) >> _UNIT
        z = (q * _U64(decay)) >> _DECAY_SHIFT
        p = _ONE
        for j in range(_TERMS, 0, -1):
            p = _ONE - ((z * p) >> _UNIT) // _U64(j)
        curve = np.int64((column_height[k] * p) >> _UNIT)
        height = np.int64((edge_level[edges[i]] << _U64(height_bits)) + (words[i] >> _U64(64 - height_bits)))
        below[i] = height + 1 <= curve - slack
        decided[i] = below[i] or height >= curve + slack


@lru_cache(maxsize=32)
def pave(sigma_squared: Fraction) -> Paving:
    """The paving for N_Z(0, sigma_squared); read-only arrays, 0.1 MB, made in a few milliseconds.

    Args:
        sigma_squared: between 0 (excluded) and 2**80.

    Formal Guarantees:
        - Column k has ceil(n E_k) cells at least, so they cover the curve over the column, which falls with y.
        - Its inner cells are those with (i + 1) / n <= exp(-y**2 / (2 sigma**2)) at the column's last integer y.
        - The tail: columns end at the first L = K w with n exp(-L**2 / (2 sigma**2)) 2 v / w <= 1, v = 2**tail_bits the
          smallest power of two >= sigma/4. The loop checks this for n = 2**13, and v >= w, so that L > 4.4 sigma and
          exp(-((y + v)**2 - y**2) / (2 sigma**2)) <= exp(-L v / sigma**2) < 1/2 for all y >= L. Hence
          n exp(-y**2 / (2 sigma**2)) (v / w) 2**(j + 1) <= 1 for all y in block j = [L + j v, L + (j + 1) v): the
          acceptance probability that the sampler uses there.
        - There are at most 157 columns: v / w <= 8, so L is at most 4.86 sigma + w, and w > sigma/32 (or w = 1 and
          sigma < 32).

        Comparisons with exponentials use enclosures with 96 fractional bits, each from the side that keeps the
        statement.
    """
    width_bits = max(0, isqrt(int(sigma_squared / 256)).bit_length() - 1)
    width = 1 << width_bits
    tail_bits = 0
    while 16 * 4**tail_bits < sigma_squared:
        tail_bits += 1

    def enclosure(y: int) -> tuple[int, int]:
        return exponential_enclosure(Fraction(y * y) / (2 * sigma_squared), _PRECISION)

    starts = [enclosure(0)]
    while starts[-1][1] << (SLOT_BITS + 1 + tail_bits - width_bits) > 1 << _PRECISION:
        starts.append(enclosure(len(starts) * width))
    starts.pop()
    columns = len(starts)
    ends = [enclosure((k + 1) * width - 1)[0] for k in range(columns)]

    levels = ((_SLOTS - 1) << _PRECISION) // sum(low for low, _ in starts)
    while sum(_ceil_shift(levels * high) for _, high in starts) > _SLOTS - 1:
        levels -= 1
    tops = [_ceil_shift(levels * high) for _, high in starts]
    inner = [(levels * low) >> _PRECISION for low in ends]

    first_edge = sum(inner)
    edges = [(k, i) for k in range(columns) for i in range(inner[k], tops[k])]
    start = np.zeros(_SLOTS, dtype=np.int64)
    start[:first_edge] = np.repeat(np.arange(columns, dtype=np.int64) << width_bits, inner)
    start[first_edge : first_edge + len(edges)] = [k << width_bits for k, _ in edges]
    height_bits = 32 - levels.bit_length()
    heights = [(levels * low) >> (_PRECISION - height_bits) for low, _ in starts]
    decay = int(Fraction(2**41 * width * width) / (2 * sigma_squared)) if width_bits else 0
    paving = Paving(
        sigma_squared=sigma_squared,
        width_bits=width_bits,
        levels=levels,
        start=start,
        first_edge=first_edge,
        edge_column=np.array([k for k, _ in edges], dtype=np.uint64),
        edge_level=np.array([i for _, i in edges], dtype=np.uint64),
        tail_start=columns * width,
        tail_bits=tail_bits,
        acceptance=(sum(inner) + sum(tops)) / (2 * _SLOTS),
        column_height=np.array(heights, dtype=np.uint64),
        height_bits=height_bits,
        decay=decay,
        slack=11 + columns // 8,
    )
    for array in (paving.start, paving.edge_column, paving.edge_level, paving.column_height):
        array.setflags(write=False)
    return paving


def _ceil_shift(value: int) -> int:
    """ceil(value / 2**96)."""
    return -(-value >> _PRECISION)
