"""The membership part: whose records are compared, and what a difference between files is taken for."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from small_runs import configured

from secure_fu.audit import Outcome
from secure_fu.auditor.membership_part import audit_membership
from secure_fu.auditor.shadow.stacked_recipe import pooled_records, stacked_training
from secure_fu.learning import FlatModel, Records, train_stacked
from secure_fu.learning.stacked import StackedTraining
from secure_fu.planning import Plan
from secure_fu.scenario import Scenario, build_scenario
from secure_fu.simulation import plan_of

SETTINGS = ("training.rounds=60", "deletion.joined_at=0", "deletion.backdoor=false", "training.checkpoint_every=10")


def cast() -> tuple[Scenario, Plan]:
    config = configured(*SETTINGS)
    scenario = build_scenario(config)
    return scenario, plan_of(config, scenario)


def harder(records: Records, share: float) -> Records:
    """Records of another file, whose writers were less careful: some have another's label."""
    labels = records.labels.clone()
    wrong = np.random.default_rng(0).permutation(len(labels))[: round(share * len(labels))]
    labels[wrong] = (labels[wrong] + 1) % 10
    return Records(records.features, labels)


def trained(scenario: Scenario, training: StackedTraining) -> np.ndarray:
    records = pooled_records(scenario.clients)
    model = FlatModel(scenario.module)
    everyone = np.ones((1, len(records)), dtype=np.bool_)
    vectors = train_stacked(model, records, everyone, training=training, start=model.vector(), seeds=[3])
    return vectors[0].astype(np.float64)


def test_held_out_records_of_another_law_are_no_leak() -> None:
    scenario, plan = cast()
    released = trained(scenario, stacked_training(plan, FlatModel(scenario.module), clients=len(scenario.clients)))
    other = dataclasses.replace(scenario, test=harder(scenario.test, 0.25))
    audit = audit_membership(other, plan, released, shadows=16, seed=1)
    assert min(attack.p_value for attack in audit.attacks.values()) < 1e-4  # it would be called a leak
    assert audit.verdict.outcome is Outcome.INVALID
    assert "not of one law" in audit.verdict.sentence


def test_parted_by_lot_the_same_records_can_be_audited() -> None:
    scenario, plan = cast()
    other = dataclasses.replace(scenario, test=harder(scenario.test, 0.25))
    audit = audit_membership(other, plan, None, shadows=16, seed=1)
    assert audit.verdict.outcome in (Outcome.CANNOT_TELL, Outcome.LEAK)
    assert len(audit.member_scores) == sum(len(records) for records in scenario.clients.values())
    assert len(audit.non_member_scores) == len(scenario.test)


def test_a_released_model_that_memorises_is_a_leak_and_its_control_finds_nothing() -> None:
    scenario, plan = cast()
    records = pooled_records(scenario.clients)
    mixed = Records(records.features, torch.from_numpy(np.random.default_rng(1).integers(0, 10, len(records))))
    labels = torch.where(torch.arange(len(records)) % 5 == 0, mixed.labels, records.labels)
    noisy = Records(records.features, labels)
    # Held-out records with as many wrong labels: one law, and a model that knows the wrong ones by heart.
    test_labels = torch.from_numpy(np.random.default_rng(2).integers(0, 10, len(scenario.test)))
    drawn = torch.where(torch.arange(len(scenario.test)) % 5 == 0, test_labels, scenario.test.labels)
    marked = dataclasses.replace(scenario, clients={"all": noisy}, test=Records(scenario.test.features, drawn))
    training = StackedTraining(
        steps=600, sampling_rate=0.25, learning_rate=0.3, momentum=0.9, divisor=0.25 * len(noisy)
    )
    audit = audit_membership(marked, plan, trained(marked, training), shadows=16, seed=1)
    assert audit.verdict.outcome is Outcome.LEAK
