from __future__ import annotations

import json
import math
from typing import Any

import pytest
from report_examples import (
    changed,
    example_result,
    incomplete,
    insecure,
    with_many_records,
    without_backdoor,
    without_membership,
)

from secure_fu.errors import RunDirectoryError
from secure_fu.report import SCHEMA, validate_result
from secure_fu.report.schema import read_result

EXAMPLES = [example_result, without_backdoor, without_membership, with_many_records, insecure, incomplete]


@pytest.mark.parametrize("example", EXAMPLES)
def test_what_a_run_writes_is_valid_also_after_json(example: Any) -> None:
    result = example()
    validate_result(result)
    assert read_result(json.loads(json.dumps(result, allow_nan=False))) == read_result(result)


def test_values_arrive_where_they_belong() -> None:
    run = read_result(example_result())
    assert run.complete
    assert run.scenario.forgotten_clients == ("silo-09",)
    assert run.privacy.budget_epsilon == 8.0
    scrub = run.row("scrub")
    assert scrub is not None
    assert (scrub.test_accuracy, scrub.backdoor_success, scrub.rounds) == (0.925, 0.042, 10)
    assert scrub.gap is not None
    assert scrub.gap.backdoor_success == pytest.approx(0.035)
    assert [claim.subject for claim in scrub.epsilon] == ["forgotten"] * 3 + ["retained"] * 3
    assert len(run.curves["rollback"]) == 41
    assert run.row("nobody") is None


def test_unknown_keys_are_left_alone() -> None:
    result = example_result()
    result["novelty"] = {"kept": True}
    result["rows"][0]["novelty"] = 1
    validate_result(result)


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (["schema"], "secure-fu/result/2", "$.schema"),
        (["schema"], None, "$.schema"),
        (["rows", 2, "test_accuracy"], 1.3, "$.rows[2].test_accuracy"),
        (["rows", 2, "test_accuracy"], True, "$.rows[2].test_accuracy"),
        (["rows", 2, "test_accuracy"], "0.9", "$.rows[2].test_accuracy"),
        (["rows", 2, "test_accuracy"], None, "$.rows[2].test_accuracy"),
        (["rows", 3, "forget_loss"], math.nan, "$.rows[3].forget_loss"),
        (["rows", 3, "forget_loss"], math.inf, "$.rows[3].forget_loss"),
        (["config", "training", "learning_rate"], math.nan, "$.config.training.learning_rate"),
        (["config", "training"], {1: 2}, "$.config.training"),
        (["config", "training"], object(), "$.config.training"),
        (["rows", 1, "guarantee"], "proved", "$.rows[1].guarantee"),
        (["rows", 1, "guarantee"], ["exact"], "$.rows[1].guarantee"),
        (["rows", 1, "name"], "original", "$.rows[1].name"),
        (["rows", 1, "name"], "Re trained", "$.rows[1].name"),
        (["rows", 1, "name"], "elsewhere", "$.rows"),
        (["rows", 4, "rounds"], -1, "$.rows[4].rounds"),
        (["rows", 4, "rounds"], 1.5, "$.rows[4].rounds"),
        (["rows", 4, "epsilon"], 3.4, "$.rows[4].epsilon"),
        (["rows", 4, "epsilon", 1, "subject"], "server", "$.rows[4].epsilon[1].subject"),
        (["rows", 4, "epsilon", 1, "value"], -0.1, "$.rows[4].epsilon[1].value"),
        (["rows", 4, "epsilon", 1, "group_size"], 0, "$.rows[4].epsilon[1].group_size"),
        (["rows", 0, "membership_auc"], {"value": 0.6, "low": 0.61, "high": 0.7}, "$.rows[0].membership_auc"),
        (["rows", 0, "gap_to_retrained", "test_accuracy"], 2, "$.rows[0].gap_to_retrained.test_accuracy"),
        (["rows", 0, "certificate"], {"epsilon": 1.0, "delta": 2, "group_size": 1}, "$.rows[0].certificate.delta"),
        (["rows"], {}, "$.rows"),
        (["rows", 0], None, "$.rows[0]"),
        (["complete"], "yes", "$.complete"),
        (["created"], "yesterday", "$.created"),
        (["created"], "2026-11-23T05:00:00", "$.created"),
        (["insecure"], "plain", "$.insecure"),
        (["scenario", "unit"], "person", "$.scenario.unit"),
        (["scenario", "clients"], 0, "$.scenario.clients"),
        (["scenario", "backdoor", "target_label"], "0", "$.scenario.backdoor.target_label"),
        (["privacy", "delta"], 1.5, "$.privacy.delta"),
        (["curves", "scrub", 3, "round"], 2, "$.curves.scrub[3].round"),
        (["traffic", "per_round", 7, "branch"], "nobody", "$.traffic.per_round[7].branch"),
        (["traffic", "per_round", 7, "uploads"], None, "$.traffic.per_round[7].uploads"),
        (["timing", "total"], -1, "$.timing.total"),
        (["membership", "scrub", "tpr"], [0.5], "$.membership.scrub.tpr"),
        (["membership", "scrub", "fpr"], None, "$.membership.scrub.fpr"),
        (["membership", "scrub", "tpr_low"], [0.5], "$.membership.scrub.tpr_low"),
        (["membership", "scrub", "tpr", 4], 1.01, "$.membership.scrub.tpr[4]"),
        (
            ["membership", "scrub", "member_scores_histogram", "members"],
            [1, 2],
            "$.membership.scrub.member_scores_histogram.members",
        ),
    ],
)
def test_a_wrong_value_is_named_by_its_path(path: list[str | int], value: object, named: str) -> None:
    with pytest.raises(RunDirectoryError) as caught:
        validate_result(changed(example_result(), path, value))
    assert str(caught.value).startswith(f"result.json: {named} is ")
    assert "expected" in str(caught.value)


@pytest.mark.parametrize(
    "path",
    [
        ["schema"],
        ["rows"],
        ["rows", 5, "epsilon"],
        ["privacy", "assured"],
        ["traffic", "per_round"],
        ["scheme", "trust"],
    ],
)
def test_a_missing_key_is_named_by_its_path(path: list[str | int]) -> None:
    result = example_result()
    place: Any = result
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    dotted = "$" + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    with pytest.raises(
        RunDirectoryError, match=f"result.json: {dotted} is missing".replace("$", r"\$").replace("[", r"\[")
    ):
        validate_result(result)


def test_a_curve_of_no_row_is_named() -> None:
    with pytest.raises(RunDirectoryError, match=r"\$\.curves\.nobody belongs to no row"):
        validate_result(changed(example_result(), ["curves", "nobody"], []))


def test_rows_may_be_missing_only_while_a_run_is_incomplete() -> None:
    result = incomplete()
    validate_result(result)
    with pytest.raises(RunDirectoryError, match="a row named 'retrained'"):
        validate_result(changed(result, ["complete"], True))


def test_long_values_are_not_repeated_in_full() -> None:
    with pytest.raises(RunDirectoryError) as caught:
        validate_result(changed(example_result(), ["scenario", "unit"], "x" * 10_000))
    assert len(str(caught.value)) < 250


def test_the_schema_has_a_name() -> None:
    assert SCHEMA == "secure-fu/result/1"
