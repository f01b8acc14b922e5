"""The whole command `secure-fu simulate` as a process, by preset: seconds, peak memory, accuracy, epsilon."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from harness import arguments, report

QUICK = ("--set", "training.rounds=4", "--set", "deletion.joined_at=2")


def main() -> None:
    options = arguments(__doc__, data_dir=True)
    runs = {"digits-silos": 1 if options.quick else 3, "breast-cancer-silos": 1, "mnist-devices": 1, "mnist-silos": 1}
    figures: dict[str, object] = {}
    for preset, count in runs.items():
        figures[preset] = _measure(preset, count, options)
        print(preset, json.dumps(figures[preset]), flush=True)
    report(options, figures)


def _measure(preset: str, count: int, options: Namespace) -> dict[str, object]:
    seconds: list[float] = []
    result: dict[str, Any] = {}
    for seed in range(count):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "run"
            command = [sys.executable, "-c", "from secure_fu.cli import main; main()", "simulate", "--preset", preset]
            command += ["--seed", str(seed), "--out", str(out)]
            command += ["--data-dir", str(options.data_dir)] if preset.startswith("mnist") else []
            command += QUICK if options.quick and preset != "breast-cancer-silos" else ()
            started = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - started)
            result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    rows = {row["name"]: row for row in result["rows"]}
    return {
        "seconds": {"median": statistics.median(seconds), "each": seconds},
        # Of the largest child so far: presets run from small to large.
        "peak memory of any run so far, MiB": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
        "test accuracy": {name: row["test_accuracy"] for name, row in rows.items()},
        "backdoor success": {name: row["backdoor_success"] for name, row in rows.items()},
        "largest epsilon": max(entry["value"] for row in rows.values() for entry in row["epsilon"]),
        "unit": result["privacy"]["unit"],
    }


if __name__ == "__main__":
    main()
