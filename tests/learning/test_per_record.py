from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from secure_fu.errors import ArgumentError, DataError
from secure_fu.learning import FlatModel, PerRecordGradients, Records, cross_entropy, logistic, mlp, per_record
from secure_fu.learning._linear import row_norms

CLIP = 0.7


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.GroupNorm(1, 3),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(12, 4),
        nn.Tanh(),
        nn.Linear(4, 3),
    )


class Own(nn.Module):
    """A layer that Opacus has no rule for, and one parameter that forward does not use."""

    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.linspace(0.5, 2.0, 16))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.factor

    def __init__(self) -> None:
        super().__init__()
        self.scale = Own.Scale()
        self.head = nn.Linear(16, 3)
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.scale(x.flatten(1)))
        return out


class Sequence(nn.Module):
    """Linear layers on (n, time, inputs): gradients are no single outer product."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.tanh(self.inner(x[:, 0]))).mean(dim=1)
        return out


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.tanh(self.second(torch.tanh(self.first(x.flatten(1))))))
        return out


def frozen() -> nn.Module:
    module = mlp(16, (6, 5), 3, seed=4)
    module[1].weight.requires_grad_(False)
    module[3].bias.requires_grad_(False)
    return module


MODULES: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: mlp(16, (6, 5), 3, seed=3),
    "in place": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(16, 5), nn.ReLU(inplace=True), nn.Linear(5, 3, bias=False)
    ),
    "logistic": lambda: logistic(16, 3, seed=3),
    "frozen": frozen,
    "conv": conv,
    "own": Own,
    "sequence": Sequence,
    "tied": Tied,
}


def make_records(count: int, seed: int = 0, scale: float = 1.0, groups: int | None = None) -> Records:
    rng = np.random.default_rng(seed)
    names = None if groups is None else [f"person {i}" for i in rng.integers(0, groups, count)]
    return Records.from_arrays(scale * rng.standard_normal((count, 1, 4, 4)), rng.integers(0, 3, count), names)


def make_vector(model: FlatModel, seed: int = 0) -> NDArray[np.float64]:
    return 0.5 * np.random.default_rng(seed).standard_normal(model.dimension)


def single_gradient(model: FlatModel, vector: NDArray[np.float64], records: Records, i: int) -> NDArray[np.float64]:
    """The oracle: plain automatic differentiation of one record's loss, in float64."""
    module = FlatModel(model.module.double())
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in module.tensors(vector).items()}
    logits = module.logits(leaves, records.features[i : i + 1].double())
    loss = -functional.log_softmax(logits, dim=1)[0, records.labels[i]]
    grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return module.flatten(dict(zip(leaves, grads, strict=True)))


def clip(gradient: NDArray[np.float64], clip_norm: float, normalise: bool) -> NDArray[np.float64]:
    norm = math.sqrt(math.fsum(gradient**2))
    if norm == 0.0:
        return gradient
    return gradient * (clip_norm / norm if normalise else min(1.0, clip_norm / norm))


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("normalise", [False, True])
def test_sum_is_that_of_a_loop_over_single_records(name: str, normalise: bool) -> None:
    model = FlatModel(MODULES[name]())
    records, vector = make_records(17), make_vector(model)
    gradients = PerRecordGradients(model)
    single = [single_gradient(model, vector, records, i) for i in range(17)]
    norms = np.linalg.norm(single, axis=1)
    clip_norm = float(np.median(norms))  # so that some are clipped and some are not
    assert norms.min() < clip_norm < norms.max()
    clipped = np.array([clip(g, clip_norm, normalise) for g in single])
    found = gradients.clipped_sum(vector, records, clip_norm=clip_norm, normalise=normalise)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, clipped.sum(axis=0), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["mlp", "in place", "logistic", "frozen"])
def test_models_of_linear_layers_take_the_fast_way(name: str) -> None:
    # A fault in it would be caught on first use and hidden by the slow way: the sums alone cannot show it.
    model = FlatModel(MODULES[name]())
    gradients = PerRecordGradients(model)
    gradients.clipped_sum(make_vector(model), make_records(5), clip_norm=CLIP)
    assert gradients._linear is not None
    assert gradients._explicit is None


@pytest.mark.parametrize("scale", [5e-324, 1e-310, 1e-200, 1e-140, 1e-5, 1.0, 1e140, 1e200, 1e300])
def test_row_norms_hold_at_any_scale(scale: float) -> None:
    rows = np.round(np.random.default_rng(0).uniform(-60.0, 60.0, (6, 40))) * scale
    rows[3] = 0.0
    found = row_norms(torch.from_numpy(rows)).tolist()
    for row, norm in zip(rows, found, strict=True):
        square = sum((Fraction(value) ** 2 for value in row.tolist()), Fraction(0))
        # |norm - sqrt(square)| <= 1e-14 norm, or half the least subnormal number, in exact arithmetic.
        slack = Fraction(norm) * Fraction(1, 10**14) + Fraction(5e-324) / 2
        assert max(Fraction(norm) - slack, Fraction(0)) ** 2 <= square <= (Fraction(norm) + slack) ** 2


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("normalise", [False, True])
def test_group_sum_is_that_of_a_loop_over_groups(name: str, normalise: bool) -> None:
    model = FlatModel(MODULES[name]())
    records, vector = make_records(23, groups=6), make_vector(model)
    assert records.groups is not None
    single = np.array([single_gradient(model, vector, records, i) for i in range(23)])
    sums = [single[records.groups == group].sum(axis=0) for group in np.unique(records.groups)]
    clip_norm = float(np.median(np.linalg.norm(sums, axis=1)))
    expected = sum(clip(total, clip_norm, normalise) for total in sums)
    found = PerRecordGradients(model).clipped_group_sum(vector, records, clip_norm=clip_norm, normalise=normalise)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_chunks_do_not_change_the_sum(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = FlatModel(MODULES[name]())
    records, vector = make_records(29, groups=9), make_vector(model)
    gradients = PerRecordGradients(model)
    whole = gradients.clipped_sum(vector, records, clip_norm=CLIP)
    groups = gradients.clipped_group_sum(vector, records, clip_norm=CLIP)
    for size in (1, 30_000):
        monkeypatch.setattr(per_record, "_CHUNK_BYTES", size)
        again = gradients.clipped_sum(vector, records, clip_norm=CLIP)
        np.testing.assert_allclose(again, whole, rtol=1e-10, atol=1e-12)
        again = gradients.clipped_group_sum(vector, records, clip_norm=CLIP)
        np.testing.assert_allclose(again, groups, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["mlp", "conv"])
@pytest.mark.parametrize("normalise", [False, True])
@settings(max_examples=25, deadline=None)
@given(
    scale=st.sampled_from([0.0, 1e-44, 1e-30, 1e-8, 1.0, 1e8, 1e20, 1e37]),
    weight=st.sampled_from([1e-250, 1e-100, 1e-30, 1.0, 1e10, 1e30]),
    factor=st.sampled_from([1e-310, 1e-200, 1e-150, 1e-100, 1.0, 1.0, 1e100, 1e150, 1e200]),
    clip_norm=st.sampled_from([1e-100, 1e-8, 1.0, 3.7, 1e100]),
    seed=st.integers(0, 2**32 - 1),
)
def test_one_record_never_exceeds_the_clip_norm(
    name: str, normalise: bool, scale: float, weight: float, factor: float, clip_norm: float, seed: int
) -> None:
    model = FlatModel(MODULES[name]())
    records = make_records(1, seed=seed, scale=scale)
    vector = make_vector(model, seed) * weight

    def scaled(logits: Tensor, labels: Tensor) -> Tensor:
        return factor * cross_entropy(logits, labels)

    gradients = PerRecordGradients(model)
    found = gradients.clipped_sum(vector, records, clip_norm=clip_norm, normalise=normalise, loss=scaled)
    # In exact arithmetic from the float64 result: no tolerance.
    scaled = found / clip_norm
    assert math.fsum(float(value) ** 2 for value in scaled) <= 1.0


@pytest.mark.parametrize("name", ["mlp", "conv"])
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e20])
def test_adding_one_record_moves_the_sum_by_at_most_the_clip_norm(name: str, scale: float) -> None:
    model = FlatModel(MODULES[name]())
    vector, gradients = make_vector(model), PerRecordGradients(model)
    some, one = make_records(20), make_records(1, seed=9, scale=scale)
    both = Records(torch.cat([some.features, one.features]), torch.cat([some.labels, one.labels]))
    change = gradients.clipped_sum(vector, both, clip_norm=CLIP) - gradients.clipped_sum(vector, some, clip_norm=CLIP)
    assert np.linalg.norm(change) <= CLIP * (1 + 1e-12)
    if scale == 1e20:
        assert np.linalg.norm(change) >= CLIP * (1 - 1e-9)  # and the bound is reached, not undercut


def test_normalising_reaches_the_clip_norm_from_below_and_zero_stays_zero() -> None:
    model = FlatModel(logistic(16, 3, seed=0))
    gradients = PerRecordGradients(model)
    found = gradients.clipped_sum(make_vector(model) * 1e-3, make_records(1), clip_norm=5.0, normalise=True)
    assert np.linalg.norm(found) == pytest.approx(5.0, rel=1e-9)

    def flat(logits: Tensor, labels: Tensor) -> Tensor:
        return 0.0 * logits.sum(dim=1)

    found = gradients.clipped_sum(make_vector(model), make_records(4), clip_norm=5.0, normalise=True, loss=flat)
    assert not found.any()


@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_an_empty_sample_gives_zero(name: str) -> None:
    model = FlatModel(MODULES[name]())
    gradients, empty = PerRecordGradients(model), make_records(3, groups=2).subset(np.zeros(3, dtype=np.bool_))
    for found in (
        gradients.clipped_sum(make_vector(model), empty, clip_norm=CLIP),
        gradients.clipped_group_sum(make_vector(model), empty, clip_norm=CLIP),
    ):
        assert found.shape == (model.dimension,)
        assert not found.any()


def test_own_loss() -> None:
    model = FlatModel(mlp(16, (5,), 3, seed=0))
    records, vector = make_records(12), make_vector(model)

    def squared(logits: Tensor, labels: Tensor) -> Tensor:
        return (logits.gather(1, labels[:, None])[:, 0] - 1.0) ** 2

    gradients = PerRecordGradients(model)
    whole = gradients.clipped_sum(vector, records, clip_norm=CLIP, loss=squared)
    parts = [
        gradients.clipped_sum(vector, records.subset(np.array([i])), clip_norm=CLIP, loss=squared) for i in range(12)
    ]
    np.testing.assert_allclose(whole, np.sum(parts, axis=0), rtol=1e-9, atol=1e-12)
    assert not np.allclose(whole, gradients.clipped_sum(vector, records, clip_norm=CLIP))


class Mixing(nn.Module):
    """Subtracts the mean over the batch: what BatchNorm does, without its name."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        out: Tensor = self.head(flat - flat.mean(dim=0))
        return out


class BehindTheBack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x.flatten(1), self.head.weight) + self.head(x.flatten(1))


@pytest.mark.parametrize("module", [Mixing(), BehindTheBack()])
@pytest.mark.parametrize("first", [1, 5])
def test_modules_that_mix_records_or_hide_uses_are_refused(module: nn.Module, first: int) -> None:
    model = FlatModel(module)
    gradients = PerRecordGradients(model)
    with pytest.raises(ArgumentError, match="does not depend on the other records"):  # noqa: PT012
        gradients.clipped_sum(make_vector(model), make_records(first), clip_norm=CLIP)
        gradients.clipped_sum(make_vector(model), make_records(5), clip_norm=CLIP)


def test_losses_that_mix_records_are_refused() -> None:
    model = FlatModel(mlp(16, (5,), 3, seed=0))
    gradients, vector, records = PerRecordGradients(model), make_vector(model), make_records(5)
    gradients.clipped_sum(vector, records, clip_norm=CLIP)

    def weighted(logits: Tensor, labels: Tensor) -> Tensor:
        losses = cross_entropy(logits, labels)
        return losses / losses.detach().mean()

    with pytest.raises(ArgumentError, match="does not depend on the other records"):
        gradients.clipped_sum(vector, records, clip_norm=CLIP, loss=weighted)


def test_recurrent_layers_are_refused_with_the_replacement_named() -> None:
    with pytest.raises(ArgumentError, match="DPLSTM"):
        PerRecordGradients(FlatModel(nn.Sequential(nn.Flatten(2), nn.LSTM(16, 3))))


@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_dropout_is_active_in_training_and_does_not_fail_the_test(name: str) -> None:
    module = MODULES[name]()
    assert isinstance(module, nn.Sequential)
    model = FlatModel(nn.Sequential(*module[:-1], nn.Dropout(0.5), module[-1]))
    gradients = PerRecordGradients(model)
    first, second = (gradients.clipped_sum(make_vector(model), make_records(9), clip_norm=CLIP) for _ in range(2))
    assert not np.array_equal(first, second)


def test_bad_arguments() -> None:
    model = FlatModel(logistic(16, 3, seed=0))
    gradients, vector, records = PerRecordGradients(model), make_vector(model), make_records(4)
    for clip_norm in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ArgumentError, match="clip_norm"):
            gradients.clipped_sum(vector, records, clip_norm=clip_norm)
    with pytest.raises(ArgumentError, match="vector"):
        gradients.clipped_sum(vector[:-1], records, clip_norm=1.0)
    with pytest.raises(ArgumentError, match="one value a record"):
        gradients.clipped_sum(vector, records, clip_norm=1.0, loss=functional.cross_entropy)
    with pytest.raises(ArgumentError, match="labels"):
        gradients.clipped_sum(vector, Records(records.features, records.labels + 9), clip_norm=1.0)
    with pytest.raises(ArgumentError, match=r"features of shape \('n', 2, 2\)"):
        gradients.clipped_sum(vector, Records.from_arrays(np.ones((2, 2, 2)), [0, 1]), clip_norm=1.0)
    gradients.clipped_sum(vector, records, clip_norm=1.0)
    with pytest.raises(ArgumentError, match=r"features of shape \('n', 2, 2\)"):
        gradients.clipped_sum(vector, Records.from_arrays(np.ones((2, 2, 2)), [0, 1]), clip_norm=1.0)
    with pytest.raises(DataError, match="group column"):
        gradients.clipped_group_sum(vector, records, clip_norm=1.0)
