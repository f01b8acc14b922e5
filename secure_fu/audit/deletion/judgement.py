"""From the figures of a method to its two verdicts: after-only, and before/after."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from secure_fu.audit.deletion.after_only import LIKELIHOOD, LOSS
from secure_fu.audit.deletion.figures import Comparison
from secure_fu.audit.deletion.pairs import PairAttack
from secure_fu.audit.deletion.performance import FORGET_EXCESS
from secure_fu.audit.deletion.power import Power
from secure_fu.audit.verdict import Outcome, Verdict
from secure_fu.privacy import EquivalenceTest, holm

__all__ = ["Usefulness", "after_only_verdict", "pair_verdict"]


@dataclass(frozen=True, kw_only=True)
class Usefulness:
    """Whether a method left a model that is worth auditing: at chance, every attack fails.

    Attributes:
        accuracy: on the test records, against retraining.
        chance: accuracy of always naming the commonest class.
        margin: how far below retraining a useful model may be.
    """

    accuracy: Comparison
    chance: float
    margin: float

    @property
    def fault(self) -> str | None:
        """Why attacks on this model prove nothing, in words; None where they do."""
        own, reference = self.accuracy.value, self.accuracy.retrained
        if reference.low <= self.chance:
            return (
                f"The retrained models name {_percent(reference.value)} of the test records right, which is not above "
                f"chance ({_percent(self.chance)}): there is nothing to compare with."
            )
        if own.low <= self.chance:
            return (
                f"The model after unlearning names {_percent(own.value)} of the test records right, which is not above "
                f"chance ({_percent(self.chance)}): that attacks fail on it proves nothing."
            )
        if self.accuracy.gap.high < -self.margin:
            return (
                f"The model after unlearning names {_percent(own.value)} of the test records right, against "
                f"{_percent(reference.value)} after retraining: that attacks fail on a broken model proves nothing."
            )
        return None

    @property
    def kept(self) -> bool:
        """Whether the accuracy is shown to be no further below retraining than the margin."""
        return self.accuracy.gap.low > -self.margin

    def to_json(self) -> dict[str, object]:
        """The comparison, chance and the margin."""
        return {"accuracy": self.accuracy.to_json(), "chance": self.chance, "margin": self.margin}


def after_only_verdict(
    tests: Sequence[Comparison],
    control: Sequence[Comparison],
    usefulness: Usefulness,
    power: Sequence[Power],
    *,
    level: float,
) -> Verdict:
    """Judge what the model after unlearning still tells of the forgotten.

    LEAK: a figure differs from retraining's, after Holm's correction over the figures, and is not shown to be within
    the margin. On a model that is not useful only the two membership attacks can say so; else it is INVALID.
    CANNOT_TELL: the control that does nothing is not told from retraining, or a gap is not shown to be within its
    margin. PASSED: every gap is shown to be within its margin, on a useful model, and doing nothing would have been
    found.

    Args:
        tests: the figures of the method, each with its test.
        control: the same figures of doing nothing.
        usefulness: of the method's models.
        power: of each figure, from the retrained models alone.
        level: of the tests.
    """
    found = _found({test.name: test.test for test in tests}, level)
    fault = usefulness.fault
    if fault is not None:
        found &= {LIKELIHOOD, LOSS} if usefulness.accuracy.retrained.low > usefulness.chance else set()
    figures = _figures(tests, usefulness)
    if found:
        words = " ".join(_in_words(test) for test in tests if test.name in found)
        return Verdict(
            outcome=Outcome.LEAK, sentence=f"The deletion shows in the model after it. {words}", figures=figures
        )
    if fault is not None:
        return Verdict(outcome=Outcome.INVALID, sentence=fault, figures=figures)
    if not _found({test.name: test.test for test in control}, level):
        sentence = (
            "Doing nothing is not told from retraining either: these models give the attacks nothing to find, such as "
            "when they hardly depend on single units, so that nothing was found says nothing of the method."
        )
        return Verdict(outcome=Outcome.CANNOT_TELL, sentence=sentence, figures=figures)
    weak = [test for test in tests if test.test is not None and not test.test.equivalent]
    if weak or not usefulness.kept:
        return Verdict(outcome=Outcome.CANNOT_TELL, sentence=_too_weak(weak, power, usefulness), figures=figures)
    within = ", ".join(f"{test.name} {_signed(test)} (margin {_size(test.name, _margin(test))})" for test in tests)
    stated = min((one.power for one in power), default=0.0)
    sentence = (
        f"The model after treats the forgotten data as a retrained one does, within the margins: gaps of {within}. For "
        f"each of these figures a faultless method had a chance of {_percent(stated)} or more to show that, stated "
        "beforehand, and doing nothing was found out."
    )
    return Verdict(outcome=Outcome.PASSED, sentence=sentence, figures=figures)


def pair_verdict(
    attacks: Sequence[PairAttack], reference: Sequence[PairAttack], usefulness: Usefulness, *, level: float
) -> Verdict:
    """Judge what the models before and after tell together. Exact retraining leaks here, too.

    LEAK: an area differs from 1/2, after Holm's correction over all attacks of both games, and is not shown to be
    within the margin. INVALID: the model after is not useful. CANNOT_TELL: not even the pair with the retrained model
    gives a deletion away, or an area is not shown to be within the margin. PASSED: all are.

    Args:
        attacks: of the method.
        reference: the same attacks on the pairs with the retrained models.
        usefulness: of the method's models.
        level: of the tests.
    """
    found = _found({attack.name: attack.test for attack in attacks}, level)
    figures: dict[str, float | None] = {attack.name: attack.auc.value for attack in attacks}
    if found:
        strongest = max((a for a in attacks if a.name in found), key=lambda attack: abs(attack.auc.value - 0.5))
        sentence = (
            f"Whoever holds the models before and after can tell what was deleted: {len(found)} of {len(attacks)} "
            f"attacks find it. The furthest from chance is {strongest.feature.value} in {strongest.game.value}, with "
            f"an area of {strongest.auc.value:.3f} ({strongest.retrained.value:.3f} after retraining)."
        )
        return Verdict(outcome=Outcome.LEAK, sentence=sentence, figures=figures)
    if usefulness.fault is not None:
        return Verdict(outcome=Outcome.INVALID, sentence=usefulness.fault, figures=figures)
    if not _found({attack.name: attack.test for attack in reference}, level):
        sentence = "Even the pair with a retrained model gives no deletion away: that nothing was found says little."
        return Verdict(outcome=Outcome.CANNOT_TELL, sentence=sentence, figures=figures)
    weak = [attack for attack in attacks if not attack.test.equivalent]
    if weak:
        sentence = (
            f"No attack tells what was deleted, but for {len(weak)} of {len(attacks)} the area is not shown to be "
            f"within {weak[0].test.margin:g} of chance: more runs could tell."
        )
        return Verdict(outcome=Outcome.CANNOT_TELL, sentence=sentence, figures=figures)
    sentence = (
        f"The models before and after hardly tell what was deleted: all {len(attacks)} areas are shown to be within "
        f"{attacks[0].test.margin:g} of chance, by attacks that found retraining out."
    )
    return Verdict(outcome=Outcome.PASSED, sentence=sentence, figures=figures)


def _found(tests: dict[str, EquivalenceTest | None], level: float) -> set[str]:
    """Which differ, after Holm's correction, by what is not shown to be within the margin."""
    stated = {name: test for name, test in tests.items() if test is not None}
    adjusted = holm({name: min(1.0, test.p_different) for name, test in stated.items()})
    return {name for name, test in stated.items() if adjusted[name] <= 1.0 - level and not test.equivalent}


def _figures(tests: Iterable[Comparison], usefulness: Usefulness) -> dict[str, float | None]:
    figures: dict[str, float | None] = {}
    for test in (*tests, usefulness.accuracy):
        figures[test.name] = test.value.value
        figures[f"{test.name}, gap"] = test.gap.value
    return figures


def _in_words(test: Comparison) -> str:
    own, reference = test.value.value, test.retrained.value
    if test.name == LIKELIHOOD:
        return (
            f"A likelihood ratio tells the forgotten data from data never seen with an area of {own:.3f} "
            f"({reference:.3f} after retraining)."
        )
    if test.name == LOSS:
        more = "lower" if own > reference else "higher"
        return (
            f"The loss on the forgotten data is {more} than forgetting would leave it: an area of {own:.3f} against "
            f"data never seen ({reference:.3f} after retraining)."
        )
    side = "above" if own > reference else "below"
    return (
        f"Accuracy on the forgotten data is {_percent(abs(own - reference))} {side} retraining's, beyond what the "
        "model gained or lost on data never seen."
    )


def _too_weak(weak: Sequence[Comparison], power: Sequence[Power], usefulness: Usefulness) -> str:
    words = []
    if weak:
        names = " and ".join(test.name for test in weak)
        words.append(f"Nothing was found, but the gap of {names} to retraining is not shown to be within the margin.")
        needed = [one for one in power if one.name in {test.name for test in weak} and one.runs_needed is not None]
        most = max((one.runs_needed or 0 for one in needed), default=0)
        if needed and most > needed[0].runs:
            words.append(f"About {most} runs would show it of a faultless method in four of five audits.")
    if not usefulness.kept:
        words.append(
            f"The test accuracy is not shown to be within {_percent(usefulness.margin)} of that after retraining."
        )
    return " ".join(words)


def _margin(test: Comparison) -> float:
    return 0.0 if test.test is None else test.test.margin


def _signed(test: Comparison) -> str:
    return f"{'-' if test.gap.value < 0 else '+'}{_size(test.name, abs(test.gap.value))}"


def _size(name: str, value: float) -> str:
    return _percent(value) if name == FORGET_EXCESS else f"{value:.3f}"


def _percent(share: float) -> str:
    return f"{100.0 * share:.1f} %"
