"""Coverage by simulation. The bound grows with the measured norm, so a miss is a measured norm below a threshold."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import ncx2

from secure_fu.discrete_gaussian import sample_discrete_gaussian
from secure_fu.errors import ArgumentError
from secure_fu.privacy.discretisation import discretisation_divergence, total_variation
from secure_fu.privacy.events import GaussianSumEvent
from secure_fu.privacy.residual import residual_upper_bound

FINE = {"step": 1e-6, "shares": 10, "rounding": 0.0}
REPETITIONS = 20_000
ALLOWED = 0.055  # for 20,000 repetitions of an event of probability 0.05: more than three standard errors above


def bound(measured, dimension, low=1.0, high=1.0, failure=0.05, **changes):
    return residual_upper_bound(
        measured, dimension=dimension, sigma_low=low, sigma_high=high, failure=failure, **(FINE | changes)
    )


def threshold(norm, dimension, **arguments):
    """The measured norm whose bound is `norm`."""
    return brentq(lambda t: bound(t, dimension, **arguments) - norm, 0.0, 2.0 * norm + 10.0 * math.sqrt(dimension))


def measured_norms(norm, dimension, sigma, generator):
    along = norm + sigma * generator.standard_normal(REPETITIONS)
    across = sigma**2 * (generator.chisquare(dimension - 1, REPETITIONS) if dimension > 1 else np.zeros(REPETITIONS))
    return np.sqrt(along**2 + across)


@pytest.mark.parametrize("dimension", [1, 2, 30, 2410])
@pytest.mark.parametrize("relative", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("high", [1.0, 1.4])
def test_coverage_wherever_sigma_is(dimension, relative, high):
    generator = np.random.default_rng(7)
    norm = relative * math.sqrt(dimension) + 1.0
    below = threshold(norm, dimension, high=high)
    misses = [np.mean(measured_norms(norm, dimension, sigma, generator) < below) for sigma in np.linspace(1.0, high, 3)]
    assert max(misses) <= ALLOWED
    # It is tight: for the worst sigma of the interval there are about as many misses as allowed.
    assert max(misses) >= 0.03 or high > 1.0


@pytest.mark.parametrize("dimension", [30, 2410])
@pytest.mark.parametrize("relative", [0.3, 1.0])
def test_noise_assumed_to_be_twice_what_it_is_would_be_noticed(dimension, relative):
    generator = np.random.default_rng(8)
    norm = relative * math.sqrt(dimension) + 1.0
    below = threshold(norm, dimension, low=2.0, high=2.8)
    assert np.mean(measured_norms(norm, dimension, 1.0, generator) < below) > 0.5


def test_no_residual_is_never_called_one_that_cannot_be():
    """At g = 0 no bound can be missed; it should be near what noise alone leaves undecided."""
    for dimension in (1, 30, 2410, 100_000):
        found = bound(math.sqrt(dimension), dimension, failure=1e-6)
        assert 0.0 < found < 5.0 * dimension**0.25 + 6.0
    assert bound(0.0, 10) == pytest.approx(0.5e-6 * math.sqrt(10))
    assert bound(0.1 * math.sqrt(1000), 1000) == pytest.approx(0.5e-6 * math.sqrt(1000))


def birge(measured, dimension, failure):
    """The largest norm that Birge's inequality does not rule out at sigma = 1, by search."""
    y = -math.log(failure)

    def excess(norm):
        square = norm**2
        return dimension + square - 2.0 * math.sqrt((dimension + 2.0 * square) * y) - measured**2

    return brentq(excess, measured / 2, measured + 10.0 * math.sqrt(y))


@pytest.mark.parametrize("failure", [0.05, 1e-6, 1e-12])
@pytest.mark.parametrize("dimension", [1, 30, 2410, 100_000])
@pytest.mark.parametrize("relative", [1.2, 3.0, 50.0])
def test_against_an_independent_distribution_function_and_an_independent_tail_bound(dimension, relative, failure):
    measured = relative * math.sqrt(dimension)
    found = bound(measured, dimension, failure=failure)
    other = birge(measured, dimension, failure)
    assert found <= other * (1 + 1e-6)
    if other < 300.0:
        assert ncx2.cdf(measured**2, dimension, found**2) == pytest.approx(failure, rel=1e-3)
    else:
        assert found == pytest.approx(other, rel=1e-2)


@pytest.mark.parametrize(
    ("dimension", "relative"), [(1, 1.0), (3, 0.8), (10, 1.6), (100, 1.1), (2410, 1.01), (4, 40.0)]
)
def test_the_worst_sigma_of_the_interval_is_found(dimension, relative):
    measured = relative * math.sqrt(dimension)
    found = bound(measured, dimension, high=3.0, failure=1e-4)
    known = [bound(measured, dimension, low=sigma, high=sigma, failure=1e-4) for sigma in np.linspace(1.0, 3.0, 81)]
    assert max(known) <= found * (1 + 1e-6)
    assert found <= max(known) * (1 + 1e-3)


def test_a_peak_between_the_ends_occurs():
    ends = [bound(12.0, 10, low=sigma, high=sigma, failure=1e-6) for sigma in (0.2, 14.0)]
    assert bound(12.0, 10, low=0.2, high=14.0, failure=1e-6) > 1.01 * max(ends)


def test_roundings_are_added():
    plain = bound(60.0, 2410)
    assert bound(60.0, 2410, rounding=0.25) == pytest.approx(plain + 0.25, rel=1e-12)
    coarse = bound(60.0, 2410, step=0.01)
    assert coarse == pytest.approx(plain + 0.005 * math.sqrt(2410), rel=1e-4)


def test_discreteness_is_taken_out_of_the_failure_probability():
    step, dimension = 1 / 8, 1000
    event = GaussianSumEvent(
        noise_multiplier=1.0, sampling_rate=1.0, grid_ratio=1 / step, dimension=dimension, shares=2
    )
    distance = total_variation(discretisation_divergence(event))
    assert bound(40.0, dimension, failure=distance * 0.99, step=step, shares=2) == math.inf
    assert bound(40.0, dimension, failure=distance * 1.01, step=step, shares=2) > bound(
        40.0, dimension, failure=distance * 2.0, step=step, shares=2
    )


def test_real_shares_on_a_coarse_grid(os_stream):
    """Discrete noise of several shares, a residual off the grid, and its rounding."""
    dimension, shares, per_share, repetitions = 50, 4, 9, 2_000
    generator = np.random.default_rng(9)
    residual = generator.standard_normal(dimension) * 3.0
    norm = float(np.linalg.norm(residual))
    sigma = math.sqrt(shares * per_share)
    limit = threshold(
        norm, dimension, low=sigma * math.sqrt(0.5), high=sigma, step=1.0, shares=shares, rounding=0.5 * math.sqrt(50)
    )
    for present in (shares, shares // 2):
        noise = sample_discrete_gaussian(
            Fraction(per_share), present * repetitions * dimension, stream=os_stream
        ).reshape(present, repetitions, dimension)
        norms = np.linalg.norm(np.rint(residual) + noise.sum(axis=0), axis=1)
        assert np.mean(norms < limit) <= 0.065


@pytest.mark.parametrize(
    "changes",
    [
        {"measured": -1.0},
        {"dimension": 0},
        {"low": 0.0},
        {"high": 0.5},
        {"failure": 0.0},
        {"step": 0.6},
        {"shares": 0},
        {"rounding": math.nan},
    ],
)
def test_what_is_refused(changes):
    with pytest.raises(ArgumentError):
        bound(**({"measured": 1.0, "dimension": 3} | changes))
