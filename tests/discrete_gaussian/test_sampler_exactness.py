"""That the sampler's law is exact, without statistics: every decision against 100-digit arithmetic.

The sampler is fed words on both sides of each threshold at which, by the definition of the law, its answer must change:
as close as the last of 64 bits, and beyond where the decision needs further words.
"""

from __future__ import annotations

from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_fu.discrete_gaussian import sample_discrete_gaussian, sampler
from secure_fu.discrete_gaussian._exponential import exponential_enclosure, uniform_below_scaled_exponential
from secure_fu.discrete_gaussian._paving import SLOT_BITS, pave

SLOTS = 2**SLOT_BITS
SIGMAS_SQUARED = [
    Fraction(9, 100),
    Fraction(1),
    Fraction(1369, 100),
    Fraction(100),
    Fraction(1024),
    Fraction(10**8, 3),
    Fraction(2) ** 55 + Fraction(1, 7),
    Fraction(2) ** 80,
]


@pytest.fixture(autouse=True)
def hundred_digits():
    with mpmath.workdps(100):
        yield


def mp(value):
    return mpmath.mpf(value.numerator) / value.denominator


def curve(sigma_squared, y):
    return mpmath.exp(-mp(Fraction(y * y) / (2 * sigma_squared)))


class Continued:
    """Gives scripted words first, then the same word for ever."""

    def __init__(self, portions, word):
        self.portions, self.word = list(portions), word

    def words(self, count):
        if self.portions:
            portion = np.asarray(self.portions.pop(0), dtype=np.uint64)
            assert len(portion) == count
            return portion
        return np.full(count, self.word, dtype=np.uint64)


def edge_words(paving, rng):
    """One proposal for each edge cell, with a random offset: words, offsets."""
    edges = len(paving.edge_column)
    offsets = rng.integers(0, 2**paving.width_bits, edges)
    return (np.arange(edges) + paving.first_edge) | (offsets << (SLOT_BITS + 1)), offsets


@pytest.mark.parametrize("sigma_squared", SIGMAS_SQUARED, ids=str)
def test_every_edge_cell_accepts_with_exactly_the_curve_height(sigma_squared, monkeypatch):
    paving = pave(sigma_squared)
    words, offsets = edge_words(paving, np.random.default_rng(0))
    integers = np.array([int(paving.start[w & (SLOTS - 1)]) + int(o) for w, o in zip(words, offsets, strict=True)])
    heights = paving.edge_level.astype(int)
    truth = []
    for y, i in zip(integers, heights, strict=True):
        share = paving.levels * curve(sigma_squared, int(y)) - int(i)
        truth.append(min(max(int(mpmath.floor(share * 2**64)), -1), 2**64))
    # Words above the threshold are refused and words below it accepted; at the threshold it depends on what follows.
    # Close to it fixed point cannot tell, and the exact way is taken.
    exact_calls = []
    is_below = sampler._is_below
    monkeypatch.setattr(sampler, "_is_below", lambda *a: exact_calls.append(1) or is_below(*a))
    for distance in (0, 1, 2**20, 2**33, 2**45, 2**52):
        for sign in (-1, 1):
            chosen = [min(max(t + sign * distance, 0), 2**64 - 1) for t in truth]
            for ending in (0, 2**64 - 1):
                stream = Continued([words, chosen], ending)
                accepted = sampler._propose(paving, len(words), stream)
                expected = [
                    int(y)
                    for y, i, c in zip(integers, heights, chosen, strict=True)
                    if i + mpmath.mpf(c) / 2**64 + (mpmath.mpf(2) ** -64 if ending else 0)
                    <= paving.levels * curve(sigma_squared, int(y))
                ]
                assert accepted.tolist() == expected
    assert len(exact_calls) >= len(words)


@pytest.mark.parametrize("sigma_squared", SIGMAS_SQUARED, ids=str)
def test_fixed_point_verdicts_are_right_wherever_they_are_given(sigma_squared):
    paving = pave(sigma_squared)
    if len(paving.edge_column) == 0:
        return
    rng = np.random.default_rng(1)
    edges = rng.integers(0, len(paving.edge_column), 3000)
    offsets = rng.integers(0, 2**paving.width_bits, 3000).astype(np.uint64)
    offsets[:500], offsets[500:1000] = 0, 2**paving.width_bits - 1
    shares = []
    for edge, offset in zip(edges, offsets, strict=True):
        y = (int(paving.edge_column[edge]) << paving.width_bits) + int(offset)
        shares.append(paving.levels * curve(sigma_squared, y) - int(paving.edge_level[edge]))
    # Words within a few slacks of the threshold, where a wrong error bound would show.
    reach = 3 * paving.slack * 2 ** (64 - paving.height_bits)
    nudges = rng.integers(-reach, reach, 3000)
    words = [
        min(max(int(mpmath.floor(share * 2**64)) + int(nudge), 0), 2**64 - 1)
        for share, nudge in zip(shares, nudges, strict=True)
    ]
    below, decided = paving.edge_verdicts(edges, offsets, np.array(words, dtype=np.uint64))
    assert 0.3 < decided.mean() < 1.0
    for share, word, verdict in zip(
        np.array(shares)[decided], np.array(words, dtype=object)[decided], below[decided], strict=True
    ):
        assert (mpmath.mpf(word + 1) <= share * 2**64) if verdict else (mpmath.mpf(word) >= share * 2**64)
    assert not below[~decided].any()


@pytest.mark.parametrize("sigma_squared", SIGMAS_SQUARED, ids=str)
def test_cells_cover_the_curve_and_inner_cells_lie_below_it(sigma_squared):
    paving = pave(sigma_squared)
    width = 2**paving.width_bits
    columns = len(paving.column_height)
    inner = np.bincount(paving.start[: paving.first_edge] // width, minlength=columns)
    assert columns <= 157
    assert paving.tail_start == columns * width
    assert paving.tail_slot < SLOTS
    assert (paving.start[paving.first_edge : paving.tail_slot] == paving.edge_column.astype(int) * width).all()
    for k in range(columns):
        levels = sorted(int(i) for i in paving.edge_level[paving.edge_column == k])
        top = inner[k] + len(levels)
        assert levels == list(range(inner[k], top))
        assert top >= paving.levels * curve(sigma_squared, k * width)
        assert inner[k] <= paving.levels * curve(sigma_squared, (k + 1) * width - 1)
    block = 2**paving.tail_bits
    for j in range(6):
        scale = mpmath.mpf(paving.levels) * block / width * 2 ** (j + 1)
        assert scale * curve(sigma_squared, paving.tail_start + j * block) <= 1


def test_pavings_fit_their_arithmetic_at_every_sigma():
    for eighths in range(-64, 321):
        sigma_squared = Fraction(2.0 ** (eighths / 4))
        paving = pave.__wrapped__(sigma_squared)
        assert len(paving.column_height) <= 157
        assert paving.levels << paving.height_bits < 2**32
        assert paving.decay <= 2**32
        assert Fraction(4**paving.width_bits, 2) / sigma_squared <= Fraction(1, 512) or paving.width_bits == 0
        assert 2 * (paving.slack + 1) * 2.0**-paving.height_bits < 1e-4


@pytest.mark.parametrize("sigma_squared", [Fraction(1), Fraction(100), Fraction(10**6), Fraction(2) ** 80], ids=str)
@pytest.mark.parametrize("block", [0, 1, 5, 64, 67])
def test_the_tail_accepts_with_exactly_the_curve_height(sigma_squared, block):
    paving = pave(sigma_squared)
    offset = (2**paving.tail_bits) * 2 // 3
    y = paving.tail_start + (block << paving.tail_bits) + offset
    blocks = [[0]] * (block // 64) + [[2 ** (block % 64)]]
    refinements = 60
    with mpmath.workprec(64 * (refinements + 3)):
        share = mpmath.mpf(paving.levels) * 2 ** (paving.tail_bits - paving.width_bits + block + 1)
        share *= curve(sigma_squared, y)
        digits = int(mpmath.floor(share * mpmath.mpf(2) ** (64 * refinements)))
    expansion = [(digits >> (64 * (refinements - 1 - j))) & (2**64 - 1) for j in range(refinements)]
    significant = next((j for j, word in enumerate(expansion) if word), refinements - 2)
    for change, expected in ((-1, [y]), (1, [])):
        # As the threshold down to its first significant word, which is then one off.
        script = list(expansion[: significant + 1])
        script[significant] += change
        if script[significant] < 0:
            continue
        portions = [[paving.tail_slot], [script[0]], *blocks, [offset], *([w] for w in script[1:])]
        stream = Continued(portions, 2**63)
        assert sampler._propose(paving, 1, stream).tolist() == expected
        stream = Continued([[paving.tail_slot | SLOTS], *portions[1:]], 2**63)
        assert sampler._propose(paving, 1, stream).tolist() == [-y for y in expected]


def test_slots_signs_and_offsets_lead_where_the_docstring_says(scripted_stream):
    sigma_squared = Fraction(10**6)
    paving = pave(sigma_squared)
    sign, unit = 1 << SLOT_BITS, 1 << (SLOT_BITS + 1)
    column_two = int(np.flatnonzero(paving.start == 2 << paving.width_bits)[0])
    words = [
        0,
        5 * unit,
        sign,
        sign | 5 * unit,
        column_two | 3 * unit,
        SLOTS - 1 if paving.tail_slot < SLOTS - 1 else 0,
    ]
    # The topmost bits are not used.
    words.append(2**63 | 7 * unit)
    stream = scripted_stream(words, [])
    expected = [0, 5, -5, (2 << paving.width_bits) + 3]
    expected += [7] if paving.tail_slot < SLOTS - 1 else [0, 7]
    assert sampler._propose(paving, len(words), stream).tolist() == expected
    assert stream.exhausted


@pytest.mark.parametrize("sigma_squared", [Fraction(1), Fraction(10**6, 7)], ids=str)
def test_each_word_is_judged_once_and_in_order(sigma_squared, seeded_stream):
    paving = pave(sigma_squared)
    stream = seeded_stream(3)
    samples = sample_discrete_gaussian(sigma_squared, 20_000, stream=stream)
    tape = [[int(w) for w in portion] for portion in stream.tape]
    expected = []
    while tape:
        words = tape.pop(0)
        open_words = [w for w in words if paving.first_edge <= w % SLOTS <= paving.tail_slot]
        heights = tape.pop(0)
        assert len(heights) == len(open_words)
        tails = {}
        for number, word in enumerate(open_words):
            if word % SLOTS == paving.tail_slot:
                tails[number] = (tape.pop(0), tape.pop(0))
        number = 0
        for word in words:
            slot, sign, rest = word % SLOTS, word >> SLOT_BITS & 1, word >> (SLOT_BITS + 1)
            if slot > paving.tail_slot:
                continue
            y = int(paving.start[slot]) + rest % 2**paving.width_bits
            if slot >= paving.first_edge:
                uniform = mpmath.mpf(heights[number]) / 2**64
                if slot == paving.tail_slot:
                    (first,), (second,) = tails[number]
                    block = (first & -first).bit_length() - 1
                    y = paving.tail_start + (block << paving.tail_bits) + second % 2**paving.tail_bits
                    uniform /= 2 ** (block + 1 + paving.tail_bits - paving.width_bits)
                else:
                    uniform += int(paving.edge_level[slot - paving.first_edge])
                number += 1
                if uniform >= paving.levels * curve(sigma_squared, y):
                    continue
            if y or not sign:
                expected.append(-y if sign else y)
    assert len(samples) <= len(expected)
    assert samples.tolist() == expected[: len(samples)]


rationals = st.fractions(min_value=0, max_value=400, max_denominator=10**12)


@settings(deadline=None)
@given(rationals, st.integers(1, 300))
def test_enclosures_hold_and_are_narrow(x, bits):
    low, high = exponential_enclosure(x, bits)
    with mpmath.workdps(300):
        assert low <= mpmath.exp(-mp(x)) * mpmath.mpf(2) ** bits <= high
    assert 0 <= high - low <= 2


@pytest.mark.parametrize(
    "x", [Fraction(1, 10**40), Fraction(10**40 + 1, 10**40), Fraction(10**30), Fraction(2**90, 3**60)]
)
def test_enclosures_of_extreme_arguments(x):
    low, high = exponential_enclosure(x, 200)
    assert low <= mpmath.exp(-mp(x)) * mpmath.mpf(2) ** 200 <= high
    assert high - low <= 2


@pytest.mark.parametrize("bits", [8, 60, 300])
def test_enclosures_of_values_that_all_but_are_integers(bits):
    for share in range(1, 60):
        nearest = 1 + (2**bits - 1) * share // 61
        for side in (-1, 1):
            with mpmath.workdps(250):
                value = nearest + side * mpmath.mpf(2) ** -40
                x = Fraction(int(mpmath.floor(mpmath.log(mpmath.mpf(2) ** bits / value) * 2**600)), 2**600)
                low, high = exponential_enclosure(x, bits)
                assert low <= mpmath.exp(-mp(x)) * mpmath.mpf(2) ** bits <= high


@pytest.mark.parametrize("known", [0, 64, 128])
@pytest.mark.parametrize("x", [Fraction(1, 3), Fraction(7, 2), Fraction(100)])
def test_the_comparison_refines_for_as_long_as_the_digits_agree(x, known):
    scale, agreed = 5, 6
    with mpmath.workprec(2000):
        digits = int(mpmath.floor(scale * mpmath.exp(-mp(x)) * mpmath.mpf(2) ** (64 * agreed)))
    for last in (-1, 1):
        number = digits + last
        prefix = number >> (64 * agreed - known)
        rest = [(number >> (64 * j)) & (2**64 - 1) for j in reversed(range(agreed - known // 64))]
        source = iter(rest)
        answer = uniform_below_scaled_exponential(prefix, known, scale, x, lambda source=source: next(source))
        assert answer is (last < 0)
        assert next(source, None) is None


def test_the_comparison_with_one_needs_no_refinement():
    def no_more():
        raise AssertionError("drew a word")

    assert uniform_below_scaled_exponential(2**64 - 1, 64, 1, Fraction(0), no_more)
    assert not uniform_below_scaled_exponential(2**64, 64, 1, Fraction(0), no_more)
