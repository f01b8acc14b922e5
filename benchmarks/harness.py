"""What every benchmark shares: its command line, the machine it ran on, and where its figures go."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TypeVar

import torch

__all__ = ["arguments", "report", "timed"]

_T = TypeVar("_T")


def arguments(description: str | None, *, data_dir: bool = False) -> argparse.Namespace:
    """Parse `--quick`, `--json FILE`, `--threads N` and, where asked for, `--data-dir DIR`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="small enough to see that it works; figures mean little")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="torch threads")
    if data_dir:
        parser.add_argument("--data-dir", type=Path, required=True, help="folder with the four IDX files of MNIST")
    parsed = parser.parse_args()
    torch.set_num_threads(parsed.threads)
    return parsed


def report(options: argparse.Namespace, figures: dict[str, object]) -> None:
    """Print the figures, and write them with machine and date where `--json` says."""
    machine = {
        "date": datetime.now(UTC).date().isoformat(),
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in ("torch", "numpy", "tenseal", "opacus", "cryptography")},
        "quick": options.quick,
    }
    text = json.dumps({"machine": machine, "figures": figures}, indent=2, allow_nan=False)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n", encoding="utf-8")


def timed(work: Callable[[], _T]) -> tuple[float, _T]:
    """Seconds that a call took, and what it gave."""
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
