"""The server's exchange with its nodes over Flower's grid. Addresses are Flower's node ids, as decimal text."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from flwr.app import Message
from flwr.serverapp import Grid

from secure_fu.errors import ArgumentError, WireError
from secure_fu.flower.carrier import MESSAGE_TYPE, pack, unpack

__all__ = ["GridExchange"]

_LOGGER = logging.getLogger("secure_fu")
_AT_A_TIME = 16  # messages that are asked for, and so may be in memory, together
_LEAST_PAUSE = 0.01
_SHARE = 0.1  # of an exchange's time so far is what a pause may add to it


class GridExchange:
    """An :class:`~secure_fu.deployment.exchange.Exchange` with the ClientApps of one Flower run.

    A message that is not answered in time is never answered to: it expires at the SuperLink together with the wait, so
    a node that comes back does no work for an exchange that is over.

    Args:
        grid: of the ServerApp.
        poll_seconds: longest pause before answers are asked for again; shorter ones while an exchange is young.
            Flower's own `send_and_receive` waits three seconds.
        capture: a folder, to which every request and answer is copied as it travels: `000001-request-NODE.bin`. For
            tests and auditors; what is in it is what the SuperLink's owner sees.

    Raises:
        ArgumentError: a poll that is not positive.
    """

    def __init__(self, grid: Grid, *, poll_seconds: float = 0.2, capture: Path | None = None) -> None:
        if not poll_seconds > 0:
            raise ArgumentError("poll_seconds", poll_seconds, "a positive number of seconds")
        self._grid = grid
        self._poll_seconds = poll_seconds
        self._capture = capture
        self._captured = 0
        if capture is not None:
            capture.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._captured = sum(1 for _ in capture.glob("*.bin"))

    def nodes(self) -> tuple[str, ...]:
        """Ids of the nodes that are connected now, sorted."""
        return tuple(str(node) for node in sorted(self._grid.get_node_ids()))

    def ask(self, requests: Mapping[str, bytes], *, timeout: float) -> Iterator[tuple[str, bytes]]:
        """See :class:`~secure_fu.deployment.exchange.Exchange`; an error in a node's place counts as silence.

        Raises:
            ArgumentError: an address that is no node id, or a timeout that is not positive.
        """
        if not timeout > 0:
            raise ArgumentError("timeout", timeout, "a positive number of seconds")
        began = time.monotonic()
        ends = began + timeout
        waiting = self._send(requests, ends)
        while waiting:
            came = 0
            for group in _groups(list(waiting)):
                for reply in self._grid.pull_messages(group):
                    address = waiting.pop(reply.metadata.reply_to_message_id, None)
                    if address is None:
                        continue
                    came += 1
                    if (answer := self._read(address, reply)) is not None:
                        yield address, answer
            now = time.monotonic()
            left = ends - now
            if waiting and left <= 0:
                _LOGGER.info("no answer from %d of %d nodes", len(waiting), len(requests))
                return
            if not came:
                pause = max(_LEAST_PAUSE, _SHARE * (now - began))
                time.sleep(min(pause, self._poll_seconds, max(left, 0.0)))

    def _send(self, requests: Mapping[str, bytes], ends: float) -> dict[str, str]:
        """Send all; returns the addresses by the ids of their messages."""
        waiting: dict[str, str] = {}
        for address in requests:
            left = ends - time.monotonic()
            if left <= 0:
                break
            request = requests[address]
            message = Message(pack(request), _node_id(address), MESSAGE_TYPE, ttl=left)
            # One at a time: of a failure among many, not every grid tells which it was.
            sent: list[str | None] = list(self._grid.push_messages([message]))
            if sent and sent[0] is not None:
                waiting[sent[0]] = address
                self._keep("request", address, request)
            else:
                _LOGGER.warning("node %s cannot be reached", address)
        return waiting

    def _read(self, address: str, reply: Message) -> bytes | None:
        if reply.has_error():  # its text is the sender's, so it is not repeated here
            _LOGGER.info("node %s answers with Flower's error %d", address, reply.error.code)
            return None
        try:
            answer = unpack(reply.content)
        except WireError as error:
            _LOGGER.warning("node %s sends what is no answer: %s", address, error)
            return None
        self._keep("answer", address, answer)
        return answer

    def _keep(self, what: str, address: str, body: bytes) -> None:
        if self._capture is not None:
            self._captured += 1
            (self._capture / f"{self._captured:06}-{what}-{address}.bin").write_bytes(body)


def _node_id(address: str) -> int:
    if not address.isdecimal():
        raise ArgumentError("address", address, "a node id of Flower")
    return int(address)


def _groups(items: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(items), _AT_A_TIME):
        yield items[start : start + _AT_A_TIME]
