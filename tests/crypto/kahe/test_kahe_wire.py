"""The wire form: one encoding, nothing left over, and a sum that a bad ciphertext does not touch."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kahe_oracle import SEED, SETS, blocks_of, layout_of, read_wire, write_wire

from secure_fu.crypto.kahe import CiphertextSum, ClientKey, Layout, ParameterSet, open_sum
from secure_fu.crypto.kahe._planes import fold, from_wire, to_wire
from secure_fu.errors import CapacityError, CiphertextError

BY_NAME = pytest.mark.parametrize("parameter_set", SETS, ids=lambda found: found.name)


def two_blocks(parameter_set: ParameterSet) -> Layout:
    digits = layout_of(parameter_set.name, length=10**6, digit_bits=12, clients=2).digits
    layout = layout_of(parameter_set.name, length=digits * (parameter_set.degree + 12), digit_bits=12, clients=2)
    assert layout.blocks == 2
    return layout


def random_rows(layout: Layout, seed: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [
        rng.choice(np.array([0, 1, p - 1, p // 2, int(rng.integers(p))]), n).tolist()
        for _, n in blocks_of(layout)
        for p in layout.parameter_set.primes
    ]


@BY_NAME
def test_planes_are_as_documented(parameter_set: ParameterSet) -> None:
    layout = two_blocks(parameter_set)
    rows = random_rows(layout, 1)
    residues = np.array([value for row in rows for value in row], dtype=np.uint32)
    data = to_wire(layout, residues)
    assert len(data) == layout.ciphertext_bytes
    assert data == write_wire(layout, rows)
    assert read_wire(layout, data) == rows
    assert np.array_equal(from_wire(layout, data), residues)


def test_known_bytes() -> None:
    """Eight coefficients and the last residue of each set's bits, by hand."""
    layout = layout_of("kahe-8192-196", length=8, digit_bits=8)
    assert layout.coefficients == 8
    residues = np.zeros(56, dtype=np.uint32)
    residues[:3] = 0x0123456, 0xF000001, 0xABCDEF0
    first = bytes.fromhex("5634 0100 f0de" + "0000" * 5 + "12 00 bc" + "00" * 5 + "f0 0a 00 00")
    assert to_wire(layout, residues) == first + bytes(6 * 28)
    layout = layout_of("kahe-1024-25", length=8, digit_bits=8)
    n = layout.coefficients
    residues = np.zeros(n, dtype=np.uint32)
    residues[1], residues[9] = 1 << 24, 0x1000203
    low, middle = bytearray(2 * n), bytearray(n)
    low[18:20] = b"\x03\x02"
    assert to_wire(layout, residues) == bytes(low) + bytes(middle) + b"\x02\x02" + bytes(n // 8 - 2)


@BY_NAME
def test_folding_is_addition_modulo_each_prime(parameter_set: ParameterSet) -> None:
    layout = two_blocks(parameter_set)
    one, two = random_rows(layout, 2), random_rows(layout, 3)
    total = np.array([value for row in one for value in row], dtype=np.uint32)
    fresh = np.array([value for row in two for value in row], dtype=np.uint32)
    fold(layout, total, fresh)
    primes = [p for _ in range(layout.blocks) for p in parameter_set.primes]
    expected = [(x + y) % p for a, b, p in zip(one, two, primes, strict=True) for x, y in zip(a, b, strict=True)]
    assert total.tolist() == expected


@BY_NAME
def test_a_residue_has_one_encoding(parameter_set: ParameterSet) -> None:
    layout = two_blocks(parameter_set)
    running = CiphertextSum(layout)
    rows = random_rows(layout, 4)
    running.add(write_wire(layout, rows))
    before = running.total()
    primes = [p for _ in range(layout.blocks) for p in parameter_set.primes]
    for row, p in enumerate(primes):
        for where in (0, len(rows[row]) - 1):
            for bad in {p, (1 << parameter_set.residue_bits) - 1}:
                kept, rows[row][where] = rows[row][where], bad
                data = write_wire(layout, rows)
                rows[row][where] = kept
                with pytest.raises(CiphertextError, match="below its prime"):
                    running.add(data)
                with pytest.raises(CiphertextError, match="below its prime"):
                    open_sum(layout, data, np.zeros(parameter_set.degree, dtype=np.int64), seed=SEED, uploads=1)
    assert running.count == 1
    assert running.total() == before
    running.add(write_wire(layout, rows))
    assert running.count == 2
    assert running.total() != before


@BY_NAME
def test_other_lengths_are_refused(parameter_set: ParameterSet) -> None:
    layout = two_blocks(parameter_set)
    data = bytes(layout.ciphertext_bytes)
    running = CiphertextSum(layout)
    for bad in (b"", data[:-1], data + b"\0", data * 2):
        with pytest.raises(CiphertextError, match="bytes"):
            running.add(bad)
        with pytest.raises(CiphertextError, match="bytes"):
            open_sum(layout, bad, np.zeros(parameter_set.degree, dtype=np.int64), seed=SEED, uploads=1)
    assert running.count == 0


@given(st.data())
def test_random_bytes_are_decoded_in_one_way_or_refused(data: st.DataObject) -> None:
    layout = layout_of("kahe-4096-96", length=20, digit_bits=10)
    raw = data.draw(st.binary(min_size=layout.ciphertext_bytes, max_size=layout.ciphertext_bytes))
    rows = read_wire(layout, raw)
    if all(max(row) < p for row, p in zip(rows, layout.parameter_set.primes, strict=True)):
        assert to_wire(layout, from_wire(layout, raw)) == raw
    else:
        with pytest.raises(CiphertextError):
            from_wire(layout, raw)


def test_no_more_than_the_cohort_and_not_nothing() -> None:
    layout = layout_of(clients=2)
    running = CiphertextSum(layout)
    with pytest.raises(CiphertextError, match="empty"):
        running.total()
    for _ in range(2):
        running.add(bytes(layout.ciphertext_bytes))
    with pytest.raises(CapacityError, match="2 ciphertexts"):
        running.add(bytes(layout.ciphertext_bytes))
    assert running.count == 2


def test_sums_do_not_depend_on_order_or_on_zero() -> None:
    layout = layout_of("kahe-2048-48", length=500, clients=4)
    rng = np.random.default_rng(6)
    uploads = [
        ClientKey.generate(layout).encrypt(rng.integers(-100, 100, 500), seed=SEED),
        write_wire(layout, random_rows(layout, 7)),
        bytes(layout.ciphertext_bytes),
    ]
    totals = set()
    for order in ([0, 1], [1, 0], [1, 2, 0], [2, 0, 1]):
        running = CiphertextSum(layout)
        for which in order:
            running.add(uploads[which])
        totals.add(running.total())
    assert len(totals) == 1


def test_memory_does_not_grow_with_the_number_added() -> None:
    layout = layout_of(length=300_000, clients=1000)
    upload = bytes(layout.ciphertext_bytes)
    residues = 4 * layout.residues
    tracemalloc.start()
    try:
        running = CiphertextSum(layout)
        running.add(upload)
        tracemalloc.reset_peak()
        for _ in range(5):
            running.add(upload)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1.1 * residues
    assert peak < 2.1 * residues
