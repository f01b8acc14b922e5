"""What a story's files say: rounds by the nodes' traces, by the transcript, and by the ledger's rows."""

from __future__ import annotations

import base64
import json
import math
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from field.founding import Field
from field.trace import Exchanged, read_starts, read_traces
from secure_fu.crypto.wire import decode
from secure_fu.deployment.exchange.messages import Begin, Kind, Wipe
from secure_fu.protocol import Header
from secure_fu.protocol.committee.messages import Answer, Ballot, Quorum, Vote
from secure_fu.protocol.key_holder.messages import Opening, OpeningRequest
from secure_fu.protocol.messages import Announcement, Invitation, Release, digest

__all__ = ["Charge", "Facts", "LedgerRow", "RoundKey", "RoundSeen", "charge_of", "rows"]

RoundKey = tuple[bytes, int]
"""Run and number."""


@dataclass(frozen=True)
class Charge:
    """What a round costs a unit, worked out from the header's own numbers."""

    noise_multiplier: float
    sampling_rate: float
    grid_ratio: float
    dimension: int
    shares: int

    def is_close(self, other: Charge) -> bool:
        """Equal, but for the errors of float sums, which the library's bound counts in and this one does not."""
        return (
            (self.noise_multiplier, self.sampling_rate, self.dimension, self.shares)
            == (other.noise_multiplier, other.sampling_rate, other.dimension, other.shares)
        ) and math.isclose(self.grid_ratio, other.grid_ratio, rel_tol=1e-3)


def charge_of(header: Header, rate: float) -> Charge | None:
    """For the fine grid and a unit that is not the client; None for units that do not enter."""
    if rate == 0.0:
        return None
    sensitivity = header.clip_norm + header.grid_step * math.sqrt(header.length)
    return Charge(
        noise_multiplier=header.noise_multiplier,
        sampling_rate=rate,
        grid_ratio=header.noise_multiplier * sensitivity / header.grid_step,
        dimension=header.length,
        shares=header.minimum_cohort - header.colluders,
    )


@dataclass(kw_only=True)
class RoundSeen:
    """What nodes saw of one round.

    Attributes:
        first, last: when its first message came, and when its last reply was made or request came.
        headers: digests of all headers that went out under this run and number.
        uploads: digests of the uploads that were made, by client.
        rolls: digests of the rolls that openers were asked about.
        votes, answers: digests of the rolls that were voted for, and opened, by opener.
        answer_bytes: of the openings that left, by opener.
    """

    header: Header
    first: float
    last: float
    headers: set[bytes] = field(default_factory=set)
    uploads: dict[str, set[bytes]] = field(default_factory=lambda: defaultdict(set))
    rolls: set[bytes] = field(default_factory=set)
    votes: dict[str, set[bytes]] = field(default_factory=lambda: defaultdict(set))
    answers: dict[str, set[bytes]] = field(default_factory=lambda: defaultdict(set))
    answer_bytes: dict[str, set[bytes]] = field(default_factory=lambda: defaultdict(set))


@dataclass(frozen=True, kw_only=True)
class LedgerRow:
    """One round in the server's ledger."""

    number: int
    branch: str
    round_number: int
    phase: str
    status: str
    cohort: tuple[str, ...]
    participants: tuple[str, ...] | None
    charges: Mapping[str, Charge]


def rows(path: Path, statement: str) -> list[tuple[Any, ...]]:
    """Rows of an SQLite file that nobody has open, and what of them is beside it."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


class Facts:
    """Read when they are first asked for; nothing of the field may run meanwhile."""

    def __init__(self, field: Field) -> None:
        self.field = field

    @cached_property
    def said(self) -> list[Exchanged]:
        return read_traces(self.field.root / "traces")

    @cached_property
    def starts(self) -> dict[str, list[float]]:
        """When each node was started."""
        return read_starts(self.field.root / "traces")

    @cached_property
    def seen(self) -> dict[RoundKey, RoundSeen]:
        """Rounds, as the nodes saw them."""
        found: dict[RoundKey, RoundSeen] = {}
        by_header: dict[bytes, RoundSeen] = {}
        for one in self.said:
            for announcement in _announcements(one):
                header = _header(announcement.header)
                key = (header.run_id, header.round_number)
                seen = found.setdefault(key, RoundSeen(header=header, first=one.began, last=one.began))
                seen.headers.add(announcement.header_digest)
                by_header[announcement.header_digest] = seen
            seen_now = by_header.get(_header_digest(one))
            if seen_now is not None:
                _note(seen_now, one)
        return found

    @cached_property
    def begun(self) -> dict[bytes, set[bytes]]:
        """Windows' orders as they were sent: runs by window."""
        found: dict[bytes, set[bytes]] = defaultdict(set)
        for one in self.said:
            if one.kind is Kind.BEGIN:
                begin = decode(Begin, one.asked)
                for order in begin.order:
                    found[order.window_id].add(begin.run_id)
        return found

    @cached_property
    def settled(self) -> dict[bytes, set[bytes]]:
        """Windows that clients were told to destroy: runs by window."""
        found: dict[bytes, set[bytes]] = defaultdict(set)
        for one in self.said:
            if one.kind is Kind.WIPE:
                wipe = decode(Wipe, one.asked)
                found[wipe.window_id].add(wipe.run_id)
        return found

    @cached_property
    def releases(self) -> list[tuple[str, Header, Release]]:
        """The transcript's lines: branch, header, release."""
        found = []
        for line in (self.field.server / "transcript.jsonl").read_text().splitlines():
            values = json.loads(line)
            release = decode(Release, base64.b64decode(values["release"]))
            found.append((values["branch"], _header(release.announcement.header), release))
        return found

    @cached_property
    def ledger(self) -> list[LedgerRow]:
        path = self.field.server / "ledger.sqlite"
        charges: dict[int, dict[str, Charge]] = defaultdict(dict)
        for event, subject, *values in rows(
            path, "SELECT event, subject, noise_multiplier, sampling_rate, grid_ratio, dimension, shares FROM charge"
        ):
            charges[event][subject] = Charge(*values)
        found = rows(
            path, "SELECT id, branch, round_number, phase, status, cohort, participants FROM event ORDER BY id"
        )
        return [
            LedgerRow(
                number=number,
                branch=branch,
                round_number=round_number,
                phase=phase,
                status=status,
                cohort=tuple(json.loads(cohort)),
                participants=None if participants is None else tuple(json.loads(participants)),
                charges=charges[number],
            )
            for number, branch, round_number, phase, status, cohort, participants in found
        ]

    @cached_property
    def parents(self) -> dict[str, str | None]:
        """Of the ledger's branches."""
        return dict(rows(self.field.server / "ledger.sqlite", "SELECT name, parent FROM branch"))

    @cached_property
    def runs(self) -> dict[bytes, str]:
        """Branches by run, as Begin messages and the transcript name them."""
        named = {header.run_id: branch for branch, header, _ in self.releases}
        for one in self.said:
            if one.kind is Kind.BEGIN:
                begin = decode(Begin, one.asked)
                named.setdefault(begin.run_id, begin.branch)
        return named

    def line_of(self, branch: str) -> list[str]:
        """A branch and those that it comes from."""
        line = [branch]
        while (parent := self.parents[line[-1]]) is not None:
            line.append(parent)
        return line


@lru_cache(maxsize=64)
def _header(content: bytes) -> Header:
    return decode(Header, content)


def _announcements(one: Exchanged) -> Iterator[Announcement]:
    if one.kind is Kind.INVITE:
        yield decode(Invitation, one.asked).announcement
    elif one.kind is Kind.BALLOT:
        yield decode(Ballot, one.asked).announcement
    elif one.kind is Kind.ISSUE_KEY:
        yield decode(Announcement, one.asked)


def _header_digest(one: Exchanged) -> bytes:
    if one.kind is Kind.QUORUM:
        return decode(Quorum, one.asked).header_digest
    if one.kind is Kind.OPEN:
        return decode(OpeningRequest, one.asked).roll.header_digest
    return next((announcement.header_digest for announcement in _announcements(one)), b"")


def _note(seen: RoundSeen, one: Exchanged) -> None:
    seen.last = max(seen.last, one.began if math.isinf(one.ended) else one.ended)
    if one.kind is Kind.BALLOT:
        seen.rolls.add(digest(decode(Ballot, one.asked).roll.statement))
    elif one.kind is Kind.OPEN:
        seen.rolls.add(digest(decode(OpeningRequest, one.asked).roll.statement))
    if one.answered is None:
        return
    if one.kind is Kind.INVITE:
        seen.uploads[one.party].add(digest(one.answered))
    elif one.kind is Kind.BALLOT:
        seen.votes[one.party].add(decode(Vote, one.answered).roll_digest)
    elif one.kind in (Kind.QUORUM, Kind.OPEN):
        kind = Answer if one.kind is Kind.QUORUM else Opening
        seen.answers[one.party].add(decode(kind, one.answered).roll_digest)
        seen.answer_bytes[one.party].add(digest(one.answered))
