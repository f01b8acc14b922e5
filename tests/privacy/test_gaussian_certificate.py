"""The Gaussian mechanism against 80 digits; noise on a vector against the laws themselves."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from dp_accounting import GaussianDpEvent
from dp_accounting.pld import PLDAccountant
from scipy import stats

from secure_fu.errors import ArgumentError
from secure_fu.privacy.gaussian import composed_shift, gaussian_epsilon, gaussian_sigma, largest_shift
from secure_fu.privacy.output_noise import noised, noised_model_epsilon, output_noise, output_step

SHIFTS = (1e-9, 1e-4, 9.9e-3, 1.01e-2, 0.27, 1.0, 3.0, 40.0)
DELTAS = (1e-30, 1e-12, 1e-5, 0.01, 0.4, 0.999)


def exact_delta(ratio, epsilon):
    """Balle and Wang 2018, theorem 8."""
    ratio, epsilon = mpmath.mpf(ratio), mpmath.mpf(epsilon)
    away = epsilon / ratio
    return mpmath.ncdf(ratio / 2 - away) - mpmath.exp(epsilon) * mpmath.ncdf(-ratio / 2 - away)


# The mechanism


@pytest.mark.parametrize("ratio", SHIFTS)
@pytest.mark.parametrize("delta", DELTAS)
def test_epsilon_is_the_smallest_that_holds(ratio, delta):
    found = gaussian_epsilon(ratio * 7.0, 7.0, delta)
    with mpmath.workdps(80):
        if found == 0.0:
            assert exact_delta(ratio, 1e-60) <= delta * (1 + 1e-12)
        else:
            assert exact_delta(ratio, found) <= delta < exact_delta(ratio, found * (1 - 1e-8))


def test_known_values():
    """Sigma over sensitivity at delta 1e-5, as computed by others from the same theorem."""
    for epsilon, sigma in ((1.0, 3.73), (2.0, 1.99), (4.0, 1.08), (8.0, 0.60)):
        assert gaussian_sigma(1.0, epsilon, 1e-5) == pytest.approx(sigma, abs=5e-3)
    assert gaussian_epsilon(1e9, 1.0, 0.5) == pytest.approx(5e17, rel=1e-6)


@pytest.mark.parametrize("shift", [1e-3, 2.0, 500.0])
@pytest.mark.parametrize(("epsilon", "delta"), [(0.01, 1e-9), (1.0, 1e-5), (9.0, 0.1), (300.0, 1e-30)])
def test_inverses(shift, epsilon, delta):
    sigma = gaussian_sigma(shift, epsilon, delta)
    assert epsilon * (1 - 1e-7) < gaussian_epsilon(shift, sigma, delta) <= epsilon * (1 + 1e-7)
    assert gaussian_epsilon(shift, sigma * 0.99, delta) > epsilon * 1.001
    assert largest_shift(sigma, epsilon, delta) == pytest.approx(shift, rel=1e-12)
    with mpmath.workdps(80):
        assert exact_delta(largest_shift(1.0, epsilon, delta), epsilon) <= delta


def test_no_shift_needs_no_noise():
    assert gaussian_epsilon(0.0, 1.0, 1e-5) == gaussian_epsilon(0, 1.0, 1e-5) == 0.0
    assert gaussian_sigma(0.0, 1.0, 1e-5) == 0.0


def test_several_releases_are_one_of_the_composed_shift():
    whole = composed_shift(0.3, 0.4, 0.0, 1.2)
    assert whole == pytest.approx(1.3)
    accountant = PLDAccountant(value_discretization_interval=1e-4)
    for shift in (0.3, 0.4, 1.2):
        accountant.compose(GaussianDpEvent(1.0 / shift))
    assert gaussian_epsilon(whole, 1.0, 1e-5) == pytest.approx(accountant.get_epsilon(1e-5), rel=2e-3)
    assert gaussian_epsilon(1.2, 1.0, 1e-5) < 0.95 * accountant.get_epsilon(1e-5)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (gaussian_epsilon, (-1.0, 1.0, 1e-5)),
        (gaussian_epsilon, (math.nan, 1.0, 1e-5)),
        (gaussian_epsilon, (1.0, 0.0, 1e-5)),
        (gaussian_epsilon, (1.0, 1.0, 0.0)),
        (gaussian_epsilon, (1.0, 1e-12, 1e-5)),
        (gaussian_sigma, (1.0, 0.0, 1e-5)),
        (largest_shift, (0.0, 1.0, 1e-5)),
        (composed_shift, (1.0, -1.0)),
    ],
)
def test_what_is_refused(function, arguments):
    with pytest.raises(ArgumentError):
        function(*arguments)


# On a grid


def discrete_law(sigma, reach):
    weights = np.exp(-(np.arange(-reach, reach + 1.0) ** 2) / (2.0 * sigma**2))
    return weights / weights.sum()


def exact_grid_epsilon(sigma, apart, delta):
    """Of one coordinate, sigma and the distance in steps."""
    law = discrete_law(sigma, 60 * int(sigma))
    p, q = law[apart:], law[: len(law) - apart]
    low, high = 0.0, 60.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(p - math.exp(middle) * q, 0.0).sum() > delta else (low, middle)
    return high


@pytest.mark.parametrize(("sigma", "delta"), [(8.0, 1e-4), (30.0, 1e-5)])
def test_rounding_and_discreteness_are_paid_for(sigma, delta):
    """Vectors 1.02 steps apart may be rounded to 2 steps apart."""
    exact = exact_grid_epsilon(sigma, 2, delta)
    bound = noised_model_epsilon(1.02, sigma=sigma, step=1.0, dimension=1, delta=delta)
    assert exact <= bound <= 1.1 * exact
    assert gaussian_epsilon(1.02, sigma, delta) < 0.6 * exact


def test_on_a_fine_grid_it_is_the_gaussian_mechanism():
    shift, dimension = 0.8, 2410
    step = output_step(shift, dimension)
    assert math.frexp(step)[0] == 0.5
    assert step <= shift / (100.0 * math.sqrt(dimension)) < 2.0 * step
    for sigma in (0.3, 3.0):
        ideal = gaussian_epsilon(shift, sigma, 1e-5)
        assert ideal < noised_model_epsilon(shift, sigma=sigma, step=step, dimension=dimension, delta=1e-5)
        assert noised_model_epsilon(shift, sigma=sigma, step=step, dimension=dimension, delta=1e-5) < 1.02 * ideal


def test_several_models_and_no_shift():
    grid = {"sigma": 2.0, "step": 2.0**-16, "dimension": 100, "delta": 1e-6}
    both = noised_model_epsilon(0.6, 0.8, **grid)
    assert both == pytest.approx(noised_model_epsilon(1.0, **grid), rel=1e-3)
    assert noised_model_epsilon(0.0, 0.8, **grid) == noised_model_epsilon(0.8, **grid)
    assert noised_model_epsilon(0.0, **grid) == 0.0
    # Noise of two steps on a million coordinates is not a Gaussian to within this delta.
    assert noised_model_epsilon(1.0, sigma=2.0, step=1.0, dimension=10**6, delta=1e-6) == math.inf
    with pytest.raises(ArgumentError, match="shifts"):
        noised_model_epsilon(**grid)


def test_the_noise_is_the_one_that_is_certified(os_stream):
    sigma, step, size = 0.7, 2.0**-12, 60_000
    noise = output_noise(size, sigma=sigma, step=step, stream=os_stream)
    assert noise.dtype == np.float64
    assert np.array_equal(noise, np.rint(noise / step) * step)
    for factor, plausible in ((1.0, True), (0.95, False), (1.05, False)):
        statistic = float((noise**2).sum()) / (factor * sigma) ** 2
        p_value = 2 * min(stats.chi2.cdf(statistic, size), stats.chi2.sf(statistic, size))
        assert bool(p_value > 1e-7) is plausible
    assert stats.kstest(noise / sigma, "norm").pvalue > 1e-7


def test_a_noised_vector_is_on_the_grid_and_shows_none_of_the_vector_s_last_bits(os_stream):
    step = 2.0**-10
    vector = np.linspace(-3.0, 3.0, 5_000) / 7.0
    published = noised(vector, sigma=0.5, step=step, stream=os_stream)
    np.testing.assert_array_equal(published, np.rint(published / step) * step)
    # Adding to a vector that is off the grid would show its place between the grid's points.
    leaky = vector + output_noise(len(vector), sigma=0.5, step=step, stream=os_stream)
    assert not np.array_equal(leaky, np.rint(leaky / step) * step)
    residue = (published - np.rint(vector / step) * step) / 0.5
    assert abs(float(residue @ residue) / len(vector) - 1.0) < 0.15
    huge = noised(np.array([2.0**40]), sigma=0.5, step=step, stream=os_stream)
    assert abs(huge[0] - 2.0**40) < 10.0


@pytest.mark.parametrize(
    "changes",
    [{"step": 0.3}, {"step": 0.0}, {"sigma": 1.0}, {"sigma": math.inf}, {"step": 2.0**-45}, {"sigma": 0.0}],
)
def test_grids_that_are_refused(changes, os_stream):
    fields = {"sigma": 8.0, "step": 1.0} | changes
    with pytest.raises(ArgumentError):
        output_noise(3, **fields, stream=os_stream)
    with pytest.raises(ArgumentError):
        noised_model_epsilon(1.0, **fields, dimension=3, delta=1e-5)


@pytest.mark.parametrize(
    "vector", [np.zeros((2, 2)), np.zeros(0), np.array([math.nan]), np.array([math.inf]), np.array([2.0**53])]
)
def test_vectors_that_are_refused(vector, os_stream):
    with pytest.raises(ArgumentError, match="vector"):
        noised(vector, sigma=8.0, step=1.0, stream=os_stream)
