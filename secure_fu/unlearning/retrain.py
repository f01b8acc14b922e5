"""Retraining without the forgotten data: the reference for every other method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from secure_fu.training import TrainingState
from secure_fu.unlearning.guarantee import Exact, Guarantee
from secure_fu.unlearning.method import Deletion
from secure_fu.unlearning.rerun import Rerun

__all__ = ["Retrain"]


@dataclass(frozen=True, kw_only=True)
class Retrain(Rerun):
    """Train again from the public start, for as many rounds; forgotten records are left out by their own clients."""

    name: ClassVar[str] = "retrain"
    title: ClassVar[str] = "Retrained from scratch"

    def rounds(self, deletion: Deletion) -> int:
        return deletion.recipe.rounds

    def guarantee(self, deletion: Deletion) -> Guarantee:
        return Exact("it is trained again without the data, with fresh noise, under the same public settings")

    def start_state(self, deletion: Deletion) -> TrainingState:
        return deletion.states[0]
