"""The law of the samples, statistically, and what the sampler does with its stream and its arguments."""

from __future__ import annotations

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from scipy import stats

from secure_fu.discrete_gaussian import fresh_words, sample_discrete_gaussian, tail_bound
from secure_fu.errors import ArgumentError

# A right sampler fails a test once in ten million runs.
ALPHA = 1e-7
SMALL = [Fraction(9, 100), Fraction(1, 4), Fraction(1), Fraction(1369, 100), Fraction(100), Fraction(1000, 7)]
LARGE = [Fraction(10) ** 6, Fraction(10) ** 12, Fraction(2) ** 61 / 3]


def probabilities(sigma_squared, largest):
    """P[X = y] for |y| <= largest from the definition, in 50 digits."""
    with mpmath.workdps(50):
        factor = mpmath.mpf(sigma_squared.denominator) / (2 * sigma_squared.numerator)
        weights = [mpmath.exp(-factor * y * y) for y in range(largest + 40)]
        total = 2 * mpmath.fsum(weights) - 1
        half = [float(w / total) for w in weights[: largest + 1]]
    return np.array(half[:0:-1] + half)


def chi_square_p(samples, sigma_squared):
    """Chi-square over single integers, with the tails pooled where fewer than 20 samples are expected."""
    largest = math.isqrt(int(60 * sigma_squared)) + 3
    expected = probabilities(sigma_squared, largest) * len(samples)
    observed = np.bincount(np.clip(samples, -largest, largest) + largest, minlength=2 * largest + 1)
    inside = expected >= 20
    expected = np.append(expected[inside], len(samples) - expected[inside].sum())
    observed = np.append(observed[inside], len(samples) - observed[inside].sum())
    if expected[-1] < 20:
        expected, observed = (np.append(v[1:-1], v[0] + v[-1]) for v in (expected, observed))
    return float(stats.chi2.sf(((observed - expected) ** 2 / expected).sum(), len(expected) - 1))


def large_sigma_p(samples, sigma_squared):
    """Smallest p-value, times their number, of chi-square over 500 equal shares, moments and tail counts."""
    sigma, count = math.sqrt(sigma_squared), len(samples)
    scaled = samples / sigma
    # For sigma >= 1000, P[X <= b] is the normal probability of b + 1/2 to better than 1e-7.
    edges = np.floor(sigma * stats.norm.ppf(np.arange(1, 500) / 500)) + 0.5
    shares = np.diff(np.concatenate([[0.0], stats.norm.cdf(edges / sigma), [1.0]]))
    observed = np.bincount(np.searchsorted(edges, samples), minlength=500)
    p_values = [stats.chi2.sf(((observed - count * shares) ** 2 / (count * shares)).sum(), 499)]
    for power, spread in ((1, 1.0), (2, 2.0), (3, 15.0), (4, 96.0)):
        moment = {1: 0.0, 2: 1.0, 3: 0.0, 4: 3.0}[power]
        p_values.append(2 * stats.norm.sf(abs((scaled**power).mean() - moment) * math.sqrt(count / spread)))
    p_values.append(2 * stats.norm.sf(abs((scaled[1:] * scaled[:-1]).mean()) * math.sqrt(count - 1)))
    for multiple in (2.0, 3.0, 4.0, 4.5):
        beyond = int((np.abs(scaled) > multiple).sum())
        p_values.append(stats.binomtest(beyond, count, 2 * stats.norm.sf(multiple)).pvalue)
    return min(p_values) * len(p_values)


@pytest.mark.parametrize("sigma_squared", SMALL, ids=lambda s: f"sigma={math.sqrt(s):.3g}")
def test_small_sigma_has_the_exact_probabilities_and_no_other(sigma_squared, os_stream):
    samples = sample_discrete_gaussian(sigma_squared, 400_000, stream=os_stream)
    assert samples.dtype == np.int64
    assert samples.shape == (400_000,)
    assert chi_square_p(samples, sigma_squared) > ALPHA
    for wrong in (Fraction(95, 100), Fraction(105, 100)):
        assert chi_square_p(samples, sigma_squared * wrong**2) < ALPHA


@pytest.mark.parametrize("sigma_squared", LARGE, ids=lambda s: f"sigma={math.sqrt(s):.3g}")
def test_large_sigma_has_the_moments_and_tails_and_no_other(sigma_squared, os_stream):
    samples = sample_discrete_gaussian(sigma_squared, 1_000_000, stream=os_stream)
    assert large_sigma_p(samples, sigma_squared) > ALPHA
    for wrong in (Fraction(95, 100), Fraction(105, 100)):
        assert large_sigma_p(samples, sigma_squared * wrong**2) < ALPHA


@pytest.mark.parametrize("sigma_squared", LARGE[:2])
def test_low_digits_are_uniform(sigma_squared, os_stream):
    samples = sample_discrete_gaussian(sigma_squared, 1_000_000, stream=os_stream)
    assert stats.chisquare(np.bincount(samples & 63, minlength=64)).pvalue > ALPHA


def test_tiny_sigma_is_zero_but_for_a_known_probability(os_stream):
    assert not sample_discrete_gaussian(Fraction(1, 10_000), 50_000, stream=os_stream).any()
    assert not sample_discrete_gaussian(Fraction(1, 10**300), 50_000, stream=os_stream).any()


@pytest.mark.parametrize("sigma_squared", [Fraction(2) ** 80, Fraction(2) ** 80 - Fraction(1, 3)])
def test_huge_sigma(sigma_squared, os_stream):
    samples = sample_discrete_gaussian(sigma_squared, 200_000, stream=os_stream)
    assert large_sigma_p(samples, sigma_squared) > ALPHA


@pytest.mark.parametrize("size", [0, 1, 63, 2**14, 2**14 + 1, 50_000])
def test_any_size(size, os_stream):
    samples = sample_discrete_gaussian(Fraction(1000), size, stream=os_stream)
    assert samples.shape == (size,)
    assert size < 1000 or abs(samples.mean()) < 8 * math.sqrt(1000 / size)


@pytest.mark.parametrize("sigma_squared", [Fraction(1, 2), Fraction(10**6, 3)])
def test_same_words_same_samples(sigma_squared, seeded_stream):
    first, again, other = (
        sample_discrete_gaussian(sigma_squared, 30_000, stream=seeded_stream(seed)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("sigma_squared", [0, -1, Fraction(-1, 3), Fraction(2) ** 80 + 1, 1.5, math.nan, "4"])
def test_sigma_squared_out_of_range(sigma_squared, os_stream):
    with pytest.raises(ArgumentError, match="sigma_squared"):
        sample_discrete_gaussian(sigma_squared, 1, stream=os_stream)


def test_negative_size(os_stream):
    with pytest.raises(ArgumentError, match="size"):
        sample_discrete_gaussian(Fraction(1), -1, stream=os_stream)


def exact_tail(sigma_squared, bound):
    """P[|X| > bound] from the definition."""
    with mpmath.workdps(60):
        factor = mpmath.mpf(sigma_squared.denominator) / (2 * sigma_squared.numerator)
        total = mpmath.jtheta(3, 0, mpmath.exp(-factor))
        reach = math.isqrt(int(3 * sigma_squared)) + 30
        return 2 * mpmath.fsum(mpmath.exp(-factor * y * y) for y in range(bound + 1, bound + reach)) / total


@pytest.mark.parametrize("log2_probability", [0.0, -1.0, -20.5, -64.0, -128.0])
@pytest.mark.parametrize("sigma_squared", [Fraction(1, 10), Fraction(1), Fraction(10), Fraction(400)])
@pytest.mark.parametrize("size", [1, 10**6])
def test_tail_bound_holds_and_is_not_wasteful(sigma_squared, size, log2_probability):
    bound = tail_bound(sigma_squared, size, log2_probability=log2_probability)
    allowed = mpmath.mpf(2) ** log2_probability
    assert size * exact_tail(sigma_squared, bound) <= allowed
    if log2_probability <= -64.0 and sigma_squared >= 100:
        assert size * exact_tail(sigma_squared, int(bound * 0.95)) > allowed


def test_tail_bound_of_huge_numbers():
    bound = tail_bound(Fraction(2) ** 120, 10**9, log2_probability=-64.0)
    assert 11 * 2**60 < bound < 12 * 2**60


@pytest.mark.parametrize(
    ("sigma_squared", "size", "log2_probability", "named"),
    [
        (Fraction(0), 1, -1.0, "sigma_squared"),
        (Fraction(1), 0, -1.0, "size"),
        (Fraction(1), 1, 0.1, "log2_probability"),
        (Fraction(1), 1, -math.inf, "log2_probability"),
        (Fraction(1), 1, math.nan, "log2_probability"),
    ],
)
def test_tail_bound_checks_its_arguments(sigma_squared, size, log2_probability, named):
    with pytest.raises(ArgumentError, match=named):
        tail_bound(sigma_squared, size, log2_probability=log2_probability)


class Careless:
    """A stream that gives what no kernel may see: it would read beyond the end, or take a sign for the top bit."""

    def __init__(self, change):
        self.change = change

    def words(self, count):
        return self.change(np.zeros(count, dtype=np.uint64))


@pytest.mark.parametrize(
    "change",
    [
        lambda words: words[:-1],
        lambda words: np.append(words, words),
        lambda words: words[:, None],
        lambda words: words.astype(np.int64),
        lambda words: words.astype(np.float64),
        lambda words: words.astype(">u8"),
    ],
    ids=["too few", "too many", "a matrix", "int64", "float64", "big-endian"],
)
def test_streams_that_give_something_else_are_refused(change, os_stream):
    with pytest.raises(ArgumentError, match="stream is 'one that gives"):
        sample_discrete_gaussian(Fraction(100), 10, stream=Careless(change))
    words = fresh_words(os_stream, 7)
    assert (words.dtype, words.shape, words.flags.writeable) == (np.uint64, (7,), False)
