"""Parties on nodes of their own: bare nodes over the protocol's machines, and what goes wrong with nodes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from secure_fu.crypto import CommitteeTerms, Identity, InsecureDeterministicRandomness, Role, Roster, scheme
from secure_fu.crypto.wire import decode, encode
from secure_fu.deployment.exchange.exchange import InProcessExchange
from secure_fu.deployment.exchange.messages import (
    PROTOCOL,
    Begin,
    Hello,
    HelloAnswer,
    Kind,
    NodeReply,
    NodeRequest,
    Outcome,
    PartyAnswer,
)
from secure_fu.deployment.server import Patience
from secure_fu.deployment.server.hosts import Hosts, software_version
from secure_fu.deployment.server.remote_sums import RemoteCommittee, RemoteKeyHolder, RemoteSums
from secure_fu.errors import SecureFUError
from secure_fu.privacy import Budget, Phase, PrivacyLedger, Unit
from secure_fu.protocol import (
    Client,
    ClientRecord,
    CommitteeEncryption,
    CommitteeOpening,
    CommitteeServer,
    Header,
    InProcessSums,
    KeyHolder,
    KeyHolderEncryption,
    KeyHolderOpening,
    KeyHolderServer,
    Member,
    MemberRecord,
    OpeningRecord,
    Policy,
    ReleasedModel,
    Run,
    SumRequest,
    Transcript,
    kahe_parameter_sets,
)

SERVER = "server"
SUM = "statistic/sum"
SMALL = CommitteeTerms(members=4, threshold=3, quorum=3, corrupt=1)
ALONE = CommitteeTerms(members=1, threshold=1, quorum=1, corrupt=0)
CLIENTS = ("silo-0", "silo-1", "silo-2", "silo-3")
RUN_ID = b"r" * 16
LENGTH = 20
IMPATIENT = Patience(hello=60.0, begin=60.0, invite=60.0, opening=60.0, wipe=60.0, attempts=3, pause=0.0)

_IDENTITIES: dict[tuple[str, Role], Identity] = {}


def identity_of(name: str, role: Role) -> Identity:
    """Keys cost time and no test depends on their being new."""
    return _IDENTITIES.setdefault((name, role), Identity.generate(name, role))


def identities_for(scheme_name: str, clients: Collection[str] = CLIENTS) -> dict[str, Identity]:
    """Of all parties, by name."""
    openers = {"key-holder": Role.KEY_HOLDER}
    if scheme_name == "kahe":
        openers = {f"member-{number}": Role.MEMBER for number in range(SMALL.members)}
    roles = {SERVER: Role.SERVER, **dict.fromkeys(clients, Role.CLIENT), **openers}
    return {name: identity_of(name, role) for name, role in roles.items()}


class Dies(ConnectionError):
    """A node that is gone before it answers."""


class Gives:
    """A client's code: a vector of its own."""

    def __init__(self, number: int) -> None:
        self._number = number

    def contribution(self, model, terms, stream):
        stream.words(4)
        return np.full(terms.length, 0.05 * (self._number + 1))


class BareNode:
    """A node over the protocol's machines: no directories, no orders. `tampers` changes its answers."""

    def __init__(self, machines: Mapping[str, object], identities: Mapping[str, Identity], cast: RoundCast) -> None:
        self.machines = dict(machines)
        self.identities = identities
        self.cast = cast
        self.knows: set[bytes] = {RUN_ID}
        self.asked: list[Kind] = []
        self.dies_at: Callable[[Kind], bool] = lambda _: False
        self.tampers: Callable[[Kind, tuple[PartyAnswer, ...]], object] = lambda _, answers: answers
        self.hello: dict[str, object] = {}

    def handle(self, request: bytes) -> bytes:
        asked = decode(NodeRequest, request)
        self.asked.append(asked.kind)
        if self.dies_at(asked.kind):
            raise Dies(asked.kind.value)
        if asked.kind is Kind.HELLO:
            answers = tuple(self.greet(name, decode(Hello, asked.bodies[0])) for name in self.machines)
        else:
            answers = tuple(
                self.answer(asked.kind, party, asked.body_for(at)) for at, party in enumerate(asked.parties)
            )
        tampered = self.tampers(asked.kind, answers)
        return tampered if isinstance(tampered, bytes) else encode(NodeReply(answers=tampered))

    def greet(self, name: str, hello: Hello) -> PartyAnswer:
        said = HelloAnswer(
            party=name,
            nonce=hello.nonce,
            roster_digest=self.cast.roster.digest,
            policy_digest=self.cast.policy.digest,
            protocol=PROTOCOL,
            software=software_version(),
            parameter_sets=tuple(sorted(self.cast.policy.parameter_sets)),
            signature=bytes(64),
        )
        signed = replace(said, **self.hello).signed(self.identities[name])
        return PartyAnswer(party=name, outcome=Outcome.DONE, body=encode(signed))

    def answer(self, kind: Kind, party: str, body: bytes) -> PartyAnswer:
        machine = self.machines[party]
        does = {
            Kind.BEGIN: lambda: self.knows.add(decode(Begin, body).run_id) or b"",
            Kind.INVITE: lambda: machine.respond(body),
            Kind.BALLOT: lambda: machine.vote(body),
            Kind.QUORUM: lambda: machine.answer(body),
            Kind.ISSUE_KEY: lambda: machine.issue_key(body),
            Kind.OPEN: lambda: machine.open(body),
        }
        if kind is Kind.INVITE and RUN_ID not in self.knows:
            return PartyAnswer(party=party, outcome=Outcome.UNKNOWN_RUN, body=b"")
        try:
            return PartyAnswer(party=party, outcome=Outcome.DONE, body=does[kind]())
        except SecureFUError:
            return PartyAnswer(party=party, outcome=Outcome.REFUSED, body=b"")


@dataclass
class RoundCast:
    """One server's rounds of known vectors, with a node for each party; and the same in one process."""

    directory: Path
    scheme_name: str = "kahe"
    minimum: int = 3
    budget_epsilon: float = 8.0
    identities: dict[str, Identity] = field(init=False)
    roster: Roster = field(init=False)
    policy: Policy = field(init=False)
    nodes: dict[str, BareNode] = field(init=False)

    def __post_init__(self) -> None:
        self.directory.mkdir(exist_ok=True)
        kahe = self.scheme_name == "kahe"
        self.identities = identities_for(self.scheme_name)
        self.roster = Roster.of(identity.party for identity in self.identities.values())
        self.openers = tuple(sorted(set(self.identities) - {SERVER, *CLIENTS}))
        self.scheme = None if kahe else scheme(self.scheme_name)
        self.policy = Policy(
            server=SERVER,
            committee=self.openers,
            terms=SMALL if kahe else ALONE,
            roster_digest=self.roster.digest,
            unit=Unit.RECORD,
            budget=Budget(epsilon=self.budget_epsilon, delta=1e-5, order=4.0, deletion_reserve=0.5, unit=Unit.RECORD),
            clip_norm=1.0,
            saturation=1.0,
            noise_multiplier=1.0,
            sampling_rate=1.0,
            minimum_cohort=self.minimum,
            colluders=1,
            purposes=frozenset({SUM}),
            parameter_sets=kahe_parameter_sets() if kahe else frozenset({self.scheme.parameter_set}),
        )
        self.ledger = PrivacyLedger.create(self.directory / "ledger.sqlite", budget=self.policy.budget)
        self.ledger.branch("run")
        self.records = {name: ClientRecord(self.directory / f"{name}.sqlite", new=True) for name in CLIENTS}
        kept = MemberRecord if kahe else OpeningRecord
        self.opener_records = {name: kept(self.directory / f"{name}.sqlite", new=True) for name in self.openers}
        self.nodes = {f"node-of-{name}": self.node({name: self.machine(name)}) for name in (*CLIENTS, *self.openers)}
        self.exchange = InProcessExchange(self.nodes)
        self.hosts = Hosts(self.exchange, roster=self.roster, policy=self.policy)
        self.logged: list[int] = []

    def node(self, machines: Mapping[str, object]) -> BareNode:
        return BareNode(machines, self.identities, self)

    def at(self, party: str) -> BareNode:
        """The node of a party."""
        return self.nodes[f"node-of-{party}"]

    def machine(self, name: str, record: ClientRecord | None = None) -> Client | Member | KeyHolder:
        """A party's machine, as it is after a start."""
        pinned = {"roster": self.roster, "policy": self.policy}
        if name in CLIENTS:
            return Client(
                self.identities[name],
                **pinned,
                encryption=CommitteeEncryption(roster=self.roster)
                if self.scheme is None
                else KeyHolderEncryption(self.scheme, roster=self.roster, server=SERVER, key_holder="key-holder"),
                tasks={SUM: Gives(CLIENTS.index(name))},
                randomness=InsecureDeterministicRandomness(7),
                record=self.records[name] if record is None else record,
            )
        opener_record = self.opener_records[name]
        if self.scheme is None:
            return Member(self.identities[name], **pinned, record=opener_record)
        return KeyHolder(self.identities[name], **pinned, scheme=self.scheme, record=opener_record)

    def run(self, ledger: PrivacyLedger | None = None) -> Run:
        return Run(
            run_id=RUN_ID,
            roster=self.roster,
            policy=self.policy,
            ledger=self.ledger if ledger is None else ledger,
            branch="run",
            transcript=Transcript(),
            on_release=lambda release, _: self.logged.append(decode_round(release)),
        )

    def sums(self, **arguments: object) -> RemoteSums:
        """Over the exchange."""
        opening = (
            RemoteCommittee(CommitteeServer(self.identities[SERVER], self.run()), self.hosts, IMPATIENT)
            if self.scheme is None
            else RemoteKeyHolder(
                KeyHolderServer(self.identities[SERVER], self.run(), scheme=self.scheme), self.hosts, IMPATIENT
            )
        )
        begin = Begin.signed(self.identities[SERVER], run_id=RUN_ID, branch="run")

        def tell(clients):
            asked = self.hosts.ask(Kind.BEGIN, clients, encode(begin), timeout=60.0)
            return [answer.party for answer in asked if answer.outcome is Outcome.DONE]

        given = {"cohort": lambda _: CLIENTS, "begin": tell, "patience": IMPATIENT, **arguments}
        return RemoteSums(opening=opening, hosts=self.hosts, **given)

    def local_sums(self, clients: Collection[str] = CLIENTS) -> InProcessSums:
        """In one process, with records of its own; some clients answer."""
        ledger = PrivacyLedger.create(self.directory / "local-ledger.sqlite", budget=self.policy.budget)
        ledger.branch("run")
        record = ClientRecord()
        run = self.run(ledger)
        machines = {name: self.machine(name, record) for name in CLIENTS}
        if self.scheme is None:
            member_record = MemberRecord()
            members = [
                Member(self.identities[name], roster=self.roster, policy=self.policy, record=member_record)
                for name in self.openers
            ]
            opening = CommitteeOpening(CommitteeServer(self.identities[SERVER], run), members, member_record)
        else:
            keeper = KeyHolder(
                self.identities["key-holder"],
                roster=self.roster,
                policy=self.policy,
                scheme=self.scheme,
                record=OpeningRecord(),
            )
            opening = KeyHolderOpening(KeyHolderServer(self.identities[SERVER], run, scheme=self.scheme), keeper)
        return InProcessSums(
            opening=opening,
            clients=machines,
            record=record,
            cohort=lambda _: CLIENTS,
            vanishes=lambda _, name: name not in clients,
        )

    def close(self) -> None:
        self.ledger.close()
        for record in (*self.records.values(), *self.opener_records.values()):
            record.close()


def decode_round(release) -> int:
    """Number of a release's round."""
    return decode(Header, release.announcement.header).round_number


def request() -> SumRequest:
    """What an algorithm asks."""
    return SumRequest(
        purpose=SUM,
        phase=Phase.TRAINING,
        model=ReleasedModel.public(np.zeros(LENGTH, dtype=np.float32)),
        unit=Unit.RECORD,
        clip_norm=1.0,
        saturation=1.0,
        noise_multiplier=8.0,
        retained_rate=1.0,
        forgotten_rate=0.0,
    )
