"""Places in the code where a process can be told to die, and the way to tell it while it runs."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import secure_fu.federation.main_line as main_line
from secure_fu.deletion import RequestQueue
from secure_fu.deletion.certificates import CertificateStore
from secure_fu.deployment.node.client import NodeClient
from secure_fu.deployment.node.data import DataFile
from secure_fu.deployment.node.state import StateFile
from secure_fu.deployment.server import WindowFiles
from secure_fu.privacy import PrivacyLedger
from secure_fu.protocol import (
    Client,
    ClientRecord,
    CommitteeServer,
    KeyHolderServer,
    Member,
    MemberRecord,
    OpeningRecord,
    ReleaseLog,
    Transcript,
)
from secure_fu.training import CheckpointStore, Silo

__all__ = ["PLACES", "die_at_places", "places_of"]

Place = tuple[Any, str, str]
"""Owner, name, and `before`, `after` or `both`."""

_SERVER: dict[str, Place] = {
    "ledger reserves": (PrivacyLedger, "reserve", "both"),
    "vote comes in": (CommitteeServer, "receive_vote", "after"),
    "answer comes in": (CommitteeServer, "receive_answer", "after"),
    "roll is made": (CommitteeServer, "close", "after"),
    "release is logged": (ReleaseLog, "append", "both"),
    "ledger commits": (PrivacyLedger, "commit", "both"),
    "transcript grows": (Transcript, "append", "after"),
    "checkpoint is saved": (CheckpointStore, "save", "both"),
}
_KEY_HOLDERS_SERVER: dict[str, Place] = {"roll is made": (KeyHolderServer, "close", "after")}
_SERVICE: dict[str, Place] = {
    "ledger branches": (PrivacyLedger, "branch", "both"),
    "window begins": (RequestQueue, "begin", "both"),
    "window's start is noted": (WindowFiles, "note_started", "both"),
    "window's order is noted": (WindowFiles, "note_order", "both"),
    "main line is written": (main_line, "write_standing", "both"),
    "checkpoints are destroyed": (CheckpointStore, "destroy_after", "both"),
    "logged releases are destroyed": (ReleaseLog, "destroy", "both"),
    "confirmations are noted": (WindowFiles, "note_wiped", "both"),
    "execution is noted": (WindowFiles, "note_execution", "both"),
    "window is executed": (RequestQueue, "finish", "both"),
    "certificate is made": (CertificateStore, "certify", "both"),
    "window is certified": (RequestQueue, "certify", "both"),
}
_INTAKE: dict[str, Place] = {"request is taken": (RequestQueue, "submit_all", "both")}
_CLIENT: dict[str, Place] = {
    "round is charged": (ClientRecord, "accept", "both"),
    "upload is signed": (Client, "_signed_upload", "both"),
    "state is written": (StateFile, "write", "both"),
}
_WIPING: dict[str, Place] = {
    "records are wiped": (DataFile, "wipe", "both"),
    "memory is erased": (Silo, "erased", "both"),
    "window is settled": (NodeClient, "wipe", "both"),
}
_MEMBER: dict[str, Place] = {
    "vote is recorded": (MemberRecord, "bind", "both"),
    "answer is asked for": (Member, "answer", "both"),
}
_KEY_HOLDER: dict[str, Place] = {
    "round's key is recorded": (OpeningRecord, "begin", "both"),
    "roll is chosen": (OpeningRecord, "choose", "both"),
    "opening is recorded": (OpeningRecord, "finish", "both"),
}
PLACES: dict[str, dict[str, Place]] = {
    "server": _SERVER,
    "service": {**_SERVER, **_SERVICE},
    "intake": _INTAKE,
    "client": {**_CLIENT, **_WIPING},
    "member": _MEMBER,
    "key-holder": _KEY_HOLDER,
}
# What comes up in a window's last moments is drawn less often than what comes up in every round.
_EVERY_ROUND = {*_SERVER, *_CLIENT, *_MEMBER, *_KEY_HOLDER}


def places_of(kind: str, scheme: str) -> list[tuple[str, str, int]]:
    """Name, side, and largest count that makes sense, of each place of a kind of process."""
    places = dict(PLACES[kind])
    if scheme != "kahe":
        for name in ("vote comes in", "answer comes in"):
            places.pop(name, None)
        places.update({name: place for name, place in _KEY_HOLDERS_SERVER.items() if name in places})
    return [
        (name, side, 4 if name in _EVERY_ROUND else 1)
        for name, (_, _, sides) in places.items()
        for side in (("before", "after") if sides == "both" else (sides,))
    ]


def die_at_places(kind: str, arm: Path) -> None:
    """Have this process look, at each place of its kind, whether it was told to die there.

    Args:
        arm: a file that says `name|side|count` when it is there.
    """
    owners = [*PLACES[kind].items(), *(_KEY_HOLDERS_SERVER.items() if kind in ("server", "service") else ())]
    count: dict[str, int] = {}
    for name, (owner, attribute, _) in owners:
        setattr(owner, attribute, _watched(getattr(owner, attribute), name, arm, count))


def _watched(real: Callable[..., Any], name: str, arm: Path, count: dict[str, int]) -> Callable[..., Any]:
    def reached(side: str) -> None:
        with contextlib.suppress(OSError):
            order = arm.read_text()
            wanted, wanted_side, times = order.split("|")
            if (wanted, wanted_side) == (name, side):
                count[order] = count.get(order, 0) + 1
                if count[order] >= int(times):
                    arm.with_suffix(".died").write_text(order)
                    os.kill(os.getpid(), signal.SIGKILL)

    def watched(*arguments: Any, **named: Any) -> Any:
        reached("before")
        result = real(*arguments, **named)
        reached("after")
        return result

    return watched
