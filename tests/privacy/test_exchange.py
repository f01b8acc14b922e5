"""Left or stayed: the bound against the laws themselves, integrated numerically."""

from __future__ import annotations

import itertools
import math

import mpmath
import numpy as np
import pytest
from scipy.signal import fftconvolve
from scipy.stats import binom, norm

from secure_fu.errors import ArgumentError
from secure_fu.privacy.accounting import ORDERS, GaussianSumEvent, rdp, renyi_epsilon
from secure_fu.privacy.discretisation import discretisation_divergence, total_variation
from secure_fu.privacy.exchange import ExchangedSum, exchange_epsilon, exchange_rdp
from secure_fu.privacy.renyi import mixture_divergence

DELTA = 1e-5


def event(z: float, rate: float, *, grid_ratio: float = 1e6) -> GaussianSumEvent:
    return GaussianSumEvent(noise_multiplier=z, sampling_rate=rate, grid_ratio=grid_ratio, dimension=1, shares=2)


def one(left: tuple[float, float] | None, stayed: tuple[float, float] | None, **noise: float) -> ExchangedSum:
    return ExchangedSum(
        left=None if left is None else event(*left, **noise),
        stayed=None if stayed is None else event(*stayed, **noise),
    )


def density(x, terms, sign, size):
    """The law of a sum in standard deviations of its noise; `terms` is (noise multiplier, rate) or None."""
    if terms is None:
        return norm.pdf(x)
    z, rate = terms
    return sum(binom.pmf(j, size, rate) * norm.pdf(x, sign * j / z) for j in range(size + 1))


def exact_epsilon(rounds, *, size=1, delta=DELTA, swapped=False):
    """Of contributions in opposite directions, by convolving privacy loss distributions on a fine grid."""
    x, spacing, whole, low = np.linspace(-30.0, 30.0, 200_001), 5e-4, np.ones(1), 0
    for (left, stayed), count in rounds:
        p, q = density(x, left, 1, size), density(x, stayed, -1, size)
        if swapped:
            p, q = q, p
        keep = (p > 1e-40) & (q > 1e-300)
        bins = np.rint(np.log(p[keep] / q[keep]) / spacing).astype(int)
        pmf = np.bincount(bins - bins.min(), weights=p[keep] * (x[1] - x[0]))
        for _ in range(count):
            whole, low = np.maximum(fftconvolve(whole, pmf), 0.0), low + int(bins.min())
    losses = (low + np.arange(len(whole))) * spacing
    high, bottom = 60.0, 0.0
    for _ in range(60):
        middle = (high + bottom) / 2
        above = losses > middle
        if (whole[above] * -np.expm1(middle - losses[above])).sum() > delta:
            bottom = middle
        else:
            high = middle
    return high


CASES = {
    "one round, both in": ([((4.0, 1.0), (4.0, 1.0), 1)], 1),
    "rounds, both in": ([((8.0, 1.0), (8.0, 1.0), 12)], 1),
    "sampled": ([((2.0, 0.25), (2.0, 0.25), 10)], 1),
    "sampled, one round": ([((4.0, 0.5), (4.0, 0.5), 1)], 1),
    "rates and clips differ": ([((3.0, 0.5), (1.5, 0.1), 8)], 1),
    "joint, then without the forgotten": ([((2.3, 0.25), (2.3, 0.25), 7), (None, (2.3, 0.25), 5)], 1),
    "one way, then the other": ([((6.0, 1.0), None, 5), (None, (6.0, 1.0), 5)], 1),
    "three units": ([((8.0, 0.25), (8.0, 0.25), 6)], 3),
}


@pytest.mark.parametrize("name", CASES)
def test_the_bound_holds_is_tight_and_needs_both_legs(name):
    rounds, size = CASES[name]
    pairs = [((left, stayed), count) for left, stayed, count in rounds]
    exact = max(exact_epsilon(pairs, size=size, swapped=swapped) for swapped in (False, True))
    sums = {one(left, stayed): count for left, stayed, count in rounds}
    bound = exchange_epsilon(sums, delta=DELTA, group_size=size)
    assert exact <= bound <= 1.25 * exact
    # Who forgets one leg, or the forgotten unit's own figure for both, claims too much.
    for leg in (0, 1):
        alone = {event(*(left, stayed)[leg]): count for left, stayed, count in rounds if (left, stayed)[leg]}
        assert renyi_epsilon(alone, delta=DELTA, group_size=size) < 0.95 * exact


def test_no_pair_of_contributions_is_told_apart_better():
    """Hockey-stick divergences in the plane, for contributions of any norm up to 1 and any angle between them."""
    spacing = 0.05
    grid = np.arange(-9.0, 9.0, spacing)
    x, y = np.meshgrid(grid, grid)
    (a, z), (b, s) = (0.3, 1.2), (0.6, 2.0)

    def law(rate, at):
        still, moved = norm.pdf(x) * norm.pdf(y), norm.pdf(x, at[0]) * norm.pdf(y, at[1])
        return (1 - rate) * still + rate * moved

    def stick(p, q, t, cell):
        return float(np.maximum(p - t * q, 0.0).sum() * cell)

    line = np.arange(-12.0, 12.0, 1e-3)
    worst = density(line, (z, a), 1, 1), density(line, (s, b), -1, 1)
    pairs = [
        (law(a, (first / z, 0.0)), law(b, (second / s * math.cos(angle), second / s * math.sin(angle))))
        for angle, first, second in itertools.product((0.0, 0.5, 1.5, 2.5, math.pi), (0.4, 1.0), (0.4, 1.0))
    ]
    for t, swap in itertools.product((0.3, 1.0, 1.3, 2.5), (False, True)):
        order = slice(None, None, -1 if swap else 1)
        bound = stick(*worst[order], t, 1e-3)
        reached = [stick(*laws[order], t, spacing**2) for laws in pairs]
        assert max(reached) <= bound + 5e-5  # the quadrature's error
        assert reached[-1] == pytest.approx(bound, abs=1e-4)  # both at full norm, opposite: it is attained


@pytest.mark.parametrize("order", [1.25, 3.5, 12.0])
@pytest.mark.parametrize(("left", "stayed"), [((2.28, 0.25), (2.28, 0.25)), ((3.0, 1.0), (0.9, 0.1))])
def test_divergences_by_integration_to_20_digits(order, left, stayed):
    exchanged = one(left, stayed)
    with mpmath.workdps(20):

        def law(x, terms, sign):
            z, rate = mpmath.mpf(terms.effective_noise_multiplier), mpmath.mpf(terms.sampling_rate)
            return (1 - rate) * mpmath.npdf(x) + rate * mpmath.npdf(x, sign / z)

        def integral(p, q):
            reach = order / p.effective_noise_multiplier + order / q.effective_noise_multiplier
            nodes = [-14 + (reach + 28) * i / 16 for i in range(17)]
            return mpmath.quad(lambda x: law(x, p, 1) ** order * law(x, q, -1) ** (1 - order), nodes)

        both = [integral(p, q) for p, q in itertools.permutations((exchanged.left, exchanged.stayed))]
        expected = float(max(mpmath.log(value) for value in both) / (order - 1))
    assert exchange_rdp(exchanged)[ORDERS.index(order)] == pytest.approx(expected, rel=1e-9)


def test_it_is_below_the_way_through_a_world_without_the_unit():
    """The weak triangle inequality (Mironov 2017, corollary 4), both ways."""
    values = exchange_rdp(one((2.28, 0.25), (3.0, 0.1)))
    z, s = {"size": 1, "sampling_rate": 0.25, "sigma": 2.28}, {"size": 1, "sampling_rate": 0.1, "sigma": 3.0}
    for order in (1.5, 2.0, 4.0, 16.0):
        ways = [
            (order - 0.5) / (order - 1) * mixture_divergence(order=2 * order, **first)
            + mixture_divergence(order=2 * order - 1, **second)
            for first, second in ((z, s), (s, z))
        ]
        assert values[ORDERS.index(order)] < min(ways)


def test_unsampled_it_is_one_unit_of_twice_the_sensitivity():
    both, twice = one((4.0, 1.0), (4.0, 1.0)), event(4.0, 1.0)
    np.testing.assert_allclose(exchange_rdp(both), rdp(twice, 2), rtol=1e-12)
    nearly = exchange_rdp(one((4.0, 1.0), (4.0, 1.0 - 1e-12)))
    np.testing.assert_allclose(nearly[:60], rdp(twice, 2)[:60], rtol=1e-6)


@pytest.mark.parametrize("size", [1, 3])
def test_where_one_world_contributes_nothing_it_is_the_other_ones_own_epsilon(size):
    own = renyi_epsilon({event(2.28, 0.25): 20}, delta=DELTA, group_size=size)
    for exchanged in (one((2.28, 0.25), None), one(None, (2.28, 0.25))):
        assert exchange_epsilon({exchanged: 20}, delta=DELTA, group_size=size) == own
    rare = exchange_epsilon({one((2.28, 0.25), (2.28, 1e-9)): 20}, delta=DELTA, group_size=size)
    assert rare == pytest.approx(own, rel=1e-4)
    assert exchange_epsilon({}, delta=DELTA) == 0.0


def test_the_worlds_may_change_places():
    there, back = one((2.0, 0.5), (3.0, 0.1)), one((3.0, 0.1), (2.0, 0.5))
    np.testing.assert_array_equal(exchange_rdp(there), exchange_rdp(back))


def test_discreteness_is_charged_once_for_each_sum():
    coarse = one((8.0, 1.0), (8.0, 1.0), grid_ratio=20.0)
    found = exchange_epsilon({coarse: 4}, delta=DELTA)
    distance = total_variation(4 * discretisation_divergence(coarse.either))
    spent = DELTA - (1 + math.exp(found)) * distance
    assert spent < DELTA * (1 - 1e-4)
    effective = one((coarse.either.effective_noise_multiplier, 1.0), (coarse.either.effective_noise_multiplier, 1.0))
    assert found == pytest.approx(exchange_epsilon({effective: 4}, delta=spent), rel=1e-9)


def test_two_events_of_different_noise_are_no_sum():
    with pytest.raises(ArgumentError, match="same noise"):
        ExchangedSum(left=event(2.0, 0.5), stayed=event(2.0, 0.5, grid_ratio=5e5))
    with pytest.raises(ArgumentError, match="stayed"):
        ExchangedSum(left=None, stayed=None)


def test_orders_too_costly_are_infinite_not_wrong():
    values = exchange_rdp(one((2.0, 0.25), (2.0, 0.25)), 143)
    assert values[-1] == math.inf
    assert math.isfinite(values[0])
