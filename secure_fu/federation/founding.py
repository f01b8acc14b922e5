"""What a federation was founded with, as a public file: whoever opens its directory again finds it, or is refused."""

from __future__ import annotations

import hashlib
import json
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final

from secure_fu.errors import ArgumentError, RecordError
from secure_fu.federation.stored_formats import founding_1_to_2
from secure_fu.planning import Plan
from secure_fu.protocol import ReleasedModel
from secure_fu.protocol.files import write_whole
from secure_fu.unlearning import UnlearningMethod, methods_from, methods_text

__all__ = [
    "Founding",
    "common_facts",
    "declared_methods",
    "from_plain",
    "read_founding",
    "to_plain",
    "write_founding",
]

_FORMAT: Final = "secure-fu/federation/2"
_FORMER: Final = "secure-fu/federation/1"


@dataclass(frozen=True, kw_only=True)
class Founding:
    """All that is fixed before the first round, and public.

    Attributes:
        clients: names, sorted.
        scheme_name: of the encryption.
        plan: recipe, budget, cohort, grids.
        roster_digest: 32 bytes, of the identities that were made for it.
        run_key: 32 random bytes that the ids of its runs are derived from; no secret.
        facts: what else is fixed beforehand, by name: where it differs, the directory is not opened again.
    """

    clients: tuple[str, ...]
    scheme_name: str
    plan: Plan
    roster_digest: bytes
    run_key: bytes
    facts: Mapping[str, str] = field(default_factory=dict)

    def check(
        self, *, clients: tuple[str, ...], scheme_name: str, plan: Plan, facts: Mapping[str, str], path: Path
    ) -> None:
        """Refuse to go on with something else than was written down.

        Raises:
            ArgumentError: names the first argument that differs, a plan's field by field.
        """
        then = {"clients": list(self.clients), "scheme_name": self.scheme_name, "plan": to_plain(self.plan)}
        now = {"clients": list(clients), "scheme_name": scheme_name, "plan": to_plain(plan)}
        for name in then:
            _compare(name, then[name], now[name], path)
        _compare("facts", dict(self.facts), dict(facts), path)


def common_facts(start: ReleasedModel, joins: Mapping[str, int], methods: Iterable[UnlearningMethod]) -> dict[str, str]:
    """What every federation fixes beside plan and policy, as the facts of its founding.

    Args:
        start: the public starting point.
        joins: rounds done before a client joins, for those that join late.
        methods: that are declared before training.

    Raises:
        ArgumentError: a method's settings cannot be written down.
    """
    return {
        "start": start.digest.hex(),
        "joins": json.dumps(dict(sorted(joins.items()))),
        "methods": methods_text(methods),
    }


def declared_methods(founding: Founding, given: Iterable[UnlearningMethod] = ()) -> frozenset[UnlearningMethod]:
    """The methods that a federation was founded with, whatever there is today.

    Args:
        given: by the caller, of classes that may not be installed; each has to be a declared one.

    Raises:
        ArgumentError: one that is given was not declared; or one that was declared is missing on this machine, or has
            other settings than then.
    """
    brought = frozenset(given)
    text = founding.facts.get("methods", "")
    declared = methods_from(text, brought)
    if brought - declared:
        raise ArgumentError("methods", methods_text(brought - declared), f"methods that were declared: {text}")
    return declared


def write_founding(path: Path, founding: Founding) -> None:
    """Write the file; its presence says that everything else of a federation's directory is there.

    Raises:
        RecordError: it cannot be written.
    """
    values = to_plain(founding)
    text = json.dumps({"format": _FORMAT, "sha256": _hash(values), "founding": values}, indent=1, ensure_ascii=False)
    try:
        write_whole(path, text.encode())
    except OSError as error:
        raise RecordError(f"{path} cannot be written: {error.strerror}") from error


def read_founding(path: Path) -> Founding:
    """Read the file.

    Raises:
        RecordError: it is missing or damaged.
    """
    # A backup is made, and a bundle pinned, before anything upgrades the file.
    if not path.exists():
        there = "exists" if path.parent.is_dir() else "does not exist"
        raise RecordError(
            f"{path} is missing, and {path.parent} {there}: expected the directory of a federation that was "
            "made resumable. One whose setting up was interrupted has done nothing yet: delete it and begin anew"
        )
    try:
        read = json.loads(path.read_bytes())
        if read["format"] not in (_FORMAT, _FORMER):
            raise RecordError(f"{path} is of format {read['format']!r}; this version reads {_FORMAT!r}")
        if read["sha256"] != _hash(read["founding"]):
            raise RecordError(f"{path} is damaged: it is not what was written; restore it from a copy")
        values = read["founding"] if read["format"] == _FORMAT else founding_1_to_2(read["founding"])
        founding: Founding = from_plain(Founding, values)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, ArgumentError) as error:
        raise RecordError(f"{path} is damaged, or of another version: {error}") from error
    return founding


def _compare(name: str, then: Any, now: Any, path: Path) -> None:
    if isinstance(then, dict) and isinstance(now, dict):
        for key in {**then, **now}:
            _compare(f"{name}.{key}", then.get(key), now.get(key), path)
    elif then != now:
        raise ArgumentError(name, now, f"{then!r}, as {path} says; it was fixed when the federation was made")


def _hash(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def to_plain(value: Any) -> Any:
    """A dataclass of public settings as what JSON has; floats come back bit for bit."""
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: to_plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {key: to_plain(value[key]) for key in sorted(value)}
    if isinstance(value, tuple):
        return [to_plain(item) for item in value]
    return value


def from_plain(kind: Any, value: Any) -> Any:
    """What :func:`to_plain` was given, by the type that a field declares.

    Raises:
        ValueError, KeyError, TypeError, ArgumentError: it is not one.
    """
    arguments = typing.get_args(kind)
    if isinstance(kind, types.UnionType):
        (inner,) = [argument for argument in arguments if argument is not type(None)]
        return None if value is None else from_plain(inner, value)
    if is_dataclass(kind) and isinstance(kind, type):
        hints = typing.get_type_hints(kind)
        if set(value) != {item.name for item in fields(kind)}:
            raise ValueError(f"{kind.__name__} has the fields {sorted(value)}")
        return kind(**{name: from_plain(hints[name], value[name]) for name in value})
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(value)
    if kind is bytes:
        return bytes.fromhex(value)
    if typing.get_origin(kind) is tuple:
        return tuple(from_plain(arguments[0], item) for item in value)
    return value
