"""Digits and errors to residues and back, against Python's integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kahe_oracle import SETS, blocks_of, layout_of, packed
from numpy.typing import NDArray

from secure_fu.crypto.kahe import Layout
from secure_fu.crypto.kahe import _packing as packing
from secure_fu.errors import CapacityError, OpeningError


def pack(layout: Layout, values: NDArray[np.int64], errors: NDArray[np.int64], masks: list[Any]) -> list[Any]:
    frozen = values.view()
    frozen.flags.writeable = False
    out = []
    for block, n in blocks_of(layout):
        start = block * layout.parameter_set.degree
        residues = np.full(len(layout.parameter_set.primes) * n, 0xFFFFFFFF, dtype=np.uint32)
        packing.pack_block(layout, block, frozen, errors[start : start + n], masks[block], residues)
        out.append(residues)
    return out


def unpack(layout: Layout, residues: Sequence[Any], masks: list[Any], bound: int) -> tuple[Any, Any]:
    values = np.full(layout.length, 1 << 62, dtype=np.int64)
    errors = np.full(layout.coefficients, 1 << 62, dtype=np.int64)
    for block, n in blocks_of(layout):
        start = block * layout.parameter_set.degree
        packing.unpack_block(
            layout,
            block,
            bound=bound,
            residues=residues[block],
            masks=masks[block],
            values=values,
            errors=errors[start : start + n],
        )
    return values, errors


def masks_of(layout: Layout, kind: str) -> list[Any]:
    """Masks below twice the prime: what the transform leaves."""
    primes = np.array(layout.parameter_set.primes, dtype=np.uint32)[:, None]
    shape = layout.blocks, primes.size, layout.parameter_set.degree
    if kind == "zero":
        return list(np.zeros(shape, dtype=np.uint32))
    if kind == "largest":
        return list(np.broadcast_to(2 * primes - 1, shape).copy())
    return list(np.random.default_rng(0).integers(0, 2 * primes, size=shape, dtype=np.uint32))


def numbers(bound: int, size: int, kind: str) -> NDArray[np.int64]:
    rng = np.random.default_rng(1)
    if kind == "uniform":
        return rng.integers(-bound, bound, size, endpoint=True)
    if kind == "either end":
        return rng.choice(np.array([-bound, bound]), size)
    return np.full(size, {"top": bound, "bottom": -bound, "zero": 0, "one": min(1, bound), "minus one": -1}[kind])


def check(layout: Layout, *, values: str, errors: str, masks: str) -> None:
    bound = layout.error_bound(layout.clients)
    v = numbers(layout.largest_digit, layout.length, values)
    e = numbers(bound, layout.coefficients, errors)
    a = masks_of(layout, masks)
    rows = pack(layout, v, e, a)
    expected = packed(layout, v.tolist(), e.tolist())
    for block, n in blocks_of(layout):
        start = block * layout.parameter_set.degree
        for i, p in enumerate(layout.parameter_set.primes):
            found = rows[block][i * n : (i + 1) * n].tolist()
            hidden = [(x + int(m)) % p for x, m in zip(expected[start : start + n], a[block][i], strict=False)]
            assert found == hidden
    found_values, found_errors = unpack(layout, rows, a, bound)
    assert np.array_equal(found_values, v)
    assert np.array_equal(found_errors, e)


KINDS = ["uniform", "either end", "top", "bottom", "zero", "one", "minus one"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("digit_bits", [*range(2, 43), 47, 61, 62])
def test_every_digit_width_at_the_extremes(digit_bits: int, kind: str) -> None:
    layout = layout_of(length=700, digit_bits=digit_bits)
    check(layout, values=kind, errors=kind, masks="uniform")


@pytest.mark.parametrize("masks", ["zero", "largest", "uniform"])
@pytest.mark.parametrize("parameter_set", SETS, ids=lambda found: found.name)
def test_every_set_over_more_than_one_block(parameter_set: Any, masks: str) -> None:
    # A block and a bit, the second cut short; the last digits of the last coefficients are padding.
    digits = layout_of(parameter_set.name, length=10**6, digit_bits=12, clients=2).digits
    layout = layout_of(parameter_set.name, length=digits * (parameter_set.degree + 20) - 3, digit_bits=12, clients=2)
    assert layout.blocks == 2
    assert layout.coefficients % parameter_set.degree not in (0, 8)
    check(layout, values="either end", errors="either end", masks=masks)


@settings(max_examples=60)
@given(
    parameter_set=st.sampled_from(SETS),
    digit_bits=st.integers(2, 62),
    length=st.integers(1, 3000),
    clients=st.sampled_from([1, 2, 1000, 100_000]),
    values=st.sampled_from(KINDS),
    errors=st.sampled_from(KINDS),
    masks=st.sampled_from(["zero", "largest", "uniform"]),
)
@example(SETS[0], 28, 3000, 1, "top", "bottom", "largest")
@example(SETS[0], 31, 3000, 1, "bottom", "bottom", "uniform")
@example(SETS[0], 32, 3000, 1, "bottom", "bottom", "uniform")
def test_any_layout(
    parameter_set: Any, digit_bits: int, length: int, clients: int, values: str, errors: str, masks: str
) -> None:
    try:
        layout = layout_of(parameter_set.name, length=length, digit_bits=digit_bits, clients=clients)
    except CapacityError:
        return
    check(layout, values=values, errors=errors, masks=masks)


def plain(layout: Layout, coefficients: list[int]) -> list[Any]:
    """Residues of given T e + m, under masks of zero."""
    rows = []
    for block, n in blocks_of(layout):
        start = block * layout.parameter_set.degree
        part = coefficients[start : start + n]
        rows.append(np.array([x % p for p in layout.parameter_set.primes for x in part], dtype=np.uint32))
    return rows


@pytest.mark.parametrize("parameter_set", SETS, ids=lambda found: found.name)
@pytest.mark.parametrize("where", [0, 7, -1])
@pytest.mark.parametrize("sign", [-1, 1])
def test_an_error_beyond_its_bound_is_refused(parameter_set: Any, where: int, sign: int) -> None:
    layout = layout_of(parameter_set.name, length=40, digit_bits=10)
    bound = layout.error_bound(2)
    values = numbers(layout.largest_digit, 40, "uniform").tolist()
    masks = masks_of(layout, "zero")
    errors = [0] * layout.coefficients
    errors[where] = sign * bound
    assert unpack(layout, plain(layout, packed(layout, values, errors)), masks, bound)[1].tolist() == errors
    q = parameter_set.modulus
    room = q // layout.scale // 2 - 1
    for size in (bound + 1, 2 * bound, room // 2, room, 1 << 64, 1 << 96):
        if size > room:
            continue
        errors[where] = sign * size
        with pytest.raises(OpeningError, match="error coefficient"):
            unpack(layout, plain(layout, packed(layout, values, errors)), masks, bound)


@pytest.mark.parametrize("parameter_set", SETS, ids=lambda found: found.name)
def test_uniform_residues_are_refused(parameter_set: Any) -> None:
    """They are what a wrong key gives."""
    layout = layout_of(parameter_set.name, length=2000, digit_bits=10, clients=2)
    masks, bound, primes = masks_of(layout, "zero"), layout.error_bound(2), parameter_set.primes
    rng = np.random.default_rng(5)
    rows = [np.concatenate([rng.integers(0, p, n, dtype=np.uint32) for p in primes]) for _, n in blocks_of(layout)]
    with pytest.raises(OpeningError, match="error coefficient"):
        unpack(layout, rows, masks, bound)


@pytest.mark.parametrize("digit_bits", [2, 16, 31, 33, 62])
def test_one_unit_beyond_the_largest_digit_is_refused(digit_bits: int) -> None:
    layout = layout_of(length=300, digit_bits=digit_bits)
    masks = masks_of(layout, "zero")
    for excess in (layout.largest_digit + 1, -layout.largest_digit - 1):
        for where in (0, 50, 299):
            values = [0] * 300
            values[where] = excess
            rows = plain(layout, packed(layout, values, [0] * layout.coefficients))
            with pytest.raises(OpeningError, match="digit"):
                unpack(layout, rows, masks, layout.error_bound(1))


def test_padding_that_is_not_zero_is_refused() -> None:
    layout = layout_of(length=301, digit_bits=16)
    size = layout.digits * layout.coefficients
    assert size > 301
    masks = masks_of(layout, "zero")
    errors = [0] * layout.coefficients
    for where in (301, size - 1):
        for digit in (1, -1, layout.largest_digit):
            values = [0] * size
            values[where] = digit
            with pytest.raises(OpeningError, match="padding"):
                unpack(layout, plain(layout, packed(layout, values, errors)), masks, layout.error_bound(1))
