"""What a lower bound on epsilon says, and what it assumes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from secure_fu.errors import ArgumentError
from secure_fu.privacy._checks import positive_integer, probability

__all__ = ["Assumption", "EpsilonBound"]


class Assumption(Enum):
    """What a bound needs beside the game: each canary inserted or left out by a fair coin of its own."""

    COINS = "only that each canary was inserted by a fair coin of its own, and that the coins were kept secret"
    INDEPENDENT = "the coins, and that the scores of different canaries are independent of each other"
    GAUSSIAN_TRADE_OFF = "the coins, and that the mechanism's trade-off curve is that of a Gaussian mechanism"
    GAUSSIAN = "the coins, and that scores are Gaussian, independent and of one variance"
    CENTRED_GAUSSIAN = (
        "the coins, that scores are Gaussian, independent and of one variance, "
        "and that the mean score of canaries that were left out is known"
    )


@dataclass(frozen=True, kw_only=True)
class EpsilonBound:
    """A lower confidence bound on epsilon at ``delta``.

    Guarantee: if ``assumption`` holds, ``value`` exceeds the mechanism's true epsilon at ``delta`` with probability at
    most 1 - ``level``. One bound at a time: the largest of several bounds has no such level. Which bound counts has to
    be settled before the scores are seen.

    Args:
        method: the bound's name.
        assumption: what it takes for granted.
        value: the bound, at least 0. 0 means that nothing was shown, not that nothing leaks.
        largest: what this bound would have said to a perfect attack with as many canaries; no smaller than ``value``.
            Infinite where perfect separation counts as no noise at all; null in JSON.
        delta: the delta that epsilon belongs to.
        level: one-sided confidence level.
        canaries: how many canaries there were, inserted or not.
    """

    method: str
    assumption: Assumption
    value: float
    largest: float
    delta: float
    level: float
    canaries: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and self.value >= 0.0):
            raise ArgumentError("value", self.value, "a finite number of at least 0")
        if not self.largest >= self.value:
            raise ArgumentError("largest", self.largest, f"at least value, {self.value}")
        probability("delta", self.delta)
        probability("level", self.level)
        positive_integer("canaries", self.canaries)

    def to_json(self) -> dict[str, object]:
        """The bound as ``audit.json`` carries it; the assumption by name and as a sentence."""
        return {
            "method": self.method,
            "assumption": self.assumption.name.lower(),
            "assumes": self.assumption.value,
            "value": self.value,
            "largest": self.largest if math.isfinite(self.largest) else None,
            "delta": self.delta,
            "level": self.level,
            "canaries": self.canaries,
        }
