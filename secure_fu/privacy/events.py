"""The one event that costs privacy: a noisy secure sum."""

from __future__ import annotations

import math
from dataclasses import dataclass

from secure_fu.errors import ArgumentError
from secure_fu.privacy._checks import positive, positive_integer

__all__ = ["SMALLEST_GRID_RATIO", "GaussianSumEvent"]

# The bounds of secure_fu.privacy.discretisation hold from here on; the project's grids are finer by orders of
# magnitude.
SMALLEST_GRID_RATIO = 2.0


@dataclass(frozen=True, kw_only=True)
class GaussianSumEvent:
    """One noisy secure sum, as one unit of privacy sees it. Immutable and hashable; equal events cost the same.

    Args:
        noise_multiplier: standard deviation of the assured noise over the unit's L2 sensitivity (rounding included).
        sampling_rate: probability with which the unit is in the sum, drawn secretly and independently (Poisson). 1.0
            means that it is always in it, or that who is in it can be seen: no amplification.
        grid_ratio: standard deviation of the whole assured noise over the grid step, at least 2.
        dimension: number of coordinates of the sum.
        shares: number of independent discrete Gaussians of equal variance that make up the assured noise.

    Raises:
        ArgumentError: a value is outside its domain.
    """

    noise_multiplier: float
    sampling_rate: float
    grid_ratio: float
    dimension: int
    shares: int

    def __post_init__(self) -> None:
        # Plain Python numbers: an event reads back from the ledger as what was written, whatever the caller passed.
        object.__setattr__(self, "noise_multiplier", positive("noise_multiplier", self.noise_multiplier))
        rate = positive("sampling_rate", self.sampling_rate)
        if rate > 1.0:
            raise ArgumentError("sampling_rate", self.sampling_rate, "a probability above 0 and at most 1")
        object.__setattr__(self, "sampling_rate", rate)
        ratio = positive("grid_ratio", self.grid_ratio)
        if ratio < SMALLEST_GRID_RATIO:
            raise ArgumentError(
                "grid_ratio", self.grid_ratio, f"noise of at least {SMALLEST_GRID_RATIO} grid steps; use a finer grid"
            )
        object.__setattr__(self, "grid_ratio", ratio)
        object.__setattr__(self, "dimension", positive_integer("dimension", self.dimension))
        object.__setattr__(self, "shares", positive_integer("shares", self.shares))

    @property
    def effective_noise_multiplier(self) -> float:
        """The noise multiplier of the rounded Gaussian that is charged: variance s^2 - 1/12 in place of s^2."""
        return self.noise_multiplier * math.sqrt(1.0 - 1.0 / (12.0 * self.grid_ratio**2))
