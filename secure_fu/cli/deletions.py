"""What the commands about deletion requests share: the queue of a server's directory, times, what is shown.

JSON has times as `YYYY-MM-DDTHH:MM:SSZ` (UTC), ids as hexadecimal digits, and null for what there is not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from secure_fu.errors import ArgumentError, RecordError, WireError
from secure_fu.file_names import DELETION

if TYPE_CHECKING:
    from secure_fu.crypto import Roster
    from secure_fu.deletion import DeletionPolicy, Entry, RequestQueue, Risk, Window

__all__ = [
    "entry_fields",
    "print_json",
    "read_pinned_deletion_policy",
    "read_pinned_roster",
    "read_time",
    "risk_fields",
    "risk_line",
    "server_queue",
    "server_queue_if_any",
    "show_time",
    "window_fields",
]

_MAX_ROSTER_BYTES: Final = 1 << 31
_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}")


def server_queue(directory: Path, *, read_only: bool = False, make: bool = False) -> RequestQueue:
    """The queue of a server's directory; see :func:`~secure_fu.deployment.server.request_queue.open_queue`.

    Raises:
        ArgumentError: it is no server's directory, or its queue is missing or cannot be used.
    """
    from secure_fu.deployment import open_queue

    try:
        return open_queue(directory, read_only=read_only, make=make)
    except RecordError as error:
        raise ArgumentError(
            "DIR", str(directory), f"a server's directory, one with a queue that can be used ({error})"
        ) from error


def server_queue_if_any(directory: Path) -> AbstractContextManager[RequestQueue | None]:
    """The queue of a server's directory, for looking only; None where no request was ever handed in.

    Raises:
        ArgumentError: as :func:`server_queue`; also where windows were begun and the queue is missing.
    """
    from secure_fu.deployment.server import has_queue

    with suppress(OSError, RecordError):  # which opening the queue names
        if (directory / DELETION).exists() and not has_queue(directory):
            return nullcontext()
    return server_queue(directory, read_only=True)


def read_pinned_roster(path: Path, option: str) -> Roster:
    """A roster's file.

    Raises:
        ArgumentError: it cannot be read, or is none; names the option that it was given by.
    """
    from secure_fu.crypto import Roster

    try:
        with path.open("rb") as file:
            return Roster.decode(file.read(_MAX_ROSTER_BYTES))
    except OSError as error:
        raise ArgumentError(option, str(path), f"a roster's file that can be read ({error.strerror})") from None
    except WireError as error:
        raise ArgumentError(option, str(path), f"a roster, as roster.bin ({error})") from None


def read_pinned_deletion_policy(directory: Path, option: str = "DIR") -> DeletionPolicy:
    """The deletion policy of a server's directory, or beside what an option names.

    Raises:
        ArgumentError: it is missing or wrong; the message names the key.
    """
    from secure_fu.deletion import read_deletion_policy

    try:
        return read_deletion_policy(directory / DELETION)
    except RecordError as error:
        raise ArgumentError(option, str(directory), f"one with a deletion policy ({error})") from None


def read_time(option: str, text: str) -> int:
    """Seconds since 1970 (UTC) of a day (its end) or of a time, as `2026-12-31` or `2026-12-31T12:00:00+01:00`.

    Raises:
        ArgumentError: it is neither.
    """
    try:
        if _DAY.fullmatch(text):
            return int((datetime.fromisoformat(text).replace(tzinfo=UTC) + timedelta(days=1)).timestamp()) - 1
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise ValueError
        return int(moment.timestamp())
    except (ValueError, OverflowError):
        expected = "a day, as 2026-12-31, or a time with its zone, as 2026-12-31T12:00:00Z"
        raise ArgumentError(option, text, expected) from None


def show_time(seconds: int) -> str:
    """A time in words: UTC, to the second."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def entry_fields(entry: Entry) -> dict[str, Any]:
    """A request for JSON."""
    return {
        "request_id": entry.request_id.hex(),
        "signer": entry.signer,
        "scope": entry.scope.value,
        "client": entry.client or None,
        "units": entry.units,
        "submitted": show_time(entry.submitted),
        "deadline": show_time(entry.deadline),
        "disclose": entry.disclose,
        "state": entry.state.value,
        "received": show_time(entry.received),
        "flag": entry.flag or None,
        "window": None if entry.window is None else entry.window.hex(),
    }


def window_fields(window: Window) -> dict[str, Any]:
    """A window for JSON."""
    return {
        "window_id": window.window_id.hex(),
        "opened": show_time(window.opened),
        "state": window.state.value,
        "since": show_time(window.at),
        "requests": window.requests,
        "hidden_units": window.hidden_units,
        "certificate": window.certificate or None,
        "note": window.note or None,
    }


def risk_fields(risk: Risk) -> dict[str, Any]:
    """A deadline in danger for JSON."""
    return {
        "request_id": risk.request_id.hex(),
        "deadline": show_time(risk.deadline),
        "overdue": risk.overdue,
        "why": risk.why,
    }


def risk_line(risk: Risk, now: int) -> str:
    """A deadline in danger for people, at a time in seconds since 1970."""
    word = "At risk" if not risk.overdue else "OVERDUE" if risk.deadline <= now else "WILL BE MISSED"
    return f"{word}: {risk.request_id.hex()[:8]}, {show_time(risk.deadline)}: {risk.why}"


def print_json(value: Mapping[str, Any], *, indent: int | None = 2) -> None:
    """Print JSON for programs, and nothing else."""
    print(json.dumps(value, indent=indent, allow_nan=False))
