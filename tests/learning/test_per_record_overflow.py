"""Gradients that are not finite: each counts as zero, and nothing else changes, whatever model the server chooses."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secure_fu.errors import ArgumentError
from secure_fu.learning import FlatModel, PerRecordGradients, Records, cross_entropy, mlp, per_record

CLIP = 0.7
NAN, INF = float("nan"), float("inf")
HUGE = float(np.float32(3e38))
WARNING = "some gradients are not finite and count as zero"


def conv() -> nn.Module:
    hidden = [layer for _ in range(9) for layer in (nn.Linear(2, 2), nn.ReLU())]
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2), nn.ReLU(), *hidden, nn.Linear(2, 3)
    )


MODULES = {"linear": lambda: mlp(16, (6,) + (2,) * 8, 3, seed=3), "explicit": conv}
BOTH = pytest.mark.parametrize("name", MODULES)


def make_records(labels: list[int], groups: list[str] | None = None, seed: int = 0) -> Records:
    draw = np.random.default_rng(seed)
    return Records.from_arrays(draw.standard_normal((len(labels), 1, 4, 4)), labels, groups)


def make_vector(model: FlatModel) -> NDArray[np.float64]:
    return 0.5 * np.random.default_rng(0).standard_normal(model.dimension)


def overflowing(model: FlatModel) -> NDArray[np.float64]:
    """What a malicious server sends: a record overflows if its features are positive, and is as any other if not."""
    vector = np.zeros(model.dimension)
    for layer in model.layers:
        if len(layer.shape) > 1:
            vector[layer.slice] = HUGE
    return vector


def breaks(value: float) -> per_record.Loss:
    """The cross entropy, times `value` for records of class 2: their gradients are not finite."""

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(logits, labels) * torch.where(labels == 2, value, 1.0)

    return loss


def total(
    model: FlatModel, vector: NDArray[np.float64], records: Records, loss: per_record.Loss, **arguments: bool
) -> NDArray[np.float64]:
    """By records or, where there are groups, by groups."""
    gradients = PerRecordGradients(model)
    by = gradients.clipped_sum if records.groups is None else gradients.clipped_group_sum
    return by(vector, records, clip_norm=CLIP, loss=loss, **arguments)


@BOTH
@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_records_without_a_finite_gradient_count_as_zero(name: str, normalise: bool, value: float) -> None:
    model = FlatModel(MODULES[name]())
    records = make_records([0, 2, 1, 2, 2, 0, 1])
    rest = records.subset(np.asarray(records.labels != 2))
    vector = make_vector(model)
    found = total(model, vector, records, breaks(value), normalise=normalise)
    expected = total(model, vector, rest, cross_entropy, normalise=normalise)
    assert np.linalg.norm(expected) > 0.1
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)


@BOTH
@pytest.mark.parametrize("value", [NAN, INF])
def test_a_group_with_one_such_record_counts_as_zero_as_a_whole(name: str, value: float) -> None:
    model = FlatModel(MODULES[name]())
    groups = ["a", "b", "b", "c", "a", "d", "c"]
    records = make_records([0, 2, 1, 0, 1, 2, 0], groups)
    rest = records.subset(np.isin(groups, ["a", "c"]))
    found = total(model, make_vector(model), records, breaks(value))
    expected = total(model, make_vector(model), rest, cross_entropy)
    assert np.linalg.norm(expected) > 0.1
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)


@BOTH
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("out", [1, 3])
def test_adding_such_a_record_moves_the_sum_by_exactly_zero(
    name: str, grouped: bool, out: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One unit a chunk, so that the others' products have the same size in both: equal bits on any machine.
    monkeypatch.setattr(per_record, "_CHUNK_BYTES", 1)
    model = FlatModel(MODULES[name]())
    records = make_records([0, 2, 1, 2, 0], list("abcde") if grouped else None)
    without = records.subset(np.arange(5) != out)
    sums = [total(model, make_vector(model), own, breaks(NAN)) for own in (records, without)]
    assert sums[0].any()
    np.testing.assert_array_equal(*sums)


@BOTH
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("chunk", [1, 2**28])
def test_a_model_made_to_overflow_on_one_record_learns_nothing_of_it(
    name: str, grouped: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(per_record, "_CHUNK_BYTES", chunk)
    model = FlatModel(MODULES[name]())
    vector = overflowing(model)
    features = -np.abs(np.random.default_rng(0).standard_normal((5, 1, 4, 4)))
    features[3] *= -1.0
    records = Records.from_arrays(features, [0, 1, 2, 1, 0], list("abcde") if grouped else None)
    lone = [records.subset(np.array([index])) for index in range(5)]
    # The attack is one: the record with the property, and no other, has no finite gradient.
    norms = [np.linalg.norm(total(model, vector, own, cross_entropy)) for own in lone]
    assert [norm > 0.0 for norm in norms] == [True, True, True, False, True]
    assert max(norms) <= CLIP
    found = total(model, vector, records, cross_entropy)
    without = total(model, vector, records.subset(np.arange(5) != 3), cross_entropy)
    if chunk == 1:
        np.testing.assert_array_equal(found, without)
    np.testing.assert_allclose(found, without, rtol=0, atol=1e-13)


@BOTH
@pytest.mark.parametrize("groups", [None, ["a", "a", "b"]])
def test_nothing_but_such_records_is_the_zero_vector_and_no_error(name: str, groups: list[str] | None) -> None:
    model = FlatModel(MODULES[name]())
    features = np.ones((3, 1, 4, 4), dtype=np.float32) * 3e38
    records = Records.from_arrays(features, [0, 1, 2], groups)
    found = total(model, overflowing(model), records, cross_entropy)
    assert found.shape == (model.dimension,)
    assert not found.any()


def test_a_record_that_scaling_would_overflow_counts_as_zero() -> None:
    # No biases, activations of 1e-250: the gradient's norm is 1e-50, but the output's own slope is 1e200.
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 5, bias=False), nn.Linear(5, 3, bias=False))
    model = FlatModel(module)

    def steep(logits: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(logits, labels) * (1e200 ** (labels == 2).double())

    gradients, vector = PerRecordGradients(model), make_vector(model) * 1e-250
    arguments = {"clip_norm": 1e100, "normalise": True, "loss": steep}
    assert not gradients.clipped_sum(vector, make_records([2, 2]), **arguments).any()
    assert gradients.clipped_sum(vector, make_records([2, 2]), clip_norm=1e100, loss=steep).any()
    records = make_records([0, 2])
    alone = gradients.clipped_sum(vector, records.subset(np.array([0])), **arguments)
    np.testing.assert_allclose(gradients.clipped_sum(vector, records, **arguments), alone, rtol=1e-12, atol=0)


@pytest.mark.parametrize("slope", [1e-120, 1e-100, 1e-60, 1e-20])
@pytest.mark.parametrize("size", [1e150, 1e205, 1e215, 1e220, 1e223, 1e300])
def test_factors_that_are_no_normal_numbers_carry_nothing_over_the_clip_norm(size: float, slope: float) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 5, bias=False), nn.Linear(5, 3, bias=False))
    model = FlatModel(module)

    def flat(logits: Tensor, labels: Tensor) -> Tensor:
        return slope * cross_entropy(logits, labels)

    vector = make_vector(model)
    vector[model.layers[0].slice] *= size
    for seed in range(5):
        records = make_records([1], seed=seed)
        found = PerRecordGradients(model).clipped_sum(vector, records, clip_norm=1e-100, loss=flat)
        assert math.fsum(float(value) ** 2 for value in found * 1e100) <= 1.0


@BOTH
@pytest.mark.parametrize("groups", [None, ["a", "a", "b", "c"]])
def test_it_is_warned_of_once_a_call_and_without_a_number(
    name: str, groups: list[str] | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(per_record, "_CHUNK_BYTES", 1)
    caplog.set_level(logging.DEBUG)
    model = FlatModel(MODULES[name]())
    total(model, make_vector(model), make_records([0, 1, 1, 0], groups), breaks(NAN))
    assert caplog.record_tuples == []
    total(model, make_vector(model), make_records([2, 1, 2, 2], groups), breaks(NAN))
    assert caplog.record_tuples == [("secure_fu", logging.WARNING, WARNING)]


# The test on first use


class Mixing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        out: Tensor = self.head(flat - flat.mean(dim=0))
        return out


@pytest.mark.parametrize("count", [0, 1, 4])
def test_a_module_is_refused_whatever_the_records_and_the_model(count: int) -> None:
    model = FlatModel(Mixing())
    records = Records.from_arrays(np.full((4, 1, 4, 4), 3e38), [0, 1, 2, 0]).subset(np.arange(4) < count)
    for vector in (make_vector(model), np.full(model.dimension, 1e300), np.zeros(model.dimension)):
        with pytest.raises(ArgumentError, match="does not depend on the other records"):
            PerRecordGradients(model).clipped_sum(vector, records, clip_norm=CLIP)


@BOTH
def test_no_real_record_is_part_of_the_test(name: str) -> None:
    model, seen = FlatModel(MODULES[name]()), []

    def spy(logits: Tensor, labels: Tensor) -> Tensor:
        seen.append((labels.tolist(), logits.tolist()))
        return cross_entropy(logits, labels)

    sights = []
    for seed in range(2):
        seen.clear()
        total(model, make_vector(model) * (1 + seed), make_records([2, 2, 2, 2], seed=seed), spy)
        assert seen[-1][0] == [2, 2, 2, 2]
        sights.append(seen[:-1])
    assert sights[0] == sights[1]
    assert [labels for labels, _ in sights[0]] == [[0], [0], [0], [0, 0, 0]]


def test_made_up_records_without_a_finite_gradient_show_nothing_and_refuse_nothing() -> None:
    class Logarithm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(torch.log(x.flatten(1) - 2.0))
            return out

    model = FlatModel(Logarithm())
    records = Records.from_arrays(np.random.default_rng(0).uniform(3.0, 9.0, (4, 1, 4, 4)), [0, 1, 2, 0])
    assert total(model, make_vector(model), records, cross_entropy).any()
