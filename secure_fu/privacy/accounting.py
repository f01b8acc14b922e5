"""What a release costs: immutable events, and their conversion to epsilon with dp-accounting.

Three figures come from one event. Its Renyi divergence at the fixed ``ORDERS`` is what the ledger's filter adds up. The
epsilon of a multiset of events follows from that sum (:func:`renyi_epsilon`) or, tighter, from the privacy loss
distribution (:func:`pld_epsilon`). Both hold for a multiset of events that was fixed before the first release; where
rounds are chosen after seeing releases, only the filter of :class:`secure_fu.privacy.budget.Budget` gives a
guarantee.

The noise is discrete; :mod:`secure_fu.privacy.discretisation` says what is charged for that and why it suffices.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from dp_accounting import DpEvent, GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.dp_event import MixtureOfGaussiansDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant, compute_epsilon
from numpy.typing import NDArray
from scipy.stats import binom

from secure_fu.errors import ArgumentError
from secure_fu.privacy._checks import positive, positive_integer, probability
from secure_fu.privacy.discretisation import DISCRETISATION_SHARE, real_epsilon
from secure_fu.privacy.events import GaussianSumEvent
from secure_fu.privacy.renyi import mixture_divergence

__all__ = [
    "ORDERS",
    "GaussianSumEvent",
    "order_for_budget",
    "order_for_events",
    "pld_epsilon",
    "rdp",
    "renyi_epsilon",
    "renyi_limit",
    "renyi_limits",
]

# Near-optimal for epsilon 0.1 to 20 at delta 1e-5 to 1e-8: the best order falls from some 400 to 2.5 over that range,
# and groups need still lower ones.
ORDERS: tuple[float, ...] = (
    *(1.0 + i / 8 for i in range(2, 33)),
    *(5.25 + i / 4 for i in range(12)),
    *(8.5 + i / 2 for i in range(8)),
    *(float(i) for i in range(13, 65)),
    *(72.0, 80.0, 96.0, 112.0, 128.0, 160.0, 192.0, 224.0, 256.0, 320.0, 384.0, 448.0, 512.0, 640.0, 768.0, 1024.0),
)

# Grids of the privacy loss. A group's mixture is slow to tabulate and its epsilon larger, so it gets a coarser one.
_LOSS_GRID = 1e-4
_GROUP_LOSS_GRID = 1e-3


@lru_cache(maxsize=4096)
def rdp(event: GaussianSumEvent, group_size: int = 1) -> NDArray[np.float64]:
    """Renyi divergence of one event at ``ORDERS``, for a group of ``group_size`` units that act together.

    Unamplified, a group of k is one unit of k-fold sensitivity: order k^2 / (2 z^2). Amplified, it is the binomial
    mixture of :mod:`secure_fu.privacy.renyi`. A single unit's integer orders come from dp-accounting; at fractional
    orders its series loses the terms' signs (at q = 0.25, z = 100 and order 2.25 it is 30 times too large) or does
    not converge, so those are integrated numerically.

    Returns:
        Read-only float64 array of shape (len(ORDERS),), in nats; ``inf`` where an order is too costly to compute.

    Raises:
        ArgumentError: ``group_size`` is not a positive integer.
    """
    size = positive_integer("group_size", group_size)
    sigma = event.effective_noise_multiplier
    orders = np.array(ORDERS)
    if event.sampling_rate == 1.0:
        values = orders * (size / sigma) ** 2 / 2.0
    else:
        values = np.empty_like(orders)
        published = (orders == np.floor(orders)) & (size == 1)
        accountant = RdpAccountant([int(order) for order in orders[published]])
        accountant.compose(PoissonSampledDpEvent(event.sampling_rate, GaussianDpEvent(sigma)))
        values[published] = np.maximum(accountant.rdp, 0.0)
        values[~published] = [
            mixture_divergence(order=order, size=size, sampling_rate=event.sampling_rate, sigma=sigma)
            for order in orders[~published].tolist()
        ]
    values.setflags(write=False)
    return values


def _total(events: Mapping[GaussianSumEvent, int], group_size: int) -> NDArray[np.float64]:
    """Renyi divergence of a multiset of events; shape (len(ORDERS),)."""
    values = np.zeros(len(ORDERS))
    for event, count in events.items():
        values += positive_integer("the number of rounds of an event", count) * rdp(event, group_size)
    return values


def renyi_epsilon(events: Mapping[GaussianSumEvent, int], *, delta: float, group_size: int = 1) -> float:
    """Epsilon of a multiset of events by Renyi divergence at the best of ``ORDERS``.

    Conversion by dp-accounting: Canonne, Kamath, Steinke 2020 (arXiv 2004.00010), Proposition 12. Choosing the order
    afterwards is sound for events that were fixed before the first release.

    Args:
        events: how many rounds there were of each event; empty for a unit that was never touched, whose epsilon is 0.
        delta: between 0 and 1; the discretisation's share is taken out of it.
        group_size: number of units that are protected together.

    Returns:
        Epsilon, ``inf`` where none can be shown at this delta.

    Raises:
        ArgumentError: an argument is outside its domain.
    """
    probability("delta", delta)
    values = _total(events, positive_integer("group_size", group_size)).tolist()

    def convert(remaining: float) -> float:
        return float(compute_epsilon(ORDERS, values, remaining)[0])

    return real_epsilon(convert, events, delta)


def _pld_event(event: GaussianSumEvent, group_size: int) -> DpEvent:
    """The event in dp-accounting's terms."""
    sigma = event.effective_noise_multiplier
    if event.sampling_rate == 1.0:
        return GaussianDpEvent(sigma / group_size)
    if group_size == 1:
        return PoissonSampledDpEvent(event.sampling_rate, GaussianDpEvent(sigma))
    shifts = np.arange(group_size + 1)
    weights = binom.pmf(shifts, group_size, event.sampling_rate)
    return MixtureOfGaussiansDpEvent(sigma, shifts.astype(float).tolist(), weights.tolist())


def pld_epsilon(events: Mapping[GaussianSumEvent, int], *, delta: float, group_size: int = 1) -> float:
    """Epsilon of a multiset of events by their privacy loss distribution (dp-accounting), tight up to its grid.

    Valid only for a multiset that was declared before the first release and is charged whole: there is no privacy
    filter on privacy loss distributions under full adaptivity (arXiv 2602.06756). A sampled group is a mixture of
    Gaussians (Ganesh 2024, arXiv 2401.10294). Losses are rounded to a grid so that epsilon can only come out too
    large. Takes 0.3 s for a single unit, some seconds for a sampled group.

    Args, returns and errors as :func:`renyi_epsilon`.
    """
    probability("delta", delta)
    size = positive_integer("group_size", group_size)
    accountant = PLDAccountant(value_discretization_interval=_LOSS_GRID if size == 1 else _GROUP_LOSS_GRID)
    for event, count in events.items():
        accountant.compose(_pld_event(event, size), positive_integer("the number of rounds of an event", count))

    def convert(remaining: float) -> float:
        return float(accountant.get_epsilon(remaining))

    return real_epsilon(convert, events, delta)


def renyi_limits(*, epsilon: float, delta: float) -> NDArray[np.float64]:
    """The largest Renyi divergence at each of ``ORDERS`` that is still (epsilon, delta)-private; shape (len(ORDERS),).

    Canonne, Kamath, Steinke 2020, Proposition 12, solved for the divergence:
    epsilon - log(1 - 1/a) + log(delta a) / (a - 1). ``DISCRETISATION_SHARE`` of delta is left out, for
    :func:`secure_fu.privacy.discretisation.divergence_limit`. An entry of 0 or less admits nothing.
    """
    positive("epsilon", epsilon)
    available = probability("delta", delta) * (1.0 - DISCRETISATION_SHARE)
    orders = np.array(ORDERS)
    limits: NDArray[np.float64] = epsilon - np.log1p(-1.0 / orders) + np.log(available * orders) / (orders - 1.0)
    return limits


def renyi_limit(*, epsilon: float, delta: float, order: float) -> float:
    """The entry of :func:`renyi_limits` at one of ``ORDERS``; ArgumentError if it is none of them."""
    if order not in ORDERS:
        raise ArgumentError("order", order, "one of secure_fu.privacy.accounting.ORDERS")
    return float(renyi_limits(epsilon=epsilon, delta=delta)[ORDERS.index(order)])


def order_for_budget(*, epsilon: float, delta: float) -> float:
    """The order of a budget whose events are not known yet: it admits the most unamplified Gaussian rounds.

    Raises:
        ArgumentError: no order admits any.
    """
    admitted = renyi_limits(epsilon=epsilon, delta=delta) / np.array(ORDERS)
    best = int(np.argmax(admitted))
    if admitted[best] <= 0.0:
        raise ArgumentError("epsilon", epsilon, f"an epsilon that Renyi divergence can show at delta {delta}")
    return ORDERS[best]


def order_for_events(events: Mapping[GaussianSumEvent, int], *, delta: float, group_size: int = 1) -> float:
    """The order at which a planned multiset of events has the smallest epsilon.

    A budget's order has to be fixed before the first round; this is how to choose it from a plan.

    Raises:
        ArgumentError: an argument is outside its domain.
    """
    values = _total(events, positive_integer("group_size", group_size))
    return ORDERS[int(np.argmax(renyi_limits(epsilon=1.0, delta=delta) - values))]
