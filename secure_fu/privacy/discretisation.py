"""What it costs that the noise is discrete.

The noise of a sum is the sum of ``shares`` discrete Gaussians; s is its standard deviation in grid steps. It is
charged as the rounding to the grid of a continuous Gaussian of variance s^2 - 1/12 (rounding adds about 1/12).
Contributions are whole grid steps, so adding a rounded Gaussian to them is rounding a Gaussian mechanism:
post-processing, exactly as private.

Guarantee: what separates the noise that is drawn (the "real" one) from the rounded Gaussian (the "ideal" one) is
bounded in two ways, and :func:`real_epsilon` takes the first that fits.

1. Total variation. Per coordinate, the Kullback-Leibler divergence of the rounded Gaussian from

   - one discrete Gaussian of parameter s^2 is at most 1.5e-6 / s^8 for s >= 2. Their fourth cumulants differ by
     1/120, which gives 12 / (2880^2 s^8) = 1.4468e-6 / s^8 to leading order; computed to 50 digits it falls from
     1.4482e-6 / s^8 at s = 2 towards that limit (the tests repeat this);
   - the sum of n with variance s^2 / n each adds at most
     tau = 10 sum_{k=1}^{n-1} exp(-2 pi^2 (s^2 / n) k / (k + 1)), a bound on the log ratio of the two discrete laws
     everywhere (Kairouz, Liu, Steinke 2021, arXiv 2102.06387, on sums of discrete Gaussians); here n - 1 times its
     largest term.

   The divergence adds over coordinates and, by the chain rule, over adaptively chosen rounds. Pinsker's inequality
   makes a total variation distance V of the sum, and (epsilon, delta) of the ideal releases becomes (epsilon, delta +
   (1 + e^epsilon) V) for the real ones.

2. Likelihood ratio. For large epsilon the factor e^epsilon would use up delta. Where every noise coordinate stays
   within t s, t >= 4, the log ratio of the two laws of one coordinate is at most t^4 / (2000 s^4) + tau (leading
   order t^4 / (2880 s^4); the tests compute it), and leaving that range has probability at most 2 exp(-(t - 1/4)^2 /
   2) for a coordinate of either law (both are sub-Gaussian; 1/4 is for the rounding). With D the sum of the log
   ratios over coordinates and rounds, epsilon becomes epsilon + 2 D, and t is chosen so that the tails fit in delta.

On the project's grids s exceeds 100 noise multipliers times sqrt(dimension), and both are far below any delta in use.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from secure_fu.privacy._checks import positive, probability
from secure_fu.privacy.events import GaussianSumEvent

__all__ = [
    "DISCRETISATION_SHARE",
    "discretisation_divergence",
    "divergence_limit",
    "real_epsilon",
    "total_variation",
]

# The part of delta that is set aside, beforehand, for the difference between the real and the ideal noise.
DISCRETISATION_SHARE = 1e-3

_LARGEST_EPSILON = 700.0  # exp() of more does not fit a double


def _summing(event: GaussianSumEvent) -> float:
    """tau: bound on a coordinate's log ratio between the sum of the shares and one discrete Gaussian."""
    return 10.0 * (event.shares - 1) * math.exp(-(math.pi**2) * event.grid_ratio**2 / event.shares)


def discretisation_divergence(event: GaussianSumEvent) -> float:
    """Kullback-Leibler divergence, in nats, of one round's ideal noise from its real noise, at most."""
    return event.dimension * (1.5e-6 / event.grid_ratio**8 + _summing(event))


def total_variation(divergence: float) -> float:
    """Total variation distance for a sum of :func:`discretisation_divergence` over rounds: sqrt(KL / 2) (Pinsker)."""
    return math.sqrt(divergence / 2.0)


def divergence_limit(*, epsilon: float, delta: float) -> float:
    """The largest sum of :func:`discretisation_divergence` that fits in ``DISCRETISATION_SHARE`` of delta.

    Raises:
        ArgumentError: epsilon is not above 0, or delta not between 0 and 1.
    """
    inverse = math.exp(-positive("epsilon", epsilon))
    distance = DISCRETISATION_SHARE * probability("delta", delta) * inverse / (1.0 + inverse)
    return 2.0 * distance**2


def real_epsilon(convert: Callable[[float], float], events: Mapping[GaussianSumEvent, int], delta: float) -> float:
    """Epsilon of the real releases at ``delta``.

    Args:
        convert: the ideal releases' epsilon as a decreasing function of delta.
        events: how many rounds there were of each event.
        delta: what the real releases may use.

    Returns:
        Epsilon, or ``inf`` where neither bound of this module fits or epsilon exceeds 700.
    """
    if not events:
        return convert(delta)
    by_variation = _by_total_variation(convert, events, delta)
    return by_variation if math.isfinite(by_variation) else _by_likelihood_ratio(convert, events, delta)


def _by_total_variation(
    convert: Callable[[float], float], events: Mapping[GaussianSumEvent, int], delta: float
) -> float:
    distance = total_variation(sum(count * discretisation_divergence(event) for event, count in events.items()))
    epsilon = convert(delta)
    # Less delta can only raise epsilon, so this climbs to the smallest fixed point.
    for _ in range(100):
        if epsilon > _LARGEST_EPSILON:
            return math.inf
        remaining = delta - (1.0 + math.exp(epsilon)) * distance
        if remaining <= 0.0:
            return math.inf
        corrected = convert(remaining)
        if corrected <= epsilon * (1.0 + 1e-12):
            return corrected
        epsilon = corrected
    return math.inf


def _by_likelihood_ratio(
    convert: Callable[[float], float], events: Mapping[GaussianSumEvent, int], delta: float
) -> float:
    share = DISCRETISATION_SHARE * delta
    epsilon = convert(delta - 2.0 * share)
    if epsilon > _LARGEST_EPSILON:
        return math.inf
    coordinates = sum(count * event.dimension for event, count in events.items())
    # (1 + e^epsilon) e^D times the tails, 2 exp(-(t - 1/4)^2 / 2) per coordinate, is then at most the share.
    t = 0.25 + math.sqrt(2.0 * (epsilon + math.log(8.0 * coordinates / share)))
    ratio = sum(
        count * event.dimension * (t**4 / (2000.0 * event.grid_ratio**4) + _summing(event))
        for event, count in events.items()
    )
    # e^D times the ideal delta stays within delta minus the share only for a small D.
    return epsilon + 2.0 * ratio if ratio <= DISCRETISATION_SHARE else math.inf
