from __future__ import annotations

import hashlib
import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from secure_fu.errors import ArgumentError
from secure_fu.privacy import Unit, clip_l2, rotated_grid
from secure_fu.privacy._hadamard import rotate, rotate_back
from secure_fu.privacy._rounding import round_at_random
from secure_fu.privacy.rotated_grid import RotatedGrid

SEED = hashlib.sha256(b"a header").digest()


def make(**changes):
    fields = {"step": 1.0, "dimension": 64, "clip_norm": 12.0, "clients": 10}
    return RotatedGrid(**(fields | changes))


def squared(integers):
    return sum(int(v) ** 2 for v in integers)


class Constant:
    """The same word for ever: 0 rounds away from zero, 2**64 - 1 towards it."""

    def __init__(self, word):
        self.word, self.calls = word, 0

    def words(self, count):
        self.calls += 1
        return np.full(count, self.word, dtype=np.uint64)


AWAY, TOWARDS = 0, 2**64 - 1


def adversarial(grid, seed):
    """Vectors at the clip norm, or just below it, that are hard on the norm of what they are rounded to."""
    d, clip = grid.dimension, grid.clip_norm
    generator = np.random.default_rng(d)
    one_hot, few = np.zeros(d), np.zeros(d)
    one_hot[d // 2] = 1.0
    few[: max(1, d // 8)] = 1.0
    cells = max(0, math.floor(clip / grid.step / math.sqrt(d) - 0.5))
    half_way = np.full(d, (cells + 0.5) * grid.step)
    half_way[1::2] *= -1.0
    just_above = np.full(d, grid.step * (max(0, math.floor(clip / grid.step / math.sqrt(d))) + 1e-9))
    in_rotated_domain = [half_way, just_above, one_hot, few]
    vectors = [one_hot, few, np.ones(d), generator.standard_normal(d), generator.standard_cauchy(d)]
    vectors += [rotate_back(vector, seed) for vector in in_rotated_domain]
    at_the_norm = [clip_l2(vector * (1e6 * clip / np.linalg.norm(vector)), clip) for vector in vectors]
    return at_the_norm + [clip_l2(rotate_back(vector, seed), clip) for vector in in_rotated_domain]


GRIDS = [
    {"dimension": 1, "clip_norm": 3.3},
    {"dimension": 3, "clip_norm": 2.0},
    {"dimension": 64, "clip_norm": 4.01},
    {"dimension": 100, "clip_norm": 5.0, "step": 2.0},
    {"dimension": 1000, "clip_norm": 0.5, "step": 0.25},
    {"dimension": 7850, "clip_norm": 0.1, "step": 2.0**-11},
]


@pytest.mark.parametrize("fields", GRIDS)
def test_norm_bound_holds_exactly_and_not_without_conditioning(fields, os_stream, monkeypatch):
    grid = make(**fields)

    def worst(streams):
        vectors = adversarial(grid, SEED)
        drawn = [grid.encode(vector, seed=SEED, stream=stream) for vector in vectors for stream in streams]
        return max(squared(integers) for integers in drawn)

    streams = [os_stream, os_stream, Constant(AWAY), Constant(TOWARDS)]
    limit = worst(streams)
    assert limit <= grid.squared_norm_limit
    assert limit * Fraction(grid.step) ** 2 <= Fraction(grid.sensitivity) ** 2
    monkeypatch.setattr(rotated_grid, "round_at_random", lambda *arguments: 0.0 * round_at_random(*arguments))
    assert worst(streams) > grid.squared_norm_limit


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 40),
    st.floats(1.0, 30.0),
    st.integers(-3, 3),
    st.integers(0, 2**32),
    st.lists(st.sampled_from([0, 2**62, 2**63, 2**64 - 1]), min_size=1, max_size=7),
)
def test_norm_bound_holds_for_any_words(dimension, clip, exponent, number, words):
    class Pattern:
        def words(self, count):
            return np.resize(np.array(words, dtype=np.uint64), count)

    grid = make(dimension=dimension, clip_norm=clip * 2.0**exponent, step=2.0**exponent)
    seed = hashlib.sha256(b"%d" % number).digest()
    for vector in adversarial(grid, seed):
        integers = grid.encode(vector, seed=seed, stream=Pattern())
        assert squared(integers) <= grid.squared_norm_limit
        # At most one step from the exact rotation: a rounding, not any short vector.
        assert np.abs(integers - rotate(vector / grid.step, seed)).max() <= 1.0


@settings(deadline=None)
@given(st.floats(1e-3, 1e3), st.integers(1, 10**7), st.floats(1.0, 2.0**25))
def test_sensitivity_is_the_published_formula(clip, dimension, clip_in_steps):
    step = 2.0 ** math.floor(math.log2(clip / clip_in_steps))
    if not clip / 2.0**26 <= step <= clip:
        return
    grid = make(dimension=dimension, clip_norm=clip, step=step)
    with mpmath.workdps(60):
        c, g, root, beta = mpmath.mpf(clip), mpmath.mpf(step), mpmath.sqrt(dimension), mpmath.exp(mpmath.mpf("-0.5"))
        tight = c**2 + g**2 * dimension / 4 + mpmath.sqrt(2 * mpmath.log(1 / beta)) * g * (c + g * root / 2)
        formula = min(tight, (c + g * root) ** 2)
        # An integer squared norm below the formula's is one up to its integer part (computed ones are off by 1e-50).
        assert grid.squared_norm_limit in {mpmath.floor(formula / g**2 + e) for e in (-1e-40, 1e-40)}
        assert mpmath.mpf(grid.squared_norm_limit) <= (mpmath.mpf(grid.sensitivity) / g) ** 2
        assert grid.sensitivity <= mpmath.sqrt(formula) * (1 + mpmath.mpf(2) ** -51)


@pytest.mark.parametrize("dimension", [1, 63, 64, 7850])
@pytest.mark.parametrize("word", [AWAY, 12345, TOWARDS])
def test_zero_rounds_to_zero_exactly(dimension, word):
    grid = make(dimension=dimension)
    for zero in (0.0, -0.0):
        integers = grid.encode(np.full(dimension, zero), seed=SEED, stream=Constant(word))
        np.testing.assert_array_equal(integers, np.zeros(dimension, dtype=np.int64))
        assert integers.dtype == np.int64


def mean_errors(grid, rotated, repetitions, stream):
    """Average rounding error in every rotated coordinate, in steps, of the vector with this image."""
    vector = rotate_back(rotated, SEED) * grid.step
    total = sum(grid.encode(vector, seed=SEED, stream=stream) for _ in range(repetitions))
    return total / repetitions - rotated


def chi_square_p(errors, fractions, repetitions):
    return stats.chi2.sf(float((errors**2 / (fractions * (1.0 - fractions) / repetitions)).sum()), len(errors))


def test_rounding_preserves_the_expectation_and_nearest_rounding_does_not(os_stream):
    grid, repetitions = make(dimension=64, clip_norm=60.0), 3000
    generator = np.random.default_rng(2)
    fractions = generator.choice([0.05, 0.25, 0.4, 0.8], 64)
    rotated = (generator.integers(0, 3, 64) + fractions) * generator.choice([-1.0, 1.0], 64)
    # Rounding away throughout is within the limit: nothing is conditioned, and the expectation is exact.
    assert squared(np.ceil(np.abs(rotated))) <= grid.squared_norm_limit
    errors = mean_errors(grid, rotated, repetitions, os_stream)
    assert chi_square_p(errors, fractions, repetitions) > 1e-7
    nearest = np.rint(rotated) - rotated
    assert chi_square_p(nearest, fractions, repetitions) < 1e-100
    # A bias of a fortieth of a step in every coordinate would show.
    assert chi_square_p(errors + 0.025 * np.sign(rotated), fractions, repetitions) < 1e-7


def test_conditioning_biases_by_less_than_stated_and_nearest_rounding_by_more(os_stream):
    # As hard as it gets: the whole vector half-way between grid points, at the clip norm.
    dimension, repetitions = 36, 4000
    rotated = np.full(dimension, 1.5)
    grid = make(dimension=dimension, clip_norm=float(np.linalg.norm(rotated)) * (1 + 1e-9))
    bias = float(np.linalg.norm(mean_errors(grid, rotated, repetitions, os_stream)))
    noise = 0.5 * math.sqrt(dimension / repetitions)
    assert noise < bias < 0.683
    assert np.linalg.norm(np.floor(rotated) - rotated) == 3.0


@pytest.mark.parametrize("fields", GRIDS)
def test_a_drawing_is_accepted_with_the_stated_probability(fields, os_stream):
    grid = make(**fields)
    for vector in adversarial(grid, SEED):
        scaled = np.abs(rotate(vector / grid.step, SEED))
        floors, repetitions, accepted = np.floor(scaled), 300, 0
        for _ in range(repetitions):
            uniform = os_stream.words(grid.dimension) / 2.0**64
            accepted += squared(floors + (uniform < scaled - floors)) <= grid.squared_norm_limit
        assert accepted / repetitions >= 1 - math.exp(-0.5) - 4 * math.sqrt(0.25 / repetitions)


@pytest.mark.parametrize(("value", "border"), [(2.25, 2**62), (2.5, 2**63), (0.75, 3 * 2**62), (2.0**-60, 2**4)])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_a_coordinate_is_rounded_away_from_zero_for_exactly_its_share_of_the_words(value, border, sign):
    grid = make(dimension=1)
    for word, integer in ((border - 1, math.floor(value) + 1), (border, math.floor(value))):
        integers = grid.encode(np.array([sign * value]), seed=SEED, stream=Constant(word))
        turned = np.sign(rotate(np.array([sign]), SEED))
        np.testing.assert_array_equal(integers, turned.astype(np.int64) * integer)


def test_a_stream_that_gives_too_few_words_is_refused(monkeypatch, os_stream):
    monkeypatch.setattr(os_stream, "words", lambda count: np.zeros(count - 1, dtype=np.uint64))
    with pytest.raises(ArgumentError, match="stream is"):
        make().encode(np.full(64, 0.5), seed=SEED, stream=os_stream)


def test_too_long_drawings_are_thrown_away(scripted_stream):
    rotated = np.full(64, 0.5)
    grid = make(clip_norm=4.0)
    away, towards = np.full(64, AWAY, dtype=np.uint64), np.full(64, TOWARDS, dtype=np.uint64)
    assert squared(np.ones(64)) > grid.squared_norm_limit
    stream = scripted_stream(away, away, towards)
    integers = grid.encode(rotate_back(rotated, SEED), seed=SEED, stream=stream)
    np.testing.assert_array_equal(integers, np.zeros(64))
    assert stream.exhausted


@pytest.mark.parametrize(
    ("clip", "limit", "integer"), [(1.3, 3, 1), (1.4, 4, 2), (2.3, 8, 2), (2.4, 8, 2), (2.5, 9, 3)]
)
def test_the_limit_is_kept_to_the_unit(clip, limit, integer):
    grid = make(dimension=1, clip_norm=clip)
    assert grid.squared_norm_limit == limit
    drawn = grid.encode(np.array([clip]), seed=SEED, stream=Constant(AWAY))
    np.testing.assert_array_equal(np.abs(drawn), [integer])


def test_after_200_drawings_the_vector_is_truncated():
    rotated = np.tile([0.5, 1.5, -1.5, -0.5], 16)
    grid = make(clip_norm=float(np.linalg.norm(rotated)) * (1 + 1e-9))
    stream = Constant(AWAY)
    integers = grid.encode(rotate_back(rotated, SEED), seed=SEED, stream=stream)
    np.testing.assert_array_equal(integers, np.tile([0, 1, -1, 0], 16))
    assert stream.calls == 200
    assert 200 * 0.5 / math.log(2) > 144


@pytest.mark.parametrize("factor", [2.0, 1e300, math.inf, math.nan])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_the_bound_does_not_rest_on_the_rotation(factor, os_stream, monkeypatch):
    monkeypatch.setattr(rotated_grid, "rotate", lambda vector, seed: rotate(vector, seed) * factor)
    with pytest.raises(ArgumentError, match="norm"):
        make().encode(clip_l2(np.full(64, 100.0), 12.0), seed=SEED, stream=os_stream)


@pytest.mark.parametrize("dimension", [1, 63, 7850, 100_180, 1_000_000])
def test_nothing_is_padded_and_decoding_inverts_up_to_rounding(dimension, os_stream):
    grid = make(dimension=dimension, clip_norm=1.0, step=2.0**-20)
    vector = clip_l2(np.random.default_rng(3).standard_normal(dimension) * 10.0, 1.0)
    integers = grid.encode(vector, seed=SEED, stream=os_stream)
    assert integers.shape == (grid.encoded_dimension,) == (dimension,)
    decoded = grid.decode(integers, seed=SEED)
    assert decoded.dtype == np.float64
    assert np.linalg.norm(decoded - vector) <= 1.01 * grid.step * math.sqrt(dimension)


@pytest.mark.parametrize(
    "vector", [np.full(64, 1e200), np.full(64, 12.1 / 8), [*[0.0] * 63, 12.0 + 1e-6], [math.nan] * 64, [math.inf] * 64]
)
def test_bad_vectors_are_refused_without_naming_data(vector, os_stream):
    with pytest.raises(ArgumentError, match="vector is 'an array") as caught:
        make().encode(np.array(vector), seed=SEED, stream=os_stream)
    assert "e+200" not in str(caught.value)
    assert "1.5" not in str(caught.value)


@pytest.mark.parametrize("shape", [(63,), (64, 1), ()])
def test_wrong_shapes_seeds_and_types(shape, os_stream):
    grid = make()
    with pytest.raises(ArgumentError, match="shape"):
        grid.encode(np.zeros(shape), seed=SEED, stream=os_stream)
    with pytest.raises(ArgumentError, match="shape"):
        grid.decode(np.zeros(shape, dtype=np.int64), seed=SEED)
    with pytest.raises(ArgumentError, match="int64"):
        grid.decode(np.zeros(64), seed=SEED)
    with pytest.raises(ArgumentError, match="32 bytes"):
        grid.encode(np.zeros(64), seed=SEED[1:], stream=os_stream)
    with pytest.raises(ArgumentError, match="32 bytes"):
        grid.decode(np.zeros(64, dtype=np.int64), seed=b"")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("step", 0.3),
        ("step", 0.0),
        ("step", math.nan),
        ("step", 16.0),
        ("step", 2.0**-24),
        ("dimension", 0),
        ("dimension", 2**36 + 1),
        ("clip_norm", -1.0),
        ("clip_norm", math.nan),
        ("clients", 0),
        ("clients", 2**20 + 1),
        ("sum_bits", 1),
        ("sum_bits", 63),
        ("unit", Unit.RECORD),
        ("unit", Unit.GROUP),
        ("unit", "client"),
    ],
)
def test_fields_out_of_their_domain(field, value):
    with pytest.raises(ArgumentError, match=field):
        make(**{field: value})
