"""Exact statements about exp(-x) for rational x, in integer arithmetic of any length."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

__all__ = ["exponential_enclosure", "uniform_below_scaled_exponential"]

_GUARD_BITS = 32
_WORD_BITS = 64


def exponential_enclosure(x: Fraction, bits: int) -> tuple[int, int]:
    """Integers around 2**bits exp(-x).

    Args:
        x: exact argument, at least 0.
        bits: number of fractional bits, at least 1.

    Returns:
        `(low, high)` with low <= 2**bits exp(-x) <= high and high - low <= 2; both are 2**bits for x = 0.

    Formal Guarantees:
        Every rounding is directed outwards, so the enclosure holds whatever the width. For r with x / 2**r <= 1/2,
        exp(-x) is exp(-x / 2**r) squared r times. Let t be x / 2**r rounded down to a multiple of the unit 2**-work;
        then exp(-x / 2**r) is at most exp(-t) and less than one unit below it. The terms t**j / j! are rounded down at
        each step; as t / j <= 1/2, each is less than 2 units too small, so J summed terms are off by less than 2 J
        units, and what follows them (alternating, decreasing, the first of them below 2 units) by less than 2. Each
        squaring at most doubles the relative width, for which the r + 32 guard bits are.
    """
    if x == 0:
        return 1 << bits, 1 << bits
    if x >= bits:
        return 0, 1  # exp(-x) < 2**-x
    squarings = max(0, x.numerator.bit_length() - x.denominator.bit_length() + 2)
    work = bits + squarings + _GUARD_BITS
    t = (x.numerator << work) // (x.denominator << squarings)
    term = total = 1 << work
    terms = 1
    while term:
        term = ((term * t) >> work) // terms
        total += -term if terms % 2 else term
        terms += 1
    error = 2 * terms + 2
    low, high = total - error - 1, total + error
    for _ in range(squarings):
        low = (low * low) >> work
        high = -((-high * high) >> work)
    excess = work - bits
    return low >> excess, -((-high) >> excess)


def uniform_below_scaled_exponential(
    prefix: int, prefix_bits: int, scale: int, x: Fraction, next_word: Callable[[], int]
) -> bool:
    """Decides exactly whether a uniform real number lies below scale * exp(-x).

    The number is V = integer part and first binary digits as given, then infinitely many uniform digits of which only
    as many are drawn as the decision needs.

    Args:
        prefix: floor(2**prefix_bits V), the part of V that is already known.
        prefix_bits: number of fractional bits of V known.
        scale: positive integer.
        x: exact argument of the exponential, at least 0.
        next_word: returns the next 64 fresh uniform bits.

    Returns:
        Whether V < scale * exp(-x).

    Formal Guarantees:
        V lies in [prefix, prefix + 1) 2**-prefix_bits. The answer is given only when that whole interval lies on one
        side of the enclosure of scale * exp(-x); otherwise V is refined by another word and the enclosure with it. The
        interval shrinks by 2**64 at each turn, so the chance of a further turn does too. For x = 0 the enclosure is a
        point on the grid of the prefix and the first comparison decides; for x > 0 rational, exp(-x) is irrational
        (Lindemann 1882), so V differs from it with probability one.
    """
    guard = scale.bit_length() + 8
    while True:
        low, high = exponential_enclosure(x, prefix_bits + guard)
        if (prefix + 1) << guard <= scale * low:
            return True
        if prefix << guard >= scale * high:
            return False
        prefix = (prefix << _WORD_BITS) | next_word()
        prefix_bits += _WORD_BITS
