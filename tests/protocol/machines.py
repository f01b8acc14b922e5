"""One server, one key-holder and a few clients, built directly; everybody's randomness is remembered."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secure_fu.crypto import (
    CommitteeTerms,
    Identity,
    KeyHolderScheme,
    OsRandomness,
    Randomness,
    Role,
    Roster,
    scheme,
    seal,
)
from secure_fu.crypto.wire import decode, encode
from secure_fu.privacy import Budget, NoiseShare, Phase, PrivacyLedger, Unit
from secure_fu.protocol import (
    Client,
    ClientRecord,
    Header,
    InProcessSums,
    KeyHolder,
    KeyHolderEncryption,
    KeyHolderOpening,
    KeyHolderServer,
    LocalTask,
    OpeningRecord,
    Policy,
    ReleasedModel,
    ReleasedSum,
    RoundTerms,
    Run,
    SumRequest,
    Transcript,
)
from secure_fu.protocol.client import AcceptedRound
from secure_fu.protocol.header import noise_share_of
from secure_fu.protocol.key_holder.encryption import upload_associated_data
from secure_fu.protocol.key_holder.messages import OpeningRequest
from secure_fu.protocol.messages import Announcement, Domain, Invitation, RoundKey, Upload, digest
from secure_fu.protocol.sums import RandomStream

SERVER = "server"
KEY_HOLDER = "keeper"
SUM = "statistic/sum"
AMPLE = Budget(epsilon=8.0, delta=1e-5, order=4.0, deletion_reserve=0.5, unit=Unit.RECORD)


class TapedStream:
    """Hands out another stream's words and keeps them."""

    def __init__(self, label: str, inner: RandomStream) -> None:
        self.label = label
        self._inner = inner
        self._parts: list[NDArray[np.uint64]] = []

    def words(self, count: int) -> NDArray[np.uint64]:
        words = self._inner.words(count)
        self._parts.append(words.copy())
        return words

    @property
    def handed_out(self) -> NDArray[np.uint64]:
        """All words so far."""
        return np.concatenate([np.zeros(0, dtype=np.uint64), *self._parts])

    def replayed(self, share: NoiseShare, size: int) -> NDArray[np.int64]:
        """The noise that was drawn from this stream."""
        return share.sample(size, stream=_Replay(self._parts))


class _Replay:
    def __init__(self, parts: Sequence[NDArray[np.uint64]]) -> None:
        self._parts = list(parts)

    def words(self, count: int) -> NDArray[np.uint64]:
        part = self._parts.pop(0)
        assert len(part) == count
        return part.copy()


class Tape:
    """A source of randomness that remembers every stream, in the order in which they were asked for."""

    def __init__(self, inner: Randomness | None = None) -> None:
        self._inner = OsRandomness() if inner is None else inner
        self.streams: list[TapedStream] = []

    def stream(self, label: str) -> TapedStream:
        self.streams.append(TapedStream(label, self._inner.stream(label)))
        return self.streams[-1]

    def last(self, use: str) -> TapedStream:
        """The newest stream for a use, as `noise/client-1`: labels go on with purpose and round."""
        return [stream for stream in self.streams if stream.label.startswith(f"{use}/")][-1]


class Gives:
    """A client's code that contributes whatever it was told to."""

    def __init__(self, contribution: NDArray[np.float64] | BaseException) -> None:
        self.contribution_given = contribution
        self.terms: list[RoundTerms] = []

    def contribution(self, model: NDArray[np.float32], terms: RoundTerms, stream: RandomStream) -> NDArray[np.float64]:
        self.terms.append(terms)
        stream.words(4)
        if isinstance(self.contribution_given, BaseException):
            raise self.contribution_given
        return self.contribution_given


class StandIn:
    """Takes a client's place in the driver; subclasses answer as they like. It keeps no record."""

    def respond(self, invitation: bytes) -> bytes:
        raise NotImplementedError

    def accept(self, invitation: bytes) -> Accepted:
        return Accepted(self, invitation)


@dataclass
class Accepted:
    """A round that a stand-in will answer."""

    stand_in: StandIn
    invitation: bytes

    def begin(self) -> Ready:
        return Ready(self.stand_in.respond(self.invitation))


@dataclass
class Ready:
    """An upload that is finished already."""

    upload: bytes
    failure: Exception | None = None

    def finish(self) -> bytes:
        return self.upload


class Counts:
    """A client that keeps the invitations it got."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.invitations: list[bytes] = []

    def accept(self, invitation: bytes) -> AcceptedRound:
        self.invitations.append(invitation)
        return self._client.accept(invitation)


@dataclass
class Machines:
    """All parties of a round. Their messages go through the tests' hands."""

    identities: dict[str, Identity]
    roster: Roster
    policy: Policy
    scheme: KeyHolderScheme
    ledger: PrivacyLedger
    record: OpeningRecord
    client_record: ClientRecord
    tape: Tape
    tasks: dict[str, Gives]
    clients: dict[str, Client]
    key_holder: KeyHolder
    server: KeyHolderServer
    transcript: Transcript
    length: int
    noise_multiplier: float

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.clients)

    def close(self) -> None:
        self.ledger.close()
        self.record.close()
        self.client_record.close()

    def request(self, **changes: object) -> SumRequest:
        fields: dict[str, object] = {
            "purpose": SUM,
            "phase": Phase.TRAINING,
            "model": ReleasedModel.public(np.zeros(self.length)),
            "unit": Unit.RECORD,
            "clip_norm": 1.0,
            "saturation": 2.0,
            "noise_multiplier": self.noise_multiplier,
            "retained_rate": 0.5,
            "forgotten_rate": 0.5,
        }
        return SumRequest(**(fields | changes))  # type: ignore[arg-type]

    def invited(self, number: int, **changes: object) -> bytes:
        """Announce a round and make its invitation."""
        announcement = self.server.announce(self.request(**changes), self.names, number)
        return self.server.invite(self.key_holder.issue_key(announcement))

    def collected(self, number: int, participants: Collection[str] | None = None) -> bytes:
        """Run a round up to its invitation and the uploads; returns the invitation."""
        invitation = self.invited(number)
        for name in self.names if participants is None else participants:
            self.server.receive(self.clients[name].respond(invitation))
        return invitation

    def finish(self) -> ReleasedSum:
        """Close, open, release."""
        return self.server.release(self.key_holder.open(self.server.close()))

    def sums(self, **changes: object) -> InProcessSums:
        fields: dict[str, object] = {
            "opening": KeyHolderOpening(self.server, self.key_holder),
            "clients": self.clients,
            "record": self.client_record,
            "cohort": lambda _number: self.names,
        }
        return InProcessSums(**(fields | changes))  # type: ignore[arg-type]

    def share(self, header: Header) -> NoiseShare:
        return noise_share_of(header)

    def noise(self, name: str, header: Header) -> NDArray[np.int64]:
        """The noise share that a client drew last."""
        return self.tape.last(f"noise/{name}").replayed(self.share(header), header.length)

    def client(
        self,
        name: str,
        *,
        policy: Policy | None = None,
        tasks: Mapping[str, LocalTask] | None = None,
        record: ClientRecord | None = None,
    ) -> Client:
        """Another state machine for a client of this federation: after a restart, or with another policy."""
        policy = self.policy if policy is None else policy
        return Client(
            self.identities[name],
            roster=self.roster,
            policy=policy,
            encryption=KeyHolderEncryption(
                self.scheme, roster=self.roster, server=policy.server, key_holder=policy.committee[0]
            ),
            tasks={SUM: self.tasks[name]} if tasks is None else tasks,
            randomness=self.tape,
            record=self.client_record if record is None else record,
        )

    def new_key_holder(self, *, policy: Policy | None = None, record: OpeningRecord | None = None) -> KeyHolder:
        return KeyHolder(
            self.identities[KEY_HOLDER],
            roster=self.roster,
            policy=self.policy if policy is None else policy,
            scheme=self.scheme,
            record=self.record if record is None else record,
        )

    def honest_invitation(self, announcement: bytes) -> bytes:
        """The invitation to any announcement, with the key-holder's true key."""
        return encode(
            Invitation(
                announcement=decode(Announcement, announcement),
                round_key=(decode(RoundKey, self.key_holder.issue_key(announcement)),),
                model=self.request().model.encode(),
            )
        )

    # What dishonest parties send: every one of these is signed by the party's true key.

    def forged_announcement(self, announcement: bytes, **changes: object) -> bytes:
        """The server's announcement with other header fields."""
        header = replace(decode(Header, decode(Announcement, announcement).header), **changes)  # type: ignore[arg-type]
        body = encode(header)
        return encode(Announcement(header=body, signature=self.identities[SERVER].sign(Domain.HEADER, body)))

    def forged_invitation(self, announcement: bytes, *, model: bytes | None = None) -> bytes:
        """What the server would send to clients under an announcement that this key-holder would not have touched."""
        public_key = self.scheme.generate_key().public_bytes
        key = self.forged_round_key(announcement, public_key)
        header = decode(Header, decode(Announcement, announcement).header)
        return encode(
            Invitation(
                announcement=decode(Announcement, announcement),
                round_key=(decode(RoundKey, key),),
                model=bytes(4 * header.length) if model is None else model,
            )
        )

    def forged_round_key(self, announcement: bytes, public_key: bytes, *, signer: str = KEY_HOLDER) -> bytes:
        unsigned = RoundKey(
            header_digest=decode(Announcement, announcement).header_digest, public_key=public_key, signature=bytes(64)
        )
        return encode(replace(unsigned, signature=self.identities[signer].sign(Domain.ROUND_KEY, unsigned.statement)))

    def forged_upload(
        self, invitation: bytes, name: str, values: NDArray[np.int64] | bytes, *, signer: str | None = None
    ) -> bytes:
        """An upload of integers (or of a ciphertext), with no noise unless they hold it."""
        message = decode(Invitation, invitation)
        header_digest = message.announcement.header_digest
        if isinstance(values, bytes):
            ciphertext = values
        else:
            key = self.scheme.load_public_key(message.round_key[0].public_key)
            ciphertext = self.scheme.encrypt(key, values)
        unsigned = Upload(
            header_digest=header_digest,
            client=name,
            ciphertext_digest=digest(ciphertext),
            body=seal(
                self.roster.party(SERVER).sealing_key,
                ciphertext,
                associated_data=upload_associated_data(header_digest, name),
            ),
            shares=(),
            signature=bytes(64),
        )
        return encode(
            replace(unsigned, signature=self.identities[signer or name].sign(Domain.UPLOAD, unsigned.statement))
        )

    def forged_roll(
        self, request: bytes, *, signer: str = SERVER, total: bytes | None = None, **changes: object
    ) -> bytes:
        """The server's opening request with other fields of the roll, or with another total."""
        message = decode(OpeningRequest, request)
        if total is not None:
            message = replace(message, total=total)
            changes.setdefault("total_digest", digest(total))
        unsigned = replace(message.roll, **changes)  # type: ignore[arg-type]
        roll = replace(unsigned, signature=self.identities[signer].sign(Domain.ROLL, unsigned.statement))
        return encode(replace(message, roll=roll))


def header_of(message: bytes) -> Header:
    """The header in an invitation."""
    return decode(Header, decode(Invitation, message).announcement.header)


_IDENTITIES: dict[tuple[str, Role], Identity] = {}


def _identity(name: str, role: Role) -> Identity:
    # Keys cost 20 ms a party and no test depends on their being new.
    return _IDENTITIES.setdefault((name, role), Identity.generate(name, role))


def make_machines(
    directory: Path,
    *,
    clients: int = 4,
    minimum: int = 3,
    colluders: int = 1,
    length: int = 6,
    scheme_name: str = "bfv",
    noise_multiplier: float = 2.0,
    budget: Budget = AMPLE,
    contributions: Callable[[int], NDArray[np.float64]] | None = None,
    randomness: Randomness | None = None,
    client_record: Path | None = None,
) -> Machines:
    """A federation of `clients` whose k-th contributes `contributions(k)`, zeros unless given.

    The clients keep their record in the file `client_record`, or in memory.
    """
    names = [f"client-{number}" for number in range(clients)]
    identities = {name: _identity(name, Role.CLIENT) for name in names}
    identities[SERVER] = _identity(SERVER, Role.SERVER)
    identities[KEY_HOLDER] = _identity(KEY_HOLDER, Role.KEY_HOLDER)
    roster = Roster.of(identity.party for identity in identities.values())
    chosen = scheme(scheme_name)
    policy = Policy(
        server=SERVER,
        committee=(KEY_HOLDER,),
        terms=CommitteeTerms(members=1, threshold=1, quorum=1, corrupt=0),
        roster_digest=roster.digest,
        unit=Unit.RECORD,
        budget=budget,
        clip_norm=1.0,
        saturation=2.0,
        noise_multiplier=noise_multiplier,
        sampling_rate=0.5,
        minimum_cohort=minimum,
        colluders=colluders,
        purposes=frozenset({SUM, "train"}),
        parameter_sets=frozenset({chosen.parameter_set}),
    )
    ledger = PrivacyLedger.create(directory / f"ledger-{os.urandom(6).hex()}.sqlite", budget=budget)
    ledger.branch("original")
    record = OpeningRecord()
    tape = Tape(randomness)
    transcript = Transcript(path=directory / "transcript.jsonl")
    tasks = {
        name: Gives(np.zeros(length) if contributions is None else contributions(number))
        for number, name in enumerate(names)
    }
    machines = Machines(
        identities=identities,
        roster=roster,
        policy=policy,
        scheme=chosen,
        ledger=ledger,
        record=record,
        client_record=ClientRecord(client_record, new=client_record is not None and not client_record.exists()),
        tape=tape,
        tasks=tasks,
        clients={},
        key_holder=KeyHolder(identities[KEY_HOLDER], roster=roster, policy=policy, scheme=chosen, record=record),
        server=KeyHolderServer(
            identities[SERVER],
            Run(
                run_id=hashlib.sha256(os.urandom(16)).digest()[:16],
                roster=roster,
                policy=policy,
                ledger=ledger,
                branch="original",
                transcript=transcript,
            ),
            scheme=chosen,
        ),
        transcript=transcript,
        length=length,
        noise_multiplier=noise_multiplier,
    )
    for name in names:
        machines.clients[name] = machines.client(name)
    return machines
