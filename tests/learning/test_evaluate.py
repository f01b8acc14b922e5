from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from secure_fu.errors import ArgumentError, DataError
from secure_fu.learning import (
    FlatModel,
    Records,
    accuracy,
    evaluate,
    logits,
    mean_loss,
    mlp,
    module_accuracy,
    predictions,
    record_losses,
)


def make_records(count: int) -> Records:
    rng = np.random.default_rng(0)
    return Records.from_arrays(rng.standard_normal((count, 6)), rng.integers(0, 3, count))


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_measures_are_those_of_the_formula(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "_BATCH", batch)
    model, records = FlatModel(mlp(6, (5,), 3, seed=0)), make_records(23)
    vector = np.random.default_rng(1).standard_normal(model.dimension)
    w1, b1, w2, b2 = (t.double().numpy() for t in model.tensors(vector).values())
    scores = np.maximum(records.features.double().numpy() @ w1.T + b1, 0.0) @ w2.T + b2
    labels = records.labels.numpy()
    losses = np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(23), labels]
    np.testing.assert_allclose(logits(model, vector, records), scores, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(record_losses(model, vector, records), losses, rtol=1e-4, atol=1e-4)
    assert mean_loss(model, vector, records) == pytest.approx(losses.mean(), rel=1e-4)
    np.testing.assert_array_equal(predictions(model, vector, records), scores.argmax(axis=1))
    assert accuracy(model, vector, records) == np.mean(scores.argmax(axis=1) == labels)


def test_evaluation_mode_without_gradients() -> None:
    model = FlatModel(nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 3)))
    records, vector = make_records(9), np.random.default_rng(0).standard_normal(21)
    model.module.train()
    first = logits(model, vector, records)
    np.testing.assert_array_equal(first, logits(model, vector, records))
    assert all(parameter.grad is None for parameter in model.module.parameters())


def test_wrong_input() -> None:
    model = FlatModel(mlp(6, (), 3, seed=0))
    with pytest.raises(DataError, match="no records"):
        accuracy(model, model.vector(), make_records(4).subset(slice(0, 0)))
    with pytest.raises(ArgumentError, match="vector"):
        accuracy(model, np.zeros(3), make_records(4))
    beyond = Records(torch.ones(2, 6), torch.tensor([0, 3]))
    with pytest.raises(ArgumentError, match="labels"):
        mean_loss(model, model.vector(), beyond)


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_a_module_is_as_right_as_its_vector(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "_BATCH", batch)
    model, records = FlatModel(mlp(6, (5,), 3, seed=0)), make_records(40)
    for seed in range(3):
        vector = np.random.default_rng(seed).standard_normal(model.dimension)
        model.load(vector)
        found = module_accuracy(model.module, records)
        assert (
            found
            == accuracy(model, vector, records)
            == np.mean(predictions(model, vector, records) == records.labels.numpy())
        )


def test_a_module_that_was_trained_elsewhere_is_left_as_it_is() -> None:
    """Dropout and batch statistics as in evaluation; double precision; no parameter at all."""
    records = make_records(50)
    module = nn.Sequential(nn.BatchNorm1d(6), nn.Dropout(0.9), nn.Linear(6, 3)).double().train()
    first = module_accuracy(module, records)
    assert module.training
    assert float(module[0].running_mean.abs().sum()) == 0.0
    weight, bias = (part.detach().numpy() for part in module[2].parameters())
    scores = records.features.double().numpy() / np.sqrt(1.0 + 1e-5) @ weight.T + bias
    assert first == module_accuracy(module, records) == np.mean(scores.argmax(axis=1) == records.labels.numpy())
    chosen = nn.Flatten()(records.features)[:, :3].argmax(dim=1)
    assert module_accuracy(Chooser(), Records(records.features, chosen)) == 1.0
    with pytest.raises(DataError, match="no records"):
        module_accuracy(module, records.subset(slice(0, 0)))


class Chooser(nn.Module):
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features[:, :3]
