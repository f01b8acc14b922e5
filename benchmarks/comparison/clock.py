"""What clients spend: the processor's time inside their part of a round, summed over all clients of a simulation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from secure_fu.protocol.client import AcceptedRound, Client, PendingUpload

__all__ = ["ClientClock", "client_clock"]

_PARTS = ((Client, "accept"), (AcceptedRound, "begin"), (PendingUpload, "finish"))


class ClientClock:
    """Seconds so far."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def lap(self) -> float:
        """Seconds since the last lap, or since the start."""
        taken, self.seconds = self.seconds, 0.0
        return taken

    def timed(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """The same work, its time counted."""

        def counted(*arguments: Any, **named: Any) -> Any:
            started = time.thread_time()
            try:
                return work(*arguments, **named)
            finally:
                self.seconds += time.thread_time() - started

        return counted


@contextmanager
def client_clock() -> Iterator[ClientClock]:
    """Count the time of every client of this process: accept a round, compute, add noise, encrypt, sign."""
    clock = ClientClock()
    patches = [mock.patch.object(kind, name, clock.timed(getattr(kind, name))) for kind, name in _PARTS]
    for patch in patches:
        patch.start()
    try:
        yield clock
    finally:
        for patch in patches:
            patch.stop()
