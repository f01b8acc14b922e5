"""Node processes on this machine, each at its own socket; for demonstrations and tests of whole federations."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from secure_fu.deployment.local.processes import LocalProcessError, Processes, program
from secure_fu.errors import ArgumentError

__all__ = ["LocalNodes"]

_STARTUP_SECONDS: Final = 120.0


def _secure_fu_node(folder: Path, socket: Path) -> Sequence[str]:
    return [program("secure-fu"), "node", str(folder), "--socket", str(socket)]


class LocalNodes:
    """One process for each node's directory; a context manager that ends what it started.

    Args:
        folders: the nodes' directories, by name.
        sockets: where their sockets go, by name. Paths of sockets have to be short, about 100 characters.
        logs: a folder for their logs.
        command: what is run for a directory and a socket; `secure-fu node` unless given.
    """

    def __init__(
        self,
        folders: Mapping[str, Path],
        sockets: Mapping[str, Path],
        *,
        logs: Path,
        command: Callable[[Path, Path], Sequence[str]] = _secure_fu_node,
    ) -> None:
        if folders.keys() != sockets.keys():
            raise ArgumentError("sockets", sorted(sockets), f"one for each of {', '.join(sorted(folders))}")
        self._folders = dict(folders)
        self._sockets = dict(sockets)
        self._command = command
        self._processes = Processes(logs)

    def __enter__(self) -> LocalNodes:
        try:
            self.start(*self._folders)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of the nodes that run, by name."""
        return self._processes.pids

    def log(self, name: str) -> Path:
        """Where a node's log is."""
        return self._processes.log(name)

    def start(self, *names: str) -> None:
        """Start nodes, or start them again, and wait until each has its socket.

        Raises:
            LocalProcessError: one died, or has no socket within two minutes.
        """
        for name in names:
            self._sockets[name].unlink(missing_ok=True)  # what a killed process left must not pass for the new one's
            self._processes.start(name, self._command(self._folders[name], self._sockets[name]), dict(os.environ))
        deadline = time.monotonic() + _STARTUP_SECONDS
        for name in names:
            while not self._sockets[name].exists():
                self._processes.check(name)
                if time.monotonic() > deadline:
                    raise LocalProcessError(f"node {name} has no socket yet; see its log, {self.log(name)}")
                time.sleep(0.05)

    def kill(self, name: str) -> None:
        """End a node by SIGKILL."""
        self._processes.end([name], kill=True)

    def stop(self) -> None:
        """End all nodes gently."""
        self._processes.end(self._processes.names)
