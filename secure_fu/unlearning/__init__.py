"""Unlearning methods: each one file behind one small protocol, on secure sums only, and named by what it guarantees."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping

from secure_fu.errors import ArgumentError, ConfigError
from secure_fu.unlearning.baselines import FineTune, Scratch
from secure_fu.unlearning.correction import Correction
from secure_fu.unlearning.guarantee import Baseline, Certified, Exact, Guarantee, Heuristic
from secure_fu.unlearning.method import Deletion, UnlearningMethod
from secure_fu.unlearning.rerun import Rerun
from secure_fu.unlearning.retrain import Retrain
from secure_fu.unlearning.rollback import Rollback
from secure_fu.unlearning.scrub import Scrub

__all__ = [
    "METHODS",
    "Baseline",
    "Certified",
    "Correction",
    "Deletion",
    "Exact",
    "FineTune",
    "Guarantee",
    "Heuristic",
    "Rerun",
    "Retrain",
    "Rollback",
    "Scratch",
    "Scrub",
    "UnlearningMethod",
    "method_from_settings",
]

METHODS: Mapping[str, type[UnlearningMethod]] = {
    method.name: method for method in (Retrain, Rollback, Scrub, Correction, FineTune, Scratch)
}


def method_from_settings(name: str, settings: Mapping[str, object]) -> UnlearningMethod:
    """Make a method by its name, with settings as in a configuration file.

    Raises:
        ConfigError: an unknown method or setting, or a value out of its domain.
    """
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ConfigError("unlearning.methods", name, f"names among {', '.join(METHODS)}{hint}")
    kind = METHODS[name]
    known = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key, value in settings.items():
        place = f"unlearning.settings.{name}.{key}"
        if key not in known:
            raise ConfigError(place, value, f"a known setting: {', '.join(known) or 'this method has none'}")
        if isinstance(value, str) or (isinstance(value, bool) is not (known[key].type == "bool")):
            raise ConfigError(place, value, f"a value of type {known[key].type}")
    try:
        return kind(**settings)
    except ArgumentError as error:
        raise ConfigError(f"unlearning.settings.{name}.{error.argument}", error.value, error.expected) from error
