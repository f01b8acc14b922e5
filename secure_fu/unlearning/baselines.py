"""What every heuristic has to beat: a few rounds without the data, from the original model or from scratch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from secure_fu.errors import ArgumentError
from secure_fu.unlearning.guarantee import Baseline
from secure_fu.unlearning.method import Deletion
from secure_fu.unlearning.rerun import Rerun, TrainingRounds

__all__ = ["FineTune", "Scratch"]


@dataclass(frozen=True, kw_only=True)
class _FewRounds(TrainingRounds):
    """A fixed number of rounds.

    Attributes:
        length: rounds.

    Raises:
        ArgumentError: fewer than one.
    """

    length: int = 10

    baseline: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ArgumentError("length", self.length, "at least 1 round")

    def training_rounds(self, deletion: Deletion) -> int:
        """The `length` set."""
        return self.length

    def most_rounds(self, trained: int) -> int:
        """The `length` set."""
        return self.length


@dataclass(frozen=True, kw_only=True)
class FineTune(_FewRounds):
    """Train the original model on, without the forgotten data, for `length` rounds."""

    name: ClassVar[str] = "finetune"
    title: ClassVar[str] = "Fine-tuning"

    def guarantee(self, deletion: Deletion) -> Baseline:
        """None: what was learnt from the data stays until other steps wash it out."""
        return Baseline(f"{self.length} more rounds of the original model, without the data")


@dataclass(frozen=True, kw_only=True)
class Scratch(_FewRounds, Rerun):
    """Train from the public start, without the forgotten data, for `length` rounds only."""

    name: ClassVar[str] = "scratch"
    title: ClassVar[str] = "From scratch, few rounds"

    def checkpoint(self, deletion: Deletion) -> int:
        """Always 0, the public start."""
        return 0
