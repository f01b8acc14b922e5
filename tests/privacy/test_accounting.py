from __future__ import annotations

import dataclasses
import itertools
import logging
import math

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

from secure_fu.errors import ArgumentError
from secure_fu.privacy.accounting import (
    ORDERS,
    GaussianSumEvent,
    order_for_budget,
    order_for_events,
    pld_epsilon,
    rdp,
    renyi_epsilon,
    renyi_limit,
    renyi_limits,
)

DELTA = 1e-5


def event(noise_multiplier: float, sampling_rate: float = 1.0, **changes: float) -> GaussianSumEvent:
    """An event on a grid so fine that its discretisation cannot be seen."""
    fields = {"grid_ratio": 1e6, "dimension": 1000, "shares": 8} | changes
    return GaussianSumEvent(noise_multiplier=noise_multiplier, sampling_rate=sampling_rate, **fields)


# Measured apart from this code, with dp-accounting 0.6 (privacy loss distributions) and opacus 1.6 (Renyi).
@pytest.mark.parametrize(
    ("q", "z", "rounds", "renyi", "tight"),
    [(0.1, 1.0, 100, 7.90, 7.05), (1.0, 5.0, 50, 7.08, 6.57), (0.25, 2.28, 200, 8.68, 8.01)],
)
def test_published_epsilons(q, z, rounds, renyi, tight):
    declared = {event(z, q): rounds}
    assert renyi_epsilon(declared, delta=DELTA) == pytest.approx(renyi, abs=0.006)
    assert pld_epsilon(declared, delta=DELTA) == pytest.approx(tight, abs=0.006)


@pytest.mark.parametrize(("size", "tight"), [(1, 0.93), (2, 1.99), (5, 5.68), (10, 13.2)])
def test_published_group_epsilons_of_one_gaussian(size, tight):
    declared = {event(4.0): 1}
    assert pld_epsilon(declared, delta=DELTA, group_size=size) == pytest.approx(tight, abs=0.01)
    assert tight - 0.01 <= renyi_epsilon(declared, delta=DELTA, group_size=size) <= 1.1 * tight


@pytest.mark.parametrize(("q", "z", "rounds"), [(0.1, 1.0, 100), (0.25, 2.43, 200), (0.01, 1.0, 500), (1.0, 5.0, 50)])
def test_dp_accounting_used_directly(q, z, rounds):
    plain = GaussianDpEvent(z) if q == 1.0 else PoissonSampledDpEvent(q, GaussianDpEvent(z))
    integers = [order for order in ORDERS if order.is_integer()]
    by_renyi, by_pld = RdpAccountant(integers), PLDAccountant()
    by_renyi.compose(plain, rounds)
    by_pld.compose(plain, rounds)
    at_integers = rdp(event(z, q))[[order.is_integer() for order in ORDERS]]
    np.testing.assert_allclose(rounds * at_integers, by_renyi.rdp, rtol=1e-9)
    ours = renyi_epsilon({event(z, q): rounds}, delta=DELTA)
    # More orders can only help, and never below the tight figure.
    assert by_pld.get_epsilon(DELTA) <= ours <= by_renyi.get_epsilon(DELTA) * (1 + 1e-9)
    assert ours >= 0.9 * by_renyi.get_epsilon(DELTA)
    assert pld_epsilon({event(z, q): rounds}, delta=DELTA) == pytest.approx(by_pld.get_epsilon(DELTA), rel=1e-6)


@pytest.mark.parametrize(("q", "z", "rounds"), [(0.1, 1.0, 100), (0.25, 2.43, 200)])
def test_opacus_as_cross_check(q, z, rounds):
    from opacus.accountants import PRVAccountant, RDPAccountant

    by_rdp, by_prv = RDPAccountant(), PRVAccountant()
    by_rdp.history = by_prv.history = [(z, q, rounds)]
    declared = {event(z, q): rounds}
    assert renyi_epsilon(declared, delta=DELTA) == pytest.approx(by_rdp.get_epsilon(DELTA), rel=2e-3)
    assert pld_epsilon(declared, delta=DELTA) == pytest.approx(by_prv.get_epsilon(DELTA), rel=5e-3)


def test_multisets_add_up_in_both_accountants():
    declared = {event(2.0, 0.25): 40, event(3.0, 0.25): 30, event(6.0): 5}
    values = 40 * rdp(event(2.0, 0.25)) + 30 * rdp(event(3.0, 0.25)) + 5 * rdp(event(6.0))
    ideal = min(
        value + math.log1p(-1 / order) - math.log(DELTA * order) / (order - 1)
        for value, order in zip(values, ORDERS, strict=True)
    )
    assert renyi_epsilon(declared, delta=DELTA) == pytest.approx(ideal, rel=1e-9)
    accountant = PLDAccountant()
    for z, q, rounds in ((2.0, 0.25, 40), (3.0, 0.25, 30), (6.0, 1.0, 5)):
        accountant.compose(PoissonSampledDpEvent(q, GaussianDpEvent(z)), rounds)
    assert pld_epsilon(declared, delta=DELTA) == pytest.approx(accountant.get_epsilon(DELTA), rel=1e-3)


@pytest.mark.parametrize("epsilon", [0.1, 0.5, 2.0, 8.0, 20.0])
@pytest.mark.parametrize("delta", [1e-5, 1e-8])
def test_orders_are_near_optimal(epsilon, delta):
    dense = np.concatenate([np.arange(1.05, 20, 0.01), np.arange(20, 3000)])
    room = epsilon - np.log1p(-1 / dense) + np.log(delta * dense) / (dense - 1)
    admitted = (renyi_limits(epsilon=epsilon, delta=delta) / np.array(ORDERS)).max()
    assert admitted >= 0.99 * (room / dense).max()


def test_no_accountant_logs_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        for z, q in itertools.product((0.3, 1.0, 5.0, 30.0, 100.0), (0.001, 0.1, 0.5, 0.9)):
            values = rdp(event(z, q))
            assert np.isfinite(values).all()
            assert (np.diff(values * (np.array(ORDERS) - 1)) >= 0).all()
            renyi_epsilon({event(z, q): 10}, delta=DELTA)
    assert caplog.records == []


def test_divergences_are_kept_and_cannot_be_changed():
    values = rdp(event(2.0, 0.3))
    assert rdp(event(2.0, 0.3)) is values
    with pytest.raises(ValueError, match="read-only"):
        values[0] = 0.0


@pytest.mark.parametrize(
    ("q", "z", "rounds", "size"), [(0.25, 2.43, 50, 1), (0.25, 2.43, 50, 2), (0.25, 2.43, 50, 5), (0.02, 2.0, 200, 2)]
)
def test_sampled_groups_against_the_mixture_by_pld(q, z, rounds, size):
    declared = {event(z, q): rounds}
    tight = pld_epsilon(declared, delta=DELTA, group_size=size)
    by_renyi = renyi_epsilon(declared, delta=DELTA, group_size=size)
    assert tight <= by_renyi <= 1.25 * tight


def test_group_epsilon_grows_with_the_group_and_ends_at_infinity():
    declared = {event(2.43, 0.25): 200}
    values = [renyi_epsilon(declared, delta=DELTA, group_size=size) for size in (1, 2, 3, 5, 10)]
    assert all(smaller < larger for smaller, larger in itertools.pairwise(values))
    assert math.isfinite(values[-1])
    assert renyi_epsilon(declared, delta=DELTA, group_size=143) == math.inf


def test_untouched_units_cost_nothing_and_more_rounds_cost_more():
    assert renyi_epsilon({}, delta=DELTA) == 0.0
    assert pld_epsilon({}, delta=DELTA) == 0.0
    few, many = ({event(3.0, 0.2): rounds} for rounds in (10, 11))
    assert renyi_epsilon(few, delta=DELTA) < renyi_epsilon(many, delta=DELTA)
    assert renyi_epsilon(few, delta=1e-6) > renyi_epsilon(few, delta=DELTA)


def test_amplification_is_only_what_sampling_gives():
    assert renyi_epsilon({event(3.0, 0.999): 10}, delta=DELTA) == pytest.approx(
        renyi_epsilon({event(3.0): 10}, delta=DELTA), rel=0.01
    )
    assert renyi_epsilon({event(3.0, 0.1): 10}, delta=DELTA) < 0.3 * renyi_epsilon({event(3.0): 10}, delta=DELTA)


def test_limit_and_epsilon_are_inverse():
    declared = {event(2.43, 0.25): 200}
    order = order_for_events(declared, delta=DELTA)
    spent = 200 * rdp(event(2.43, 0.25))[ORDERS.index(order)]
    exact = renyi_epsilon(declared, delta=DELTA)
    assert renyi_limit(epsilon=exact + 1e-3, delta=DELTA, order=order) > spent
    assert renyi_limit(epsilon=exact, delta=DELTA, order=order) < spent


def test_order_for_a_budget_without_a_plan():
    assert order_for_budget(epsilon=8.0, delta=1e-5) == pytest.approx(4.0, abs=0.25)
    assert order_for_budget(epsilon=0.1, delta=1e-5) > 100
    with pytest.raises(ArgumentError, match="epsilon"):
        order_for_budget(epsilon=1e-9, delta=1e-5)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("noise_multiplier", 0.0),
        ("noise_multiplier", math.nan),
        ("noise_multiplier", True),
        ("sampling_rate", 0.0),
        ("sampling_rate", 1.01),
        ("sampling_rate", math.inf),
        ("grid_ratio", 1.9),
        ("dimension", 0),
        ("dimension", 2.5),
        ("shares", 0),
    ],
)
def test_events_refuse_what_makes_no_sense(field, value):
    with pytest.raises(ArgumentError, match=field):
        dataclasses.replace(event(2.0, 0.5), **{field: value})


def test_the_rounding_is_charged_as_a_twelfth_of_a_squared_step():
    coarse = event(2.0, grid_ratio=3.0)
    assert coarse.effective_noise_multiplier == 2.0 * math.sqrt(1 - 1 / 108)
    np.testing.assert_allclose(rdp(coarse), rdp(event(2.0)) * (108 / 107), rtol=1e-9)
    assert (rdp(event(2.0, 0.25, grid_ratio=3.0)) > rdp(event(2.0, 0.25))).all()


def test_events_are_immutable_and_equal_by_value():
    with pytest.raises(dataclasses.FrozenInstanceError):
        event(2.0).noise_multiplier = 9.0
    assert event(np.float64(2.0)) == event(2.0)
    assert type(event(np.float64(2.0)).noise_multiplier) is float


@pytest.mark.parametrize("function", [renyi_epsilon, pld_epsilon])
def test_conversions_refuse_what_makes_no_sense(function):
    declared = {event(2.0): 1}
    for delta in (0.0, 1.0, -1e-5, math.nan):
        with pytest.raises(ArgumentError, match="delta"):
            function(declared, delta=delta)
    for size in (0, 1.5, True):
        with pytest.raises(ArgumentError, match="group_size"):
            function(declared, delta=DELTA, group_size=size)
    with pytest.raises(ArgumentError, match="number of rounds"):
        function({event(2.0): 0}, delta=DELTA)
    with pytest.raises(ArgumentError, match="order"):
        renyi_limit(epsilon=1.0, delta=DELTA, order=3.33)
