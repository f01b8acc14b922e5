"""The public settings of federated training, and the server's step from one released sum to the next model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from secure_fu.errors import ArgumentError, NonFiniteError
from secure_fu.privacy import Phase, Unit
from secure_fu.protocol import ReleasedModel, ReleasedSum, SumRequest
from secure_fu.protocol.header import Settings

__all__ = ["Recipe", "TrainingState"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained; public, and independent of any client's data.

    Attributes:
        unit: privacy unit. Records and groups: distributed DP-SGD, one sum of clipped gradients a round (Abadi et al.
            2016). Clients: DP-FedAvg, one clipped model update a client and round (McMahan et al. 2018).
        rounds: of a full training.
        learning_rate: of the server's step.
        momentum: of the server's step, in [0, 1).
        clip_norm: L2 bound on one unit's contribution.
        noise_multiplier: standard deviation of the assured noise over the unit's sensitivity.
        sampling_rate: probability with which a silo samples each of its units; 1 for the client unit.
        nominal_units: public constant that the sum is divided by, after multiplying with the sampling rate: the
            number of units that the federation is designed for, never a private count.
        saturation: bound on each coordinate of one client's contribution.
        weight_decay: lambda of the L2 term lambda / 2 |w|^2, which the server's step adds; 0 for none.
        local: settings of the clients' local training, for the client unit: `epochs`, `batch_size`, `learning_rate`.

    Raises:
        ArgumentError: a field is out of its domain.
    """

    unit: Unit
    rounds: int
    learning_rate: float
    momentum: float
    clip_norm: float
    noise_multiplier: float
    sampling_rate: float
    nominal_units: int
    saturation: float
    weight_decay: float = 0.0
    local: Settings = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("learning_rate", "clip_norm", "noise_multiplier", "saturation"):
            value = getattr(self, name)
            if not 0.0 < value < float("inf"):
                raise ArgumentError(name, value, "a positive finite number")
        for name in ("rounds", "nominal_units"):
            if getattr(self, name) < 1:
                raise ArgumentError(name, getattr(self, name), "at least 1")
        if not 0.0 <= self.momentum < 1.0:
            raise ArgumentError("momentum", self.momentum, "a number in [0, 1)")
        if not 0.0 < self.sampling_rate <= 1.0:
            raise ArgumentError("sampling_rate", self.sampling_rate, "a number in (0, 1]")
        if self.unit is Unit.CLIENT and self.sampling_rate != 1.0:
            raise ArgumentError(
                "sampling_rate", self.sampling_rate, "1 for the client unit, whose participation is public"
            )
        if not 0.0 <= self.weight_decay < float("inf"):
            raise ArgumentError("weight_decay", self.weight_decay, "a finite number that is not negative")
        if self.saturation < self.clip_norm:
            raise ArgumentError("saturation", self.saturation, f"at least the clip norm {self.clip_norm!r}")

    def request(
        self,
        *,
        purpose: str,
        phase: Phase,
        model: ReleasedModel,
        forgotten_rate: float,
        retained_rate: float | None = None,
        settings: Mapping[str, float | int | str | bool] | None = None,
    ) -> SumRequest:
        """One round's request under this recipe.

        Args:
            forgotten_rate: 0 where forgotten units do not enter.
            retained_rate: the recipe's sampling rate unless given.
        """
        return SumRequest(
            purpose=purpose,
            phase=phase,
            model=model,
            unit=self.unit,
            clip_norm=self.clip_norm,
            saturation=self.saturation,
            noise_multiplier=self.noise_multiplier,
            retained_rate=self.sampling_rate if retained_rate is None else retained_rate,
            forgotten_rate=forgotten_rate,
            settings={**self.local, **(settings or {})},
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingState:
    """Everything that the server carries from one round to the next; a function of released sums.

    Attributes:
        model: after `rounds` rounds.
        velocity: momentum buffer, shape (d,), float64.
        rounds: rounds of training behind it. Those in which data was forgotten do not count.
        last_round: number of the round that the newest release came from; -1 before the first.
    """

    model: ReleasedModel
    velocity: NDArray[np.float64]
    rounds: int
    last_round: int = -1

    @classmethod
    def initial(cls, model: ReleasedModel) -> TrainingState:
        """Before the first round."""
        return cls(model=model, velocity=np.zeros(model.dimension), rounds=0)

    def at_rest(self) -> TrainingState:
        """The same model with the momentum buffer emptied."""
        return replace(self, velocity=np.zeros_like(self.velocity))

    def step(
        self, released: ReleasedSum, recipe: Recipe, *, rate_factor: float = 1.0, training: bool = True
    ) -> TrainingState:
        """Descend along one released sum: v <- momentum v + mean + weight_decay w; w <- w - learning_rate v.

        The mean is sum / (rate * nominal units).

        Args:
            released: sum of clipped gradients, or of negative clipped updates.
            rate_factor: multiplies the learning rate.
            training: whether this counts as a round of training.

        Raises:
            NonFiniteError: training diverged.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            mean = released.values / (recipe.sampling_rate * recipe.nominal_units)
            vector = self.model.vector.astype(np.float64)
            velocity = recipe.momentum * self.velocity + mean + recipe.weight_decay * vector
            moved = vector - rate_factor * recipe.learning_rate * velocity
            finite = bool(np.isfinite(moved.astype(np.float32)).all())
        if not finite:
            raise NonFiniteError(
                f"the model left the finite numbers in round {released.round_number}: training diverged; "
                f"expected a learning rate below {rate_factor * recipe.learning_rate!r}"
            )
        return TrainingState(
            model=self.model.derived(moved, released),
            velocity=velocity,
            rounds=self.rounds + training,
            last_round=released.round_number,
        )
