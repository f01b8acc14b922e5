"""Scrub: a few rounds that pull the forgotten records towards what the model would say had it no idea of their class.

The loss is FedQUIT's (Mora et al. 2024) on secure sums: the Kullback-Leibler divergence from the model's own output with the
true class removed. Forgetting rounds are mixed with rounds on what is retained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secure_fu.errors import ArgumentError
from secure_fu.privacy import Phase
from secure_fu.protocol import LocalTask, RoundTerms, SecureSums
from secure_fu.protocol.sums import RandomStream
from secure_fu.training import (
    OnRound,
    Silo,
    TrainingState,
    clipped_gradients,
    no_observer,
    sample_units,
)
from secure_fu.unlearning.guarantee import Guarantee, Heuristic
from secure_fu.unlearning.method import Deletion, UnlearningMethod

__all__ = ["Scrub", "true_class_removed"]


def true_class_removed(logits: Tensor, labels: Tensor) -> Tensor:
    """KL(t || p) per record, p the model's output and t the same output with the true class removed, held fixed.

    Args:
        logits: shape (n, classes).
        labels: true classes, int64, shape (n,).

    Returns:
        shape (n,); 0 where the model gives the true class no weight.
    """
    log_p = torch.log_softmax(logits, dim=1)
    others = logits.detach().scatter(1, labels[:, None], -torch.inf)
    target = torch.softmax(others, dim=1)
    log_target = torch.log_softmax(others, dim=1).scatter(1, labels[:, None], 0.0)
    return (target * (log_target - log_p)).sum(dim=1)


class _ScrubTask:
    def __init__(self, silo: Silo) -> None:
        self._silo = silo

    def contribution(
        self, model: NDArray[np.float32], terms: RoundTerms, stream: RandomStream
    ) -> NDArray[np.float64]:
        silo = self._silo
        retained = silo.retained_records
        forgotten = silo.forgotten_records
        total = np.zeros(len(model))
        if terms.retained_rate > 0.0:
            chosen = retained.subset(sample_units(retained, terms.unit, terms.retained_rate, stream))
            total += clipped_gradients(silo, model, chosen, terms)
        if terms.forgotten_rate > 0.0:
            chosen = forgotten.subset(sample_units(forgotten, terms.unit, terms.forgotten_rate, stream))
            total += clipped_gradients(
                silo,
                model,
                chosen,
                terms,
                loss=true_class_removed,
                normalise=bool(terms.settings["normalise"]),
            )
        return total


@dataclass(frozen=True, kw_only=True)
class Scrub(UnlearningMethod):
    """Forgetting rounds, then rounds on what is retained.

    Attributes:
        length: rounds in all.
        forgetting_rounds: of these, how many forget; they are spread evenly and the last round is one that retains.
        forgotten_rate: sampling rate of forgotten units in a forgetting round.
        rate_factor: the learning rate of forgetting rounds over that of training.
        normalise: scale every forgotten unit's gradient up to the clip norm.
    """

    length: int = 10
    forgetting_rounds: int = 7
    forgotten_rate: float = 0.25
    rate_factor: float = 4.0
    normalise: bool = False

    name: ClassVar[str] = "scrub"
    title: ClassVar[str] = "Scrub"

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ArgumentError("length", self.length, "at least 1 round")
        if not 1 <= self.forgetting_rounds <= self.length:
            raise ArgumentError("forgetting_rounds", self.forgetting_rounds, f"between 1 and length, {self.length}")
        if not 0.0 < self.forgotten_rate <= 1.0:
            raise ArgumentError("forgotten_rate", self.forgotten_rate, "a number in (0, 1]")
        if not 0.0 < self.rate_factor < float("inf"):
            raise ArgumentError("rate_factor", self.rate_factor, "a positive finite number")

    def rounds(self, deletion: Deletion) -> int:
        return self.length

    def start_state(self, deletion: Deletion) -> TrainingState:
        return deletion.original.at_rest()

    def guarantee(self, deletion: Deletion) -> Guarantee:
        return Heuristic(
            f"{self.forgetting_rounds} of {self.length} rounds pull the forgotten records towards the model's own output "
            "without their class"
        )

    def client_tasks(self, silo: Silo) -> Mapping[str, LocalTask]:
        return {self.purpose: _ScrubTask(silo)}

    def run(self, sums: SecureSums, deletion: Deletion, on_round: OnRound = no_observer) -> TrainingState:
        state = self.start_state(deletion)
        for index in range(self.length):
            forgets = index < self.forgetting_rounds
            request = deletion.recipe.request(
                purpose=self.purpose,
                phase=Phase.UNLEARNING,
                model=state.model,
                retained_rate=0.0 if forgets else None,
                forgotten_rate=self.forgotten_rate if forgets else 0.0,
                settings={"normalise": self.normalise},
            )
            released = sums.secure_sum(request)
            state = state.step(released, deletion.recipe, rate_factor=self.rate_factor if forgets else 1.0)
            on_round(state)
        return state
