"""Renyi divergence between a Gaussian and the binomial mixture that a sampled group makes of it.

Guarantee: with ``k`` units, each in the sum independently with probability ``q``, each moving it by at most 1 in L2
norm, and Gaussian noise of standard deviation ``sigma``, the worst pair of neighbouring output laws is

    P = sum_j Binomial(k, q)(j) N(j, sigma^2)    and    Q = N(0, sigma^2)

(all units pull in the same direction: Ganesh 2024, arXiv 2401.10294; for k = 1 Mironov, Talwar, Zhang 2019, arXiv
1908.10530). That pair dominates in every hockey-stick divergence, so in every Renyi divergence.
Adding the group and removing it are the two directions; the larger of both is returned.

Assumes: the sampling is secret, Poisson, and independent of the noise. Edge cases: an order whose integral would need
more than ``_MAXIMUM_TERMS`` exponentials (large orders of large groups) gets ``inf``, a valid bound that the conversion
to epsilon passes over.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import logsumexp
from scipy.stats import binom

__all__ = ["mixture_divergence"]

_MAXIMUM_TERMS = 1_000_000
_TAIL = 12.0  # standard deviations beyond which a Gaussian's tail (1e-33) is left out
_LOG_ERROR = 40.0  # the quadrature's relative error is below exp(-40)


class _Mixture:
    """The log ratio log(P / Q) as a function of the output, in units of the sensitivity."""

    def __init__(self, size: int, rate: float, sigma: float) -> None:
        self.shifts = np.arange(size + 1, dtype=np.float64)
        self.log_weights = binom.logpmf(self.shifts, size, rate) - self.shifts**2 / (2.0 * sigma**2)
        self.variance = sigma**2

    def _terms(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        terms: NDArray[np.float64] = self.log_weights[:, None] + self.shifts[:, None] * (x[None, :] / self.variance)
        return terms

    def log_ratio(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """The log ratio log(P(x) / Q(x)), convex and increasing in x; shape (n,) to (n,)."""
        result: NDArray[np.float64] = logsumexp(self._terms(x), axis=0)
        return result

    def mean_shift(self, x: float) -> float:
        """The mean of j given the output x: the slope of ``log_ratio`` times sigma^2."""
        terms = self._terms(np.array([x]))[:, 0]
        weights = np.exp(terms - terms.max())
        return float(weights @ self.shifts / weights.sum())


def _spacing(variance: float, zeros: float, reach: float) -> float:
    """Spacing at which the trapezoid rule's relative error is below exp(-40).

    The rule's error for an integrand analytic in a strip of half-width y is about exp(-2 pi y / h) times the growth
    of the integrand there. At y = phi sigma^2 the Gaussian grows by exp(phi^2 sigma^2 / 2). P/Q is a polynomial with
    positive coefficients in w = exp(x / sigma^2), so it never exceeds its value on the real line, which settles
    positive powers; binomial weights times exp(-j^2 / (2 sigma^2)) keep its zeros real (Polya and Schur), so they lie
    at imaginary part pi sigma^2, and a negative power, of total degree ``zeros``, grows by at most
    cos(phi / 2)^-zeros <= exp(zeros phi^2 / 7) for phi <= 1. phi is ``reach``, or where the bound is best if that is
    smaller.
    """
    growth = variance / 2.0 + zeros / 7.0
    if growth * reach**2 <= _LOG_ERROR:
        return 2.0 * math.pi * reach * variance / (_LOG_ERROR + growth * reach**2)
    return math.pi * variance / math.sqrt(_LOG_ERROR * growth)


def _count(low: float, high: float, spacing: float) -> int:
    return math.ceil((high - low) / spacing) + 1


def _log_integral(mixture: _Mixture, power: float, low: float, high: float, spacing: float) -> float:
    """Logarithm of the integral of Q (P/Q)^power over [low, high]; ``inf`` where that is too costly."""
    count = _count(low, high, spacing)
    if count * len(mixture.shifts) > _MAXIMUM_TERMS:
        return math.inf
    x: NDArray[np.float64] = low + spacing * np.arange(count, dtype=np.float64)
    log_density = -(x**2) / (2.0 * mixture.variance) - 0.5 * math.log(2.0 * math.pi * mixture.variance)
    return float(logsumexp(log_density + power * mixture.log_ratio(x))) + math.log(spacing)


def mixture_divergence(*, order: float, size: int, sampling_rate: float, sigma: float) -> float:
    """Renyi divergence of the sampled group's worst pair, the larger of both directions.

    Args:
        order: Renyi order, above 1.
        size: number of units in the group, at least 1.
        sampling_rate: probability, strictly between 0 and 1, of each unit being in the sum.
        sigma: standard deviation of the noise over one unit's sensitivity.

    Returns:
        max(D_order(P || Q), D_order(Q || P)) in nats, or ``inf`` where it is too costly to compute.
    """
    tail = _TAIL * sigma
    # Beyond x = order * size the first direction's integrand falls faster than a Gaussian does from there, and left of
    # 0 it is below Q.
    low, high, spacing = -tail, order * size + tail, _spacing(sigma**2, 0.0, 3.0)
    if _count(low, high, spacing) * (size + 1) > _MAXIMUM_TERMS:
        return math.inf  # before memory for the terms is asked for: a group may be of any size
    mixture = _Mixture(size, sampling_rate, sigma)
    added = _log_integral(mixture, order, low, high, spacing)
    if size == 1:
        return max(added, 0.0) / (
            order - 1.0
        )  # never below the other direction (Mironov, Talwar, Zhang 2019, section 3)
    # The other direction's integrand is log-concave, with a curvature of at least 1 / sigma^2: its mass is at its peak.
    power = 1.0 - order

    def slope(x: float) -> float:
        return -x + power * mixture.mean_shift(x)

    peak = float(brentq(slope, power * size - sigma, sigma))
    spacing = _spacing(mixture.variance, -power * size, 1.0)
    removed = _log_integral(mixture, power, peak - tail, peak + tail, spacing)
    return max(added, removed, 0.0) / (order - 1.0)
