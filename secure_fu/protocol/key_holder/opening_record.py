"""The key-holder's durable record: which roll was opened in each run's last round, and the answer's bytes."""

from __future__ import annotations

from pathlib import Path

from secure_fu.errors import ProtocolError
from secure_fu.protocol.durable import DurableFile

__all__ = ["OpeningRecord"]

_KIND = 3
_SCHEMA = (
    """
CREATE TABLE rounds (
    run_id BLOB PRIMARY KEY,
    round_number INTEGER NOT NULL,
    header_digest BLOB NOT NULL,
    roll_digest BLOB,
    opening BLOB
) STRICT
""",
)


class OpeningRecord:
    """One row a run, for its newest round. Committed to disk before any answer leaves.

    Args:
        path, new: as :class:`~secure_fu.protocol.durable.DurableFile`.

    Raises:
        RecordError: here and in every method, the file cannot be used as this record.
    """

    def __init__(self, path: Path | None = None, *, new: bool = False) -> None:
        self._file = DurableFile(path, new=new, kind=_KIND, schema=_SCHEMA)

    def close(self) -> None:
        """Close the file; the record is not usable afterwards."""
        self._file.close()

    def begin(self, run_id: bytes, round_number: int, header_digest: bytes) -> None:
        """Start a round, newer than any before it in this run.

        Raises:
            ProtocolError: the round number does not increase.
        """
        # One statement, so that of two processes with this file only one starts a round.
        changed = self._file.write(
            "INSERT INTO rounds VALUES (?, ?, ?, NULL, NULL) ON CONFLICT (run_id) DO UPDATE SET "
            "round_number = excluded.round_number, header_digest = excluded.header_digest, "
            "roll_digest = NULL, opening = NULL WHERE excluded.round_number > rounds.round_number",
            (run_id, round_number, header_digest),
        )
        if changed != 1:
            raise ProtocolError(f"round_number is {round_number}; expected one after the last round of this run")

    def choose(self, run_id: bytes, round_number: int, roll_digest: bytes) -> None:
        """Record the one roll of a round that will be opened.

        Raises:
            ProtocolError: a roll was chosen already.
        """
        changed = self._file.write(
            "UPDATE rounds SET roll_digest = ? WHERE run_id = ? AND round_number = ? AND roll_digest IS NULL",
            (roll_digest, run_id, round_number),
        )
        if changed != 1:
            raise ProtocolError(f"a roll of round {round_number} was opened already")

    def finish(self, run_id: bytes, round_number: int, opening: bytes) -> None:
        """Keep the answer, so that a retry gets the same bytes until the run's next round begins."""
        self._file.write(
            "UPDATE rounds SET opening = ? WHERE run_id = ? AND round_number = ?", (opening, run_id, round_number)
        )

    def opening(self, header_digest: bytes, roll_digest: bytes) -> bytes | None:
        """The recorded answer to this roll, or None when there is none yet.

        Raises:
            ProtocolError: another roll of the same round was chosen.
        """
        rows = self._file.read(
            "SELECT round_number, roll_digest, opening FROM rounds WHERE header_digest = ?", (header_digest,)
        )
        if not rows or rows[0][1] is None:
            return None
        ((number, chosen, opening),) = rows
        if chosen != roll_digest:
            raise ProtocolError(f"another roll of round {number} was opened already")
        return None if opening is None else bytes(opening)
