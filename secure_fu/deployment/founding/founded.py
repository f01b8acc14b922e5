"""What a server's directory was founded with, read back: model, methods, pinned files, the server's own keys."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Collection
from pathlib import Path

from torch import nn

from secure_fu.crypto import Identity, Roster
from secure_fu.crypto.identity_file import read_identities
from secure_fu.deployment.founding.bundle import check_server_keys
from secure_fu.deployment.founding.setup import KEYS
from secure_fu.deployment.founding.terms import model_of
from secure_fu.errors import ArgumentError, RecordError, WireError
from secure_fu.federation.founding import Founding
from secure_fu.federation.server_directory import check_public_files
from secure_fu.protocol import Policy, read_policy
from secure_fu.unlearning import METHODS, UnlearningMethod, method_from_settings

__all__ = ["declared_methods", "founded_module", "pinned_files", "said_methods", "server_identity"]

_ROSTER = "roster.bin"
_POLICY = "policy.toml"
_ENUM = re.compile(r"<\w+\.\w+: ('[^']*')>")


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
        roster = Roster.decode((directory / _ROSTER).read_bytes())
    except (OSError, WireError) as error:
        raise RecordError(f"{directory / _ROSTER} cannot be used: {error}") from error
    policy = read_policy(directory / _POLICY)
    check_public_files(directory, founding=founding, roster=roster, policy=policy, keys=_ROSTER)
    policy.check_roster(roster)
    return roster, policy


def server_identity(directory: Path, policy: Policy, roster: Roster) -> Identity:
    """The server's keys; a file that has others too is refused: they must never be on this machine."""
    check_server_keys(directory / KEYS, roster)
    return read_identities(directory / KEYS)[policy.server]


def said_methods(methods: Collection[UnlearningMethod]) -> str:
    """Methods with their settings as the one text that a founding has."""
    return "; ".join(sorted(repr(method) for method in methods))


def declared_methods(founding: Founding) -> frozenset[UnlearningMethod]:
    """The methods that a founding names by their text: classes of the package, with literals as settings.

    Raises:
        ArgumentError: there are others; the caller has to bring them.
    """
    kinds = {kind.__name__: kind for kind in METHODS.values()}
    found = set()
    for text in founding.facts.get("methods", "").split("; "):
        try:
            call = ast.parse(_ENUM.sub(r"\1", text), mode="eval").body
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
                raise ValueError("it is no method with settings")
            settings = {str(item.arg): _literal(item.value) for item in call.keywords}
            found.add(method_from_settings(kinds[call.func.id].name, settings))
        except (SyntaxError, ValueError, KeyError, TypeError) as error:
            raise ArgumentError("methods", text, f"methods of the package; bring others: methods= ({error})") from None
    return frozenset(found)


def _literal(node: ast.expr) -> object:
    return math.inf if isinstance(node, ast.Name) and node.id == "inf" else ast.literal_eval(node)
