"""The directory that the parties of an in-process federation keep: made once, and opened again after any end."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack, closing
from dataclasses import fields
from pathlib import Path

from secure_fu.crypto import Identity, Role, Roster
from secure_fu.crypto.identity_file import make_identities, read_identities
from secure_fu.errors import ArgumentError, LedgerError, RecordError
from secure_fu.federation.founding import FOUNDING, Founding, read_founding, write_founding
from secure_fu.planning import Plan
from secure_fu.privacy import EventStatus, PrivacyLedger
from secure_fu.protocol import (
    ClientRecord,
    MemberRecord,
    OpeningRecord,
    Policy,
    ReleaseLog,
    VerifiedBranch,
    read_policy,
    settle,
    write_policy,
)
from secure_fu.protocol.files import destroy_file, write_whole

__all__ = ["PartyDirectory"]

_PURPOSE = "purpose.txt"


class PartyDirectory:
    """Keys, ledger, roster, policy, records, transcript and releases of one federation.

    Formal guarantees:
        One process at a time has it, by the ledger's lock. It is opened again only as what it was made as; on return
        what was logged as released is settled, and the transcript verified, and against the ledger. A kill while it is
        made leaves a directory that is refused.
    Not guaranteed:
        That keys stay secret from who can read the directory: in a simulation the secret keys of all parties are in one
        file of it, of mode 600. A real party keeps its own, and only those. Whoever restores an older copy of the
        directory, or of files in it, makes parties forget promises.

    Args:
        directory: exists.
        clients: names, sorted.
        plan, scheme_name, facts: as they were, or will be, written down.
        roles: of all parties, by name.
        committee: names of the committee's members; None where a key-holder opens.
        policy_of: the policy of a roster.
        new: whether to make it, where there is no ledger; otherwise it must be there.
        resumable: whether a new one can be opened again. Otherwise no secret key and no released sum is written.

    Raises:
        ArgumentError: an argument is not what was written down; names it.
        LedgerError: there is a ledger already; or it is missing, damaged, or another process has the directory.
        RecordError, CryptoError: another file exists already; or it is missing, damaged or of another federation.
        TranscriptError: the transcript does not hold, or the ledger tells otherwise.
    """

    def __init__(
        self,
        directory: Path,
        *,
        clients: tuple[str, ...],
        plan: Plan,
        scheme_name: str,
        facts: Mapping[str, str],
        roles: Mapping[str, Role],
        committee: tuple[str, ...] | None,
        policy_of: Callable[[Roster], Policy],
        new: bool,
        resumable: bool,
    ) -> None:
        self._directory = directory
        self._committee = committee
        self._client_records: dict[str, ClientRecord] = {}
        self._logs: dict[str, ReleaseLog] = {}
        self.verified: Mapping[str, VerifiedBranch] = {}
        founding = None
        if not new:
            founding = read_founding(directory / FOUNDING)
            founding.check(clients=clients, scheme_name=scheme_name, plan=plan, facts=facts, path=directory / FOUNDING)
        with ExitStack() as opened:
            # First: it refuses a directory that has one, whose other files stay as they are, or that is in use.
            ledger = directory / "ledger.sqlite"
            self.ledger = opened.enter_context(
                PrivacyLedger.create(ledger, budget=plan.budget) if new else PrivacyLedger.open(ledger)
            )
            keys = directory / "identities.bin"
            if new and not resumable:
                self.identities = {name: Identity.generate(name, role) for name, role in roles.items()}
            else:
                self.identities = make_identities(keys, roles) if new else read_identities(keys)
            self.roster = Roster.of(identity.party for identity in self.identities.values())
            self.policy = policy_of(self.roster)
            if founding is not None:
                self._check_files(founding)
            self.opener_record = (
                OpeningRecord(directory / "key_holder.sqlite", new=new)
                if committee is None
                else MemberRecord(directory / "committee.sqlite", new=new)
            )
            opened.enter_context(closing(self.opener_record))
            if founding is None:
                (directory / "roster.bin").write_bytes(self.roster.encode())
                write_policy(self.policy, directory / "policy.toml")
                (directory / "clients").mkdir(exist_ok=True)
                founding = Founding(
                    clients=clients,
                    scheme_name=scheme_name,
                    plan=plan,
                    roster_digest=self.roster.digest,
                    run_key=os.urandom(32),
                    facts=dict(facts),
                )
                if resumable:
                    write_founding(directory / FOUNDING, founding)  # last: it says that the others are there
            else:
                self._logs = {branch: ReleaseLog(self._log_path(branch)) for branch in self.ledger.branches}
                self.verified = settle(
                    self.transcript, logs=self._logs, ledger=self.ledger, roster=self.roster, policy=self.policy
                )
            self._resumable = resumable or not new
            self.run_key = founding.run_key
            self._opened = opened.pop_all()

    def _check_files(self, founding: Founding) -> None:
        """Refuse keys, roster or policy of another federation, and terms or purposes that are not those of this one."""
        for name, is_ours in (
            ("identities.bin", self.roster.digest == founding.roster_digest),
            ("roster.bin", _content(self._directory / "roster.bin") == self.roster.encode()),
        ):
            if not is_ours:
                raise RecordError(
                    f"{self._directory / name} is damaged or of another federation than {self._directory / FOUNDING}"
                )
        path = self._directory / "policy.toml"
        written = read_policy(path)
        for item in fields(Policy):
            then, now = getattr(written, item.name), getattr(self.policy, item.name)
            if then != now:
                raise ArgumentError(item.name, now, f"{then!r}, as {path} says")

    def close(self) -> None:
        """Close ledger and records."""
        for record in self._client_records.values():
            record.close()
        self._opened.close()

    @property
    def transcript(self) -> Path:
        """The file that has a line for every release."""
        return self._directory / "transcript.jsonl"

    def parent(self, branch: str) -> str | None:
        """A branch's parent.

        Raises:
            ArgumentError: there is no such branch.
        """
        branches = self.ledger.branches
        if branch not in branches:
            raise ArgumentError("branch", branch, f"one of {', '.join(branches) or 'none yet'}")
        return branches[branch]

    def begin(self, branch: str, *, parent: str | None, purpose: str) -> ClientRecord:
        """Make a branch: its clients' record, its log, its place in the ledger.

        Args:
            branch: a new name.
            parent: that it goes on from.
            purpose: what it is for, see :meth:`purpose`.

        Raises:
            LedgerError: the branch exists.
            ArgumentError: the parent does not; or a branch exists whose files would have the same names.
        """
        if branch in self.ledger.branches:
            raise LedgerError(f"branch {branch!r} exists in {self._directory}")
        for other in self.ledger.branches:
            if _file_name(other) == _file_name(branch):
                raise ArgumentError("branch", branch, f"a name that is not kept in the same files as {other!r}")
        path = self._record_path(branch)
        # The ledger gets the branch last: what is here without being there was left by a kill, and nothing came of it.
        for left in (path.with_name(f"{path.name}-journal"), path):
            destroy_file(left)
        record = ClientRecord(path, new=True) if parent is None else self.client_record(parent).fork(path)
        self._client_records[branch] = record
        if self._resumable:
            self._logs[branch] = ReleaseLog(self._log_path(branch))
            write_whole(self._log_path(branch) / _PURPOSE, purpose.encode())
        self.ledger.branch(branch, parent=parent)
        return record

    def purpose(self, branch: str) -> str:
        """What a branch was begun for, in whatever words; a branch is resumed only for the same.

        Raises:
            ArgumentError: there is no such branch.
            RecordError: the file that says it is missing.
        """
        self.parent(branch)
        return _content(self._log_path(branch) / _PURPOSE).decode(errors="replace")

    def forget_releases(self, branch: str, *, until: int | None = None) -> None:
        """Destroy the logged sums of a branch, up to a round or all; their lines in the transcript are durable before.

        Raises:
            ArgumentError: there is no such branch.
            RecordError: a file cannot be destroyed.
        """
        log = self.log(branch)
        if log is not None and log.rounds and (until is None or log.rounds[0] <= until):
            with self.transcript.open("rb") as file:
                os.fsync(file.fileno())
            log.destroy(until=until)

    def client_record(self, branch: str) -> ClientRecord:
        """The clients' record of a branch.

        Raises:
            ArgumentError: there is no such branch.
            RecordError: the file is missing or damaged.
        """
        self.parent(branch)
        if branch not in self._client_records:
            self._client_records[branch] = ClientRecord(self._record_path(branch))
        return self._client_records[branch]

    def log(self, branch: str) -> ReleaseLog | None:
        """The released sums of a branch; None where none are kept.

        Raises:
            ArgumentError: there is no such branch.
        """
        self.parent(branch)
        return self._logs.get(branch)

    def check_records(self, branch: str, run_id: bytes) -> None:
        """Refuse records of clients or members that do not know what the ledger says was released in a branch.

        Raises:
            RecordError: they are of another federation, or older copies.
        """
        released = max(
            (event.round_number for event in self.ledger.events(branch) if event.status is EventStatus.COMMITTED),
            default=-1,
        )
        newest = {self._record_path(branch): self.client_record(branch).newest(run_id)}
        if isinstance(self.opener_record, MemberRecord):
            path = self._directory / "committee.sqlite"
            newest[path] = _newest_vote(self.opener_record, self._committee or (), run_id)
        for path, number in newest.items():
            if number < released:
                raise RecordError(
                    f"{path} knows of no round after {number} of branch {branch!r}, and round {released} was released: "
                    "it is of another federation, or an older copy; whoever it belongs to needs new keys"
                )

    def _record_path(self, branch: str) -> Path:
        return self._directory / "clients" / f"{_file_name(branch)}.sqlite"

    def _log_path(self, branch: str) -> Path:
        return self._directory / "releases" / _file_name(branch)


def _file_name(branch: str) -> str:
    return branch.replace("/", "-")


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}") from error


def _newest_vote(record: MemberRecord, committee: Collection[str], run_id: bytes) -> int:
    votes = (record.newest(name, run_id) for name in committee)
    return max((vote.round_number for vote in votes if vote is not None), default=-1)
