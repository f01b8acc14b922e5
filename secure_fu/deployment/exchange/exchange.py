"""How a server reaches the machines of the other parties: bytes to each node, answers as they come.

What travels is made and read by :mod:`~secure_fu.deployment.server.hosts`; an exchange moves bytes and knows nothing
of them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from typing import Protocol

__all__ = ["Answering", "Exchange", "InProcessExchange"]

_LOGGER = logging.getLogger("secure_fu")


class Exchange(Protocol):
    """A transport between one server and its nodes."""

    def nodes(self) -> tuple[str, ...]:
        """Addresses of the nodes that are known now, each some text: a socket's path, a number."""
        ...

    def ask(self, requests: Mapping[str, bytes], *, timeout: float) -> Iterator[tuple[str, bytes]]:
        """Send each node its request, and hand out answers as they come.

        A request may be made only when it is looked up: look each one up once, when it is sent. Few answers at a time
        are held in memory: what comes faster than it is taken waits at its node or on the wire.

        Args:
            requests: by address.
            timeout: seconds for all of it.

        Yields:
            address and answer, each node at most once. Who is silent is left out. It ends when all have answered or
            cannot be reached, or at the timeout.
        """
        ...


class Answering(Protocol):
    """What answers messages: a node."""

    def handle(self, request: bytes) -> bytes:
        """The answer to one request."""
        ...


class InProcessExchange:
    """Nodes in this process, asked one after another.

    Args:
        nodes: by address. One that raises an OSError, as a connection would that is lost, is silent; any other error is
            raised.
    """

    def __init__(self, nodes: Mapping[str, Answering]) -> None:
        self._nodes = nodes

    def nodes(self) -> tuple[str, ...]:
        """See :class:`Exchange`."""
        return tuple(self._nodes)

    def ask(self, requests: Mapping[str, bytes], *, timeout: float) -> Iterator[tuple[str, bytes]]:
        """See :class:`Exchange`."""
        ends = time.monotonic() + timeout
        for address in requests:
            node = self._nodes.get(address)
            if node is None or time.monotonic() > ends:
                continue
            try:
                answer = node.handle(requests[address])
            except OSError as error:
                _LOGGER.debug("node %s is silent: %s", address, error)
                continue
            yield address, answer
            del answer  # or it would be held while the next node makes its own
