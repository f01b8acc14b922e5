"""What a sequence of noisy sums shows of which of two contributions a unit made to them.

A deletion round treats a forgotten unit one way and a retained one another way. Whoever wants to know whether a unit
left or stayed compares two worlds, alike but for this unit: in one it contributes as a forgotten unit does, with norm
at most 1 / s_f and with probability a, in the other as a retained unit does, at most 1 / s_r and with probability b
(in units of the noise's standard deviation; s is the effective noise multiplier, the probability the sampling rate).

Guarantee: with phi the standard normal law and k units that change together,

    P = sum_j Binomial(k, a)(j) phi(. - j / s_f)    and    Q = sum_j Binomial(k, b)(j) phi(. + j / s_r)

dominate the round: no pair of contributions, in any dimension and in any two directions, makes the two worlds easier to
tell apart in any hockey-stick divergence, hence in any Renyi divergence, in either order of the worlds.

Proof. Fix everything else, the sampled contributions of others included; both worlds then shift the same noise phi_d by
vectors u of norm at most j / s_f, respectively v of at most j / s_r, when j of the k units are in. For a set S of
outputs let p be its probability when none is in. By Neyman and Pearson's lemma a shift by u takes p to at most
Phi(Phi^-1(p) + |u|), and a shift by v to at least Phi(Phi^-1(p) - |v|). So for each t > 0 the value P'(S) - t Q'(S) of
the true laws is at most

    sum_j Bin(k, a)(j) Phi(Phi^-1(p) + j / s_f) - t sum_j Bin(k, b)(j) Phi(Phi^-1(p) - j / s_r)

which is P(H) - t Q(H) for the half-line H with phi(H) = p. The supremum over S is the hockey-stick divergence, and it
is jointly convex, so it stays bounded when the others' sampling is mixed over. For the other order of the worlds
exchange (a, s_f) and (b, s_r) and reflect. The pair is attained by contributions that point in opposite directions, so
no better bound exists. Dominating pairs compose under adaptively chosen rounds (Zhu, Dong, Wang 2022, arXiv 2106.08567,
theorem 10); here the Renyi divergences of the rounds are added.

With b = 0 this is the worst case of Mironov, Talwar, Zhang 2019 and Ganesh 2024. It is tighter than the weak triangle
inequality of Renyi divergence (Mironov 2017, proposition 11) by way of a world in which the unit does not contribute.

Assumes: sampling is secret and Poisson in each world; the noise, its grid and everything public of the round (cohort,
settings, number of rounds) are the same in both worlds. Discreteness is charged once for each round, as in
:mod:`secure_fu.privacy.discretisation`: it is the same noise in both worlds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from dp_accounting.rdp import compute_epsilon
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import binom

from secure_fu.errors import ArgumentError
from secure_fu.privacy._checks import positive_integer, probability
from secure_fu.privacy.accounting import ORDERS, rdp
from secure_fu.privacy.discretisation import real_epsilon
from secure_fu.privacy.events import GaussianSumEvent

__all__ = ["ExchangedSum", "exchange_epsilon", "exchange_rdp"]

_MAXIMUM_TERMS = 1_000_000
_TAIL = 12.0  # standard deviations beyond which a Gaussian's tail (1e-33) is left out
_LOG_ERROR = 40.0  # the quadrature's relative error is below exp(-40)


@dataclass(frozen=True, kw_only=True)
class ExchangedSum:
    """One noisy sum that a unit may have entered in one of two ways. Immutable and hashable.

    Args:
        left: the sum as the unit sees it if it is forgotten; None where it does not enter.
        stayed: the same if it is retained.

    Raises:
        ArgumentError: both are None, or they do not describe the same noise.
    """

    left: GaussianSumEvent | None
    stayed: GaussianSumEvent | None

    def __post_init__(self) -> None:
        if self.left is None and self.stayed is None:
            raise ArgumentError("stayed", None, "an event; a sum that the unit enters in neither way costs nothing")
        if self.left is not None and self.stayed is not None:
            noises = [(e.grid_ratio, e.dimension, e.shares) for e in (self.left, self.stayed)]
            if noises[0] != noises[1]:
                raise ArgumentError(
                    "stayed", noises[1], f"the grid_ratio, dimension and shares of the same noise, {noises[0]}"
                )

    @property
    def either(self) -> GaussianSumEvent:
        """An event with the sum's noise: what discreteness is charged for."""
        event = self.stayed if self.left is None else self.left
        assert event is not None  # noqa: S101 (checked when made)
        return event


class _Contribution:
    """How a group's contribution changes the law of the output, in the noise's standard deviations along it."""

    def __init__(self, event: GaussianSumEvent, size: int) -> None:
        counts = np.arange(size + 1, dtype=np.float64)
        self.sigma = event.effective_noise_multiplier
        self.reach = size / self.sigma
        self.terms = size + 1
        self.zeros = size if event.sampling_rate < 1.0 else 0
        self._shifts = counts / self.sigma
        self._log_weights = binom.logpmf(counts, size, event.sampling_rate) - self._shifts**2 / 2.0

    def log_ratio(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Logarithm of the density with the contribution over that without; shape (n,) to (n,)."""
        result: NDArray[np.float64] = logsumexp(self._log_weights[:, None] + self._shifts[:, None] * x, axis=0)
        return result


def _divergence(order: float, first: _Contribution, second: _Contribution) -> float:
    """Renyi divergence of ``first`` from ``second``, pointing in opposite directions; ``inf`` where it is too costly.

    The integrand phi A^order B^(1 - order) has a logarithm whose slope at x lies between -x and M - x, where M is
    ``last`` below: outside [0, M] it falls faster than a Gaussian, and within it is at least one, so 12 standard
    deviations beyond are left out. The trapezoid rule's spacing is that of :mod:`secure_fu.privacy.renyi`: A and B are
    polynomials with positive coefficients and real zeros in exp(x / sigma), so at imaginary part y = phi sigma the
    integrand grows by at most exp(y^2 / 2) cos(phi / 2)^-(k (order - 1)).
    """
    last = order * first.reach + (order - 1.0) * second.reach
    sigma = min(first.sigma, second.sigma)
    growth = sigma**2 / 2.0 + second.zeros * (order - 1.0) / 7.0
    if growth <= _LOG_ERROR:
        spacing = 2.0 * math.pi * sigma / (_LOG_ERROR + growth)
    else:
        spacing = math.pi * sigma / math.sqrt(_LOG_ERROR * growth)
    count = math.ceil((last + 2.0 * _TAIL) / spacing) + 1
    if count * (first.terms + second.terms) > _MAXIMUM_TERMS:
        return math.inf
    x: NDArray[np.float64] = -_TAIL + spacing * np.arange(count, dtype=np.float64)
    exponent = -(x**2) / 2.0 + order * first.log_ratio(x) + (1.0 - order) * second.log_ratio(-x)
    log_integral = float(logsumexp(exponent)) + math.log(spacing) - 0.5 * math.log(2.0 * math.pi)
    return max(log_integral, 0.0) / (order - 1.0)


@lru_cache(maxsize=1024)
def exchange_rdp(exchanged: ExchangedSum, group_size: int = 1) -> NDArray[np.float64]:
    """Renyi divergence at ``ORDERS`` between the two worlds, the larger of both orders of the worlds.

    Returns:
        Read-only float64 array of shape (len(ORDERS),), in nats; ``inf`` where an order is too costly to compute.

    Raises:
        ArgumentError: ``group_size`` is not a positive integer.
    """
    size = positive_integer("group_size", group_size)
    left, stayed = exchanged.left, exchanged.stayed
    if left is None or stayed is None:
        return rdp(exchanged.either, size)
    if left.sampling_rate == stayed.sampling_rate == 1.0:
        distance = size / left.effective_noise_multiplier + size / stayed.effective_noise_multiplier
        values: NDArray[np.float64] = np.array(ORDERS) * distance**2 / 2.0
    else:
        leaving, staying = _Contribution(left, size), _Contribution(stayed, size)
        alike = (left.noise_multiplier, left.sampling_rate) == (stayed.noise_multiplier, stayed.sampling_rate)
        values = np.array(
            [
                max(
                    _divergence(order, leaving, staying),
                    0.0 if alike else _divergence(order, staying, leaving),  # the other order is the mirror image
                )
                for order in ORDERS
            ]
        )
    values.setflags(write=False)
    return values


def exchange_epsilon(sums: Mapping[ExchangedSum, int], *, delta: float, group_size: int = 1) -> float:
    """Epsilon between the world in which the units left and the one in which they stayed.

    Where the units enter all sums in one world only, this is :func:`secure_fu.privacy.accounting.renyi_epsilon`.

    Args:
        sums: how many there were of each; empty if the units enter none in either world, which costs 0.
        delta: between 0 and 1; the discretisation's share is taken out of it.
        group_size: number of units that leave, or stay, together.

    Returns:
        Epsilon, ``inf`` where none can be shown at this delta.

    Raises:
        ArgumentError: an argument is outside its domain.
    """
    probability("delta", delta)
    size = positive_integer("group_size", group_size)
    if not sums:
        return 0.0
    values = np.zeros(len(ORDERS))
    noises: Counter[GaussianSumEvent] = Counter()
    for exchanged, count in sums.items():
        values += positive_integer("the number of rounds of a sum", count) * exchange_rdp(exchanged, size)
        noises[exchanged.either] += count

    def convert(remaining: float) -> float:
        return float(compute_epsilon(ORDERS, values.tolist(), remaining)[0])

    return real_epsilon(convert, noises, delta)
