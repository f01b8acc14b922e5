"""What a server's directory was founded with, read back: model, pinned files, the server's own keys."""

from __future__ import annotations

import json
from pathlib import Path

from torch import nn

from secure_fu.crypto import Identity, Roster
from secure_fu.crypto.identity_file import read_identities
from secure_fu.deployment.founding.bundle import check_server_keys
from secure_fu.deployment.founding.terms import model_of
from secure_fu.errors import ArgumentError, ConfigError, RecordError, WireError
from secure_fu.federation.founding import Founding
from secure_fu.federation.server_directory import check_public_files
from secure_fu.file_names import KEYS, POLICY, ROSTER
from secure_fu.protocol import Policy, read_policy
from secure_fu.unlearning import installed

__all__ = ["check_methods", "founded_module", "pinned_files", "server_identity"]


def founded_module(founding: Founding) -> nn.Module:
    """The model at its public starting point.

    Raises:
        ArgumentError: what was founded does not name one.
    """
    if "model" not in founding.facts:
        raise ArgumentError("module", None, "the model: what was founded does not name it")
    return model_of(json.loads(founding.facts["model"]))


def pinned_files(directory: Path, founding: Founding) -> tuple[Roster, Policy]:
    """Roster and policy, checked against each other and what was founded.

    Raises:
        RecordError: a file is missing, damaged or of another federation.
        ArgumentError: the policy is not the roster's.
    """
    try:
        roster = Roster.decode((directory / ROSTER).read_bytes())
    except (OSError, WireError) as error:
        raise RecordError(f"{directory / ROSTER} cannot be used: {error}") from error
    policy = read_policy(directory / POLICY)
    check_public_files(directory, founding=founding, roster=roster, policy=policy, keys=ROSTER)
    policy.check_roster(roster)
    return roster, policy


def check_methods(policy: Policy, path: Path) -> None:
    """Return only if this machine has every method that a policy allows.

    Args:
        path: of the policy's file, for the message.

    Raises:
        ConfigError: names the file, the key and the method to install.
    """
    for purpose in sorted(policy.purposes):
        kind, _, name = purpose.partition("/")
        if kind != "unlearn":
            continue
        try:
            installed(name)
        except ConfigError as error:
            expected = f"methods that this machine has; install the package that brings {name!r} ({error.expected})"
            raise ConfigError(f"{path}: purposes", purpose, expected) from error


def server_identity(directory: Path, policy: Policy, roster: Roster) -> Identity:
    """The server's keys; a file that has others too is refused: they must never be on this machine."""
    check_server_keys(directory / KEYS, roster)
    return read_identities(directory / KEYS)[policy.server]
