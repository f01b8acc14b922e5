"""Interrupts of a process that starts others: none of those is left behind, whenever the interrupt comes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final

__all__ = ["Interrupts"]

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_GRACE_SECONDS: Final = 5.0
_PAUSE: Final = 0.05
_PR_SET_CHILD_SUBREAPER: Final = 36
_PROC: Final = Path("/proc")  # of Linux; ps is not in every small image there


class Interrupts:
    """A context manager under which the first signal to end raises `KeyboardInterrupt`, and later ones do nothing.

    Formal guarantees:
        At the end of the block no child of this process runs. Those that nobody ended are ended here, with their
        process groups if they lead one: a signal may come between the start of a child and the line that remembers it.
        On Linux that goes for all descendants, also for those that left their parent's group: they become children of
        this process when their parents end.
    Assumes:
        It is the process's main thread, and all its children are to end with the block. A signal that was ignored, as
        in a shell's background job, stays so.
    Not guaranteed:
        After SIGKILL of this process its children run on. Where the system does not hand orphans over, a descendant in
        a group of its own ends as its own parent sees to it.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._shields = 0
        self._came = False
        self._raised = False

    def __enter__(self) -> Interrupts:
        _adopt_orphans()
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shields += 1  # what comes from here on is too late to interrupt anything
        try:
            _end_children()
        finally:
            for number, before in self._before.items():
                signal.signal(number, before)
        if self._came and not self._raised and error is None:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """A block that no signal interrupts: one that comes in it is raised at its end."""
        self._shields += 1
        try:
            yield
        finally:
            self._shields -= 1
        self._raise_if_due()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._came = True
        self._raise_if_due()

    def _raise_if_due(self) -> None:
        if self._came and not self._raised and not self._shields:
            self._raised = True
            raise KeyboardInterrupt


def _end_children() -> None:
    """End all children, gently for a while and then by force; those that become ours meanwhile, too."""
    told: set[int] = set()
    gently = time.monotonic() + _GRACE_SECONDS
    ends = gently + _GRACE_SECONDS
    while (children := _children()) and time.monotonic() < ends:
        number = signal.SIGTERM if time.monotonic() < gently else signal.SIGKILL
        for child, group in children:
            if number is signal.SIGTERM and child in told:
                continue
            told.add(child)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if group == child:
                    os.killpg(group, number)
                else:
                    os.kill(child, number)
        time.sleep(_PAUSE)


def _adopt_orphans() -> None:
    """Have descendants whose parent ends become this process's children, where the system knows how: Linux."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _children() -> list[tuple[int, int]]:
    """Children that have not ended, each with its process group."""
    own = os.getpid()
    return [(pid, group) for pid, parent, group, state in _processes() if parent == own and state != "Z"]


def _processes() -> Iterator[tuple[int, int, int, str]]:
    """Id, parent, group and state of every process of this machine."""
    if _PROC.is_dir():
        for entry in _PROC.iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):  # it has ended since
                    state, parent, group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
                    yield int(entry.name), int(parent), int(group), state
        return
    with subprocess.Popen(["/bin/ps", "-A", "-o", "pid=,ppid=,pgid=,stat="], stdout=subprocess.PIPE) as listing:
        for line in listing.communicate()[0].decode().splitlines():
            pid, parent, group, state = line.split(None, 3)
            if int(pid) != listing.pid:
                yield int(pid), int(parent), int(group), state[0]
