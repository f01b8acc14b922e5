"""The key-holder's durable record: which roll was opened in each run's last round, and the answer's bytes."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from secure_fu.errors import ProtocolError

__all__ = ["OpeningRecord"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS rounds (
    run_id BLOB PRIMARY KEY,
    round_number INTEGER NOT NULL,
    header_digest BLOB NOT NULL,
    roll_digest BLOB,
    opening BLOB
) STRICT
"""


class OpeningRecord:
    """One row a run, for its newest round. Committed to disk before any answer leaves.

    Args:
        path: of the SQLite file, made when absent; None keeps the record in memory, for a key-holder that never
            restarts.

    Raises:
        ProtocolError: here and in every method, the file cannot be used as a record.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        try:
            self._database = sqlite3.connect(":memory:" if path is None else path, isolation_level=None)
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        try:
            for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", _SCHEMA):
                self._execute(statement)
        except ProtocolError:
            self._database.close()
            raise

    def close(self) -> None:
        """Close the file; the record is not usable afterwards."""
        self._database.close()

    def begin(self, run_id: bytes, round_number: int, header_digest: bytes) -> None:
        """Start a round, newer than any before it in this run.

        Raises:
            ProtocolError: the round number does not increase.
        """
        # One statement, so that of two processes with this file only one starts a round.
        changed = self._execute(
            "INSERT INTO rounds VALUES (?, ?, ?, NULL, NULL) ON CONFLICT (run_id) DO UPDATE SET "
            "round_number = excluded.round_number, header_digest = excluded.header_digest, "
            "roll_digest = NULL, opening = NULL WHERE excluded.round_number > rounds.round_number",
            (run_id, round_number, header_digest),
        ).rowcount
        if changed != 1:
            raise ProtocolError(f"round_number is {round_number}; expected one after the last round of this run")

    def choose(self, run_id: bytes, round_number: int, roll_digest: bytes) -> None:
        """Record the one roll of a round that will be opened.

        Raises:
            ProtocolError: a roll was chosen already.
        """
        changed = self._execute(
            "UPDATE rounds SET roll_digest = ? WHERE run_id = ? AND round_number = ? AND roll_digest IS NULL",
            (roll_digest, run_id, round_number),
        ).rowcount
        if changed != 1:
            raise ProtocolError(f"a roll of round {round_number} was opened already")

    def finish(self, run_id: bytes, round_number: int, opening: bytes) -> None:
        """Keep the answer, so that a retry gets the same bytes until the run's next round begins."""
        self._execute(
            "UPDATE rounds SET opening = ? WHERE run_id = ? AND round_number = ?", (opening, run_id, round_number)
        )

    def opening(self, header_digest: bytes, roll_digest: bytes) -> bytes | None:
        """The recorded answer to this roll, or None when there is none yet.

        Raises:
            ProtocolError: another roll of the same round was chosen.
        """
        row = self._execute(
            "SELECT round_number, roll_digest, opening FROM rounds WHERE header_digest = ?", (header_digest,)
        ).fetchone()
        if row is None or row[1] is None:
            return None
        if row[1] != roll_digest:
            raise ProtocolError(f"another roll of round {row[0]} was opened already")
        return None if row[2] is None else bytes(row[2])

    def _execute(self, statement: str, parameters: tuple[bytes | int, ...] = ()) -> sqlite3.Cursor:
        try:
            return self._database.execute(statement, parameters)
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def _unusable(self, error: sqlite3.Error) -> ProtocolError:
        return ProtocolError(f"{self._path} cannot be used as the key-holder's record: {error}")
