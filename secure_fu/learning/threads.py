"""How many threads torch may use. Never changed on import or for good by the library: that is the program's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["limit_threads", "one_thread"]


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


@contextmanager
def one_thread() -> Iterator[None]:
    """Work with a single thread, and put torch's number of them back afterwards.

    Many small products gain nothing from a second thread, and on busy cores they wait for it at length; and how sums
    are split over threads moves their last bits.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
