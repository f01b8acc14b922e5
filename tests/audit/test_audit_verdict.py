"""Verdicts say what they rest on, and the gravest of several counts."""

from __future__ import annotations

import math

import pytest

from secure_fu.audit import Outcome, Verdict, worst
from secure_fu.errors import ArgumentError


def verdict(outcome: Outcome) -> Verdict:
    return Verdict(outcome=outcome, sentence="Because.")


def test_the_worst_counts() -> None:
    order = [Outcome.PASSED, Outcome.CANNOT_TELL, Outcome.INVALID, Outcome.LEAK]
    for index, outcome in enumerate(order):
        assert worst(map(verdict, order[: index + 1])) is outcome
        assert worst(map(verdict, reversed(order[: index + 1]))) is outcome
    with pytest.raises(ArgumentError, match="at least one"):
        worst([])


def test_as_json() -> None:
    found = Verdict(outcome=Outcome.CANNOT_TELL, sentence="Too few.", figures={"auc": 0.5, "power": None})
    assert found.to_json() == {
        "outcome": "cannot tell",
        "sentence": "Too few.",
        "figures": {"auc": 0.5, "power": None},
    }


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_figures_are_numbers_or_missing(value: float) -> None:
    with pytest.raises(ArgumentError, match=r"figures\['auc'\]"):
        Verdict(outcome=Outcome.LEAK, sentence="Because.", figures={"auc": value})


def test_a_verdict_has_a_reason_and_an_outcome() -> None:
    with pytest.raises(ArgumentError):
        Verdict(outcome=Outcome.LEAK, sentence=" ")
    with pytest.raises(ArgumentError):
        Verdict(outcome="leak", sentence="Because.")  # type: ignore[arg-type]
