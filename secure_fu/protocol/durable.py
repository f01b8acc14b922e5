"""A small SQLite file that a party remembers its promises in: on disk before anything that relies on it leaves."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from secure_fu.errors import RecordError

__all__ = ["DurableFile"]

_APPLICATION_ID = 0x53_46_55_52  # "SFUR"


class DurableFile:
    """Rows that are on disk when :meth:`write` returns (rollback journal, `synchronous=EXTRA`).

    Not a write-ahead log: SQLite takes a damaged frame of one for its end, and would silently go back to before it.

    One process at a time has the file; SQLite's exclusive lock ends with the process, however it ends. A file that is
    not such a record, of another kind or version, empty or damaged is refused and left as it is. It is made readable by
    its owner only. After a kill there may be a file beside it whose name ends in `-journal`: the two are one.

    Args:
        path: of the file; None keeps the rows in memory, for a party that never restarts.
        new: whether to make the file, which must not exist; otherwise it must. What a lost file promised cannot be
            kept, so none is ever made in its place unasked.
        kind: number of the kind of record, above 0; kept in the file.
        schema: statements that make the tables.

    Raises:
        RecordError: here and in every method, the file cannot be used as this record.
    """

    def __init__(self, path: Path | None, *, new: bool, kind: int, schema: Sequence[str]) -> None:
        self.path = path
        self._kind = kind
        with self._failing_loudly():
            if path is not None and new:
                _make(path)
            elif path is not None and not path.exists():
                raise RecordError(
                    f"{path} does not exist; whoever lost a record needs new keys, and a party that never had one "
                    "makes it with --new (new=True in Python)"
                )
            if path is not None and not os.access(path, os.R_OK | os.W_OK):
                raise PermissionError("it may not be read and written")
            self._connection = sqlite3.connect(":memory:" if path is None else path, isolation_level=None, timeout=0.0)
        try:
            with self._failing_loudly():
                self._prepare(schema, new=new or path is None)
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self, schema: Sequence[str], *, new: bool) -> None:
        execute = self._connection.execute
        execute("PRAGMA locking_mode = EXCLUSIVE")
        if not new:
            self._recognise()  # before anything is written: somebody else's file stays as it is
        for pragma in ("journal_mode = DELETE", "synchronous = EXTRA", "fullfsync = ON"):
            execute(f"PRAGMA {pragma}")
        execute("BEGIN EXCLUSIVE")
        problems = [row[0] for row in execute("PRAGMA quick_check")]
        if problems != ["ok"]:
            raise RecordError(f"{self.path} is damaged: {problems[0]}; whoever it belongs to needs new keys")
        for statement in schema if new else ():
            execute(statement)
        # Written anew each time: a file that may only be read is found now and not in the middle of a round.
        execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        execute(f"PRAGMA user_version = {self._kind}")
        execute("COMMIT")

    def _recognise(self) -> None:
        execute = self._connection.execute
        (page_size,) = execute("PRAGMA page_size").fetchone()
        (application,) = execute("PRAGMA application_id").fetchone()
        (kind,) = execute("PRAGMA user_version").fetchone()
        (tables,) = execute("SELECT COUNT(*) FROM sqlite_schema").fetchone()
        if (application, kind, tables) == (0, 0, 0):
            # Not taken for new: what it promised may be lost.
            raise RecordError(
                f"{self.path} is empty; delete it if it was never used, else whoever it belongs to needs new keys"
            )
        if (application, kind) != (_APPLICATION_ID, self._kind):
            raise RecordError(f"{self.path} is another kind of file; expected a record of kind {self._kind}")
        if self.path is not None and self.path.stat().st_size % page_size:
            # SQLite would read zeros for what is missing of the last page.
            raise RecordError(f"{self.path} is damaged: it is cut short; whoever it belongs to needs new keys")

    def close(self) -> None:
        """Close the file; it is not usable afterwards."""
        self._connection.close()

    def read(self, statement: str, parameters: Sequence[bytes | int | str] = ()) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        with self._failing_loudly():
            return self._connection.execute(statement, parameters).fetchall()

    def write(self, statement: str, parameters: Sequence[bytes | int | str]) -> int:
        """Run one statement; the number of rows that it changed. Durable on return, or with :meth:`together`."""
        with self._failing_loudly():
            return self._connection.execute(statement, parameters).rowcount

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Make all that is written inside durable at once, at the end; nothing of it, when an exception ends it.

        What relies on it may leave only after the block. Blocks do not nest.
        """
        try:
            with self._failing_loudly():
                self._connection.execute("BEGIN IMMEDIATE")
            yield
            with self._failing_loudly():
                self._connection.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        """End the transaction, if there still is one: what is written after it must not wait for its end."""
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error:
                self._connection.close()

    def copy_to(self, path: Path) -> None:
        """Write a copy of all rows to a new file."""
        with self._failing_loudly(path):
            _make(path)
            copy = sqlite3.connect(path)
            try:
                self._connection.backup(copy)
            finally:
                copy.close()

    @contextlib.contextmanager
    def _failing_loudly(self, path: Path | None = None) -> Iterator[None]:
        path = self.path if path is None else path
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            # The low byte of an extended code is the code.
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
                raise RecordError(f"{path} is open in another process; one at a time keeps it") from error
            raise RecordError(f"{path} cannot be used as a record: {error}") from error


def _make(path: Path) -> None:
    """Make an empty file.

    A file that exists is not opened here: that would end the lock that another record of this process has on it, for
    POSIX drops all locks of a process on a file when any of its descriptors is closed.

    Raises:
        RecordError: there is one.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        raise RecordError(f"{path} exists; expected no file where a new record is to be made") from None
