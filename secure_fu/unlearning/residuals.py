"""What a measured gradient proves of a model: how far it is from the minimiser, and what noise then certifies.

The objective without the forgotten data, L(w) = (1 / nominal units) sum of losses + weight decay / 2 |w|^2, is
strongly convex with the weight decay, so that a model w is at most |grad L(w)| / weight decay from its minimiser. The
gradient is measured at w by a secure sum, which adds noise of known law: an upper bound on its norm holds but for a
stated probability of failure, and it counts whatever error a Hessian or an earlier sum has left, because it is
measured afterwards. The model is then published with noise of fixed covariance.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri

from secure_fu.errors import GuaranteeError, MethodRefused
from secure_fu.learning import LinearHead
from secure_fu.privacy import (
    Grid,
    Unit,
    composed_shift,
    largest_shift,
    noised_model_epsilon,
    output_step,
    residual_upper_bound,
)
from secure_fu.protocol import ReleasedSum
from secure_fu.unlearning.guarantee import CertifiedModel
from secure_fu.unlearning.method import Deletion, PlannedRounds

__all__ = ["OutputNoise", "ResidualBound", "obstacle_to_bound"]

FAILURE_SHARE: Final = 1 / 20
"""Of delta: the probability, for each published model, that the bound on its residual is too small."""

_ROUNDING: Final = 1.02  # what rounding to the grid of the output noise adds to a shift, at most, and a little
_LEAST_SHARE: Final = 0.1
_EXCESS: Final = 1e-6  # probability with which a run comes out above what was planned, and ends in an error
_HOPELESS: Final = 1e3


def obstacle_to_bound(deletion: Deletion) -> str | None:
    """Why a measured sum would not be the gradient of a strongly convex objective; None if it is."""
    recipe, head = deletion.recipe, deletion.model.module
    if not isinstance(head, LinearHead):
        return f"the model is a {type(head).__name__}; a LinearHead is convex"
    if recipe.unit is not Unit.RECORD:
        return f"the unit is the {recipe.unit.value}, whose contributions are clipped; records' need not be"
    if recipe.weight_decay == 0.0:
        return "weight_decay is 0; above 0 the objective is strongly convex"
    if recipe.sampling_rate != 1.0:
        return f"sampling_rate is {recipe.sampling_rate:g}; at 1 a sum is the gradient itself"
    if recipe.clip_norm < head.gradient_bound:
        return f"clip_norm is {recipe.clip_norm:g}; from {head.gradient_bound!r} on it never acts"
    largest = head.coordinate_bound * recipe.nominal_units
    if recipe.saturation < largest:
        return f"saturation is {recipe.saturation:g}; from {largest!r}, nominal_units times the bound, it never acts"
    return None


# A search for a maximum; the same one for a promise, for a run's own check and for its noise.
_upper_bound: Final = functools.lru_cache(maxsize=64)(residual_upper_bound)


@dataclass(frozen=True, kw_only=True)
class ResidualBound:
    """From a noisy sum of gradients to a bound on the distance from the minimiser.

    Attributes:
        deletion: whose :func:`obstacle_to_bound` is None.
        rounds: the terms of the measuring round.
        failure: probability with which a bound may be too small.
    """

    deletion: Deletion
    rounds: PlannedRounds
    failure: float

    def distance(self, released: ReleasedSum, model: NDArray[np.float64]) -> float:
        """Bound on the distance of a model (d,) from the minimiser over the retained records of who is in the sum.

        Args:
            released: sum of gradients at that model.
        """
        recipe = self.deletion.recipe
        # In units of the sum: the L2 term's gradient is known.
        measured = released.values + recipe.nominal_units * recipe.weight_decay * model
        return self._distance(float(np.linalg.norm(measured)), len(released.participants))

    def planned_distance(self, averaged: int) -> float:
        """What :meth:`distance` will hardly exceed after steps that average the noise of so many gradients; public."""
        shares, dimension = self.deletion.cohort, self.rounds.length
        sigma = self._sigma(shares)
        # The residual is the averaged noise of the steps, a tenth more for what Newton's steps leave; on top comes the
        # measurement's own noise. Its square is a chi-square variable, whose tail is heavy in few dimensions.
        relative = 1.1**2 / averaged
        square = (1.0 + relative) * float(chdtri(dimension, _EXCESS))
        return self._distance(sigma * math.sqrt(square), shares)

    def noise_norm(self, released: ReleasedSum) -> float:
        """About the norm of the noise in a sum, in its units."""
        return self._sigma(len(released.participants)) * math.sqrt(self.rounds.length)

    def _distance(self, measured: float, shares: int) -> float:
        recipe, grid = self.deletion.recipe, self._grid
        bound = _upper_bound(
            measured,
            dimension=self.rounds.length,
            sigma_low=self._sigma(self.deletion.assured),
            sigma_high=self._sigma(shares),
            step=grid.step,
            shares=shares,
            rounding=shares * grid.step * math.sqrt(self.rounds.length) / 2.0,
            failure=self.failure,
        )
        return bound / (recipe.nominal_units * recipe.weight_decay)

    def _sigma(self, shares: int) -> float:
        """Standard deviation of a coordinate's noise if so many shares are in the sum."""
        assured = self.rounds.noise_multiplier * self._grid.sensitivity
        return assured * math.sqrt(max(shares, self.deletion.assured) / self.deletion.assured)

    @property
    def _grid(self) -> Grid:
        rounds = self.rounds
        return Grid.fine(rounds.clip_norm, rounds.length, rounds.saturation, self.deletion.recipe.unit)


@dataclass(frozen=True, kw_only=True)
class OutputNoise:
    """Noise of a size fixed beforehand, and what it certifies together with the models published before.

    Formal guarantees:
        Given the sums and the request, a model at most `shift` from the minimiser without the data and that minimiser,
        both published with this noise, are (epsilon, delta)-close (Balle and Wang 2018). Models published earlier with
        a residual of their own add up: shifts in standard deviations compose by the root of the sum of squares,
        whatever later requests were chosen by (Dong, Roth and Su 2022). Each takes its probability of failure out of
        delta.

    Attributes:
        sigma: standard deviation of each coordinate.
        step: of its grid.
        epsilon: not to be exceeded, by this model and those before together.
        limit: largest shift, by this model's share of epsilon.
    """

    deletion: Deletion
    epsilon: float
    sigma: float
    step: float
    limit: float

    @classmethod
    def failure(cls, deletion: Deletion) -> float:
        """Probability with which the bound of one model may be too small."""
        return FAILURE_SHARE * deletion.delta

    @classmethod
    def planned(cls, deletion: Deletion, *, epsilon: float, sigma: float, shift: float, deletions: int) -> OutputNoise:
        """Fixed by public figures alone.

        Args:
            epsilon: that is not to be exceeded, by this model and the certified ones before it together.
            sigma: 0 for what `shift` needs.
            shift: that is expected.
            deletions: that are to share epsilon.

        Raises:
            MethodRefused: those before have used epsilon up.
        """
        remaining = cls._remaining_delta(deletion)
        whole = largest_shift(1.0, epsilon, remaining) / _ROUNDING if remaining > 0.0 else 0.0
        used = composed_shift(*cls._before(deletion)) if cls._before(deletion) else 0.0
        left = math.sqrt(max(0.0, whole**2 - used**2))
        if left <= _LEAST_SHARE * whole:
            raise MethodRefused(
                f"forget_epsilon is {epsilon:g}, which {len(cls._before(deletion))} certified deletions before this "
                "one have used up; expected a larger one, more output_noise from the first of them on, or retraining"
            )
        ratio = min(left, whole / math.sqrt(deletions))
        chosen = sigma if sigma > 0.0 else shift / ratio
        return cls(
            deletion=deletion,
            epsilon=epsilon,
            sigma=chosen,
            step=output_step(chosen * ratio, deletion.model.dimension),
            limit=chosen * ratio,
        )

    def certificate(self, shift: float, reason: str, assumptions: tuple[str, ...]) -> CertifiedModel:
        """What a model published with this noise can claim.

        Raises:
            GuaranteeError: less than was asked for.
        """
        deletion = self.deletion
        earlier = [self.sigma * ratio for ratio in self._before(deletion)]
        found = math.inf
        if shift <= _HOPELESS * self.sigma:
            found = noised_model_epsilon(
                shift,
                *earlier,
                sigma=self.sigma,
                step=self.step,
                dimension=deletion.model.dimension,
                delta=self._remaining_delta(deletion),
            )
        if not (shift <= self.limit and found <= self.epsilon):
            raise GuaranteeError(
                f"a model within {shift:.3g} of the minimiser without the data comes, with noise {self.sigma:.3g}, to "
                f"epsilon {found:.3g}; expected it within {self.limit:.3g}, this deletion's share of forget_epsilon "
                f"{self.epsilon:g}: take more steps, less noise in the sums or more output_noise, or retrain"
            )
        return CertifiedModel(
            epsilon=found,
            delta=deletion.delta,
            group_size=deletion.forgotten_units,
            reason=reason,
            assumptions=assumptions,
            shift=shift,
            output_noise=self.sigma,
        )

    @staticmethod
    def _before(deletion: Deletion) -> tuple[float, ...]:
        """Shifts of the models certified before, in standard deviations of their own noise."""
        return tuple(
            guarantee.shift / guarantee.output_noise
            for guarantee in deletion.earlier
            if isinstance(guarantee, CertifiedModel)
        )

    @classmethod
    def _remaining_delta(cls, deletion: Deletion) -> float:
        return deletion.delta - (1 + len(cls._before(deletion))) * cls.failure(deletion)
