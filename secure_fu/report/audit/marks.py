"""Colours and marks of answers, attacks and features: the same through every picture of an audit.

Colours are those of Okabe and Ito (2008), as in :mod:`secure_fu.report.style`; marks say the same without colour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from secure_fu.privacy import holm
from secure_fu.report.audit.result import Comparison, Outcome, PairAttack

__all__ = ["MARKERS", "OUTCOME_COLOURS", "colours_of", "judged", "judged_pairs"]

OUTCOME_COLOURS = {
    Outcome.LEAK: "#d55e00",
    Outcome.INVALID: "#cc79a7",
    Outcome.CANNOT_TELL: "#7f7f7f",
    Outcome.PASSED: "#009e73",
}

MARKERS = ("o", "s", "^", "D", "v", "P", "X")

_CHOSEN = "#0072b2"
_OTHERS = ("#e69f00", "#56b4e9", "#cc79a7", "#009e73", "#4d4d4d")


def colours_of(names: Sequence[str], chosen: str) -> dict[str, str]:
    """A colour for each attack; the chosen one always has the same."""
    others = [name for name in names if name != chosen]
    return {chosen: _CHOSEN, **{name: _OTHERS[index % len(_OTHERS)] for index, name in enumerate(others)}}


def judged(tests: Mapping[str, Comparison], *, level: float) -> dict[str, Outcome]:
    """What each of a method's tests says: it differs from retraining, it is equivalent, or neither is shown.

    Differences are corrected by Holm's method for the number of tests; one that is shown to lie within its margin does
    not count.
    """
    adjusted = holm({name: test.p_different for name, test in tests.items() if test.p_different is not None})
    return {name: _judged(adjusted[name] <= 1 - level, bool(tests[name].equivalent)) for name in adjusted}


def judged_pairs(attacks: Sequence[PairAttack], *, level: float) -> list[Outcome]:
    """The same for the attacks on a pair of models, against an area of 1/2."""
    adjusted = holm({str(index): attack.p_different for index, attack in enumerate(attacks)})
    return [_judged(adjusted[str(index)] <= 1 - level, attack.equivalent) for index, attack in enumerate(attacks)]


def _judged(different: bool, equivalent: bool) -> Outcome:
    if equivalent:
        return Outcome.PASSED
    return Outcome.LEAK if different else Outcome.CANNOT_TELL
