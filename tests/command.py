"""The command `secure-fu` as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

COMMAND = str(Path(sys.executable).with_name("secure-fu"))
SMALL = (
    *("--preset", "breast-cancer-silos", "--set", "training.rounds=2", "--set", "data.clients=4"),
    *("--set", "protocol.minimum_cohort=3", "--set", "unlearning.methods=[]"),
)
ESCAPE = "\x1b"


def environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key not in ("FORCE_COLOR", "NO_COLOR", "COLUMNS")}
    return {**kept, "OMP_NUM_THREADS": "1"}


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A real process with pipes for stdout and stderr."""
    return subprocess.run(
        [COMMAND, *arguments], cwd=cwd, env=environment(), capture_output=True, text=True, timeout=120, check=False
    )
