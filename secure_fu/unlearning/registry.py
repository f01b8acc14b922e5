"""Methods by name: those of the package, those that other installed packages bring, and settings as text.

A distribution brings a method by an entry point of the group `secure_fu.methods`, named as the method is. What a file
or a message of another party says is looked up as a name alone: it never says what to import.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.metadata
import inspect
import json
import math
import re
import typing
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, Final

from secure_fu.errors import ArgumentError, ConfigError
from secure_fu.unlearning.ascent import Ascent
from secure_fu.unlearning.baselines import FineTune, Scratch
from secure_fu.unlearning.correction import Correction
from secure_fu.unlearning.eraser import Eraser
from secure_fu.unlearning.fisher import Fisher
from secure_fu.unlearning.method import UnlearningMethod
from secure_fu.unlearning.negation import Negation
from secure_fu.unlearning.newton import Newton
from secure_fu.unlearning.retrain import Retrain
from secure_fu.unlearning.rollback import Rollback
from secure_fu.unlearning.scrub import Scrub

__all__ = [
    "METHODS",
    "installed",
    "known_methods",
    "method_from_settings",
    "methods_from",
    "methods_text",
    "settings_of",
]

METHODS: Final[Mapping[str, type[UnlearningMethod]]] = {
    method.name: method
    for method in (
        Retrain,
        Rollback,
        Newton,
        Scrub,
        Correction,
        Eraser,
        Ascent,
        Fisher,
        Negation,
        FineTune,
        Scratch,
    )
}
"""The package's own."""

_GROUP: Final = "secure_fu.methods"
_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,47}")
_ASKED: Final = "unlearning.methods"

Setting = float | int | str | bool


def known_methods() -> tuple[str, ...]:
    """Names of the package's methods, then of those that other installed packages bring, sorted; none is loaded."""
    return (*METHODS, *sorted(importlib.metadata.entry_points(group=_GROUP).names - METHODS.keys()))


def installed(name: str) -> type[UnlearningMethod]:
    """The class of a method: the package's own, or the one that an installed distribution brings under this name.

    Formal guarantees:
        Code is loaded only of the entry point that has this name, in a distribution that is installed on this machine.

    Raises:
        ConfigError: there is no such method, or more than one, or what is there cannot be loaded or is none.
    """
    found = tuple(importlib.metadata.entry_points(group=_GROUP, name=name))
    if name in METHODS:
        if found:
            raise ConfigError(_ASKED, name, f"no other package that calls a method so, as {_origins(found)} does")
        return METHODS[name]
    if not found:
        names = known_methods()
        expected = f"names among {', '.join(names)}{_hint(name, names)}; the package that brings another has to be"
        raise ConfigError(_ASKED, name, f"{expected} installed on this machine")
    if len(found) > 1:
        raise ConfigError(_ASKED, name, f"one package that brings it, not several: {_origins(found)}")
    try:
        kind = found[0].load()
    except Exception as error:  # a module of others may raise anything while it is imported
        expected = f"a method that can be loaded from {_origins(found)} ({type(error).__name__}: {error})"
        raise ConfigError(_ASKED, name, expected) from error
    try:
        _check_kind(kind, name)
    except ArgumentError as error:
        raise ConfigError(_ASKED, name, f"a method in {_origins(found)}: {error}") from error
    return typing.cast(type[UnlearningMethod], kind)


def _origins(points: Iterable[importlib.metadata.EntryPoint]) -> str:
    return ", ".join(f"{point.value} of {point.dist.name if point.dist else 'a path'}" for point in points)


def _check_kind(kind: object, name: str) -> None:
    if not isinstance(kind, type) or not issubclass(kind, UnlearningMethod) or inspect.isabstract(kind):
        raise ArgumentError("class", repr(kind), "a class derived from UnlearningMethod, with all of its members")
    parameters = vars(kind).get("__dataclass_params__")  # its own: a plain class may have a frozen one above it
    if parameters is None or not parameters.frozen:
        raise ArgumentError("class", kind.__qualname__, "a frozen dataclass")
    said, title = getattr(kind, "name", None), getattr(kind, "title", None)
    if said != name or not _NAME.fullmatch(name):
        expected = f"{name!r}, as the entry point: a letter first, then a-z, 0-9 and -, 48 characters at most"
        raise ArgumentError("name", said, expected)
    if not isinstance(title, str) or not title:
        raise ArgumentError("title", title, "a few words for reports")
    _setting_types(kind)
    _check_defaults(kind)


def _check_defaults(kind: type) -> None:
    for item in dataclasses.fields(kind):
        if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            raise ArgumentError(item.name, None, "a default for every setting")


def _setting_types(kind: type) -> dict[str, type]:
    """The type of each setting: bool, int, float or an enumeration of words.

    Raises:
        ArgumentError: one is of another type, or no argument of the class.
    """
    try:
        types = typing.get_type_hints(kind)
    except Exception as error:  # annotations that are text are evaluated here, and may be any expression
        raise ArgumentError("class", kind.__qualname__, f"types that its module has ({error})") from None
    found = {}
    for item in dataclasses.fields(kind):
        own = types[item.name]
        if not item.init or not (own in (bool, int, float) or (isinstance(own, type) and issubclass(own, StrEnum))):
            expected = "a setting of type bool, int, float or StrEnum that the class takes as an argument"
            raise ArgumentError(item.name, str(own), expected)
        found[item.name] = own
    return found


def settings_of(method: UnlearningMethod) -> dict[str, Setting]:
    """All public settings of a method as what JSON has; an infinite number is the word `inf`.

    Raises:
        ArgumentError: a setting is of a type that has no such form, or no number.
    """
    return {name: _plain(name, own, getattr(method, name)) for name, own in _setting_types(type(method)).items()}


def _plain(name: str, kind: type, value: Any) -> Setting:
    if issubclass(kind, StrEnum) and isinstance(value, kind):
        return value.value
    if isinstance(value, bool) is (kind is bool) and isinstance(value, (int, float)):
        if kind is float and value == math.inf:
            return "inf"
        if math.isfinite(value) and (kind is float or isinstance(value, int)):
            return float(value) if kind is float else value
    raise ArgumentError(name, value, f"a value of type {kind.__name__}")


def methods_text(methods: Iterable[UnlearningMethod]) -> str:
    """Methods with all their settings as the one text that a founding has: `[["scrub",{"length":2}]]`, sorted.

    Raises:
        ArgumentError: as :func:`settings_of`.
    """
    said = {_canonical([method.name, settings_of(method)]) for method in methods}
    return f"[{','.join(sorted(said))}]"


def methods_from(text: str, given: Iterable[UnlearningMethod] = ()) -> frozenset[UnlearningMethod]:
    """What :func:`methods_text` was given.

    Args:
        text: as it was written.
        given: methods whose classes the caller has; the others have to be installed.

    Raises:
        ArgumentError: the text is none, or a method is missing here or has other settings than then.
    """
    own = {method.name: type(method) for method in given}
    found = set()
    for name, settings in _read_methods(text):
        try:
            kind = own.get(name) or installed(name)
            if settings.keys() != _setting_types(kind).keys():
                raise ArgumentError("settings", sorted(settings), f"those of today, {sorted(_setting_types(kind))}")
            found.add(_made(kind, name, settings))
        except ArgumentError as error:
            expected = f"a method that this machine has, as it was when the federation was founded ({error})"
            raise ArgumentError("methods", name, f"{expected}; install the package and version of then") from error
    return frozenset(found)


def _read_methods(text: str) -> list[tuple[str, dict[str, object]]]:
    try:
        read = json.loads(text)
        if all(isinstance(name, str) and isinstance(settings, dict) for name, settings in read):
            return [(name, settings) for name, settings in read]
    except (ValueError, TypeError, RecursionError):
        pass
    raise ArgumentError("methods", text[:80], 'a list as [["retrain",{}]]')


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def method_from_settings(name: str, settings: Mapping[str, object]) -> UnlearningMethod:
    """Make a method by its name, with settings as in a configuration file.

    Raises:
        ConfigError: an unknown method or setting, or a value that is of the wrong type or out of its domain; names
            the dotted key.
    """
    return _made(installed(name), name, settings)


def _made(kind: type[UnlearningMethod], name: str, settings: Mapping[str, object]) -> UnlearningMethod:
    types = _setting_types(kind)
    given: dict[str, object] = {}
    for key, value in settings.items():
        place = f"unlearning.settings.{name}.{key}"
        if key not in types:
            expected = (
                f"a setting among {', '.join(types)}{_hint(key, types)}" if types else "no settings for this method"
            )
            raise ConfigError(place, value, expected)
        given[key] = _setting(place, types[key], value)
    try:
        return kind(**given)
    except ArgumentError as error:
        raise ConfigError(f"unlearning.settings.{name}.{error.argument}", error.value, error.expected) from error


def _setting(place: str, kind: type, value: object) -> object:
    """A value of a configuration file as the setting's own type: a word of an enumeration, yes or no, a number."""
    if issubclass(kind, StrEnum):
        if not isinstance(value, str) or value not in list(kind):
            raise ConfigError(place, value, f"one of {', '.join(kind)}")
        return kind(value)
    if kind is bool:
        if not isinstance(value, bool):
            raise ConfigError(place, value, "true or false")
    elif kind is float and value == "inf":
        return math.inf
    elif isinstance(value, bool) or not isinstance(value, int if kind is int else (int, float)):
        raise ConfigError(place, value, "a whole number" if kind is int else "a number")
    return value


def _hint(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
