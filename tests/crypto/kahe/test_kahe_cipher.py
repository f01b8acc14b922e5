"""Encrypt, add, open: exact sums, key confirmation, keys that encrypt once, and errors that are what they should be."""

from __future__ import annotations

import copy
import math
import pickle
import threading
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kahe_oracle import (
    SEED,
    SETS,
    blocks_of,
    coefficients_of,
    expansion,
    from_residues,
    layout_of,
    negacyclic,
    read_wire,
    write_wire,
)
from numpy.typing import NDArray
from scipy import stats

from secure_fu.crypto.kahe import CiphertextSum, ClientKey, Layout, ParameterSet, cipher, open_sum
from secure_fu.crypto.kahe import _ntt as ntt
from secure_fu.crypto.kahe import _packing as packing
from secure_fu.crypto.kahe import _planes as planes
from secure_fu.discrete_gaussian import sample_discrete_gaussian
from secure_fu.errors import ArgumentError, CapacityError, OpeningError, ReuseError

BY_NAME = pytest.mark.parametrize("parameter_set", SETS, ids=lambda found: found.name)
Vector = NDArray[np.int64]


def summed(layout: Layout, vectors: list[Vector]) -> tuple[bytes, list[Vector]]:
    """The total of everybody's ciphertext, and everybody's key."""
    running, keys = CiphertextSum(layout), []
    for vector in vectors:
        key = ClientKey.generate(layout)
        running.add(key.encrypt(vector, seed=SEED))
        keys.append(key.coefficients)
    assert running.count == len(vectors)
    return running.total(), keys


def opened(layout: Layout, vectors: list[Vector]) -> Vector:
    total, keys = summed(layout, vectors)
    return open_sum(layout, total, np.sum(keys, axis=0), seed=SEED, uploads=len(vectors))


@BY_NAME
@pytest.mark.parametrize("digit_bits", [2, 10])
def test_sums_are_exact_over_several_blocks(parameter_set: ParameterSet, digit_bits: int) -> None:
    length = parameter_set.degree * (200 // digit_bits) + 77
    layout = layout_of(parameter_set.name, length=length, digit_bits=digit_bits, clients=3)
    assert layout.blocks > 1
    share = max(1, layout.largest_digit // 3)
    rng = np.random.default_rng(0)
    vectors = [rng.integers(-share, share, layout.length, endpoint=True) for _ in range(3)]
    if digit_bits == 2:
        vectors[1:] = [np.zeros_like(vectors[0])] * 2
    assert np.array_equal(opened(layout, vectors), sum(vectors))


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_sum_of_many_may_reach_the_largest_digit_everywhere_and_not_one_more(sign: int) -> None:
    layout = layout_of("kahe-1024-25", length=64, digit_bits=12, clients=300)
    vectors = [np.full(64, sign * (layout.largest_digit // 300)) for _ in range(300)]
    vectors[0] = vectors[0] + sign * (layout.largest_digit - 300 * (layout.largest_digit // 300))
    total, keys = summed(layout, vectors)
    key = np.sum(keys, axis=0)
    found = open_sum(layout, total, key, seed=SEED, uploads=300)
    assert found.tolist() == [sign * layout.largest_digit] * 64

    vectors[0] = vectors[0].copy()
    vectors[0][63] += sign
    total, keys = summed(layout, vectors)
    with pytest.raises(OpeningError, match="digit"):
        open_sum(layout, total, np.sum(keys, axis=0), seed=SEED, uploads=300)


@settings(max_examples=40)
@given(
    parameter_set=st.sampled_from(SETS),
    digit_bits=st.integers(2, 62),
    length=st.integers(1, 200),
    clients=st.integers(1, 5),
    seed=st.integers(0, 2**32),
)
def test_any_vectors(parameter_set: ParameterSet, digit_bits: int, length: int, clients: int, seed: int) -> None:
    try:
        layout = layout_of(parameter_set.name, length=length, digit_bits=digit_bits, clients=clients)
    except CapacityError:
        return
    rng = np.random.default_rng(seed)
    target = rng.integers(-layout.largest_digit, layout.largest_digit, length, endpoint=True)
    owner = rng.integers(0, clients, length)
    vectors = [np.where(owner == client, target, 0) for client in range(clients)]
    assert np.array_equal(opened(layout, vectors), target)


@pytest.mark.parametrize("name", ["kahe-1024-25", "kahe-2048-48"])
def test_a_ciphertext_is_what_the_definition_says(name: str) -> None:
    """Every coefficient minus a s, by schoolbook, is T e + m with a small error."""
    layout = layout_of(name, length=1300, digit_bits=11, clients=1)
    parameter_set = layout.parameter_set
    values = np.random.default_rng(1).integers(-1023, 1023, 1300, endpoint=True)
    key = ClientKey.generate(layout)
    rows = read_wire(layout, key.encrypt(values, seed=SEED))
    errors: list[int] = []
    found: list[list[int]] = []
    for block, n in blocks_of(layout):
        residues = []
        for i, p in enumerate(parameter_set.primes):
            a = coefficients_of(np.array(expansion(parameter_set, SEED, block, i)), p)
            mask = negacyclic(a, key.coefficients, p)[:n]
            row = rows[block * len(parameter_set.primes) + i]
            residues.append([(c - int(x)) % p for c, x in zip(row, mask, strict=True)])
        for each in zip(*residues, strict=True):
            rest = from_residues(each, parameter_set.primes)
            digits = []
            for _ in range(layout.digits):
                digits.append((rest + 1024) % 2048 - 1024)
                rest = (rest - digits[-1]) // 2048
            found.append(digits)
            errors.append(rest)
    flat = np.array(found).T.reshape(-1)
    assert flat[:1300].tolist() == values.tolist()
    assert not flat[1300:].any()
    assert 0 < max(map(abs, errors)) <= layout.error_bound(1)


@BY_NAME
def test_the_wrong_key_does_not_open(parameter_set: ParameterSet) -> None:
    layout = layout_of(parameter_set.name, length=64, digit_bits=8, clients=4)
    rng = np.random.default_rng(2)
    total, keys = summed(layout, [rng.integers(-30, 30, 64) for _ in range(4)])
    right = np.sum(keys, axis=0)
    one_off = right.copy()
    one_off[5] += 1
    another = ClientKey.generate(layout).coefficients
    one_missing, one_twice = right - keys[2], right + keys[1]
    for key in (another, one_missing, one_twice, one_off, -right, np.roll(right, 1), np.zeros_like(right)):
        with pytest.raises(OpeningError):
            open_sum(layout, total, key, seed=SEED, uploads=4)
    with pytest.raises(OpeningError):
        open_sum(layout, total, right, seed=bytes(32), uploads=4)
    open_sum(layout, total, right, seed=SEED, uploads=4)


def test_a_key_beyond_the_bound_for_the_number_of_uploads_is_refused() -> None:
    layout = layout_of(clients=9)
    total, keys = summed(layout, [np.zeros(100, dtype=np.int64)])
    key = keys[0].copy()
    key[0] = layout.key_bound(1) + 1
    with pytest.raises(OpeningError, match="key is beyond"):
        open_sum(layout, total, key, seed=SEED, uploads=1)


@BY_NAME
def test_an_altered_total_does_not_open(parameter_set: ParameterSet) -> None:
    layout = layout_of(parameter_set.name, length=64, digit_bits=8, clients=2)
    total, keys = summed(layout, [np.ones(64, dtype=np.int64)] * 2)
    stranger = ClientKey.generate(layout).encrypt(np.zeros(64, dtype=np.int64), seed=SEED)
    key = np.sum(keys, axis=0)
    assert open_sum(layout, total, key, seed=SEED, uploads=2).tolist() == [2] * 64
    rows = read_wire(layout, total)
    primes = parameter_set.primes
    with_a_stranger = [
        [(x + y) % p for x, y in zip(a, b, strict=True)]
        for a, b, p in zip(rows, read_wire(layout, stranger), primes, strict=True)
    ]
    doubled = [[2 * x % p for x in row] for row, p in zip(rows, primes, strict=True)]
    reversed_rows = [row[::-1] for row in rows]
    for altered in (with_a_stranger, doubled, reversed_rows, read_wire(layout, stranger)):
        with pytest.raises(OpeningError):
            open_sum(layout, write_wire(layout, altered), key, seed=SEED, uploads=2)


def test_one_altered_residue_shows_where_the_margin_is_large() -> None:
    """Key confirmation is no authentication, but a change modulo one of seven primes is a large change modulo q."""
    layout = layout_of("kahe-8192-196", length=11 * 16, digit_bits=16, clients=2)
    assert layout.parameter_set.modulus // layout.scale > 1000 * (2 * layout.error_bound(2) + 1)
    total, keys = summed(layout, [np.ones(layout.length, dtype=np.int64)] * 2)
    for row in range(7):
        rows = read_wire(layout, total)
        rows[row][3] ^= 1
        with pytest.raises(OpeningError):
            open_sum(layout, write_wire(layout, rows), np.sum(keys, axis=0), seed=SEED, uploads=2)


def test_more_error_than_the_uploads_can_have_is_refused() -> None:
    """A total of 200 that is said to be of one. The keys are zero, so that it is the errors that show."""
    layout = layout_of("kahe-4096-96", length=20_000, digit_bits=8, clients=200)
    none = np.zeros(layout.parameter_set.degree, dtype=np.int64)
    running = CiphertextSum(layout)
    for _ in range(200):
        running.add(ClientKey(layout, none).encrypt(np.zeros(20_000, dtype=np.int64), seed=SEED))
    assert not open_sum(layout, running.total(), none, seed=SEED, uploads=200).any()
    with pytest.raises(OpeningError, match="error coefficient"):
        open_sum(layout, running.total(), none, seed=SEED, uploads=1)


def test_a_key_encrypts_once() -> None:
    layout = layout_of()
    key = ClientKey.generate(layout)
    values = np.zeros(100, dtype=np.int64)
    with pytest.raises(CapacityError):
        key.encrypt(np.full(100, 1 << 15), seed=SEED)
    with pytest.raises(ArgumentError):
        key.encrypt(values, seed=b"short")
    key.encrypt(values, seed=SEED)
    for seed in (SEED, bytes(32)):
        with pytest.raises(ReuseError):
            key.encrypt(values, seed=seed)
    assert key.coefficients.shape == (8192,)


def test_of_several_threads_one_encrypts() -> None:
    layout = layout_of("kahe-1024-25", length=10, digit_bits=8)
    key = ClientKey.generate(layout)
    start, outcomes = threading.Barrier(8), []

    def encrypt() -> None:
        start.wait()
        try:
            outcomes.append(type(key.encrypt(np.zeros(10, dtype=np.int64), seed=SEED)))
        except ReuseError:
            outcomes.append(ReuseError)

    threads = [threading.Thread(target=encrypt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count(bytes) == 1
    assert outcomes.count(ReuseError) == 7


def test_a_key_does_not_encrypt_in_a_forked_child(monkeypatch: pytest.MonkeyPatch) -> None:
    key = ClientKey.generate(layout_of())
    monkeypatch.setattr(cipher.os, "getpid", lambda: -1)
    with pytest.raises(ReuseError):
        key.encrypt(np.zeros(100, dtype=np.int64), seed=SEED)


def test_a_key_does_not_show_or_leave() -> None:
    key = ClientKey.generate(layout_of())
    assert repr(key) == "<ClientKey: redacted>"
    for leave in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="secret"):
            leave(key)
    with pytest.raises(ValueError, match="read-only"):
        key.coefficients[0] = 0


def test_equal_vectors_give_unlike_ciphertexts_of_one_size() -> None:
    layout = layout_of(length=3000)
    vectors = [np.zeros(3000, dtype=np.int64)] * 2 + [np.full(3000, s * layout.largest_digit) for s in (-1, 1)]
    found = [ClientKey.generate(layout).encrypt(v, seed=SEED) for v in vectors]
    assert {len(c) for c in found} == {layout.ciphertext_bytes}
    assert len(set(found)) == 4
    same = sum(x == y for x, y in zip(found[0], found[1], strict=True)) / layout.ciphertext_bytes
    assert same == pytest.approx(1 / 256, abs=6 / math.sqrt(256 * layout.ciphertext_bytes))


def test_streams_decide_everything(seeded_stream: Callable[[int], Any]) -> None:
    layout = layout_of("kahe-2048-48")
    values = np.arange(100)

    def made(key_seed: int, error_seed: int) -> bytes:
        key = ClientKey.generate(layout, stream=seeded_stream(key_seed))
        return key.encrypt(values, seed=SEED, stream=seeded_stream(error_seed))

    assert made(1, 2) == made(1, 2)
    assert len({made(1, 2), made(1, 3), made(2, 2)}) == 3


@pytest.mark.parametrize(
    "values",
    [
        np.zeros(99, dtype=np.int64),
        np.zeros((1, 100), dtype=np.int64),
        np.zeros(100, dtype=np.int32),
        np.zeros(100),
        [0] * 100,
    ],
)
def test_only_vectors_of_the_layout_are_encrypted(values: Any) -> None:
    with pytest.raises(ArgumentError, match="values"):
        ClientKey.generate(layout_of()).encrypt(values, seed=SEED)


@pytest.mark.parametrize("excess", [1 << 15, -(1 << 15), 2**63 - 1, -(2**63)])
def test_too_large_a_coordinate_is_refused(excess: int) -> None:
    values = np.zeros(100, dtype=np.int64)
    values[50] = excess
    with pytest.raises(CapacityError, match="32767") as caught:
        ClientKey.generate(layout_of()).encrypt(values, seed=SEED)
    assert str(excess) not in str(caught.value)


def test_vectors_may_be_read_only_or_strided() -> None:
    layout = layout_of(length=50)
    wide = np.arange(100, dtype=np.int64)
    frozen = wide[::2].copy()
    frozen.flags.writeable = False
    for values in (wide[::2], frozen, wide[98::-2][::-1]):
        assert np.array_equal(opened(layout, [values]), wide[::2])


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"uploads": 0}, ArgumentError),
        ({"uploads": 4}, ArgumentError),
        ({"seed": bytes(31)}, ArgumentError),
        ({"summed_key": np.zeros(4096, dtype=np.int64)}, ArgumentError),
        ({"summed_key": np.zeros(8192)}, ArgumentError),
        ({"summed_key": np.full(8192, -(2**63))}, OpeningError),
    ],
)
def test_what_open_sum_is_given_is_checked(change: dict[str, Any], error: type[Exception]) -> None:
    layout = layout_of(clients=3)
    total, keys = summed(layout, [np.ones(100, dtype=np.int64)])
    right: dict[str, Any] = {"summed_key": keys[0], "seed": SEED, "uploads": 1}
    open_sum(layout, total, **right)
    with pytest.raises(error):
        open_sum(layout, total, **(right | change))


def fits(samples: Vector, sigma: Fraction) -> bool:
    """Whether samples look like the discrete Gaussian: chi-square over its single values, one in a million."""
    most = int(3 * sigma)
    support = np.arange(-200, 201)
    weights = np.exp(-(support**2) / (2 * float(sigma) ** 2))
    weights /= weights.sum()
    inner = np.abs(support) <= most
    expected = np.append(weights[inner], weights[~inner].sum()) * samples.size
    counts = np.array(
        [np.count_nonzero(samples == y) for y in support[inner]] + [np.count_nonzero(np.abs(samples) > most)]
    )
    variance = float(np.var(samples)) / float(sigma) ** 2
    spread = abs(variance - 1) * math.sqrt(samples.size / 2)
    return bool(stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > 1e-6 and spread < 5)


def errors_and_key(layout: Layout, values: Vector, clients: int = 1) -> tuple[Vector, Vector]:
    total, keys = summed(layout, [values] * clients)
    key = np.sum(keys, axis=0)
    found, errors = cipher._open(layout, total, key, seed=SEED, uploads=clients)
    assert np.array_equal(found, clients * values)
    return errors, key


@pytest.mark.parametrize("clients", [1, 25])
def test_errors_and_keys_are_discrete_gaussians_of_width_6_4(clients: int) -> None:
    layout = layout_of("kahe-8192-196", length=60_000, digit_bits=40, clients=clients)
    values = np.random.default_rng(3).integers(-1000, 1000, layout.length)
    errors, key = errors_and_key(layout, values, clients)
    assert errors.size >= 12_000
    sigma = Fraction(64, 10) * math.isqrt(clients)
    for samples in (errors, key):
        assert fits(samples, sigma)
        assert not fits(samples, sigma * Fraction(58, 64))
        assert not fits(samples, sigma * Fraction(70, 64))
    # Coefficients of the error do not go with each other, with the key or with the message.
    for other in (np.roll(errors, 1), np.resize(key, errors.size), values[: errors.size]):
        assert abs(float(np.corrcoef(errors, other)[0, 1])) * math.sqrt(errors.size) < 5.5


def test_a_scheme_with_smaller_errors_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = layout_of("kahe-8192-196", length=60_000, digit_bits=40, clients=1)

    def smaller(sigma_squared: Fraction, size: int, *, stream: Any) -> Vector:
        return sample_discrete_gaussian(sigma_squared * Fraction(58, 64) ** 2, size, stream=stream)

    monkeypatch.setattr(cipher, "sample_discrete_gaussian", smaller)
    errors, key = errors_and_key(layout, np.zeros(60_000, dtype=np.int64))
    assert not fits(errors, Fraction(64, 10))
    assert not fits(key, Fraction(64, 10))


def test_kernels_are_compiled_once() -> None:
    """For each, one signature whatever was done: a second would cost seconds and mean a type that nobody meant."""
    for name in ("kahe-1024-25", "kahe-8192-196"):
        layout = layout_of(name, length=30, digit_bits=8)
        opened(layout, [np.ones(30, dtype=np.int64)])
    kernels: list[Any] = [
        ntt._forward,
        ntt._multiply_inverse,
        packing._pack,
        packing._unpack,
        planes._write_planes,
        planes._read_planes,
        planes._fold,
    ]
    assert [len(kernel.signatures) for kernel in kernels] == [1] * len(kernels)
