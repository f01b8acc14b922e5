"""Faults that are planted in processes, so that it is seen that the checks find them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from secure_fu.deletion.queue.file import QueueFile
from secure_fu.deployment.node.state import StateFile
from secure_fu.federation import main_line
from secure_fu.privacy import PrivacyLedger
from secure_fu.protocol import ClientRecord, MemberRecord
from secure_fu.protocol.durable import DurableFile

__all__ = ["FAULTS", "plant"]


def plant(name: str, kind: str) -> None:
    """Change this process; nothing happens where the fault is not one of this kind of process."""
    if name:
        kinds, change = FAULTS[name]
        if kind in kinds:
            change()


def _member_forgets() -> None:
    """A member's votes are in memory alone."""
    votes: dict[tuple[str, bytes], Any] = {}

    def bind(_: MemberRecord, member: str, run_id: bytes, vote: Any) -> None:
        votes[member, run_id] = vote

    def newest(_: MemberRecord, member: str, run_id: bytes) -> Any:
        return votes.get((member, run_id))

    def by_header(_: MemberRecord, member: str, header: bytes) -> Any:
        return next((vote for (name, _), vote in votes.items() if (name, vote.header_digest) == (member, header)), None)

    for name, method in (("bind", bind), ("newest", newest), ("by_header", by_header)):
        setattr(MemberRecord, name, method)


def _client_forgets() -> None:
    """What a client has answered is in memory alone."""
    real = ClientRecord.accept

    def accept(self: ClientRecord, *arguments: Any, **named: Any) -> None:
        writes = DurableFile.write
        DurableFile.write = lambda *_: 1  # type: ignore[method-assign]
        try:
            real(self, *arguments, **named)
        finally:
            DurableFile.write = writes  # type: ignore[method-assign]

    ClientRecord.accept = accept  # type: ignore[method-assign]


def _queue_forgets() -> None:
    """What the queue has acknowledged is rolled back."""

    @contextlib.contextmanager
    def together(self: QueueFile) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            self._connection.execute("ROLLBACK")

    QueueFile.together = together  # type: ignore[method-assign]


def _line_forgets() -> None:
    """That a deletion was executed is in memory alone."""
    main_line.write_standing = lambda *_: None  # type: ignore[assignment]


def _node_forgets() -> None:
    """What a client was ordered, and has destroyed, is in memory alone."""
    StateFile.write = lambda *_: None  # type: ignore[method-assign]


def _ledger_gives_back() -> None:
    """Rounds that were under way when a server died are given back."""
    real = PrivacyLedger.open.__func__  # type: ignore[attr-defined]

    def opened(cls: type[PrivacyLedger], *arguments: Any, **named: Any) -> PrivacyLedger:
        ledger: PrivacyLedger = real(cls, *arguments, **named)
        for reservation in ledger.pending():
            ledger.void(reservation, reason="its server died")
        return ledger

    PrivacyLedger.open = classmethod(opened)  # type: ignore[method-assign, assignment]


FAULTS: Mapping[str, tuple[tuple[str, ...], Callable[[], None]]] = {
    "member forgets": (("member",), _member_forgets),
    "client forgets": (("client",), _client_forgets),
    "queue forgets": (("intake",), _queue_forgets),
    "main line forgets": (("service",), _line_forgets),
    "node forgets": (("client",), _node_forgets),
    "ledger gives back": (("server", "service"), _ledger_gives_back),
}
"""By name: in which kinds of processes, and the change."""
