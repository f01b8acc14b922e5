"""What a test reads out of captured messages: which types they are, strictly decoded, and whose vectors they hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from secure_fu.crypto.wire import decode
from secure_fu.deployment.exchange.messages import (
    Begin,
    Hello,
    HelloAnswer,
    Kind,
    NodeReply,
    NodeRequest,
    Outcome,
    Wipe,
    WipeStatement,
)
from secure_fu.protocol.committee.messages import Answer, Ballot, Quorum, Vote
from secure_fu.protocol.messages import Invitation, Upload

BODIES = {
    Kind.HELLO: (Hello, HelloAnswer),
    Kind.BEGIN: (Begin, None),
    Kind.INVITE: (Invitation, Upload),
    Kind.BALLOT: (Ballot, Vote),
    Kind.QUORUM: (Quorum, Answer),
    Kind.WIPE: (Wipe, WipeStatement),
}
FORMS = ("<i8", ">i8", "<i4", ">i4", "<i2", "<f8", ">f8", "<f4")


def captured(folder: Path) -> list[tuple[str, str, bytes]]:
    """Of each message, in their order: request or answer, the node's id, the bytes."""
    return [(*path.stem.split("-")[1:3], path.read_bytes()) for path in sorted(folder.glob("*.bin"))]


def conversation(folder: Path) -> Iterator[tuple[Kind, str, str, object]]:
    """Kind, party, outcome ("asked" for a request) and decoded body of all that travelled.

    Raises:
        whatever the strict decoders raise for anything that is not a message of the protocol.
    """
    asked: dict[str, NodeRequest] = {}
    for what, node, content in captured(folder):
        if what == "request":
            message = decode(NodeRequest, content)
            asked[node] = message
            for body in message.bodies:
                yield message.kind, ",".join(message.parties), "asked", decode(BODIES[message.kind][0], body)
            continue
        request = asked.pop(node)
        for answer in decode(NodeReply, content).answers:
            assert not request.parties or answer.party in request.parties
            kind = BODIES[request.kind][1]
            if answer.outcome is Outcome.DONE and kind is not None:
                yield request.kind, answer.party, "done", decode(kind, answer.body)
            else:
                assert answer.body == b""
                yield request.kind, answer.party, answer.outcome.value, None


def tally(folder: Path) -> Counter[tuple[str, str]]:
    """How often each kind had each outcome."""
    return Counter((kind.value, outcome) for kind, _, outcome, _ in conversation(folder))


def holds(content: bytes, vector: np.ndarray, *, window: int = 4) -> bool:
    """Whether a stretch of a vector is in some bytes, in any of the usual forms of a number.

    Stretches of few distinct values are passed over: bytes have those by chance.
    """
    starts = [
        start
        for start in range(0, len(vector) - window + 1, max(1, len(vector) // 16))
        if len(set(vector[start : start + window].tolist())) == window
    ]
    assert starts, "a vector that could be found"
    for start in starts:
        part = vector[start : start + window]
        for form in FORMS:
            converted = part.astype(form)
            fits = "f4" in form or np.array_equal(converted.astype(np.float64), part.astype(np.float64))
            if fits and converted.tobytes() in content:
                return True
    return False
