"""How many threads torch may use. Called by programs, never on import: a library must not change its host."""

from __future__ import annotations

import os

import torch

__all__ = ["limit_threads"]


def limit_threads() -> int:
    """Set torch's threads to the cores that this process may run on, and return their number.

    Inside containers torch counts the cores of the machine; threads beyond the allowed ones slow small models down.
    Where OMP_NUM_THREADS is set, what it says stays.
    """
    if os.environ.get("OMP_NUM_THREADS", "").isdecimal():
        return torch.get_num_threads()
    affinity = getattr(os, "sched_getaffinity", None)  # missing on macOS and Windows
    cores = len(affinity(0)) if affinity is not None else (os.cpu_count() or 1)
    torch.set_num_threads(cores)
    return cores
