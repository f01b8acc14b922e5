from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from secure_fu.crypto import SecureStream
from secure_fu.discrete_gaussian import sample_discrete_gaussian
from secure_fu.errors import ArgumentError
from secure_fu.privacy import noise_variance_test


def test_the_figures_are_those_of_chi_square():
    values = np.random.default_rng(0).normal(scale=2.0, size=50)
    result = noise_variance_test(values, expected=2.2, level=0.9)
    squares = (values**2).sum() / 2.2**2
    assert result.p_too_small == pytest.approx(stats.chi2.cdf(squares, 50), rel=1e-12)
    assert result.p_too_large == pytest.approx(stats.chi2.sf(squares, 50), rel=1e-12)
    assert result.ratio.value == pytest.approx(math.sqrt((values**2).mean()) / 2.2)
    assert result.ratio.low == pytest.approx(math.sqrt(squares / stats.chi2.ppf(0.95, 50)))
    assert result.ratio.high == pytest.approx(math.sqrt(squares / stats.chi2.ppf(0.05, 50)))


def test_noise_five_percent_too_small_is_found_in_5000_coordinates():
    generator = np.random.default_rng(1)
    found = [noise_variance_test(generator.normal(scale=0.95 * 8, size=5000), expected=8.0) for _ in range(400)]
    assert np.mean([result.too_small for result in found]) >= 0.99
    assert not any(result.too_large for result in found)
    honest = [noise_variance_test(generator.normal(scale=8, size=5000), expected=8.0) for _ in range(2000)]
    assert 0.03 < np.mean([result.too_small for result in honest]) < 0.07
    assert 0.03 < np.mean([result.too_large for result in honest]) < 0.07
    assert 0.93 < np.mean([result.ratio.low <= 1.0 <= result.ratio.high for result in honest]) < 0.97


def test_missing_shares_of_the_real_noise_are_found():
    """Ten clients' discrete Gaussians, and eight."""
    shares = [sample_discrete_gaussian(Fraction(40) ** 2, 5000, stream=SecureStream()) for _ in range(10)]
    expected = 40 * math.sqrt(10)
    everybody = noise_variance_test(np.sum(shares, axis=0), expected=expected, level=1 - 1e-6)
    assert not everybody.too_small
    assert not everybody.too_large
    assert noise_variance_test(np.sum(shares[:8], axis=0), expected=expected, level=1 - 1e-6).too_small


@pytest.mark.parametrize("values", [[], [[1.0]], [1.0, math.nan], [math.inf]])
def test_bad_values_are_refused(values):
    with pytest.raises(ArgumentError, match="values"):
        noise_variance_test(values, expected=1.0)


def test_bad_expectations_are_refused():
    with pytest.raises(ArgumentError, match="expected"):
        noise_variance_test([1.0], expected=0.0)
    with pytest.raises(ArgumentError, match="level"):
        noise_variance_test([1.0], expected=1.0, level=1.0)


def test_no_noise_at_all_is_too_small():
    result = noise_variance_test(np.zeros(100), expected=1.0)
    assert result.ratio.value == 0.0
    assert result.p_too_small == 0.0
    assert result.too_small
    assert all(value is not None for value in result.to_json().values())
