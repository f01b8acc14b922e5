"""Unlearning methods: each one file behind one small protocol, on secure sums only, and named by what it guarantees."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Iterable, Mapping
from enum import StrEnum

from secure_fu.errors import ArgumentError, ConfigError
from secure_fu.unlearning.ascent import Ascent
from secure_fu.unlearning.baselines import FineTune, Scratch
from secure_fu.unlearning.correction import Correction
from secure_fu.unlearning.eraser import Eraser
from secure_fu.unlearning.fisher import Fisher
from secure_fu.unlearning.guarantee import (
    Baseline,
    Certified,
    CertifiedModel,
    Exact,
    Guarantee,
    Heuristic,
    satisfies,
)
from secure_fu.unlearning.joint import JointRounds, JointTask
from secure_fu.unlearning.method import Checkpoints, Deletion, Outcome, PlannedRounds, UnlearningMethod
from secure_fu.unlearning.negation import Negation
from secure_fu.unlearning.newton import Newton
from secure_fu.unlearning.requirement import Requirement
from secure_fu.unlearning.rerun import Rerun, TrainingRounds
from secure_fu.unlearning.retrain import Retrain
from secure_fu.unlearning.rollback import Rollback
from secure_fu.unlearning.scrub import Scrub

__all__ = [
    "METHODS",
    "Ascent",
    "Baseline",
    "Certified",
    "CertifiedModel",
    "Checkpoints",
    "Correction",
    "Deletion",
    "Eraser",
    "Exact",
    "FineTune",
    "Fisher",
    "Guarantee",
    "Heuristic",
    "JointRounds",
    "JointTask",
    "Negation",
    "Newton",
    "Outcome",
    "PlannedRounds",
    "Requirement",
    "Rerun",
    "Retrain",
    "Rollback",
    "Scratch",
    "Scrub",
    "TrainingRounds",
    "UnlearningMethod",
    "method_from_settings",
    "satisfies",
]

METHODS: Mapping[str, type[UnlearningMethod]] = {
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


def method_from_settings(name: str, settings: Mapping[str, object]) -> UnlearningMethod:
    """Make a method by its name, with settings as in a configuration file.

    Raises:
        ConfigError: an unknown method or setting, or a value that is of the wrong type or out of its domain; names
            the dotted key.
    """
    if name not in METHODS:
        raise ConfigError("unlearning.methods", name, f"names among {', '.join(METHODS)}{_hint(name, METHODS)}")
    kind = METHODS[name]
    types = typing.get_type_hints(kind)
    known = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    given: dict[str, object] = {}
    for key, value in settings.items():
        place = f"unlearning.settings.{name}.{key}"
        if key not in known:
            expected = (
                f"a setting among {', '.join(known)}{_hint(key, known)}" if known else "no settings for this method"
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
    elif isinstance(value, bool) or not isinstance(value, int if kind is int else (int, float)):
        raise ConfigError(place, value, "a whole number" if kind is int else "a number")
    return value


def _hint(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
