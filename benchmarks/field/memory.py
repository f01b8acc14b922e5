"""Resident memory of processes over time, and whether it grows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

__all__ = ["resident_kib", "trend"]

_BLOCKS = 10
_T_95 = 2.306
"""Student's t at 0.975 with 8 degrees of freedom: a line through 10 points."""


def resident_kib(pid: int) -> int | None:
    """Resident memory of a process in KiB; None if it has ended."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
    except OSError:
        return None
    return None


def trend(readings: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Slope in KiB a round with its 95 % interval, by least squares on the means of ten blocks.

    Memory grows in steps and neighbours in time are alike, so single readings are no independent ones; means of long
    blocks nearly are.

    Args:
        readings: round and KiB; fewer than twenty give nothing.
    """
    if len(readings) < 2 * _BLOCKS:
        return {}
    rounds, kib = zip(*readings, strict=True)
    x = np.array([block.mean() for block in np.array_split(np.asarray(rounds, dtype=np.float64), _BLOCKS)])
    y = np.array([block.mean() for block in np.array_split(np.asarray(kib, dtype=np.float64), _BLOCKS)])
    centred = x - x.mean()
    slope = float(centred @ y / (centred @ centred))
    rest = y - y.mean() - slope * centred
    error = _T_95 * math.sqrt(float(rest @ rest) / (_BLOCKS - 2) / float(centred @ centred))
    return {
        "KiB a round": slope,
        "low": slope - error,
        "high": slope + error,
        "first": float(y[0]),
        "last": float(y[-1]),
        "readings": len(kib),
    }
