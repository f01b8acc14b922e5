"""Logs as JSON lines, with nothing in them but what is on a list.

Each line has `time` (UTC), `level`, `event`, and fields from :data:`FIELDS`::

    {"time": "2026-11-23T16:30:01.123Z", "level": "info", "event": "round-released", "round": 3, "branch": "original"}

A call with fields is ``logger.info("round released", extra=event("round-released", {"round": 3}))``, the extra made by
:func:`event`. A call with a text is taken too: its event is the text of the call in the source, which is no data, with
what was filled in left out; what was filled in is in `text`, without anything long, and without the messages of
exceptions that are not this package's own, for these may quote a record.

Keys, seeds, records, contributions, marks of records and noise have no field, so nobody logs them by name; and a text
loses every hexadecimal or base64 word, every list of numbers and every number with many digits on its way.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from secure_fu.errors import ArgumentError, SecureFUError

__all__ = ["FIELDS", "JsonLines", "cleaned", "event", "log_to"]

LOGGER: Final = "secure_fu"
FIELDS: Final = frozenset(
    {
        # who and where
        *("party", "client", "member", "node", "address", "role", "branch", "run", "epoch"),
        # what
        *("round", "purpose", "phase", "method", "scheme", "parameter_set", "kind", "outcome", "window", "request"),
        "state",
        *("file", "format", "version", "software", "signal", "socket", "roster", "policy", "head"),
        # how many and how long; never of records
        *("clients", "members", "nodes", "requests", "rounds", "attempt", "cohort", "answered"),
        *("bytes_up", "bytes_down", "seconds", "waiting", "overdue", "deletions"),
        # who can be reached, and what a deletion ended in
        *("present", "missing", "left_out", "certificate"),
        # the budget, which is public
        *("epsilon", "delta", "spent"),
        # why
        *("reason", "error"),
    }
)
"""The names that a line may have beside `time`, `level`, `event`, `text` and `where`."""

_EVENT: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_LONGEST: Final = 300
_MOST_ITEMS: Final = 16
_REDACTED: Final = "[redacted]"
_PUBLIC: Final[Mapping[str, re.Pattern[str]]] = {
    **dict.fromkeys(("roster", "policy", "head", "run", "window", "request"), re.compile("[0-9a-f]{8,64}")),
    "certificate": re.compile(r"[\w./ -]+\.json"),
}
"""Fields whose values look like secrets and are none, and what they look like."""
_SECRETIVE: Final = re.compile(
    r"""
    b(?:'[^']*'|"[^"]*")                                    # bytes, as Python writes them
    | [\[({](?:\s*[-+\w.'"]+\s*[,;]){3}[^\])}]*[\])}]?        # lists and arrays of more than three values
    | [\[({]\s*[-+.\d]+(?:\s*[,;]\s*[-+.\d]+)+,?\s*[\])}]       # also of fewer, where all are numbers: positions
    | [-+]?\d*\.\d{5,}(?:[eE][-+]?\d+)?                      # numbers with many digits: a setting has few
    | \b[0-9a-fA-F]{16,}\b                                   # hexadecimal
    | [A-Za-z0-9+/_=]{32,}                                   # base64
    """,
    re.VERBOSE,
)


def event(name: str, fields: Mapping[str, object] | None = None) -> dict[str, Any]:
    """What to pass as `extra` to a logger.

    Args:
        name: of the event, lower case with hyphens.
        fields: names of :data:`FIELDS` with short texts, numbers, or a few of them.
    """
    return {"secure_fu_event": name, "secure_fu_fields": dict(fields or {})}


def cleaned(text: object) -> str:
    """A text, or an error, as a field can have it: short, and without what looks like a secret."""
    return _clean(str(_argument(text)))


class JsonLines(logging.StreamHandler[TextIO]):
    """Writes records as JSON lines.

    Formal guarantees:
        A line has no field that is not in :data:`FIELDS`, no value but short texts, finite numbers and small lists of
        them, and no message of an exception that is not a :class:`~secure_fu.errors.SecureFUError`.
    Assumes:
        That event names and the texts of calls in the source are no data, and that a field holds what its name says.

    Args:
        stream: written and flushed a line at a time.
        strict: whether a field that must not be logged is an error, as in tests; otherwise it is dropped, and the line
            says how many were.
    """

    def __init__(self, stream: TextIO, *, strict: bool = False) -> None:
        super().__init__(stream)
        self._strict = strict

    def format(self, record: logging.LogRecord) -> str:
        """One line, without its end.

        Raises:
            ArgumentError: strict, and a field must not be logged; never says its value.
        """
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line: dict[str, Any] = {"time": time, "level": record.levelname.lower()}
        name = getattr(record, "secure_fu_event", None)
        fields = getattr(record, "secure_fu_fields", {})
        line["event"] = _slug(str(record.msg)) if name is None else self._checked_name(name)
        dropped = 0
        for key in fields if isinstance(fields, Mapping) else ():
            value = fields[key]
            if key in FIELDS and _may_be_logged(value):
                line[key] = _cleaned(value, _PUBLIC.get(key))
            elif self._strict:
                raise ArgumentError("field", key, "one of FIELDS, with a short text, a finite number or a few of them")
            else:
                dropped += 1
        if dropped:
            line["dropped"] = dropped
        if name is None and record.args:
            line["text"] = _clean(_text(record))
        if record.exc_info and record.exc_info[0] is not None:
            line |= _exception(record.exc_info)
        return json.dumps(line, ensure_ascii=False)

    def _checked_name(self, name: object) -> str:
        if isinstance(name, str) and len(name) <= 64 and _EVENT.fullmatch(name):
            return name
        if self._strict:
            raise ArgumentError("event", type(name).__name__, "words of a-z and 0-9 joined by hyphens")
        return "unnamed"

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record. What is wrong is raised in tests; in production a log that cannot be written stops nothing.

        Raises:
            ArgumentError: as :meth:`format`.
        """
        try:
            self.stream.write(self.format(record) + "\n")
            self.flush()
        except Exception:
            if self._strict:
                raise


def log_to(stream: TextIO, *, level: int = logging.INFO, strict: bool = False) -> JsonLines:
    """Let this package log to a stream as JSON lines, and nowhere else.

    Returns:
        the handler, for :meth:`logging.Logger.removeHandler`.
    """
    logger = logging.getLogger(LOGGER)
    for handler in [handler for handler in logger.handlers if isinstance(handler, JsonLines)]:
        logger.removeHandler(handler)
    made = JsonLines(stream, strict=strict)
    logger.addHandler(made)
    logger.setLevel(level)
    logger.propagate = False
    return made


def _may_be_logged(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return len(value) <= _MOST_ITEMS and all(isinstance(item, str) and len(item) <= _LONGEST for item in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, (bool, int)) or (isinstance(value, str) and len(value) <= _LONGEST)


def _cleaned(value: Any, public: re.Pattern[str] | None) -> Any:
    if isinstance(value, str):
        return value if public is not None and public.fullmatch(value) else _clean(value)
    return [_clean(item) for item in value] if isinstance(value, (list, tuple)) else value


def _text(record: logging.LogRecord) -> str:
    """The message, with what may quote data left out of what is filled in."""
    args = record.args
    safe = {key: _argument(value) for key, value in args.items()} if isinstance(args, Mapping) else None
    try:
        if safe is not None:
            return str(record.msg) % safe
        return str(record.msg) % tuple(_argument(value) for value in args or ())
    except (TypeError, ValueError, KeyError):
        return str(record.msg)


def _argument(value: object) -> object:
    if isinstance(value, BaseException):
        return str(value) if isinstance(value, SecureFUError) else type(value).__name__
    if isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(f"{value:.4g}")
    # Whatever else writes itself: an enumeration, a path, a message of this package. Arrays and bytes do not come here.
    return str(value) if not hasattr(value, "__array__") and not isinstance(value, (bytes, bytearray)) else _REDACTED


def _clean(text: str) -> str:
    one_line = " ".join(_SECRETIVE.sub(_REDACTED, text).split())
    return one_line if len(one_line) <= _LONGEST else one_line[: _LONGEST - 3] + "..."


def _slug(template: str) -> str:
    words = re.findall(r"[a-z0-9]+", re.sub(r"%(\(\w+\))?[-+ #0-9.]*[a-zA-Z%]", " ", template).lower().replace("'", ""))
    return "-".join(words)[:64].strip("-") or "unnamed"


def _exception(exc_info: Any) -> dict[str, Any]:
    """Type, place, and the message where it is this package's own."""
    kind, error, trace = exc_info
    frames = []
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append(f"{code.co_filename.rpartition('/')[2]}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    found: dict[str, Any] = {"error": kind.__name__, "where": frames[-8:]}
    if isinstance(error, SecureFUError):
        found["reason"] = _clean(str(error))
    return found
