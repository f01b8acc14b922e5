"""What a federation is founded on, as a file that people write: model, plan, scheme, committee, methods, deletions."""

from __future__ import annotations

import importlib
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any, Final

from torch import nn

from secure_fu.crypto import CommitteeTerms, Role, Roster
from secure_fu.deletion.policy import DeletionPolicy
from secure_fu.errors import ArgumentError, ConfigError
from secure_fu.federation.agreed_policy import KEY_HOLDER_ALONE
from secure_fu.learning import cnn, logistic, mlp
from secure_fu.planning import Plan, make_plan
from secure_fu.scheme_names import KAHE, SCHEMES
from secure_fu.unlearning import METHODS, UnlearningMethod, method_from_settings

__all__ = ["Terms", "model_of", "read_terms"]

_MODELS: Final[Mapping[str, Any]] = {"mlp": mlp, "logistic": logistic, "cnn": cnn}
_TABLES: Final = ("model", "plan", "scheme", "committee", "methods", "deletion")
_FROM_ROSTER: Final = ("module", "clients", "return")


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a federation is founded on: a file of TOML, read by :func:`read_terms`.

    Attributes:
        model: `kind` with its numbers, or `factory`; see :func:`model_of`.
        plan: arguments of :func:`secure_fu.planning.make_plan`, but for the model and the number of clients.
        scheme: `kahe`, `bfv` or `plain`.
        committee: `threshold`, `quorum` and `corrupt`, for `kahe`; how many members there are, the roster says.
        methods: those that clients serve, with the settings that are declared beforehand.
        deletion: when deletions are executed, and how many together.

    Raises:
        ConfigError: deletions are to be executed by a method that is not declared so.
    """

    model: Mapping[str, Any]
    plan: Mapping[str, Any]
    scheme: str
    committee: Mapping[str, int] = field(default_factory=dict)
    methods: tuple[UnlearningMethod, ...]
    deletion: DeletionPolicy

    def __post_init__(self) -> None:
        if self.chosen not in self.methods:
            # What is not declared before training has a weaker guarantee, and clients would refuse its purpose.
            declared = ", ".join(repr(method) for method in self.methods)
            raise ConfigError("deletion.method", repr(self.chosen), f"a declared one with its settings: {declared}")

    @property
    def chosen(self) -> UnlearningMethod:
        """What deletions are executed with."""
        return method_from_settings(self.deletion.method, self.deletion.settings)

    def plan_for(self, roster: Roster) -> Plan:
        """Noise, grid and budget for the clients of a roster.

        Raises:
            ConfigError: a value is out of its domain; names the dotted key.
        """
        try:
            return make_plan(model_of(self.model), clients=len(roster.clients), **self.plan)
        except ArgumentError as error:
            raise ConfigError(f"plan.{error.argument}", error.value, error.expected) from error

    def terms_for(self, roster: Roster) -> CommitteeTerms:
        """Who has to act together to open a sum.

        Raises:
            ConfigError: the numbers do not fit the roster's members, or the roster the scheme.
        """
        members = len(roster.names(Role.MEMBER))
        if self.scheme != KAHE:
            if members:
                raise ConfigError("scheme.name", self.scheme, "'kahe' for a roster that has a committee")
            return KEY_HOLDER_ALONE
        if not members:
            raise ConfigError("scheme.name", self.scheme, "'bfv' for a roster that has a key-holder")
        try:
            return CommitteeTerms(members=members, **self.committee)
        except ArgumentError as error:
            raise ConfigError(f"committee.{error.argument}", error.value, error.expected) from error


def read_terms(path: Path) -> Terms:
    """Read a file of terms.

    Raises:
        ConfigError: it is missing or no TOML; a key is missing, unknown or of the wrong type; names the dotted key.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError("FEDERATION", str(path), f"a file that can be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:  # ValueError: no UTF-8, or no TOML
        raise ConfigError("FEDERATION", str(path), f"valid TOML ({error})") from error
    for name, table in tables.items():
        if name not in _TABLES or not isinstance(table, dict):
            raise ConfigError(name, table, f"tables among {', '.join(_TABLES)}")
    for name in ("model", "plan", "scheme", "deletion"):
        if name not in tables:
            raise ConfigError(name, None, "a table; it is required")
    chosen = dict(tables["scheme"])
    name = chosen.pop("name", None)
    if name not in SCHEMES or chosen:
        raise ConfigError("scheme", tables["scheme"], f"name = one of {', '.join(SCHEMES)}, and nothing else")
    model_of(tables["model"])
    return Terms(
        model=tables["model"],
        plan=_plan_arguments(tables["plan"]),
        scheme=name,
        committee=_committee(name, tables.get("committee")),
        methods=_methods(tables.get("methods")),
        deletion=_deletion(tables["deletion"]),
    )


def _plan_arguments(table: Mapping[str, Any]) -> dict[str, Any]:
    hints = {key: kind for key, kind in typing.get_type_hints(make_plan).items() if key not in _FROM_ROSTER}
    for key, value in table.items():
        if key not in hints:
            raise ConfigError(f"plan.{key}", value, f"one of {', '.join(hints)}")
    for key in ("nominal_units", "minimum_cohort", "unit"):
        if key not in table:
            raise ConfigError(f"plan.{key}", None, "a value; this key is required")
    return {key: _converted(f"plan.{key}", hints[key], value) for key, value in table.items()}


def _converted(key: str, kind: Any, value: Any) -> Any:
    if isinstance(kind, types.UnionType):
        (kind,) = [one for one in typing.get_args(kind) if one is not type(None)]
    if isinstance(kind, type) and issubclass(kind, Enum):
        words = [one.value for one in kind]
        if value not in words:
            raise ConfigError(key, value, f"one of {words}")
        return kind(value)
    if typing.get_origin(kind) is not None:
        if not isinstance(value, Mapping) or any(isinstance(one, (str, bool, list, dict)) for one in value.values()):
            raise ConfigError(key, value, "a table of numbers")
        return dict(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, kind):
        raise ConfigError(key, value, "a whole number" if kind is int else "a number")
    return value


def _committee(scheme_name: str, table: Any) -> dict[str, int]:
    if scheme_name != KAHE:
        if table is not None:
            raise ConfigError("committee", table, f"no such table for scheme {scheme_name}: a key-holder opens")
        return {}
    wanted = ("threshold", "quorum", "corrupt")
    if not isinstance(table, Mapping) or sorted(table) != sorted(wanted):
        raise ConfigError("committee", table, f"{', '.join(wanted)}; the number of members comes from the roster")
    for key in wanted:
        if isinstance(table[key], bool) or not isinstance(table[key], int):
            raise ConfigError(f"committee.{key}", table[key], "a whole number")
    return dict(table)


def _methods(table: Any) -> tuple[UnlearningMethod, ...]:
    if table is None:
        return tuple(kind() for kind in METHODS.values())
    for name, settings in table.items():
        if not isinstance(settings, Mapping):
            raise ConfigError(f"methods.{name}", settings, "a table of settings, which may be empty")
    return tuple(_method(name, settings) for name, settings in table.items())


def _method(name: str, settings: Mapping[str, Any]) -> UnlearningMethod:
    try:
        return method_from_settings(name, settings)
    except ConfigError as error:
        asked = f"unlearning.settings.{name}"
        if error.argument.startswith(asked):
            key = f"methods.{name}{error.argument.removeprefix(asked)}"
            raise ConfigError(key, error.value, error.expected) from error
        raise ConfigError("methods", f"[methods.{name}]", error.expected) from error


def _deletion(table: Mapping[str, Any]) -> DeletionPolicy:
    known = [item.name for item in fields(DeletionPolicy)]
    for key in (*table, "window_start", "window_seconds"):
        if key not in known or key not in table:
            raise ConfigError(
                f"deletion.{key}", table.get(key), f"keys among {', '.join(known)}, the first two required"
            )
    try:
        return DeletionPolicy(**{**table, "class_signers": tuple(table.get("class_signers", ()))})
    except (ArgumentError, TypeError) as error:
        if not isinstance(error, ArgumentError):
            raise ConfigError("deletion.class_signers", table["class_signers"], "a list of names") from error
        raise ConfigError(f"deletion.{error.argument}", error.value, error.expected) from error


def model_of(table: Mapping[str, Any]) -> nn.Module:
    """The model that a table names.

    It has `kind`, a function of `secure_fu.learning.models`, and that function's arguments; or
    `factory = "package.module:function"`, a function of no arguments. A factory is code: it is taken from what is
    installed on this machine, and never from another party.

    Raises:
        ConfigError: there is no such model, or an argument is missing, unknown or out of its domain.
    """
    values = dict(table)
    if "factory" in values:
        return _from_factory(values)
    kind = values.pop("kind", None)
    if kind not in _MODELS:
        raise ConfigError("model.kind", kind, f"one of {', '.join(_MODELS)}, or a factory")
    hints = typing.get_type_hints(_MODELS[kind])
    del hints["return"]
    for key in (*values, *hints):
        if key not in hints or key not in values:
            raise ConfigError(f"model.{key}", values.get(key), f"exactly the keys kind, {', '.join(hints)}")
        if hints[key] is int and (isinstance(values[key], bool) or not isinstance(values[key], int)):
            raise ConfigError(f"model.{key}", values[key], "a whole number")
        numbers = values[key] if hints[key] is not int else ()
        if not isinstance(numbers, (list, tuple)) or not all(type(one) is int for one in numbers):
            raise ConfigError(f"model.{key}", values[key], "a list of whole numbers")
    try:
        return typing.cast(nn.Module, _MODELS[kind](**values))
    except ArgumentError as error:
        raise ConfigError(f"model.{error.argument}", error.value, error.expected) from error


def _from_factory(values: Mapping[str, Any]) -> nn.Module:
    place = values["factory"]
    if not isinstance(place, str) or place.count(":") != 1 or len(values) != 1:
        raise ConfigError("model", dict(values), 'factory = "package.module:function" alone')
    module_name, function = place.split(":")
    try:
        made = getattr(importlib.import_module(module_name), function)()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        expected = f"a function of no arguments that is installed here ({error})"
        raise ConfigError("model.factory", place, expected) from error
    if not isinstance(made, nn.Module):
        raise ConfigError("model.factory", place, "a function that returns a torch.nn.Module")
    return made
