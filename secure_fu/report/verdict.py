"""What the measurements of one run say about each method, in plain words.

The yardstick is the retrained model, never perfection. A method counts as having forgotten if what gave the data away
in the original model no longer does, no more than after retraining: the backdoor within :data:`BACKDOOR_MARGIN`, and
the membership attack not told apart from retraining by its confidence intervals. A measurement that does not even tell
the original from the retrained model cannot show forgetting, and a verdict that would rest on such measurements alone
is :attr:`Answer.UNKNOWN`. An exact guarantee does not rest on measurements, but one that speaks against it is shown.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from secure_fu.report.result import Guarantee, Interval, Result, Row
from secure_fu.report.text import decimal, join_words, percent, points

__all__ = [
    "ACCURACY_MARGIN",
    "BACKDOOR_MARGIN",
    "MEMBERSHIP_RESOLUTION",
    "Answer",
    "Verdict",
    "headline",
    "ordered_rows",
    "verdicts",
]

ACCURACY_MARGIN = 0.03
"""A method has kept the model useful if it loses at most this much test accuracy against retraining."""

BACKDOOR_MARGIN = 0.07
"""Backdoor success up to this much above retraining counts as no more than after retraining."""

MEMBERSHIP_RESOLUTION = 0.15
"""If two areas under the ROC curve must differ by more than this to be told apart, there are too few records."""

_ORDER = (Guarantee.NONE, Guarantee.EXACT, Guarantee.CERTIFIED, Guarantee.HEURISTIC, Guarantee.BASELINE)


class Answer(Enum):
    """Answer to a yes-or-no question about a method."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "cannot tell"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one run says about one method.

    ``reasons`` are what each measurement says, as an answer of its own and a sentence; ``usefulness`` is a sentence.
    """

    row: Row
    forgot: Answer
    useful: Answer
    reasons: tuple[tuple[Answer, str], ...]
    usefulness: str


def ordered_rows(result: Result) -> tuple[Row, ...]:
    """Rows as every table and picture shows them.

    Original, retrained, then the methods: the stronger guarantee first, and among equals what comes closer to
    retraining.
    """
    reference = result.row("retrained")

    def key(row: Row) -> tuple[int, int, float]:
        fixed = {"original": 0, "retrained": 1}.get(row.name, 2)
        return fixed, _ORDER.index(row.guarantee), 0.0 if reference is None else _distance(row, reference)

    return tuple(sorted(result.rows, key=key))


def _distance(row: Row, reference: Row) -> float:
    distance = abs(row.test_accuracy - reference.test_accuracy)
    if row.backdoor_success is not None and reference.backdoor_success is not None:
        distance += abs(row.backdoor_success - reference.backdoor_success)
    return distance


def verdicts(result: Result) -> tuple[Verdict, ...]:
    """One verdict for each method, in the order of :func:`ordered_rows`; none if the run has no retrained model."""
    original, reference = result.row("original"), result.row("retrained")
    if original is None or reference is None:
        return ()
    rows = (row for row in ordered_rows(result) if row.name not in ("original", "retrained"))
    return tuple(_judge(row, original, reference) for row in rows)


def _judge(row: Row, original: Row, reference: Row) -> Verdict:
    gap = row.test_accuracy - reference.test_accuracy
    useful = Answer.YES if gap >= -ACCURACY_MARGIN else Answer.NO
    measured = (_backdoor(row, original, reference), _membership(row, original, reference))
    findings = [finding for finding in measured if finding is not None]
    if row.guarantee is Guarantee.EXACT:
        findings = _beside_exact(findings, useful)
    elif not findings:
        findings = [(Answer.UNKNOWN, "Neither a backdoor nor a membership attack was measured.")]
    answers = [answer for answer, _ in findings]
    side = "level with" if round(abs(gap), 3) == 0 else f"{points(gap)} {'above' if gap > 0 else 'below'}"
    return Verdict(
        row=row,
        forgot=next((answer for answer in (Answer.NO, Answer.YES) if answer in answers), Answer.UNKNOWN),
        useful=useful,
        reasons=tuple(findings),
        usefulness=f"Test accuracy {percent(row.test_accuracy)}, {side} retraining.",
    )


def _beside_exact(findings: list[tuple[Answer, str]], useful: Answer) -> list[tuple[Answer, str]]:
    """Measurements of a model that never saw the data, next to that guarantee.

    A weak model may fall for a trigger that it never learned; where the model is not weak, a measurement against an
    exact guarantee is a warning that must not be explained away.
    """
    if all(answer is not Answer.NO for answer, _ in findings):
        return [(Answer.YES, "By its guarantee, which is exact."), *findings]
    if useful is Answer.YES:
        return [*findings, (Answer.NO, "This contradicts its guarantee: chance, or an assumption that fails.")]
    weaker = "A weaker model than the retrained one may do so without ever having seen the data."
    eased = [
        (Answer.UNKNOWN, f"{sentence} {weaker}") if answer is Answer.NO else (answer, sentence)
        for answer, sentence in findings
    ]
    return [(Answer.YES, "By its guarantee, which is exact."), *eased]


def _backdoor(row: Row, original: Row, reference: Row) -> tuple[Answer, str] | None:
    after, before, target = row.backdoor_success, original.backdoor_success, reference.backdoor_success
    if after is None or before is None or target is None:
        return None
    sentence = (
        f"The backdoor works on {percent(after)} of triggered records; "
        f"on {percent(target)} after retraining, on {percent(before)} before."
    )
    if after > target + BACKDOOR_MARGIN:
        return Answer.NO, sentence
    if before <= target + BACKDOOR_MARGIN:
        return Answer.UNKNOWN, f"{sentence} It never gave the data away, so it cannot show that they are forgotten."
    return Answer.YES, sentence


def _membership(row: Row, original: Row, reference: Row) -> tuple[Answer, str] | None:
    after, before, target = row.membership_auc, original.membership_auc, reference.membership_auc
    if after is None or before is None or target is None:
        return None
    resolution = _resolution(after, target)
    sentence = f"Membership attack: area {decimal(after.value)}, after retraining {decimal(target.value)}"
    if abs(after.value - target.value) > resolution:
        direction = "better" if after.value > target.value else "worse, a mark of its own"
        return Answer.NO, f"{sentence}: it recognises the forgotten records {direction} than it should."
    if resolution > MEMBERSHIP_RESOLUTION:
        return Answer.UNKNOWN, f"{sentence}: too few records to tell them apart."
    if abs(before.value - target.value) <= _resolution(before, target):
        return Answer.UNKNOWN, (
            f"{sentence}: not told apart, but neither is the original ({decimal(before.value)}), "
            "so this attack shows nothing."
        )
    return Answer.YES, f"{sentence}, before {decimal(before.value)}: no longer told apart from retraining."


def _resolution(first: Interval, second: Interval) -> float:
    """The difference that two areas must have to be told apart, from the half-widths of their intervals."""
    return math.hypot((first.high - first.low) / 2, (second.high - second.low) / 2)


def _measure(result: Result) -> str:
    """What this run judges forgetting by."""
    original = result.row("original")
    return "the backdoor" if original is not None and original.backdoor_success is not None else "a membership attack"


def headline(result: Result) -> str:
    """The whole run in one or two sentences: which methods made the model forget, and at what price."""
    judged = verdicts(result)
    if result.row("original") is None or result.row("retrained") is None:
        return "This run holds no retrained model to compare with, so it says nothing about forgetting."
    if not judged:
        return "This run compares no method with retraining."
    groups: dict[str, list[str]] = {"good": [], "useless": [], "no": [], "unknown": []}
    for verdict in judged:
        if verdict.forgot is Answer.YES:
            groups["good" if verdict.useful is Answer.YES else "useless"].append(verdict.row.name)
        else:
            groups["no" if verdict.forgot is Answer.NO else "unknown"].append(verdict.row.name)
    sentences = []
    if groups["good"]:
        sentences.append(
            f"Yes, with {join_words(groups['good'])}, as far as {_measure(result)} can tell: the data are gone as "
            "after retraining, and the model is as useful. Other figures may still tell it from a retrained one."
        )
    elif groups["useless"] or groups["no"]:
        sentences.append("No method both forgot and kept the model useful.")
    if groups["useless"]:
        sentences.append(f"With {join_words(groups['useless'])} it forgot, but lost too much accuracy.")
    if groups["no"]:
        sentences.append(f"Not with {join_words(groups['no'], 'or')}.")
    if groups["unknown"]:
        sentences.append(f"This run cannot tell for {join_words(groups['unknown'])}.")
    return " ".join(sentences)
