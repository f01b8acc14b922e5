"""A policy as a file: what a party pins before it listens to any server."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, cast

import tomli_w

from secure_fu.crypto import CommitteeTerms
from secure_fu.errors import ArgumentError, RecordError
from secure_fu.privacy import Budget, Unit
from secure_fu.protocol.policy import Policy

__all__ = ["read_policy", "write_policy"]

T = TypeVar("T")

_SETS = ("purposes", "parameter_sets", "grids")


def write_policy(policy: Policy, path: Path) -> None:
    """Write a policy as TOML; :func:`read_policy` gives an equal one.

    Raises:
        RecordError: the file cannot be written.
    """
    values: dict[str, Any] = {item.name: getattr(policy, item.name) for item in fields(policy)}
    values |= {name: sorted(values[name]) for name in _SETS}
    values["committee"] = list(policy.committee)
    values["terms"] = {item.name: getattr(policy.terms, item.name) for item in fields(policy.terms)}
    values["budget"] = {item.name: getattr(policy.budget, item.name) for item in fields(policy.budget)}
    values["budget"]["unit"] = policy.budget.unit.value
    values["unit"] = policy.unit.value
    values["roster_digest"] = policy.roster_digest.hex()
    try:
        path.write_text(tomli_w.dumps(values), encoding="utf-8")
    except OSError as error:
        raise RecordError(f"{path} cannot be written: {error.strerror}") from error


def read_policy(path: Path) -> Policy:
    """Read a policy.

    Raises:
        RecordError: the file is missing, is not TOML, or is not a policy; names the key, its value and what would be
            right.
    """
    try:
        return _table("", Policy, tomllib.loads(path.read_text(encoding="utf-8")))
    except ArgumentError as error:
        raise RecordError(f"{path} is not a policy: {error}") from error
    except (OSError, ValueError, ArithmeticError, RecursionError) as error:  # ValueError: no UTF-8, or no TOML
        raise RecordError(f"{path} is not a readable policy: {error}") from error


def _table(prefix: str, kind: Callable[..., T], values: object) -> T:
    """Make a dataclass of a table that has every field once, each of its own type.

    A policy with a hole in it would be weaker than whoever wrote it thinks, and so would one with a misspelt key.
    """
    table = prefix.removesuffix(".") or "the policy"
    if not isinstance(values, Mapping):
        raise ArgumentError(table, values, "a table")
    types = {item.name: str(item.type) for item in fields(cast(Any, kind))}
    for name in types:
        if name not in values:
            raise ArgumentError(f"{prefix}{name}", None, "a value: a policy has every key")
    for name, value in values.items():
        if name not in types:
            raise ArgumentError(f"{prefix}{name}", value, f"no such key, but {', '.join(types)}")
    read = {name: _READERS[types[name]](f"{prefix}{name}", values[name]) for name in types}
    try:
        return kind(**read)
    except ArgumentError as error:
        raise ArgumentError(f"{prefix}{error.argument}", error.value, error.expected) from error


def _text(key: str, value: object) -> str:
    if not isinstance(value, str):
        raise ArgumentError(key, value, "a string")
    return value


def _integer(key: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > sys.maxsize:
        raise ArgumentError(key, value, f"an integer up to {sys.maxsize}")
    return value


def _number(key: str, value: object) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max:
        return float(value)
    raise ArgumentError(key, value, "a finite number")


def _names(key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ArgumentError(key, value, "a list of strings")
    return tuple(value)


def _unit(key: str, value: object) -> Unit:
    if value not in [unit.value for unit in Unit]:
        raise ArgumentError(key, value, f"one of {[unit.value for unit in Unit]}")
    return Unit(value)


def _digest(key: str, value: object) -> bytes:
    if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{64}", value):
        raise ArgumentError(key, value, "64 hexadecimal digits")
    return bytes.fromhex(value)


# By the type that a field is annotated with.
_READERS: Mapping[str, Callable[[str, object], object]] = {
    "str": _text,
    "int": _integer,
    "float": _number,
    "bytes": _digest,
    "tuple[str, ...]": _names,
    "frozenset[str]": lambda key, value: frozenset(_names(key, value)),
    "Unit": _unit,
    "CommitteeTerms": lambda key, value: _table(f"{key}.", CommitteeTerms, value),
    "Budget": lambda key, value: _table(f"{key}.", Budget, value),
}
