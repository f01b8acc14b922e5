from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from secure_fu.errors import ArgumentError
from secure_fu.privacy import clip_l2

finite = st.floats(allow_nan=False, allow_infinity=False)
clip_norms = st.floats(min_value=2.0**-500, max_value=2.0**500)


def exact_square(vector):
    return sum((Fraction(float(v)) ** 2 for v in vector), Fraction(0))


@settings(deadline=None, max_examples=300)
@given(arrays(np.float64, array_shapes(min_dims=1, max_dims=3, max_side=6), elements=finite), clip_norms)
def test_exact_and_measured_norm_never_exceed_the_clip_norm(vectors, clip_norm):
    clipped = clip_l2(vectors, clip_norm)
    assert clipped.shape == vectors.shape
    assert clipped.dtype == np.float64
    for vector in clipped.reshape(-1, vectors.shape[-1]):
        assert exact_square(vector) <= Fraction(clip_norm) ** 2
        # Scaled by a power of two, for the squares of tiny numbers underflow.
        exponent = -math.frexp(clip_norm)[1]
        assert np.linalg.norm(np.ldexp(vector, exponent)) <= math.ldexp(clip_norm, exponent)


@pytest.mark.parametrize("dimension", [1, 2, 3, 10, 1000, 20_003])
@pytest.mark.parametrize("excess", [0.0, 1e-16, 1e-15, 1e-12, 1e-3, 1.0, 1e6])
def test_norm_at_and_just_above_the_bound(dimension, excess):
    rng = np.random.default_rng(dimension)
    for clip_norm in (1.0, 0.1, 3.7):
        vector = rng.standard_normal(dimension)
        vector *= clip_norm * (1 + excess) / np.linalg.norm(vector)
        clipped = clip_l2(vector, clip_norm)
        assert exact_square(clipped) <= Fraction(clip_norm) ** 2
        assert np.linalg.norm(clipped) <= clip_norm
        assert math.sqrt(math.fsum(clipped**2)) <= clip_norm
        assert np.linalg.norm(clipped) >= clip_norm * (1 - 1e-9)


def test_short_vectors_are_untouched_and_long_ones_keep_their_direction():
    vectors = np.array([[0.3, -0.4], [3.0, -4.0], [0.0, 0.0], [1e-310, 0.0], [1.7e308, -1.7e308]])
    clipped = clip_l2(vectors, 1.0)
    np.testing.assert_array_equal(clipped[[0, 2, 3]], vectors[[0, 2, 3]])
    np.testing.assert_allclose(clipped[1], [0.6, -0.8], rtol=1e-14)
    np.testing.assert_allclose(clipped[4], [math.sqrt(0.5), -math.sqrt(0.5)], rtol=1e-14)
    assert clip_l2(vectors, 1.0) is not vectors


def test_empty_vectors_stay_empty():
    assert clip_l2(np.zeros((3, 0)), 1.0).shape == (3, 0)
    assert clip_l2(np.zeros((0, 3)), 1.0).shape == (0, 3)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_not_finite_is_refused_without_naming_data(bad):
    with pytest.raises(ArgumentError, match="NaN or infinite") as caught:
        clip_l2(np.array([123.456, bad]), 1.0)
    assert "123" not in str(caught.value)


@pytest.mark.parametrize("clip_norm", [0.0, -1.0, math.nan, math.inf, 1e-200, 1e200])
def test_clip_norm_out_of_range(clip_norm):
    with pytest.raises(ArgumentError, match="clip_norm"):
        clip_l2(np.ones(3), clip_norm)


def test_scalar_is_refused():
    with pytest.raises(ArgumentError, match="without axes"):
        clip_l2(np.float64(1.0), 1.0)
