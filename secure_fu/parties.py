"""All parties of a federation in one process: identities, roster, policy, records, and a branch's state machines."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from secure_fu.crypto import CommitteeTerms, EncryptionPool, Identity, KeyHolderScheme, Randomness, Role, Roster, scheme
from secure_fu.errors import ArgumentError
from secure_fu.planning import Plan
from secure_fu.privacy import PrivacyLedger
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
    OpeningRecord,
    Policy,
    Run,
    Transcript,
    UploadEncryption,
    kahe_parameter_sets,
    write_policy,
)

__all__ = ["DEFAULT_COMMITTEE", "KAHE", "Parties"]

KAHE = "kahe"
SCHEMES = (KAHE, "bfv", "plain")
DEFAULT_COMMITTEE = CommitteeTerms(members=10, threshold=7, quorum=7, corrupt=3)
"""Ten members, of whom any three may pool all they know with the server, and any three may be away."""

_KEY_HOLDER_ALONE = CommitteeTerms(members=1, threshold=1, quorum=1, corrupt=0)
_SERVER = "server"
_KEY_HOLDER = "key-holder"

Accident = Callable[[int, str], bool]


def _never(_round: int, _name: str) -> bool:
    return False


@dataclass(frozen=True)
class _KeyHolding:
    """What a key-holder opens with, where there is no committee."""

    scheme: KeyHolderScheme
    record: OpeningRecord


class Parties:
    """Makes every party's keys and records, and writes down in `directory` what an outsider needs to check the run.

    Args:
        clients: names.
        plan: recipe, budget and cohort.
        scheme_name: `kahe`, `bfv` or `plain`.
        terms: of the committee; for `kahe` only.
        purposes: that clients serve.
        directory: for ledger, transcript, records, roster and policy.
        cohort: names of the clients to invite to a given round number.
        vanishes: whether a client fails to answer, by (round number, name): a simulated accident.
        member_vanishes: the same for members of the committee.
        encryption_processes: worker processes that encrypt; for schemes with a key-holder.
        randomness: of sampling, rounding and noise.

    Raises:
        ArgumentError: an argument is out of its domain; names it.
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
    ) -> None:
        if scheme_name not in SCHEMES:
            raise ArgumentError("scheme_name", scheme_name, f"one of {', '.join(SCHEMES)}")
        if plan.grid is GridKind.ROTATED and scheme_name != KAHE:
            raise ArgumentError("plan.grid", plan.grid.value, f"{GridKind.FINE.value!r}, with scheme {scheme_name}")
        self._scheme = None if scheme_name == KAHE else scheme(scheme_name)
        if not isinstance(terms, CommitteeTerms):
            raise ArgumentError("committee", terms, "a CommitteeTerms")
        self._terms = terms if self._scheme is None else _KEY_HOLDER_ALONE
        committee = _committee(self._terms) if self._scheme is None else (_KEY_HOLDER,)
        taken = sorted({_SERVER, *committee} & set(clients))
        if taken:
            raise ArgumentError("clients", taken, f"names other than {_SERVER!r} and those of the committee")
        self._clients = tuple(sorted(clients))
        self._plan = plan
        self._directory = directory
        self._cohort, self._vanishes, self._member_vanishes = cohort, vanishes, member_vanishes
        self._randomness = randomness
        opener_role = Role.MEMBER if self._scheme is None else Role.KEY_HOLDER
        self._identities = {name: Identity.generate(name, Role.CLIENT) for name in self._clients}
        self._identities[_SERVER] = Identity.generate(_SERVER, Role.SERVER)
        self._identities |= {name: Identity.generate(name, opener_role) for name in committee}
        self.roster = Roster.of(identity.party for identity in self._identities.values())
        recipe = plan.recipe
        self.policy = Policy(
            server=_SERVER,
            committee=committee,
            terms=self._terms,
            roster_digest=self.roster.digest,
            unit=recipe.unit,
            budget=plan.budget,
            clip_norm=recipe.clip_norm,
            saturation=recipe.saturation,
            noise_multiplier=recipe.noise_multiplier,
            sampling_rate=recipe.sampling_rate,
            minimum_cohort=plan.minimum_cohort,
            colluders=plan.colluders,
            purposes=purposes,
            parameter_sets=kahe_parameter_sets() if self._scheme is None else frozenset({self._scheme.parameter_set}),
            grids=frozenset({plan.grid.value}),
        )
        # First, because it refuses a directory that has one: the roster of an earlier federation stays as it is.
        self.ledger = PrivacyLedger.create(directory / "ledger.sqlite", budget=plan.budget)
        (directory / "roster.bin").write_bytes(self.roster.encode())
        write_policy(self.policy, directory / "policy.toml")
        self._opened_by = (
            MemberRecord(directory / "committee.sqlite", new=True)
            if self._scheme is None
            else _KeyHolding(self._scheme, OpeningRecord(directory / "key_holder.sqlite", new=True))
        )
        (directory / "clients").mkdir(exist_ok=True)
        self._client_records: dict[str, ClientRecord] = {}
        self._run_key = os.urandom(32)
        self._pool = (
            EncryptionPool(scheme_name, encryption_processes)
            if self._scheme is not None and encryption_processes
            else None
        )

    def close(self) -> None:
        """Close ledger and records, end worker processes."""
        if self._pool is not None:
            self._pool.close()
        self.ledger.close()
        opened_by = self._opened_by
        for record in (
            opened_by if isinstance(opened_by, MemberRecord) else opened_by.record,
            *self._client_records.values(),
        ):
            record.close()

    def transcript(self, branch: str, start: bytes = bytes(32)) -> Transcript:
        """The transcript of one branch, which goes on from the link that `start` is the hash of."""
        return Transcript(start=start, path=self._directory / "transcript.jsonl", branch=branch)

    def sums(
        self,
        branch: str,
        *,
        parent: str | None,
        tasks: Mapping[str, Mapping[str, LocalTask]],
        transcript: Transcript,
        first_round: int,
    ) -> InProcessSums:
        """The secure sums of one branch.

        Args:
            branch: a new name.
            parent: the branch that it goes on from, of ledger and clients' records alike.
            tasks: each client's code by purpose.
            transcript: of the branch.
            first_round: number of its first round.
        """
        self.ledger.branch(branch, parent=parent)
        run = Run(
            run_id=hashlib.sha256(self._run_key + branch.encode()).digest()[:16],
            roster=self.roster,
            policy=self.policy,
            grid=self._plan.grid,
            sum_bits=self._plan.sum_bits,
            ledger=self.ledger,
            branch=branch,
            transcript=transcript,
        )
        record = self._client_record(branch, parent)
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

    def _client_record(self, branch: str, parent: str | None) -> ClientRecord:
        path = self._directory / "clients" / f"{branch.replace('/', '-')}.sqlite"
        record = ClientRecord(path, new=True) if parent is None else self._client_records[parent].fork(path)
        self._client_records[branch] = record
        return record

    def _encryption(self) -> UploadEncryption:
        if self._scheme is None:
            return CommitteeEncryption(roster=self.roster)
        return KeyHolderEncryption(
            self._scheme, roster=self.roster, server=_SERVER, key_holder=_KEY_HOLDER, encryptor=self._pool
        )

    def _opening(self, run: Run) -> CommitteeOpening | KeyHolderOpening:
        opened_by = self._opened_by
        if isinstance(opened_by, MemberRecord):
            members = [
                Member(self._identities[name], roster=self.roster, policy=self.policy, record=opened_by)
                for name in self.policy.committee
            ]
            return CommitteeOpening(
                CommitteeServer(self._identities[_SERVER], run),
                members,
                opened_by,
                vanishes=self._member_vanishes,
            )
        key_holder = KeyHolder(
            self._identities[_KEY_HOLDER],
            roster=self.roster,
            policy=self.policy,
            scheme=opened_by.scheme,
            record=opened_by.record,
        )
        return KeyHolderOpening(KeyHolderServer(self._identities[_SERVER], run, scheme=opened_by.scheme), key_holder)


def _committee(terms: CommitteeTerms) -> tuple[str, ...]:
    digits = len(str(terms.members - 1))
    return tuple(f"member-{number:0{digits}}" for number in range(terms.members))
