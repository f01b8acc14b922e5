"""An exchange with nodes on this machine, over their Unix sockets."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from secure_fu.deployment.exchange.node_socket import ask
from secure_fu.errors import ArgumentError, SecureFUError

__all__ = ["SocketExchange"]

_LOGGER = logging.getLogger("secure_fu")

_Answers = queue.Queue[tuple[str, "bytes | Exception | None"]]


class SocketExchange:
    """One connection a request; several nodes are waited for at a time.

    Args:
        sockets: paths of the nodes' sockets. A path without a socket is a node that is silent.
        workers: how many nodes are waited for at a time; that many answers at most are held in memory.

    Raises:
        ArgumentError: no worker, or a socket that is named twice.
    """

    def __init__(self, sockets: Iterable[Path], *, workers: int = 32) -> None:
        self._nodes = tuple(str(path) for path in sockets)
        if len(set(self._nodes)) != len(self._nodes):
            raise ArgumentError("sockets", list(self._nodes), "each path once")
        if workers < 1:
            raise ArgumentError("workers", workers, "at least 1")
        self._workers = workers

    def nodes(self) -> tuple[str, ...]:
        """See :class:`~secure_fu.deployment.exchange.Exchange`."""
        return self._nodes

    def ask(self, requests: Mapping[str, bytes], *, timeout: float) -> Iterator[tuple[str, bytes]]:
        """See :class:`~secure_fu.deployment.exchange.Exchange`."""
        if not requests:
            return
        ends = time.monotonic() + timeout
        waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
        for address in requests:
            waiting.put(address)
        # One answer waits here; the workers hold theirs until there is room.
        answers: _Answers = queue.Queue(maxsize=1)
        stopped = threading.Event()

        def work() -> None:
            while not stopped.is_set():
                try:
                    address = waiting.get_nowait()
                except queue.Empty:
                    return
                _put(answers, (address, _answer(address, requests, ends)), stopped)

        for _ in range(min(self._workers, len(requests))):
            threading.Thread(target=work, daemon=True).start()
        try:
            for _ in range(len(requests)):
                try:
                    address, answer = answers.get(timeout=max(0.0, ends - time.monotonic()))
                except queue.Empty:
                    return
                if isinstance(answer, Exception):
                    raise answer
                if answer is not None:
                    yield address, answer
                del answer
        finally:
            stopped.set()


def _answer(address: str, requests: Mapping[str, bytes], ends: float) -> bytes | Exception | None:
    """The answer; None of a silent node; an error of this side, to be raised where it is waited for."""
    try:
        request = requests[address]
    except Exception as error:
        return error
    left = ends - time.monotonic()
    if left <= 0.0:
        return None
    try:
        return ask(Path(address), request, left)
    except (OSError, SecureFUError) as error:
        _LOGGER.debug("node %s is silent: %s", address, error)
        return None


def _put(answers: _Answers, answer: tuple[str, bytes | Exception | None], stopped: threading.Event) -> None:
    while not stopped.is_set():
        try:
            answers.put(answer, timeout=0.1)
        except queue.Full:
            continue
        return
