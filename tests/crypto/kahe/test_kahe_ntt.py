"""Products of ring elements, against schoolbook multiplication."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kahe_oracle import SETS, coefficients_of, evaluation_points, negacyclic, values_at
from numpy.typing import NDArray

from secure_fu import compiled
from secure_fu.crypto.kahe import ParameterSet
from secure_fu.crypto.kahe._ntt import ring_tables, shoup_quotients, times_key, transform_key

BY_NAME = pytest.mark.parametrize("parameter_set", SETS, ids=lambda found: found.name)
LARGEST_KEY = 32760


def transformed(parameter_set: ParameterSet, s: NDArray[np.int64]) -> NDArray[np.int64]:
    """The transform of s without the factor 1/N that transform_key puts in: shape (L, N)."""
    primes = np.array(parameter_set.primes, dtype=np.int64)[:, None]
    scaled, quotients = transform_key(s, ring_tables(parameter_set))
    assert (scaled < primes).all()
    assert np.array_equal(quotients, shoup_quotients(scaled, ring_tables(parameter_set).primes))
    return scaled.astype(np.int64) * parameter_set.degree % primes


def keys(n: int) -> dict[str, NDArray[np.int64]]:
    rng = np.random.default_rng(1)
    one = np.zeros(n, dtype=np.int64)
    one[0] = 1
    return {
        "gaussian": np.rint(rng.normal(0, 6.4, n)).astype(np.int64),
        "sum of very many": rng.integers(-LARGEST_KEY, LARGEST_KEY, n, endpoint=True),
        "largest": np.full(n, LARGEST_KEY),
        "smallest": np.full(n, -LARGEST_KEY),
        "one": one,
        "minus X^(n-1)": -np.roll(one, -1),
        "zero": np.zeros(n, dtype=np.int64),
    }


@BY_NAME
def test_the_transform_is_values_at_the_documented_points(parameter_set: ParameterSet) -> None:
    n = parameter_set.degree
    chosen = np.random.default_rng(2).choice(n, size=40, replace=False)
    chosen[:4] = 0, 1, n // 2, n - 1
    s = keys(n)["sum of very many"]
    for p, row in zip(parameter_set.primes, transformed(parameter_set, s), strict=True):
        points = evaluation_points(p, n)
        assert set(np.array([pow(int(x), n, p) for x in points[chosen]])) == {p - 1}
        assert np.array_equal(row[chosen], values_at(s, points[chosen], p))


@BY_NAME
def test_products_are_negacyclic_convolutions(parameter_set: ParameterSet) -> None:
    n = parameter_set.degree
    primes = np.array(parameter_set.primes, dtype=np.int64)[:, None]
    tables = ring_tables(parameter_set)
    rng = np.random.default_rng(3)
    # A small ring element has one transform for all primes, which is the way to one whose coefficients are known.
    a = rng.integers(-LARGEST_KEY, LARGEST_KEY, n, endpoint=True)
    block = transformed(parameter_set, a).astype(np.uint32)
    masks = np.empty(block.shape, dtype=np.uint32)
    for name, s in keys(n).items():
        times_key(block, transform_key(s, tables), tables, masks)
        assert (masks < 2 * primes).all(), name
        expected = negacyclic(a, s, 1 << 62)  # exact, not reduced
        expected = np.where(expected > 1 << 61, expected - (1 << 62), expected)
        assert np.array_equal(masks % primes, expected % primes), name


@pytest.mark.parametrize("fill", ["zeros", "largest", "uniform"])
@pytest.mark.parametrize("parameter_set", [s for s in SETS if s.degree <= 2048], ids=lambda found: found.name)
def test_any_transform_is_the_one_of_some_element(parameter_set: ParameterSet, fill: str) -> None:
    n, p = parameter_set.degree, parameter_set.primes[-1]
    tables = ring_tables(parameter_set)
    block = np.zeros((len(parameter_set.primes), n), dtype=np.uint32)
    if fill != "zeros":
        for row, prime in enumerate(parameter_set.primes):
            block[row] = prime - 1 if fill == "largest" else np.random.default_rng(4).integers(0, prime, n)
    s = keys(n)["gaussian"]
    masks = np.empty_like(block)
    times_key(block, transform_key(s, tables), tables, masks)
    a = coefficients_of(block[-1], p)
    assert np.array_equal(values_at(a, evaluation_points(p, n)[:50], p), block[-1][:50])
    assert np.array_equal(masks[-1] % p, negacyclic(a, s, p))


@BY_NAME
def test_the_key_is_left_alone_and_blocks_too(parameter_set: ParameterSet) -> None:
    tables = ring_tables(parameter_set)
    s = keys(parameter_set.degree)["gaussian"]
    block = transformed(parameter_set, s).astype(np.uint32)
    kept, kept_block = s.copy(), block.copy()
    key = transform_key(s, tables)
    kept_key = key[0].copy()
    out = np.empty_like(block)
    times_key(block, key, tables, out)
    first = out.copy()
    times_key(block, key, tables, out)
    assert np.array_equal(first, out)
    assert np.array_equal(kept, s)
    assert np.array_equal(kept_block, block)
    assert np.array_equal(kept_key, key[0])


def test_where_nothing_can_be_cached_kernels_compile_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    njit = compiled.numba.njit

    def without_a_cache(**options: Any) -> Any:
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return njit(**options)

    def twice(x: int) -> int:
        return 2 * x

    monkeypatch.setattr(compiled.numba, "njit", without_a_cache)
    assert compiled.kernel(twice)(21) == 42
