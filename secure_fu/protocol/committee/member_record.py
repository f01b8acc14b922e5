"""A committee member's memory: for each run's newest round, the one roll it voted for and the answer it will give."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from secure_fu.errors import ProtocolError, RecordError
from secure_fu.protocol.durable import DurableFile

__all__ = ["MemberRecord", "RecordedVote"]

_KIND = 2
_SCHEMA = (
    """
CREATE TABLE vote (
    member TEXT NOT NULL,
    run_id BLOB NOT NULL,
    round_number INTEGER NOT NULL,
    header_digest BLOB NOT NULL,
    roll_digest BLOB NOT NULL,
    header BLOB NOT NULL,
    vote BLOB NOT NULL,
    answer BLOB NOT NULL,
    checksum BLOB NOT NULL,
    PRIMARY KEY (member, run_id)
) STRICT, WITHOUT ROWID
""",
)
_SELECT = (
    "SELECT member, run_id, checksum, header, round_number, header_digest, roll_digest, vote, answer FROM vote WHERE "
)
_COLUMNS = ("header", "round_number", "header_digest", "roll_digest", "vote", "answer")


@dataclass(frozen=True, kw_only=True)
class RecordedVote:
    """What a member is bound to.

    Attributes:
        header: encoded.
        round_number, header_digest, roll_digest: what it voted for.
        vote, answer: the bytes that it sends, the answer only on a quorum of votes.
    """

    header: bytes
    round_number: int
    header_digest: bytes
    roll_digest: bytes
    vote: bytes
    answer: bytes

    def __repr__(self) -> str:
        return f"<RecordedVote in round {self.round_number}>"


class MemberRecord:
    """One row a run and member, for its newest round. On disk before the vote leaves.

    Formal guarantees:
        For each (run, round) a member is bound to one roll for good, also after a kill at any moment: either the vote
        was recorded, and the same vote and answer leave again, or nothing left. Rows carry a checksum, so that what the
        disk has changed is found when the file is opened. The file must never be restored from a backup: a member whose
        record is lost needs new keys.

    Args:
        path, new: as :class:`~secure_fu.protocol.durable.DurableFile`. One file may serve all members of a simulation.

    Raises:
        RecordError: here and in every method, the file cannot be used.
    """

    def __init__(self, path: Path | None = None, *, new: bool = False) -> None:
        self._file = DurableFile(path, new=new, kind=_KIND, schema=_SCHEMA)
        try:
            self._select("TRUE", ())
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Let several members vote with one sync; no vote may leave before the block ends."""
        with self._file.together():
            yield

    def newest(self, member: str, run_id: bytes) -> RecordedVote | None:
        """What a member is bound to in a run's newest round, None before its first."""
        return self._one("member = ? AND run_id = ?", (member, run_id))

    def by_header(self, member: str, header_digest: bytes) -> RecordedVote | None:
        """What a member is bound to under one header, None if it did not vote or the run has gone on."""
        return self._one("member = ? AND header_digest = ?", (member, header_digest))

    def _one(self, condition: str, parameters: tuple[bytes | str, ...]) -> RecordedVote | None:
        found = self._select(condition, parameters)
        return found[0] if found else None

    def _select(self, condition: str, parameters: tuple[bytes | str, ...]) -> list[RecordedVote]:
        found = []
        for member, run_id, checksum, *values in self._file.read(_SELECT + condition, parameters):
            vote = RecordedVote(**dict(zip(_COLUMNS, values, strict=True)))
            if checksum != _checksum(member, run_id, vote):
                raise RecordError(
                    f"{self._file.path} is damaged: a vote of member {member!r} is not what was written; the members "
                    "whose record it is need new keys"
                )
            found.append(vote)
        return found

    def bind(self, member: str, run_id: bytes, vote: RecordedVote) -> None:
        """Bind a member to one roll of a round newer than any that it voted in; durable on return.

        Raises:
            ProtocolError: the round is not newer.
        """
        # One statement, so that of two writers only one binds.
        changed = self._file.write(
            "INSERT INTO vote VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (member, run_id) DO UPDATE SET "
            "round_number = excluded.round_number, header_digest = excluded.header_digest, "
            "roll_digest = excluded.roll_digest, header = excluded.header, vote = excluded.vote, "
            "answer = excluded.answer, checksum = excluded.checksum "
            "WHERE excluded.round_number > vote.round_number",
            (
                member,
                run_id,
                vote.round_number,
                vote.header_digest,
                vote.roll_digest,
                vote.header,
                vote.vote,
                vote.answer,
                _checksum(member, run_id, vote),
            ),
        )
        if changed != 1:
            raise ProtocolError(f"member {member!r} is bound in round {vote.round_number}, or a later one, of this run")


def _checksum(member: str, run_id: bytes, vote: RecordedVote) -> bytes:
    parts = (
        member.encode(),
        run_id,
        str(vote.round_number).encode(),
        vote.header_digest,
        vote.roll_digest,
        vote.header,
        vote.vote,
        vote.answer,
    )
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).digest()
