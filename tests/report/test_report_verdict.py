from __future__ import annotations

from typing import Any

import pytest
from report_examples import example_result, incomplete, without_backdoor, without_membership

from secure_fu.report.schema import read_result
from secure_fu.report.verdict import Answer, Verdict, headline, ordered_rows, verdicts


def judged(result: dict[str, Any], name: str) -> Verdict:
    return next(verdict for verdict in verdicts(read_result(result)) if verdict.row.name == name)


def row(result: dict[str, Any], name: str) -> dict[str, Any]:
    return next(row for row in result["rows"] if row["name"] == name)


def area(value: float, half: float = 0.048) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


def test_the_example() -> None:
    result = example_result()
    answers = {v.row.name: (v.forgot, v.useful) for v in verdicts(read_result(result))}
    assert answers == {
        "rollback": (Answer.YES, Answer.YES),
        "scratch": (Answer.YES, Answer.NO),
        "scrub": (Answer.YES, Answer.YES),
        "correction": (Answer.NO, Answer.NO),
        "finetune": (Answer.NO, Answer.YES),
    }
    words = headline(read_result(result))
    assert words.startswith("Yes, with rollback and scrub, as far as the backdoor can tell: ")
    assert "With scratch it forgot, but lost too much accuracy." in words
    assert "Not with correction or finetune." in words


def test_rows_are_ordered_by_guarantee_and_nearness() -> None:
    names = [row.name for row in ordered_rows(read_result(example_result()))]
    assert names == ["original", "retrained", "rollback", "scratch", "scrub", "correction", "finetune"]
    result = example_result()
    row(result, "correction").update(test_accuracy=0.931, backdoor_success=0.007)
    names = [row.name for row in ordered_rows(read_result(result))]
    assert names.index("correction") < names.index("scrub")


@pytest.mark.parametrize(("after", "answer"), [(0.077, Answer.YES), (0.078, Answer.NO), (0.0, Answer.YES)])
def test_backdoor_margin(after: float, answer: Answer) -> None:
    result = without_membership()
    row(result, "scrub")["backdoor_success"] = after
    assert judged(result, "scrub").forgot is answer


def test_a_backdoor_that_never_worked_shows_nothing() -> None:
    result = without_membership()
    row(result, "original")["backdoor_success"] = 0.05
    verdict = judged(result, "scrub")
    assert verdict.forgot is Answer.UNKNOWN
    assert "never gave the data away" in verdict.reasons[0][1]
    assert headline(read_result(result)).endswith("This run cannot tell for scrub and correction.") is False
    row(result, "correction")["backdoor_success"] = row(result, "finetune")["backdoor_success"] = 0.05
    assert "cannot tell for scrub, correction and finetune" in headline(read_result(result))


@pytest.mark.parametrize(
    ("before", "after", "retrained", "answer", "words"),
    [
        (0.62, 0.52, 0.503, Answer.YES, "no longer told apart"),
        (0.62, 0.60, 0.503, Answer.NO, "recognises the forgotten records better"),
        (0.62, 0.30, 0.503, Answer.NO, "a mark of its own"),
        (0.52, 0.51, 0.503, Answer.UNKNOWN, "neither is the original"),
    ],
)
def test_membership(before: float, after: float, retrained: float, answer: Answer, words: str) -> None:
    result = without_backdoor()
    for name, value in (("original", before), ("scrub", after), ("retrained", retrained)):
        row(result, name)["membership_auc"] = area(value)
    verdict = judged(result, "scrub")
    assert verdict.forgot is answer
    assert words in verdict.reasons[0][1]


def test_too_few_records_tell_nothing() -> None:
    result = without_backdoor()
    for name, value in (("original", 0.75), ("scrub", 0.55), ("retrained", 0.5)):
        row(result, name)["membership_auc"] = area(value, 0.2)
    assert judged(result, "scrub").forgot is Answer.UNKNOWN


def test_one_measurement_against_it_is_enough() -> None:
    result = example_result()
    row(result, "scrub")["membership_auc"] = area(0.62)
    verdict = judged(result, "scrub")
    assert [answer for answer, _ in verdict.reasons] == [Answer.YES, Answer.NO]
    assert verdict.forgot is Answer.NO


def test_nothing_measured_is_not_a_yes() -> None:
    result = without_backdoor()
    for entry in result["rows"]:
        entry["membership_auc"] = None
    verdict = judged(result, "scrub")
    assert verdict.forgot is Answer.UNKNOWN
    assert "Neither" in verdict.reasons[0][1]
    assert judged(result, "rollback").forgot is Answer.YES


def test_an_exact_guarantee_does_not_hide_a_measurement_against_it() -> None:
    result = example_result()
    row(result, "rollback")["backdoor_success"] = 0.8
    verdict = judged(result, "rollback")
    assert verdict.forgot is Answer.NO
    assert "contradicts its guarantee" in verdict.reasons[-1][1]


def test_a_weak_model_may_fall_for_a_trigger_it_never_saw() -> None:
    verdict = judged(example_result(), "scratch")
    assert verdict.forgot is Answer.YES
    assert (Answer.UNKNOWN, True) in [(answer, "weaker model" in words) for answer, words in verdict.reasons]


def test_usefulness_names_the_gap() -> None:
    result = example_result()
    row(result, "scrub")["test_accuracy"] = 0.931
    assert judged(result, "scrub").usefulness.endswith("level with retraining.")
    row(result, "scrub")["test_accuracy"] = 0.95
    assert judged(result, "scrub").usefulness.replace("\u00a0", " ").endswith("1.9 points above retraining.")
    row(result, "scrub")["test_accuracy"] = 0.9
    assert judged(result, "scrub").useful is Answer.NO


def test_without_a_reference_there_is_no_verdict() -> None:
    run = read_result(incomplete())
    assert verdicts(run) == ()
    assert "says nothing about forgetting" in headline(run)


def test_without_methods_there_is_no_verdict() -> None:
    result = example_result()
    result["rows"] = result["rows"][:2]
    for key in ("curves", "membership"):
        result[key] = {}
    result["traffic"]["per_round"] = []
    assert headline(read_result(result)) == "This run compares no method with retraining."


def test_a_run_in_which_no_method_is_good_says_so() -> None:
    result = example_result()
    result["rows"] = [entry for entry in result["rows"] if entry["name"] in ("original", "retrained", "finetune")]
    result["curves"] = result["membership"] = {}
    result["traffic"]["per_round"] = []
    assert headline(read_result(result)) == "No method both forgot and kept the model useful. Not with finetune."
