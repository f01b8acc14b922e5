"""The ledger's SQLite file: what is written, when it is durable, and who may have it open.

Guarantee: what a method wrote is on disk when it returns (write-ahead log, ``synchronous=FULL``). One process at a
time has the file open for writing; SQLite's exclusive lock ends with the process, however it ends. Files that are not
a ledger, are of another version or are damaged are refused.

While the ledger is open, or after a crash, the newest entries are in the ``-wal`` file beside it: copy both, or
neither. A clean close leaves one file.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Collection, Iterator
from pathlib import Path

from secure_fu.errors import ArgumentError, LedgerError
from secure_fu.privacy.budget import Budget
from secure_fu.privacy.epsilon import Phase, Subject
from secure_fu.privacy.events import GaussianSumEvent
from secure_fu.privacy.ledger_records import EventStatus, LedgerEvent
from secure_fu.privacy.units import Unit

__all__ = ["LedgerFile"]

_APPLICATION_ID = 0x53_46_55_4C  # "SFUL"
_VERSION = 1

_SCHEMA = """
CREATE TABLE budget (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    epsilon REAL NOT NULL,
    delta REAL NOT NULL,
    renyi_order REAL NOT NULL,
    deletion_reserve REAL NOT NULL,
    unit TEXT NOT NULL,
    group_size INTEGER NOT NULL
);
CREATE TABLE branch (
    name TEXT PRIMARY KEY,
    parent TEXT REFERENCES branch (name),
    position INTEGER NOT NULL UNIQUE
);
CREATE TABLE event (
    id INTEGER PRIMARY KEY,
    branch TEXT NOT NULL REFERENCES branch (name),
    round_number INTEGER NOT NULL,
    purpose TEXT NOT NULL,
    phase TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('reserved', 'committed', 'void')),
    cohort TEXT NOT NULL,
    participants TEXT,
    void_reason TEXT,
    UNIQUE (branch, round_number),
    CHECK ((participants IS NOT NULL) = (status = 'committed')),
    CHECK ((void_reason IS NOT NULL) = (status = 'void'))
);
CREATE TABLE charge (
    event INTEGER NOT NULL REFERENCES event (id),
    subject TEXT NOT NULL,
    noise_multiplier REAL NOT NULL,
    sampling_rate REAL NOT NULL,
    grid_ratio REAL NOT NULL,
    dimension INTEGER NOT NULL,
    shares INTEGER NOT NULL,
    PRIMARY KEY (event, subject)
) WITHOUT ROWID;
"""


def _encode(names: Collection[str]) -> str:
    return json.dumps(list(names), ensure_ascii=False)


def _decode(text: str) -> tuple[str, ...]:
    names = json.loads(text)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("not a list of names")
    return tuple(names)


class LedgerFile:
    """Rows in, rows out; the rules are :class:`secure_fu.privacy.ledger.PrivacyLedger`'s."""

    def __init__(self, connection: sqlite3.Connection, path: Path, *, read_only: bool) -> None:
        self._connection = connection
        self._read_only = read_only
        self._closed = False
        self.path = path

    @classmethod
    def create(cls, path: Path, budget: Budget) -> LedgerFile:
        """Make a new file; LedgerError if it exists or cannot be written."""
        try:
            path.touch(exist_ok=False)
        except FileExistsError:
            raise LedgerError(f"{path} exists; open it, or choose another path for a new ledger") from None
        except OSError as error:
            raise LedgerError(f"{path} cannot be created: {error.strerror}") from error
        file = cls._connect(path, read_only=False)
        try:
            with file.failing_loudly():
                connection = file._connection
                file._lock()
                connection.execute("BEGIN IMMEDIATE")
                for statement in _SCHEMA.split(";")[:-1]:
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {_VERSION}")
                connection.execute(
                    "INSERT INTO budget VALUES (1, ?, ?, ?, ?, ?, ?)",
                    (
                        budget.epsilon,
                        budget.delta,
                        budget.order,
                        budget.deletion_reserve,
                        budget.unit.value,
                        budget.group_size,
                    ),
                )
                connection.execute("COMMIT")
        except BaseException:
            file._connection.close()
            path.unlink()
            raise
        return file

    @classmethod
    def open(cls, path: Path, *, read_only: bool) -> LedgerFile:
        """Open an existing file; LedgerError if it is missing, in use, of another version or damaged."""
        if not path.is_file():
            raise LedgerError(f"{path} is not a file; expected a ledger made by PrivacyLedger.create")
        file = cls._connect(path, read_only=read_only)
        try:
            with file.failing_loudly():
                file._check_identity()
                if not read_only:
                    file._lock()
                problems = [row[0] for row in file._connection.execute("PRAGMA quick_check")]
                problems += [
                    f"dangling row in {row[0]}" for row in file._connection.execute("PRAGMA foreign_key_check")
                ]
                if problems != ["ok"]:
                    raise LedgerError(f"{path} is damaged: {problems[-1]}; restore it from a backup")
        except BaseException:
            file._connection.close()
            raise
        return file

    @classmethod
    def _connect(cls, path: Path, *, read_only: bool) -> LedgerFile:
        mode = "ro" if read_only else "rw"
        try:
            connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None, timeout=0.0
            )
        except sqlite3.Error as error:
            raise LedgerError(f"{path} cannot be opened: {error}") from error
        return cls(connection, path, read_only=read_only)

    def _check_identity(self) -> None:
        (application,) = self._connection.execute("PRAGMA application_id").fetchone()
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if application != _APPLICATION_ID:
            raise LedgerError(f"{self.path} is not a privacy ledger of this software")
        if version != _VERSION:
            raise LedgerError(f"{self.path} is a ledger of version {version}; this software reads version {_VERSION}")

    def _lock(self) -> None:
        """Take the exclusive lock and keep it; make commits durable."""
        for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = FULL", "fullfsync = ON"):
            self._connection.execute(f"PRAGMA {pragma}")
        self._connection.execute("PRAGMA foreign_keys = ON")
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.execute("COMMIT")

    @contextlib.contextmanager
    def failing_loudly(self) -> Iterator[None]:
        """Turn SQLite's errors, and rows that make no sense, into LedgerError; undo what was half written."""
        try:
            yield
        except BaseException as error:
            if not self._closed and self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            if not isinstance(error, (sqlite3.Error, ArgumentError, ValueError)):
                raise
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
                raise LedgerError(f"{self.path} is open in another process; one server at a time keeps it") from error
            raise LedgerError(f"{self.path} cannot be used as a ledger: {error}") from error

    def close(self) -> None:
        """Fold the write-ahead log into the file and release the lock; a second call does nothing."""
        if self._closed:
            return
        try:
            if not self._read_only:
                with self.failing_loudly():
                    self._connection.execute("PRAGMA journal_mode = DELETE")
        finally:
            self._connection.close()
            self._closed = True

    def budget(self) -> Budget:
        """The budget that the ledger was made with."""
        with self.failing_loudly():
            row = self._connection.execute(
                "SELECT epsilon, delta, renyi_order, deletion_reserve, unit, group_size FROM budget"
            ).fetchone()
            if row is None:
                raise LedgerError(f"{self.path} has no budget")
            epsilon, delta, order, reserve, unit, group_size = row
            return Budget(
                epsilon=epsilon,
                delta=delta,
                order=order,
                deletion_reserve=reserve,
                unit=Unit(unit),
                group_size=group_size,
            )

    def branches(self) -> dict[str, str | None]:
        """Each branch's parent, in the order in which the branches were made."""
        with self.failing_loudly():
            return dict(self._connection.execute("SELECT name, parent FROM branch ORDER BY position").fetchall())

    def add_branch(self, name: str, parent: str | None) -> None:
        """Add a branch."""
        with self.failing_loudly():
            self._connection.execute(
                "INSERT INTO branch SELECT ?, ?, COALESCE(MAX(position), 0) + 1 FROM branch", (name, parent)
            )

    def add_reserved(self, event: LedgerEvent) -> None:
        """Write a reserved round with its charges."""
        with self.failing_loudly():
            execute = self._connection.execute
            execute("BEGIN IMMEDIATE")
            execute(
                "INSERT INTO event (id, branch, round_number, purpose, phase, status, cohort) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    event.event_id,
                    event.branch,
                    event.round_number,
                    event.purpose,
                    event.phase.value,
                    event.status.value,
                    _encode(event.cohort),
                ),
            )
            for subject, charge in event.charges.items():
                if charge is not None:
                    execute(
                        "INSERT INTO charge VALUES (?, ?, ?, ?, ?, ?, ?)",
                        (
                            event.event_id,
                            subject.value,
                            charge.noise_multiplier,
                            charge.sampling_rate,
                            charge.grid_ratio,
                            charge.dimension,
                            charge.shares,
                        ),
                    )
            execute("COMMIT")

    def set_committed(self, event_id: int, participants: tuple[str, ...]) -> None:
        """Write who took part in a released round."""
        with self.failing_loudly():
            self._connection.execute(
                "UPDATE event SET status = ?, participants = ? WHERE id = ?",
                (EventStatus.COMMITTED.value, _encode(participants), event_id),
            )

    def set_void(self, event_id: int, reason: str) -> None:
        """Write why a round is known not to have been opened."""
        with self.failing_loudly():
            self._connection.execute(
                "UPDATE event SET status = ?, void_reason = ? WHERE id = ?",
                (EventStatus.VOID.value, reason, event_id),
            )

    def events(self, branch: str | None = None) -> Iterator[LedgerEvent]:
        """All rounds, or those of one branch, in the order in which they were reserved."""
        with self.failing_loudly():
            charges: dict[int, dict[Subject, GaussianSumEvent | None]] = {}
            for event_id, subject, multiplier, rate, ratio, dimension, shares in self._connection.execute(
                "SELECT event, subject, noise_multiplier, sampling_rate, grid_ratio, dimension, shares FROM charge"
            ):
                charges.setdefault(event_id, dict.fromkeys(Subject))[Subject(subject)] = GaussianSumEvent(
                    noise_multiplier=multiplier,
                    sampling_rate=rate,
                    grid_ratio=ratio,
                    dimension=dimension,
                    shares=shares,
                )
            rows = self._connection.execute(
                "SELECT id, branch, round_number, purpose, phase, status, cohort, participants, void_reason "
                "FROM event WHERE branch = COALESCE(?, branch) ORDER BY id",
                (branch,),
            ).fetchall()
        for event_id, name, number, purpose, phase, status, cohort, participants, reason in rows:
            with self.failing_loudly():
                event = LedgerEvent(
                    event_id=event_id,
                    branch=name,
                    round_number=number,
                    purpose=purpose,
                    phase=Phase(phase),
                    status=EventStatus(status),
                    charges=charges.get(event_id, dict.fromkeys(Subject)),
                    cohort=_decode(cohort),
                    participants=None if participants is None else _decode(participants),
                    void_reason=reason,
                )
            yield event
