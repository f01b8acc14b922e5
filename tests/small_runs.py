"""Small runs of the default preset, how to read what they leave, and a progress that may interrupt them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from secure_fu.config import SimulationConfig
from secure_fu.config_file import load_preset, with_overrides

METHODS = ("rollback", "scrub", "correction", "finetune", "scratch")
ROUNDS = {"original": 4, "retrained": 4, "rollback": 2, "scrub": 3, "correction": 2, "finetune": 1, "scratch": 2}
FULL = (
    "seed=5",
    "data.records=400",
    "training.rounds=4",
    "deletion.joined_at=2",
    "training.checkpoint_every=2",
    "unlearning.settings.scrub.length=3",
    "unlearning.settings.correction.length=2",
    "unlearning.settings.finetune.length=1",
    "unlearning.settings.scratch.length=2",
)
SMALL = (
    "seed=5",
    "data.records=120",
    "data.clients=4",
    "model.kind=logistic",
    "training.rounds=2",
    "protocol.minimum_cohort=3",
    "deletion.joined_at=0",
    "unlearning.methods=[]",
)


def configured(*settings: str) -> SimulationConfig:
    return with_overrides(load_preset("digits-silos"), settings)


def small(*settings: str) -> SimulationConfig:
    return configured(*SMALL, *settings)


def refuse_constant(text: str) -> NoReturn:
    raise AssertionError(f"{text} in result.json")


def read_json(folder: Path) -> dict[str, Any]:
    text = (folder / "result.json").read_text(encoding="utf-8")
    return json.loads(text, parse_constant=refuse_constant)  # type: ignore[no-any-return]


def links(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "transcript.jsonl").read_text().splitlines()]


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith((".part", "-wal", "-shm", "-journal"))]


class Recorder:
    """A progress that notes what it is told and may interrupt the run."""

    def __init__(self, stop_in: str | None = None) -> None:
        self.phases: list[list[Any]] = []
        self._stop_in = stop_in

    def phase(self, title: str, steps: int) -> None:
        self.phases.append([title, steps, 0])
        if steps == 1 and title == self._stop_in:
            raise KeyboardInterrupt

    def advance(self) -> None:
        self.phases[-1][2] += 1
        if self.phases[-1][0] == self._stop_in:
            raise KeyboardInterrupt
