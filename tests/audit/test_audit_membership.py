"""Controls of the membership audit: what knows its members by heart is found, what knows nothing gets no pass."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from secure_fu.audit import MembershipAudit, Outcome, ShadowModels, balanced_members, membership_audit, shadow_models
from secure_fu.audit.attacks import confidence, lira_online
from secure_fu.errors import ArgumentError, DataError
from secure_fu.learning import FlatModel, Records, StackedTraining, digits, mlp, train_stacked

POOL = digits(seed=0).train.subset(slice(0, 600))
MODEL = FlatModel(mlp(64, (64,), 10, seed=0))
# Half of the pool, learned by heart; nothing of differential privacy in it.
TRAINING = StackedTraining(steps=300, sampling_rate=0.25, learning_rate=0.2, momentum=0.9, divisor=75.0)
MEMBERS = balanced_members(2, len(POOL), seed=77)[0]


def trained(members: NDArray[np.bool_], seed: int, training: StackedTraining = TRAINING) -> nn.Module:
    """One model, of a seed that shadow models do not use."""
    vectors = train_stacked(MODEL, POOL, members[None], training=training, start=MODEL.vector(), seeds=[seed])
    flat = FlatModel(MODEL.module)
    flat.load(vectors[0].astype(np.float64))
    return flat.module


@pytest.fixture(scope="module")
def shadows() -> ShadowModels:
    return shadow_models(MODEL, POOL, count=16, training=TRAINING, seed=5)


@pytest.fixture(scope="module")
def target() -> nn.Module:
    return trained(MEMBERS, seed=1)


def audit(module: nn.Module, shadows: ShadowModels | None, members: NDArray[np.bool_] = MEMBERS) -> MembershipAudit:
    return membership_audit(module, members=POOL.subset(members), non_members=POOL.subset(~members), shadows=shadows)


def test_a_model_that_memorises_is_flagged(target: nn.Module, shadows: ShadowModels) -> None:
    found = audit(target, shadows)
    assert found.verdict.outcome is Outcome.LEAK
    assert found.chosen == "lira_online"
    assert set(found.attacks) == {"loss", "calibrated", "rmia", "lira_online"}
    assert found.shadows == 16
    assert found.auc.low > 0.55
    # shadow models find what the loss alone does not
    assert found.auc.value > found.attacks["loss"].auc.value + 0.03
    assert found.warnings == ()
    assert found.distribution is not None
    assert found.distribution.p_value > 0.01


def test_its_scores_are_those_of_the_attack_on_the_same_models(target: nn.Module, shadows: ShadowModels) -> None:
    """The order of the records, and which shadow model knows which, are right."""
    found = audit(target, shadows)
    with torch.no_grad():
        phi = confidence(target(POOL.features).numpy(), POOL.labels.numpy())
    scores = lira_online(phi, confidence(shadows.logits(), POOL.labels.numpy()), shadows.members)
    # the prior is fitted to all records, whatever their order
    np.testing.assert_allclose(found.member_scores, scores[MEMBERS], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found.non_member_scores, scores[~MEMBERS], rtol=1e-3, atol=1e-3)
    listed = [entry.record for entry in found.most_exposed]
    assert listed == list(np.argsort(-found.member_scores, kind="stable")[:20])
    assert all(
        entry.false_positive_rate == pytest.approx((found.non_member_scores >= entry.score).mean())
        for entry in found.most_exposed
    )


def test_with_members_mixed_up_nothing_is_found(target: nn.Module, shadows: ShadowModels) -> None:
    """The attack looks at membership only: any other half of the pool gives nothing, at the level of the test."""
    outcomes = [
        audit(target, shadows, balanced_members(2, len(POOL), seed=100 + draw)[0]).verdict.outcome for draw in range(40)
    ]
    # two expected at 5 %; eight and more with a chance below 1e-3 (and the seeds are fixed)
    assert outcomes.count(Outcome.LEAK) <= 7


def test_a_model_that_was_never_trained_is_neither_flagged_nor_passed(shadows: ShadowModels) -> None:
    outcomes = {audit(mlp(64, (64,), 10, seed=seed), shadows).verdict.outcome for seed in range(20)}
    assert outcomes <= {Outcome.INVALID, Outcome.CANNOT_TELL}
    found = audit(MODEL.module, shadows).verdict
    assert found.outcome is Outcome.INVALID
    assert "no better than guesses" in found.sentence
    silent = FlatModel(MODEL.module)
    silent.load(np.zeros(silent.dimension))
    assert audit(silent.module, shadows).verdict.outcome is Outcome.INVALID


def test_the_loss_alone_gives_no_pass(target: nn.Module) -> None:
    found = audit(target, None)
    assert found.chosen == "loss"
    assert found.shadows == 0
    assert found.verdict.outcome in (Outcome.LEAK, Outcome.CANNOT_TELL)
    noisy = trained(MEMBERS, seed=3, training=replace(TRAINING, clip_norm=1.0, noise=6.0, learning_rate=0.05))
    found = audit(noisy, None)
    assert found.verdict.outcome is Outcome.CANNOT_TELL
    assert "at least 8 shadow models" in found.verdict.sentence
    detectable = found.verdict.figures["detectable_auc"]
    assert detectable is not None
    assert f"{detectable:.3f}" in found.verdict.sentence


def test_few_shadow_models_and_none_of_the_audited(target: nn.Module, shadows: ShadowModels) -> None:
    two = replace(shadows, members=shadows.members[:2], vectors=shadows.vectors[:2])
    found = audit(target, two)
    assert found.chosen == "rmia"
    assert set(found.attacks) == {"loss", "calibrated", "rmia"}
    # shadow models of another half of the data set know nobody who is audited
    elsewhere = digits(seed=0).train.subset(slice(600, 1200))
    others = shadow_models(MODEL, elsewhere, count=8, training=TRAINING, seed=6)
    found = audit(target, others)
    assert found.chosen == "rmia"
    assert set(found.attacks) == {"loss", "calibrated", "rmia", "lira_offline"}
    assert "only offline attacks" in found.warnings[0]
    assert found.auc.value > 0.52


def test_the_target_among_its_shadow_models_is_refused(target: nn.Module, shadows: ShadowModels) -> None:
    vectors = shadows.vectors.copy()
    vectors[3] = FlatModel(target).vector()
    with pytest.raises(ArgumentError, match="whose model 3 is the target"):
        audit(target, replace(shadows, vectors=vectors))
    # a copy of it that answers the same by other means
    wrapped = nn.Sequential(nn.Identity(), copy.deepcopy(target))
    with pytest.raises(ArgumentError, match="whose model 3 is the target"):
        audit(wrapped, replace(shadows, vectors=vectors))


def test_shadow_models_that_give_membership_away_are_refused(target: nn.Module, shadows: ShadowModels) -> None:
    """Of a balanced set without the target itself, members are in fewer models than non-members."""
    rest = replace(shadows, members=shadows.members[1:], vectors=shadows.vectors[1:])
    with pytest.raises(ArgumentError, match="complementary pairs"):
        audit(target, rest, members=shadows.members[0])
    pairs = replace(shadows, members=shadows.members[2:], vectors=shadows.vectors[2:])
    flat = FlatModel(MODEL.module)
    flat.load(shadows.vectors[0].astype(np.float64))
    assert audit(flat.module, pairs, members=shadows.members[0]).verdict.outcome is Outcome.LEAK


def test_a_pool_that_knows_some_of_the_audited_only_is_refused(target: nn.Module, shadows: ShadowModels) -> None:
    strangers = digits(seed=0).test
    with pytest.raises(ArgumentError, match="a pool that has all of them, or none"):
        membership_audit(target, members=POOL.subset(MEMBERS), non_members=strangers, shadows=shadows)
    everywhere = replace(shadows, members=np.ones_like(shadows.members))
    with pytest.raises(ArgumentError, match="without each of them"):
        audit(target, everywhere)


def test_other_distributions_are_invalid_whatever_the_attack_finds(target: nn.Module) -> None:
    blurred = Records(0.8 * POOL.features + 0.1, POOL.labels).subset(~MEMBERS)
    found = membership_audit(target, members=POOL.subset(MEMBERS), non_members=blurred)
    assert found.verdict.outcome is Outcome.INVALID
    assert found.distribution is not None
    assert f"p {found.distribution.p_value:.2g}" in found.verdict.sentence
    assert found.verdict.figures["two_sample_p"] == found.distribution.p_value


def test_the_model_is_asked_as_it_will_be_used_and_left_as_it_is() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.Dropout(0.9), nn.Linear(32, 10))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    module.train()
    first, again = audit(module, None), audit(module, None)
    np.testing.assert_array_equal(first.member_scores, again.member_scores)
    assert module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_records_on_both_sides_are_named(target: nn.Module) -> None:
    found = membership_audit(target, members=POOL.subset(slice(0, 60)), non_members=POOL.subset(slice(50, 200)))
    assert found.warnings == ("10 of 150 non-members are, with the same label, members as well.",)


def test_one_class_forgotten_can_be_audited(target: nn.Module) -> None:
    of_three = POOL.labels.numpy() == 3
    found = membership_audit(
        target, members=POOL.subset(MEMBERS & of_three), non_members=POOL.subset(~MEMBERS & of_three)
    )
    assert found.verdict.outcome in (Outcome.CANNOT_TELL, Outcome.LEAK)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(63, 10)), "cannot take records of shape"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 5)), "a class for each label"),
        (nn.Flatten(0), "expected logits"),
    ],
)
def test_a_model_that_does_not_fit_the_data(module: nn.Module, words: str) -> None:
    with pytest.raises(DataError, match=words):
        audit(module, None)


def test_logits_that_are_not_finite_and_records_that_differ_in_shape(target: nn.Module) -> None:
    class Broken(nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return torch.full((len(features), 10), torch.nan)

    with pytest.raises(ArgumentError, match="finite"):
        audit(Broken(), None)
    flat = Records(POOL.features.flatten(1), POOL.labels)
    with pytest.raises(ArgumentError, match="non_members"):
        membership_audit(target, members=POOL, non_members=flat)
    with pytest.raises(ArgumentError, match="level"):
        membership_audit(target, members=POOL, non_members=POOL, level=0.3)
