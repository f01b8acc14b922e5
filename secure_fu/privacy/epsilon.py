"""Whose epsilon, for which part of a run, seen by whom: epsilon is never one number.

A figure says how well the releases hide a unit (a record, a person, a client): whoever sees them can tell, up to
(epsilon, delta), no better whether the unit's data took part than whether it did not. Four things have to be named
with it.

- *Subject*: units that were forgotten and units that stayed pay differently, for unlearning touches them differently.
- *Phase*: what is looked at. For a forgotten unit, the figure of the unlearning phase alone is the *phase* figure of a
  deletion: how well the unlearning transcript hides the unit from somebody who sees nothing else. The figure of both
  phases together is the *pair* figure: everything released before and after the deletion, against never having joined.
- *View*: who looks. Here, somebody who sees every release, the server included.
- *Group size*: how many units are hidden together. A silo of 143 records under record units is a group of 143.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from secure_fu.errors import ArgumentError
from secure_fu.privacy._checks import positive_integer, probability

__all__ = ["EpsilonEntry", "Phase", "Subject", "View"]


class Subject(enum.Enum):
    """Whose privacy a figure is about. The values are what ``result.json`` and the ledger carry."""

    FORGOTTEN = "forgotten"
    """A unit that a deletion request names."""

    RETAINED = "retained"
    """A unit that stays."""


class Phase(enum.Enum):
    """Which releases a figure covers. A round belongs to one of the first two."""

    TRAINING = "training"
    """The rounds that train the model, in this branch and in those it came from."""

    UNLEARNING = "unlearning"
    """The rounds that answer a deletion request; for forgotten units, the *phase* figure of the deletion."""

    BOTH = "training+unlearning"
    """All of them together; for forgotten units, the *pair* figure of the deletion."""


class View(enum.Enum):
    """Who looks at the releases."""

    EVERY_RELEASE = "every release"
    """Somebody who sees each released sum of the branch and of those it came from: the server, or who reads its log."""


@dataclass(frozen=True, kw_only=True)
class EpsilonEntry:
    """One figure of the epsilon list.

    Args:
        subject: whose privacy.
        phase: which releases.
        view: who looks.
        value: epsilon; 0.0 for a unit that no release touched, None where no finite bound can be shown at this delta.
        delta: the delta at which epsilon holds.
        group_size: number of units that are hidden together.

    Raises:
        ArgumentError: ``value`` is negative, infinite or NaN, or delta or group_size is outside its domain.
    """

    subject: Subject
    phase: Phase
    view: View
    value: float | None
    delta: float
    group_size: int

    def __post_init__(self) -> None:
        if self.value is not None and not (math.isfinite(self.value) and self.value >= 0.0):
            raise ArgumentError("value", self.value, "a finite epsilon of at least 0, or None where there is no bound")
        probability("delta", self.delta)
        positive_integer("group_size", self.group_size)

    def to_json(self) -> dict[str, str | float | int | None]:
        """The entry as ``result.json`` carries it."""
        return {
            "subject": self.subject.value,
            "phase": self.phase.value,
            "view": self.view.value,
            "value": self.value,
            "delta": self.delta,
            "group_size": self.group_size,
        }
