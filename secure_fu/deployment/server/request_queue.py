"""The queue of deletion requests in a server's directory: whoever opens it there does so here."""

from __future__ import annotations

from pathlib import Path

from secure_fu.deletion.queue import RequestQueue
from secure_fu.errors import RecordError
from secure_fu.file_names import CERTIFICATES, DELETION, QUEUE, WINDOWS

__all__ = ["has_queue", "open_queue"]


def has_queue(directory: Path) -> bool:
    """Whether a server has a queue; the first request makes it.

    Args:
        directory: of the server.

    Raises:
        RecordError: it is missing, and windows were begun: what was served, and what waits, is not forgotten silently.
    """
    path = directory / QUEUE
    if path.exists():
        return True
    if any(True for folder in (WINDOWS, CERTIFICATES) for _ in (directory / folder).glob("*")):
        raise RecordError(f"{path} is missing, and windows were begun; restore it from a backup")
    return False


def open_queue(directory: Path, *, read_only: bool = False, make: bool = False) -> RequestQueue:
    """The queue of deletion requests of a server; the first request makes it.

    Formal guarantees:
        A new queue never takes the place of one that is lost. Where a window was begun, a missing queue is refused.

    Args:
        directory: of the server.
        read_only: for looking only.
        make: whether to make one where there never was any.

    Raises:
        RecordError: it is no server's directory, or its queue is missing or cannot be used.
    """
    path = directory / QUEUE
    try:
        if not (directory / DELETION).exists():
            raise RecordError(f"{directory} is no server's directory; it would have a {DELETION}")
        if has_queue(directory):
            return RequestQueue(path, read_only=read_only)
        if not make:
            raise RecordError(f"{directory} has no queue, {QUEUE}; the first request makes it")
        path.parent.mkdir(mode=0o700, exist_ok=True)
        return RequestQueue.create(path)
    except OSError as error:
        raise RecordError(f"{directory} cannot be used: {error.strerror}") from error
