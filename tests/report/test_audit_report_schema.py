from __future__ import annotations

import json
import math
from typing import Any

import audit_examples
import pytest
from report_examples import changed

from secure_fu.errors import RunDirectoryError
from secure_fu.report.audit import AUDIT_SCHEMA, validate_audit
from secure_fu.report.audit.result import Outcome
from secure_fu.report.audit.schema import read_audit

EXAMPLES = [
    audit_examples.example_audit,
    audit_examples.passed,
    audit_examples.cannot_tell,
    audit_examples.invalid,
    audit_examples.memorising,
    audit_examples.too_little_noise,
    audit_examples.quick,
]


@pytest.mark.parametrize("example", EXAMPLES)
def test_what_an_audit_writes_is_valid_also_after_json(example: Any) -> None:
    result = example()
    assert result["schema"] == AUDIT_SCHEMA
    validate_audit(result)
    assert read_audit(json.loads(json.dumps(result, allow_nan=False))) == read_audit(result)


def test_values_arrive_where_they_belong() -> None:
    audit = read_audit(audit_examples.example_audit())
    assert (audit.outcome, audit.source.kind, len(audit.sentences)) == (Outcome.LEAK, "run", 3)
    assert audit.membership is not None
    assert audit.membership.attacks[audit.membership.chosen].auc.value == 0.531
    assert audit.membership.verdict.figures == {"auc": 0.531, "auc_needed": 0.56, "two_sample_p": None}
    assert audit.deletion is not None
    assert {row.name: row.verdict.outcome for row in audit.deletion.rows} == {
        "rollback": Outcome.PASSED,
        "scrub": Outcome.CANNOT_TELL,
        "correction": Outcome.CANNOT_TELL,
        "finetune": Outcome.LEAK,
        "scratch": Outcome.INVALID,
        "nothing": Outcome.LEAK,
    }
    finetune = audit.deletion.rows[3]
    assert finetune.after_only["likelihood ratio"].gap.value == 0.121
    assert finetune.forget_excess.margin == 0.02
    assert finetune.forget_loss.margin is None
    assert {attack.feature for attack in finetune.headline.values()} == {"drop of confidence, learned"}
    assert audit.protocol is not None
    assert [bound.largest for bound in audit.protocol.bounds] == [4.9, 5.8, 6.3, 9.4, None]
    assert [held.name for held in audit.protocol.contributions] == ["everybody", "silo-03", "silo-07"]
    assert [view.claim_epsilon for view in audit.views] == [4.0, 4.0, None, 4.0, 4.0]


def test_unknown_keys_are_left_alone_and_optional_ones_may_be_missing() -> None:
    result = audit_examples.example_audit()
    result["novelty"] = {"kept": True}
    result["deletion"]["rows"][0].pop("title")
    for entry in result["membership"]["most_exposed"]:
        entry.pop("false_positive_rate")
    for key in ("required_noise", "round_noise", "contributions", "findings"):
        result["protocol"].pop(key)
    audit = read_audit(result)
    assert audit.deletion is not None
    assert audit.deletion.rows[0].title == "Rollback"
    assert audit.protocol is not None
    assert (audit.protocol.contributions, audit.protocol.findings) == ((), {})
    assert not audit.source.quick
    assert not any(row.baseline for row in audit.deletion.rows)


def test_a_quick_audit_and_its_baselines_are_read() -> None:
    audit = read_audit(audit_examples.quick())
    assert audit.source.quick
    assert audit.deletion is not None
    assert [row.name for row in audit.deletion.rows if row.baseline] == ["finetune", "scratch"]


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (["schema"], "secure-fu/audit/2", "written by another version"),
        (["schema"], "secure-fu/result/1", "written by another version"),
        (["verdict", "outcome"], "fine", "$.verdict.outcome"),
        (["verdict", "sentences"], [], "$.verdict.sentences"),
        (["source", "kind"], "guess", "$.source.kind"),
        (["source", "quick"], "yes", "$.source.quick"),
        (["created"], "yesterday", "$.created"),
        (["membership", "chosen"], "best", "$.membership.chosen"),
        (["membership", "members"], 0, "$.membership.members"),
        (["membership", "attacks", "loss", "auc", "value"], math.nan, "$.membership.attacks.loss.auc.value"),
        (["membership", "attacks", "loss", "auc", "low"], 0.9, "$.membership.attacks.loss.auc"),
        (["membership", "attacks", "loss", "roc", "low"], [0.1], "$.membership.attacks.loss.roc.low"),
        (["membership", "histogram", "members"], [1], "$.membership.histogram.members"),
        (["membership", "most_exposed", 3, "score"], math.inf, "$.membership.most_exposed[3].score"),
        (["deletion", "margin"], -0.1, "$.deletion.margin"),
        (["deletion", "unit"], "person", "$.deletion.unit"),
        (["deletion", "rows", 1, "verdict", "outcome"], None, "$.deletion.rows[1].verdict.outcome"),
        (["deletion", "rows", 1, "forget_set", "excess"], None, "$.deletion.rows[1].forget_set.excess"),
        (["deletion", "rows", 1, "baseline"], 1, "$.deletion.rows[1].baseline"),
        (["deletion", "power", "loss", "power"], 1.5, "$.deletion.power.loss.power"),
        (["protocol", "bounds", 0, "value"], -1.0, "$.protocol.bounds[0].value"),
        (["protocol", "bounds", 0, "largest"], math.inf, "$.protocol.bounds[0].largest"),
        (["protocol", "zero_round", "ratio", "high"], 0.5, "$.protocol.zero_round.ratio"),
        (["views", 0, "bounds"], "much", "$.views[0].bounds"),
        (["timing", "total"], -1, "$.timing.total"),
    ],
)
def test_what_is_wrong_is_named_by_its_path(path: list[str | int], value: object, named: str) -> None:
    with pytest.raises(RunDirectoryError, match=r"audit\.json: ") as caught:
        validate_audit(changed(audit_examples.example_audit(), path, value))
    assert named in str(caught.value)


def paths_of(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every place of a JSON value, at most the first of each list."""
    found = [path] if path else []
    if isinstance(value, dict):
        for key, member in value.items():
            found += paths_of(member, (*path, key))
    elif isinstance(value, list) and value:
        found += paths_of(value[0], (*path, 0))
    return found


def test_nan_is_refused_wherever_it_stands() -> None:
    example = audit_examples.example_audit()
    for path in paths_of(example):
        with pytest.raises(RunDirectoryError):
            validate_audit(changed(example, list(path), math.nan))
