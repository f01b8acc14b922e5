"""Means and variances of few shadow models, made steadier by what all records have in common.

With eight shadow models a record's variance is estimated from three degrees of freedom a side. Taken as it stands it
ruins a likelihood ratio; replaced by one variance for all it throws away that records differ. In between lies a normal-
inverse-gamma prior whose parameters are estimated from all records at once (empirical Bayes), as Brannvall 2026, arXiv
2603.11799, proposes for LiRA. The prior of the variances is fitted by Smyth's moments of their logarithms (Statistical
Applications in Genetics and Molecular Biology 3, 2004, section 6.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from secure_fu.audit.attacks._shadow_scores import Moments

__all__ = ["Predictive", "VariancePrior", "offline_predictive", "online_predictives", "variance_prior"]

_MOST_FREEDOM: Final = 1e6  # of the prior; then all records share one variance
_LEAST_FREEDOM: Final = 1e-2
_LEAST_VARIANCE: Final = 1e-12
_LEAST_EIGENVALUE: Final = 1e-4  # of the prior of a record's means, relative to its largest


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictive:
    """Where phi of one more model is expected: a Student distribution for each of n records."""

    location: NDArray[np.float64]
    scale: NDArray[np.float64]
    freedom: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class VariancePrior:
    """Records' variances vary as ``freedom * variance / chi2(freedom)``: an inverse gamma distribution."""

    freedom: float
    variance: float

    def posterior(
        self, scatter: NDArray[np.float64], freedom: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Variance of each record after its own scatter is seen, and the degrees of freedom behind it."""
        total = self.freedom + freedom
        return (self.freedom * self.variance + scatter) / total, total


def variance_prior(scatter: NDArray[np.float64], freedom: NDArray[np.float64]) -> VariancePrior:
    """The prior that records' sums of squares come from, by the mean and the variance of log(scatter / freedom).

    Given a variance s^2, scatter is s^2 chi2(freedom); so log(scatter / freedom) has the mean log s^2 + digamma(f / 2)
    - log(f / 2) and the variance trigamma(f / 2). What it varies more than that is the prior's, trigamma(d / 2).

    Args:
        scatter: sums of squared deviations, shape (n,).
        freedom: their degrees of freedom, shape (n,); records with 0 tell nothing and are left out.
    """
    told = freedom > 0
    if not told.any():
        return VariancePrior(freedom=_MOST_FREEDOM, variance=1.0)
    half = freedom[told] / 2.0
    logs = np.log(np.maximum(scatter[told] / freedom[told], _LEAST_VARIANCE)) - special.digamma(half) + np.log(half)
    excess = float(logs.var(ddof=1) - special.polygamma(1, half).mean()) if len(logs) > 1 else 0.0
    low, high = _LEAST_FREEDOM / 2.0, _MOST_FREEDOM / 2.0
    if excess <= special.polygamma(1, high):
        prior_half = high
    elif excess >= special.polygamma(1, low):
        prior_half = low
    else:
        prior_half = float(optimize.brentq(lambda value: float(special.polygamma(1, value)) - excess, low, high))
    log_variance = float(logs.mean() + special.digamma(prior_half) - np.log(prior_half))
    return VariancePrior(freedom=2.0 * prior_half, variance=float(np.exp(log_variance)))


def online_predictives(inside: Moments, outside: Moments) -> tuple[Predictive, Predictive]:
    """Phi of one more model trained with each record, and of one trained without it.

    Variances: one a record, times one factor between the sides that all records share; its prior by
    :func:`variance_prior`. Means: the pair (with, without) of a record has a bivariate normal prior, mean and
    covariance estimated over all records. Members and non-members of one record are alike in how hard the record is, so
    the prior mostly steadies their difference.

    Args:
        inside, outside: from at least two models on each side of every record.
    """
    freedom_in, freedom_out = inside.count - 1.0, outside.count - 1.0
    pooled_in = max(float(inside.scatter.sum() / freedom_in.sum()), _LEAST_VARIANCE)
    pooled_out = max(float(outside.scatter.sum() / freedom_out.sum()), _LEAST_VARIANCE)
    factor = pooled_in / pooled_out
    scatter, freedom = inside.scatter / factor + outside.scatter, freedom_in + freedom_out
    variance, total = variance_prior(scatter, freedom).posterior(scatter, freedom)
    variance = np.maximum(variance, _LEAST_VARIANCE)
    error_in, error_out = variance * factor / inside.count, variance / outside.count
    mean_in, left_in, mean_out, left_out = _means(inside.mean, outside.mean, error_in, error_out)
    return (
        Predictive(location=mean_in, scale=np.sqrt(variance * factor + left_in), freedom=total),
        Predictive(location=mean_out, scale=np.sqrt(variance + left_out), freedom=total),
    )


def offline_predictive(outside: Moments) -> Predictive:
    """Phi of one more model that never saw the record; means as they stand, variances shrunken."""
    freedom = outside.count - 1.0
    variance, total = variance_prior(outside.scatter, freedom).posterior(outside.scatter, freedom)
    variance = np.maximum(variance, _LEAST_VARIANCE)
    return Predictive(location=outside.mean, scale=np.sqrt(variance * (1.0 + 1.0 / outside.count)), freedom=total)


def _means(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    first_error: NDArray[np.float64],
    second_error: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Posterior mean and variance of both means of each record, under a normal prior of the pair fitted to all."""
    if len(first) < 3:
        return first, first_error, second, second_error
    centre = np.array([first.mean(), second.mean()])
    covariance = np.cov(first, second) - np.diag([first_error.mean(), second_error.mean()])
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values, max(_LEAST_EIGENVALUE * float(values.max()), _LEAST_VARIANCE))
    precision = (vectors / values) @ vectors.T
    one, other, cross = precision[0, 0] + 1.0 / first_error, precision[1, 1] + 1.0 / second_error, precision[0, 1]
    pull = precision @ centre
    to_first, to_second = pull[0] + first / first_error, pull[1] + second / second_error
    determinant = one * other - cross**2
    return (
        (other * to_first - cross * to_second) / determinant,
        other / determinant,
        (one * to_second - cross * to_first) / determinant,
        one / determinant,
    )
