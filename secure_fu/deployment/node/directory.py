"""The directory of a node: who it hosts, with which keys, rules, data and model."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torch import nn

from secure_fu.crypto import Identity, Role, Roster
from secure_fu.crypto.identity_file import read_identities
from secure_fu.deletion.policy import DeletionPolicy, read_deletion_policy
from secure_fu.deployment.founding.founded import check_methods
from secure_fu.deployment.founding.terms import model_of
from secure_fu.deployment.node.data import DataFile
from secure_fu.errors import ConfigError, RecordError, RosterError, WireError
from secure_fu.federation.founding import Founding, read_founding
from secure_fu.file_names import DELETION, FOUNDING, KEYS, NODE, POLICY, ROSTER
from secure_fu.protocol import Policy, read_policy
from secure_fu.unlearning import UnlearningMethod, method_from_settings

__all__ = ["NodeDirectory"]

_UNPINNED: Final = DeletionPolicy(window_start=0, window_seconds=60, maximum_batch=100_000)


@dataclass(frozen=True, kw_only=True)
class NodeDirectory:
    """What its operator put there, checked against each other.

    Files: `node.toml`, `keys.bin` (of mode 600, this node's parties alone), `roster.bin`, `policy.toml`,
    `federation.json` (public, from the operator), `deletion.toml` (optional). The node adds `client-<name>.sqlite`,
    `state-<name>.json` and `histories/<name>/` for clients, `member-<name>.sqlite` for members, `key-holder.sqlite`,
    `models/` and `requests/`.

    `node.toml`::

        [parties]
        names = ["clinic-a"]

        [data]                      # with several clients: [data.clinic-a], [data.clinic-b]
        file = "records.npz"        # or a CSV with label_column and, if there is one, group_column
        keep_history = true         # what the methods correction and eraser need

        [model]
        kind = "mlp"                # or logistic, cnn; or factory = "package.module:function" alone
        inputs = 64
        hidden = [32]
        classes = 10
        seed = 0

    Attributes:
        path: of the directory.
        parties: hosted here, sorted.
        identities: of these parties; secret.
        deletion_policy: pinned; or one that lets clients ask about themselves alone, with neither a smallest batch nor
            hidden units: without a `deletion.toml` no private request is served.
        pinned_method: the one method, with its settings, that the pinned deletion policy has deletions executed with;
            None without a `deletion.toml`: then `policy.toml` alone says which methods may be ordered. None, too, where
            no client lives: others run no method, and need none installed.
        data: each client's file; none where records are handed in.
        keeps_history: whether clients here do.
        model: the table `[model]`.
    """

    path: Path
    parties: tuple[str, ...]
    identities: Mapping[str, Identity]
    roster: Roster
    policy: Policy
    deletion_policy: DeletionPolicy
    pinned_method: UnlearningMethod | None
    founding: Founding
    data: Mapping[str, DataFile]
    keeps_history: Mapping[str, bool]
    model: Mapping[str, object]

    @classmethod
    def read(cls, path: Path) -> NodeDirectory:
        """Read and check it.

        Raises:
            ConfigError: `node.toml` is missing or malformed, or a method that a client would have to run is not
                installed; names the file and the key.
            CryptoError: the keys are missing, readable by others, damaged, or not those that the roster has.
            RecordError: another file is missing, damaged, or of another federation.
        """
        values = _toml(path / NODE)
        for name in values:
            if name not in ("parties", "data", "model"):
                raise ConfigError(f"{NODE}: {name}", values[name], "one of the tables parties, data and model")
        identities = read_identities(path / KEYS)
        roster = _roster(path / ROSTER)
        names = _names(values, identities)
        for name in names:
            _check_identity(identities[name], roster, path)
        policy = read_policy(path / POLICY)
        founding = read_founding(path / FOUNDING)
        if not policy.roster_digest == founding.roster_digest == roster.digest:
            raise RecordError(
                f"roster.bin, policy.toml and {FOUNDING} in {path} are of different federations; expected the roster "
                f"{roster.digest.hex()} in all of them"
            )
        clients = [name for name in names if identities[name].role is Role.CLIENT]
        if clients:  # only they run methods
            check_methods(policy, path / POLICY)
        deletion, pinned = _deletion_policy(path / DELETION, policy, has_clients=bool(clients))
        data, keeps = _data(path, values.get("data", {}), clients)
        return cls(
            path=path,
            parties=names,
            identities={name: identities[name] for name in names},
            roster=roster,
            policy=policy,
            deletion_policy=deletion,
            pinned_method=pinned,
            founding=founding,
            data=data,
            keeps_history=keeps,
            model=_table("model", values.get("model", {})),
        )

    @property
    def clients(self) -> tuple[str, ...]:
        """Names of the clients hosted here, sorted."""
        return tuple(name for name in self.parties if self.identities[name].role is Role.CLIENT)

    def record(self, party: str) -> Path:
        """The durable record of a party that is hosted here."""
        role = self.identities[party].role
        kind = {Role.CLIENT: f"client-{party}", Role.MEMBER: f"member-{party}"}.get(role, "key-holder")
        return self.path / f"{kind}.sqlite"

    def module(self) -> nn.Module:
        """The model that `[model]` describes.

        Raises:
            ConfigError: it describes none; names the key.
        """
        return model_of(self.model)


def _toml(path: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(NODE, str(path), f"a file that can be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(NODE, str(path), f"TOML ({error})") from None


def _table(name: str, values: object) -> Mapping[str, Any]:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{NODE}: {name}", values, "a table")
    return values


def _names(values: Mapping[str, Any], identities: Mapping[str, Identity]) -> tuple[str, ...]:
    parties = _table("parties", values.get("parties", {}))
    names = parties.get("names")
    if set(parties) != {"names"} or not isinstance(names, list) or sorted(map(str, names)) != sorted(identities):
        # Keys of others have no business here: whoever has a party's keys is that party.
        raise ConfigError(f"{NODE}: parties.names", names, f"a list of all whose keys are here: {sorted(identities)}")
    return tuple(sorted(map(str, names)))


def _check_identity(identity: Identity, roster: Roster, path: Path) -> None:
    if identity.role is Role.SERVER:
        raise ConfigError(f"{NODE}: parties.names", identity.name, "no server: its keys belong elsewhere")
    if roster.party(identity.name) != identity.party:
        raise RosterError(f"{path / 'roster.bin'} has other keys for {identity.name!r} than {path / 'keys.bin'}")


def _roster(path: Path) -> Roster:
    try:
        return Roster.decode(path.read_bytes())
    except (OSError, WireError) as error:
        raise RecordError(f"{path} is no roster that can be read: {error}") from None


def _deletion_policy(
    path: Path, policy: Policy, *, has_clients: bool
) -> tuple[DeletionPolicy, UnlearningMethod | None]:
    if not path.exists():
        return _UNPINNED, None
    deletion = read_deletion_policy(path)
    if policy.server in deletion.class_signers:
        # It could then have any class destroyed at every client, on nobody's request.
        raise ConfigError("deletion.toml: class_signers", policy.server, "no server: it executes what others ask for")
    if not has_clients:
        return deletion, None
    try:
        return deletion, method_from_settings(deletion.method, deletion.settings)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.argument}", error.value, error.expected) from error


def _data(path: Path, values: object, clients: list[str]) -> tuple[Mapping[str, DataFile], Mapping[str, bool]]:
    table = _table("data", values)
    if not table:
        return {}, dict.fromkeys(clients, True)
    tables = {clients[0]: table} if len(clients) == 1 and "file" in table else table
    if sorted(tables) != sorted(clients):
        raise ConfigError(f"{NODE}: data", sorted(tables), f"a table for each client: {clients}")
    files: dict[str, DataFile] = {}
    keeps: dict[str, bool] = {}
    for client, own in tables.items():
        settings = dict(_table(f"data.{client}", own))
        keep = settings.pop("keep_history", True)
        file = settings.pop("file", None)
        if not isinstance(keep, bool):
            raise ConfigError(f"{NODE}: data.keep_history", keep, "true or false")
        if not isinstance(file, str) or Path(file).name != file or file.startswith("."):
            # Next to the keys: what has to be destroyed must not lie where nobody expects the node to write.
            raise ConfigError(f"{NODE}: data.file", file, "the name of a file in the node's directory")
        for key, value in settings.items():
            if key not in ("label_column", "group_column") or not isinstance(value, str):
                raise ConfigError(f"{NODE}: data.{key}", value, "a column's name for label_column or group_column")
        files[client], keeps[client] = DataFile(path=path / file, **settings), keep
    return files, keeps
