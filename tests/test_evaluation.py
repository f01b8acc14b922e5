"""The evaluator measures what its names say, by hand-made models whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from secure_fu.deletion import DeletionRequest
from secure_fu.evaluation import Evaluator
from secure_fu.learning import FlatModel, Records, Trigger
from secure_fu.protocol import ReleasedModel
from secure_fu.scenario import Scenario

CLASSES = 3


def pictures(labels: list[int]) -> Records:
    """2 x 3 pixels: the second row names the class, the first is dark."""
    features = torch.zeros(len(labels), 1, 2, 3)
    for index, label in enumerate(labels):
        features[index, 0, 1, label] = 1.0
    return Records(features, torch.tensor(labels))


def scenario(request: DeletionRequest, *, trigger: Trigger | None = None) -> Scenario:
    test = pictures([0, 1, 2, 0, 1, 2, 0, 1])
    return Scenario(
        module=nn.Sequential(nn.Flatten(), nn.Linear(6, CLASSES)),
        model_name="linear",
        clients={"a": pictures([0, 1, 2, 2]), "b": pictures([1, 1, 0])},
        classes=CLASSES,
        test=test,
        held_out=test if trigger is None else trigger.poison(test),
        trigger=trigger,
        request=request,
        joins={},
        dataset="pictures",
    )


def released(cast: Scenario, weight: torch.Tensor, bias: torch.Tensor) -> ReleasedModel:
    cast.module.load_state_dict({"1.weight": weight, "1.bias": bias})
    return ReleasedModel.public(FlatModel(cast.module).vector())


def reads_the_second_row(cast: Scenario) -> ReleasedModel:
    return released(cast, torch.cat([torch.zeros(3, 3), 4.0 * torch.eye(3)], dim=1), torch.zeros(3))


def obeys_the_first_row(cast: Scenario) -> ReleasedModel:
    weight = torch.cat([torch.zeros(3, 3), torch.eye(3)], dim=1)
    weight[2, :3] = 5.0
    return released(cast, weight, torch.zeros(3))


def always_zero(cast: Scenario) -> ReleasedModel:
    return released(cast, torch.zeros(3, 6), torch.tensor([9.0, 0.0, 0.0]))


def evaluator(cast: Scenario) -> Evaluator:
    return Evaluator(cast, FlatModel(cast.module))


def test_forgotten_and_retained_records_are_told_apart() -> None:
    measured = evaluator(scenario(DeletionRequest.some_records("a", (1, 3))))
    assert measured.forgotten.labels.tolist() == [1, 2]
    assert measured.retained.labels.tolist() == [0, 2, 1, 1, 0]
    assert measured.forgotten_clients == ("a",)


def test_a_perfect_model_is_right_everywhere() -> None:
    cast = scenario(DeletionRequest.whole_client("b"))
    found = evaluator(cast).measure(reads_the_second_row(cast))
    assert (found.test_accuracy, found.retain_accuracy, found.forget_accuracy) == (1.0, 1.0, 1.0)
    assert found.forget_loss == pytest.approx(math.log(1.0 + 2.0 * math.exp(-4.0)), rel=1e-6)
    assert found.backdoor_success is None
    assert found.membership.auc.value == 0.5  # every record has the same loss
    assert found.membership.tpr_at_1pct_fpr is None


def test_accuracies_are_shares_of_their_own_records() -> None:
    cast = scenario(DeletionRequest.whole_client("b"))
    found = evaluator(cast).measure(always_zero(cast))
    assert (found.test_accuracy, found.retain_accuracy, found.forget_accuracy) == (3 / 8, 1 / 4, 1 / 3)
    assert found.forget_loss == pytest.approx(math.log(1.0 + 2.0 * math.exp(-9.0)) + 6.0, rel=1e-6)


def test_backdoor_success_counts_records_of_other_classes_under_the_trigger() -> None:
    trigger = Trigger.top_row((1, 2, 3), target=2)
    cast = scenario(DeletionRequest.whole_client("b"), trigger=trigger)
    measured = evaluator(cast)
    assert measured.measure(obeys_the_first_row(cast)).backdoor_success == 1.0
    assert measured.measure(obeys_the_first_row(cast)).test_accuracy == 1.0
    assert measured.measure(reads_the_second_row(cast)).backdoor_success == 0.0
    assert measured.measure(always_zero(cast)).backdoor_success == 0.0


def test_the_attack_is_on_held_out_records_with_the_trigger() -> None:
    cast = scenario(DeletionRequest.whole_client("b"), trigger=Trigger.top_row((1, 2, 3), target=2))
    found = evaluator(cast).measure(obeys_the_first_row(cast)).membership
    assert len(found.member_scores) == 3
    # logits of a picture of class 2 under the trigger are (0, 0, 16), of another class (1, 0, 15) in some order
    own, other = -math.log1p(2.0 * math.exp(-16.0)), -math.log1p(math.exp(-14.0) + math.exp(-15.0))
    expected = [own if label == 2 else other for label in cast.test.labels.tolist()]
    np.testing.assert_allclose(found.non_member_scores, expected, rtol=1e-6)


def test_quick_figures_are_the_full_ones() -> None:
    cast = scenario(DeletionRequest.whole_client("b"), trigger=Trigger.top_row((1, 2, 3), target=2))
    measured = evaluator(cast)
    for model in (reads_the_second_row(cast), obeys_the_first_row(cast), always_zero(cast)):
        whole = measured.measure(model)
        assert measured.quick(model) == (whole.test_accuracy, whole.backdoor_success)


def test_nobody_left_to_retain_is_null_and_not_nan() -> None:
    cast = scenario(DeletionRequest.whole_client("b"))
    alone = Scenario(**{**vars(cast), "clients": {"b": cast.clients["b"]}})
    found = evaluator(alone).measure(reads_the_second_row(alone))
    assert found.retain_accuracy is None
    assert np.isfinite(found.forget_loss)
