"""What a node was asked and what it answered, written down by the node's process before anything leaves."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from secure_fu.crypto.wire import decode
from secure_fu.deployment.exchange.messages import Kind, NodeReply, NodeRequest, Outcome
from secure_fu.errors import CryptoError

__all__ = ["Exchanged", "Traced", "frames", "read_starts", "read_traces"]

_HEAD = struct.Struct("<dBQ")
_ASKED, _ANSWERED = 1, 2


class _Handler(Protocol):
    def handle(self, request: bytes) -> bytes: ...


class Traced:
    """A node that writes down each request when it comes, and each reply before it is handed to the socket.

    So the file has all that ever left, also after a kill; the last reply may not have left. One file a life.
    """

    def __init__(self, node: _Handler, folder: Path, name: str) -> None:
        folder.mkdir(exist_ok=True)
        self._node = node
        self._file = os.open(folder / f"{name}~{time.monotonic_ns()}.trace", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def handle(self, request: bytes) -> bytes:
        self._write(_ASKED, request)
        reply = self._node.handle(request)
        self._write(_ANSWERED, reply)
        return reply

    def _write(self, what: int, content: bytes) -> None:
        os.write(self._file, _HEAD.pack(time.monotonic(), what, len(content)) + content)


@dataclass(frozen=True, kw_only=True)
class Exchanged:
    """One message to one party, and what became of it.

    Attributes:
        node, party: who was asked.
        began, ended: by the monotonic clock, in seconds; `ended` is `inf` where no reply was made.
        kind: of the message.
        asked: its body.
        answered: body of the reply; None where there was none, or it was not DONE.
        outcome: None where no reply was made.
    """

    node: str
    party: str
    began: float
    ended: float
    kind: Kind
    asked: bytes
    answered: bytes | None
    outcome: Outcome | None


def frames(path: Path) -> Iterator[tuple[float, int, bytes]]:
    """Time, direction and content; a last frame that was cut short is left out."""
    content = path.read_bytes()
    place = 0
    while place + _HEAD.size <= len(content):
        at, what, length = _HEAD.unpack_from(content, place)
        place += _HEAD.size
        if place + length > len(content):
            return
        yield at, what, content[place : place + length]
        place += length


def read_starts(folder: Path) -> dict[str, list[float]]:
    """When each node was started, by the monotonic clock, in seconds, in order."""
    found: dict[str, list[float]] = {}
    for path in folder.glob("*.trace"):
        node, _, at = path.stem.partition("~")
        found.setdefault(node, []).append(int(at) / 1e9)
    return {node: sorted(starts) for node, starts in found.items()}


def read_traces(folder: Path) -> list[Exchanged]:
    """All that was said, at all nodes, in the order in which it was asked."""
    found: list[Exchanged] = []
    for path in sorted(folder.glob("*.trace")):
        node = path.name.partition("~")[0]
        asked: tuple[float, bytes] | None = None
        for at, what, content in frames(path):
            if what == _ASKED:
                found += _pair(node, asked, None) if asked is not None else []
                asked = (at, content)
            elif asked is not None:
                found += _pair(node, asked, (at, content))
                asked = None
        found += _pair(node, asked, None) if asked is not None else []
    return sorted(found, key=lambda one: one.began)


def _pair(node: str, asked: tuple[float, bytes], answered: tuple[float, bytes] | None) -> Iterator[Exchanged]:
    try:
        request = decode(NodeRequest, asked[1])
    except CryptoError:
        return
    replies = {} if answered is None else {one.party: one for one in decode(NodeReply, answered[1]).answers}
    for place, party in enumerate(request.parties or ("",)):
        reply = replies.get(party)
        yield Exchanged(
            node=node,
            party=party,
            began=asked[0],
            ended=float("inf") if answered is None else answered[0],
            kind=request.kind,
            asked=request.body_for(place),
            answered=None if reply is None or reply.outcome is not Outcome.DONE else reply.body,
            outcome=None if reply is None else reply.outcome,
        )
