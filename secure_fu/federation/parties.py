"""All parties of a federation in one process: identities, roster, policy, records, and a branch's state machines."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from secure_fu.crypto import (
    CommitteeTerms,
    EncryptionPool,
    InsecureDeterministicRandomness,
    Randomness,
    Role,
    Roster,
    scheme,
)
from secure_fu.errors import ArgumentError
from secure_fu.federation.agreed_policy import KEY_HOLDER_ALONE, parameter_sets_of, policy_of
from secure_fu.federation.party_directory import PartyDirectory
from secure_fu.planning import Plan
from secure_fu.protocol import (
    Client,
    ClientRecord,
    CommitteeEncryption,
    CommitteeOpening,
    CommitteeServer,
    GridKind,
    InProcessSums,
    KeyHolder,
    KeyHolderEncryption,
    KeyHolderOpening,
    KeyHolderServer,
    LocalTask,
    Member,
    MemberRecord,
    Policy,
    Run,
    Transcript,
    UploadEncryption,
)
from secure_fu.scheme_names import KAHE, SCHEMES

__all__ = ["DEFAULT_COMMITTEE", "Parties"]

DEFAULT_COMMITTEE = CommitteeTerms(members=10, threshold=7, quorum=7, corrupt=3)
"""Ten members, of whom any three may pool all they know with the server, and any three may be away."""

_SERVER = "server"
_KEY_HOLDER = "key-holder"

Accident = Callable[[int, str], bool]


def _never(_round: int, _name: str) -> bool:
    return False


class Parties:
    """Makes every party's keys and records, and writes down in `directory` what an outsider needs to check the run.

    Formal guarantees:
        With `new=False` the parties go on after their process ended in whatever way: with the same keys, run ids,
        budgets and records. What was released is released and charged once; a round that was under way stays charged,
        and no round number is used twice. :class:`~secure_fu.federation.party_directory.PartyDirectory` says what is
        not guaranteed.

    Args:
        clients: names.
        plan: recipe, budget and cohort.
        scheme_name: `kahe`, `bfv` or `plain`.
        terms: of the committee; for `kahe` only.
        purposes: that clients serve.
        directory: for keys, ledger, transcript, releases, records, roster and policy.
        cohort: names of the clients to invite to a given round number.
        vanishes: whether a client fails to answer, by (round number, name): a simulated accident.
        member_vanishes: the same for members of the committee.
        encryption_processes: worker processes that encrypt; for schemes with a key-holder.
        randomness: of sampling, rounding and noise.
        facts: what else is fixed beforehand, by name; public.
        new: whether to make them, in a directory that has none; otherwise they must be there, and be the same.
        resumable: whether new ones write down what it takes to open them again, their secret keys among it.

    Raises:
        ArgumentError: an argument is out of its domain, or not what was written down; names it.
        LedgerError, RecordError, CryptoError, TranscriptError: the directory has a federation already, or another; it
            is incomplete or damaged; or another process has it.
    """

    def __init__(
        self,
        clients: Collection[str],
        *,
        plan: Plan,
        scheme_name: str,
        terms: CommitteeTerms,
        purposes: frozenset[str],
        directory: Path,
        cohort: Callable[[int], tuple[str, ...]],
        vanishes: Accident,
        member_vanishes: Accident = _never,
        encryption_processes: int,
        randomness: Randomness,
        facts: Mapping[str, str] | None = None,
        new: bool = True,
        resumable: bool = False,
    ) -> None:
        if scheme_name not in SCHEMES:
            raise ArgumentError("scheme_name", scheme_name, f"one of {', '.join(SCHEMES)}")
        if plan.grid is GridKind.ROTATED and scheme_name != KAHE:
            raise ArgumentError("plan.grid", plan.grid.value, f"{GridKind.FINE.value!r}, with scheme {scheme_name}")
        self._scheme_name = scheme_name
        self._scheme = None if scheme_name == KAHE else scheme(scheme_name)
        if not isinstance(terms, CommitteeTerms):
            raise ArgumentError("committee", terms, "a CommitteeTerms")
        self._terms = terms if self._scheme is None else KEY_HOLDER_ALONE
        committee = _committee(self._terms) if self._scheme is None else (_KEY_HOLDER,)
        taken = sorted({_SERVER, *committee} & set(clients))
        if taken:
            raise ArgumentError("clients", taken, f"names other than {_SERVER!r} and those of the committee")
        if not new and isinstance(randomness, InsecureDeterministicRandomness):
            raise ArgumentError("randomness", randomness, "another source: it would repeat the noise of earlier rounds")
        self._clients = tuple(sorted(clients))
        self._plan = plan
        self._cohort, self._vanishes, self._member_vanishes = cohort, vanishes, member_vanishes
        self._randomness = randomness
        self._committee = committee
        self._purposes = purposes
        opener_role = Role.MEMBER if self._scheme is None else Role.KEY_HOLDER
        self._files = PartyDirectory(
            directory,
            clients=self._clients,
            plan=plan,
            scheme_name=scheme_name,
            facts=facts or {},
            roles={
                **dict.fromkeys(self._clients, Role.CLIENT),
                _SERVER: Role.SERVER,
                **dict.fromkeys(committee, opener_role),
            },
            committee=committee if self._scheme is None else None,
            policy_of=self._policy,
            new=new,
            resumable=resumable,
        )
        self._identities = self._files.identities
        self.server = self._files.server
        self.ledger = self.server.ledger
        self.roster = self.server.roster
        self.policy = self.server.policy
        self._pool = (
            EncryptionPool(scheme_name, encryption_processes)
            if self._scheme is not None and encryption_processes
            else None
        )

    def _policy(self, roster: Roster) -> Policy:
        return policy_of(
            self._plan,
            roster=roster,
            server=_SERVER,
            committee=self._committee,
            terms=self._terms,
            purposes=self._purposes,
            parameter_sets=parameter_sets_of(self._scheme_name),
        )

    def close(self) -> None:
        """Close ledger and records, end worker processes."""
        if self._pool is not None:
            self._pool.close()
        self._files.close()

    def sums(
        self,
        branch: str,
        *,
        parent: str | None,
        tasks: Mapping[str, Mapping[str, LocalTask]],
        transcript: Transcript,
        first_round: int,
        purpose: str = "",
    ) -> InProcessSums:
        """The secure sums of a new branch.

        Args:
            branch: a new name.
            parent: the branch that it goes on from, of ledger and clients' records alike.
            tasks: each client's code by purpose.
            transcript: of the branch.
            first_round: number of its first round.
            purpose: what it is for, in whatever words; the server's directory tells when it might be resumed.

        Raises:
            LedgerError: the branch exists.
            ArgumentError: the parent does not; or a branch exists whose files would have the same names.
        """
        return self._driver(
            branch, self._files.begin(branch, parent=parent, purpose=purpose), tasks, transcript, first_round
        )

    def reopened_sums(
        self, branch: str, *, tasks: Mapping[str, Mapping[str, LocalTask]], transcript: Transcript
    ) -> InProcessSums:
        """The secure sums of a branch that was begun before, under its next round number.

        They run new rounds; :class:`~secure_fu.protocol.ResumableSums` answers what was released.

        Args:
            branch: its name.
            tasks: each client's code by purpose.
            transcript: of the branch, from its head on.

        Raises:
            ArgumentError: there is no such branch, or the transcript starts elsewhere.
            RecordError: the clients' or the openers' record is missing, or knows less than the ledger.
        """
        if transcript.head != self.server.head(branch):
            raise ArgumentError("transcript", transcript.head.hex(), f"one from {self.server.head(branch).hex()} on")
        self._files.check_records(branch)
        record = self._files.client_record(branch)
        first_round = max(self.server.next_round(branch), record.newest(self.server.run_id(branch)) + 1)
        return self._driver(branch, record, tasks, transcript, first_round)

    def _driver(
        self,
        branch: str,
        record: ClientRecord,
        tasks: Mapping[str, Mapping[str, LocalTask]],
        transcript: Transcript,
        first_round: int,
    ) -> InProcessSums:
        run = self.server.run(branch, transcript)
        encryption = self._encryption()
        clients = {
            name: Client(
                self._identities[name],
                roster=self.roster,
                policy=self.policy,
                encryption=encryption,
                tasks=tasks[name],
                randomness=self._randomness,
                record=record,
            )
            for name in self._clients
        }
        return InProcessSums(
            opening=self._opening(run),
            clients=clients,
            record=record,
            cohort=self._cohort,
            vanishes=self._vanishes,
            first_round=first_round,
            ahead=0 if self._pool is None else self._pool.processes,
        )

    def _encryption(self) -> UploadEncryption:
        if self._scheme is None:
            return CommitteeEncryption(roster=self.roster)
        return KeyHolderEncryption(
            self._scheme, roster=self.roster, server=_SERVER, key_holder=_KEY_HOLDER, encryptor=self._pool
        )

    def _opening(self, run: Run) -> CommitteeOpening | KeyHolderOpening:
        record = self._files.opener_record
        if isinstance(record, MemberRecord):
            members = [
                Member(self._identities[name], roster=self.roster, policy=self.policy, record=record)
                for name in self.policy.committee
            ]
            return CommitteeOpening(
                CommitteeServer(self._identities[_SERVER], run), members, record, vanishes=self._member_vanishes
            )
        opening_scheme = scheme(self._scheme_name)
        key_holder = KeyHolder(
            self._identities[_KEY_HOLDER],
            roster=self.roster,
            policy=self.policy,
            scheme=opening_scheme,
            record=record,
        )
        return KeyHolderOpening(KeyHolderServer(self._identities[_SERVER], run, scheme=opening_scheme), key_holder)


def _committee(terms: CommitteeTerms) -> tuple[str, ...]:
    digits = len(str(terms.members - 1))
    return tuple(f"member-{number:0{digits}}" for number in range(terms.members))
