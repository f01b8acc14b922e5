"""Rollback: go back to a checkpoint from before the data came, and train on from there without it.

The idea of SIFU (Fraboni et al., AISTATS 2024), with the privacy ledger in place of its sensitivity bound: a
checkpoint from after the data came is certified by what the data's own units had paid up to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from secure_fu.errors import ArgumentError
from secure_fu.unlearning.method import Deletion
from secure_fu.unlearning.rerun import Rerun

__all__ = ["Rollback"]


@dataclass(frozen=True, kw_only=True)
class Rollback(Rerun):
    """Resume from a checkpoint of the public grid that the server keeps, with the optimiser state of then.

    Attributes:
        forget_epsilon: take the latest checkpoint up to which the forgotten units, as a group, had paid at most this;
            0 takes the latest from before they took part.

    Raises:
        ArgumentError: a setting is out of its domain.
    """

    forget_epsilon: float = 0.0

    name: ClassVar[str] = "rollback"
    title: ClassVar[str] = "Rollback"

    def __post_init__(self) -> None:
        if not 0.0 <= self.forget_epsilon < float("inf"):
            raise ArgumentError("forget_epsilon", self.forget_epsilon, "a finite number that is not negative")

    def training_rounds(self, deletion: Deletion) -> int:
        """Those of training that came after the checkpoint."""
        return deletion.rounds - self.checkpoint(deletion)

    def checkpoint(self, deletion: Deletion) -> int:
        """The latest that will do; see the class."""
        return max(rounds for rounds in deletion.checkpoints.rounds if self._will_do(rounds, deletion))

    def _will_do(self, rounds: int, deletion: Deletion) -> bool:
        if rounds <= deletion.joined_at:
            return True
        paid = deletion.unit_epsilon(rounds)
        return paid is not None and paid <= self.forget_epsilon
