"""What it takes for each verdict, one condition at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from secure_fu.audit import AttackResult, Outcome, TwoSampleTest, Verdict
from secure_fu.audit.attack_result import attack_result
from secure_fu.audit.membership_verdict import Learned, membership_verdict, what_was_learned
from secure_fu.audit.model_signals import TargetSignals

LEARNED = Learned(accuracy_members=0.95, accuracy_non_members=0.9, skill=0.9, beyond_chance=True)
ALIKE = TwoSampleTest(auc=0.51, p_value=0.6, first=1000, second=1000)
GENERATOR = np.random.default_rng(12)
# Scores of both groups are the same numbers: an area of exactly 1/2, and as many of each at the top.
SAME = np.sort(GENERATOR.normal(size=3000))


def results(**p_values: float) -> dict[str, AttackResult]:
    """Attacks that find nothing, but for the p-values that they are given."""
    return {name: replace(attack_result(name, SAME, SAME), p_value=value) for name, value in p_values.items()}


def verdict(
    attacks: Mapping[str, AttackResult],
    *,
    strong: bool = True,
    learned: Learned | None = LEARNED,
    distribution: TwoSampleTest | None = ALIKE,
    margin: float = 0.05,
) -> Verdict:
    return membership_verdict(
        attacks,
        chosen=next(iter(attacks)),
        level=0.95,
        margin=margin,
        strong=strong,
        learned=learned,
        distribution=distribution,
    )


def test_a_finding_has_to_stand_after_correction_for_all_that_was_tried() -> None:
    # four attacks and the test of the highest scores: the smallest p-value counts five times
    assert verdict(results(a=0.012, b=0.5, c=0.5, d=0.5)).outcome is not Outcome.LEAK
    found = verdict(results(a=0.009, b=0.5, c=0.5, d=0.5))
    assert found.outcome is Outcome.LEAK
    assert found.figures["p_a"] == pytest.approx(0.045)
    assert "p 0.045 after Holm's correction" in found.sentence
    assert verdict(results(a=0.5, b=0.009, c=0.5, d=0.5)).sentence.startswith("The attack b ")


def test_a_pass_has_five_conditions() -> None:
    nothing = results(a=1.0, b=0.7)
    assert verdict(nothing).outcome is Outcome.PASSED
    assert verdict(nothing, strong=False).outcome is Outcome.CANNOT_TELL
    assert verdict(nothing, learned=replace(LEARNED, skill=0.1)).outcome is Outcome.CANNOT_TELL
    # too little power for the margin
    weak = verdict(nothing, margin=0.01)
    assert weak.outcome is Outcome.CANNOT_TELL
    assert "that takes" in weak.sentence
    # one area that is not certain to be within the margin
    off = {**nothing, "c": replace(attack_result("c", SAME + 0.15, SAME), p_value=0.9)}
    assert off["c"].auc.value < 0.55
    assert verdict(off).outcome is Outcome.CANNOT_TELL
    assert "beyond doubt" in verdict(off).sentence
    assert verdict(results(a=1e-6, b=0.7)).outcome is Outcome.LEAK


def test_what_the_audit_rests_on_comes_first() -> None:
    leak = results(a=1e-9)
    assert verdict(leak).outcome is Outcome.LEAK
    other = verdict(leak, distribution=replace(ALIKE, p_value=0.009))
    assert other.outcome is Outcome.INVALID
    assert "not drawn from one distribution" in other.sentence
    assert verdict(leak, distribution=replace(ALIKE, p_value=0.02)).outcome is Outcome.LEAK
    ignorant = verdict(leak, learned=replace(LEARNED, beyond_chance=False))
    assert ignorant.outcome is Outcome.INVALID
    assert verdict(leak, learned=None, distribution=None).outcome is Outcome.LEAK


def signals(predicted: list[int], labels: list[int], classes: int = 3) -> TargetSignals:
    truth = np.array(labels)
    return TargetSignals(phi=np.zeros(len(truth)), predicted=np.array(predicted), labels=truth, classes=classes)


def test_accuracy_against_guesses() -> None:
    labels = [0] * 90 + [1] * 10
    always_zero = signals([0] * 100, labels)
    found = what_was_learned(always_zero, always_zero)
    assert (found.accuracy_members, found.skill, found.beyond_chance) == (0.9, 0.0, False)
    # members known by heart, others guessed: that is knowledge
    found = what_was_learned(signals(labels, labels), always_zero)
    assert (found.skill, found.beyond_chance) == (1.0, True)
    # forgotten records on which it is always wrong, and others that it knows
    found = what_was_learned(signals([2] * 20, [0, 1] * 10), signals(labels, labels))
    assert (found.accuracy_members, found.beyond_chance) == (0.0, True)
    # one class only: chance is one in three
    assert what_was_learned(signals([1] * 30, [1] * 30), signals([1] * 30, [1] * 30)).beyond_chance
    assert not what_was_learned(signals([0, 1, 2] * 10, [1] * 30), signals([0, 1, 2] * 10, [1] * 30)).beyond_chance
