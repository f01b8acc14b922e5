from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import IterableDataset, TensorDataset

from secure_fu.errors import ArgumentError, DataError
from secure_fu.learning import Dataset, Records, breast_cancer, digits, split_records, torch_dataset


def make_records(count: int = 10, groups: list[str] | None = None) -> Records:
    return Records.from_arrays(np.arange(2.0 * count).reshape(count, 2), np.arange(count) % 3, groups)


def test_records_show_no_data() -> None:
    secret = Records.from_arrays(np.full((2, 3), 123.5), [7, 7], ["Ada", "Bob"])
    assert repr(secret) == "Records(2, shape=(3,), groups=2)"
    assert "123" not in repr(secret)
    assert "Ada" not in repr(secret)


def test_subset_keeps_rows_together_and_copies() -> None:
    records = make_records(5, list("aabbc"))
    part = records.subset(np.array([4, 1]))
    assert part.features.tolist() == [[8.0, 9.0], [2.0, 3.0]]
    assert part.labels.tolist() == [1, 1]
    assert part.groups is not None
    assert part.groups.tolist() == ["c", "a"]
    part.features.zero_()
    assert records.features[4].tolist() == [8.0, 9.0]
    assert len(records.subset(records.features[:, 0].numpy() > 3.0)) == 3
    assert len(records.subset(slice(1, 3))) == 2
    assert len(records.subset(np.zeros(5, dtype=np.bool_))) == 0
    for wrong in (np.array([5]), np.ones(4, dtype=np.bool_), np.zeros((2, 2), dtype=np.int64), np.array([0.5])):
        with pytest.raises(ArgumentError):
            records.subset(wrong)


@pytest.mark.parametrize(
    ("features", "labels", "groups"),
    [
        (torch.ones(3), torch.zeros(3, dtype=torch.int64), None),
        (torch.ones(3, 2, dtype=torch.float64), torch.zeros(3, dtype=torch.int64), None),
        (torch.ones(3, 2), torch.zeros(2, dtype=torch.int64), None),
        (torch.ones(3, 2), torch.zeros(3), None),
        (torch.ones(3, 2), torch.tensor([0, 1, -1]), None),
        (torch.tensor([[1.0], [float("nan")]]), torch.zeros(2, dtype=torch.int64), None),
        (torch.tensor([[1.0], [float("inf")]]), torch.zeros(2, dtype=torch.int64), None),
        (torch.ones(3, 2), torch.zeros(3, dtype=torch.int64), np.array(["a", "b"])),
        (torch.ones(2, 2), torch.zeros(2, dtype=torch.int64), np.array([1, 2])),
    ],
)
def test_wrong_records_are_refused(features: torch.Tensor, labels: torch.Tensor, groups: np.ndarray | None) -> None:
    with pytest.raises(DataError):
        Records(features, labels, groups)


@pytest.mark.parametrize(
    ("features", "labels"),
    [([[1.0], ["spam"]], [0, 1]), ([[1.0], [2.0, 3.0]], [0, 1]), ([[1.0]], [0.5]), ([[1.0]], [1j]), ([[1e300]], [0])],
)
def test_arrays_that_are_no_records_are_refused_without_quoting_them(
    features: list[object], labels: list[object]
) -> None:
    with pytest.raises(DataError) as caught:
        Records.from_arrays(features, labels)
    assert "spam" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("dtype", [">f8", "<f2", "u1", ">u2", "u8", "i2", "?"])
def test_arrays_of_every_numeric_type_are_taken(dtype: str) -> None:
    values = np.array([[0, 1], [1, 0]], dtype=dtype)
    values.flags.writeable = False
    records = Records.from_arrays(values, values[:, 0])
    assert records.features.tolist() == [[0.0, 1.0], [1.0, 0.0]]
    assert records.labels.tolist() == [0, 1]


def test_dataset_checks() -> None:
    records = make_records()
    arguments = {"name": "x", "description": "", "classes": 3, "train": records, "test": records}
    Dataset(**arguments)
    for change in (
        {"classes": 1},
        {"classes": 2},
        {"test": records.subset(slice(0, 0))},
        {"test": Records.from_arrays(np.ones((2, 3)), [0, 1])},
    ):
        with pytest.raises(DataError, match="expected"):
            Dataset(**{**arguments, **change})


def test_split() -> None:
    records = make_records(101)
    train, test = split_records(records, test_fraction=0.2, seed=4)
    assert (len(train), len(test)) == (80, 21)
    together = torch.cat([train.features, test.features])
    assert sorted(together[:, 0].tolist()) == records.features[:, 0].tolist()
    again = split_records(records, test_fraction=0.2, seed=4)[1]
    torch.testing.assert_close(again.features, test.features)
    other = split_records(records, test_fraction=0.2, seed=5)[1]
    assert other.features.tolist() != test.features.tolist()
    for arguments in (
        {"test_fraction": 0.0, "seed": 0},
        {"test_fraction": 1.0, "seed": 0},
        {"test_fraction": 0.5, "seed": -1},
    ):
        with pytest.raises(ArgumentError):
            split_records(records, **arguments)
    for few in (records.subset(slice(0, 1)), records.subset(slice(0, 0))):
        with pytest.raises(DataError, match="more records"):
            split_records(few, test_fraction=0.5, seed=0)


def test_split_keeps_groups_whole() -> None:
    records = make_records(60, [f"p{i % 7}" for i in range(60)])
    train, test = split_records(records, test_fraction=0.25, seed=0)
    assert train.groups is not None
    assert test.groups is not None
    assert not set(train.groups) & set(test.groups)
    assert 15 <= len(test) < 15 + 9
    with pytest.raises(DataError, match="1 units"):
        split_records(make_records(4, ["one"] * 4), test_fraction=0.25, seed=0)


def test_digits() -> None:
    data = digits(seed=0)
    assert (len(data.train), len(data.test), data.classes) == (1437, 360, 10)
    assert data.train.shape == (1, 8, 8)
    assert data.train.features.min() == 0.0
    assert data.train.features.max() == 1.0


def test_breast_cancer_is_scaled_by_constants() -> None:
    data = breast_cancer(seed=0)
    assert (len(data.train), len(data.test), data.classes) == (455, 114, 2)
    features = torch.cat([data.train.features, data.test.features])
    assert features.mean(dim=0).abs().max() < 0.2
    assert (features.std(dim=0) - 1.0).abs().max() < 0.1
    # Constants, so another split shows the same records with the same values.
    other = breast_cancer(seed=1)
    rows = {tuple(row) for row in features.tolist()}
    assert rows == {tuple(row) for row in torch.cat([other.train.features, other.test.features]).tolist()}


def test_torch_dataset() -> None:
    features = torch.arange(12.0).reshape(4, 3)
    records = torch_dataset(TensorDataset(features, torch.tensor([0, 2, 1, 0])))
    torch.testing.assert_close(records.features, features)
    assert records.labels.tolist() == [0, 2, 1, 0]
    scalars = torch_dataset(TensorDataset(torch.arange(3.0), torch.tensor([0, 1, 0])))
    assert scalars.shape == (1,)


class Items(TorchDataset[object]):
    def __init__(self, *items: object) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> object:
        return self.items[index]


class Endless(IterableDataset[object]):
    def __iter__(self) -> Iterator[object]:
        return iter(())


@pytest.mark.parametrize(
    ("dataset", "match"),
    [
        (Items(), "empty"),
        (Items(torch.ones(2)), "pair"),
        (Items((np.ones(2), 0), (np.ones(3), 0)), "shape"),
        (Items((["spam"], 0)), "not numeric"),
        (Items((np.ones(2), 0.5)), "whole number"),
        (Items((np.ones(2), [0, 1])), "whole number"),
        (Items((np.array([float("nan")]), 0)), "NaN"),
        (Endless(), "no length"),
    ],
)
def test_wrong_torch_datasets_are_refused(dataset: TorchDataset[object], match: str) -> None:
    with pytest.raises(DataError, match=match):
        torch_dataset(dataset)
