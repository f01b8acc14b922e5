"""Jobs over a few worker processes, which end with the run: on Ctrl-C, on an error, and when the run is killed."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

__all__ = ["run_jobs"]

Job = dict[str, Any]
_SPAWN = multiprocessing.get_context("spawn")


def run_jobs(
    work: Callable[[Job], Any],
    jobs: Sequence[Job],
    *,
    processes: int,
    started: Callable[[Job], None] = lambda _job: None,
) -> Iterator[tuple[Job, Any, str | None]]:
    """Run jobs in the order given, and yield each as it ends: the job, its result, and the traceback if it failed.

    Args:
        work: a function of a module that a fresh process can import; what it gives is made of plain dictionaries,
            lists and scalars, as jobs are.
        jobs: plain dictionaries.
        processes: at most so many workers at once; 0 runs them here, one after the other.
        started: told when a job begins.
    """
    if processes == 0:
        for job in jobs:
            started(job)
            yield (job, *_attempt(work, job))
        return
    left = list(reversed(jobs))
    workers: dict[Connection, tuple[SpawnProcess, Job]] = {}

    def give(connection: Connection, process: SpawnProcess) -> None:
        job = left.pop()
        workers[connection] = (process, job)
        started(job)
        with contextlib.suppress(OSError):  # it has ended: its connection will say so
            connection.send_bytes(json.dumps(job).encode())

    try:
        for _ in range(min(processes, len(jobs))):
            here, there = _SPAWN.Pipe()
            process = _SPAWN.Process(target=_serve, args=(work, there), daemon=True)
            process.start()
            there.close()
            give(here, process)
        while workers:
            for connection in wait(list(workers)):
                process, job = workers.pop(connection)  # type: ignore[arg-type, index]
                try:
                    result, error = json.loads(connection.recv_bytes())  # type: ignore[union-attr]
                except (EOFError, OSError):  # however it ended, and whenever
                    process.join()
                    yield job, None, f"its worker process ended with exit code {process.exitcode}"
                    continue
                if left:
                    give(connection, process)  # type: ignore[arg-type]
                else:
                    connection.send_bytes(b"null")  # type: ignore[union-attr]
                    process.join()
                yield job, result, error
        for job in reversed(left):
            yield job, None, "no worker process is left to run it"
    finally:
        for process, _ in workers.values():
            process.terminate()
        for process, _ in workers.values():
            process.join()


def _attempt(work: Callable[[Job], Any], job: Job) -> tuple[Any, str | None]:
    try:
        return work(job), None
    except Exception:
        return None, traceback.format_exc()


def _serve(work: Callable[[Job], Any], connection: Connection) -> None:
    """The life of a worker: one job after the other until it is sent None or the run is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run gets it too, and ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while (job := json.loads(connection.recv_bytes())) is not None:
        connection.send_bytes(json.dumps(_attempt(work, job), allow_nan=False).encode())


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
