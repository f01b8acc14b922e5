"""Scheme bfv: parameters, the noise bound, what loads as a public key, and forged ciphertexts."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import secure_fu
from secure_fu.crypto import scheme
from secure_fu.crypto._packing import pack, packed_size, unpack
from secure_fu.crypto.bfv import (
    Bfv,
    BfvOpeningKey,
    BfvPublicKey,
    _Total,
    _Upload,
    exact_sum_limit,
)
from secure_fu.crypto.wire import decode, encode
from secure_fu.errors import (
    CapacityError,
    CiphertextError,
    OpeningError,
    WireError,
)

N = 4096
T = 1073692673
Q = 18014398509309953
BFV = Bfv()


def fresh() -> tuple[BfvOpeningKey, BfvPublicKey]:
    key = BFV.generate_key()
    return key, BFV.load_public_key(key.public_bytes)


def is_prime(number: int) -> bool:
    """Miller and Rabin, with bases that are proven for 64 bits."""
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37):
        power = pow(base, odd, number)
        if power not in (1, number - 1) and all(
            (power := power * power % number) != number - 1 for _ in range(twos - 1)
        ):
            return False
    return True


def largest_ntt_prime(bits: int) -> int:
    candidate = (1 << bits) - 2 * N + 1
    while not is_prime(candidate):
        candidate -= 2 * N
    return candidate


def test_parameters_are_what_they_are_said_to_be() -> None:
    assert largest_ntt_prime(30) == T
    assert largest_ntt_prime(54) == Q == BFV._tenseal.ciphertext_modulus
    assert BFV.capacity == (T - 1) // 2
    # q and P together stay under the 109 bits of the HomomorphicEncryption.org table for N = 4096.
    assert math.log2(Q) + 36 <= 109


def test_tenseal_is_loaded_on_demand() -> None:
    """And nothing of the package but its errors is: crypto can be used alone."""
    code = f"""
import sys, types
root = sys.modules["secure_fu"] = types.ModuleType("secure_fu")  # without what secure_fu/__init__.py imports
root.__path__ = [{str(Path(secure_fu.__file__).parent)!r}]
from secure_fu.crypto import scheme
from secure_fu.crypto._packing import pack, packed_size, unpack
scheme("plain")
assert not {{"tenseal", "torch"}} & set(sys.modules)
others = {{name.split(".")[1] for name in sys.modules if name.startswith("secure_fu.")}} - {{"crypto", "errors"}}
assert not others, others
scheme("bfv")
assert "tenseal" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_bytes_a_parameter() -> None:
    _, public = fresh()
    length = 50 * N
    values = np.random.default_rng(0).integers(-(10**8), 10**8, length)
    assert len(BFV.encrypt(public, values)) <= 13.6 * length


# --- how many ciphertexts a sum holds -------------------------------------------------------------------------------


def test_the_limit_follows_from_the_worst_case_noise() -> None:
    """The terms in floating point: N/2 from rounding c1, 1 from c0 and the message, 5e-6 from the error over P."""
    per_ciphertext = N / 2 + 0.5 + 0.5 + (2 * N + 1) * 21 / 2**35
    assert BFV.max_clients == math.floor(Q / (2 * T) / per_ciphertext)
    assert BFV.max_clients == exact_sum_limit(Q) == 4094
    assert exact_sum_limit(2 * Q) in (2 * 4094, 2 * 4094 + 1)


def noise(key: BfvOpeningKey, block: bytes) -> tuple[float, float]:
    """The largest coefficient of the noise lies between these two, by SEAL's noise budget in whole bits."""
    context = key._secret
    vector = BFV._tenseal._vector(context, unpack(block))
    budget = context.decryptor().data.invariant_noise_budget(vector.ciphertext()[0])
    return Q / (2 * T) / 2 ** (budget + 1), Q / (2 * T) / 2**budget


def test_fresh_noise_is_that_of_an_encryption_divided_by_the_special_prime() -> None:
    """Rounding gives N/18 coefficients of variance 1/12 each: about 15; without the division it would be about 240."""
    key, public = fresh()
    for _ in range(100):
        least, most = noise(key, decode(_Upload, BFV.encrypt(public, np.arange(N) - 5)).blocks[0])
        assert most <= 6.5 * 15.1 * 2
        assert least >= 15.1


def test_the_noise_of_two_thousand_uploads_stays_below_the_bound() -> None:
    key, public = fresh()
    vector = np.full(N, BFV.capacity // 2000, dtype=np.int64)
    accumulator = BFV.accumulator(public, N)
    for _ in range(2000):
        accumulator.add(BFV.encrypt(public, vector))
    total = accumulator.total()
    assert noise(key, decode(_Total, total).blocks[0])[1] < Q / (2 * T) * 2000 / BFV.max_clients
    assert np.array_equal(BFV.open(key, total, length=N, bound=BFV.capacity), 2000 * vector)


def test_one_upload_added_as_often_as_allowed_opens_exactly_and_once_more_is_refused() -> None:
    """The same ciphertext each time: its noise grows linearly, the case that bounds for independent noise miss."""
    key, public = fresh()
    vector = np.array([1, -1, BFV.capacity // BFV.max_clients], dtype=np.int64)
    upload = BFV.encrypt(public, vector)
    accumulator = BFV.accumulator(public, 3)
    for _ in range(BFV.max_clients):
        accumulator.add(upload)
    with pytest.raises(CapacityError, match=str(BFV.max_clients)):
        accumulator.add(upload)
    assert accumulator.count == BFV.max_clients
    opened = BFV.open(key, accumulator.total(), length=3, bound=BFV.capacity)
    assert np.array_equal(opened, BFV.max_clients * vector)


def test_the_accumulator_holds_one_ciphertext() -> None:
    _, public = fresh()
    accumulator: Any = BFV.accumulator(public, 2 * N)
    for _ in range(5):
        accumulator.add(BFV.encrypt(public, np.ones(2 * N, dtype=np.int64)))
        held = [value for value in vars(accumulator).values() if isinstance(value, (list, dict, tuple, np.ndarray))]
        assert [len(blocks) for blocks in held] == [2]


def test_equal_vectors_have_different_ciphertexts() -> None:
    _, public = fresh()
    zero = np.zeros(5, dtype=np.int64)
    assert BFV.encrypt(public, zero) != BFV.encrypt(public, zero)


# --- ciphertexts that encryption does not make ----------------------------------------------------------------------

ZERO: NDArray[np.uint64] = np.zeros(N, dtype=np.uint64)


def constant(value: int) -> NDArray[np.uint64]:
    polynomial = ZERO.copy()
    polynomial[0] = value
    return polynomial


def block(c0: NDArray[np.uint64], c1: NDArray[np.uint64]) -> bytes:
    return pack(np.concatenate([c0, c1]))


def upload_of(public: BfvPublicKey, *blocks: bytes, length: int = N) -> bytes:
    return encode(_Upload(key_id=public.key_id, length=length, blocks=blocks))


def total_of(key: BfvOpeningKey, *blocks: bytes, length: int = N) -> bytes:
    return encode(_Total(key_id=key.key_id, length=length, blocks=blocks))


def test_the_forge_makes_valid_ciphertexts() -> None:
    """c0 = step * 5, c1 = 1 opens to 5 in every slot. Without this, the refusals below would say little."""
    key, public = fresh()
    honest = block(constant(Q // T * 5), constant(1))
    BFV.accumulator(public, N).add(upload_of(public, honest))
    assert BFV.open(key, total_of(key, honest), length=N, bound=5).tolist() == [5] * N


ODD = {
    "transparent": block(constant(Q // T), ZERO),
    "all zero": block(ZERO, ZERO),
    "c0 has the coefficient q": block(constant(Q), constant(1)),
    "c1 has the coefficient q": block(constant(1), constant(Q)),
    "the last coefficient is 2^54 - 1": block(constant(1), np.roll(constant(2**54 - 1), -1)),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_ciphertexts_are_refused_and_leave_sum_and_key_as_they_were(name: str) -> None:
    key, public = fresh()
    length = 2 * N
    upload = BFV.encrypt(public, np.ones(length, dtype=np.int64))
    first = decode(_Upload, upload).blocks[0]
    accumulator = BFV.accumulator(public, length)
    accumulator.add(upload)
    total = accumulator.total()
    with pytest.raises(CiphertextError):
        # The first block is sound, so nothing may have been added when the second is found out.
        accumulator.add(upload_of(public, first, ODD[name], length=length))
    assert accumulator.total() == total
    with pytest.raises(CiphertextError):
        BFV.open(key, total_of(key, first, ODD[name], length=length), length=length, bound=5)
    assert BFV.open(key, total, length=length, bound=1).tolist() == [1] * length


def test_the_largest_coefficient_is_accepted() -> None:
    key, public = fresh()
    largest = block(np.full(N, Q - 1, dtype=np.uint64), np.full(N, Q - 1, dtype=np.uint64))
    accumulator = BFV.accumulator(public, N)
    accumulator.add(upload_of(public, largest))
    accumulator.add(upload_of(public, largest))
    assert decode(_Total, accumulator.total()).blocks == (pack(np.full(2 * N, Q - 2, dtype=np.uint64)),)
    assert key.key_id == public.key_id


def test_the_number_of_blocks_must_fit_the_length() -> None:
    key, public = fresh()
    blocks = decode(_Upload, BFV.encrypt(public, np.ones(2 * N, dtype=np.int64))).blocks
    for length, kept in ((2 * N, blocks[:1]), (N, blocks), (N, ()), (2 * N + 1, blocks)):
        with pytest.raises(CiphertextError, match="blocks for"):
            BFV.accumulator(public, length).add(upload_of(public, *kept, length=length))
        with pytest.raises(CiphertextError, match="blocks for"):
            BFV.open(key, total_of(key, *kept, length=length), length=length, bound=1)


def test_blocks_have_one_length() -> None:
    _, public = fresh()
    sound = block(constant(1), constant(1))
    for bad in (b"", sound[:-1], sound + b"\0"):
        with pytest.raises(WireError):
            upload_of(public, bad)


def test_a_sum_that_lost_its_mask_is_not_opened_and_recovers() -> None:
    key, public = fresh()
    accumulator = BFV.accumulator(public, N)
    accumulator.add(upload_of(public, block(constant(Q // T * 5), constant(7))))
    accumulator.add(upload_of(public, block(constant(Q // T * 5), constant(Q - 7))))
    with pytest.raises(CiphertextError, match="transparent"):
        BFV.open(key, accumulator.total(), length=N, bound=10)
    accumulator.add(BFV.encrypt(public, np.ones(N, dtype=np.int64)))
    assert BFV.open(key, accumulator.total(), length=N, bound=11).tolist() == [11] * N


def test_the_total_does_not_depend_on_the_order() -> None:
    """So that whoever has the uploads can compute it again to the byte."""
    _, public = fresh()
    uploads = [BFV.encrypt(public, np.arange(5000, dtype=np.int64) * factor) for factor in range(6)]
    totals = set()
    for order in (uploads, uploads[::-1], uploads[3:] + uploads[:3]):
        accumulator = BFV.accumulator(public, 5000)
        for upload in order:
            accumulator.add(upload)
        totals.add(accumulator.total())
    assert len(totals) == 1


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 2**54 - 1), max_size=12).map(lambda words: words[: len(words) // 4 * 4]))
def test_packing_is_a_bijection(words: list[int]) -> None:
    """Against Python's integers: word i is its low 48 bits at 6 i, its upper 6 bits at bit 6 i of what follows."""
    packed = pack(np.array(words, dtype=np.uint64))
    low = b"".join((word % 2**48).to_bytes(6, "little") for word in words)
    upper = sum((word >> 48) << 6 * index for index, word in enumerate(words))
    assert packed == low + upper.to_bytes(len(words) * 6 // 8, "little")
    assert len(packed) == packed_size(len(words))
    assert unpack(packed).tolist() == words


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 5).flatmap(lambda count: st.binary(min_size=27 * count, max_size=27 * count)))
def test_every_byte_string_of_the_right_length_is_a_packing(data: bytes) -> None:
    words = unpack(data)
    assert int(words.max(initial=0)) < 2**54
    assert pack(words) == data


@pytest.mark.parametrize("attempt", range(10))
def test_a_sum_under_another_key_does_not_open(attempt: int) -> None:
    """Also when the name of the key is forged: the opened coordinates are uniform modulo t, and one is out of range."""
    key, _ = fresh()
    _, other = fresh()
    blocks = decode(_Upload, BFV.encrypt(other, np.zeros(N, dtype=np.int64))).blocks
    with pytest.raises(OpeningError):
        BFV.open(key, total_of(key, *blocks), length=N, bound=BFV.capacity * 99 // 100)


def test_a_ciphertext_under_another_key_in_the_sum_does_not_open() -> None:
    key, public = fresh()
    _, other = fresh()
    accumulator = BFV.accumulator(public, 10)
    accumulator.add(BFV.encrypt(public, np.ones(10, dtype=np.int64)))
    forged = decode(_Upload, BFV.encrypt(other, np.ones(10, dtype=np.int64)))
    accumulator.add(encode(_Upload(key_id=public.key_id, length=10, blocks=forged.blocks)))
    with pytest.raises(OpeningError):
        BFV.open(key, accumulator.total(), length=10, bound=2)


@pytest.mark.parametrize("shift", range(0, 30, 3))
def test_the_forgery_that_reads_the_key_is_refused(shift: int) -> None:
    """c0 = 0, c1 = step * 2^shift opens to 2^shift times the secret key, which no honest sum looks like."""
    key, _ = fresh()
    with pytest.raises(OpeningError):
        BFV.open(key, total_of(key, block(ZERO, constant(Q // T << shift))), length=N, bound=10**6)
    # In a short vector with a wide range only the padding gives it away.
    key, _ = fresh()
    with pytest.raises(OpeningError, match="padding"):
        BFV.open(key, total_of(key, block(ZERO, constant(Q // T << shift)), length=1), length=1, bound=BFV.capacity)


def test_only_the_range_check_stands_between_the_forgery_and_the_key() -> None:
    """The limit that the docstring states: with a bound at the capacity, an opening would give the key away."""
    key, _ = fresh()
    forged = total_of(key, block(ZERO, constant(Q // T)))
    slots = BFV.open(key, forged, length=N, bound=BFV.capacity)
    assert np.unique(slots).size > N // 2


def test_padding_must_be_zero() -> None:
    key, public = fresh()
    full = decode(_Upload, BFV.encrypt(public, np.array([1] * 10 + [0] * (N - 11) + [1]))).blocks
    with pytest.raises(OpeningError, match="padding"):
        BFV.open(key, total_of(key, *full, length=10), length=10, bound=1)


def test_registry_gives_this_scheme() -> None:
    assert isinstance(scheme("bfv"), Bfv)
