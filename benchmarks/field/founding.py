"""A small federation in a folder: the server's directory, the nodes' directories, records, and signed requests."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from secure_fu.crypto import Role, Roster, encode
from secure_fu.crypto.identity_file import read_identities
from secure_fu.deletion import DeletionPolicy, DeletionRequest, RequestQueue
from secure_fu.deletion.requests import sign_request
from secure_fu.deployment.founding.bundle import BUNDLE_FILES, found, node_file, write_bundle
from secure_fu.deployment.founding.setup import make_keys, make_roster, read_party_file, read_roster, write_roster
from secure_fu.deployment.founding.terms import Terms
from secure_fu.deployment.node import Node
from secure_fu.file_names import KEYS
from secure_fu.privacy import Unit
from secure_fu.unlearning import method_from_settings

__all__ = ["QUEUE", "SERVER", "WINDOW_SECONDS", "Ask", "Field", "found_field", "write_requests"]

SERVER = "server"
QUEUE = Path("deletion") / "queue.sqlite"
WINDOW_SECONDS = 3600
FEATURES, CLASSES, RECORDS = 5, 3, 10


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One deletion request of a story.

    Attributes:
        client: who asks, about its own data.
        places: of the records; empty for all of the client's.
    """

    client: str
    places: tuple[int, ...]

    @property
    def covered(self) -> frozenset[int]:
        """Positions of the records that are to be gone."""
        return frozenset(self.places or range(RECORDS))

    @property
    def request(self) -> DeletionRequest:
        """What is signed."""
        if self.places:
            return DeletionRequest.some_records(self.client, self.places)
        return DeletionRequest.whole_client(self.client)


@dataclass(frozen=True, kw_only=True)
class Field:
    """Where everything of a federation is.

    Attributes:
        root: folder of all of it.
        hosted: names of the parties at each node.
        scheme: `kahe` or `bfv`.
        method: that windows are executed by.
        began: when the first window is due, in seconds since 1970 (UTC).
    """

    root: Path
    hosted: Mapping[str, tuple[str, ...]]
    scheme: str
    method: str
    began: int

    @property
    def server(self) -> Path:
        return self.root / SERVER

    @property
    def queue(self) -> Path:
        return self.server / QUEUE

    @property
    def roster(self) -> Roster:
        return read_roster(self.server / "roster.bin")

    @property
    def clients(self) -> tuple[str, ...]:
        return tuple(sorted(self.roster.clients))

    @property
    def client_nodes(self) -> tuple[str, ...]:
        return tuple(node for node in self.hosted if node.startswith("site"))

    @property
    def opener_nodes(self) -> tuple[str, ...]:
        return tuple(node for node in self.hosted if not node.startswith("site"))

    @property
    def sockets(self) -> tuple[Path, ...]:
        return tuple(self.socket(node) for node in self.hosted)

    def node(self, name: str) -> Path:
        return self.root / name

    def socket(self, name: str) -> Path:
        return self.root / f"{name}.sock"

    def node_of(self, party: str) -> str:
        return next(node for node, parties in self.hosted.items() if party in parties)


def found_field(
    root: Path,
    *,
    scheme: str = "kahe",
    method: str = "retrain",
    sites: int = 4,
    rounds: int = 5,
    branch_rounds: int = 60,
    hidden_units: int = 0,
    inputs: int = FEATURES,
    keep_history: bool = False,
) -> Field:
    """Make a federation of `sites` nodes, the first with two clients, and three members or one key-holder.

    Args:
        root: a new folder, whose path is short enough for sockets.
        rounds: of training.
        branch_rounds: that the budget has room for, beside training: for windows, and for rounds that kills cost.
    """
    root.mkdir(parents=True)
    hosted = {"site-0": ("silo-0", "silo-4")} | {f"site-{number}": (f"silo-{number}",) for number in range(1, sites)}
    if sites > 4:
        hosted = {f"site-{number}": (f"silo-{number}",) for number in range(sites)}
    openers = (
        {f"member-{number}": (f"judge-{number}",) for number in range(3)}
        if scheme == "kahe"
        else {"key-holder": ("notary",)}
    )
    hosted |= openers
    began = int(time.time()) - 10 * WINDOW_SECONDS
    field = Field(root=root, hosted=hosted, scheme=scheme, method=method, began=began)
    opener = Role.MEMBER if scheme == "kahe" else Role.KEY_HOLDER
    public = []
    for node, parties in {**hosted, SERVER: ("server",)}.items():
        role = Role.SERVER if node == SERVER else opener if node in openers else Role.CLIENT
        public += make_keys(root / node, dict.fromkeys(parties, role)).values()
    roster = make_roster(read_party_file(path) for path in public)
    write_roster(root / "roster.bin", roster)
    clients = len(roster.clients)
    terms = Terms(
        model={"kind": "mlp", "inputs": inputs, "hidden": [], "classes": CLASSES, "seed": 0},
        plan={
            "unit": Unit.RECORD,
            "nominal_units": RECORDS * clients,
            "minimum_cohort": 3,
            "sampling_rate": 0.5,
            "rounds": rounds,
            "branch_rounds": branch_rounds,
            "checkpoint_every": 2,
        },
        scheme=scheme,
        committee={"threshold": 2, "quorum": 2, "corrupt": 0} if scheme == "kahe" else {},
        methods=(method_from_settings(method, {}),),
        deletion=DeletionPolicy(
            window_start=began, window_seconds=WINDOW_SECONDS, method=method, hidden_units=hidden_units
        ),
    )
    found(terms, roster, field.server)
    (field.server / "deletion").mkdir(exist_ok=True)
    RequestQueue.create(field.queue).close()
    write_bundle(field.server, root / "bundle")
    draw = np.random.default_rng(3)
    for node, parties in hosted.items():
        folder = field.node(node)
        for name in BUNDLE_FILES:
            (folder / name).write_bytes((root / "bundle" / name).read_bytes())
        has_data = node not in openers
        (folder / "node.toml").write_text(
            _node_file(parties, terms.model, has_data=has_data, keep_history=keep_history)
        )
        for party in parties if has_data else ():
            np.savez(
                folder / f"{party}.npz",
                features=draw.normal(size=(RECORDS, inputs)) + 3.0,
                labels=draw.integers(0, CLASSES, RECORDS),
            )
            (root / f"{party}.before.npz").write_bytes((folder / f"{party}.npz").read_bytes())
        Node.create(folder).close()
    return field


def _node_file(parties: tuple[str, ...], model: Mapping[str, object], *, has_data: bool, keep_history: bool) -> str:
    text = node_file(parties, model, has_data=False)
    for party in parties if has_data else ():
        text += f'\n[data.{party}]\nfile = "{party}.npz"\nkeep_history = {str(keep_history).lower()}\n'
    return text


def write_requests(field: Field, name: str, asks: tuple[Ask, ...], *, window: int) -> dict[str, Ask]:
    """Have clients sign requests, into files that somebody is to hand in; by id.

    Args:
        name: of the folder.
        window: number of the window that they are in time for.
    """
    folder = field.root / name
    folder.mkdir()
    made = {}
    for ask in asks:
        identity = read_identities(field.node(field.node_of(ask.client)) / KEYS)[ask.client]
        request = sign_request(
            identity,
            ask.request,
            roster=field.roster,
            units=len(ask.covered),
            submitted=field.began + (window - 1) * WINDOW_SECONDS + 60,
            deadline=int(time.time()) + 30 * 24 * 3600,
        )
        (folder / f"{request.request_id.hex()}.request").write_bytes(encode(request))
        made[request.request_id.hex()] = ask
    return made
