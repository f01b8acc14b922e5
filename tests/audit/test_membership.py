"""The membership audit finds what is there, and nothing where there is nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from secure_fu.audit import MembershipAudit, membership_audit
from secure_fu.errors import ArgumentError
from secure_fu.learning import FlatModel, Records, digits, logistic


def noise(count: int, generator: np.random.Generator) -> Records:
    """Labels that nothing in the features tells: to know them is to have seen them."""
    return Records.from_arrays(generator.normal(size=(count, 20)), generator.integers(0, 2, size=count))


def overfitted(records: Records) -> FlatModel:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 2))
    optimiser = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(200):
        optimiser.zero_grad()
        nn.functional.cross_entropy(module(records.features), records.labels).backward()
        optimiser.step()
    return FlatModel(module)


@pytest.fixture(scope="module")
def parted() -> tuple[FlatModel, Records, Records]:
    generator = np.random.default_rng(1)
    members, others = noise(80, generator), noise(2000, generator)
    return overfitted(members), members, others


def audit(model: FlatModel, members: Records, others: Records) -> MembershipAudit:
    return membership_audit(model.module, members=members, non_members=others)


def test_a_model_that_learned_by_heart_is_found_out(parted: tuple[FlatModel, Records, Records]) -> None:
    found = audit(*parted)
    assert found.auc.low > 0.7
    assert found.tpr_at_1pct_fpr is not None
    assert found.auc.low <= found.auc.value <= found.auc.high <= 1.0


def test_it_agrees_with_scikit_learn(parted: tuple[FlatModel, Records, Records]) -> None:
    model, members, others = parted
    found = audit(model, members, others)
    truth = np.repeat([1, 0], [len(members), len(others)])
    scores = np.concatenate([found.member_scores, found.non_member_scores])
    assert found.auc.value == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    assert np.trapezoid(found.roc.true_positive_rates, found.roc.false_positive_rates) == pytest.approx(
        found.auc.value, abs=5e-3
    )
    # swapped sides: the attack does as badly as it did well
    swapped = audit(model, others, members)
    assert swapped.auc.value == pytest.approx(1.0 - found.auc.value, abs=1e-12)


def test_scores_are_minus_the_loss(parted: tuple[FlatModel, Records, Records]) -> None:
    model, members, others = parted
    found = audit(model, members, others)
    logits = model.module(others.features)
    loss = nn.functional.cross_entropy(logits.double(), others.labels, reduction="none")
    np.testing.assert_allclose(found.non_member_scores, -loss.detach().numpy(), rtol=1e-4, atol=1e-5)
    assert found.member_scores.shape == (len(members),)


def test_on_untouched_data_the_interval_covers_chance() -> None:
    """300 draws: a 95 % interval misses 15 times on average, and over 27 times with a chance below 0.2 %."""
    generator = np.random.default_rng(7)
    model = logistic(20, 2, seed=3)
    flat = FlatModel(model)
    found = [audit(flat, noise(60, generator), noise(150, generator)).auc for _ in range(300)]
    misses = sum(not interval.low <= 0.5 <= interval.high for interval in found)
    assert misses <= 27
    # and it is no wider than it has to be: it does miss
    assert misses >= 3
    assert float(np.mean([interval.value for interval in found])) == pytest.approx(0.5, abs=0.01)


def test_every_parameter_counts() -> None:
    data = digits(seed=0)
    model = FlatModel(logistic(64, 10, seed=0))
    assert membership_audit(model.module, members=data.train, non_members=data.test).auc.value != 0.5
    model.load(np.zeros(model.dimension))
    # with all logits equal, every record has the same loss: no information
    assert membership_audit(model.module, members=data.train, non_members=data.test).auc.value == 0.5


@pytest.mark.parametrize(("count", "stated"), [(50, False), (999, False), (1000, True)])
def test_a_rate_at_one_percent_needs_records(count: int, stated: bool) -> None:
    generator = np.random.default_rng(0)
    found = audit(FlatModel(logistic(20, 2, seed=3)), noise(50, generator), noise(count, generator))
    assert (found.tpr_at_1pct_fpr is not None) is stated


@pytest.mark.parametrize("empty", ["members", "non_members"])
def test_nobody_to_attack_is_refused(empty: str) -> None:
    records = noise(10, np.random.default_rng(0))
    sides = {"members": records, "non_members": records, empty: records.subset(slice(0, 0))}
    model = FlatModel(logistic(20, 2, seed=3))
    with pytest.raises(ArgumentError, match="expected at least one record") as caught:
        membership_audit(model.module, **sides)
    assert caught.value.argument == empty


def test_one_record_on_each_side_says_nothing() -> None:
    generator = np.random.default_rng(0)
    found = audit(FlatModel(logistic(20, 2, seed=3)), noise(1, generator), noise(1, generator))
    assert (found.auc.low, found.auc.high) == pytest.approx((0.0, 1.0), abs=0.03)
    assert found.tpr_at_1pct_fpr is None
