"""Sums of second derivatives against automatic differentiation, and their bound for each record and group."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from secure_fu.errors import ArgumentError, DataError
from secure_fu.learning import (
    CurvatureSums,
    FlatModel,
    LinearHead,
    Records,
    mlp,
    symmetric_of,
    triangle_length,
    triangle_of,
)

INPUTS, CLASSES = 4, 3
HEAD = FlatModel(LinearHead(None, inputs=INPUTS, classes=CLASSES, bound=1.3))
DENSE = FlatModel(mlp(INPUTS, (5,), CLASSES, 0))
WIDE = 1e3  # a clip norm that never acts


def records(count=9, seed=1, groups=None):
    draw = np.random.default_rng(seed)
    return Records.from_arrays(draw.normal(size=(count, INPUTS)) * 2.0, draw.integers(0, CLASSES, count), groups)


def weights(model, seed=3, scale=1.0):
    return np.random.default_rng(seed).normal(0.0, scale, model.dimension)


def functional_logits(model, features):
    """The logits of one record as a function of the flat vector, in float64."""
    module = FlatModel(model.module).module.double()

    def logits(flat):
        parts = {layer.name: flat[layer.slice].view(layer.shape) for layer in model.layers}
        return torch.func.functional_call(module, parts, (features.double()[None],))[0]

    return logits


def record_hessian(model, vector, features, label):
    logits = functional_logits(model, features)
    found = torch.autograd.functional.hessian(
        lambda flat: functional.cross_entropy(logits(flat)[None], label[None]), torch.from_numpy(vector)
    )
    return found.numpy()


def record_gauss_newton(model, vector, features):
    logits = functional_logits(model, features)
    flat = torch.from_numpy(vector)
    jacobian = torch.autograd.functional.jacobian(logits, flat).numpy()
    odds = torch.softmax(logits(flat), dim=0).detach().numpy()
    return jacobian.T @ (np.diag(odds) - np.outer(odds, odds)) @ jacobian


def clipped(value, clip_norm):
    norm = np.linalg.norm(value)
    return value * min(1.0, clip_norm / norm) if norm else value


def test_a_triangle_has_the_matrix_norm_and_goes_back():
    draw = np.random.default_rng(0)
    matrix = draw.normal(size=(5, 5))
    matrix = matrix + matrix.T
    triangle = triangle_of(matrix)
    assert triangle.shape == (triangle_length(5),) == (15,)
    assert np.linalg.norm(triangle) == pytest.approx(np.linalg.norm(matrix), rel=1e-14)
    assert np.allclose(symmetric_of(triangle, 5), matrix, atol=1e-14)
    with pytest.raises(ArgumentError, match="triangle"):
        symmetric_of(triangle, 6)


def test_the_sum_of_hessians_is_that_of_automatic_differentiation():
    data, vector = records(), weights(HEAD)
    found = CurvatureSums(HEAD).hessian_sum(vector, data, clip_norm=HEAD.module.hessian_bound)
    expected = sum(record_hessian(HEAD, vector, x, y) for x, y in zip(data.features, data.labels, strict=True))
    assert np.allclose(symmetric_of(found, HEAD.dimension), expected, atol=1e-12)


@pytest.mark.parametrize("clip_norm", [0.05, 0.3])
def test_each_hessian_is_clipped_by_its_frobenius_norm(clip_norm):
    data, vector = records(), weights(HEAD)
    found = CurvatureSums(HEAD).hessian_sum(vector, data, clip_norm=clip_norm)
    own = [record_hessian(HEAD, vector, x, y) for x, y in zip(data.features, data.labels, strict=True)]
    assert any(np.linalg.norm(one) > clip_norm for one in own)
    assert np.allclose(symmetric_of(found, HEAD.dimension), sum(clipped(one, clip_norm) for one in own), atol=1e-12)


def test_products_of_a_head_are_hessian_products():
    data, vector, direction = records(), weights(HEAD), weights(HEAD, seed=8)
    found = CurvatureSums(HEAD).product_sum(vector, direction, data, clip_norm=WIDE)
    # Double backward: the gradient of <gradient, direction>.
    flat = torch.from_numpy(vector).requires_grad_()
    total = sum(
        functional.cross_entropy(functional_logits(HEAD, x)(flat)[None], y[None])
        for x, y in zip(data.features, data.labels, strict=True)
    )
    (gradient,) = torch.autograd.grad(total, flat, create_graph=True)
    (expected,) = torch.autograd.grad(gradient @ torch.from_numpy(direction), flat)
    assert np.allclose(found, expected.numpy(), atol=1e-12)


def test_products_of_other_models_are_gauss_newton_products():
    data, vector, direction = records(), weights(DENSE), weights(DENSE, seed=8)
    found = CurvatureSums(DENSE).product_sum(vector, direction, data, clip_norm=WIDE)
    expected = sum(record_gauss_newton(DENSE, vector, x) @ direction for x in data.features)
    assert np.allclose(found, expected, atol=1e-11)
    # They are not Hessian products here: the difference is what makes them positive semidefinite.
    hessian = sum(record_hessian(DENSE, vector, x, y) for x, y in zip(data.features, data.labels, strict=True))
    assert not np.allclose(found, hessian @ direction, atol=1e-3)


@pytest.mark.parametrize("model", [HEAD, DENSE], ids=["head", "mlp"])
def test_each_product_is_clipped(model):
    data, vector, direction = records(), weights(model), weights(model, seed=8)
    sums = CurvatureSums(model)
    own = [
        sums.product_sum(vector, direction, data.subset(slice(index, index + 1)), clip_norm=WIDE)
        for index in range(len(data))
    ]
    clip_norm = float(np.median([np.linalg.norm(one) for one in own]))
    found = sums.product_sum(vector, direction, data, clip_norm=clip_norm)
    assert np.allclose(found, sum(clipped(one, clip_norm) for one in own), atol=1e-12)


@pytest.mark.parametrize("model", [HEAD, DENSE], ids=["head", "mlp"])
def test_by_group_whole_groups_are_clipped(model):
    names = ["ada", "bob", "ada", "cyd", "bob", "bob", "cyd", "ada", "eve"]
    data, vector, direction = records(groups=names), weights(model), weights(model, seed=8)
    sums, clip_norm = CurvatureSums(model), 0.2
    expected = sum(
        clipped(sums.product_sum(vector, direction, data.subset(data.groups == name), clip_norm=WIDE), clip_norm)
        for name in set(names)
    )
    found = sums.product_sum(vector, direction, data, clip_norm=clip_norm, by_group=True)
    assert np.allclose(found, expected, atol=1e-12)
    assert not np.allclose(found, sums.product_sum(vector, direction, data, clip_norm=clip_norm), atol=1e-3)
    if model is HEAD:
        expected = sum(
            clipped(sums.hessian_sum(vector, data.subset(data.groups == name), clip_norm=WIDE), clip_norm)
            for name in set(names)
        )
        found = sums.hessian_sum(vector, data, clip_norm=clip_norm, by_group=True)
        assert np.allclose(found, expected, atol=1e-12)
    with pytest.raises(DataError, match="no groups"):
        sums.product_sum(vector, direction, records(), clip_norm=1.0, by_group=True)


def test_chunks_change_nothing(monkeypatch):
    data = records()
    whole = CurvatureSums(HEAD).hessian_sum(weights(HEAD), data, clip_norm=0.2)
    product = CurvatureSums(DENSE).product_sum(weights(DENSE), weights(DENSE, seed=8), data, clip_norm=0.2)
    monkeypatch.setattr("secure_fu.learning.curvature._CHUNK_BYTES", 1)
    assert np.allclose(CurvatureSums(HEAD).hessian_sum(weights(HEAD), data, clip_norm=0.2), whole, atol=1e-13)
    found = CurvatureSums(DENSE).product_sum(weights(DENSE), weights(DENSE, seed=8), data, clip_norm=0.2)
    assert np.allclose(found, product, atol=1e-13)


class Explosive(nn.Module):
    """Infinite for some records."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(INPUTS, CLASSES)

    def forward(self, values):
        return self.linear(torch.where(values.abs() > 50.0, values * torch.inf, values))


@pytest.mark.parametrize("head", [True, False], ids=["head", "other"])
def test_what_is_not_finite_counts_as_zero(head):
    model = FlatModel(Explosive())
    if head:
        module = LinearHead(nn.Sequential(nn.Linear(INPUTS, INPUTS), Explosive()), inputs=CLASSES, classes=CLASSES)
        module.features[0].weight.data.copy_(torch.eye(INPUTS))
        module.features[0].bias.data.zero_()
        model = FlatModel(module)
    data = records(groups=list("aabbccddd"))
    data.features[2, 1] = 100.0
    vector, direction = weights(model), weights(model, seed=8)
    sums = CurvatureSums(model)
    kept = np.arange(9) != 2
    found = sums.product_sum(vector, direction, data, clip_norm=1.0)
    assert np.isfinite(found).all()
    assert np.allclose(found, sums.product_sum(vector, direction, data.subset(kept), clip_norm=1.0), atol=1e-14)
    found = sums.product_sum(vector, direction, data, clip_norm=1.0, by_group=True)
    without = data.subset(data.groups != "b")
    assert np.allclose(found, sums.product_sum(vector, direction, without, clip_norm=1.0, by_group=True), atol=1e-14)
    if head:
        found = sums.hessian_sum(vector, data, clip_norm=1.0)
        assert np.allclose(found, sums.hessian_sum(vector, data.subset(kept), clip_norm=1.0), atol=1e-14)


def test_no_records_give_zero():
    none = records().subset(slice(0, 0))
    assert not CurvatureSums(HEAD).hessian_sum(weights(HEAD), none, clip_norm=1.0).any()
    for model in (HEAD, DENSE):
        found = CurvatureSums(model).product_sum(weights(model), weights(model), none, clip_norm=1.0)
        assert found.shape == (model.dimension,)
        assert not found.any()


def test_images_and_dropout_are_followed_and_dropout_is_off():
    torch.manual_seed(0)
    model = FlatModel(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(8, 3)))
    draw = np.random.default_rng(0)
    data = Records.from_arrays(draw.normal(size=(4, 1, 4, 4)), draw.integers(0, 3, 4))
    vector, direction = weights(model), weights(model, seed=8)
    found = CurvatureSums(model).product_sum(vector, direction, data, clip_norm=WIDE)
    assert np.allclose(found, sum(record_gauss_newton(model, vector, x) @ direction for x in data.features), atol=1e-10)


def test_what_cannot_be_is_refused():
    sums = CurvatureSums(DENSE)
    with pytest.raises(ArgumentError, match="LinearHead"):
        sums.hessian_sum(weights(DENSE), records(), clip_norm=1.0)
    with pytest.raises(ArgumentError, match="clip_norm"):
        sums.product_sum(weights(DENSE), weights(DENSE), records(), clip_norm=0.0)
    with pytest.raises(ArgumentError, match="vector"):
        sums.product_sum(weights(DENSE), weights(HEAD), records(), clip_norm=1.0)
    wrong = Records.from_arrays(np.zeros((2, INPUTS + 1)), [0, 1])
    with pytest.raises(ArgumentError, match="float64 features"):
        sums.product_sum(weights(DENSE), weights(DENSE), wrong, clip_norm=1.0)
