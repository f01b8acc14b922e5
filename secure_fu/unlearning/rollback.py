"""Rollback: go back to a checkpoint from before the data came, and train on from there without it.

The idea of SIFU (Fraboni et al., AISTATS 2024), with the privacy ledger in place of its sensitivity bound: a checkpoint from
after the data came is certified by what the data's own units had paid up to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from secure_fu.errors import ArgumentError
from secure_fu.training import TrainingState
from secure_fu.unlearning.guarantee import Certified, Exact, Guarantee
from secure_fu.unlearning.method import Deletion
from secure_fu.unlearning.rerun import Rerun

__all__ = ["Rollback"]


@dataclass(frozen=True, kw_only=True)
class Rollback(Rerun):
    """Resume from a checkpoint on a public grid.

    Optimiser state is rolled back with the model. Holds for requests, settings and cohorts that were not chosen after
    looking at later models; otherwise the bound is that of the last model seen.

    Attributes:
        checkpoint_every: the public grid, in rounds; a coarser one tells less about who joined when.
        forget_epsilon: take the latest checkpoint up to which the forgotten units, as a group, had paid at most this; None
            takes the latest from before they took part.
    """

    checkpoint_every: int = 10
    forget_epsilon: float | None = None

    name: ClassVar[str] = "rollback"
    title: ClassVar[str] = "Rollback"

    def __post_init__(self) -> None:
        if self.checkpoint_every < 1:
            raise ArgumentError("checkpoint_every", self.checkpoint_every, "at least 1")
        if self.forget_epsilon is not None and not self.forget_epsilon >= 0.0:
            raise ArgumentError("forget_epsilon", self.forget_epsilon, "a number that is not negative")

    def checkpoint(self, deletion: Deletion) -> int:
        """Number of training rounds behind the checkpoint that a run starts from."""
        untouched = deletion.joined_at // self.checkpoint_every * self.checkpoint_every
        if self.forget_epsilon is None:
            return untouched
        best = untouched
        for rounds in range(untouched, deletion.recipe.rounds + 1, self.checkpoint_every):
            paid = deletion.unit_epsilon(rounds)
            if paid is not None and paid <= self.forget_epsilon:
                best = rounds
        return best

    def rounds(self, deletion: Deletion) -> int:
        return deletion.recipe.rounds - self.checkpoint(deletion)

    def guarantee(self, deletion: Deletion) -> Guarantee:
        checkpoint = self.checkpoint(deletion)
        if checkpoint <= deletion.joined_at:
            return Exact(
                f"it goes back to round {checkpoint}, before the data took part, and trains on without it, with fresh noise"
            )
        return Certified(
            epsilon=deletion.unit_epsilon(checkpoint),
            delta=deletion.delta,
            group_size=deletion.forgotten_units,
            reason=f"it goes back to round {checkpoint}, up to which the ledger charged the forgotten units this much",
            assumptions=("checkpoint, cohort and settings of the re-run were not chosen after seeing later models",),
        )

    def start_state(self, deletion: Deletion) -> TrainingState:
        return deletion.states[self.checkpoint(deletion)]
