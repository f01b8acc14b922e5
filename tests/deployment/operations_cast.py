"""A federation set up as operators do it: keys on each machine, a roster, a founding, bundles pinned by hand."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

import numpy as np
from deployment_cast import IMPATIENT
from small_federations import silos

from secure_fu.crypto import Role, Roster
from secure_fu.crypto.identity_file import _StoredIdentities
from secure_fu.crypto.wire import decode
from secure_fu.deployment.exchange.exchange import InProcessExchange
from secure_fu.deployment.founding.bundle import bundle_digest, found, write_bundle
from secure_fu.deployment.founding.setup import make_keys, make_roster, read_party_file, read_roster
from secure_fu.deployment.founding.terms import read_terms
from secure_fu.deployment.node import Node
from secure_fu.deployment.server import FederationServer
from secure_fu.deployment.upkeep import pin

CLIENTS = tuple(f"silo-{number}" for number in range(4))
MEMBERS = tuple(f"member-{number}" for number in range(4))
TERMS = """
[model]
kind = "logistic"
inputs = 5
classes = 3
seed = 0

[plan]
unit = "record"
nominal_units = 40
minimum_cohort = 3
rounds = 4
deletion_reserve = 0.9
sampling_rate = 0.5
checkpoint_every = 2

[scheme]
name = "kahe"

[committee]
threshold = 3
quorum = 3
corrupt = 1

[methods.retrain]

[deletion]
window_start = 1764547200
window_seconds = 3600
hidden_units = 2
cover = true
"""


def write_records(path: Path, name: str) -> None:
    records = silos()[name]
    np.savez(path, features=records.features, labels=records.labels)


@functools.cache
def _founded(terms: str) -> Path:
    """A federation that nobody has started, made once; those that tests use are copies."""
    root = Path(tempfile.mkdtemp(prefix="secure-fu-test-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    files = [make_keys(root / "server", {"server": Role.SERVER})["server"]]
    for name in (*CLIENTS, *MEMBERS):
        role = Role.CLIENT if name in CLIENTS else Role.MEMBER
        files.append(make_keys(root / name, {name: role})[name])
    (root / "federation.toml").write_text(terms)
    found(read_terms(root / "federation.toml"), make_roster(map(read_party_file, files)), root / "server")
    write_bundle(root / "server", root / "bundle")
    for name in (*CLIENTS, *MEMBERS):
        pin(root / name, root / "bundle", digest=bundle_digest(root / "bundle"))
        if name in CLIENTS:
            write_records(root / name / "records.npz", name)
    return root


class Operated:
    """One machine a party, each with a directory of its own below `root`."""

    def __init__(self, root: Path, terms: str = TERMS) -> None:
        shutil.copytree(_founded(terms), root, dirs_exist_ok=True)
        self.root = root
        self.terms = read_terms(root / "federation.toml")
        self.server = root / "server"
        self.bundle = root / "bundle"
        self.nodes: dict[str, Node] = {}

    @property
    def roster(self) -> Roster:
        return read_roster(self.server / "roster.bin")

    def pin(self, name: str, **arguments):
        return pin(self.root / name, self.bundle, digest=bundle_digest(self.bundle), **arguments)

    def start(self, *names: str, new: bool = False) -> None:
        for name in names or (*CLIENTS, *MEMBERS):
            self.nodes[name] = (Node.create if new else Node.open)(self.root / name)

    def stop(self) -> None:
        for node in self.nodes.values():
            node.close()
        self.nodes.clear()

    def opened(self) -> FederationServer:
        return FederationServer.open(self.server, InProcessExchange(self.nodes), patience=IMPATIENT)


def secrets_in(keys: Path) -> list[bytes]:
    """Parts of all secret keys in a file of keys."""
    stored = decode(_StoredIdentities, keys.read_bytes()[32:]).identities
    return [one.secret[start : start + 16] for one in stored for start in range(0, len(one.secret) - 15, 16)]
