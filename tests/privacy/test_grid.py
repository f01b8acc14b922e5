from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_fu.errors import ArgumentError
from secure_fu.privacy import MAX_SUMMED_VECTORS, Grid, Unit, clip_l2

units = st.sampled_from(Unit)


def make(**changes):
    fields = {"step": 0.25, "saturation": 8.0, "dimension": 4, "clip_norm": 1.0, "unit": Unit.RECORD}
    return Grid(**(fields | changes))


def distance(grid, first, second):
    """Exact squared L2 distance of two quantised vectors, in the vector's units."""
    difference = grid.quantise(np.asarray(first)) - grid.quantise(np.asarray(second))
    return sum(int(v) ** 2 for v in difference) * Fraction(grid.step) ** 2


@st.composite
def neighbours(draw):
    """A coarse grid, the sum of some clipped vectors, and that sum with one more; often next to rounding boundaries."""
    dimension = draw(st.integers(1, 6))
    clip_norm = draw(st.floats(0.01, 100.0))
    step = 2.0 ** draw(st.integers(-8, 8))
    grid = make(
        step=step,
        saturation=step * draw(st.floats(0.3, 1000.0)),
        dimension=dimension,
        clip_norm=clip_norm,
        unit=draw(st.sampled_from([Unit.RECORD, Unit.GROUP])),
    )
    cells = st.lists(st.integers(-20, 20), min_size=dimension, max_size=dimension)
    nudges = st.lists(st.sampled_from([0.0, 1e-12, -1e-12, 0.3]), min_size=dimension, max_size=dimension)
    boundary = (np.array(draw(cells)) + 0.5 + np.array(draw(nudges))) * step
    direction = np.array(draw(st.lists(st.floats(-1.0, 1.0), min_size=dimension, max_size=dimension)))
    scale = draw(st.sampled_from([1e-9, 0.1, 1.0, 1e3]))
    return grid, boundary, clip_l2(direction * clip_norm * scale, clip_norm)


@settings(deadline=None, max_examples=500)
@given(neighbours())
def test_adding_one_unit_moves_the_rounded_sum_by_at_most_the_sensitivity(case):
    grid, base, contribution = case
    assert distance(grid, base + contribution, base) <= Fraction(grid.sensitivity) ** 2


@settings(deadline=None, max_examples=300)
@given(neighbours())
def test_a_client_against_zero_moves_the_rounded_sum_by_at_most_the_sensitivity(case):
    grid, base, contribution = case
    grid = make(
        step=grid.step,
        saturation=grid.saturation,
        dimension=grid.dimension,
        clip_norm=grid.clip_norm,
        unit=Unit.CLIENT,
    )
    for vector in (contribution, clip_l2(base, grid.clip_norm)):
        assert distance(grid, vector, np.zeros(grid.dimension)) <= Fraction(grid.sensitivity) ** 2


@pytest.mark.parametrize("dimension", [1, 4, 100])
@pytest.mark.parametrize("cells", [0, 1, 10])
def test_the_bound_is_attained_so_that_a_smaller_formula_fails(dimension, cells):
    nudge = 2.0**-30
    for unit in Unit:
        half = 0.5 if unit is Unit.CLIENT else 0.0
        contribution = np.full(dimension, cells + half + 2 * nudge)
        clip_norm = max(float(np.linalg.norm(contribution)) * (1 + 1e-12), 2.0**-20)
        grid = make(step=1.0, saturation=100.0, dimension=dimension, clip_norm=clip_norm, unit=unit)
        base = np.zeros(dimension) if unit is Unit.CLIENT else np.full(dimension, 0.5 - nudge)
        moved = math.sqrt(distance(grid, base + contribution, base))
        assert grid.sensitivity * (1 - 3e-4) - 1e-6 <= moved <= grid.sensitivity


@settings(deadline=None)
@given(st.floats(1e-6, 1e6), st.integers(1, 10**8), units)
def test_sensitivity_is_the_documented_formula_rounded_up(clip_norm, dimension, unit):
    grid = Grid.fine(clip_norm, dimension, clip_norm, unit)
    clip, step, records = Fraction(clip_norm), Fraction(grid.step), MAX_SUMMED_VECTORS
    gamma = Fraction(records, 2**53 - records)
    # sqrt(d) from above and below by integers.
    root = math.isqrt(dimension << 200)
    if unit is Unit.CLIENT:
        low, high = (clip + step * Fraction(r, 2**100) / 2 for r in (root, root + 1))
    else:
        low, high = (clip * (1 + 2 * gamma * records) + step * Fraction(r, 2**100) for r in (root, root + 1))
    assert low <= Fraction(grid.sensitivity) <= high * (1 + Fraction(1, 2**48))


def test_summation_error_stays_within_its_term():
    # Worst-case data for float64: one large value, then many that are rounded away one by one.
    count = 2**16
    values = np.concatenate([[1.0], np.full(count - 1, 2.0**-54)])
    summed = np.cumsum(values)[-1]
    exact = 1 + (count - 1) * Fraction(1, 2**54)
    gamma = Fraction(count, 2**53 - count)
    assert 0 < abs(Fraction(float(summed)) - exact) <= gamma * exact
    assert gamma * count <= Fraction(MAX_SUMMED_VECTORS, 2**53 - MAX_SUMMED_VECTORS) * MAX_SUMMED_VECTORS


@settings(deadline=None)
@given(st.floats(2.0**-500, 2.0**500), st.integers(1, 10**9))
def test_fine_step_is_the_largest_power_of_two_below_its_limit(clip_norm, dimension):
    step = Fraction(Grid.fine(clip_norm, dimension, clip_norm, Unit.RECORD).step)
    limit = Fraction(clip_norm) ** 2 / (10_000 * dimension)
    assert step**2 <= limit < (2 * step) ** 2
    assert Fraction(math.frexp(float(step))[0]) == Fraction(1, 2)


def test_fine_step_at_an_exact_limit():
    assert Grid.fine(100.0, 1, 1.0, Unit.RECORD).step == 1.0
    assert Grid.fine(200.0, 4, 1.0, Unit.RECORD).step == 1.0
    assert Grid.fine(math.nextafter(100.0, 0.0), 1, 1.0, Unit.RECORD).step == 0.5


def test_fine_excess_is_at_most_one_percent():
    grid = Grid.fine(1.0, 2410, 3.0, Unit.RECORD)
    assert 1.005 < grid.sensitivity < 1.0103
    assert 1.0025 < Grid.fine(1.0, 2410, 3.0, Unit.CLIENT).sensitivity < 1.005


def test_quantise_saturates_and_rounds_half_to_even():
    grid = make(step=0.25, saturation=1.1, dimension=7)
    vector = np.array([0.0, 0.125, 0.375, -0.13, 1.1, 5.0, -1e300])
    np.testing.assert_array_equal(grid.quantise(vector), [0, 0, 2, -1, 4, 4, -4])
    assert grid.quantise(vector).dtype == np.int64
    assert grid.max_integer == 5


@settings(deadline=None)
@given(st.floats(2.0**-40, 2.0**40), st.integers(-30, 30), st.floats(allow_nan=False, allow_infinity=False))
def test_max_integer_is_never_exceeded(saturation, exponent, value):
    if saturation > 2.0 ** (exponent + 52):
        return
    grid = make(step=2.0**exponent, saturation=saturation, dimension=1)
    assert abs(int(grid.quantise(np.array([value]))[0])) <= grid.max_integer
    assert abs(int(grid.quantise(np.array([1e308]))[0])) <= grid.max_integer


def test_dequantise_inverts_quantise_up_to_half_a_step():
    grid = Grid.fine(1.0, 1000, 2.0, Unit.RECORD)
    vector = np.linspace(-1.9, 1.9, 1000)
    restored = grid.dequantise(grid.quantise(vector))
    assert np.abs(restored - vector).max() <= grid.step / 2
    np.testing.assert_array_equal(grid.quantise(restored), grid.quantise(vector))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_not_finite_is_refused_without_naming_data(bad):
    with pytest.raises(ArgumentError, match="NaN or infinite") as caught:
        make().quantise(np.array([123.456, bad, 0.0, 0.0]))
    assert "123" not in str(caught.value)


@pytest.mark.parametrize("shape", [(3,), (4, 1), (), (5,)])
def test_wrong_shapes(shape):
    with pytest.raises(ArgumentError, match="shape"):
        make().quantise(np.zeros(shape))
    with pytest.raises(ArgumentError, match="shape"):
        make().dequantise(np.zeros(shape, dtype=np.int64))


def test_dequantise_wants_integers():
    with pytest.raises(ArgumentError, match="int64"):
        make().dequantise(np.zeros(4))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("step", 0.3),
        ("step", 0.0),
        ("step", -0.5),
        ("step", math.inf),
        ("step", math.nan),
        ("saturation", 0.0),
        ("saturation", math.inf),
        ("saturation", math.nan),
        ("saturation", 2.0**51),
        ("dimension", 0),
        ("clip_norm", 0.0),
        ("clip_norm", math.nan),
        ("unit", "record"),
    ],
)
def test_fields_out_of_their_domain(field, value):
    with pytest.raises(ArgumentError, match=field):
        make(**{field: value})


def test_fine_checks_its_arguments():
    with pytest.raises(ArgumentError, match="dimension"):
        Grid.fine(1.0, 0, 1.0, Unit.RECORD)
    with pytest.raises(ArgumentError, match="clip_norm"):
        Grid.fine(-1.0, 1, 1.0, Unit.RECORD)
