"""Each client's share of the noise of a secure sum."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from secure_fu.discrete_gaussian import MAX_SIGMA_SQUARED, RandomStream, sample_discrete_gaussian, tail_bound
from secure_fu.errors import ArgumentError
from secure_fu.privacy._checks import positive, positive_integer

__all__ = ["NoiseShare", "assured_clients"]

_MIN_SHARE_VARIANCE = 8


def assured_clients(minimum_cohort: int, colluders: int) -> int:
    """Number of clients whose noise is certain to be in every released sum.

    Args:
        minimum_cohort: fewest clients of which a sum may be opened.
        colluders: clients that may reveal or leave out their noise.

    Returns:
        minimum_cohort - colluders.

    Raises:
        ArgumentError: `colluders` is negative, or fewer than 2 clients remain (a sum with one honest contributor is
            that contributor, plus its own share only).
    """
    if colluders < 0:
        raise ArgumentError("colluders", colluders, "a number of clients, at least 0")
    if minimum_cohort - colluders < 2:
        raise ArgumentError("minimum_cohort", minimum_cohort, f"at least {colluders + 2}, that is colluders + 2")
    return minimum_cohort - colluders


@dataclass(frozen=True, kw_only=True)
class NoiseShare:
    """The law of the noise that every client adds to its integers before encrypting: public parameters, no noise.

    Attributes:
        noise_multiplier: z, standard deviation of the assured noise over `sensitivity`.
        sensitivity: L2 bound on one unit's effect on the sum, in the vector's units (:attr:`Grid.sensitivity`).
        step: grid step, in the vector's units.
        assured: number of clients whose noise is certain to be in the sum, at least 2.

    Raises:
        ArgumentError: a field is out of its domain; the share would have a variance below 8 steps**2 or a standard
            deviation above 2**40 steps.

    Formal Guarantees:
        Each share is N_Z(0, sigma**2) per coordinate, in steps, independently, with the exact rational
        sigma**2 = (z sensitivity / step)**2 / assured: float64 numbers are rationals, and nothing is rounded, so the
        noise is neither smaller nor larger than accounted. Any `assured` of the shares, whatever else is in the sum,
        add up to noise Z with the following property. With tau = 10 sum_{k=1}^{assured-1} exp(-2 pi**2 sigma**2 k / (k
        + 1)), the probabilities of Z and of N_Z(0, assured sigma**2) differ by a factor of at most exp(tau) per
        coordinate (Kairouz, Liu, Steinke 2021, "The Distributed Discrete Gaussian Mechanism", arXiv 2102.06387, theorem
        1). For sigma**2 >= 8 and assured <= 10**6, tau < 10**-33, and d tau < 10**-24 up to a thousand million
        coordinates. The accounting charges N_Z(0, assured sigma**2) as a rounded Gaussian of slightly smaller variance
        plus a total-variation term, from `total_grid_ratio`.

        More shares than `assured` only add noise that is independent of everything else: post-processing.
    """

    noise_multiplier: float
    sensitivity: float
    step: float
    assured: int

    def __post_init__(self) -> None:
        positive("noise_multiplier", self.noise_multiplier)
        positive("sensitivity", self.sensitivity)
        positive("step", self.step)
        if positive_integer("assured", self.assured) < 2:
            raise ArgumentError("assured", self.assured, "at least 2 clients")
        if self.sigma_squared < _MIN_SHARE_VARIANCE:
            largest = self.noise_multiplier * self.sensitivity / math.sqrt(_MIN_SHARE_VARIANCE * self.assured)
            raise ArgumentError("step", self.step, f"at most {largest:.3g}, or a share has a variance below 8 steps**2")
        if self.sigma_squared > MAX_SIGMA_SQUARED:
            raise ArgumentError(
                "step", self.step, "larger, so that a share has a standard deviation of at most 2**40 steps"
            )

    @property
    def sigma_squared(self) -> Fraction:
        """Variance parameter of one client's share, in steps squared; exact."""
        return self._total_ratio() ** 2 / self.assured

    @property
    def total_grid_ratio(self) -> float:
        """Standard deviation of the assured noise in steps, z sensitivity / step, rounded down to a float64."""
        exact = self._total_ratio()
        nearest = float(exact)
        return nearest if Fraction(nearest) <= exact else math.nextafter(nearest, 0.0)

    def sample(self, size: int, *, stream: RandomStream) -> NDArray[np.int64]:
        """Draws one client's share for one release.

        Args:
            size: number of coordinates.
            stream: fresh stream; the same stream must never serve two releases.

        Returns:
            Shape (size,), int64, in steps. Secret.

        Raises:
            ArgumentError: `size` is negative.
        """
        return sample_discrete_gaussian(self.sigma_squared, size, stream=stream)

    def tail_bound(self, size: int, *, log2_probability: float) -> int:
        """Integer that one share of `size` coordinates exceeds with probability at most 2**log2_probability, in steps.

        Raises:
            ArgumentError: an argument is out of its domain.
        """
        return tail_bound(self.sigma_squared, size, log2_probability=log2_probability)

    def sum_tail_bound(self, clients: int, size: int, *, log2_probability: float) -> int:
        """The same for the sum of the shares of `clients` clients.

        Raises:
            ArgumentError: an argument is out of its domain.
        """
        return tail_bound(
            positive_integer("clients", clients) * self.sigma_squared, size, log2_probability=log2_probability
        )

    def _total_ratio(self) -> Fraction:
        return Fraction(self.noise_multiplier) * Fraction(self.sensitivity) / Fraction(self.step)
