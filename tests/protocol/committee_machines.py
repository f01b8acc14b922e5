"""One server, a committee and a few clients, built directly, and what a dishonest server can make of their messages."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from machines import AMPLE, SERVER, SUM, Gives, Tape, _Replay
from numpy.typing import NDArray

from secure_fu.crypto import CommitteeTerms, Identity, Role, Roster
from secure_fu.crypto.kahe import CiphertextSum, open_sum
from secure_fu.crypto.sharing import FIELD_PRIME, decode_share, recover_key
from secure_fu.crypto.wire import decode, encode
from secure_fu.privacy import Budget, Phase, PrivacyLedger, Unit
from secure_fu.protocol import (
    Client,
    ClientRecord,
    CommitteeEncryption,
    CommitteeOpening,
    CommitteeServer,
    Header,
    InProcessSums,
    Member,
    MemberRecord,
    Policy,
    ReleasedModel,
    ReleasedSum,
    Run,
    SumRequest,
    Transcript,
    kahe_parameter_sets,
)
from secure_fu.protocol.committee.layout import layout_of
from secure_fu.protocol.committee.messages import Answer, Ballot, Delivery, Quorum, ShareBinding, Vote, VoteStatement
from secure_fu.protocol.header import committee_of, grid_of, noise_share_of
from secure_fu.protocol.messages import (
    Announcement,
    Approval,
    Domain,
    Invitation,
    Roll,
    RollEntry,
    Upload,
    digest,
    shares_digest,
)

SMALL = CommitteeTerms(members=4, threshold=3, quorum=3, corrupt=1)
TEN = CommitteeTerms(members=10, threshold=7, quorum=7, corrupt=3)

_IDENTITIES: dict[tuple[str, Role], Identity] = {}


def identity_of(name: str, role: Role) -> Identity:
    """Keys cost time and no test depends on their being new."""
    return _IDENTITIES.setdefault((name, role), Identity.generate(name, role))


@dataclass
class CommitteeMachines:
    """All parties of a round. Their messages go through the tests' hands."""

    identities: dict[str, Identity]
    roster: Roster
    policy: Policy
    ledger: PrivacyLedger
    client_record: ClientRecord
    member_record: MemberRecord
    tape: Tape
    tasks: dict[str, Gives]
    run: Run
    length: int
    noise_multiplier: float
    directory: Path
    unit: Unit = Unit.RECORD
    clients: dict[str, Client] = field(default_factory=dict)
    members: dict[str, Member] = field(default_factory=dict)
    server: CommitteeServer = field(init=False)

    def __post_init__(self) -> None:
        self.server = CommitteeServer(self.identities[SERVER], self.run)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the clients."""
        return tuple(self.clients)

    def close(self) -> None:
        """Close all records."""
        self.ledger.close()
        self.client_record.close()
        self.member_record.close()

    def client(self, name: str, *, policy: Policy | None = None, record: ClientRecord | None = None) -> Client:
        """Another state machine for a client: after a restart, or with another policy."""
        return Client(
            self.identities[name],
            roster=self.roster,
            policy=self.policy if policy is None else policy,
            encryption=CommitteeEncryption(roster=self.roster),
            tasks={SUM: self.tasks[name]},
            randomness=self.tape,
            record=self.client_record if record is None else record,
        )

    def member(self, name: str, *, policy: Policy | None = None, record: MemberRecord | None = None) -> Member:
        """Another state machine for a member: after a restart, or with another policy."""
        return Member(
            self.identities[name],
            roster=self.roster,
            policy=self.policy if policy is None else policy,
            record=self.member_record if record is None else record,
        )

    def request(self, **changes: object) -> SumRequest:
        """What an algorithm asks."""
        fields: dict[str, object] = {
            "purpose": SUM,
            "phase": Phase.TRAINING,
            "model": ReleasedModel.public(np.zeros(self.length)),
            "unit": self.unit,
            "clip_norm": 1.0,
            "saturation": 2.0,
            "noise_multiplier": self.noise_multiplier,
            "retained_rate": 0.5,
            "forgotten_rate": 0.5,
        }
        return SumRequest(**(fields | changes))  # type: ignore[arg-type]

    def sums(self, **changes: object) -> InProcessSums:
        """The driver."""
        fields: dict[str, object] = {
            "opening": CommitteeOpening(self.server, tuple(self.members.values()), self.member_record),
            "clients": self.clients,
            "record": self.client_record,
            "cohort": lambda _number: self.names,
        }
        return InProcessSums(**(fields | changes))  # type: ignore[arg-type]

    # An honest round, step by step.

    def invited(self, number: int, cohort: Collection[str] | None = None, **changes: object) -> bytes:
        """Announce a round and make its invitation."""
        self.server.announce(self.request(**changes), tuple(self.names if cohort is None else cohort), number)
        return self.server.invite()

    def uploads(self, invitation: bytes, participants: Collection[str] | None = None) -> dict[str, bytes]:
        """What the clients answer."""
        return {
            name: self.clients[name].respond(invitation)
            for name in (self.names if participants is None else participants)
        }

    def collected(self, number: int, participants: Collection[str] | None = None) -> bytes:
        """Run a round up to its uploads; returns the invitation."""
        invitation = self.invited(number)
        for upload in self.uploads(invitation, participants).values():
            self.server.receive(upload)
        return invitation

    def voted(self, members: Collection[str] | None = None) -> bytes:
        """Close, let members vote; returns the quorum."""
        self.server.close()
        for name in self.members if members is None else members:
            self.server.receive_vote(self.members[name].vote(self.server.ballot(name)))
        return self.server.quorum()

    def answered(self, quorum: bytes, members: Collection[str] | None = None) -> ReleasedSum:
        """Let members answer, and release."""
        for name in self.members if members is None else members:
            self.server.receive_answer(self.members[name].answer(quorum))
        return self.server.release()

    def finish(self) -> ReleasedSum:
        """From the last upload to the release."""
        return self.answered(self.voted())

    def expected(self, participants: Collection[str], header: Header, header_digest: bytes) -> NDArray[np.float64]:
        """The plain sum of what these clients contribute, and the noise that they drew last."""
        grid = grid_of(header)
        total = np.zeros(grid.encoded_dimension, dtype=np.int64)
        for name in participants:
            noise = self.tape.last(f"noise/{name}").replayed(noise_share_of(header), grid.encoded_dimension)
            total += noise
            contribution = np.asarray(self.tasks[name].contribution_given)
            if not contribution.any():
                continue
            total += grid.encode(
                contribution,
                seed=header_digest,
                stream=_Replay(self.tape.last(f"rounding/{name}")._parts),
            )
        return grid.decode(total, seed=header_digest)

    # What a dishonest server has: true signatures of its own, all uploads, and whatever members tell it.

    def forged_announcement(self, **changes: object) -> Announcement:
        """A header of the server's making, signed by its true key, on the basis of the one that is out."""
        state = self.server._state
        header = replace(state.header, **changes)  # type: ignore[union-attr, arg-type]
        body = encode(header)
        return Announcement(header=body, signature=self.identities[SERVER].sign(Domain.HEADER, body))

    def forged_invitation(self, **changes: object) -> bytes:
        """An invitation under such a header."""
        state = self.server._state
        return encode(
            Invitation(announcement=self.forged_announcement(**changes), round_key=(), model=state.model)  # type: ignore[union-attr]
        )

    def roll_of(self, announcement: Announcement, uploads: Mapping[str, bytes], *, order: bool = True) -> Roll:
        """A roll of any uploads, signed by the server's true key."""
        entries = [entry_of(decode(Upload, upload), name) for name, upload in uploads.items()]
        if order:
            entries.sort(key=lambda entry: entry.client)
        return self.signed_roll(
            Roll(
                header_digest=announcement.header_digest,
                entries=tuple(entries),
                total_digest=bytes(32),
                signature=bytes(64),
            )
        )

    def signed_roll(self, roll: Roll) -> Roll:
        """The roll with the server's true signature."""
        return replace(roll, signature=self.identities[SERVER].sign(Domain.ROLL, roll.statement))

    def ballot_of(self, announcement: Announcement, roll: Roll, uploads: Mapping[str, bytes], member: str) -> bytes:
        """What the server would have a member vote for."""
        position = list(decode(Header, announcement.header).committee).index(member)
        messages = {name: decode(Upload, upload) for name, upload in uploads.items()}
        return encode(
            Ballot(
                announcement=announcement,
                roll=roll,
                deliveries=tuple(
                    Delivery(
                        share_digests=messages[entry.client].share_digests, box=messages[entry.client].shares[position]
                    )
                    for entry in roll.entries
                ),
            )
        )

    def quorum_of(self, announcement: Announcement, roll: Roll, votes: Sequence[bytes]) -> bytes:
        """A quorum of whatever votes the server has."""
        return encode(
            Quorum(
                header_digest=announcement.header_digest,
                roll_digest=digest(roll.statement),
                votes=tuple(decode(Vote, vote).approval for vote in votes),
            )
        )

    def corrupt_vote(self, announcement: Announcement, roll: Roll, member: str) -> bytes:
        """A vote that a corrupt member signs with its true key, for whatever the server likes."""
        header = decode(Header, announcement.header)
        statement = VoteStatement.of(header, announcement.header_digest, digest(roll.statement))
        return encode(
            Vote(
                header_digest=announcement.header_digest,
                roll_digest=digest(roll.statement),
                approval=Approval(name=member, signature=self.identities[member].sign(Domain.VOTE, encode(statement))),
            )
        )

    def corrupt_share(
        self, announcement: Announcement, uploads: Mapping[str, bytes], member: str
    ) -> NDArray[np.uint16]:
        """The sum of the shares that a corrupt member holds of these uploads; nothing stops it from telling."""
        header = decode(Header, announcement.header)
        position = list(header.committee).index(member)
        degree = layout_of(header).parameter_set.degree
        total = np.zeros(committee_of(header).share_length(degree), dtype=np.int64)
        for name, upload in uploads.items():
            total += self.opened_share(announcement, name, decode(Upload, upload).shares[position], member)
        return (total % FIELD_PRIME).astype(np.uint16)

    def opened_share(self, announcement: Announcement, client: str, box: bytes, member: str) -> NDArray[np.uint16]:
        """One client's share, opened by its member."""
        header = decode(Header, announcement.header)
        binding = ShareBinding(header_digest=announcement.header_digest, client=client, member=member)
        plain = self.identities[member].unseal(box, associated_data=encode(binding))
        return decode_share(plain, terms=committee_of(header), degree=layout_of(header).parameter_set.degree)

    def opens(
        self, announcement: Announcement, uploads: Mapping[str, bytes], answers: Mapping[str, NDArray[np.uint16]]
    ) -> NDArray[np.int64]:
        """The integers that a server reads from the sum of these uploads with these members' sums of shares.

        Raises OpeningError when they do not open it: this is what an attack has to get past.
        """
        header = decode(Header, announcement.header)
        layout = layout_of(header)
        total = CiphertextSum(layout)
        for upload in uploads.values():
            total.add(decode(Upload, upload).body)
        return recover_key(
            {list(header.committee).index(member): share for member, share in answers.items()},
            committee_of(header),
            length=layout.parameter_set.degree,
            bound=layout.key_bound(len(uploads)),
            accept=lambda key: open_sum(
                layout, total.total(), key, seed=announcement.header_digest, uploads=len(uploads)
            ),
        ).value


def entry_of(upload: Upload, client: str) -> RollEntry:
    """An upload as a roll lists it."""
    return RollEntry(
        client=client,
        ciphertext_digest=upload.ciphertext_digest,
        shares_digest=shares_digest(upload.share_digests),
        signature=upload.signature,
    )


def share_in(answer: bytes) -> NDArray[np.uint16]:
    """The sum of shares in a member's answer."""
    return np.frombuffer(decode(Answer, answer).share, dtype="<u2").astype(np.uint16)


def announcement_in(invitation: bytes) -> Announcement:
    """The announcement in an invitation."""
    return decode(Invitation, invitation).announcement


def make_committee_machines(
    directory: Path,
    *,
    clients: int = 5,
    minimum: int = 3,
    colluders: int = 1,
    length: int = 6,
    terms: CommitteeTerms = SMALL,
    noise_multiplier: float = 2.0,
    budget: Budget = AMPLE,
    contributions: Callable[[int], NDArray[np.float64]] | None = None,
    client_policy: Callable[[Policy], Policy] = lambda policy: policy,
    durable: bool = False,
    unit: Unit = Unit.RECORD,
    grids: frozenset[str] = frozenset({"fine"}),
) -> CommitteeMachines:
    """A federation of `clients` whose k-th contributes `contributions(k)`, zeros unless given.

    With `durable`, clients and members keep their records in files of `directory`.
    """
    names = [f"client-{number}" for number in range(clients)]
    committee = tuple(f"member-{number:02}" for number in range(terms.members))
    identities = {name: identity_of(name, Role.CLIENT) for name in names}
    identities |= {name: identity_of(name, Role.MEMBER) for name in committee}
    identities[SERVER] = identity_of(SERVER, Role.SERVER)
    roster = Roster.of(identity.party for identity in identities.values())
    policy = Policy(
        server=SERVER,
        committee=committee,
        terms=terms,
        roster_digest=roster.digest,
        unit=unit,
        budget=budget,
        clip_norm=1.0,
        saturation=2.0,
        noise_multiplier=noise_multiplier,
        sampling_rate=1.0 if unit is Unit.CLIENT else 0.5,
        minimum_cohort=minimum,
        colluders=colluders,
        purposes=frozenset({SUM, "train"}),
        parameter_sets=kahe_parameter_sets(),
        grids=grids,
    )
    ledger = PrivacyLedger.create(directory / f"ledger-{os.urandom(6).hex()}.sqlite", budget=budget)
    ledger.branch("original")
    machines = CommitteeMachines(
        identities=identities,
        roster=roster,
        policy=policy,
        ledger=ledger,
        client_record=ClientRecord(directory / "clients.sqlite" if durable else None, new=durable),
        member_record=MemberRecord(directory / "committee.sqlite" if durable else None, new=durable),
        tape=Tape(),
        tasks={
            name: Gives(np.zeros(length) if contributions is None else contributions(number))
            for number, name in enumerate(names)
        },
        run=Run(
            run_id=os.urandom(16),
            roster=roster,
            policy=policy,
            ledger=ledger,
            branch="original",
            transcript=Transcript(path=directory / "transcript.jsonl"),
        ),
        length=length,
        noise_multiplier=noise_multiplier,
        directory=directory,
    )
    for name in names:
        machines.clients[name] = machines.client(name, policy=client_policy(policy))
    for name in committee:
        machines.members[name] = machines.member(name)
    return machines
