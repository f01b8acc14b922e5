"""What an audit is asked for, and what it hands back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from secure_fu.errors import ArgumentError

__all__ = ["AuditOptions", "AuditOutcome", "AuditPart", "TargetKind"]


class AuditPart(Enum):
    """A question of the audit."""

    MEMBERSHIP = "membership"
    DELETION = "deletion"
    PROTOCOL = "protocol"
    VIEWS = "views"


class TargetKind(Enum):
    """What one target of a deletion is."""

    RECORDS = "records"
    """One record; under the group unit all records of one person in a silo."""

    CLIENTS = "clients"
    """All records of one client."""


# Fewer runs give no interval, fewer canaries no bound; and each record is in half of the shadow models.
_FEWEST: Final = {"runs": 8, "shadows": 2, "canaries": 20, "processes": 1}


@dataclass(frozen=True, kw_only=True)
class AuditOptions:
    """How thorough an audit is to be. None leaves a number to the audit.

    Args:
        runs: shadow runs of the whole procedure for the deletion part; at least 8.
        shadows: shadow models for the membership part; even, at least 2.
        canaries: canaries in the protocol's run; at least 20.
        processes: processes to work with; at least 1. Changes the time only.
        quick: fewer runs, shadows and canaries, where they are not given: a look, not a verdict to sign.
        targets: what is deleted in the shadow runs; None for clients under the client unit, and records otherwise.
        parts: what to audit; at least one.

    Raises:
        ArgumentError: a number is too small, or odd where it must be even, or there is no part.
    """

    runs: int | None = None
    shadows: int | None = None
    canaries: int | None = None
    processes: int | None = None
    quick: bool = False
    targets: TargetKind | None = None
    parts: frozenset[AuditPart] = frozenset(AuditPart)

    def __post_init__(self) -> None:
        for name, fewest in _FEWEST.items():
            value, even = getattr(self, name), name == "shadows"
            if value is None:
                continue
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not whole or value < fewest or (even and value % 2):
                raise ArgumentError(name, value, f"{'an even' if even else 'a whole'} number of at least {fewest}")
        parts = frozenset(self.parts)
        if not parts or not all(isinstance(part, AuditPart) for part in parts):
            raise ArgumentError("parts", sorted(map(str, parts)), "one or more of AuditPart")
        object.__setattr__(self, "parts", parts)


@dataclass(frozen=True, kw_only=True, eq=False)
class AuditOutcome:
    """A finished audit.

    Attributes:
        result: the content of ``audit.json``, schema ``secure-fu/audit/1``; no NaN.
        scores: the arrays of ``scores.npz`` by name; of numbers or truth values.

    Raises:
        ArgumentError: an array holds objects, which could only be stored by pickling.
    """

    result: dict[str, object]
    scores: Mapping[str, NDArray[Any]]

    def __post_init__(self) -> None:
        scores = {name: np.asarray(array) for name, array in self.scores.items()}
        for name, array in scores.items():
            if array.dtype.kind not in "biuf":
                raise ArgumentError(f"scores[{name!r}]", str(array.dtype), "an array of numbers or truth values")
        object.__setattr__(self, "scores", MappingProxyType(scores))
