"""Deletion requests: who finds what to forget in its own records, and what makes no sense."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secure_fu.deletion import DeletionRequest, Scope
from secure_fu.errors import ArgumentError
from secure_fu.learning import FlatModel, PerRecordGradients, Records, mlp
from secure_fu.training import Silo


def records(count, groups=None):
    draw = np.random.default_rng(count)
    return Records.from_arrays(draw.normal(size=(count, 2)), draw.integers(0, 2, count), groups)


CLIENTS = {
    "a": records(4, ["ann", "bob", "ann", "cy"]),
    "b": records(3, ["bob", "bob", "dee"]),
    "c": records(2, ["dee", "eve"]),
}


def found(request, clients=CLIENTS):
    return {name: np.flatnonzero(mask).tolist() for name, mask in request.identify_all(clients).items()}


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (DeletionRequest.whole_client("b"), {"a": [], "b": [0, 1, 2], "c": []}),
        (DeletionRequest.person("bob"), {"a": [1], "b": [0, 1], "c": []}),
        (DeletionRequest.person("bob", client="b"), {"a": [], "b": [0, 1], "c": []}),
        (DeletionRequest.person("dee", "ann"), {"a": [0, 2], "b": [2], "c": [0]}),
        (DeletionRequest.some_records("a", (3, 1)), {"a": [1, 3], "b": [], "c": []}),
        (DeletionRequest.some_records("c", np.array([0, 1])), {"a": [], "b": [], "c": [0, 1]}),
        (DeletionRequest.some_records("a", range(4)), {"a": [0, 1, 2, 3], "b": [], "c": []}),
    ],
)
def test_what_is_to_be_forgotten_and_nothing_else(request_, expected):
    assert found(request_) == expected
    for mask in request_.identify_all(CLIENTS).values():
        assert mask.dtype == np.bool_


def test_a_client_identifies_on_its_own():
    request = DeletionRequest.person("bob")
    assert request.identify("a", CLIENTS["a"]).tolist() == [False, True, False, False]
    assert request.identify("c", CLIENTS["c"]).tolist() == [False, False]
    assert DeletionRequest.some_records("a", (3,)).identify("b", CLIENTS["b"]).tolist() == [False] * 3


@given(st.sets(st.integers(0, 19), min_size=1))
def test_nothing_of_retained_data_is_lost(chosen):
    own = records(20)
    model = FlatModel(mlp(2, (), 2, 0))
    (mask,) = DeletionRequest.some_records("x", tuple(chosen)).identify_all({"x": own}).values()
    silo = Silo.of("x", own, model, PerRecordGradients(model)).forgetting(mask)
    assert len(silo.forgotten_records) == len(chosen)
    assert len(silo.retained_records) == 20 - len(chosen)
    together = np.empty((20, 2), dtype=np.float32)
    together[mask] = silo.forgotten_records.features.numpy()
    together[~mask] = silo.retained_records.features.numpy()
    assert np.array_equal(together, own.features.numpy())
    assert silo.leaves == (len(chosen) == 20)


# Requests that make no sense by themselves


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: DeletionRequest.whole_client(""), "client"),
        (lambda: DeletionRequest(scope=Scope.CLIENT), "client"),
        (lambda: DeletionRequest(scope=Scope.RECORDS, records=(1,)), "client"),
        (lambda: DeletionRequest.person(), "groups"),
        (lambda: DeletionRequest.person("bob", "bob"), "groups"),
        (lambda: DeletionRequest.person(7), "groups"),
        (lambda: DeletionRequest.some_records("a", ()), "records"),
        (lambda: DeletionRequest.some_records("a", (1, 2, 1)), "records"),
        (lambda: DeletionRequest.some_records("a", (1.0,)), "records"),
        (lambda: DeletionRequest.some_records("a", (True,)), "records"),
        (lambda: DeletionRequest.some_records("a", ("1",)), "records"),
        (lambda: DeletionRequest(scope=Scope.CLIENT, client="a", records=(1,)), "records"),
        (lambda: DeletionRequest(scope=Scope.RECORDS, client="a", records=(1,), groups=("bob",)), "groups"),
        (lambda: DeletionRequest(scope=Scope.GROUP, groups=("bob",), records=(1,)), "records"),
    ],
)
def test_requests_that_contradict_themselves(make, argument):
    with pytest.raises(ArgumentError) as caught:
        make()
    assert caught.value.argument == argument


# Requests that do not fit the clients


@pytest.mark.parametrize(
    ("request_", "argument", "expected"),
    [
        (DeletionRequest.whole_client("d"), "client", "one of a, b, c"),
        (DeletionRequest.person("bob", client="d"), "client", "one of a, b, c"),
        (DeletionRequest.some_records("d", (0,)), "client", "one of a, b, c"),
        (DeletionRequest.some_records("a", (4,)), "records", "between 0 and 3"),
        (DeletionRequest.some_records("a", (-1,)), "records", "between 0 and 3"),
        (DeletionRequest.some_records("a", range(5)), "records", "between 0 and 3"),
        (DeletionRequest.person("zoe"), "groups[0]", "at least one record at any client"),
        (DeletionRequest.person("bob", "zoe"), "groups[1]", "at least one record at any client"),
        (DeletionRequest.person("ann", client="b"), "groups[0]", "at least one record at client 'b'"),
    ],
)
def test_requests_that_fit_no_record(request_, argument, expected):
    with pytest.raises(ArgumentError) as caught:
        request_.identify_all(CLIENTS)
    assert caught.value.argument == argument
    assert expected in str(caught.value)


def test_persons_need_a_group_column():
    without = {"a": records(3)}
    with pytest.raises(ArgumentError, match="group column at client 'a'"):
        DeletionRequest.person("bob").identify_all(without)
    # Whoever is not asked need not have one.
    mixed = {"a": records(3), "b": CLIENTS["b"]}
    assert found(DeletionRequest.person("bob", client="b"), mixed) == {"a": [], "b": [0, 1]}


def test_a_client_without_records_has_nothing_to_forget():
    with pytest.raises(ArgumentError, match="at least one record"):
        DeletionRequest.whole_client("a").identify_all({"a": records(0), "b": records(2)})


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (DeletionRequest.whole_client("a"), "client a leaves; all of its records are to be forgotten"),
        (DeletionRequest.person("bob"), "all records of 1 person at every silo are to be forgotten"),
        (DeletionRequest.person("bob", "ann", client="a"), "all records of 2 persons at client a are to be forgotten"),
        (DeletionRequest.some_records("a", (0,)), "1 record of client a is to be forgotten"),
        (DeletionRequest.some_records("a", (0, 2)), "2 records of client a are to be forgotten"),
    ],
)
def test_words_that_name_nobody(request_, text):
    assert request_.describe() == text
    assert "bob" not in request_.describe()
