"""One server, one key-holder and a few clients, built directly; everybody's randomness is remembered."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secure_fu.crypto import AdditiveScheme, Identity, OsRandomness, Randomness, Role, Roster, scheme, seal
from secure_fu.crypto.wire import decode, encode
from secure_fu.privacy import Budget, NoiseShare, Phase, PrivacyLedger, Unit
from secure_fu.protocol import (
    Client,
    InProcessSums,
    KeyHolder,
    LocalTask,
    OpeningRecord,
    Policy,
    ReleasedModel,
    ReleasedSum,
    RoundTerms,
    Server,
    SumRequest,
    Transcript,
)
from secure_fu.protocol.client import upload_associated_data
from secure_fu.protocol.messages import (
    Announcement,
    Domain,
    Header,
    Invitation,
    Roll,
    RoundKey,
    Upload,
    UploadStatement,
    digest,
)
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

    def last(self, label: str) -> TapedStream:
        """The newest stream under a label."""
        return [stream for stream in self.streams if stream.label == label][-1]


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
    """Takes a client's place in the driver; subclasses answer as they like."""

    def respond(self, invitation: bytes) -> bytes:
        raise NotImplementedError

    def begin(self, invitation: bytes) -> Ready:
        return Ready(self.respond(invitation))


@dataclass
class Ready:
    """An upload that is finished already."""

    upload: bytes

    def finish(self) -> bytes:
        return self.upload


@dataclass
class Machines:
    """All parties of a round. Their messages go through the tests' hands."""

    identities: dict[str, Identity]
    roster: Roster
    policy: Policy
    scheme: AdditiveScheme
    ledger: PrivacyLedger
    record: OpeningRecord
    tape: Tape
    tasks: dict[str, Gives]
    clients: dict[str, Client]
    key_holder: KeyHolder
    server: Server
    transcript: Transcript
    length: int
    noise_multiplier: float

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.clients)

    def close(self) -> None:
        self.ledger.close()
        self.record.close()

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
            "server": self.server,
            "key_holder": self.key_holder,
            "clients": self.clients,
            "cohort": lambda _number: self.names,
        }
        return InProcessSums(**(fields | changes))  # type: ignore[arg-type]

    def share(self, header: Header) -> NoiseShare:
        return self.policy.noise_share(header)

    def noise(self, name: str, header: Header) -> NDArray[np.int64]:
        """The noise share that a client drew last."""
        return self.tape.last(f"noise/{name}").replayed(self.share(header), header.length)

    def client(
        self, name: str, *, policy: Policy | None = None, tasks: Mapping[str, LocalTask] | None = None
    ) -> Client:
        """Another state machine for a client of this federation: after a restart, or with another policy."""
        return Client(
            self.identities[name],
            roster=self.roster,
            policy=self.policy if policy is None else policy,
            scheme=self.scheme,
            tasks={SUM: self.tasks[name]} if tasks is None else tasks,
            randomness=self.tape,
        )

    def new_key_holder(self, *, policy: Policy | None = None, record: OpeningRecord | None = None) -> KeyHolder:
        return KeyHolder(
            self.identities[KEY_HOLDER],
            roster=self.roster,
            policy=self.policy if policy is None else policy,
            scheme=self.scheme,
            record=self.record if record is None else record,
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
                round_key=decode(RoundKey, key),
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
            key = self.scheme.load_public_key(message.round_key.public_key)
            ciphertext = self.scheme.encrypt(key, values)
        statement = UploadStatement(header_digest=header_digest, client=name, ciphertext_digest=digest(ciphertext))
        return encode(
            Upload(
                header_digest=header_digest,
                client=name,
                ciphertext_digest=statement.ciphertext_digest,
                box=seal(
                    self.roster.party(SERVER).sealing_key,
                    ciphertext,
                    associated_data=upload_associated_data(header_digest, name),
                ),
                signature=self.identities[signer or name].sign(Domain.UPLOAD, encode(statement)),
            )
        )

    def forged_roll(self, roll: bytes, *, signer: str = SERVER, **changes: object) -> bytes:
        """The server's roll with other fields."""
        unsigned = replace(decode(Roll, roll), **changes)  # type: ignore[arg-type]
        return encode(replace(unsigned, signature=self.identities[signer].sign(Domain.ROLL, unsigned.statement)))


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
    client_policy: Callable[[Policy], Policy] = lambda policy: policy,
) -> Machines:
    """A federation of `clients` whose k-th contributes `contributions(k)`, zeros unless given."""
    names = [f"client-{number}" for number in range(clients)]
    identities = {name: _identity(name, Role.CLIENT) for name in names}
    identities[SERVER] = _identity(SERVER, Role.SERVER)
    identities[KEY_HOLDER] = _identity(KEY_HOLDER, Role.KEY_HOLDER)
    roster = Roster.of(identity.party for identity in identities.values())
    chosen = scheme(scheme_name)
    policy = Policy(
        server=SERVER,
        key_holder=KEY_HOLDER,
        roster_digest=roster.digest,
        unit=Unit.RECORD,
        clip_norm=1.0,
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
        tape=tape,
        tasks=tasks,
        clients={},
        key_holder=KeyHolder(identities[KEY_HOLDER], roster=roster, policy=policy, scheme=chosen, record=record),
        server=Server(
            identities[SERVER],
            roster=roster,
            policy=policy,
            scheme=chosen,
            ledger=ledger,
            branch="original",
            transcript=transcript,
            run_id=hashlib.sha256(os.urandom(16)).digest()[:16],
        ),
        transcript=transcript,
        length=length,
        noise_multiplier=noise_multiplier,
    )
    for name in names:
        machines.clients[name] = machines.client(name, policy=client_policy(policy))
    return machines
