"""Matrices over the field and the location of wrong rows, against slow arithmetic in Python's integers."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_fu.crypto.sharing import _decoding
from secure_fu.crypto.sharing._decoding import locate_surely, locate_unplanned, subsets, wrong_columns
from secure_fu.crypto.sharing._field import (
    FIELD_PRIME,
    LARGEST_LIFTED,
    evaluation_matrix,
    lagrange,
    lifted,
    null_space,
    parity_checks,
)

POINTS = st.lists(st.integers(1, FIELD_PRIME - 1), min_size=1, max_size=8, unique=True)


def value_at(polynomial: list[int], x: int) -> int:
    return sum(coefficient * x**power for power, coefficient in enumerate(polynomial)) % FIELD_PRIME


def draw_elements(data: st.DataObject, count: int, least: int = 0) -> list[int]:
    return data.draw(st.lists(st.integers(least, FIELD_PRIME - 1), min_size=count, max_size=count))


@given(POINTS, st.lists(st.integers(0, FIELD_PRIME - 1), max_size=5), st.data())
def test_interpolation(points: list[int], targets: list[int], data: st.DataObject) -> None:
    targets = [*targets, points[0]]  # at a kept point, its own value
    choices = np.array([data.draw(st.lists(st.booleans(), min_size=len(points), max_size=len(points)).filter(any))])
    choices = np.append(choices, [[True] * len(points)], axis=0)
    matrices = lagrange(np.array(points), np.array(targets), keep=choices)
    assert matrices.shape == (2, len(targets), len(points))
    assert np.array_equal(matrices[1:], lagrange(np.array(points), np.array(targets)))
    for kept, matrix in zip(choices, matrices, strict=True):
        polynomial = draw_elements(data, int(kept.sum()))
        values = np.array([value_at(polynomial, x) for x in points])
        values[~kept] = draw_elements(data, int((~kept).sum()))
        assert (matrix @ values % FIELD_PRIME).tolist() == [value_at(polynomial, x) for x in targets]


@given(POINTS, st.data())
def test_checks_are_zero_on_polynomials_and_on_nothing_near(points: list[int], data: st.DataObject) -> None:
    dimension = data.draw(st.integers(0, len(points)))
    polynomial = draw_elements(data, dimension)
    word = np.array([value_at(polynomial, x) for x in points], dtype=np.int64)
    powers = evaluation_matrix(np.array(points), dimension)
    assert np.array_equal(powers @ np.array(polynomial, dtype=np.int64) % FIELD_PRIME, word)
    checks = parity_checks(np.array(points), dimension)
    assert checks.shape == (len(points) - dimension, len(points))
    assert not (checks @ word % FIELD_PRIME).any()
    # No two polynomials agree at ``dimension`` points, so with fewer errors than that leaves, there is no other.
    wrong = data.draw(st.integers(0, len(points) - dimension))
    word[:wrong] += np.array(draw_elements(data, wrong, least=1), dtype=np.int64)
    assert (checks @ word % FIELD_PRIME).any() == (wrong > 0)


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5), st.integers(0, 2**32))
def test_the_null_space(rank: int, more_rows: int, more_columns: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    unit = np.eye(rank, dtype=np.int64)
    tall = np.concatenate([unit, rng.integers(0, FIELD_PRIME, (more_rows, rank))])
    wide = np.concatenate([unit, rng.integers(0, FIELD_PRIME, (rank, more_columns))], axis=1)
    matrix = rng.permutation(rng.permutation(tall @ wide % FIELD_PRIME), axis=1)
    basis = null_space(matrix)
    assert basis.shape == (rank + more_columns, more_columns)
    assert not (matrix @ basis % FIELD_PRIME).any()
    rows = basis.tolist()
    assert all(row in rows for row in np.eye(more_columns, dtype=np.int64).tolist())  # so its columns are independent


def test_lifting() -> None:
    values = np.array([0, 1, LARGEST_LIFTED, LARGEST_LIFTED + 1, FIELD_PRIME - 1, FIELD_PRIME + 2])
    assert lifted(values).tolist() == [0, 1, LARGEST_LIFTED, -LARGEST_LIFTED, -1, 2]


@settings(max_examples=150)
@given(st.integers(2, 12), st.integers(1, 6), st.integers(1, 5), st.integers(0, 2**32), st.data())
def test_half_of_the_spare_rows_are_located_whatever_the_errors(
    count: int, columns: int, error_rank: int, seed: int, data: st.DataObject
) -> None:
    dimension = data.draw(st.integers(1, count))
    rng = np.random.default_rng(seed)
    points = rng.permutation(np.arange(1, 40))[:count]
    words = evaluation_matrix(points, dimension) @ rng.integers(0, FIELD_PRIME, (dimension, columns)) % FIELD_PRIME
    assert not wrong_columns(points, words, dimension).size
    most = (count - dimension) // 2
    wrong = sorted(rng.permutation(count)[: data.draw(st.integers(0, most))].tolist())
    # Few values and a low rank: errors that agree with one another, and columns that only some of them spoil.
    errors = rng.integers(0, 2, (len(wrong), error_rank)) @ rng.integers(0, 3, (error_rank, columns))
    words[wrong] = (words[wrong] + errors) % FIELD_PRIME
    spoilt = tuple(row for row, error in zip(wrong, errors, strict=True) if error.any())
    if most or not spoilt:
        assert locate_surely(points, words, dimension) == spoilt


@pytest.mark.parametrize(
    ("count", "dimension", "columns"), [(10, 7, 2), (10, 7, 9), (12, 3, 1), (12, 3, 2), (12, 3, 8)]
)
def test_unplanned_errors_are_located_up_to_what_the_columns_determine(
    count: int, dimension: int, columns: int
) -> None:
    rng = np.random.default_rng(3)
    points = np.arange(1, count + 1)
    spare = count - dimension
    most = spare * columns // (columns + 1)
    for _ in range(40):
        for size in (1, most, most + 1):
            wrong = tuple(sorted(rng.permutation(count)[:size].tolist()))
            words = np.zeros((count, columns), dtype=np.int64)
            words[list(wrong)] = rng.integers(1, FIELD_PRIME, (size, columns))
            found = locate_unplanned(points, words, dimension)
            assert found == (wrong if size <= most else None)


def test_rows_that_spoil_other_columns_than_the_first_are_located_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns are taken in portions; here the second wrong row is not in the first portion."""
    monkeypatch.setattr(_decoding, "_ELIMINATION_STEPS", 1)
    for count, sure in [(10, None), (11, (1, 5))]:
        words = np.zeros((count, 40), dtype=np.int64)
        words[1, :20] = np.arange(1, 21)
        words[5, 20:] = np.arange(1, 21)
        points = np.arange(1, count + 1)
        assert locate_unplanned(points, words, 7) == (1, 5)
        assert locate_surely(points, words, 7) == sure  # two are no more than half of what is spare just for 11


def test_subsets_are_all_of_them_in_order() -> None:
    for count, size, portion in [(5, 2, 3), (5, 5, 10), (6, 1, 1)]:
        found = np.concatenate(list(subsets(count, size, portion)))
        left_out = [tuple(np.flatnonzero(~row).tolist()) for row in found]
        assert left_out == list(combinations(range(count), size))
