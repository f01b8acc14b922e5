"""Rounds in which the retained data trains on while forgotten units contribute what a method makes of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from numpy.typing import NDArray

from secure_fu.errors import ArgumentError
from secure_fu.learning import Loss, client_update
from secure_fu.privacy import Phase, Unit
from secure_fu.protocol import RoundTerms, SecureSums
from secure_fu.protocol.sums import RandomStream
from secure_fu.training import (
    OnRound,
    Recipe,
    Silo,
    TrainingState,
    TrainingTask,
    no_observer,
    sample_units,
)
from secure_fu.training.local_updates import local_training
from secure_fu.training.tasks import check_client_rates
from secure_fu.unlearning.guarantee import Heuristic
from secure_fu.unlearning.method import Deletion, Outcome, PlannedRounds, UnlearningMethod

__all__ = ["JointRounds", "JointTask"]


class JointTask(ABC):
    """A client's code for a joint round: the training step of retained units plus what forgotten units contribute.

    Formal guarantees:
        Every unit contributes once, with L2 norm at most the clip norm, given that the subclass bounds what it adds and
        that whole units are forgotten: all records of a group, and of a client for the client unit. Retained units
        enter at the retained rate and forgotten ones at the forgotten rate; none enters at a rate of 0.

    Args:
        silo: the client's private side.
    """

    def __init__(self, silo: Silo) -> None:
        self._silo = silo
        self._retained = TrainingTask(silo)

    @final
    def contribution(self, model: NDArray[np.float32], terms: RoundTerms, stream: RandomStream) -> NDArray[np.float64]:
        """See :class:`~secure_fu.protocol.LocalTask`.

        Raises:
            ArgumentError: a rate that the unit cannot have, or a model of another length.
            DataError: no group column for the group unit.
        """
        silo = self._silo
        check_client_rates(terms)
        if model.shape != (silo.model.dimension,):
            raise ArgumentError("model", f"of shape {model.shape}", f"shape ({silo.model.dimension},)")
        if terms.unit is Unit.CLIENT:
            if not silo.leaves:
                return self._retained.contribution(model, terms, stream)
            return np.zeros(len(model)) if terms.forgotten_rate == 0.0 else self._of_client(model, terms)
        total = self._retained.contribution(model, terms, stream)
        sampled = sample_units(silo.records, terms.unit, terms.forgotten_rate, stream) & silo.forgotten
        return total + self._of_units(sampled, model, terms)

    def _descent(self, loss: Loss, model: NDArray[np.float32], terms: RoundTerms) -> NDArray[np.float64]:
        """Minus the clipped change that local training of a client that leaves makes of the model, shape (d,).

        It points uphill, as gradients do: the server goes the other way.
        """
        return -client_update(
            self._silo.model,
            model.astype(np.float64),
            self._silo.forgotten_records,
            training=local_training(terms),
            clip_norm=terms.clip_norm,
            seed=terms.round_number,
            loss=loss,
        )

    @abstractmethod
    def _of_units(
        self, sampled: NDArray[np.bool_], model: NDArray[np.float32], terms: RoundTerms
    ) -> NDArray[np.float64]:
        """Sum over the forgotten records or groups in `sampled` (n,) of contributions of norm at most the clip norm."""

    @abstractmethod
    def _of_client(self, model: NDArray[np.float32], terms: RoundTerms) -> NDArray[np.float64]:
        """Contribution, of norm at most the clip norm, of a client that leaves, for the client unit."""


@dataclass(frozen=True, kw_only=True)
class JointRounds(UnlearningMethod):
    """A few rounds from the original model, its optimiser at rest; in each, one sum holds both kinds of contributions.

    Both in one sum: its noise is paid for once, and what is retained holds the model while the rest is pulled out.
    Unless a method says otherwise, forgotten units are sampled at the rate of training in all of them, so that a round
    costs them what a training round costs.

    Attributes:
        length: rounds.
        rate_factor: the learning rate over that of training.

    Raises:
        ArgumentError: a setting is out of its domain.
    """

    length: int = 10
    rate_factor: float = 1.0

    what: ClassVar[str]
    """What the rounds do, as the end of a sentence that begins with their number."""

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ArgumentError("length", self.length, "at least 1 round")
        if not 0.0 < self.rate_factor < float("inf"):
            raise ArgumentError("rate_factor", self.rate_factor, "a positive finite number")

    def forgotten_rate(self, recipe: Recipe) -> float:
        """Sampling rate of forgotten units, in (0, 1]; 1 for the client unit."""
        return recipe.sampling_rate

    @final
    def plan(self, deletion: Deletion) -> tuple[PlannedRounds, ...]:
        """`length` rounds that both kinds of units enter."""
        return (PlannedRounds.of(deletion, self.length, forgotten_rate=self.forgotten_rate(deletion.recipe)),)

    @final
    def most_rounds(self, trained: int) -> int:
        """The `length` set."""
        return self.length

    @final
    def start_state(self, deletion: Deletion) -> TrainingState:
        """The original model, its optimiser at rest."""
        return deletion.original.at_rest()

    @final
    def guarantee(self, deletion: Deletion) -> Heuristic:
        """No more than what the rounds do, in words."""
        return Heuristic(f"{self.length} rounds {self.what}")

    @final
    def run(self, sums: SecureSums, deletion: Deletion, on_round: OnRound = no_observer) -> Outcome:
        """See :meth:`UnlearningMethod.run`."""
        recipe, state = deletion.recipe, self.start_state(deletion)
        for _ in range(self.length):
            request = recipe.request(
                purpose=self.purpose,
                phase=Phase.UNLEARNING,
                model=state.model,
                forgotten_rate=self.forgotten_rate(recipe),
            )
            state = state.step(sums.secure_sum(request), recipe, rate_factor=self.rate_factor, training=False)
            on_round(state)
        return Outcome(state=state, guarantee=self.guarantee(deletion))
