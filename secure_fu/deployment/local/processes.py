"""Processes that are started together, watched, and ended: gently, then by force, and never anybody else's."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from secure_fu.errors import ArgumentError, SecureFUError

__all__ = ["LocalProcessError", "Processes", "program"]

_LOGGER = logging.getLogger("secure_fu")
_GRACE_SECONDS = 8.0


class LocalProcessError(SecureFUError):
    """A process on this machine did not start, died, or did not do its work in time; the message names its log."""


class Processes:
    """Processes by name, each the leader of a session of its own, with a log file each.

    Args:
        logs: folder for the log files; made if it is not there.
    """

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Of those that were started and not ended here, whether or not they still run."""
        return tuple(self._running)

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of those that run, by name."""
        return {name: process.pid for name, process in self._running.items() if process.poll() is None}

    def log(self, name: str) -> Path:
        """Where a process's output goes."""
        return self._logs / f"{name}.log"

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start a process.

        Raises:
            ArgumentError: one of that name runs.
        """
        if name in self.pids:
            raise ArgumentError("name", name, "one that is not running")
        self._logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.log(name).open("ab") as log:
            self._running[name] = subprocess.Popen(  # noqa: S603
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,
            )

    def check(self, name: str) -> None:
        """Return only if it runs.

        Raises:
            LocalProcessError: it does not.
        """
        if name not in self.pids:
            raise LocalProcessError(f"{name} is not running; see its log, {self.log(name)}")

    def end(self, names: Sequence[str], *, kill: bool = False) -> None:
        """End processes with all that is left of their sessions; returns when they are gone.

        Args:
            names: those that do not run are passed over.
            kill: by SIGKILL at once.
        """
        running = [self._running[name] for name in names if name in self._running]
        for process in running:
            if process.poll() is None:
                _signal(process, signal.SIGKILL if kill else signal.SIGTERM)
        deadline = time.monotonic() + _GRACE_SECONDS
        for process in running:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _LOGGER.warning("process %d does not end; it is killed", process.pid)
            _signal(process, signal.SIGKILL)
            process.wait()
        for name in names:
            self._running.pop(name, None)


def program(name: str) -> str:
    """Path of a command that is installed beside this Python.

    Raises:
        LocalProcessError: it is not there.
    """
    path = Path(sys.executable).parent / name
    if not path.exists():
        raise LocalProcessError(f"{path} is not there; install secure-fu with the extra `flower`")
    return str(path)


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)  # it leads a session of its own, so the group is what it started
