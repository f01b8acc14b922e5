"""The sampled group's Renyi divergence against slow oracles."""

from __future__ import annotations

import itertools
import math

import mpmath
import pytest
from scipy.special import gammaln
from scipy.stats import binom

from secure_fu.privacy import renyi
from secure_fu.privacy.renyi import mixture_divergence


def multinomial_oracle(order: int, size: int, q: float, sigma: float) -> float:
    """log E_Q[(P/Q)^order] / (order - 1), expanded: one term for each way to hand out `order` draws."""
    total = 0.0
    for parts in itertools.product(range(order + 1), repeat=size + 1):
        if sum(parts) == order:
            ways = math.exp(gammaln(order + 1) - sum(gammaln(part + 1) for part in parts))
            weight = math.prod(binom.pmf(j, size, q) ** part for j, part in enumerate(parts))
            shift = sum(j * part for j, part in enumerate(parts))
            squares = sum(j * j * part for j, part in enumerate(parts))
            total += ways * weight * math.exp((shift**2 - squares) / (2 * sigma**2))
    return math.log(total) / (order - 1)


@pytest.mark.parametrize("order", [2, 3, 6])
@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize(("q", "sigma"), [(0.25, 2.28), (0.9, 1.0), (0.01, 0.7)])
def test_integer_orders_by_expansion(order, size, q, sigma):
    expected = multinomial_oracle(order, size, q, sigma)
    assert mixture_divergence(order=order, size=size, sampling_rate=q, sigma=sigma) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("order", "size", "q", "sigma"),
    [(1.25, 1, 0.5, 1.0), (1.75, 2, 0.25, 2.28), (2.25, 1, 0.5, 100.0), (3.5, 5, 0.1, 1.0), (1.5, 10, 0.25, 5.0)],
)
def test_fractional_orders_by_integration_to_20_digits(order, size, q, sigma):
    with mpmath.workdps(20):
        weights = [
            mpmath.binomial(size, j) * mpmath.mpf(q) ** j * (1 - mpmath.mpf(q)) ** (size - j) for j in range(size + 1)
        ]

        def integrand(x, power):
            ratio = mpmath.fsum(
                w * mpmath.exp((j * x - mpmath.mpf(j * j) / 2) / sigma**2) for j, w in enumerate(weights)
            )
            return mpmath.npdf(x, 0, sigma) * ratio**power

        low, high = -order * size - 14 * sigma, order * size + 14 * sigma
        nodes = [low + (high - low) * i / 24 for i in range(25)]
        both = [mpmath.quad(lambda x, p=p: integrand(x, p), nodes) for p in (order, 1 - order)]
        expected = float(max(mpmath.log(value) for value in both) / (order - 1))
    assert mixture_divergence(order=order, size=size, sampling_rate=q, sigma=sigma) == pytest.approx(expected, rel=1e-9)


def test_limits_of_the_mixture():
    # A group that is always in the sum is one unit of k-fold sensitivity; one that is never in it costs nothing.
    always = mixture_divergence(order=4.0, size=3, sampling_rate=1 - 1e-12, sigma=2.0)
    assert always == pytest.approx(4.0 * 9 / (2 * 4), rel=1e-6)
    assert mixture_divergence(order=4.0, size=3, sampling_rate=1e-9, sigma=2.0) < 1e-8


def test_orders_too_costly_are_infinite_not_wrong():
    assert mixture_divergence(order=1024.0, size=143, sampling_rate=0.25, sigma=2.0) == math.inf


@pytest.mark.parametrize("size", [1_000_000, (1 << 32) - 1])
def test_a_group_of_any_size_takes_no_memory(monkeypatch, size):
    """Who asks for deletion names the size: the table of the mixture would take 8 bytes a unit, for each order."""
    monkeypatch.setattr(renyi, "_Mixture", lambda *_: pytest.fail("a table of that size was made"))
    assert mixture_divergence(order=1.5, size=size, sampling_rate=0.25, sigma=2.0) == math.inf


def test_what_is_not_too_costly_is_computed():
    found = [mixture_divergence(order=1024.0, size=size, sampling_rate=0.25, sigma=2.0) for size in (34, 35, 36)]
    assert found[0] < found[1] < math.inf
    assert found[2] == math.inf
