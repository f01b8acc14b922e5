"""The SQLite file under a queue: durable on return, readable and added to by several processes, served by one.

Not a :class:`~secure_fu.protocol.durable.DurableFile`: that is one process's alone for as long as it is open, and a
queue has to take requests, and to be looked at, while a window of hours is executed. The rules of durability are the
same: a rollback journal (kept beside the file, its head cleared at each commit) and `synchronous=EXTRA`; no write-ahead
log. Who *executes* holds a second file's lock for as long as it lives: see :class:`ServiceLock`.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

from secure_fu.errors import RecordError

__all__ = ["QUEUE_VERSION", "QueueFile", "ServiceLock"]

_APPLICATION_ID: Final = 0x53_46_55_51  # "SFUQ"
QUEUE_VERSION: Final = 1
"""Version of the format, kept in the file."""
_WAIT_SECONDS: Final = 10.0

Value = bytes | int | str | None


class QueueFile:
    """Rows of a queue.

    Args:
        path: of the file, which has to exist; :meth:`create` makes one.
        read_only: for looking only; works beside a process that writes, waits for it at most some seconds.

    Raises:
        RecordError: here and in every method: the file is missing, damaged, of another kind or version, busy for too
            long, or there is no room on the disk. What was there before stays.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self.read_only = read_only
        with self._failing_loudly():
            if not path.is_file():
                raise RecordError(f"{path} does not exist; expected a queue of deletion requests")
            if not os.access(path, os.R_OK if read_only else os.R_OK | os.W_OK):
                raise PermissionError(f"it may not be {'read' if read_only else 'read and written'} by this user")
            # What a kill has left half written can be taken back only by who may write.
            mode = "rw" if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK) else "ro"
            address = f"file:{quote(str(path.resolve()))}?mode={mode}"
            self._connection = sqlite3.connect(address, uri=True, isolation_level=None, timeout=_WAIT_SECONDS)
        try:
            with self._failing_loudly():
                self._recognise()
                if read_only:
                    self._connection.execute("PRAGMA query_only = ON")
                for pragma in () if read_only else ("journal_mode = PERSIST", "synchronous = EXTRA", "fullfsync = ON"):
                    self._connection.execute(f"PRAGMA {pragma}")
                problems = self._connection.execute("PRAGMA quick_check(1)").fetchone()
                if problems != ("ok",):
                    raise RecordError(f"{path} is damaged: {problems[0]}; restore it from a backup")
        except BaseException:
            self._connection.close()
            raise

    @classmethod
    def create(cls, path: Path, schema: Sequence[str]) -> QueueFile:
        """Make a new file, readable by its owner only; whole or not there after a kill.

        Raises:
            RecordError: it exists, or cannot be made.
        """
        from secure_fu.protocol.files import sync_folder  # here, for with it comes torch

        part = path.with_name(f".{path.name}.part")
        try:
            for left in (part, part.with_name(f"{part.name}-journal")):  # by a kill
                left.unlink(missing_ok=True)
            os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            connection = sqlite3.connect(part, isolation_level=None)
            try:
                connection.execute("PRAGMA synchronous = EXTRA")
                connection.execute("BEGIN IMMEDIATE")
                for statement in schema:
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {QUEUE_VERSION}")
                connection.execute("COMMIT")
            finally:
                connection.close()
            os.link(part, path)  # unlike a renaming, it does not replace what another process has made meanwhile
            part.unlink()
            sync_folder(path.parent)
        except FileExistsError:
            part.unlink(missing_ok=True)
            raise RecordError(f"{path} exists; expected no file where a new queue is to be made") from None
        except (OSError, sqlite3.Error) as error:
            raise RecordError(f"{path} cannot be made: {error}") from error
        return cls(path)

    def _recognise(self) -> None:
        execute = self._connection.execute
        (application,) = execute("PRAGMA application_id").fetchone()
        (version,) = execute("PRAGMA user_version").fetchone()
        if application != _APPLICATION_ID:
            raise RecordError(f"{self.path} is another kind of file, or empty; expected a queue of deletion requests")
        if version != QUEUE_VERSION:
            raise RecordError(f"{self.path} is a queue of version {version}; this software reads {QUEUE_VERSION}")

    def close(self) -> None:
        """Close the file; it is not usable afterwards."""
        self._connection.close()

    def read(self, statement: str, parameters: Sequence[Value] = ()) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        with self._failing_loudly():
            return self._connection.execute(statement, parameters).fetchall()

    def write(self, statement: str, parameters: Sequence[Value] = ()) -> int:
        """Run one statement, within :meth:`together`; the number of rows that it changed."""
        with self._failing_loudly():
            if not self._connection.in_transaction:
                raise RecordError("a queue is written to within together() only")
            return self._connection.execute(statement, parameters).rowcount

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Make all that is written inside durable at once, at the end; nothing of it, when an exception ends it."""
        try:
            with self._failing_loudly():
                self._connection.execute("BEGIN IMMEDIATE")
            yield
            with self._failing_loudly():
                self._connection.execute("COMMIT")
        except BaseException:
            # Without an end to the transaction, what is written after it would wait for it.
            if self._connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
            raise

    def copy_to(self, path: Path) -> None:
        """Write a copy of all rows, as they are at one moment, to a new file, for its owner only.

        Raises:
            RecordError: it exists, or cannot be written.
        """
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            copy = sqlite3.connect(path)
            try:
                self._connection.backup(copy)
            finally:
                copy.close()
        except (OSError, sqlite3.Error) as error:
            raise RecordError(f"{path} cannot be written: {error}") from error

    @contextlib.contextmanager
    def _failing_loudly(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte of an extended code is the code
            if code == sqlite3.SQLITE_BUSY:
                raise RecordError(f"{self.path} is being written by another process; try again") from error
            if code == sqlite3.SQLITE_FULL:
                raise RecordError(f"{self.path} could not grow: no room on its disk; nothing was changed") from error
            raise RecordError(f"{self.path} cannot be used as a queue: {error}") from error


class ServiceLock:
    """The right to execute a queue's windows: one holder at a time, until it is closed or its process ends.

    Raises:
        RecordError: another service has it, or the lock's file cannot be made.
    """

    def __init__(self, queue: Path) -> None:
        path = queue.with_name(f"{queue.name}.service")
        try:
            with contextlib.suppress(FileExistsError):
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            self._connection = sqlite3.connect(path, isolation_level=None, timeout=0.0)
        except (OSError, sqlite3.Error) as error:
            raise RecordError(f"{path} cannot be used as a lock: {error}") from error
        try:
            # Nothing is ever written: a lock that SQLite holds until the connection or the process ends.
            self._connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error as error:
            self._connection.close()
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
                raise RecordError(f"{queue} is served by another process; one at a time executes its windows") from None
            raise RecordError(f"{path} cannot be used as a lock: {error}") from error

    def close(self) -> None:
        """Give the right back."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
