from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from secure_fu.errors import ArgumentError
from secure_fu.learning import (
    FlatModel,
    LocalTraining,
    PerRecordGradients,
    Records,
    accuracy,
    client_update,
    cnn,
    digits,
)


def images(count: int, shape: tuple[int, ...], seed: int = 0) -> Records:
    rng = np.random.default_rng(seed)
    return Records.from_arrays(rng.random((count, *shape)), rng.integers(0, 3, count))


def test_a_cnn_is_convolutions_with_relu_and_a_linear_layer() -> None:
    module = cnn((28, 28), (8, 16), 10, seed=0)
    assert FlatModel(module).dimension == (9 * 8 + 8) + (9 * 8 * 16 + 16) + (16 * 7 * 7 * 10 + 10)
    first, second = (layer for layer in module if type(layer) is nn.Conv2d)
    (last,) = (layer for layer in module if type(layer) is nn.Linear)
    batch = torch.rand(3, 28, 28)
    hidden = nn.functional.conv2d(batch[:, None], first.weight, first.bias, stride=2, padding=1).relu()
    hidden = nn.functional.conv2d(hidden, second.weight, second.bias, stride=2, padding=1).relu()
    torch.testing.assert_close(module(batch), hidden.flatten(1) @ last.weight.T + last.bias)
    torch.testing.assert_close(module(batch[:, None]), module(batch))


@pytest.mark.parametrize("shape", [(1, 1), (5, 8), (1, 9, 7), (3, 6, 6)])
def test_a_cnn_takes_images_of_any_size(shape: tuple[int, ...]) -> None:
    assert cnn(shape, (2, 3, 4), 5, seed=0)(torch.rand(7, *shape)).shape == (7, 5)


def test_initial_values_are_within_their_limits_and_the_seeds_alone() -> None:
    before = torch.random.get_rng_state()
    module, again, other = (cnn((8, 8), (4, 6), 10, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(torch.random.get_rng_state(), before)
    for (name, parameter), same, different in zip(
        module.named_parameters(), again.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(parameter, same)
        assert not torch.equal(parameter, different)
        fan_in = {"2": 9, "4": 9 * 4, "7": 6 * 4}[name.partition(".")[0]]
        largest = float(parameter.detach().abs().max())
        assert largest <= 1 / math.sqrt(fan_in)
        if parameter.dim() > 1:  # of few biases all may be small
            assert largest > 0.9 / math.sqrt(fan_in), "values fill their range"


def test_bad_arguments_of_a_cnn() -> None:
    for shape, channels, classes, seed, name in (
        ((64,), (8,), 10, 0, "shape"),
        ((1, 1, 8, 8), (8,), 10, 0, "shape"),
        ((8, 0), (8,), 10, 0, "shape[1]"),
        ((8, 8), (), 10, 0, "channels"),
        ((8, 8), (8, 0), 10, 0, "channels[1]"),
        ((8, 8), (8,), 1, 0, "classes"),
        ((8, 8), (8,), 10, -1, "seed"),
    ):
        with pytest.raises(ArgumentError) as caught:
            cnn(shape, channels, classes, seed)
        assert caught.value.argument == name


@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8)])
def test_clipped_gradients_of_a_cnn_are_those_of_each_image_alone(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, records = cnn(shape, (2, 3), 3, seed=0), images(7, shape)
    model = FlatModel(module)
    own = module.double()
    rows = []
    for index in range(len(records)):
        one = slice(index, index + 1)
        loss = nn.functional.cross_entropy(own(records.features[one].double()), records.labels[one])
        rows.append(torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(own.parameters()))]))
    norms = [float(row.norm()) for row in rows]
    clip_norm = sorted(norms)[3]  # some are clipped, some are not
    expected = sum(row * min(1.0, clip_norm / norm) for row, norm in zip(rows, norms, strict=True))
    gradients = PerRecordGradients(model)
    for chunk in (2**25, 8 * 2 * 3 * (model.dimension + 64)):  # in one, by threes
        monkeypatch.setattr("secure_fu.learning.per_record._CHUNK_BYTES", chunk)
        found = gradients.clipped_sum(model.vector(), records, clip_norm=clip_norm)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_a_cnn_learns_digits() -> None:
    data = digits(seed=0)
    model = FlatModel(cnn(data.train.shape, (8, 16), 10, seed=0))
    training = LocalTraining(epochs=5, learning_rate=0.2, batch_size=16)
    change = client_update(model, model.vector(), data.train, training=training, clip_norm=1e3, seed=0)
    assert accuracy(model, model.vector() + change, data.test) > 0.9
