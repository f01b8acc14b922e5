"""Controls that must come out right, on models that learn digits by heart without any privacy."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from deletion_cast import digit_runs, memorising_runs, others, shuffled_digits, training
from scipy import stats

from secure_fu.audit.deletion import (
    FINETUNE,
    NOTHING,
    RETRAIN,
    DeletionAudit,
    DeletionTerms,
    Part,
    audit_deletion,
    stacked_deletion_runs,
)
from secure_fu.audit.deletion.after_only import LIKELIHOOD, LOSS
from secure_fu.audit.deletion.outputs import outputs_of
from secure_fu.audit.deletion.pairs import HEADLINE, Game
from secure_fu.audit.verdict import Outcome
from secure_fu.errors import ArgumentError
from secure_fu.learning import FlatModel, mlp

QUICK = DeletionTerms(relearning_steps=0, inversion_runs=0, white_box=False)


@pytest.fixture(scope="module")
def audit() -> DeletionAudit:
    return audit_deletion(memorising_runs())


def test_exact_retraining_passes_after_only_and_is_found_by_the_pair(audit: DeletionAudit) -> None:
    row = audit.row(RETRAIN)
    assert row.verdict.outcome is Outcome.PASSED
    assert row.pair_verdict.outcome is Outcome.LEAK
    headline = {attack.game: attack for attack in row.pair if attack.feature is HEADLINE}
    assert headline[Game.OUT_THEN_OUT].auc.low > 0.55
    assert headline[Game.IN_THEN_IN].auc.low > 0.55


def test_nothing_is_found_after_only_and_not_by_the_pair(audit: DeletionAudit) -> None:
    row = audit.row(NOTHING)
    assert row.verdict.outcome is Outcome.LEAK
    areas = {test.name: test for test in row.after_only}
    assert areas[LIKELIHOOD].gap.low > 0.08
    assert areas[LOSS].gap.low > 0.02
    assert row.pair_verdict.outcome is Outcome.PASSED
    assert all(attack.auc.value == 0.5 for attack in row.pair)


def test_fine_tuning_is_found(audit: DeletionAudit) -> None:
    assert audit.row(FINETUNE).verdict.outcome is Outcome.LEAK


def test_power_is_stated_from_the_retrained_models_alone(audit: DeletionAudit) -> None:
    runs = memorising_runs()
    broken = dataclasses.replace(runs, after={}, before=np.ascontiguousarray(runs.before[::-1]))
    assert audit_deletion(broken, terms=QUICK).power == audit.power
    assert {one.name for one in audit.power} == {LIKELIHOOD, LOSS, "excess of forget accuracy"}
    assert all(0.0 < one.power <= 1.0 for one in audit.power)


def test_retained_are_exposed_by_retraining_and_not_by_doing_nothing(audit: DeletionAudit) -> None:
    nothing, retrain = audit.row(NOTHING).harm, audit.row(RETRAIN).harm
    assert nothing.by_deletion.value == nothing.by_pair.value == 0.0
    assert retrain.before.low > 0.55
    # Fewer records, each known better; and a second model with noise of its own.
    assert retrain.by_deletion.low > 0.0
    assert retrain.by_pair.low > 0.0
    assert retrain.by_method.low < 0.0 < retrain.by_method.high


def test_what_was_not_forgotten_is_relearned_sooner(audit: DeletionAudit) -> None:
    nothing, tuned, retrain = (audit.row(name).relearning for name in (NOTHING, FINETUNE, RETRAIN))
    assert nothing is not None
    assert tuned is not None
    assert retrain is not None
    assert nothing.steps.value == 0.0
    assert tuned.gap.high < 0.0
    assert retrain.gap.low <= 0.0 <= retrain.gap.high


def test_a_model_at_chance_gets_no_pass() -> None:
    runs = memorising_runs()
    draw = np.random.default_rng(0)
    useless = (draw.normal(size=runs.before.shape) * 0.05).astype(np.float32)
    # A model that forgot everything: on it every attack fails.
    spoiled = dataclasses.replace(runs, after={"reset": useless})
    row = audit_deletion(spoiled, terms=QUICK).row("reset")
    assert all(test.test is not None and not test.test.different for test in row.after_only)
    assert row.verdict.outcome is Outcome.INVALID
    assert "chance" in row.verdict.sentence or "broken" in row.verdict.sentence


def test_nothing_to_compare_with_is_invalid() -> None:
    runs = memorising_runs()
    useless = (np.random.default_rng(0).normal(size=runs.before.shape) * 0.05).astype(np.float32)
    spoiled = dataclasses.replace(runs, retrained=useless)
    audit = audit_deletion(spoiled, terms=QUICK)
    assert {row.verdict.outcome for row in audit.rows} == {Outcome.INVALID}


def test_overdone_forgetting_is_found() -> None:
    """Wrong labels for the forgotten: the loss attack falls below retraining's."""
    runs = memorising_runs()
    overdone = np.empty_like(runs.before)
    for run, vector in enumerate(runs.before.astype(np.float64)):
        tensors = {name: t.clone().requires_grad_() for name, t in runs.model.tensors(vector).items()}
        parts = [runs.targets.subset(runs.record_parts[run] == part) for part in (Part.RETAINED, Part.FORGOTTEN)]
        for _ in range(40):
            kept, gone = (
                torch.nn.functional.cross_entropy(runs.model.logits(tensors, part.features), (part.labels + shift) % 10)
                for shift, part in enumerate(parts)
            )
            gradients = torch.autograd.grad(kept + gone, list(tensors.values()))
            tensors = {
                name: (t.detach() - 0.5 * gradient).requires_grad_()
                for (name, t), gradient in zip(tensors.items(), gradients, strict=True)
            }
        overdone[run] = runs.model.flatten(tensors)
    spoiled = dataclasses.replace(runs, after={"relabelled": overdone})
    row = audit_deletion(spoiled, terms=QUICK).row("relabelled")
    areas = {test.name: test for test in row.after_only}
    assert areas[LOSS].gap.high < -0.02
    # The likelihood ratio has learned the direction, whichever it is.
    assert areas[LIKELIHOOD].gap.low > 0.02
    assert row.verdict.outcome is Outcome.LEAK


def test_a_method_that_never_saw_the_data_and_is_worse_overall_is_no_leak() -> None:
    """What it loses on the targets it loses on those never seen as well; on test records it may lose something else."""
    against_test = []
    for seed in range(6):
        runs = digit_runs(runs=24, targets=60, seed=seed)
        short = stacked_deletion_runs(
            runs.model,
            runs.targets,
            None,
            runs.test,
            runs=24,
            training=training(20, steps=12),
            seed=100 + seed,
            parts=runs.parts,
        ).retrained
        method = dataclasses.replace(runs, after={"short": short})
        row = audit_deletion(method, terms=dataclasses.replace(QUICK, utility_margin=0.4)).row("short")
        assert row.forget_excess.test is not None
        assert row.forget_excess.test.p_different > 0.01
        forgotten = runs.record_parts == Part.FORGOTTEN
        excess = []
        for vectors in (short, runs.retrained):
            outputs = outputs_of(runs, vectors)
            excess.append(np.where(forgotten, outputs.correct, 0).sum(axis=1) / 20 - outputs.test_accuracy)
        against_test.append(stats.ttest_1samp(excess[0] - excess[1], 0.0).pvalue)
    assert min(against_test) < 1e-3


def test_under_noise_nobody_can_tell() -> None:
    data = shuffled_digits()
    runs = stacked_deletion_runs(
        FlatModel(mlp(64, (16,), 10, 0)),
        data.train.subset(slice(0, 150)),
        others(1100, 150),
        data.test,
        runs=16,
        training=training(1150, steps=40, clip_norm=1.0, noise=12.0, learning_rate=0.05),
        seed=3,
    )
    audit = audit_deletion(runs, terms=QUICK)
    assert audit.row(NOTHING).usefulness.accuracy.value.low > 0.3
    assert {row.name: row.verdict.outcome for row in audit.rows} == dict.fromkeys(
        (NOTHING, RETRAIN, FINETUNE), Outcome.CANNOT_TELL
    )
    assert audit.row(RETRAIN).pair_verdict.outcome is Outcome.CANNOT_TELL


def test_client_requests() -> None:
    """Nine clients with twenty records each, three of them forgotten in each run."""
    data = shuffled_digits()
    runs = stacked_deletion_runs(
        FlatModel(mlp(64, (64,), 10, 0)),
        data.train.subset(slice(0, 180)),
        others(60, 200),
        data.test,
        runs=16,
        training=training(120),
        seed=3,
        units=np.repeat(np.arange(9), 20),
    )
    audit = audit_deletion(runs, terms=QUICK)
    assert (audit.units, audit.forgotten, audit.records) == (9, 3, 180)
    assert audit.row(NOTHING).verdict.outcome is Outcome.LEAK
    assert audit.row(FINETUNE).verdict.outcome is Outcome.LEAK
    # A margin of 0.05 takes more runs with so few units, and the audit says how many.
    verdict = audit.row(RETRAIN).verdict
    assert verdict.outcome is Outcome.CANNOT_TELL
    assert "runs would show" in verdict.sentence
    assert audit.row(RETRAIN).pair_verdict.outcome is Outcome.LEAK


def test_the_audit_as_json(audit: DeletionAudit) -> None:
    parsed = json.loads(json.dumps(audit.to_json(), allow_nan=False))
    assert [row["name"] for row in parsed["rows"]] == [NOTHING, RETRAIN, FINETUNE]
    for row in parsed["rows"]:
        assert set(row["after_only"]) == {LIKELIHOOD, LOSS}
        for figure in (*row["after_only"].values(), row["forget_set"]["accuracy"]):
            for interval in (figure["value"], figure["retrained"]):
                assert 0.0 <= interval["low"] <= interval["value"] <= interval["high"] <= 1.0
        assert set(row["pair"]["headline"]) == {"out-then-out", "in-then-in"}


def test_too_few_runs_and_wrong_terms_are_refused(audit: DeletionAudit) -> None:
    with pytest.raises(ArgumentError, match="at least 8"):
        audit_deletion(digit_runs(runs=4, targets=30, steps=5))
    for wrong in ({"margin": 0.0}, {"level": 0.4}, {"inversion_runs": 1}, {"relearning_steps": -1}):
        with pytest.raises(ArgumentError):
            DeletionTerms(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError):
        audit.row("unheard of")
