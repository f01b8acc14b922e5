"""After a kill: what the logs of releases have and ledger or transcript do not is settled, and then all is checked."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from secure_fu.crypto import Roster
from secure_fu.errors import RecordError
from secure_fu.privacy import EventStatus, LedgerEvent, PrivacyLedger
from secure_fu.protocol.policy import Policy
from secure_fu.protocol.release_log import LoggedRelease, ReleaseLog
from secure_fu.protocol.transcript import transcript_line
from secure_fu.protocol.verification import VerifiedBranch, verify_against_ledger, verify_transcript

__all__ = ["reconcile"]


def reconcile(
    path: Path,
    *,
    logs: Mapping[str, ReleaseLog],
    ledger: PrivacyLedger,
    roster: Roster,
    policy: Policy,
) -> dict[str, VerifiedBranch]:
    """Finish the releases that were logged, and check that ledger, transcript and logs tell the same.

    Formal guarantees:
        A logged release is committed in the ledger and has its line in the transcript on return, once each, whether a
        kill came before, between or after. A round that was reserved and not logged stays charged to its cohort.
    Edge cases:
        A last line that was cut short is completed if a log has its release. A second call changes nothing.

    Args:
        path: of the transcript; there is none before the first release.
        logs: of each branch of the ledger that has one.
        ledger: open for writing.
        roster, policy: of the federation.

    Returns:
        the branches that have released something, by name, checked from outside by :func:`verify_transcript` and
        against the ledger.

    Raises:
        RecordError: the transcript does not have what a log goes on from, or ends in something else.
        TranscriptError: the transcript does not hold, or the ledger tells otherwise.
    """
    events = {(event.branch, event.round_number): event for event in ledger.events()}
    content = _read(path)
    whole, cut = content[: content.rfind(b"\n") + 1], content[content.rfind(b"\n") + 1 :]
    links = _links(path, whole)
    # The ledger's order is that in which the rounds were run, over all branches.
    order = sorted(
        (
            (branch, number, link)
            for branch, log in logs.items()
            for number, link in zip(log.rounds, log.links, strict=True)
        ),
        key=lambda entry: _event_id(events, path, entry[0], entry[1]),
    )
    missing = [(branch, logs[branch].read(number)) for branch, number, link in order if link not in links]
    lines = [_line(branch, logged) for branch, logged in missing]
    if cut and not (lines and lines[0].startswith(cut)):
        raise RecordError(
            f"{path} ends in a line that is cut short and that no log of releases can complete; restore it from a "
            "copy, or cut that line off if its round was never released"
        )
    if lines:
        _append(path, len(whole), b"".join(lines))
    reservations = {(one.branch, one.round_number): one for one in ledger.pending()}
    for branch, log in logs.items():
        for number in log.rounds:
            reservation = reservations.get((branch, number))
            if reservation is not None:
                ledger.commit(reservation, log.read(number).release.roll.participants)
    if not path.exists():
        return {}
    branches = verify_transcript(path, roster=roster, policy=policy)
    verify_against_ledger(branches, ledger)
    return {branch.name: branch for branch in branches}


def _event_id(events: Mapping[tuple[str, int], LedgerEvent], path: Path, branch: str, number: int) -> int:
    event = events.get((branch, number))
    if event is None or event.status is EventStatus.VOID:
        raise RecordError(
            f"round {number} of branch {branch!r} was logged as released, and the ledger beside {path} does not say "
            "so: the files are not of one federation, or some of them are older than others"
        )
    return event.event_id


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}") from error


def _links(path: Path, content: bytes) -> set[bytes]:
    """The hashes that the lines say that they have; whether they do is checked afterwards."""
    try:
        return {bytes.fromhex(json.loads(line)["hash"]) for line in content.splitlines()}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RecordError(f"{path} is damaged: {error}; restore it from a copy") from error


def _line(branch: str, logged: LoggedRelease) -> bytes:
    return (json.dumps(transcript_line(branch, logged.header, logged.release)) + "\n").encode()


def _append(path: Path, start: int, content: bytes) -> None:
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o644), "wb") as file:
            file.seek(start)
            file.write(content)
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise RecordError(f"{path} cannot be written: {error.strerror}") from error
