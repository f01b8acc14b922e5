"""What messages took at the clients, and how much of it was local training: a line a message in a file a process."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

_T = TypeVar("_T")

_training = {"training wall": 0.0, "training cpu": 0.0}


def as_training(function: Callable[..., _T]) -> Callable[..., _T]:
    """The same function, and what it takes counts as training. One thread at a time."""

    def timed(*arguments: object, **named: object) -> _T:
        wall, cpu = time.perf_counter(), time.thread_time()
        result = function(*arguments, **named)
        _training["training wall"] += time.perf_counter() - wall
        _training["training cpu"] += time.thread_time() - cpu
        return result

    return timed


def write_down(folder: Path, kind: str, work: Callable[[], _T]) -> _T:
    """Do a message's work, and append what it took."""
    _training.update({"training wall": 0.0, "training cpu": 0.0})
    wall, cpu = time.perf_counter(), time.thread_time()
    result = work()
    spent = {"messages": 1, "wall": time.perf_counter() - wall, "cpu": time.thread_time() - cpu, **_training}
    with (folder / f"{os.getpid()}.jsonl").open("a") as file:
        file.write(json.dumps({"kind": kind, "spent": spent}) + "\n")
    return result
