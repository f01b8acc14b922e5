"""Student's t with a shift, by quadrature: exact power and limits where the noise is estimated from few values.

(Z + shift) / U, where Z is standard normal and U^2 an independent chi-square over its degrees of freedom, has the
noncentral t distribution. scipy has it too, but not the power of a two one-sided test, which is an integral over U.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import chdtr, ndtr

__all__ = ["least_shift", "noncentral_tail", "scale_nodes"]

_NODES = 160
_REACH = 10.0  # standard deviations; what lies beyond is below 1e-22


@lru_cache(maxsize=1)
def _legendre() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return nodes, weights


def _between(low: float, high: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes and weights of Gauss and Legendre's rule on an interval."""
    nodes, weights = _legendre()
    return (low + high) / 2.0 + (high - low) / 2.0 * nodes, (high - low) / 2.0 * weights


@lru_cache(maxsize=256)
def scale_nodes(freedom: int, most: float = math.inf) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where to evaluate a function of U = sqrt(chi-square / freedom), and the weights of its expectation.

    Args:
        freedom: degrees of freedom, at least 1.
        most: above it the function is 0; below it is smooth.

    Returns:
        Nodes and weights, shape (160,) each; the weights add up to P[U <= most].
    """
    width = _REACH / math.sqrt(2.0 * freedom)
    low, high = max(0.0, 1.0 - width), 1.0 + width

    def masses(end: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        nodes, weights = _between(low, end)
        # The density, but for its constant: 1 at U = 1.
        return nodes, weights * np.exp((freedom - 1.0) * np.log(nodes) - freedom * (nodes**2 - 1.0) / 2.0)

    nodes, shares = masses(max(low, min(most, high)))
    return nodes, shares / masses(high)[1].sum()


def noncentral_tail(statistic: float, shift: float, freedom: int) -> float:
    """P[(Z + shift) / U >= statistic], for a statistic of at least 0."""
    if statistic > math.sqrt(2.0 * freedom):
        # The step in U is too steep for its nodes; over Z the integrand is smooth.
        nodes, weights = _between(max(-_REACH, -shift), _REACH + max(0.0, -shift))
        density = np.exp(-(nodes**2) / 2.0) / math.sqrt(2.0 * math.pi)
        return float(weights @ (density * chdtr(freedom, freedom * ((nodes + shift) / statistic) ** 2)))
    scales, shares = scale_nodes(freedom)
    return float(shares @ ndtr(shift - statistic * scales))


def least_shift(statistic: float, freedom: int, tail: float) -> float:
    """The lower confidence limit of the shift at level 1 - ``tail``, not below 0; a zero of the distribution function.

    Args:
        statistic: the observed t.
        freedom: degrees of freedom of the estimated scale, at least 1.
        tail: between 0 and 1/2.
    """
    if statistic <= 0.0 or noncentral_tail(statistic, 0.0, freedom) >= tail:
        return 0.0
    # At a shift of the statistic times 1 + 10 / sqrt(2 freedom) and 10 more the tail is 1.
    high = statistic * (1.0 + _REACH / math.sqrt(2.0 * freedom)) + _REACH
    return float(
        brentq(lambda shift: noncentral_tail(statistic, shift, freedom) - tail, 0.0, high, xtol=1e-12, rtol=1e-12)
    )
