"""A method that another distribution brings: a module and a `.dist-info` in a folder, as installing it leaves them."""

from __future__ import annotations

from pathlib import Path

DECAY = '''
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import ClassVar

import numpy as np

from secure_fu.unlearning import Heuristic, TrainingRounds


class Towards(StrEnum):
    START = "start"
    ZERO = "zero"


@dataclass(frozen=True, kw_only=True)
class Decay(TrainingRounds):
    """Shrink the model, then train on without the data."""

    length: int = 1
    decay: float = 0.5
    careful: bool = True
    towards: Towards = Towards.START

    name: ClassVar[str] = "decay"
    title: ClassVar[str] = "Weight decay"

    def training_rounds(self, deletion):
        return self.length

    def most_rounds(self, trained):
        return self.length

    def start_state(self, deletion):
        original, start = deletion.original, deletion.checkpoints.load(0)
        weights = original.model.vector.astype(np.float64)
        goal = start.model.vector if self.towards is Towards.START else np.zeros(len(weights))
        mixed = (1.0 - self.decay) * weights + self.decay * goal
        return replace(original.at_rest(), model=original.model.derived(mixed, start.model))

    def guarantee(self, deletion):
        return Heuristic("the model is shrunk, which weakens all that it had learnt")
'''
DECAY_SETTINGS = {"length": 1, "decay": 0.5, "careful": True, "towards": "start"}


def install(
    site: Path,
    *,
    source: str = DECAY,
    name: str = "decay",
    module: str = "methods_of_others",
    value: str = "Decay",
    distribution: str = "decay-methods",
) -> Path:
    """Put a distribution into a folder that is on the path, or will be."""
    site.mkdir(parents=True, exist_ok=True)
    (site / f"{module}.py").write_text(source)
    info = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[secure_fu.methods]\n{name} = {module}:{value}\n")
    return site
