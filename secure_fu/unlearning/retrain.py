"""Retraining without the forgotten data: the reference for every other method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from secure_fu.unlearning.method import Deletion
from secure_fu.unlearning.rerun import Rerun

__all__ = ["Retrain"]


@dataclass(frozen=True, kw_only=True)
class Retrain(Rerun):
    """Train again from the public start, for as many rounds; forgotten records are left out by their own clients."""

    name: ClassVar[str] = "retrain"
    title: ClassVar[str] = "Retrained from scratch"

    def training_rounds(self, deletion: Deletion) -> int:
        """As many as training took so far."""
        return deletion.rounds

    def checkpoint(self, deletion: Deletion) -> int:
        """Always 0, the public start."""
        return 0
