"""What carries messages between the server and the nodes of this machine, and the server's jobs over it."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import tomli_w

from secure_fu.deployment.local import LocalProcessError, Processes
from secure_fu.errors import ArgumentError
from secure_fu.file_names import NODES
from secure_fu.flower.local import LocalFlower
from secure_fu.local_federation.flower_app import write_flower_app

__all__ = ["FlowerTransport", "Job", "SocketTransport", "Transport"]

_JOB_SECONDS: Final = 1200.0
_LOOK_SECONDS: Final = 30.0
_RETURN_SECONDS: Final = 60.0  # a relay waits so long for a node that is started again
_TAIL: Final = 1500


class Job(Protocol):
    """A job of the server that runs."""

    def ended(self) -> bool:
        """Whether it is done; does not wait.

        Raises:
            LocalProcessError: it failed; the message has the end of its log.
        """
        ...

    def report(self) -> dict[str, Any]:
        """What it did, once it has ended; see :func:`secure_fu.deployment.server.jobs.run_job`."""
        ...


class Transport(Protocol):
    """Carries messages; and starts the server's jobs, each in a process of its own."""

    def start(self) -> None:
        """Start what it needs."""
        ...

    def stop(self) -> None:
        """End what it started; returns when it is gone."""
        ...

    def describe(self) -> str:
        """One line about what runs."""
        ...

    @property
    def processes(self) -> int:
        """How many run beside the nodes, all the time."""
        ...

    def begin(self, job: str) -> Job:
        """Begin a job, `train`, `unlearn` (a window now) or `status`."""
        ...


class SocketTransport:
    """The server asks the nodes at their sockets.

    Args:
        server: the server's directory.
        sockets: of the nodes, by name.
        logs: folder for logs and reports.
    """

    def __init__(self, server: Path, sockets: Mapping[str, Path], *, logs: Path) -> None:
        self._server = server
        self._sockets = dict(sockets)
        self._logs = logs
        self._processes = Processes(logs)
        self._jobs = 0

    def start(self) -> None:
        """See :class:`Transport`."""
        listed = {"sockets": [str(path) for path in self._sockets.values()]}
        (self._server / NODES).write_text(tomli_w.dumps(listed), encoding="utf-8")

    def stop(self) -> None:
        """See :class:`Transport`."""
        self._processes.end(self._processes.names)

    def describe(self) -> str:
        """See :class:`Transport`."""
        return f"The server asks the {len(self._sockets)} nodes at their sockets, listed in server/{NODES}."

    @property
    def processes(self) -> int:
        """See :class:`Transport`."""
        return len(self._processes.pids)

    def begin(self, job: str) -> Job:
        """See :class:`Transport`."""
        self._jobs += 1
        name = f"job-{self._jobs}-{job}"
        report = self._logs / f"{name}.json"
        command = [sys.executable, "-m", "secure_fu.local_federation.socket_job", str(self._server), job, str(report)]
        self._processes.start(name, command, dict(os.environ))
        return _SocketJob(self._processes, name, report)


class _SocketJob:
    def __init__(self, processes: Processes, name: str, report: Path) -> None:
        self._processes = processes
        self._name = name
        self._report = report
        self._ends = time.monotonic() + _JOB_SECONDS

    def ended(self) -> bool:
        if self._name in self._processes.pids:
            if time.monotonic() > self._ends:
                raise LocalProcessError(f"{self._name} has run for {_JOB_SECONDS:g} s; see its log")
            return False
        self._processes.end([self._name])
        if not self._report.exists():
            log = self._processes.log(self._name)
            raise LocalProcessError(f"{self._name} failed; the end of {log} is: {log.read_text()[-_TAIL:].strip()}")
        return True

    def report(self) -> dict[str, Any]:
        return _read(self._report)


class FlowerTransport:
    """A SuperLink with TLS, and a SuperNode for each node, authenticated by a registered key.

    Args:
        folder: for Flower's files, the app and reports.
        server: the server's directory.
        sockets: of the nodes, by name, which the relays ask.
    """

    def __init__(self, folder: Path, server: Path, sockets: Mapping[str, Path]) -> None:
        self._folder = folder
        self._server = server
        self._nodes = len(sockets)
        self._app = write_flower_app(folder / "app")
        self._jobs = 0
        self._flower = LocalFlower(
            folder,
            {
                name: {"secure-fu-socket": str(path), "secure-fu-return-seconds": _RETURN_SECONDS}
                for name, path in sockets.items()
            },
        )

    def start(self) -> None:
        """See :class:`Transport`."""
        self._flower.start()

    def stop(self) -> None:
        """See :class:`Transport`."""
        self._flower.stop()

    def describe(self) -> str:
        """See :class:`Transport`."""
        return (
            f"Flower: a SuperLink with TLS at {self._flower.address}, and {self._nodes} SuperNodes, "
            "each let in by its registered key."
        )

    @property
    def processes(self) -> int:
        """See :class:`Transport`."""
        return len(self._flower.pids)

    def begin(self, job: str) -> Job:
        """See :class:`Transport`."""
        self._jobs += 1
        report = self._folder / f"job-{self._jobs}-{job}.json"
        config: dict[str, str | int | bool] = {
            "server-directory": str(self._server),
            "job": job,
            "now": job == "unlearn",
            "wait-for-nodes": self._nodes,
            "report": str(report),
        }
        return _FlowerJob(self._flower, self._flower.submit(self._app, config), report)


class _FlowerJob:
    def __init__(self, flower: LocalFlower, run_id: int, report: Path) -> None:
        self._flower = flower
        self._run_id = run_id
        self._report = report
        self._ends = time.monotonic() + _JOB_SECONDS
        self._look = time.monotonic() + _LOOK_SECONDS

    def ended(self) -> bool:
        if not self._report.exists() and time.monotonic() < self._look:
            return False
        # Flower's command takes seconds of its own: it is asked when the report is there, and rarely before.
        self._look = time.monotonic() + _LOOK_SECONDS
        status = self._flower.status(self._run_id)
        if status == "finished:completed" and self._report.exists():
            return True
        if status.startswith("finished"):
            log = self._flower.wait(self._run_id)
            raise LocalProcessError(f"the run ended as {status}; its log ends: {log[-_TAIL:].strip()}")
        if time.monotonic() > self._ends:
            raise LocalProcessError(f"Flower's run {self._run_id} has run for {_JOB_SECONDS:g} s")
        return False

    def report(self) -> dict[str, Any]:
        return _read(self._report)


def _read(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ArgumentError("report", str(path), "a report of a job")
    return found
