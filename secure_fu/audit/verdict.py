"""What an audit says in the end, in one of four words and one sentence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from secure_fu.errors import ArgumentError

__all__ = ["Outcome", "Verdict", "worst"]


class Outcome(Enum):
    """The four answers of an audit.

    LEAK: a test found what should not be there, at the level that was stated beforehand.
    PASSED: nothing was found by a test that would have found the stated margin with the stated power.
    CANNOT_TELL: nothing was found, and the test was too weak to say more.
    INVALID: what the audit rests on does not hold, so that neither finding nor silence would mean anything.
    """

    LEAK = "leak"
    PASSED = "passed"
    CANNOT_TELL = "cannot tell"
    INVALID = "invalid"


# The later, the worse. An invalid audit may hide a leak; one that cannot tell says at least what it could have found.
_BY_WEIGHT = (Outcome.PASSED, Outcome.CANNOT_TELL, Outcome.INVALID, Outcome.LEAK)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One answer, its reason, and the figures that it rests on.

    Args:
        outcome: the answer.
        sentence: the reason in plain words, one or more whole sentences.
        figures: by name; None where a figure could not be had. No figure is NaN or infinite.

    Raises:
        ArgumentError: the sentence is empty, or a figure is NaN or infinite.
    """

    outcome: Outcome
    sentence: str
    figures: Mapping[str, float | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.outcome, Outcome):
            raise ArgumentError("outcome", self.outcome, "an Outcome")
        if not self.sentence.strip():
            raise ArgumentError("sentence", self.sentence, "at least one sentence")
        for name, value in self.figures.items():
            if value is not None and not math.isfinite(value):
                raise ArgumentError(f"figures[{name!r}]", value, "a finite number, or None where there is none")
        object.__setattr__(self, "figures", dict(self.figures))

    def to_json(self) -> dict[str, object]:
        """The verdict as ``audit.json`` carries it."""
        return {"outcome": self.outcome.value, "sentence": self.sentence, "figures": dict(self.figures)}


def worst(verdicts: Iterable[Verdict]) -> Outcome:
    """The gravest of several outcomes: a leak before an invalid audit, before one that cannot tell, before a pass.

    Raises:
        ArgumentError: there is no verdict; then nothing has been audited, and that is no pass.
    """
    outcomes = [verdict.outcome for verdict in verdicts]
    if not outcomes:
        raise ArgumentError("verdicts", "none", "at least one verdict")
    return max(outcomes, key=_BY_WEIGHT.index)
