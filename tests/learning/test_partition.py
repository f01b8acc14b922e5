from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from secure_fu.errors import ArgumentError, DataError
from secure_fu.learning import Records, by_column, by_label, dirichlet, iid


def make_records(count: int, classes: int, seed: int, groups: int | None = None) -> Records:
    rng = np.random.default_rng(seed)
    names = None if groups is None else [f"g{i}" for i in rng.permutation(np.arange(count) % groups)]
    return Records.from_arrays(np.zeros((count, 1)), rng.integers(0, classes, count), names)


def check(parts: list[NDArray[np.int64]], count: int, clients: int) -> None:
    assert len(parts) == clients
    assert all(len(part) > 0 for part in parts)
    assert all(part.dtype == np.int64 and (np.diff(part) > 0).all() for part in parts)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(count))


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    clients=st.integers(1, 30),
    classes=st.integers(1, 12),
    seed=st.integers(0, 2**40),
    alpha=st.sampled_from([1e-6, 0.01, 0.5, 1.0, 100.0, 1e6]),
)
def test_every_partition_is_one(data: st.DataObject, clients: int, classes: int, seed: int, alpha: float) -> None:
    count = data.draw(st.integers(2 * clients, 300))
    groups = data.draw(st.integers(clients, count))
    records = make_records(count, classes, seed, groups)
    check(iid(records, clients, seed), count, clients)
    check(dirichlet(records, clients, seed, alpha=alpha), count, clients)
    check(by_label(records, clients, seed), count, clients)
    parts = by_column(records, clients, seed)
    check(parts, count, clients)
    assert records.groups is not None
    owners = [set(records.groups[part]) for part in parts]
    assert sum(len(names) for names in owners) == groups  # no group at two clients
    for one, again in (
        (iid(records, clients, seed), iid(records, clients, seed)),
        (dirichlet(records, clients, seed, alpha=alpha), dirichlet(records, clients, seed, alpha=alpha)),
        (by_label(records, clients, seed), by_label(records, clients, seed)),
        (by_column(records, clients, seed), parts),
    ):
        for left, right in zip(one, again, strict=True):
            np.testing.assert_array_equal(left, right)


def test_iid_sizes_differ_by_one_at_most() -> None:
    sizes = [len(part) for part in iid(make_records(1437, 10, 0), 10, 0)]
    assert sizes == [144] * 7 + [143] * 3


def test_seeds_differ() -> None:
    records = make_records(100, 5, 0)
    assert not np.array_equal(iid(records, 4, 0)[0], iid(records, 4, 1)[0])


def skew(records: Records, parts: list[NDArray[np.int64]]) -> float:
    """Mean total-variation distance between a client's labels and everybody's."""
    labels = records.labels.numpy()
    overall = np.bincount(labels, minlength=10) / len(labels)
    return float(np.mean([np.abs(np.bincount(labels[p], minlength=10) / len(p) - overall).sum() / 2 for p in parts]))


def test_skew_grows_as_it_should() -> None:
    records = make_records(5000, 10, 1)
    even = skew(records, iid(records, 10, 0))
    mild = skew(records, dirichlet(records, 10, 0, alpha=20.0))
    strong = skew(records, dirichlet(records, 10, 0, alpha=0.1))
    assert even < mild < 0.15 < 0.4 < strong
    two = by_label(records, 10, 0)
    assert all(len(np.unique(records.labels.numpy()[part])) <= 4 for part in two)


def test_by_column_gives_each_group_its_own_client_when_counts_agree() -> None:
    records = make_records(60, 3, 0, groups=6)
    assert records.groups is not None
    for name, part in zip(sorted(set(records.groups)), by_column(records, 6, 0), strict=True):
        assert set(records.groups[part]) == {name}


def test_bad_arguments() -> None:
    records = make_records(10, 2, 0, groups=3)
    for clients, seed in ((0, 0), (3, -1)):
        with pytest.raises(ArgumentError):
            iid(records, clients, seed)
    with pytest.raises(DataError, match="10 records cannot fill 11 clients"):
        iid(records, 11, 0)
    with pytest.raises(DataError, match="10 records cannot fill 12 pieces"):
        by_label(records, 6, 0)
    with pytest.raises(ArgumentError):
        by_label(records, 2, 0, shards=0)
    with pytest.raises(DataError, match="3 groups cannot fill 4 clients"):
        by_column(records, 4, 0)
    with pytest.raises(DataError, match="no groups"):
        by_column(make_records(10, 2, 0), 2, 0)
    for alpha in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ArgumentError):
            dirichlet(records, 2, 0, alpha=alpha)
