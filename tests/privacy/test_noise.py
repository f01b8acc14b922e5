from __future__ import annotations

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from secure_fu.errors import ArgumentError
from secure_fu.privacy import Grid, NoiseShare, Unit, assured_clients

GRID = Grid.fine(1.0, 2410, 3.0, Unit.RECORD)


def make(**changes):
    fields = {"noise_multiplier": 2.28, "sensitivity": GRID.sensitivity, "step": GRID.step, "assured": 8}
    return NoiseShare(**(fields | changes))


@settings(deadline=None)
@given(st.floats(0.1, 100.0), st.floats(1e-3, 1e3), st.integers(-30, -13), st.integers(2, 1000))
def test_the_assured_shares_have_exactly_the_accounted_variance(noise_multiplier, sensitivity, exponent, assured):
    share = make(
        noise_multiplier=noise_multiplier,
        sensitivity=sensitivity,
        step=2.0**exponent * sensitivity,
        assured=assured,
    )
    ratio = Fraction(noise_multiplier) * Fraction(sensitivity) / Fraction(share.step)
    assert share.sigma_squared * assured == ratio**2
    assert Fraction(share.total_grid_ratio) <= ratio < Fraction(math.nextafter(share.total_grid_ratio, math.inf))


def variance_p(total, variance):
    """Two-sided p-value that independent zero-mean normal values have this variance."""
    statistic = float((total.astype(float) ** 2).sum()) / variance
    return 2 * min(stats.chi2.cdf(statistic, len(total)), stats.chi2.sf(statistic, len(total)))


def test_a_zero_round_has_the_accounted_noise_and_five_percent_less_would_show(os_stream):
    share = make()
    shares = [share.sample(50_000, stream=os_stream) for _ in range(share.assured)]
    accounted = (share.noise_multiplier * share.sensitivity / share.step) ** 2
    assert variance_p(sum(shares), accounted) > 1e-7
    assert variance_p(sum(shares) * 0.95, accounted) < 1e-7
    assert variance_p(sum(shares) * 1.05, accounted) < 1e-7
    assert variance_p(sum(shares[1:]), accounted) < 1e-7


def test_shares_are_independent_of_each_other(os_stream):
    share, size = make(), 50_000
    first, second = (share.sample(size, stream=os_stream).astype(float) for _ in range(2))
    correlation = (first * second).mean() / float(share.sigma_squared)
    assert abs(correlation) < 6 / math.sqrt(size)


@pytest.mark.parametrize("clients", [1, 8, 1000])
@pytest.mark.parametrize("size", [1, 2410, 10**7])
def test_sum_tail_bound_covers_the_gaussian_quantile_closely(clients, size):
    share = make()
    bound = share.sum_tail_bound(clients, size, log2_probability=-64)
    sigma = math.sqrt(clients * share.sigma_squared)
    quantile = sigma * stats.norm.isf(2.0**-64 / size / 2)
    assert quantile <= bound + 1 <= 1.05 * quantile
    if clients == 1:
        assert bound == share.tail_bound(size, log2_probability=-64)


def test_samples_stay_within_the_tail_bound(os_stream):
    share = make()
    total = sum(share.sample(100_000, stream=os_stream) for _ in range(10))
    assert np.abs(total).max() <= share.sum_tail_bound(10, 100_000, log2_probability=-20)
    assert np.abs(total).max() > share.sum_tail_bound(10, 100_000, log2_probability=-20) * 0.5


def test_the_sum_of_the_smallest_shares_is_as_close_to_one_discrete_gaussian_as_stated():
    # Three shares of the smallest variance allowed; beyond 120 there is less than 1e-58 even of their sum.
    with mpmath.workdps(70):
        reach = range(-120, 121)

        def law(sigma_squared):
            weights = {y: mpmath.exp(-mpmath.mpf(y * y) / (2 * sigma_squared)) for y in reach}
            total = mpmath.fsum(weights.values())
            return {y: weight / total for y, weight in weights.items()}

        def convolve(a, b):
            return {y: mpmath.fsum(a[x] * b[y - x] for x in reach if y - x in b) for y in reach}

        share, single = law(8), law(24)
        total = convolve(convolve(share, share), share)
        tau = 10 * mpmath.fsum(mpmath.exp(-16 * mpmath.pi**2 * k / (k + 1)) for k in (1, 2))
        assert max(abs(mpmath.log(total[y] / single[y])) for y in range(-20, 21)) <= tau < 1e-33


def test_the_smallest_share_is_at_the_variance_that_the_guarantee_names():
    sensitivity, assured = 1.0, 16
    step = sensitivity / math.sqrt(8 * assured) * (1 - 1e-9)
    assert make(noise_multiplier=1.0, sensitivity=sensitivity, step=step, assured=assured).sigma_squared >= 8
    with pytest.raises(ArgumentError, match="step"):
        make(noise_multiplier=1.0, sensitivity=sensitivity, step=step * (1 + 1e-8), assured=assured)


def test_same_stream_same_share(seeded_stream):
    first, second = (make().sample(1000, stream=seeded_stream(5)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("noise_multiplier", 0.0),
        ("noise_multiplier", -1.0),
        ("noise_multiplier", math.nan),
        ("noise_multiplier", math.inf),
        ("sensitivity", 0.0),
        ("sensitivity", math.nan),
        ("step", 0.0),
        ("step", math.inf),
        ("step", 1e-300),
        ("step", 10.0),
        ("assured", 1),
        ("assured", 0),
        ("assured", 2.5),
    ],
)
def test_fields_out_of_their_domain(field, value):
    with pytest.raises(ArgumentError, match=field):
        make(**{field: value})


@pytest.mark.parametrize("clients", [0, -1])
def test_a_sum_needs_clients(clients):
    with pytest.raises(ArgumentError, match="clients"):
        make().sum_tail_bound(clients, 10, log2_probability=-64)


def test_negative_size(os_stream):
    with pytest.raises(ArgumentError, match="size"):
        make().sample(-1, stream=os_stream)


def test_assured_clients():
    assert assured_clients(10, 2) == 8
    assert assured_clients(2, 0) == 2
    for minimum_cohort, colluders in ((2, 1), (1, 0), (5, 5), (0, 0), (3, 7)):
        with pytest.raises(ArgumentError, match="minimum_cohort"):
            assured_clients(minimum_cohort, colluders)
    with pytest.raises(ArgumentError, match="colluders"):
        assured_clients(5, -1)
