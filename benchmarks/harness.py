"""What every benchmark shares: its command line, the machine it ran on, and where its figures go."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TypeVar

import torch

__all__ = ["arguments", "on_one_core", "report", "spread", "timed"]

_T = TypeVar("_T")
_PACKAGES = ("torch", "numpy", "numba", "tenseal", "opacus", "cryptography")
_LOAD_AT_START = os.getloadavg()


def arguments(description: str | None, *, data_dir: bool = False, schemes: Sequence[str] = ()) -> argparse.Namespace:
    """Parse `--quick`, `--json FILE`, `--threads N` and, where asked for, `--data-dir DIR` and `--scheme NAME`.

    The first of `schemes` is the default.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="small enough to see that it works; figures mean little")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="torch threads")
    if data_dir:
        parser.add_argument("--data-dir", type=Path, required=True, help="folder with the four IDX files of MNIST")
    if schemes:
        parser.add_argument("--scheme", choices=schemes, default=schemes[0], help="default: %(default)s")
    parsed = parser.parse_args()
    torch.set_num_threads(parsed.threads)
    return parsed


def report(options: argparse.Namespace, figures: dict[str, object], *, packages: Sequence[str] = ()) -> None:
    """Print the figures, and write them with machine and date where `--json` says.

    `packages` are further ones whose versions belong beside the figures.
    """
    machine = {
        "date": datetime.now(UTC).date().isoformat(),
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in (*_PACKAGES, *packages)},
        "load average": {"at the start": _LOAD_AT_START, "at the end": os.getloadavg()},
        "quick": options.quick,
    }
    text = json.dumps({"machine": machine, "figures": figures}, indent=2, allow_nan=False)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n", encoding="utf-8")


def timed(work: Callable[..., _T], *arguments: object) -> tuple[float, _T]:
    """Seconds that a call took, and what it gave."""
    started = time.perf_counter()
    result = work(*arguments)
    return time.perf_counter() - started, result


def spread(values: Sequence[float], *, scale: float = 1.0) -> dict[str, float]:
    """Median and range of repeated measurements, times `scale`."""
    return {
        "median": scale * statistics.median(values),
        "least": scale * min(values),
        "most": scale * max(values),
        "repetitions": len(values),
    }


@contextlib.contextmanager
def on_one_core() -> Iterator[None]:
    """Keep this thread, and all that it starts meanwhile, on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
