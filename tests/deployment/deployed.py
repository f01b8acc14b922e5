"""Whole deployments in one process: a server's directory, a node for each party, small models; and how nodes fail."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deployment_cast import ALONE, IMPATIENT, SMALL, Dies
from small_federations import plan_for, silos

from secure_fu.crypto import Identity, InsecureDeterministicRandomness, Role, Roster, scheme
from secure_fu.crypto.identity_file import make_identities, read_identities
from secure_fu.crypto.wire import decode
from secure_fu.deletion import DeletionRequest
from secure_fu.deletion.policy import DeletionPolicy, write_deletion_policy
from secure_fu.deletion.requests import SignedBatch, SignedRequest, sign_request
from secure_fu.deployment.exchange.exchange import InProcessExchange
from secure_fu.deployment.exchange.messages import Kind, NodeRequest
from secure_fu.deployment.node import Node
from secure_fu.deployment.server import FederationServer
from secure_fu.file_names import FOUNDING
from secure_fu.learning import Records, mlp
from secure_fu.planning import Plan
from secure_fu.protocol import Policy, kahe_parameter_sets, verify_against_ledger, verify_transcript
from secure_fu.training import TRAIN
from secure_fu.unlearning import METHODS, UnlearningMethod

NOW = 1_700_000_000
SEED = 11
METHOD_LIST = tuple(kind() for kind in METHODS.values())
RECORDS = DeletionRequest.some_records("silo-1", (0, 3, 7))
OTHERS = DeletionRequest.some_records("silo-2", (1, 4))
LEAVES = DeletionRequest.whole_client("silo-3")
HIDING = DeletionPolicy(window_start=0, window_seconds=60, hidden_units=1, cover=True)


def module():
    return mlp(5, (), 3, 0)


@dataclass
class Accidents:
    """What happens to messages on their way to a node, and to its answers; asked for each message."""

    instead: Callable[[str, Kind], bytes | None] = lambda _party, _kind: None
    silent: Callable[[str, Kind], bool] = lambda _party, _kind: False
    tampers: Callable[[str, Kind, bytes], bytes] = lambda _party, _kind, reply: reply
    before: Callable[[str, Kind], None] = lambda _party, _kind: None
    after: Callable[[str, Kind], None] = lambda _party, _kind: None
    asked: list[tuple[str, Kind]] = field(default_factory=list)


class Wire:
    """The way to one node, which may have been started anew since."""

    def __init__(self, deployment: Deployment, party: str) -> None:
        self._deployment = deployment
        self._party = party

    def handle(self, request: bytes) -> bytes:
        kind, accidents = decode(NodeRequest, request).kind, self._deployment.accidents
        accidents.asked.append((self._party, kind))
        accidents.before(self._party, kind)
        if accidents.silent(self._party, kind) or self._party not in self._deployment.nodes:
            raise Dies(self._party)
        reply = accidents.instead(self._party, kind) or self._deployment.nodes[self._party].handle(request)
        accidents.after(self._party, kind)
        return accidents.tampers(self._party, kind, reply)


class Deployment:
    """One party a node, and a server; all of them can be stopped and started."""

    def __init__(
        self,
        directory: Path,
        scheme_name: str = "kahe",
        *,
        clients: Mapping[str, Records] | None = None,
        plan: Plan | None = None,
        rounds: int = 2,
        deterministic: bool = False,
        deletion: DeletionPolicy | None = None,
        methods: tuple[UnlearningMethod, ...] = METHOD_LIST,
        **plan_arguments: object,
    ) -> None:
        self.directory = directory
        self.scheme_name = scheme_name
        self.records = silos() if clients is None else dict(clients)
        self.plan = (
            plan_for(module(), clients=len(self.records), rounds=rounds, **plan_arguments) if plan is None else plan
        )
        self.deterministic = deterministic
        self.methods = methods
        kahe = scheme_name == "kahe"
        openers = [f"member-{number}" for number in range(SMALL.members)] if kahe else ["key-holder"]
        roles = {
            **dict.fromkeys(self.records, Role.CLIENT),
            **dict.fromkeys(openers, Role.MEMBER if kahe else Role.KEY_HOLDER),
        }
        self.openers = tuple(openers)
        self.identities: dict[str, Identity] = {}
        for name, role in roles.items():
            folder = directory / name
            folder.mkdir(parents=True, mode=0o700)
            self.identities |= make_identities(folder / "keys.bin", {name: role})
        self.server_directory = directory / "server"
        self.server_directory.mkdir(mode=0o700)
        self.identities |= make_identities(self.server_directory / "keys.bin", {"server": Role.SERVER})
        self.roster = Roster.of(identity.party for identity in self.identities.values())
        self.policy = self._policy()
        self.accidents = Accidents()
        self.nodes: dict[str, Node] = {}
        self.exchange = InProcessExchange({name: Wire(self, name) for name in roles})
        self.server = FederationServer.create(
            self.server_directory,
            self.exchange,
            identity=read_identities(self.server_directory / "keys.bin")["server"],
            roster=self.roster,
            policy=self.policy,
            plan=self.plan,
            module=module(),
            scheme_name=scheme_name,
            methods=methods,
            run_key=bytes(32),
            patience=IMPATIENT,
        )
        for name in roles:
            for file in ("roster.bin", "policy.toml", FOUNDING):
                shutil.copy(self.server_directory / file, directory / name / file)
            (directory / name / "node.toml").write_text(f'[parties]\nnames = ["{name}"]\n')
            if deletion is not None:
                write_deletion_policy(deletion, directory / name / "deletion.toml")
            self.start(name, new=True)

    def _policy(self) -> Policy:
        plan, recipe, kahe = self.plan, self.plan.recipe, self.scheme_name == "kahe"
        return Policy(
            server="server",
            committee=tuple(sorted(self.openers)),
            terms=SMALL if kahe else ALONE,
            roster_digest=self.roster.digest,
            unit=recipe.unit,
            budget=plan.budget,
            clip_norm=recipe.clip_norm,
            saturation=recipe.saturation,
            noise_multiplier=plan.least_noise_multiplier,
            sampling_rate=plan.largest_sampling_rate,
            minimum_cohort=plan.minimum_cohort,
            colluders=plan.colluders,
            purposes=frozenset({TRAIN, *(method.purpose for method in self.methods)}),
            parameter_sets=kahe_parameter_sets() if kahe else frozenset({scheme(self.scheme_name).parameter_set}),
            grids=frozenset({plan.grid.value}),
        )

    @property
    def clients(self) -> tuple[str, ...]:
        return tuple(self.records)

    def start(self, party: str, *, new: bool = False) -> Node:
        """Start a party's node, for the first time or anew."""
        made = Node.create if new else Node.open
        self.nodes[party] = made(
            self.directory / party,
            randomness=InsecureDeterministicRandomness(SEED) if self.deterministic else None,
            module=module(),
            records={party: self.records[party]} if party in self.records else None,
        )
        return self.nodes[party]

    def stop(self, party: str) -> None:
        """End a node, as a kill does."""
        self.nodes.pop(party).close()

    def restart(self, party: str) -> None:
        """End a node and start it."""
        self.stop(party)
        self.start(party)

    def reopen(self, **arguments: object) -> FederationServer:
        """Another process of the server."""
        self.server.close()
        given = {"module": module(), "methods": self.methods, "patience": IMPATIENT, **arguments}
        self.server = FederationServer.open(self.server_directory, self.exchange, **given)
        return self.server

    def request(self, request: DeletionRequest, signer: str, units: int = 1, **named: object) -> SignedRequest:
        """A client's signed request."""
        times = {"submitted": NOW, "deadline": NOW + 10**6, **named}
        return sign_request(self.identities[signer], request, roster=self.roster, units=units, **times)

    def batch(self, *requests: SignedRequest, hidden_units: int = 0, opened: int = NOW + 100) -> SignedBatch:
        """A window's requests."""
        return SignedBatch.of(opened, requests, hidden_units)

    def close(self) -> None:
        self.server.close()
        for node in self.nodes.values():
            node.close()


def shown(state):
    return state.model.encode(), state.velocity.tobytes(), state.rounds, state.last_round


def events(made, branch=None):
    return [(event.branch, event.round_number, event.status.value) for event in made.server.ledger.events(branch)]


def gone(made, client):
    return made.nodes[client].client(client).state.gone


def check_transcript(made):
    """Transcript and ledger, from outside; how many rounds were charged and not released."""
    branches = verify_transcript(made.server_directory / "transcript.jsonl", roster=made.roster, policy=made.policy)
    return verify_against_ledger(branches, made.server.ledger)


def replace_window(made, batch):
    return made.batch(*batch.requests, opened=batch.opened + 60)
