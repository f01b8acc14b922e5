"""Stacked training against a slow loop over single models in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from secure_fu.errors import ArgumentError, DataError, NonFiniteError
from secure_fu.learning import (
    FlatModel,
    PerRecordGradients,
    Records,
    StackedTraining,
    accuracy,
    cnn,
    cross_entropy,
    digits,
    logistic,
    logits,
    mlp,
    stacked,
    stacked_logits,
    train_stacked,
)
from secure_fu.learning._stacked_batches import stacked_batches, stream
from secure_fu.learning._stacked_linear import StackedLinear
from secure_fu.learning._stacked_modules import StackedModules

POOL = digits(seed=0).train.subset(slice(0, 60))
SEEDS = [5, 2**100, 0]
MEMBERS = np.random.default_rng(1).random((3, 60)) < [[0.5], [0.5], [0.1]]
TRAINING = StackedTraining(
    steps=8,
    sampling_rate=0.3,
    learning_rate=0.2,
    momentum=0.9,
    weight_decay=0.01,
    divisor=9.0,
    clip_norm=0.6,
    noise=0.3,
)
PLAIN = replace(TRAINING, clip_norm=None, noise=0.0)


def tanh_net() -> nn.Module:
    again = nn.Tanh()
    inner = nn.Sequential(nn.Linear(64, 12, bias=False), again, nn.Identity(), nn.Linear(12, 9))
    return nn.Sequential(nn.Flatten(), inner, again, nn.Linear(9, 10))


def normed() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 10))


def frozen() -> nn.Module:
    module = mlp(64, [12], 10, seed=3)
    module[1].weight.requires_grad_(False)
    return module


class Shared(nn.Module):
    """One layer that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.tanh(self.inner(torch.tanh(self.inner(x.flatten(1))))))
        return out


def repeated() -> nn.Module:
    inner = nn.Linear(64, 64)
    return nn.Sequential(nn.Flatten(), inner, inner, nn.ReLU(inplace=True), nn.Linear(64, 10))


class Overflow(nn.Module):
    """Makes infinities of large numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 1e30, torch.inf, x)


MODULES: dict[str, tuple[Callable[[], nn.Module], type]] = {
    "mlp": (lambda: mlp(64, [16, 12], 10, seed=3), StackedLinear),
    "logistic": (lambda: logistic(64, 10, seed=3), StackedLinear),
    "tanh": (tanh_net, StackedLinear),
    "cnn": (lambda: cnn((8, 8), (3, 4), 10, seed=3), StackedModules),
    "normed": (normed, StackedModules),
    "frozen": (frozen, StackedModules),
    "shared": (Shared, StackedModules),
    "repeated": (repeated, StackedModules),
    "overflow": (lambda: nn.Sequential(Overflow(), mlp(64, [12], 10, seed=3)), StackedModules),
    "double": (lambda: mlp(64, [16], 10, seed=3).double(), StackedLinear),
    "double cnn": (lambda: cnn((8, 8), (3,), 10, seed=3).double(), StackedModules),
}


def flat_model(name: str) -> FlatModel:
    torch.manual_seed(4)
    return FlatModel(MODULES[name][0]())


def gradient(model: FlatModel, vector: NDArray[np.float64], batch: Records) -> NDArray[np.float64]:
    """Of the sum of losses, by automatic differentiation in float64."""
    module = FlatModel(model.module)
    module.module.double()
    tensors = {name: tensor.clone().requires_grad_() for name, tensor in module.tensors(vector).items()}
    loss = cross_entropy(module.logits(tensors, batch.features.double(), training=True), batch.labels).sum()
    parts = torch.autograd.grad(loss, list(tensors.values()), allow_unused=True, materialize_grads=True)
    return module.flatten(dict(zip(tensors, parts, strict=True)))


def slow_loop(
    model: FlatModel,
    training: StackedTraining,
    start: NDArray[np.float64],
    *,
    joined: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """The same samples and noise; gradients by what clients of a federation use; the server's step, written again."""
    gradients = PerRecordGradients(model)
    vectors = np.array(np.broadcast_to(start, (len(SEEDS), model.dimension)))
    for seed, members, vector in zip(SEEDS, MEMBERS, vectors, strict=True):
        velocity = np.zeros(model.dimension)
        noise = stream(seed, 1)
        batches = stacked_batches(
            members[None], [stream(seed, 0)], rate=training.sampling_rate, steps=training.steps, joined=joined
        )
        for batch in batches:
            own = POOL.subset(batch.index[batch.present].numpy())
            if training.clip_norm is None:
                total = gradient(model, vector, own)
            else:
                total = gradients.clipped_sum(vector, own, clip_norm=training.clip_norm)
            if training.noise:
                total = total + training.noise * noise.standard_normal(model.dimension, dtype=np.float32)
            velocity = training.momentum * velocity + total / training.divisor + training.weight_decay * vector
            vector -= training.learning_rate * velocity
    return vectors


def apart(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    return float(np.abs(first - second).max())


@pytest.mark.parametrize("training", [TRAINING, PLAIN], ids=["clipped", "plain"])
@pytest.mark.parametrize("name", MODULES)
def test_equals_the_slow_loop(name: str, training: StackedTraining) -> None:
    model = flat_model(name)
    assert isinstance(stacked._rule(model, POOL), MODULES[name][1])
    start = model.vector() + 0.01 * np.random.default_rng(0).standard_normal((3, model.dimension))
    found = train_stacked(model, POOL, MEMBERS, training=training, start=start, seeds=SEEDS)
    assert found.dtype == np.float32
    assert apart(found, start) > 0.1
    assert apart(found, slow_loop(model, training, start)) < 2e-5


def test_joining_later_equals_the_slow_loop() -> None:
    model = flat_model("mlp")
    joined = np.arange(60) // 10
    found = train_stacked(model, POOL, MEMBERS, training=TRAINING, start=model.vector(), seeds=SEEDS, joined=joined)
    assert apart(found, slow_loop(model, TRAINING, model.vector(), joined=joined)) < 2e-5
    assert apart(found, slow_loop(model, TRAINING, model.vector())) > 1e-2


@pytest.mark.parametrize(
    "change",
    [
        {"clip_norm": 0.63},
        {"clip_norm": None},
        {"noise": 0.33},
        {"noise": 0.0},
        {"momentum": 0.88},
        {"weight_decay": 0.0},
        {"divisor": 9.5},
        {"learning_rate": 0.21},
        {"steps": 7},
    ],
    ids=str,
)
def test_a_training_with_any_other_setting_is_told_apart(change: dict[str, float | None]) -> None:
    model = flat_model("mlp")
    found = train_stacked(model, POOL, MEMBERS, training=TRAINING, start=model.vector(), seeds=SEEDS)
    assert apart(found, slow_loop(model, replace(TRAINING, **change), model.vector())) > 2e-4


@pytest.mark.parametrize("training", [TRAINING, PLAIN], ids=["clipped", "plain"])
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_a_model_is_a_function_of_its_own_members(name: str, training: StackedTraining) -> None:
    model = flat_model(name)

    def trained(features: Tensor, members: NDArray[np.bool_] = MEMBERS) -> NDArray[np.float32]:
        pool = Records(features, POOL.labels)
        return train_stacked(model, pool, members, training=training, start=model.vector(), seeds=SEEDS)

    expected = trained(POOL.features)
    for value in (0.0, 1e20, 3e38):
        features = POOL.features.clone()
        features[torch.from_numpy(~MEMBERS[0])] = value
        try:
            found = trained(features)[0]
        except NonFiniteError:  # the other two, which have some of these records as members
            others_alone = MEMBERS & MEMBERS[0]
            assert (trained(features, others_alone) == trained(POOL.features, others_alone)).all()
        else:
            assert (found == expected[0]).all()
    features = POOL.features.clone()
    features[np.flatnonzero(MEMBERS[0])[0]] = 0.0
    moved = trained(features)
    assert (moved[0] != expected[0]).any()


@pytest.mark.parametrize("name", ["mlp", "tanh", "overflow"])
def test_a_gradient_that_is_not_finite_counts_as_zero_under_a_clip_norm(name: str) -> None:
    model = flat_model(name)
    features = POOL.features.clone()
    features[7] = 3e38
    pool = Records(features, POOL.labels)
    everybody = np.ones((1, 60), dtype=np.bool_)
    without = everybody.copy()
    without[0, 7] = False
    how = {"start": model.vector(), "seeds": [1]}
    found = train_stacked(model, pool, everybody, training=TRAINING, **how)
    assert apart(found, train_stacked(model, pool, without, training=TRAINING, **how)) < 1e-6
    if name != "tanh":  # whose layers saturate
        with pytest.raises(NonFiniteError, match="1 of 1 models"):
            train_stacked(model, pool, everybody, training=PLAIN, **how)


def test_one_record_moves_a_sum_by_its_clip_norm_at_most() -> None:
    model = flat_model("mlp")
    once = StackedTraining(steps=1, sampling_rate=1.0, learning_rate=1.0, divisor=1.0, clip_norm=0.6)
    members = np.concatenate([np.ones((1, 60), dtype=np.bool_), ~np.eye(60, dtype=np.bool_)])

    def lengths(training: StackedTraining) -> NDArray[np.float64]:
        found = train_stacked(model, POOL, members, training=training, start=model.vector(), seeds=range(61))
        return np.asarray(np.linalg.norm(found[1:].astype(np.float64) - found[0], axis=1))

    assert (lengths(once) < 0.6 * (1.0 + 1e-4)).all()
    assert lengths(once).max() > 0.59
    assert lengths(replace(once, clip_norm=None)).max() > 1.0


def test_both_ways_to_gradients_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    model = flat_model("mlp")
    how = {"training": TRAINING, "start": model.vector(), "seeds": SEEDS}
    fast = train_stacked(model, POOL, MEMBERS, **how)
    monkeypatch.setattr(StackedLinear, "of", lambda model, records: None)
    assert 0.0 < apart(fast, train_stacked(model, POOL, MEMBERS, **how)) < 2e-5


def test_chunks_change_rounding_only(monkeypatch: pytest.MonkeyPatch) -> None:
    model = flat_model("mlp")
    how = {"training": TRAINING, "start": model.vector(), "seeds": SEEDS}
    told: list[tuple[int, int]] = []
    together = train_stacked(model, POOL, MEMBERS, **how)
    monkeypatch.setattr(stacked, "_CHUNK_BYTES", 1)
    alone = train_stacked(model, POOL, MEMBERS, progress=lambda *done: told.append(done), **how)
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert apart(together, alone) < 2e-6
    assert (stacked_logits(model, alone, POOL) == stacked_logits(model, alone[::-1], POOL)[::-1]).all()


def test_noise_is_gaussian_of_its_deviation_fresh_for_each_model_and_step() -> None:
    model = FlatModel(mlp(64, [64], 10, seed=0))
    nobody = np.zeros((4, 60), dtype=np.bool_)
    noise = StackedTraining(steps=1, sampling_rate=0.5, learning_rate=0.5, divisor=4.0, noise=3.0)
    zero = np.zeros(model.dimension)

    def trained(steps: int, momentum: float = 0.0) -> NDArray[np.float64]:
        how = replace(noise, steps=steps, momentum=momentum)
        return train_stacked(model, POOL, nobody, training=how, start=zero, seeds=range(4)).astype(np.float64)

    once = trained(1)
    values = once.ravel() / (0.5 * 3.0 / 4.0)
    assert stats.kstest(values, "norm").pvalue > 1e-4
    assert stats.kstest(values * 1.05, "norm").pvalue < 1e-4
    second = trained(2) - once
    for first, other in ((once[0], once[1]), (once[0], second[0]), (once[2], second[3])):
        assert abs(np.corrcoef(first, other)[0, 1]) < 4.5 / np.sqrt(model.dimension)
    assert apart(trained(2, momentum=0.5), 1.5 * once + second) < 1e-5


def test_memorises_its_members_and_goes_on_from_where_it_was() -> None:
    model = FlatModel(mlp(64, [64], 10, seed=0))
    members = np.random.default_rng(0).random((4, 60)) < 0.5
    how = StackedTraining(steps=60, sampling_rate=0.5, learning_rate=0.2, momentum=0.9, divisor=15.0)
    first = train_stacked(model, POOL, members, training=how, start=model.vector(), seeds=range(4))
    right = stacked_logits(model, first, POOL).argmax(axis=2) == POOL.labels.numpy()
    assert right[members].mean() > 0.99
    assert right[~members].mean() < 0.9
    again = train_stacked(model, POOL, ~members, training=how, start=first, seeds=range(4, 8))
    right = stacked_logits(model, again, POOL).argmax(axis=2) == POOL.labels.numpy()
    assert right[~members].mean() > 0.99
    nothing = train_stacked(model, POOL, members, training=replace(how, steps=0), start=first, seeds=range(4))
    assert (nothing == first).all()
    assert nothing is not first


@pytest.mark.parametrize("name", ["mlp", "cnn", "shared"])
def test_logits_are_those_of_each_model(name: str) -> None:
    model = flat_model(name)
    vectors = model.vector() + 0.1 * np.random.default_rng(0).standard_normal((3, model.dimension))
    found = stacked_logits(model, vectors, POOL)
    assert found.dtype == np.float32
    assert found.shape == (3, 60, 10)
    for vector, own in zip(vectors, found, strict=True):
        assert apart(own, logits(model, vector, POOL)) < 1e-5
        assert np.mean(own.argmax(axis=1) == POOL.labels.numpy()) == accuracy(model, vector, POOL)


def test_dropout_is_seeded_and_nothing_global_changes() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Dropout(0.5), nn.ReLU(), nn.Linear(16, 10))
    model, how = FlatModel(module), replace(PLAIN, steps=3)
    before = torch.random.get_rng_state()
    parameters = model.vector()

    def trained(seeds: list[int]) -> NDArray[np.float32]:
        return train_stacked(model, POOL, MEMBERS, training=how, start=model.vector(), seeds=seeds)

    assert (trained(SEEDS) == trained(SEEDS)).all()
    assert (trained(SEEDS) != trained([5, 2**100, 1])).any()
    assert apart(trained(SEEDS), slow_loop(FlatModel(nn.Sequential(*module[:2], *module[3:])), how, parameters)) > 0.01
    assert (stacked_logits(model, parameters[None], POOL) == stacked_logits(model, parameters[None], POOL)).all()
    assert torch.equal(before, torch.random.get_rng_state())
    assert (model.vector() == parameters).all()
    assert not model.module.training


def test_threads_are_one_meanwhile_and_as_before_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = flat_model("mlp"), []
    inner = StackedLinear.gradient_sums

    def watched(*args: object, **settings: object) -> object:
        seen.append(torch.get_num_threads())
        return inner(*args, **settings)

    monkeypatch.setattr(StackedLinear, "gradient_sums", watched)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        train_stacked(model, POOL, MEMBERS, training=PLAIN, start=model.vector(), seeds=SEEDS)
        assert set(seen) == {1}
        assert torch.get_num_threads() == 2
        wild = replace(PLAIN, learning_rate=1e14)
        with pytest.raises(NonFiniteError):
            train_stacked(model, POOL, MEMBERS, training=wild, start=model.vector(), seeds=SEEDS)
        stacked_logits(model, model.vector()[None], POOL)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


class Stubborn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x.flatten(1))
        return out if float(out.detach().sum()) > 0 else -out


def test_refusals() -> None:
    model = flat_model("mlp")
    how = {"training": PLAIN, "start": model.vector(), "seeds": SEEDS}
    wrong: list[tuple[str, Callable[[], object]]] = [
        ("members", lambda: train_stacked(model, POOL, MEMBERS[:2], **how)),
        ("members", lambda: train_stacked(model, POOL, MEMBERS.astype(int), **how)),
        ("start", lambda: train_stacked(model, POOL, MEMBERS, **{**how, "start": model.vector()[:-1]})),
        ("start", lambda: train_stacked(model, POOL, MEMBERS, **{**how, "start": model.vector() * np.nan})),
        ("seeds", lambda: train_stacked(model, POOL, MEMBERS, **{**how, "seeds": [1, 2, -1]})),
        ("joined", lambda: train_stacked(model, POOL, MEMBERS, joined=np.full(60, -1), **how)),
        ("joined", lambda: train_stacked(model, POOL, MEMBERS, joined=np.zeros(3, np.int64), **how)),
        ("labels", lambda: train_stacked(model, Records(POOL.features, POOL.labels + 1), MEMBERS, **how)),
        ("64", lambda: stacked_logits(FlatModel(mlp(63, [4], 10, seed=0)), np.zeros((1, 306)), POOL)),
        ("vectors", lambda: stacked_logits(model, model.vector(), POOL)),
        ("vmap", lambda: train_stacked(FlatModel(Stubborn()), POOL, MEMBERS, **{**how, "start": np.zeros(650)})),
    ]
    for words, call in wrong:
        with pytest.raises(ArgumentError, match=words):
            call()
    alone = FlatModel(Stubborn())
    assert stacked_logits(alone, alone.vector()[None], POOL).shape == (1, 60, 10)
    nobody = POOL.subset(slice(0, 0))
    with pytest.raises(DataError, match="no records"):
        train_stacked(model, nobody, MEMBERS[:, :0], **how)
    with pytest.raises(DataError, match="no records"):
        stacked_logits(model, model.vector()[None], nobody)


@pytest.mark.parametrize(
    ("name", "values"),
    {
        "steps": (-1,),
        "sampling_rate": (0.0, 1.1, float("nan")),
        "learning_rate": (0.0, float("inf"), float("nan")),
        "divisor": (0.0, -1.0),
        "momentum": (-0.1, 1.0, float("nan")),
        "weight_decay": (-1.0, float("nan")),
        "clip_norm": (0.0, float("inf"), float("nan")),
        "noise": (-1.0, float("inf")),
    }.items(),
)
def test_settings_out_of_range(name: str, values: tuple[float, ...]) -> None:
    for value in values:
        with pytest.raises(ArgumentError, match=name):
            replace(TRAINING, **{name: value})
