"""The directory that the parties of an in-process federation keep: made once, and opened again after any end."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack, closing
from pathlib import Path

from secure_fu.crypto import Identity, Role, Roster
from secure_fu.crypto.identity_file import make_identities, read_identities
from secure_fu.errors import RecordError
from secure_fu.federation.founding import Founding, read_founding, write_founding
from secure_fu.federation.server_directory import (
    ServerDirectory,
    check_public_files,
    file_name,
    write_public_files,
)
from secure_fu.federation.stored_formats import upgrade
from secure_fu.file_names import FOUNDING, LEDGER
from secure_fu.planning import Plan
from secure_fu.privacy import PrivacyLedger
from secure_fu.protocol import ClientRecord, MemberRecord, OpeningRecord, Policy
from secure_fu.protocol.files import destroy_file

__all__ = ["PartyDirectory"]

_KEYS = "identities.bin"


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
        founding = None
        if not new:
            upgrade(directory)
            founding = read_founding(directory / FOUNDING)
            founding.check(clients=clients, scheme_name=scheme_name, plan=plan, facts=facts, path=directory / FOUNDING)
        with ExitStack() as opened:
            # First: it refuses a directory that has one, whose other files stay as they are, or that is in use.
            path = directory / LEDGER
            ledger = opened.enter_context(
                PrivacyLedger.create(path, budget=plan.budget) if new else PrivacyLedger.open(path)
            )
            keys = directory / _KEYS
            if new and not resumable:
                self.identities = {name: Identity.generate(name, role) for name, role in roles.items()}
            else:
                self.identities = make_identities(keys, roles) if new else read_identities(keys)
            roster = Roster.of(identity.party for identity in self.identities.values())
            policy = policy_of(roster)
            if founding is not None:
                check_public_files(directory, founding=founding, roster=roster, policy=policy, keys=_KEYS)
            self.opener_record = (
                OpeningRecord(directory / "key_holder.sqlite", new=new)
                if committee is None
                else MemberRecord(directory / "committee.sqlite", new=new)
            )
            opened.enter_context(closing(self.opener_record))
            if founding is None:
                write_public_files(directory, roster=roster, policy=policy)
                (directory / "clients").mkdir(exist_ok=True)
                founding = Founding(
                    clients=clients,
                    scheme_name=scheme_name,
                    plan=plan,
                    roster_digest=roster.digest,
                    run_key=os.urandom(32),
                    facts=dict(facts),
                )
                if resumable:
                    write_founding(directory / FOUNDING, founding)  # last: it says that the others are there
            self.server = ServerDirectory(
                directory,
                ledger=ledger,
                roster=roster,
                policy=policy,
                founding=founding,
                goes_on=not new,
                keeps_releases=resumable or not new,
            )
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Close ledger and records."""
        for record in self._client_records.values():
            record.close()
        self._opened.close()

    def begin(self, branch: str, *, parent: str | None, purpose: str) -> ClientRecord:
        """Make a branch: its clients' record, then what the server keeps of it.

        Args:
            branch: a new name.
            parent: that it goes on from.
            purpose: what it is for, see :meth:`ServerDirectory.purpose`.

        Raises:
            LedgerError, ArgumentError: as :meth:`ServerDirectory.begin`.
        """
        self.server.check_new(branch)
        path = self._record_path(branch)
        # The ledger gets the branch last: what is here without being there was left by a kill, and nothing came of it.
        for left in (path.with_name(f"{path.name}-journal"), path):
            destroy_file(left)
        record = ClientRecord(path, new=True) if parent is None else self.client_record(parent).fork(path)
        self._client_records[branch] = record
        self.server.begin(branch, parent=parent, purpose=purpose)
        return record

    def client_record(self, branch: str) -> ClientRecord:
        """The clients' record of a branch.

        Raises:
            ArgumentError: there is no such branch.
            RecordError: the file is missing or damaged.
        """
        self.server.parent(branch)
        if branch not in self._client_records:
            self._client_records[branch] = ClientRecord(self._record_path(branch))
        return self._client_records[branch]

    def check_records(self, branch: str) -> None:
        """Refuse records of clients or members that do not know what the ledger says was released in a branch.

        Raises:
            RecordError: they are of another federation, or older copies.
        """
        released, run_id = self.server.last_released(branch), self.server.run_id(branch)
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
        return self._directory / "clients" / f"{file_name(branch)}.sqlite"


def _newest_vote(record: MemberRecord, committee: Collection[str], run_id: bytes) -> int:
    votes = (record.newest(name, run_id) for name in committee)
    return max((vote.round_number for vote in votes if vote is not None), default=-1)
