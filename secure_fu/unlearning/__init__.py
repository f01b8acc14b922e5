"""Unlearning methods: each one file behind one small protocol, on secure sums only, and named by what it guarantees."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Iterable, Mapping

from secure_fu.errors import ArgumentError, ConfigError
from secure_fu.unlearning.baselines import FineTune, Scratch
from secure_fu.unlearning.correction import Correction
from secure_fu.unlearning.guarantee import Baseline, Certified, CertifiedModel, Exact, Guarantee, Heuristic
from secure_fu.unlearning.joint import JointRounds, JointTask
from secure_fu.unlearning.method import Checkpoints, Deletion, Outcome, PlannedRounds, UnlearningMethod
from secure_fu.unlearning.requirement import Requirement
from secure_fu.unlearning.rerun import Rerun, TrainingRounds
from secure_fu.unlearning.retrain import Retrain
from secure_fu.unlearning.rollback import Rollback
from secure_fu.unlearning.scrub import Scrub

__all__ = [
    "METHODS",
    "Baseline",
    "Certified",
    "CertifiedModel",
    "Checkpoints",
    "Correction",
    "Deletion",
    "Exact",
    "FineTune",
    "Guarantee",
    "Heuristic",
    "JointRounds",
    "JointTask",
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
]

METHODS: Mapping[str, type[UnlearningMethod]] = {
    method.name: method for method in (Retrain, Rollback, Scrub, Correction, FineTune, Scratch)
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
    for key, value in settings.items():
        place = f"unlearning.settings.{name}.{key}"
        if key not in known:
            expected = (
                f"a setting among {', '.join(known)}{_hint(key, known)}" if known else "no settings for this method"
            )
            raise ConfigError(place, value, expected)
        whole = types[key] is int
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            raise ConfigError(place, value, "a whole number" if whole else "a number")
    try:
        return kind(**settings)
    except ArgumentError as error:
        raise ConfigError(f"unlearning.settings.{name}.{error.argument}", error.value, error.expected) from error


def _hint(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
