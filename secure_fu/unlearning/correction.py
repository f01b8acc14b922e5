"""Correction: take back, in a few rounds, what each forgotten unit has contributed, while the others train on.

After PUF (Nguyen et al. 2025) and FedRecovery (Zhang et al. 2023), with each unit's own history clipped, so that the release
is differentially private in that unit; clipping a client's whole history would not be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from secure_fu.errors import ArgumentError
from secure_fu.learning import Records
from secure_fu.privacy import Phase, Unit, clip_l2
from secure_fu.protocol import LocalTask, RoundTerms, SecureSums
from secure_fu.protocol.sums import RandomStream
from secure_fu.training import (
    OnRound,
    Silo,
    TrainingState,
    TrainingTask,
    clipped_gradients,
    no_observer,
    sample_units,
)
from secure_fu.unlearning.guarantee import Guarantee, Heuristic
from secure_fu.unlearning.method import Deletion, UnlearningMethod

__all__ = ["Correction"]


class _CorrectionTask:
    def __init__(self, silo: Silo) -> None:
        self._silo = silo
        self._recovery = TrainingTask(silo)

    def contribution(
        self, model: NDArray[np.float32], terms: RoundTerms, stream: RandomStream
    ) -> NDArray[np.float64]:
        silo = self._silo
        if terms.unit is Unit.CLIENT:
            if silo.leaves and silo.own_updates is not None:
                return clip_l2(silo.own_updates, terms.clip_norm)
            return self._recovery.contribution(model, terms, stream)
        total = self._recovery.contribution(model, terms, stream)
        sampled = sample_units(silo.records, terms.unit, terms.forgotten_rate, stream) & silo.forgotten
        for unit in _units(silo.records, sampled, terms.unit):
            total -= clip_l2(self._history(unit, terms), terms.clip_norm)
        return total

    def _history(self, unit: NDArray[np.bool_], terms: RoundTerms) -> NDArray[np.float64]:
        """Sum of what one unit contributed to training, recomputed from the models that it was contributed to."""
        silo = self._silo
        total = np.zeros(silo.model.dimension)
        for entry in silo.history:
            part = entry.sampled & unit
            if part.any():
                total += clipped_gradients(silo, entry.model, silo.records.subset(part), terms)
        return total


def _units(records: Records, sampled: NDArray[np.bool_], unit: Unit) -> list[NDArray[np.bool_]]:
    """One mask for each sampled unit."""
    if unit is Unit.GROUP and records.groups is not None:
        return [sampled & (records.groups == group) for group in np.unique(records.groups[sampled])]
    return [np.arange(len(records)) == position for position in np.flatnonzero(sampled)]


@dataclass(frozen=True, kw_only=True)
class Correction(UnlearningMethod):
    """Minus each forgotten unit's own clipped history, and the others' training step, in the same rounds.

    Attributes:
        length: rounds.
        rate_factor: the learning rate over that of training.
    """

    length: int = 10
    rate_factor: float = 1.0

    name: ClassVar[str] = "correction"
    title: ClassVar[str] = "Correction"

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ArgumentError("length", self.length, "at least 1 round")
        if not 0.0 < self.rate_factor < float("inf"):
            raise ArgumentError("rate_factor", self.rate_factor, "a positive finite number")

    def rounds(self, deletion: Deletion) -> int:
        return self.length

    def start_state(self, deletion: Deletion) -> TrainingState:
        return deletion.original.at_rest()

    def guarantee(self, deletion: Deletion) -> Guarantee:
        return Heuristic(f"{self.length} rounds take back each forgotten unit's own clipped history while the others train")

    def client_tasks(self, silo: Silo) -> Mapping[str, LocalTask]:
        return {self.purpose: _CorrectionTask(silo)}

    def run(self, sums: SecureSums, deletion: Deletion, on_round: OnRound = no_observer) -> TrainingState:
        state = self.start_state(deletion)
        for _ in range(self.length):
            request = deletion.recipe.request(
                purpose=self.purpose,
                phase=Phase.UNLEARNING,
                model=state.model,
                forgotten_rate=deletion.recipe.sampling_rate,
            )
            state = state.step(sums.secure_sum(request), deletion.recipe, rate_factor=self.rate_factor)
            on_round(state)
        return state
