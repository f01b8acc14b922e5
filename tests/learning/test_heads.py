"""Linear heads: their bounds hold, are reached, and their features stay what they were."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from secure_fu.errors import ArgumentError
from secure_fu.learning import FlatModel, LinearHead, PerRecordGradients, Records, accuracy, digits

BOUND = 1.7


def head_records(count=20, inputs=4, classes=3, seed=0):
    draw = np.random.default_rng(seed)
    return Records.from_arrays(draw.normal(size=(count, inputs)) * 3.0, draw.integers(0, classes, count))


def derivatives(weights, extended, label):
    """One record's gradient and Hessian by automatic differentiation of the loss written out, float64."""

    def loss(flat):
        return functional.cross_entropy((flat.view(weights.shape) @ extended)[None], torch.tensor([label]))

    flat = weights.reshape(-1).clone()
    return (
        torch.autograd.functional.jacobian(loss, flat).numpy(),
        torch.autograd.functional.hessian(loss, flat).numpy(),
    )


def test_logits_are_those_of_the_features_with_a_one_appended_scaled_down_to_the_bound():
    head = LinearHead(None, inputs=2, classes=2, bound=1.5).double()
    with torch.no_grad():
        head.linear.weight.copy_(torch.tensor([[1.0, 2.0, 3.0], [0.0, -1.0, 4.0]]))
    long, short = torch.tensor([[2.0, 2.0]], dtype=torch.float64), torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    assert head(long).tolist() == [pytest.approx([0.5 * 9.0, 0.5 * 2.0])]  # |(2, 2, 1)| = 3, twice the bound
    assert head(short).tolist() == [pytest.approx([4.5, 3.5])]  # |(.5, .5, 1)| < 1.5 stays


def test_it_starts_at_zero_and_only_the_head_is_trained():
    features = nn.Sequential(nn.Linear(6, 4), nn.ReLU())
    model = FlatModel(LinearHead(features, inputs=4, classes=3))
    assert model.dimension == 15
    assert [layer.name for layer in model.layers] == ["linear.weight"]
    assert not model.vector().any()
    assert all(parameter.requires_grad for parameter in features.parameters())  # the caller's own are as they were


def test_no_record_exceeds_the_bounds_and_some_come_close():
    draw = np.random.default_rng(1)
    head = LinearHead(None, inputs=3, classes=4, bound=BOUND).double()
    gradients, coordinates, hessians, eigenvalues = [], [], [], []
    for scale in (0.1, 1.0, 5.0, 30.0):
        for _ in range(40):
            weights = torch.from_numpy(draw.normal(size=(4, 4)) * scale)
            extended = head.bounded(torch.from_numpy(draw.normal(size=(1, 3)) * 10.0))[0]
            gradient, hessian = derivatives(weights, extended, int(draw.integers(4)))
            gradients.append(np.linalg.norm(gradient))
            coordinates.append(np.abs(gradient).max())
            hessians.append(np.linalg.norm(hessian))
            eigenvalues.append(np.linalg.eigvalsh(hessian).max())
    for found, bound in (
        (gradients, head.gradient_bound),
        (coordinates, head.coordinate_bound),
        (hessians, head.hessian_bound),
        (eigenvalues, head.smoothness),
    ):
        assert 0.8 * bound < max(found) <= bound


def test_two_classes_at_even_odds_reach_the_hessian_bounds():
    head = LinearHead(None, inputs=3, classes=4, bound=BOUND).double()
    extended = head.bounded(torch.full((1, 3), 9.0, dtype=torch.float64))[0]
    weights = torch.zeros(4, 4, dtype=torch.float64)
    weights[:2] = 100.0  # two classes that outweigh the others by far
    _, hessian = derivatives(weights, extended, 0)
    assert np.linalg.norm(hessian) == pytest.approx(head.hessian_bound, rel=1e-8)
    assert np.linalg.eigvalsh(hessian).max() == pytest.approx(head.smoothness, rel=1e-8)
    # A confident mistake reaches the gradient's bound.
    weights[1] = -100.0
    gradient, _ = derivatives(weights, extended, 1)
    assert np.linalg.norm(gradient) == pytest.approx(head.gradient_bound, rel=1e-8)


def test_a_clip_norm_of_the_gradient_bound_never_acts():
    records = head_records(40)
    model = FlatModel(LinearHead(None, inputs=4, classes=3, bound=BOUND))
    vector = np.random.default_rng(2).normal(size=model.dimension) * 50.0  # slopes near their extremes
    sums = [
        PerRecordGradients(model).clipped_sum(vector, records, clip_norm=clip)
        for clip in (model.module.gradient_bound, 1e3)
    ]
    assert np.abs(sums[0] - sums[1]).max() < 1e-10
    tighter = PerRecordGradients(model).clipped_sum(vector, records, clip_norm=0.9 * model.module.gradient_bound)
    assert np.abs(sums[1] - tighter).max() > 0.1


class Warm(nn.Module):
    """Features with everything that changes in training mode, or keeps statistics of batches."""

    def __init__(self):
        super().__init__()
        self.stack = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 5)
        )
        self.norm = nn.BatchNorm1d(5, affine=False)

    def forward(self, images):
        return self.norm(self.stack(images))


def warm():
    torch.manual_seed(0)
    features = Warm()
    for _ in range(5):
        features(torch.randn(32, 1, 8, 8) * 2.0 + 1.0)
    return features


def test_features_compute_in_training_what_they_compute_in_evaluation_mode():
    features = warm()
    before = copy.deepcopy(features.state_dict())
    head = LinearHead(features, inputs=5, classes=3)
    images = torch.randn(7, 1, 8, 8)
    expected = copy.deepcopy(features).eval()(images).detach()
    for mode in (True, False):
        assert torch.allclose(head.train(mode).features(images), expected, atol=1e-5)
    assert not torch.allclose(features.train()(images), expected, atol=1e-2)  # in training mode they are others
    after = features.state_dict()
    running = [name for name in before if "running" in name or "batches" in name]
    assert running
    assert all(torch.equal(before[name], after[name]) for name in before if name not in running)


def test_gradients_on_frozen_features_are_the_closed_form():
    head = LinearHead(warm(), inputs=5, classes=3, bound=BOUND)
    model = FlatModel(head)
    draw = np.random.default_rng(4)
    records = Records.from_arrays(draw.normal(size=(6, 1, 8, 8)), draw.integers(0, 3, 6))
    vector = draw.normal(size=model.dimension)
    found = PerRecordGradients(model).clipped_sum(vector, records, clip_norm=head.gradient_bound)
    extended = copy.deepcopy(head).double().bounded(records.features.double()).numpy()
    scores = extended @ vector.reshape(3, 6).T
    odds = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    odds[np.arange(6), records.labels.numpy()] -= 1.0
    assert np.allclose(found, (odds.T @ extended).reshape(-1), atol=1e-12)


def test_normalisation_by_the_batch_is_refused_by_the_flat_model():
    head = LinearHead(nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False)), inputs=4, classes=3)
    with pytest.raises(ArgumentError, match="BatchNorm1d"):
        FlatModel(head)


class Explosive(nn.Module):
    def forward(self, values):
        return torch.where(values > 5.0, torch.full_like(values, math.inf), values)


def test_a_record_with_features_that_are_not_finite_counts_as_zero():
    model = FlatModel(LinearHead(Explosive(), inputs=4, classes=3))
    features = np.random.default_rng(5).normal(size=(5, 4))
    features[2, 1] = 9.0
    records = Records.from_arrays(features, [0, 1, 2, 0, 1])
    vector = np.ones(model.dimension)
    found = PerRecordGradients(model).clipped_sum(vector, records, clip_norm=2.0)
    without = PerRecordGradients(model).clipped_sum(vector, records.subset(np.array([0, 1, 3, 4])), clip_norm=2.0)
    assert np.array_equal(found, without)
    assert np.isfinite(found).all()


def test_a_head_learns():
    data = digits(seed=0)
    model = FlatModel(LinearHead(None, inputs=64, classes=10, bound=2.0))
    gradients, vector = PerRecordGradients(model), model.vector()
    for _ in range(40):
        vector -= 4.0 * gradients.clipped_sum(vector, data.train, clip_norm=10.0) / len(data.train)
    assert accuracy(model, vector, data.test) > 0.85


@pytest.mark.parametrize(
    ("argument", "changed"),
    [
        ("inputs", {"inputs": 0}),
        ("classes", {"classes": 1}),
        ("bound", {"bound": 0.0}),
        ("bound", {"bound": math.nan}),
        ("bound", {"bound": math.inf}),
    ],
)
def test_arguments_outside_their_domain_are_refused(argument, changed):
    with pytest.raises(ArgumentError) as error:
        LinearHead(None, **({"inputs": 3, "classes": 2} | changed))
    assert error.value.argument == argument


def test_features_of_another_width_are_refused():
    with pytest.raises(ArgumentError, match="the 4 features"):
        LinearHead(None, inputs=3, classes=2)(torch.zeros(2, 4))
