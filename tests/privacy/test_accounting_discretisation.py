"""The bounds on discrete noise, recomputed from the laws themselves to many digits."""

from __future__ import annotations

import math

import mpmath
import pytest

from secure_fu.errors import ArgumentError
from secure_fu.privacy.accounting import GaussianSumEvent, pld_epsilon, renyi_epsilon
from secure_fu.privacy.discretisation import (
    DISCRETISATION_SHARE,
    discretisation_divergence,
    divergence_limit,
    real_epsilon,
    total_variation,
)


def event(grid_ratio: float, *, dimension: int = 1, shares: int = 1, z: float = 2.0) -> GaussianSumEvent:
    return GaussianSumEvent(
        noise_multiplier=z, sampling_rate=1.0, grid_ratio=grid_ratio, dimension=dimension, shares=shares
    )


def discrete_gaussian(variance, reach):
    weights = [mpmath.exp(-mpmath.mpf(k * k) / (2 * variance)) for k in range(-reach, reach + 1)]
    whole = mpmath.fsum(weights)
    return [weight / whole for weight in weights]


def rounded_gaussian(variance, reach):
    scale = mpmath.sqrt(2 * variance)

    def mass(k):
        return (mpmath.erfc((k - mpmath.mpf(1) / 2) / scale) - mpmath.erfc((k + mpmath.mpf(1) / 2) / scale)) / 2

    half = [mass(mpmath.mpf(k)) for k in range(reach + 1)]
    return half[:0:-1] + half


def convolve(first, second):
    size = len(first) + len(second) - 1
    return [
        mpmath.fsum(first[i] * second[k - i] for i in range(max(0, k - len(second) + 1), min(k + 1, len(first))))
        for k in range(size)
    ]


@pytest.mark.parametrize("ratio", [2, 3, 8])
def test_divergence_of_rounded_from_discrete_gaussian(ratio):
    with mpmath.workdps(60):
        square = mpmath.mpf(ratio) ** 2
        rounded = rounded_gaussian(square - mpmath.mpf(1) / 12, 14 * ratio)
        discrete = discrete_gaussian(square, 14 * ratio)
        exact = mpmath.fsum(r * mpmath.log(r / d) for r, d in zip(rounded, discrete, strict=True))
        apart = mpmath.fsum(abs(r - d) for r, d in zip(rounded, discrete, strict=True)) / 2
    bound = discretisation_divergence(event(ratio))
    # Above the truth, and so close that a bound a tenth smaller would be below it.
    assert float(exact) <= bound <= 1.1 * float(exact)
    assert total_variation(bound) >= float(apart)


@pytest.mark.parametrize(("shares", "ratio"), [(2, 2.0), (4, 2.0), (8, 2.0), (12, 2.0), (16, 2.0), (16, 2.2)])
def test_divergence_covers_sums_of_shares(shares, ratio):
    """From eight on each share is so small that their sum visibly differs from one discrete Gaussian."""
    variance = ratio**2 / shares
    with mpmath.workdps(60):
        reach = 16
        law = share = discrete_gaussian(mpmath.mpf(variance), reach)
        for _ in range(shares - 1):
            law = convolve(law, share)
        rounded = rounded_gaussian(mpmath.mpf(ratio) ** 2 - mpmath.mpf(1) / 12, shares * reach)
        exact = mpmath.fsum(r * mpmath.log(r / d) for r, d in zip(rounded, law, strict=True))
    assert float(exact) <= discretisation_divergence(event(ratio, shares=shares))
    # What is charged for one discrete Gaussian alone would not do.
    assert (float(exact) > discretisation_divergence(event(ratio))) is (shares >= 8)


@pytest.mark.parametrize("ratio", [2, 4, 16])
@pytest.mark.parametrize("t", [4, 10, 38])
def test_likelihood_ratio_within_t_standard_deviations(ratio, t):
    with mpmath.workdps(700):
        square = mpmath.mpf(ratio) ** 2
        scale = mpmath.sqrt(2 * (square - mpmath.mpf(1) / 12))
        # The sum of exp(-k^2 / (2 s^2)) over all integers, by Poisson summation.
        waves = mpmath.fsum(mpmath.exp(-2 * (mpmath.pi * ratio * m) ** 2) for m in range(1, 8))
        whole = mpmath.sqrt(2 * mpmath.pi) * ratio * (1 + 2 * waves)
        worst = 0.0
        for k in {t * ratio * i // 12 for i in range(13)}:
            ends = [mpmath.erfc((k + side * mpmath.mpf(1) / 2) / scale) for side in (-1, 1)]
            discrete = mpmath.exp(-mpmath.mpf(k * k) / (2 * square)) / whole
            worst = max(worst, abs(float(mpmath.log((ends[0] - ends[1]) / 2 / discrete))))
    assert 0.0 < worst <= t**4 / (2000 * ratio**4)


def test_divergence_adds_over_coordinates_and_counts_shares():
    assert discretisation_divergence(event(50, dimension=7)) == pytest.approx(7 * discretisation_divergence(event(50)))
    assert discretisation_divergence(event(4, shares=16)) > 100 * discretisation_divergence(event(4))


def test_on_the_default_grid_it_is_far_below_any_delta():
    default = event(2.43 * 100 * math.sqrt(2410), dimension=2410, shares=8)
    assert (1 + math.exp(8)) * total_variation(200 * discretisation_divergence(default)) < 1e-12


def test_delta_pays_for_the_total_variation():
    coarse, fine = {event(60, dimension=100, z=3.0): 20}, {event(1e6, dimension=100, z=3.0): 20}
    for convert in (renyi_epsilon, pld_epsilon):
        assert convert(coarse, delta=1e-5) > convert(fine, delta=1e-5) + 1e-3
    ideal = {}

    def spy(delta):
        ideal[delta] = 1.0 + 1e-3 * math.log(1e-5 / delta)
        return ideal[delta]

    result = real_epsilon(spy, coarse, 1e-5)
    distance = total_variation(20 * discretisation_divergence(event(60, dimension=100, z=3.0)))
    used = max(delta for delta, epsilon in ideal.items() if epsilon == result)
    assert used + (1 + math.exp(result)) * distance == pytest.approx(1e-5, rel=1e-9)


def test_large_epsilons_are_finite_by_the_likelihood_ratio():
    declared = {event(1e4, dimension=1000): 100}

    def convert(delta):
        return 60.0 + math.log(1e-5 / delta)

    # e^60 times the total variation distance exceeds delta by far.
    assert (1 + math.exp(60)) * total_variation(100 * discretisation_divergence(event(1e4, dimension=1000))) > 1e-5
    assert 60.0 < real_epsilon(convert, declared, 1e-5) < 60.01
    assert real_epsilon(convert, {event(20, dimension=1000): 100}, 1e-5) == math.inf
    assert real_epsilon(lambda delta: 701.0, declared, 1e-5) == math.inf


def test_budget_share():
    limit = divergence_limit(epsilon=8.0, delta=1e-5)
    assert (1 + math.exp(8.0)) * total_variation(limit) == pytest.approx(DISCRETISATION_SHARE * 1e-5)
    assert divergence_limit(epsilon=1e4, delta=1e-5) == 0.0
    with pytest.raises(ArgumentError, match="epsilon"):
        divergence_limit(epsilon=0.0, delta=1e-5)
