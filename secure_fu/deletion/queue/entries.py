"""What a queue of deletion requests says: requests by their open part, their history, windows; and its tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from secure_fu.deletion.requests import Scope

__all__ = [
    "SCHEMA",
    "Change",
    "Entry",
    "Reading",
    "Skip",
    "State",
    "Submission",
    "Window",
    "WindowState",
    "read_entry",
    "write_entry",
]

SCHEMA: Final = (
    """CREATE TABLE requests (number INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, signer TEXT NOT NULL,
        scope TEXT NOT NULL, client TEXT NOT NULL, units INTEGER NOT NULL, submitted INTEGER NOT NULL,
        deadline INTEGER NOT NULL, disclose INTEGER NOT NULL, state TEXT NOT NULL, received INTEGER NOT NULL,
        flag TEXT NOT NULL, window BLOB, size INTEGER NOT NULL)""",
    "CREATE INDEX by_state ON requests (state, signer, size)",
    "CREATE TABLE contents (number INTEGER PRIMARY KEY, content BLOB NOT NULL)",
    "CREATE TABLE history (number INTEGER PRIMARY KEY, id BLOB NOT NULL, state TEXT NOT NULL, at INTEGER NOT NULL, "
    "why TEXT NOT NULL)",
    """CREATE TABLE windows (id BLOB PRIMARY KEY, opened INTEGER NOT NULL, hidden_units INTEGER NOT NULL,
        state TEXT NOT NULL, at INTEGER NOT NULL, note TEXT NOT NULL, execution BLOB, certificate TEXT NOT NULL)""",
    "CREATE TABLE skipped (opened INTEGER PRIMARY KEY, at INTEGER NOT NULL, why TEXT NOT NULL)",
    "CREATE TABLE clock (latest INTEGER NOT NULL)",
    "CREATE TABLE clock_history (number INTEGER PRIMARY KEY, before INTEGER NOT NULL, after INTEGER NOT NULL, "
    "why TEXT NOT NULL)",
    "INSERT INTO clock VALUES (0)",
)
"""Statements that make the tables."""


class State(Enum):
    """Where a request stands."""

    RECEIVED = "received"
    ACCEPTED = "accepted"
    REFUSED = "refused"
    SCHEDULED = "scheduled"
    EXECUTING = "executing"
    EXECUTED = "executed"
    CERTIFIED = "certified"


_STATES: Final = {state.value: state for state in State}
_SCOPES: Final = {scope.value: scope for scope in Scope}


class WindowState(Enum):
    """Where a window stands."""

    EXECUTING = "executing"
    EXECUTED = "executed"
    CERTIFIED = "certified"
    REFUSED = "refused"
    """Ended before anything was released; its due time is open again."""
    GIVEN_UP = "given up"
    """Ended for good, and something may have been released for it; its requests wait for a later window."""


@dataclass(frozen=True, kw_only=True, slots=True)  # slots: thousands are made to list a queue
class Entry:
    """A request in the queue: its open part, and where it stands.

    Attributes:
        received: when the queue took it, in seconds since 1970 (UTC); so are `submitted` and `deadline`.
        flag: "", "at risk" (its deadline may be missed) or "overdue" (it was, or will have been, missed).
        window: id of the window that it was put into last, 16 bytes; None before.
        disclose: whether the certificate may name the signer.
    """

    request_id: bytes
    signer: str
    scope: Scope
    client: str
    units: int
    submitted: int
    deadline: int
    disclose: bool
    state: State
    received: int
    flag: str
    window: bytes | None


@dataclass(frozen=True, kw_only=True)
class Change:
    """One line of a request's history."""

    state: State
    at: int
    why: str


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What came of handing a request in: its entry, and whether it is new."""

    entry: Entry
    new: bool


@dataclass(frozen=True, kw_only=True)
class Window:
    """A window that was begun.

    Attributes:
        window_id: 16 bytes.
        opened: when it was due.
        hidden_units: as its batch has.
        requests: how many it has.
        state: where it stands, since `at`.
        note: what went wrong last; "" if nothing did.
        certificate: name of the certificate's file; "" before there is one.
    """

    window_id: bytes
    opened: int
    hidden_units: int
    requests: int
    state: WindowState
    at: int
    note: str
    certificate: str


@dataclass(frozen=True, kw_only=True)
class Skip:
    """A due time at which nothing was executed.

    Attributes:
        opened: when it was, in seconds since 1970 (UTC).
        at: when that was found, in the same seconds.
        why: in plain words.
    """

    opened: int
    at: int
    why: str


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the queue makes of a clock.

    Attributes:
        at: the time to go by: never before an earlier one.
        held: why the clock is not believed; "" if it is.
    """

    at: int
    held: str


def write_entry(entry: Entry, size: int) -> tuple[bytes | str | int | None, ...]:
    """The columns of a request's row, but for its number; `size` is the length of its content in bytes."""
    return (
        *(entry.request_id, entry.signer, entry.scope.value, entry.client, entry.units, entry.submitted),
        *(entry.deadline, int(entry.disclose), entry.state.value, entry.received, entry.flag, entry.window, size),
    )


def read_entry(row: Sequence[Any]) -> Entry:
    """The entry of a request's row, its number first."""
    _, request_id, signer, scope, client, units, submitted, deadline, disclose, state, received, flag, window, _ = row
    return Entry(
        request_id=request_id,
        signer=signer,
        scope=_SCOPES[scope],
        client=client,
        units=units,
        submitted=submitted,
        deadline=deadline,
        disclose=bool(disclose),
        state=_STATES[state],
        received=received,
        flag=flag,
        window=window,
    )
