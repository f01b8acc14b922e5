"""Parameter sets and layouts: what fits, what is refused, what is smallest."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kahe_oracle import SETS, layout_of

from secure_fu.crypto.kahe import PARAMETER_SETS, Layout, ParameterSet, choose_layout
from secure_fu.crypto.sharing import FIELD_PRIME
from secure_fu.discrete_gaussian import tail_bound
from secure_fu.errors import ArgumentError, CapacityError

BY_NAME = pytest.mark.parametrize("parameter_set", SETS, ids=lambda found: found.name)

# HomomorphicEncryption.org, 128 bits: the largest log2 q, and in the post-quantum column.
SIGMA = Fraction(1024, 25)
TABLE = {1024: (27, 25), 2048: (54, 51), 4096: (109, 101), 8192: (218, 202)}


def is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


@BY_NAME
def test_moduli_are_the_largest_friendly_primes_within_the_table(parameter_set: ParameterSet) -> None:
    step = 2 * parameter_set.degree
    top = 1 << parameter_set.residue_bits
    friendly = (p for p in range((top - 2) // step * step + 1, 0, -step) if is_prime(p))
    assert parameter_set.primes == tuple(next(friendly) for _ in parameter_set.primes)
    assert min(parameter_set.primes) >= top // 2
    assert math.log2(parameter_set.modulus) <= TABLE[parameter_set.degree][1]
    assert PARAMETER_SETS[parameter_set.name] is parameter_set
    degree, bits = parameter_set.name.removeprefix("kahe-").split("-")
    assert int(degree) == parameter_set.degree
    assert math.ceil(math.log2(parameter_set.modulus)) == int(bits)


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"degree": 1000}, "degree"),
        ({"degree": 8}, "degree"),
        ({"residue_bits": 29}, "residue_bits"),
        ({"residue_bits": 23}, "residue_bits"),
        ({"primes": ()}, "primes"),
        ({"primes": (33550339,)}, "primes"),
        ({"primes": (16760833,)}, "primes"),
        ({"primes": (33550337, 33550337)}, "primes"),
    ],
)
def test_a_wrong_parameter_set_is_refused(change: dict[str, object], argument: str) -> None:
    right: dict[str, object] = {"name": "x", "degree": 1024, "residue_bits": 25, "primes": (33550337,)}
    ParameterSet(**right)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=argument):
        ParameterSet(**(right | change))  # type: ignore[arg-type]


LAYOUTS = st.builds(
    dict,
    parameter_set=st.sampled_from(SETS),
    length=st.integers(1, 3_000_000),
    digit_bits=st.integers(2, 62),
    clients=st.integers(1, 133_109),
)


@given(LAYOUTS)
def test_what_a_layout_promises(arguments: dict[str, object]) -> None:
    try:
        layout = Layout(**arguments)  # type: ignore[arg-type]
    except CapacityError:
        layout = None
    parameter_set = arguments["parameter_set"]
    assert isinstance(parameter_set, ParameterSet)
    q, b, n = parameter_set.modulus, int(str(arguments["digit_bits"])), int(str(arguments["clients"]))
    length = int(str(arguments["length"]))

    def bound(size: int) -> int:
        return tail_bound(SIGMA * n, size, log2_probability=-128.0)

    def honest(digits: int, coefficients: int) -> int:
        return (2 * bound(coefficients) + 1) << (digits * b)

    def holds(digits: int, coefficients: int) -> bool:
        one, power = honest(digits, coefficients), min(coefficients, 128)  # 128 halves are enough, and 2 one <= q
        return coefficients * digits >= length and 2 * one <= q and one**power << 128 <= q**power

    if layout is None:
        assert not holds(1, 8 * (length // 8 + 16))
        return
    most = bound(layout.coefficients)
    assert layout.error_bound(n) == most
    assert layout.scale == 2 ** (layout.digits * b)
    assert 2 * (2 * most + 1) * layout.scale <= q
    assert layout.coefficients % 8 == 0
    assert holds(layout.digits, layout.coefficients)
    if layout.coefficients > 8:
        assert not any(holds(digits, layout.coefficients - 8) for digits in range(1, 99))
    assert layout.largest_digit == 2 ** (b - 1) - 1
    assert layout.blocks == math.ceil(layout.coefficients / parameter_set.degree)
    bits = layout.coefficients * len(parameter_set.primes) * parameter_set.residue_bits
    assert layout.ciphertext_bytes * 8 == bits
    assert 2 * layout.key_bound(n) < FIELD_PRIME
    assert layout.key_bound(1) == tail_bound(SIGMA, parameter_set.degree, log2_probability=-128.0)


@BY_NAME
def test_very_short_vectors_carry_enough_for_key_confirmation(parameter_set: ParameterSet) -> None:
    layout = layout_of(parameter_set.name, length=1, digit_bits=8)
    assert layout.digits == 1
    q, honest = parameter_set.modulus, (2 * layout.error_bound(3) + 1) * layout.scale
    assert honest**layout.coefficients * 2**128 <= q**layout.coefficients
    if layout.coefficients > 8:
        fewer = layout.coefficients - 8
        assert honest**fewer * 2**128 > q**fewer


def test_long_vectors_carry_all_digits_that_fit() -> None:
    found = {name: layout_of(name, length=1_000_000, clients=10) for name in list(PARAMETER_SETS)[:3]}
    assert {name: layout.digits for name, layout in found.items()} == {
        "kahe-8192-196": 11,
        "kahe-4096-96": 5,
        "kahe-2048-48": 2,
    }
    assert found["kahe-8192-196"].ciphertext_bytes == 90912 * 7 * 28 // 8


def test_too_many_clients_are_refused() -> None:
    assert layout_of(length=10**6, clients=133_109).digits == 11
    with pytest.raises(CapacityError, match="133110 keys"):
        layout_of(clients=133_110)
    with pytest.raises(CapacityError, match="keys"):
        layout_of(clients=10**9)
    # The error of many leaves room for fewer digits.
    found = [layout_of(length=10**6, digit_bits=23, clients=n).digits for n in (1, 100, 10_000, 133_109)]
    assert found == [8, 8, 7, 7]


@pytest.mark.parametrize(
    ("name", "digit_bits", "clients"),
    [("kahe-1024-25", 17, 2), ("kahe-1024-25", 16, 3), ("kahe-2048-48", 40, 2), ("kahe-1024-25", 62, 1)],
)
def test_digits_that_do_not_fit_are_refused(name: str, digit_bits: int, clients: int) -> None:
    with pytest.raises(CapacityError, match="digit"):
        layout_of(name, digit_bits=digit_bits, clients=clients)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("parameter_set", "kahe-8192-196"),
        ("parameter_set", ParameterSet(name="x", degree=1024, residue_bits=25, primes=(33550337,))),
        ("length", 0),
        ("length", 2**31 + 1),
        ("length", True),
        ("digit_bits", 1),
        ("digit_bits", 63),
        ("clients", 0),
        ("clients", 1.0),
    ],
)
def test_arguments_outside_their_domain_are_refused(argument: str, value: object) -> None:
    right: dict[str, object] = {"parameter_set": SETS[0], "length": 10, "digit_bits": 16, "clients": 2}
    Layout(**right)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=argument):
        Layout(**(right | {argument: value}))  # type: ignore[arg-type]


@pytest.mark.parametrize("uploads", [0, 4, -1])
def test_bounds_are_for_a_number_of_uploads_within_the_cohort(uploads: int) -> None:
    layout = layout_of(clients=3)
    for bound in (layout.error_bound, layout.key_bound):
        assert bound(1) < bound(2) < bound(3)
        with pytest.raises(ArgumentError, match="uploads"):
            bound(uploads)


@given(
    length=st.integers(1, 400_000),
    clients=st.integers(1, 140_000),
    magnitude=st.integers(0, 2**62),
    per_degree=st.integers(0, 30),
    allowed=st.sets(st.sampled_from(sorted(PARAMETER_SETS))),
)
def test_the_smallest_layout_is_chosen(
    length: int, clients: int, magnitude: int, per_degree: int, allowed: set[str]
) -> None:
    possible = []
    for name in allowed:
        for digit_bits in range(2, 63):
            if 2 ** (digit_bits - 1) - 1 >= magnitude:
                try:
                    layout = layout_of(name, length=length, digit_bits=digit_bits, clients=clients)
                except CapacityError:
                    break
                possible.append(layout)
    arguments = {"length": length, "clients": clients, "magnitude": magnitude, "allowed": allowed}
    if not possible:
        with pytest.raises(CapacityError):
            choose_layout(share_bytes=lambda degree: per_degree * degree, **arguments)  # type: ignore[arg-type]
        return
    chosen = choose_layout(share_bytes=lambda degree: per_degree * degree, **arguments)  # type: ignore[arg-type]

    def size(layout: Layout) -> int:
        return layout.ciphertext_bytes + per_degree * layout.parameter_set.degree

    assert chosen.parameter_set.name in allowed
    assert chosen.largest_digit >= magnitude
    assert chosen.digit_bits == min(layout.digit_bits for layout in possible)
    assert size(chosen) == min(size(layout) for layout in possible)


def test_the_choice_depends_on_what_shares_cost() -> None:
    def chosen(length: int, per_coefficient: int) -> str:
        return choose_layout(
            length=length,
            clients=10,
            magnitude=2000,
            share_bytes=lambda degree: per_coefficient * degree,
            allowed=PARAMETER_SETS,
        ).parameter_set.name

    assert [chosen(length, 3) for length in (50, 5000, 50_000, 1_000_000)] == list(reversed(PARAMETER_SETS))
    assert chosen(20_000, 0) == "kahe-8192-196"
    assert chosen(20_000, 40) == "kahe-1024-25"


def test_an_unknown_name_is_no_choice() -> None:
    with pytest.raises(ArgumentError, match="allowed"):
        choose_layout(length=1, clients=1, magnitude=1, share_bytes=lambda degree: 0, allowed=["kahe-1"])
