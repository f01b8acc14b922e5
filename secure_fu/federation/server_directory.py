"""What a server keeps of a federation's rounds: ledger, roster, policy, transcript, released sums."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from secure_fu.crypto import Roster
from secure_fu.errors import ArgumentError, LedgerError, RecordError
from secure_fu.federation.founding import Founding
from secure_fu.file_names import FOUNDING, POLICY, ROSTER, TRANSCRIPT
from secure_fu.privacy import EventStatus, PrivacyLedger
from secure_fu.protocol import (
    Policy,
    ReleaseLog,
    ResumableSums,
    Run,
    SecureSums,
    Transcript,
    VerifiedBranch,
    read_policy,
    reconcile,
    write_policy,
)
from secure_fu.protocol.files import write_whole
from secure_fu.protocol.run_id import run_id_of

__all__ = ["ServerDirectory", "check_public_files", "file_name", "kept_orders", "write_public_files"]

_PURPOSE = "purpose.txt"
_ORDER = "order.json"


def file_name(branch: str) -> str:
    """What the files of a branch are called."""
    return branch.replace("/", "-")


def kept_orders(directory: Path, branch: str) -> Mapping[bytes, bytes]:
    """Digest of the deletion order that a branch was begun for, by run key of the epoch in which it was.

    Args:
        directory: of the server.
        branch: its name.

    Returns:
        empty for a branch of training, or where released sums are not kept.

    Raises:
        RecordError: the file that says it is damaged.
    """
    path = directory / "releases" / file_name(branch) / _ORDER
    if not path.exists():
        return {}
    try:
        values = json.loads(path.read_bytes())
        return {bytes.fromhex(values["run_key"]): bytes.fromhex(values["order"])}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RecordError(f"{path} is damaged: {type(error).__name__}; restore it from a copy") from error


def write_public_files(directory: Path, *, roster: Roster, policy: Policy) -> None:
    """Write down what an outsider needs to check the run."""
    (directory / ROSTER).write_bytes(roster.encode())
    write_policy(policy, directory / POLICY)


def check_public_files(directory: Path, *, founding: Founding, roster: Roster, policy: Policy, keys: str) -> None:
    """Refuse keys, roster or policy of another federation, and terms or purposes that are not those of this one.

    Args:
        keys: name of the file that the roster was derived from.

    Raises:
        RecordError: a file is missing, damaged or of another federation.
        ArgumentError: the policy says otherwise; names the item.
    """
    for name, is_ours in (
        (keys, roster.digest == founding.roster_digest),
        (ROSTER, content_of(directory / ROSTER) == roster.encode()),
    ):
        if not is_ours:
            raise RecordError(f"{directory / name} is damaged or of another federation than {directory / FOUNDING}")
    path = directory / POLICY
    written = read_policy(path)
    for item in fields(Policy):
        then, now = getattr(written, item.name), getattr(policy, item.name)
        if then != now:
            raise ArgumentError(item.name, now, f"{then!r}, as {path} says")


class ServerDirectory:
    """Ledger, transcript and released sums of one federation, and the branches that they are of.

    Formal guarantees:
        What was logged as released is settled on return, and the transcript verified, and against the ledger. A branch
        is in the ledger last: what is on disk of one that is not was left by a kill, and nothing came of it.

    Args:
        directory: exists.
        ledger: open; its lock keeps other processes out.
        roster, policy: of the federation.
        founding: what was fixed beforehand.
        goes_on: whether it was there before, to be settled.
        keeps_releases: whether released sums are logged, so that the federation can be opened again.

    Raises:
        RecordError: a file is missing, damaged or of another federation.
        TranscriptError: the transcript does not hold, or the ledger tells otherwise.
    """

    def __init__(
        self,
        directory: Path,
        *,
        ledger: PrivacyLedger,
        roster: Roster,
        policy: Policy,
        founding: Founding,
        goes_on: bool,
        keeps_releases: bool,
    ) -> None:
        self.ledger, self.roster, self.policy = ledger, roster, policy
        self._directory = directory
        self._plan = founding.plan
        self.run_key = founding.run_key
        self._keeps_releases = keeps_releases
        self._transcripts: dict[str, Transcript] = {}
        self._logs: dict[str, ReleaseLog] = {}
        self._verified: Mapping[str, VerifiedBranch] = {}
        if goes_on:
            self._logs = {branch: ReleaseLog(self._log_path(branch)) for branch in ledger.branches}
            self._verified = reconcile(
                self.transcript_file, logs=self._logs, ledger=ledger, roster=roster, policy=policy
            )

    @property
    def transcript_file(self) -> Path:
        """The file that has a line for every release."""
        return self._directory / TRANSCRIPT

    def parent(self, branch: str) -> str | None:
        """A branch's parent.

        Raises:
            ArgumentError: there is no such branch.
        """
        branches = self.ledger.branches
        if branch not in branches:
            raise ArgumentError("branch", branch, f"one of {', '.join(branches) or 'none yet'}")
        return branches[branch]

    def check_new(self, branch: str) -> None:
        """Raise unless a branch can be begun under this name.

        Raises:
            LedgerError: the branch exists.
            ArgumentError: a branch exists whose files would have the same names.
        """
        if branch in self.ledger.branches:
            raise LedgerError(f"branch {branch!r} exists in {self._directory}")
        for other in self.ledger.branches:
            if file_name(other) == file_name(branch):
                raise ArgumentError("branch", branch, f"a name that is not kept in the same files as {other!r}")

    def begin(self, branch: str, *, parent: str | None, purpose: str, order: bytes = b"") -> None:
        """Make a branch: its log, then its place in the ledger.

        Args:
            branch: a new name.
            parent: that it goes on from.
            purpose: what it is for, see :meth:`purpose`.
            order: digest of the deletion order that it is for, which its run id commits to, see :meth:`run_id`.

        Raises:
            LedgerError, ArgumentError: as :meth:`check_new`, or the parent does not exist.
        """
        self.check_new(branch)
        if self._keeps_releases:
            self._logs[branch] = ReleaseLog(self._log_path(branch))
            write_whole(self._log_path(branch) / _PURPOSE, purpose.encode())
            if order:
                kept = {"order": order.hex(), "run_key": self.run_key.hex()}
                write_whole(self._log_path(branch) / _ORDER, json.dumps(kept).encode())
        self.ledger.branch(branch, parent=parent)

    def purpose(self, branch: str) -> str:
        """What a branch was begun for, in whatever words; a branch is resumed only for the same.

        Raises:
            ArgumentError: there is no such branch.
            RecordError: the file that says it is missing.
        """
        self.parent(branch)
        return content_of(self._log_path(branch) / _PURPOSE).decode(errors="replace")

    def log(self, branch: str) -> ReleaseLog | None:
        """The released sums of a branch; None where none are kept.

        Raises:
            ArgumentError: there is no such branch.
        """
        self.parent(branch)
        return self._logs.get(branch)

    def forget_releases(self, branch: str, *, until: int | None = None) -> None:
        """Destroy the logged sums of a branch, up to a round or all: it can then not be run again from there.

        Their lines in the transcript are durable before.

        Raises:
            ArgumentError: there is no such branch.
            RecordError: a file cannot be destroyed.
        """
        log = self.log(branch)
        if log is not None and log.rounds and (until is None or log.rounds[0] <= until):
            with self.transcript_file.open("rb") as file:
                os.fsync(file.fileno())
            log.destroy(until=until)

    def transcript(self, branch: str, start: bytes = bytes(32)) -> Transcript:
        """The transcript of one branch, which goes on from the link that `start` is the hash of."""
        return Transcript(start=start, path=self.transcript_file, branch=branch)

    def head(self, branch: str) -> bytes:
        """Hash of a branch's newest release, or of its parent's where it has none; 32 bytes, zeros before the first.

        Raises:
            ArgumentError: there is no such branch.
        """
        if branch in self._transcripts:
            return self._transcripts[branch].head
        if branch in self._verified:
            return self._verified[branch].head
        parent = self.parent(branch)
        return bytes(32) if parent is None else self.head(parent)

    def resumed(self, branch: str, sums: SecureSums, *, after: int = -1) -> ResumableSums:
        """A branch's secure sums, of which those are read from disk that were released before it was opened again.

        Args:
            branch: its name.
            sums: for what comes after.
            after: number of the last round behind the state that the caller goes on from; -1 for the branch's start.

        Raises:
            ArgumentError: there is no such branch.
        """
        return ResumableSums(sums, self.log(branch), after=after)

    def next_round(self, branch: str) -> int:
        """A number above every round that was reserved in a branch, or in its parent where it has none itself.

        Raises:
            ArgumentError: there is no such branch.
        """
        parent = self.parent(branch)
        numbers = [event.round_number for event in self.ledger.events(branch)]
        if numbers:
            return max(numbers) + 1
        return 0 if parent is None else self.next_round(parent)

    def last_released(self, branch: str) -> int:
        """Number of the newest round that the ledger says was released in a branch; -1 before the first."""
        return max(
            (event.round_number for event in self.ledger.events(branch) if event.status is EventStatus.COMMITTED),
            default=-1,
        )

    def order(self, branch: str) -> bytes:
        """Digest of the deletion order that a branch was begun for in this epoch; empty for any other branch.

        In a later epoch a branch goes on with training alone, and with parties that the order was never given to.

        Raises:
            RecordError: the file that says it is damaged.
        """
        return kept_orders(self._directory, branch).get(self.run_key, b"")

    def run_id(self, branch: str, order: bytes | None = None) -> bytes:
        """The id that a branch's rounds carry, 16 bytes; public. See :func:`secure_fu.protocol.run_id.run_id_of`.

        Args:
            branch: its name.
            order: digest of the deletion order that it is for; None takes the one that it was begun for, if any.

        Raises:
            RecordError: as :meth:`order`.
        """
        return run_id_of(self.run_key, branch, self.order(branch) if order is None else order)

    def run(self, branch: str, transcript: Transcript) -> Run:
        """A branch as its round server sees it.

        Args:
            transcript: of the branch, from its :meth:`head` on.
        """
        self._transcripts[branch] = transcript
        log = self.log(branch)
        return Run(
            run_id=self.run_id(branch),
            roster=self.roster,
            policy=self.policy,
            grid=self._plan.grid,
            sum_bits=self._plan.sum_bits,
            ledger=self.ledger,
            branch=branch,
            transcript=transcript,
            on_release=None if log is None else log.append,
        )

    def _log_path(self, branch: str) -> Path:
        return self._directory / "releases" / file_name(branch)


def content_of(path: Path) -> bytes:
    """What is in a file.

    Raises:
        RecordError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}") from error
