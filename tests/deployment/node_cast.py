"""Directories of nodes for a tiny federation, and a server that asks them directly."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tomli_w
from small_federations import plan_for, silos

from secure_fu.crypto import CommitteeTerms, Identity, Role, Roster, scheme
from secure_fu.crypto.identity_file import make_identities
from secure_fu.crypto.wire import decode, encode
from secure_fu.deletion import DeletionRequest
from secure_fu.deletion.policy import DeletionPolicy, write_deletion_policy
from secure_fu.deletion.requests import SignedRequest, sign_request
from secure_fu.deployment.exchange.messages import (
    Begin,
    Hello,
    Kind,
    NodeReply,
    NodeRequest,
    Order,
    Outcome,
    PartyAnswer,
    Wipe,
    WipeStatement,
    wipe_commitment,
)
from secure_fu.deployment.node import Node
from secure_fu.federation.founding import Founding, write_founding
from secure_fu.file_names import FOUNDING
from secure_fu.learning import FlatModel, Records, mlp
from secure_fu.planning import Plan
from secure_fu.privacy import Phase, PrivacyLedger, Unit
from secure_fu.protocol import (
    CommitteeServer,
    KeyHolderServer,
    Policy,
    ReleasedModel,
    Run,
    Transcript,
    kahe_parameter_sets,
    write_policy,
)
from secure_fu.protocol.run_id import run_id_of
from secure_fu.training import TRAIN, TrainingState
from secure_fu.unlearning import METHODS, Retrain, UnlearningMethod

SERVER = "server"
KEEPER = "keeper"
CLIENTS = tuple(sorted(silos()))
CLIENT = CLIENTS[1]
FOUR = CommitteeTerms(members=4, threshold=3, quorum=3, corrupt=1)
ALONE = CommitteeTerms(members=1, threshold=1, quorum=1, corrupt=0)
NOW, LATER = 1_700_000_000, 1_900_000_000
RUN, OTHER_RUN = b"r" * 16, b"o" * 16
WINDOW, OTHER_WINDOW = b"w" * 16, b"v" * 16
RUN_KEY = bytes(32)
HIDING = DeletionPolicy(window_start=0, window_seconds=60, hidden_units=9, cover=True)
PLACES = (0, 3, 7)
REQUEST = DeletionRequest.some_records(CLIENT, PLACES)
PRIVATE = DeletionRequest.some_records(CLIENT, (2, 5))
MODEL = {"kind": "mlp", "inputs": 5, "hidden": [], "classes": 3, "seed": 0}


def module():
    return mlp(5, (), 3, 0)


@dataclass(frozen=True, kw_only=True)
class Cast:
    """Who there is. Every party has a node of its own, in `root / name`.

    Run ids follow from branch and order. Tests call runs by names of their own, `RUN` and the like; `runs` has the real
    id of each, as it was begun last.
    """

    root: Path
    server: Identity
    roster: Roster
    policy: Policy
    plan: Plan
    scheme_name: str
    identities: Mapping[str, Identity]
    runs: dict[bytes, bytes] = field(default_factory=dict)

    def folder(self, name: str) -> Path:
        return self.root / name

    def open(self, name: str, **arguments) -> Node:
        return Node.open(self.folder(name), **arguments)

    # What a server says

    def order(
        self,
        *requests: SignedRequest,
        window: bytes = WINDOW,
        method: UnlearningMethod | None = None,
        hidden_units: int = 0,
        remembered: int = -1,
    ) -> Order:
        return Order.of(
            window_id=window,
            opened=NOW,
            method=Retrain() if method is None else method,
            requests=requests,
            hidden_units=hidden_units,
            continues_after=remembered + 1,
        )

    def begin(self, run_id: bytes = RUN, order: Order | None = None, *, by: Identity | None = None) -> bytes:
        begin = self.begin_message(run_id, order, by=by)
        self.runs[run_id] = begin.run_id
        return encode(begin)

    def begin_message(self, run_id: bytes = RUN, order: Order | None = None, *, by: Identity | None = None) -> Begin:
        branch = run_id[:1].decode()
        real = run_id_of(RUN_KEY, branch, b"" if order is None else order.digest)
        return Begin.signed(self.server if by is None else by, run_id=real, branch=branch, order=order)

    def real(self, run_id: bytes) -> bytes:
        """The id of a run; of training, if nothing of that name has begun."""
        return self.runs.get(run_id, run_id_of(RUN_KEY, run_id[:1].decode()))

    def wipe(self, run_id: bytes = RUN, window: bytes = WINDOW, *, by: Identity | None = None) -> bytes:
        signer = self.server if by is None else by
        return encode(Wipe.signed(signer, run_id=self.real(run_id), window_id=window))

    def asks(self, request: DeletionRequest, *, by: str | None = None, units: int = 3) -> SignedRequest:
        signer = self.identities[request.client if by is None else by]
        return sign_request(signer, request, roster=self.roster, units=units, submitted=NOW, deadline=LATER)


def make_cast(
    root: Path,
    *,
    scheme_name: str = "plain",
    unit: Unit = Unit.RECORD,
    clients: Mapping[str, Records] | None = None,
    deletion: DeletionPolicy | None = None,
    budget_rounds: int = 12,
    together: tuple[str, ...] = (),
) -> Cast:
    """Keys, public files and data of every party, each in a directory of its own; nothing is made by a node yet.

    Parties that are `together` share the directory `together`.
    """
    records = silos() if clients is None else clients
    openers = {KEEPER: Role.KEY_HOLDER}
    if scheme_name == "kahe":
        openers = {f"member-{number}": Role.MEMBER for number in range(FOUR.members)}
    roles = {SERVER: Role.SERVER, **dict.fromkeys(records, Role.CLIENT), **openers}
    identities: dict[str, Identity] = {}
    hosts = {name: (name,) for name in roles if name not in together} | ({"together": together} if together else {})
    for host, hosted in hosts.items():
        (root / host).mkdir(mode=0o700, parents=True)
        identities |= make_identities(root / host / "keys.bin", {name: roles[name] for name in hosted})
    roster = Roster.of(identity.party for identity in identities.values())
    plan = plan_for(module(), unit, clients=len(records), branch_rounds=budget_rounds)
    sets = kahe_parameter_sets() if scheme_name == "kahe" else frozenset({scheme(scheme_name).parameter_set})
    policy = Policy(
        server=SERVER,
        committee=tuple(sorted(openers)),
        terms=FOUR if scheme_name == "kahe" else ALONE,
        roster_digest=roster.digest,
        unit=unit,
        budget=plan.budget,
        clip_norm=plan.recipe.clip_norm,
        saturation=plan.recipe.saturation,
        noise_multiplier=plan.least_noise_multiplier,
        sampling_rate=plan.largest_sampling_rate,
        minimum_cohort=plan.minimum_cohort,
        colluders=plan.colluders,
        purposes=frozenset({TRAIN, *(f"unlearn/{name}" for name in METHODS)}),
        parameter_sets=sets,
        grids=frozenset({plan.grid.value}),
    )
    founding = Founding(
        clients=tuple(sorted(records)),
        scheme_name=scheme_name,
        plan=plan,
        roster_digest=roster.digest,
        run_key=RUN_KEY,
        facts={"start": ReleasedModel.public(FlatModel(module()).vector()).digest.hex()},
    )
    for host, hosted in hosts.items():
        if host == SERVER:
            continue
        folder = root / host
        (folder / "roster.bin").write_bytes(roster.encode())
        write_policy(policy, folder / "policy.toml")
        write_founding(folder / FOUNDING, founding)
        if deletion is not None:
            write_deletion_policy(deletion, folder / "deletion.toml")
        files = {name: {"file": "records.npz"} for name in hosted if roles[name] is Role.CLIENT}
        if len(files) > 1:
            files = {name: {"file": f"{name}.npz"} for name in files}
        for name, file in files.items():
            save_records(folder / file["file"], records[name])
        tables = {"parties": {"names": list(hosted)}, "model": MODEL}
        if files:
            tables["data"] = files if len(files) > 1 else next(iter(files.values()))
        (folder / "node.toml").write_text(tomli_w.dumps(tables))
    return Cast(
        root=root,
        server=identities[SERVER],
        roster=roster,
        policy=policy,
        plan=plan,
        scheme_name=scheme_name,
        identities=identities,
    )


def save_records(path: Path, records: Records) -> None:
    arrays = {"features": records.features.numpy(), "labels": records.labels.numpy()}
    if records.groups is not None:
        arrays["groups"] = records.groups
    np.savez(path, **arrays)


def ask(node: Node, kind: Kind, body: bytes, party: str | None = None) -> PartyAnswer:
    """What a node that hosts one party answers."""
    name = node.parties[0] if party is None else party
    reply = node.handle(encode(NodeRequest(kind=kind, parties=(name,), bodies=(body,))))
    (answer,) = decode(NodeReply, reply).answers
    assert answer.party == name
    assert answer.outcome is Outcome.DONE or answer.body == b""
    return answer


def begun(cast: Cast, node: Node, *requests, run_id=RUN, **arguments):
    begin = cast.begin_message(run_id, cast.order(*requests, **arguments))
    outcome = ask(node, Kind.BEGIN, encode(begin)).outcome
    if outcome is Outcome.DONE:
        cast.runs[run_id] = begin.run_id
    return outcome


def settled(cast, node, run_id=RUN, window=WINDOW):
    answer = ask(node, Kind.WIPE, cast.wipe(run_id, window))
    assert answer.outcome is Outcome.DONE
    return answer.body


def gone(node):
    return node.client(node.parties[0]).state.gone


def marks(node):
    return node.client(node.parties[0]).state.order.marks


def commitment_holds(cast, node, body, window=WINDOW):
    """The statement is signed, and its commitment opens to what the client wrote down; returns that."""
    statement = decode(WipeStatement, body)
    statement.check(cast.roster)
    own = node.client(node.parties[0]).state.settled_window(window)
    assert (statement.window_id, statement.client) == (window, node.parties[0])
    assert statement.commitment == wipe_commitment(own.salt, own.opening.encode())
    return json.loads(own.opening)


def twin(cast: Cast, name: str, records: Records) -> Path:
    """A directory of the second client's, with the same keys and other data."""
    folder = cast.root / name
    shutil.copytree(cast.folder(CLIENTS[1]), folder)
    save_records(folder / "records.npz", records)
    return folder


def hello(cast: Cast) -> bytes:
    return encode(Hello(nonce=os.urandom(32), roster_digest=cast.roster.digest, protocol="secure-fu/1", software="x"))


class ServerSide:
    """The server's side of one run: announces rounds, and collects what nodes answer."""

    def __init__(self, cast: Cast, folder: Path, run_id: bytes = RUN) -> None:
        self.cast, self.run_id = cast, run_id
        folder.mkdir()
        self.run = Run(
            run_id=cast.real(run_id),
            roster=cast.roster,
            policy=cast.policy,
            grid=cast.plan.grid,
            ledger=PrivacyLedger.create(folder / "ledger.sqlite", budget=cast.plan.budget),
            branch="original",
            transcript=Transcript(start=bytes(32), path=folder / "transcript.jsonl", branch="original"),
        )
        self.run.ledger.branch("original", parent=None)
        self.state = TrainingState.initial(ReleasedModel.public(FlatModel(module()).vector()))
        if cast.scheme_name == "kahe":
            self.server = CommitteeServer(cast.server, self.run)
        else:
            self.server = KeyHolderServer(cast.server, self.run, scheme=scheme(cast.scheme_name))

    def invitation(self, keeper: Node | None, number: int, purpose: str = TRAIN) -> bytes:
        """A signed invitation to a round, each on a model of its own."""
        announcement = self.announced(number, purpose)
        if keeper is None:
            return self.server.invite()
        return self.server.invite(ask(keeper, Kind.ISSUE_KEY, announcement).body)

    def announced(self, number: int, purpose: str = TRAIN) -> bytes:
        """A signed announcement."""
        model = ReleasedModel.public(FlatModel(module()).vector() + number / 64)
        request = self.cast.plan.recipe.request(
            purpose=purpose,
            phase=Phase.TRAINING if purpose == TRAIN else Phase.UNLEARNING,
            model=model,
            forgotten_rate=self.cast.plan.recipe.sampling_rate if purpose == TRAIN else 0.0,
        )
        object.__setattr__(self.run, "run_id", self.cast.real(self.run_id))  # it may have begun since
        return self.server.announce(request, CLIENTS, number)

    def drop(self) -> None:
        """The round is not gone on with."""
        self.server.give_up("a test has seen enough")

    def take(self, uploads: Iterable[bytes]) -> None:
        for upload in uploads:
            self.server.receive(upload)

    def close(self) -> None:
        self.run.ledger.close()
