from __future__ import annotations

import logging
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from secure_fu.errors import ArgumentError, DataError
from secure_fu.learning import (
    FlatModel,
    LocalTraining,
    Records,
    client_update,
    cnn,
    logistic,
    mlp,
    stacked_client_updates,
)

ONE_STEP = LocalTraining(epochs=1, learning_rate=0.5)


def make_records(count: int, seed: int = 0, scale: float = 1.0) -> Records:
    rng = np.random.default_rng(seed)
    return Records.from_arrays(scale * rng.standard_normal((count, 1, 4, 4)), rng.integers(0, 3, count))


def conv() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)).double()


def by_hand(module: nn.Module, records: Records, steps: int, rate: float) -> NDArray[np.float64]:
    """The oracle: full-batch torch.optim.SGD on a copy."""
    model = FlatModel(module)
    before = model.vector()
    own = model.module.train()
    optimiser = torch.optim.SGD(own.parameters(), lr=rate)
    features = records.features.to(next(own.parameters()).dtype)
    for _ in range(steps):
        optimiser.zero_grad()
        nn.functional.cross_entropy(own(features), records.labels).backward()
        optimiser.step()
    return model.vector() - before


def test_update_is_that_of_plain_sgd() -> None:
    module = mlp(16, (5,), 3, seed=0).double()
    records, model = make_records(11), FlatModel(module)
    training = LocalTraining(epochs=3, learning_rate=0.5)
    found = client_update(model, model.vector(), records, training=training, clip_norm=1e6, seed=0)
    np.testing.assert_allclose(found, by_hand(module, records, 3, 0.5), rtol=1e-10, atol=1e-12)


def test_batches_cover_every_record_once_an_epoch() -> None:
    # With a loss whose gradient is the features themselves, one epoch's change is -rate * the sum of batch means.
    model = FlatModel(logistic(16, 3, seed=0).double())
    records = make_records(7)

    def linear(logits: Tensor, labels: Tensor) -> Tensor:
        return logits[:, 0]

    training = LocalTraining(epochs=2, learning_rate=1.0, batch_size=1)
    found = client_update(model, model.vector(), records, training=training, clip_norm=1e6, seed=3, loss=linear)
    expected = -2.0 * records.features.double().flatten(1).sum(dim=0).numpy()
    np.testing.assert_allclose(found[:16], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "module", [logistic(16, 3, seed=1), mlp(16, (6,), 3, seed=1), conv(), cnn((4, 4), (2, 3), 3, seed=1)]
)
@pytest.mark.parametrize("batch_size", [None, 1, 4])
def test_stack_is_the_loop(module: nn.Module, batch_size: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    model = FlatModel(module)
    records = [make_records(count, seed=count) for count in (9, 1, 4, 12, 5)]
    training = LocalTraining(epochs=2, learning_rate=0.3, batch_size=batch_size)
    seeds = [3, 1, 4, 1, 5]
    loop = [
        client_update(model, model.vector(), own, training=training, clip_norm=0.4, seed=seed)
        for own, seed in zip(records, seeds, strict=True)
    ]
    before = model.vector()
    tolerance = 1e-12 if next(module.parameters()).dtype == torch.float64 else 2e-6
    for chunk in (2**28, 6000, 1):  # all in one, a few at once, each alone
        monkeypatch.setattr("secure_fu.learning.per_client._CHUNK_BYTES", chunk)
        stack = stacked_client_updates(model, before, records, training=training, clip_norm=0.4, seeds=seeds)
        assert stack.dtype == np.float64
        np.testing.assert_allclose(stack, loop, rtol=0, atol=tolerance)
    np.testing.assert_array_equal(model.vector(), before)


@settings(max_examples=40, deadline=None)
@given(
    scale=st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 1e10, 1e20]),
    rate=st.sampled_from([1e-12, 0.1, 1e6]),
    clip_norm=st.sampled_from([1e-100, 1e-6, 1.0, 2.3]),
    seed=st.integers(0, 2**32 - 1),
)
def test_updates_never_exceed_the_clip_norm(scale: float, rate: float, clip_norm: float, seed: int) -> None:
    model = FlatModel(mlp(16, (4,), 3, seed=0))
    records = [make_records(5, seed=seed, scale=scale), make_records(3, seed=seed)]
    training = LocalTraining(epochs=2, learning_rate=rate)
    rows = stacked_client_updates(
        model, model.vector(), records, training=training, clip_norm=clip_norm, seeds=[seed, seed]
    )
    for row in rows:
        assert math.fsum(float(value) ** 2 for value in row / clip_norm) <= 1.0


def test_the_clip_norm_is_reached() -> None:
    model = FlatModel(logistic(16, 3, seed=0))
    found = client_update(model, model.vector(), make_records(5), training=ONE_STEP, clip_norm=1e-3, seed=0)
    assert np.linalg.norm(found) == pytest.approx(1e-3, rel=1e-9)


WILD = LocalTraining(epochs=30, learning_rate=1e30)


def test_training_that_diverges_counts_as_zero_alone_and_in_the_stack(caplog: pytest.LogCaptureFixture) -> None:
    model = FlatModel(logistic(16, 3, seed=0))
    off, zero = make_records(2, scale=1e10), Records(torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64))
    start = np.zeros(model.dimension)
    start[0] = 1.0

    def product(logits: Tensor, labels: Tensor) -> Tensor:
        return logits.square().sum(dim=1) + 1e-30 * logits[:, 1]  # runaway, but for features of zero

    def alone(records: Records) -> NDArray[np.float64]:
        return client_update(model, start, records, training=WILD, clip_norm=1.0, seed=0, loss=product)

    tame = LocalTraining(epochs=1, learning_rate=1e30)
    still = client_update(model, start, zero, training=tame, clip_norm=1.0, seed=0, loss=product)
    assert not caplog.records
    assert still.any()
    found = alone(off)
    assert found.shape == (model.dimension,)
    assert not found.any()
    caplog.clear()
    rows = stacked_client_updates(
        model, start, [off, zero, off], training=tame, clip_norm=1.0, seeds=[0, 0, 0], loss=lambda a, b: product(a, b)
    )
    np.testing.assert_array_equal(rows[1], still)
    caplog.clear()
    rows = stacked_client_updates(
        model, start, [off, zero, off], training=WILD, clip_norm=1.0, seeds=[0, 0, 0], loss=product
    )
    np.testing.assert_array_equal(rows, [alone(off), alone(zero), alone(off)])
    assert not rows[::2].any()
    assert {record[:2] for record in caplog.record_tuples} == {("secure_fu", logging.WARNING)}
    assert caplog.messages[0] == "some updates are not finite and count as zero"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_model_near_the_largest_float_is_bounded_alone_and_in_the_stack(dtype: torch.dtype) -> None:
    model = FlatModel(mlp(16, (4,), 3, seed=0).to(dtype))
    start = np.full(model.dimension, float(np.float32(3e38)))
    records = [make_records(5, seed=seed, scale=10.0**seed) for seed in range(4)]
    for rate in (1e-3, 1e30, 1e300):
        training = LocalTraining(epochs=2, learning_rate=rate, batch_size=2)
        loop = [client_update(model, start, own, training=training, clip_norm=1.0, seed=0) for own in records]
        rows = stacked_client_updates(model, start, records, training=training, clip_norm=1.0, seeds=[0] * 4)
        np.testing.assert_allclose(rows, loop, rtol=0, atol=1e-5)
        assert all(math.fsum(float(value) ** 2 for value in row) <= 1.0 for row in [*rows, *loop])


def test_a_client_that_is_through_keeps_its_update_while_others_train_on() -> None:
    # After its one step its parameters are finite, but a further forward pass would overflow: 0 * inf for a gradient.
    model = FlatModel(nn.Linear(2, 2, bias=False))
    large = Records.from_arrays([[1e19, 0.0]], [0])
    longer = Records.from_arrays(np.ones((3, 2)), [0, 1, 0])
    training = LocalTraining(epochs=1, learning_rate=4e18, batch_size=1)
    start = np.zeros(model.dimension)
    alone = client_update(model, start, large, training=training, clip_norm=1.0, seed=0)
    assert np.linalg.norm(alone) == pytest.approx(1.0, rel=1e-9)
    again = LocalTraining(epochs=2, learning_rate=4e18, batch_size=1)
    assert not client_update(model, start, large, training=again, clip_norm=1.0, seed=0).any()
    rows = stacked_client_updates(model, start, [large, longer], training=training, clip_norm=1.0, seeds=[0, 0])
    np.testing.assert_allclose(rows[0], alone, rtol=0, atol=1e-7)


def test_a_record_outside_the_batch_has_no_part_in_its_step() -> None:
    # The second step is on a record that the large first one has left alone; padding with that one would overflow.
    model = FlatModel(nn.Linear(2, 2, bias=False))
    own = Records.from_arrays([[1e19, 0.0], [0.0, 1.0], [0.0, 1.0]], [0, 1, 0])
    even = Records.from_arrays(np.ones((4, 2)), [0, 1, 0, 1])
    training = LocalTraining(epochs=1, learning_rate=4e18, batch_size=2)
    start = np.zeros(model.dimension)
    orders = {seed: np.random.default_rng(seed).permutation(3) for seed in range(9)}
    seed = next(seed for seed, order in orders.items() if order[-1] != 0)
    alone = client_update(model, start, own, training=training, clip_norm=1.0, seed=seed)
    assert alone.any()
    rows = stacked_client_updates(model, start, [own, even], training=training, clip_norm=1.0, seeds=[seed, 0])
    np.testing.assert_allclose(rows[0], alone, rtol=0, atol=1e-7)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(x.flatten(1))
        return out if float(out.sum()) > 0 else -out


def test_modules_that_cannot_be_stacked_say_so() -> None:
    model = FlatModel(Branching())
    with pytest.raises(ArgumentError, match=r"torch\.vmap can stack"):
        stacked_client_updates(model, model.vector(), [make_records(2)], training=ONE_STEP, clip_norm=1.0, seeds=[0])


def test_bad_arguments() -> None:
    model = FlatModel(logistic(16, 3, seed=0))
    vector, records = model.vector(), make_records(4)
    empty = records.subset(np.zeros(4, dtype=np.bool_))
    with pytest.raises(DataError, match="no records"):
        client_update(model, vector, empty, training=ONE_STEP, clip_norm=1.0, seed=0)
    with pytest.raises(DataError, match="no records"):
        stacked_client_updates(model, vector, [records, empty], training=ONE_STEP, clip_norm=1.0, seeds=[0, 0])
    with pytest.raises(ArgumentError, match="seeds"):
        stacked_client_updates(model, vector, [records], training=ONE_STEP, clip_norm=1.0, seeds=[])
    with pytest.raises(ArgumentError, match="clip_norm"):
        client_update(model, vector, records, training=ONE_STEP, clip_norm=0.0, seed=0)
    with pytest.raises(ArgumentError, match="seed"):
        client_update(model, vector, records, training=ONE_STEP, clip_norm=1.0, seed=-1)
    assert stacked_client_updates(model, vector, [], training=ONE_STEP, clip_norm=1.0, seeds=[]).shape == (0, 51)
    for arguments in (
        {"epochs": 0, "learning_rate": 1.0},
        {"epochs": 1, "learning_rate": float("nan")},
        {"epochs": 1, "learning_rate": 1.0, "batch_size": 0},
    ):
        with pytest.raises(ArgumentError):
            LocalTraining(**arguments)


@pytest.mark.parametrize("module", [mlp(16, (8,), 3, seed=4), cnn((4, 4), (3, 5), 3, seed=4)])
def test_a_client_whose_training_overflows_does_not_touch_its_neighbours(module: nn.Module) -> None:
    # The convolutions of all clients are one grouped convolution: 0 * inf in it would reach the others as NaN.
    model = FlatModel(module)
    own = [make_records(count, seed=seed) for seed, count in enumerate((6, 5, 6, 5, 6, 5))]
    broken = own[0].features.clone()
    broken[0] = 3.4e38
    training = LocalTraining(epochs=1, learning_rate=0.1, batch_size=4)
    seeds = list(range(len(own)))
    vector = 10.0 * model.vector()  # so that the first layer overflows
    whole = stacked_client_updates(model, vector, own, training=training, clip_norm=1.0, seeds=seeds)
    own[0] = Records(broken, own[0].labels)
    found = stacked_client_updates(model, vector, own, training=training, clip_norm=1.0, seeds=seeds)
    np.testing.assert_array_equal(found[1:], whole[1:])
    assert not found[0].any()


def test_rows_come_back_in_the_order_of_the_clients() -> None:
    # Inside, clients are sorted by size; here no two have the same change.
    model = FlatModel(logistic(16, 3, seed=0))
    records = [make_records(count, seed=count) for count in (2, 9, 1, 7, 3, 8)]
    rows = stacked_client_updates(
        model, model.vector(), records, training=ONE_STEP, clip_norm=5.0, seeds=[0] * len(records)
    )
    for own, row in zip(records, rows, strict=True):
        alone = client_update(model, model.vector(), own, training=ONE_STEP, clip_norm=5.0, seed=0)
        np.testing.assert_allclose(row, alone, rtol=0, atol=1e-6)
    assert min(np.abs(rows[i] - rows[j]).max() for i in range(6) for j in range(i)) > 1e-3


def test_another_loss_trains_the_stack_as_it_does_the_loop() -> None:
    def hinge(logits: Tensor, labels: Tensor) -> Tensor:
        right = logits.gather(1, labels[:, None])
        return (1.0 + logits - right).clamp(min=0.0).sum(dim=1)

    model = FlatModel(cnn((4, 4), (2,), 3, seed=0).double())
    records = [make_records(count, seed=count) for count in (5, 3)]
    training = LocalTraining(epochs=2, learning_rate=0.1, batch_size=2)
    rows = stacked_client_updates(
        model, model.vector(), records, training=training, clip_norm=9.0, seeds=[1, 2], loss=hinge
    )
    for own, seed, row in zip(records, (1, 2), rows, strict=True):
        alone = client_update(model, model.vector(), own, training=training, clip_norm=9.0, seed=seed, loss=hinge)
        np.testing.assert_allclose(row, alone, rtol=0, atol=1e-12)
