from __future__ import annotations

import math
import time

import pytest
from scipy.stats import norm

from secure_fu.errors import ArgumentError, UnattainableEpsilonError
from secure_fu.privacy.accounting import ORDERS, GaussianSumEvent, pld_epsilon, rdp, renyi_epsilon, renyi_limit
from secure_fu.privacy.calibration import calibrate_noise

DELTA = 1e-5
DEFAULT = {"delta": DELTA, "sensitivity_in_steps": 4911.0, "dimension": 2410, "shares": 8}


def plan(z, rounds):
    return {
        GaussianSumEvent(noise_multiplier=z, sampling_rate=q, grid_ratio=z * 4911.0, dimension=2410, shares=8): count
        for q, count in rounds.items()
    }


def fits(z, rounds, epsilon, group_size=1):
    events = plan(z, rounds)
    return any(
        sum(count * rdp(event, group_size)[i] for event, count in events.items())
        <= renyi_limit(epsilon=epsilon, delta=DELTA, order=order)
        for i, order in enumerate(ORDERS)
    )


@pytest.mark.parametrize(
    ("epsilon", "rounds", "group_size"),
    [
        (8.0, {0.25: 200}, 1),
        (3.0, {0.25: 100, 0.5: 10}, 1),
        (8.0, {1.0: 20}, 1),
        (1.0, {0.01: 500}, 1),
        (8.0, {0.1: 50}, 3),
    ],
)
def test_smallest_of_three_digits(epsilon, rounds, group_size):
    found = calibrate_noise(epsilon=epsilon, rounds=rounds, group_size=group_size, **DEFAULT)
    z = found.noise_multiplier
    assert float(f"{z:.3g}") == z
    step = 10.0 ** (math.floor(math.log10(z)) - 2)
    assert fits(z, rounds, epsilon, group_size)
    assert not fits(z - step, rounds, epsilon, group_size)
    assert found.epsilon == renyi_epsilon(plan(z, rounds), delta=DELTA, group_size=group_size)
    assert 0.98 * epsilon < found.epsilon <= epsilon
    at = ORDERS.index(found.order)
    spent = sum(count * rdp(event, group_size)[at] for event, count in plan(z, rounds).items())
    assert spent <= renyi_limit(epsilon=epsilon, delta=DELTA, order=found.order)


def test_default_preset():
    found = calibrate_noise(epsilon=8.0, rounds={0.25: 200}, **DEFAULT)
    # By privacy loss distributions 2.28 would do, but they are no filter.
    assert found.noise_multiplier == 2.43
    assert pld_epsilon(plan(2.28, {0.25: 200}), delta=DELTA) == pytest.approx(8.01, abs=0.006)


def analytic_gaussian(epsilon: float, delta: float) -> float:
    """Balle and Wang 2018, Theorem 8, by bisection on sigma."""
    low, high = 0.01, 100.0
    for _ in range(100):
        sigma = (low + high) / 2
        a, b = 1 / (2 * sigma), epsilon * sigma
        used = norm.cdf(a - b) - math.exp(epsilon) * norm.cdf(-a - b)
        low, high = (low, sigma) if used <= delta else (sigma, high)
    return high


@pytest.mark.parametrize(("epsilon", "sigma"), [(1.0, 3.73), (2.0, 1.99), (4.0, 1.08), (8.0, 0.60)])
def test_against_the_analytic_gaussian_mechanism(epsilon, sigma):
    exact = analytic_gaussian(epsilon, DELTA)
    assert exact == pytest.approx(sigma, abs=0.006)
    assert pld_epsilon(plan(exact, {1.0: 1}), delta=DELTA) == pytest.approx(epsilon, abs=2e-3)
    found = calibrate_noise(epsilon=epsilon, rounds={1.0: 1}, **DEFAULT).noise_multiplier
    assert exact < found < 1.1 * exact


def test_out_of_reach():
    with pytest.raises(UnattainableEpsilonError, match=r"epsilon 0.01 .* 1000"):
        calibrate_noise(epsilon=0.01, rounds={1.0: 10_000}, **DEFAULT)


def test_a_grid_too_coarse_asks_for_more_noise():
    coarse = DEFAULT | {"sensitivity_in_steps": 10.0}
    fine = calibrate_noise(epsilon=8.0, rounds={0.25: 10}, **DEFAULT).noise_multiplier
    assert calibrate_noise(epsilon=8.0, rounds={0.25: 10}, **coarse).noise_multiplier > 5 * fine
    with pytest.raises(UnattainableEpsilonError):
        calibrate_noise(epsilon=8.0, rounds={0.25: 10}, **(DEFAULT | {"sensitivity_in_steps": 1e-6}))


def test_fast_enough():
    start = time.process_time()
    calibrate_noise(epsilon=7.7, rounds={0.21: 150, 0.33: 10}, **DEFAULT)
    assert time.process_time() - start < 2.0


@pytest.mark.parametrize(
    "changes",
    [
        {"rounds": {}},
        {"rounds": {0.25: 0}},
        {"rounds": {1.5: 3}},
        {"epsilon": 0.0},
        {"epsilon": math.nan},
        {"delta": 1.0},
        {"sensitivity_in_steps": -1.0},
        {"dimension": 0},
        {"shares": 0},
        {"group_size": 0},
    ],
)
def test_bad_arguments_are_named(changes):
    arguments = {"epsilon": 8.0, "rounds": {0.25: 10}} | DEFAULT | changes
    (name,) = changes
    with pytest.raises(ArgumentError, match="sampling_rate" if changes == {"rounds": {1.5: 3}} else name):
        calibrate_noise(**arguments)
