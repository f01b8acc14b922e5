"""An upper bound on the norm of a vector that was measured through noise: the gradient that is left at a model.

Guarantee: let m = g + e + n with g a fixed vector of dimension d, e of norm at most ``rounding``, and n fresh noise:
in every coordinate an independent sum of discrete Gaussians on a grid, with the same standard deviation sigma,
somewhere in [``sigma_low``, ``sigma_high``]. Then, whatever g, e and sigma are, the figure of
:func:`residual_upper_bound` for |m| is below |g| with probability at most ``failure``.

Why. The noise is within a total variation V of a Gaussian n' of variance sigma^2 - step^2 / 12, rounded to the grid
(:mod:`secure_fu.privacy.discretisation`); rounding moves the vector by at most step sqrt(d) / 2 more. With r the sum of
both roundings it is left to bound h = |g + e'| from |h + n'|, and to add r. |h + n'|^2 / sigma^2 has the noncentral
chi-square law with d degrees of freedom and noncentrality h^2 / sigma^2, whose distribution function F falls in the
noncentrality. So for a known sigma the largest h with F(|m|^2 / sigma^2; d, h^2 / sigma^2) > failure - V is an upper
bound U(sigma) at this confidence, and for an unknown one so is the largest U(sigma) in the interval.

The largest is found by a search for the maximum of a function with one peak: the probability that |h + sigma Z| <= t

- falls in sigma if h <= t, for the ball around -h contains 0, and so shrinks if it is divided by a larger sigma;
- is log-concave in log sigma if h > t: it is the integral of the noise's density over a ball of radius t at distance h
  from 0, that is, up to a constant, the convolution in w = log|y|^2 of exp(d u / 2 - e^u / 2), u = w - log sigma^2,
  which is log-concave, with the share of the sphere of radius |y| that lies in the ball. That share is the probability
  of cos(angle) >= (e^v + (h^2 - t^2) e^-v) / (2 h) with v = w / 2, and the right side is convex in v: a marginal of a
  log-concave law on a convex set, hence log-concave (Prekopa). For d >= 3 the law of the cosine is log-concave; for
  d = 2 use the angle, uniform and at most a concave function of v; for d = 1 the share is constant on an interval.

So for every h the sigma that do not rule it out form an interval, and U is quasi-concave.

F is summed as a Poisson mixture of central laws; all terms are positive, so nothing cancels, and what is left out of
the sum is counted as if it were 1. Independent of that, U is never above the bound that follows from Birge 2001 ("An
alternative point of view on Lepski's method", lemma 8.1),

    P[X <= d + l - 2 sqrt((d + 2 l) y)] <= e^-y      for X with d degrees of freedom and noncentrality l,

which takes its place where the sum would be long (h above 300 sigma or so); there the two differ by less than 1 %.

Edge cases: a measured norm that is improbably small for any g gives 0 plus the roundings. Where the discretisation
alone uses up ``failure`` the bound is ``inf``.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize_scalar
from scipy.special import gammainc, gammaincinv, gammaln

from secure_fu.errors import ArgumentError
from secure_fu.privacy._checks import positive, positive_integer, probability
from secure_fu.privacy.discretisation import discretisation_divergence, total_variation
from secure_fu.privacy.events import GaussianSumEvent

__all__ = ["residual_upper_bound"]

_SAFETY = 1e-9
_LARGEST_NONCENTRALITY = 1e5


def residual_upper_bound(
    measured_norm: float,
    *,
    dimension: int,
    sigma_low: float,
    sigma_high: float,
    step: float,
    shares: int,
    rounding: float,
    failure: float,
) -> float:
    """Upper confidence bound on the norm of g; the module says of what.

    Args:
        measured_norm: L2 norm of what was measured, at least 0.
        dimension: number of coordinates.
        sigma_low: smallest standard deviation that the noise of a coordinate may have: that of the assured shares.
        sigma_high: the largest: that of all shares.
        step: step of the noise's grid, at most sigma_low / 2; in the unit of the norm, as all lengths here.
        shares: number of shares at most, of equal variance.
        rounding: L2 norm at most of everything else that was added to g, the clients' rounding to the grid.
        failure: probability, at most, with which the bound may be too small.

    Returns:
        At least 0; ``inf`` where nothing can be shown at this failure probability.

    Raises:
        ArgumentError: an argument is outside its domain.
    """
    measured, extra = _length("measured_norm", measured_norm), _length("rounding", rounding)
    size = positive_integer("dimension", dimension)
    low, high = positive("sigma_low", sigma_low), positive("sigma_high", sigma_high)
    if high < low:
        raise ArgumentError("sigma_high", sigma_high, f"at least sigma_low, {sigma_low}")
    noise = GaussianSumEvent(
        noise_multiplier=1.0,
        sampling_rate=1.0,
        grid_ratio=low / positive("step", step),
        dimension=size,
        shares=positive_integer("shares", shares),
    )
    remaining = probability("failure", failure) - total_variation(discretisation_divergence(noise))
    if remaining <= 0.0:
        return math.inf
    extra += step * math.sqrt(size) / 2.0
    return extra + _continuous_bound(
        measured, size, low * math.sqrt(1.0 - 1.0 / (12.0 * noise.grid_ratio**2)), high, remaining
    )


def _length(argument: str, value: object) -> float:
    """Return ``value`` as a float; it must be a finite number of at least 0."""
    return 0.0 if value == 0.0 and not isinstance(value, bool) else positive(argument, value)


def _continuous_bound(measured: float, dimension: int, low: float, high: float, failure: float) -> float:
    """The largest U(sigma) for sigma in [low, high], for noise of real numbers."""
    if measured == 0.0:
        return 0.0
    # A larger sigma makes the measured norm rarer than ``failure`` for every h: U is 0 there.
    quantile = 2.0 * float(gammaincinv(dimension / 2.0, failure)) * (1.0 - _SAFETY)
    if quantile > 0.0:
        high = min(high, measured / math.sqrt(quantile))
    if high < low:
        return 0.0
    # The noncentrality is largest at the smallest sigma.
    short = _by_birge((measured / low) ** 2, dimension, failure) <= _LARGEST_NONCENTRALITY
    noncentrality = _by_inversion if short else _by_birge

    def bound(log_sigma: float) -> float:
        sigma = math.exp(log_sigma)
        return sigma * math.sqrt(noncentrality((measured / sigma) ** 2, dimension, failure))

    ends = math.log(low), math.log(high)
    highest = max(bound(end) for end in ends)
    if ends[1] - ends[0] > _SAFETY:
        found = minimize_scalar(lambda x: -bound(x), bounds=ends, method="bounded", options={"xatol": 1e-6})
        highest = max(highest, -float(found.fun))
    return highest * (1.0 + _SAFETY)


def _by_inversion(square: float, dimension: int, failure: float) -> float:
    """The largest noncentrality under which a value of at most ``square`` is not rarer than ``failure``; 0 if none."""
    cautious = _by_birge(square, dimension, failure)
    if cautious == 0.0 or _distribution(square, dimension, 0.0) <= failure:
        return 0.0
    if _distribution(square, dimension, cautious) >= failure:
        return cautious
    return float(
        brentq(lambda value: _distribution(square, dimension, value) - failure, 0.0, cautious, xtol=1e-9, rtol=1e-12)
    )


def _by_birge(square: float, dimension: int, failure: float) -> float:
    """The same by Birge's inequality, solved for the noncentrality: an upper bound on it."""
    y = -math.log(failure)
    # With D = l + d / 2 the inequality reads D + d / 2 - square <= 2 sqrt(2 y D): quadratic in sqrt(D).
    radicand = 2.0 * y + square - dimension / 2.0
    if radicand < 0.0:
        return 0.0
    return max(0.0, (math.sqrt(2.0 * y) + math.sqrt(radicand)) ** 2 - dimension / 2.0)


def _distribution(square: float, dimension: int, noncentrality: float) -> float:
    """Distribution function of the noncentral chi-square law, not too small except for rounding (1e-13 or so)."""
    mean = noncentrality / 2.0
    if mean == 0.0:
        return float(gammainc(dimension / 2.0, square / 2.0))
    # Chernoff's bound on a Poisson variable: beyond these a probability of at most 2 exp(-40) is left out.
    reach = math.sqrt(80.0 * mean)
    first, last = max(0, math.floor(mean - reach)), math.ceil(mean + reach + 80.0)
    counts: NDArray[np.float64] = np.arange(first, last + 1, dtype=np.float64)
    weights = np.exp(counts * math.log(mean) - mean - gammaln(counts + 1.0))
    return float(weights @ gammainc(dimension / 2.0 + counts, square / 2.0)) + 2.0 * math.exp(-40.0)
