"""Make the directories of a small federation: a server, and six nodes with a part of scikit-learn's digits each.

    python make_federation.py OUT

Four of the six nodes also host a member of the committee that opens sums. In a real federation every machine makes its
own keys (`secure-fu keys new`) and only the public files travel; here one script plays all operators.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from secure_fu.crypto import Role
from secure_fu.deployment import (
    BUNDLE_FILES,
    Node,
    Terms,
    found,
    make_keys,
    make_roster,
    node_file,
    read_party_file,
    read_terms,
    write_bundle,
)
from secure_fu.file_names import KEYS

SERVER = "server"
NODES: Mapping[str, Sequence[str]] = {
    "node-1": ("clinic-1", "member-1"),
    "node-2": ("clinic-2",),
    "node-3": ("clinic-3", "member-2"),
    "node-4": ("clinic-4", "member-3"),
    "node-5": ("clinic-5",),
    "node-6": ("clinic-6", "member-4"),
}


def digits(clinics: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Features (n, 64) in [0, 1] and labels (n,) of each clinic; the last fifth of the digits is kept for testing."""
    features, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))[: 4 * len(labels) // 5]
    return [(features[part] / 16.0, labels[part]) for part in np.array_split(order, clinics)]


def role_of(party: str) -> Role:
    """By the party's name."""
    roles = {"clinic": Role.CLIENT, "member": Role.MEMBER, "key": Role.KEY_HOLDER, SERVER: Role.SERVER}
    return roles[party.partition("-")[0]]


def make(out: Path, terms: Terms, nodes: Mapping[str, Sequence[str]] = NODES) -> None:
    """Make `out`/server and `out`/nodes/NAME, each node with at most one clinic. The directories must not exist."""
    server = out / SERVER
    public = list(make_keys(server, {SERVER: Role.SERVER}).values())
    for name, parties in nodes.items():
        public += make_keys(out / "nodes" / name, {party: role_of(party) for party in parties}).values()
    roster = make_roster(read_party_file(path) for path in public)
    found(terms, roster, server, keys=server / KEYS)
    write_bundle(server, out / "bundle")
    parts = iter(digits(len(roster.clients)))
    for name, parties in nodes.items():
        folder = out / "nodes" / name
        for file in BUNDLE_FILES:  # in a real federation operators compare the bundle's digest first
            shutil.copyfile(out / "bundle" / file, folder / file)
        has_data = any(role_of(party) is Role.CLIENT for party in parties)
        if has_data:
            features, labels = next(parts)
            np.savez(folder / "records.npz", features=features, labels=labels)
            (folder / "records.npz").chmod(0o600)
        (folder / "node.toml").write_text(node_file(tuple(parties), terms.model, has_data=has_data), encoding="utf-8")
        Node.create(folder).close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--rounds", type=int, help="of a full training; default: as federation.toml says")
    options = parser.parse_args()
    terms = read_terms(Path(__file__).with_name("federation.toml"))
    if options.rounds is not None:
        terms = replace(terms, plan={**terms.plan, "rounds": options.rounds})
    make(options.out.resolve(), terms)
    print(f"{options.out}: a server and {len(NODES)} nodes. Start each node: secure-fu node {options.out}/nodes/NAME")


if __name__ == "__main__":
    main()
