from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from secure_fu.errors import ArgumentError
from secure_fu.learning import FlatModel, logistic, mlp


class Nested(nn.Module):
    """Convolutions, a nested block, a bare parameter, a frozen layer and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.body = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.GroupNorm(3, 3), nn.ReLU(inplace=True))
        self.frozen = nn.Linear(3, 3)
        self.frozen.requires_grad_(False)
        self.register_buffer("offset", torch.full((3,), 0.5))
        self.head = nn.Linear(3, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = self.body(x).mean(dim=(2, 3)) * self.scale
        out: torch.Tensor = self.head(self.frozen(pooled) + self.offset)
        return out


@pytest.mark.parametrize("module", [Nested(), mlp(6, (5, 4), 3, seed=1), logistic(4, 2, seed=0), nn.LSTM(3, 2)])
def test_vector_round_trip(module: nn.Module) -> None:
    model = FlatModel(module)
    rng = np.random.default_rng(0)
    vector = rng.standard_normal(model.dimension).astype(np.float32).astype(np.float64)
    model.load(vector)
    np.testing.assert_array_equal(model.vector(), vector)
    np.testing.assert_array_equal(model.flatten(model.tensors(vector)), vector)
    trainable = [(n, p) for n, p in model.module.named_parameters() if p.requires_grad]
    assert [layer.name for layer in model.layers] == [name for name, _ in trainable]
    start = 0
    for layer, (_, parameter) in zip(model.layers, trainable, strict=True):
        assert layer.slice == slice(start, start + parameter.numel())
        assert layer.shape == tuple(parameter.shape)
        np.testing.assert_array_equal(vector[layer.slice].reshape(layer.shape), parameter.detach().numpy())
        start = layer.slice.stop
    assert start == model.dimension


def test_order_is_that_of_state_dict() -> None:
    model = FlatModel(Nested())
    names = [name for name in model.module.state_dict() if "frozen" not in name and name != "offset"]
    assert [layer.name for layer in model.layers] == names


def test_the_callers_module_is_left_alone() -> None:
    module = mlp(4, (3,), 2, seed=0)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    model = FlatModel(module)
    model.load(np.zeros(model.dimension))
    model.logits(model.tensors(np.ones(model.dimension)), torch.ones(2, 4), training=True)
    assert module.training
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, before[name])
    assert not model.vector().any()  # nor does a functional call change the model's own parameters


def test_logits_are_those_of_the_loaded_module() -> None:
    model = FlatModel(Nested())
    vector = np.random.default_rng(1).standard_normal(model.dimension)
    features = torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    functional = model.logits(model.tensors(vector), features)
    model.load(vector)
    torch.testing.assert_close(functional, model.module(features), rtol=0, atol=0)


def test_shared_parameters_appear_once() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight = module[0].weight
    assert FlatModel(module).dimension == 9 + 3 + 3


@pytest.mark.parametrize(
    ("module", "match"),
    [
        (nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), "GroupNorm"),
        (nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3, affine=False)), "GroupNorm"),
        (nn.Sequential(nn.Conv2d(1, 3, 3), nn.InstanceNorm2d(3, track_running_stats=True)), "track_running_stats"),
        (nn.ReLU(), "trainable"),
        (nn.Linear(2, 2).requires_grad_(False), "trainable"),
        (nn.Linear(2, 2, dtype=torch.complex64), "real"),
        (nn.LazyLinear(2), "has seen its input"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_refused_modules(module: nn.Module, match: str) -> None:
    with pytest.raises(ArgumentError, match=match):
        FlatModel(module)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_values_are_refused(bad: float) -> None:
    module = nn.Linear(2, 2)
    model = FlatModel(module)
    before = model.vector()
    vector = before.copy()
    vector[3] = bad
    with pytest.raises(ArgumentError, match="NaN or infinity") as caught:
        model.load(vector)
    assert str(bad) not in str(caught.value.value)
    np.testing.assert_array_equal(model.vector(), before)
    with torch.no_grad():
        module.bias[0] = bad
    with pytest.raises(ArgumentError, match="NaN or infinity"):
        FlatModel(module)


@pytest.mark.parametrize("vector", [np.zeros(5), np.zeros((6, 1)), np.zeros(6, dtype=np.float32)])
def test_wrong_vectors_are_refused(vector: np.ndarray) -> None:
    with pytest.raises(ArgumentError, match=r"float64 array of shape \(6,\)"):
        FlatModel(nn.Linear(2, 2)).load(vector)


def test_read_only_vectors_are_taken() -> None:
    model = FlatModel(nn.Linear(2, 2))
    vector = np.arange(6, dtype=np.float64)
    vector.flags.writeable = False
    model.load(vector)
    np.testing.assert_array_equal(model.vector(), vector)


def test_models_are_seeded_and_leave_the_global_generator_alone() -> None:
    state = torch.random.get_rng_state()
    first, again, other = (FlatModel(mlp(10, (7,), 3, seed=s)).vector() for s in (5, 5, 6))
    torch.testing.assert_close(torch.random.get_rng_state(), state)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.abs(first[:77]).max() <= 1 / np.sqrt(10)
    assert FlatModel(mlp(64, (32,), 10, seed=0)).dimension == 2410
    assert FlatModel(logistic(30, 2, seed=0)).dimension == 62


@pytest.mark.parametrize(
    ("inputs", "hidden", "classes", "seed"), [(0, (), 2, 0), (3, (0,), 2, 0), (3, (), 1, 0), (3, (), 2, -1)]
)
def test_models_refuse_bad_arguments(inputs: int, hidden: tuple[int, ...], classes: int, seed: int) -> None:
    with pytest.raises(ArgumentError):
        mlp(inputs, hidden, classes, seed)
