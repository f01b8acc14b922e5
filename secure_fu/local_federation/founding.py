"""From nothing to a founded federation: keys made by each machine, a roster, terms, and nodes that have pinned them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from secure_fu.crypto import Role, Roster
from secure_fu.deployment.founding.bundle import found, write_bundle
from secure_fu.deployment.founding.setup import (
    make_keys,
    make_roster,
    read_party_file,
    read_roster,
    write_roster,
)
from secure_fu.deployment.founding.terms import read_terms
from secure_fu.deployment.upkeep import pin
from secure_fu.federation.founding import Founding
from secure_fu.file_names import KEYS, ROSTER
from secure_fu.local_federation.parties import SERVER, TERMS_TEXT, Cast, digits

__all__ = ["BUNDLE", "TERMS", "Folders", "found_federation", "make_all_keys", "make_the_roster", "pin_everywhere"]

TERMS: Final = "federation.toml"
BUNDLE: Final = "bundle"
_RECORDS: Final = "records.npz"


@dataclass(frozen=True, kw_only=True)
class Folders:
    """Where everything of the local federation is.

    Attributes:
        out: the folder of it all.
        cast: who takes part.
    """

    out: Path
    cast: Cast

    @property
    def server(self) -> Path:
        """The server's directory."""
        return self.out / SERVER

    @property
    def logs(self) -> Path:
        """Of every process."""
        return self.out / "logs"

    def node(self, name: str) -> Path:
        """A node's directory."""
        return self.out / "nodes" / name


def make_all_keys(folders: Folders) -> list[Path]:
    """Every machine makes the keys of its parties; returns the public files."""
    public = list(make_keys(folders.server, {SERVER: Role.SERVER}).values())
    for name in folders.cast.nodes:
        public += make_keys(folders.node(name), folders.cast.roles(name)).values()
    return public


def make_the_roster(folders: Folders, public: list[Path]) -> Roster:
    """The roster of all public files, in `roster.bin`."""
    write_roster(folders.out / ROSTER, make_roster(read_party_file(path) for path in public))
    return read_roster(folders.out / ROSTER)


def found_federation(folders: Folders, roster: Roster) -> tuple[Founding, bytes]:
    """Write the terms, found the federation, make the bundle for its nodes; returns the bundle's digest, too."""
    terms = folders.out / TERMS
    terms.write_text(TERMS_TEXT, encoding="utf-8")
    founding = found(read_terms(terms), roster, folders.server, keys=folders.server / KEYS)
    return founding, write_bundle(folders.server, folders.out / BUNDLE)


def pin_everywhere(folders: Folders, digest: bytes) -> dict[str, int]:
    """Each node pins the bundle, whose digest its operator was told, and gets its hospital's records.

    Returns:
        how many records each has, by node.
    """
    nodes = folders.cast.nodes
    parts, _ = digits(len(nodes))
    for name, (features, labels) in zip(nodes, parts, strict=True):
        pin(folders.node(name), folders.out / BUNDLE, digest=digest)
        records = folders.node(name) / _RECORDS
        np.savez(records, features=features, labels=labels)
        records.chmod(0o600)
    return {name: len(labels) for name, (_, labels) in zip(nodes, parts, strict=True)}
