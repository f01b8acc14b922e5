"""Founding: from terms and a roster to the server's directory, and to the public files that nodes pin."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import tomli_w

from secure_fu.crypto import Role, Roster
from secure_fu.crypto.identity_file import read_identities
from secure_fu.deletion.policy import write_deletion_policy
from secure_fu.deployment.founding.setup import own_parties
from secure_fu.deployment.founding.terms import Terms, model_of
from secure_fu.deployment.founding.windows_held import check_cover
from secure_fu.errors import ArgumentError, ConfigError, RecordError
from secure_fu.federation.agreed_policy import parameter_sets_of, policy_of
from secure_fu.federation.founding import Founding, common_facts, write_founding
from secure_fu.file_names import DELETION, FOUNDING, KEYS, LEDGER, NODE, POLICY, ROSTER
from secure_fu.learning import FlatModel
from secure_fu.planning import Plan
from secure_fu.privacy import PrivacyLedger
from secure_fu.protocol import Policy, ReleasedModel, write_policy
from secure_fu.protocol.files import write_whole
from secure_fu.scheme_names import KAHE
from secure_fu.training import TRAIN
from secure_fu.unlearning import settings_of

__all__ = [
    "BUNDLE_FILES",
    "bundle_digest",
    "check_server_keys",
    "facts_of",
    "found",
    "node_file",
    "policy_for",
    "write_bundle",
]

BUNDLE_FILES: Final = (ROSTER, POLICY, FOUNDING, DELETION)
"""What nodes pin, in the order in which their digest takes them."""


def policy_for(terms: Terms, roster: Roster, plan: Plan) -> Policy:
    """What every party pins."""
    members = roster.names(Role.MEMBER) if terms.scheme == KAHE else roster.names(Role.KEY_HOLDER)
    return policy_of(
        plan,
        roster=roster,
        server=roster.names(Role.SERVER)[0],
        committee=members,
        terms=terms.terms_for(roster),
        purposes=frozenset({TRAIN, *(method.purpose for method in terms.methods)}),
        parameter_sets=parameter_sets_of(terms.scheme),
    )


def facts_of(terms: Terms) -> dict[str, str]:
    """What is fixed before the first round beside plan and policy, and public."""
    start = ReleasedModel.public(FlatModel(model_of(terms.model)).vector())
    return {
        **common_facts(start, {}, terms.methods),
        "model": json.dumps(dict(terms.model), sort_keys=True),
        "epoch": "1",
        "before": "{}",
    }


def found(terms: Terms, roster: Roster, out: Path, *, keys: Path | None = None) -> Founding:
    """Make a server's directory: its keys, roster, policies and what it was founded with, and an empty ledger.

    Args:
        out: may have the server's `keys.bin` already, and nothing of a federation.
        keys: the server's `keys.bin` where it lies elsewhere; it is copied.

    Raises:
        ConfigError: the terms do not fit the roster, or let the server ask for deletions, or have windows for cover
            that the budget does not hold.
        ArgumentError: there is a federation already.
        CryptoError, RosterError: the keys are missing, or are not those of the roster's server, or others beside them.
        RecordError, LedgerError: a file cannot be written.
    """
    plan = terms.plan_for(roster)
    policy = policy_for(terms, roster, plan)
    try:
        terms.deletion.check_roster(roster)
    except ArgumentError as error:
        raise ConfigError(f"deletion.{error.argument}", error.value, error.expected) from error
    check_cover(terms, plan, clients=len(roster.clients))
    if (out / FOUNDING).exists():
        raise ArgumentError("--out", str(out), f"a folder without {FOUNDING}; a federation is founded once")
    check_server_keys(out / KEYS if keys is None else keys, roster)
    founding = Founding(
        clients=tuple(sorted(roster.clients)),
        scheme_name=terms.scheme,
        plan=plan,
        roster_digest=roster.digest,
        run_key=os.urandom(32),
        facts=facts_of(terms),
    )
    try:
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        if keys is not None and keys.resolve() != (out / KEYS).resolve():
            if (out / KEYS).exists():
                raise ArgumentError("--keys", str(keys), f"no other file than {out / KEYS}, which exists")
            write_whole(out / KEYS, keys.read_bytes())
        write_whole(out / ROSTER, roster.encode())
        write_policy(policy, out / POLICY)
        # All settings, so that a certificate can be held against each of them.
        deletion = replace(terms.deletion, settings=settings_of(terms.chosen))
        write_deletion_policy(deletion, out / DELETION)
    except OSError as error:
        raise RecordError(f"{out} cannot be written: {error.strerror}") from error
    # A ledger that an interrupted founding has left is empty, and of the same budget or refused when it is opened.
    if not (out / LEDGER).exists():
        PrivacyLedger.create(out / LEDGER, budget=plan.budget).close()
    write_founding(out / FOUNDING, founding)  # last: it says that the others are there
    return founding


def check_server_keys(path: Path, roster: Roster) -> None:
    """Refuse keys that are not the server's alone: keys of others must never be on its machine.

    Raises:
        CryptoError: they cannot be read.
        ArgumentError: there are others than the server's.
        RosterError: the roster has other keys for the server.
    """
    identities = read_identities(path)
    if sorted(identities) != list(roster.names(Role.SERVER)):
        raise ArgumentError(
            "--keys", sorted(identities), f"the keys of {roster.names(Role.SERVER)[0]!r} alone, the roster's server"
        )
    own_parties(roster, identities)


def write_bundle(server: Path, out: Path) -> bytes:
    """Copy what nodes need out of a server's directory; nothing in it is secret.

    Returns:
        the digest of the bundle, which everybody compares before pinning it.

    Raises:
        ArgumentError: the folder exists and has other things in it.
        RecordError: a file is missing or cannot be written.
    """
    if out.exists() and (not out.is_dir() or {path.name for path in out.iterdir()} - {*BUNDLE_FILES, NODE}):
        raise ArgumentError("--bundle", str(out), "a new folder, or one of an earlier bundle")
    try:
        founding = json.loads((server / FOUNDING).read_bytes())["founding"]
        out.mkdir(parents=True, exist_ok=True)
        for name in BUNDLE_FILES:
            write_whole(out / name, (server / name).read_bytes())
            (out / name).chmod(0o644)
        template = node_file(("NAME",), json.loads(founding["facts"]["model"]), has_data=True)
        write_whole(out / NODE, template.encode())
        (out / NODE).chmod(0o644)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordError(f"no bundle can be made from {server}: {error}") from error
    return bundle_digest(out)


def bundle_digest(folder: Path) -> bytes:
    """SHA-256 over the names and hashes of the files that nodes pin, 32 bytes.

    Raises:
        RecordError: one is missing.
    """
    try:
        parts = [name.encode() + b"\0" + hashlib.sha256((folder / name).read_bytes()).digest() for name in BUNDLE_FILES]
    except OSError as error:
        raise RecordError(f"{folder} is no bundle of a federation: {error}") from error
    return hashlib.sha256(b"".join(parts)).digest()


def node_file(
    names: tuple[str, ...], model: Mapping[str, Any], *, has_data: bool, clients: tuple[str, ...] = ()
) -> str:
    """A node's `node.toml`: the parties that it hosts, where a client's records are, and the federation's model.

    Args:
        has_data: whether a client lives here.
        clients: their names, where there are several, each with a file of its own.
    """
    tables: dict[str, Any] = {"parties": {"names": list(names)}}
    if len(clients) > 1:
        tables["data"] = {client: {"file": f"{client}.npz"} for client in clients}
    elif has_data:
        tables["data"] = {"file": "records.npz"}
    return (
        "# Which parties of the roster this machine hosts; where its clients' records are (.npz with features, labels\n"
        "# and, for the group unit, groups; or .csv); and the model, which has to be the federation's.\n"
        f"{tomli_w.dumps({**tables, 'model': dict(model)})}"
    )
