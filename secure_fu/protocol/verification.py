"""Checking a transcript from outside: with the roster and, better, a policy, and nothing of the server's word.

And, where there is one, whether the server's own privacy ledger tells the same.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from secure_fu.crypto import Role, Roster
from secure_fu.crypto.wire import decode, encode
from secure_fu.errors import SecureFUError, TranscriptError
from secure_fu.privacy import EventStatus, GaussianSumEvent, Phase, PrivacyLedger, Subject
from secure_fu.protocol.committee.votes import check_quorum
from secure_fu.protocol.header import Header, charges_of, committee_of, opener_role_of, phase_of
from secure_fu.protocol.key_holder.messages import OpeningStatement
from secure_fu.protocol.messages import Domain, Release, digest
from secure_fu.protocol.policy import Policy
from secure_fu.protocol.roll_check import check_roll
from secure_fu.protocol.transcript import transcript_line

__all__ = ["VerifiedBranch", "VerifiedRelease", "verify_against_ledger", "verify_transcript"]

_START = bytes(32)


@dataclass(frozen=True, kw_only=True)
class VerifiedRelease:
    """One release, as far as signatures show it.

    Attributes:
        round_number, purpose, phase, parameter_set: from the header.
        charges: what the header says that the release costs a unit.
        participants: clients that signed an upload that is in the sum.
        values_digest: SHA-256 of the released integers.
        unit: of privacy, from the header.
        model: hash of the model that the round computed on, from the header; 64 hexadecimal digits, as the two below.
        previous: hash of the release that it follows.
        link: hash of the release itself.
        line: of the file, from 1.
    """

    round_number: int
    purpose: str
    phase: Phase
    parameter_set: str
    charges: Mapping[Subject, GaussianSumEvent | None]
    participants: tuple[str, ...]
    values_digest: bytes
    unit: str
    model: str
    previous: str
    link: str
    line: int


@dataclass(kw_only=True)
class VerifiedBranch:
    """One run, or a branch of a simulation.

    Attributes:
        name: as the file says; nobody signs it.
        run_id: 16 bytes.
        openers: what the headers say of who opens.
        head: hash of the newest release.
        releases: in order.
    """

    name: str
    run_id: bytes
    openers: str
    head: bytes
    releases: list[VerifiedRelease] = field(default_factory=list)


def verify_transcript(path: Path, *, roster: Roster, policy: Policy | None = None) -> tuple[VerifiedBranch, ...]:
    """Check every line of a transcript file.

    Formal guarantees:
        Each line is signed by the roster's server, follows an earlier line (or starts a run), and names a roll in which
        every client of the sum signed its own upload under this very header, at least the header's minimum cohort of
        them, and which a quorum of the header's committee (or the key-holder) approved. Every round number increases
        within its run. With a policy, every header is one that it allows. What a line says for readers is what is
        signed, and each line is the one text that says it.
    Not guaranteed:
        That the released sum is the sum of the uploads (the server can add to it), that no line is missing at the end
        of a branch, that the file shows every run of the federation, and the names of branches. Without a policy, that
        the header's own numbers are what the parties pinned.

    Args:
        path: of the file.
        roster: pinned by whoever checks, not taken from the server.
        policy: what the headers must keep to; None checks them against themselves only.

    Returns:
        the branches, in the order in which they begin.

    Raises:
        TranscriptError: names the first line that does not hold, and why.
    """
    branches: dict[str, VerifiedBranch] = {}
    heads = {_START}
    for number, line in _lines(path):
        try:
            _verify_line(number, line, branches, heads, roster, policy)
        except (SecureFUError, ArithmeticError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise TranscriptError(f"{path}, line {number}: {error}") from error
    return tuple(branches.values())


def verify_against_ledger(branches: Collection[VerifiedBranch], ledger: PrivacyLedger) -> int:
    """Check that the server's ledger has charged every release, as its header says, to those who took part.

    Nobody signs the ledger: this shows that the two files of a server agree, not more.

    Returns:
        the number of rounds that the ledger has charged without a release among these: they ended unopened, or their
        lines are missing.

    Raises:
        TranscriptError: a release is not in the ledger, or is there as something else.
    """
    settled = {
        (event.branch, event.round_number): event for event in ledger.events() if event.status is not EventStatus.VOID
    }
    for branch in branches:
        for release in branch.releases:
            place = f"round {release.round_number} of branch {branch.name!r}"
            event = settled.pop((branch.name, release.round_number), None)
            if event is None or event.status is not EventStatus.COMMITTED:
                raise TranscriptError(f"{place} was released, and the ledger does not say so")
            if event.participants != release.participants:
                raise TranscriptError(f"{place} is charged to other clients than took part in it")
            if (event.purpose, event.phase, event.charges) != (release.purpose, release.phase, release.charges):
                raise TranscriptError(f"{place} is charged as something else than its header says")
    return len(settled)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8") as file:
            yield from enumerate(file, start=1)
    except (OSError, UnicodeDecodeError) as error:
        raise TranscriptError(f"{path} cannot be read: {error}") from error


def _verify_line(
    number: int,
    line: str,
    branches: dict[str, VerifiedBranch],
    heads: set[bytes],
    roster: Roster,
    policy: Policy | None,
) -> None:
    fields = json.loads(line)
    if not isinstance(fields, dict) or not isinstance(fields.get("branch"), str) or not fields["branch"].isprintable():
        raise TranscriptError("it is no JSON object with the printable name of a branch")
    body = base64.b64decode(fields["release"], validate=True)
    release = decode(Release, body)
    header = _checked_header(release, roster, policy)
    # Text for text: JSON has many ways to say the same, and some that two readers understand differently.
    if line.removesuffix("\n") != json.dumps(transcript_line(fields["branch"], header, release)):
        raise TranscriptError("what the line says for readers is not what is signed")
    _check_openers(release, header, roster)
    branch = branches.get(fields["branch"])
    if branch is None:
        if header.previous_transcript not in heads:
            raise TranscriptError("it follows no earlier line")
        if any(other.run_id == header.run_id for other in branches.values()):
            raise TranscriptError("its run has another branch's name")
        branch = VerifiedBranch(
            name=fields["branch"], run_id=header.run_id, openers=_openers(header), head=header.previous_transcript
        )
    if header.run_id != branch.run_id:
        raise TranscriptError("it is of another run than its branch")
    if header.previous_transcript != branch.head:
        raise TranscriptError("it does not follow the line before it in its branch")
    if branch.releases and header.round_number <= branch.releases[-1].round_number:
        raise TranscriptError(f"round {header.round_number} comes after round {branch.releases[-1].round_number}")
    branch.releases.append(
        VerifiedRelease(
            round_number=header.round_number,
            purpose=header.purpose,
            phase=phase_of(header),
            parameter_set=header.parameter_set,
            charges=charges_of(header),
            participants=release.roll.participants,
            values_digest=release.values_digest,
            unit=header.unit,
            model=header.model_digest.hex(),
            previous=header.previous_transcript.hex(),
            link=digest(body).hex(),
            line=number,
        )
    )
    branch.head = digest(body)
    branches[branch.name] = branch
    heads.add(branch.head)


def _checked_header(release: Release, roster: Roster, policy: Policy | None) -> Header:
    servers = roster.names(Role.SERVER)
    if len(servers) != 1:
        raise TranscriptError(f"the roster has {len(servers)} servers; expected one")
    announcement = release.announcement
    roster.verify(servers[0], Role.SERVER, Domain.HEADER, announcement.header, announcement.signature)
    roster.verify(servers[0], Role.SERVER, Domain.RELEASE, release.statement, release.signature)
    header = decode(Header, announcement.header)
    if header.roster_digest != roster.digest:
        raise TranscriptError(f"its roster is {header.roster_digest.hex()}, not the one given, {roster.digest.hex()}")
    if policy is not None:
        if policy.server != servers[0]:
            raise TranscriptError(f"the roster's server is {servers[0]!r}, the policy's {policy.server!r}")
        policy.check(header)
        policy.check_cohort(header, roster)
    check_roll(release.roll, header, announcement.header_digest, roster=roster, server=servers[0])
    return header


def _check_openers(release: Release, header: Header, roster: Roster) -> None:
    committee_of(header)
    header_digest, roll_digest = release.announcement.header_digest, digest(release.roll.statement)
    if opener_role_of(header) is Role.MEMBER:
        check_quorum(release.approvals, header, header_digest=header_digest, roll_digest=roll_digest, roster=roster)
        return
    statement = encode(
        OpeningStatement(header_digest=header_digest, roll_digest=roll_digest, values_digest=release.values_digest)
    )
    if [approval.name for approval in release.approvals] != list(header.committee):
        raise TranscriptError("it is not approved by the header's key-holder")
    for approval in release.approvals:
        roster.verify(approval.name, Role.KEY_HOLDER, Domain.OPENING, statement, approval.signature)


def _openers(header: Header) -> str:
    if opener_role_of(header) is Role.KEY_HOLDER:
        return f"key-holder {header.committee[0]}"
    return f"committee of {len(header.committee)}, quorum {header.quorum}, at most {header.corrupt} corrupt"
