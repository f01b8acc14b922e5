"""Scheme bfv: parameters, the noise bound, what loads as a public key, and forged ciphertexts."""

from __future__ import annotations

import math
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tenseal as ts
from numpy.typing import NDArray

import secure_fu
from secure_fu.crypto import scheme
from secure_fu.crypto.bfv import (
    Bfv,
    BfvOpeningKey,
    BfvPublicKey,
    _PublicKeyMessage,
    _Total,
    _Upload,
    exact_sum_limit,
)
from secure_fu.crypto.wire import decode, encode
from secure_fu.errors import (
    CapacityError,
    CiphertextError,
    OpeningError,
    SecretKeyExposedError,
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
    assert len(BFV.encrypt(public, values)) <= 15.2 * length


# --- how many ciphertexts a sum holds -------------------------------------------------------------------------------


def test_the_limit_follows_from_the_worst_case_noise() -> None:
    """The terms in floating point: N/2 from rounding c1, 1 from c0 and the message, 5e-6 from the error over P."""
    per_ciphertext = N / 2 + 0.5 + 0.5 + (2 * N + 1) * 21 / 2**35
    assert BFV.max_clients == math.floor(Q / (2 * T) / per_ciphertext)
    assert BFV.max_clients == exact_sum_limit(Q) == 4094
    assert exact_sum_limit(2 * Q) in (2 * 4094, 2 * 4094 + 1)


def noise(key: BfvOpeningKey, block: bytes) -> tuple[float, float]:
    """The largest coefficient of the noise lies between these two, by SEAL's noise budget in whole bits."""
    context = key._look()
    vector = BFV._tenseal.load_block(context, block)
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
        held = [value for value in vars(accumulator).values() if isinstance(value, list)]
        assert [len(blocks) for blocks in held] == [2]


# --- public keys ----------------------------------------------------------------------------------------------------


def context_of(**changes: Any) -> Any:
    parameters: dict[str, Any] = {
        "poly_modulus_degree": N,
        "plain_modulus": T,
        "coeff_mod_bit_sizes": [54, 36],
        "n_threads": 1,
    }
    return ts.context(ts.SCHEME_TYPE.BFV, **{**parameters, **changes})


def wrapped(context: bytes, parameter_set: str = BFV.parameter_set) -> bytes:
    return encode(_PublicKeyMessage(parameter_set=parameter_set, context=context))


def only_public(context: Any) -> bytes:
    data: bytes = context.serialize(True, False, False, False)
    return data


def test_a_context_with_a_public_key_alone_is_accepted() -> None:
    public = BFV.load_public_key(wrapped(only_public(context_of())))
    BFV.encrypt(public, np.ones(3, dtype=np.int64))


@pytest.mark.parametrize("public_key", [True, False])
@pytest.mark.parametrize(("secret", "galois", "relin"), [(1, 0, 0), (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1)])
def test_a_context_that_holds_more_is_refused(secret: int, galois: int, relin: int, public_key: bool) -> None:
    context = context_of()
    if galois:
        context.generate_galois_keys()
    data = context.serialize(public_key, bool(secret), bool(galois), bool(relin))
    with pytest.raises(SecretKeyExposedError):
        BFV.load_public_key(wrapped(data))


def test_a_context_of_this_scheme_has_the_keys_that_are_refused() -> None:
    """Nothing but what we leave out keeps them from travelling."""
    key, _ = fresh()
    context = key._look()
    assert context.has_secret_key()
    assert context.has_relin_keys()
    with pytest.raises(SecretKeyExposedError):
        BFV.load_public_key(wrapped(context.serialize(True, True, False, False)))


@pytest.mark.parametrize(
    "changes",
    [
        {"plain_modulus": 1032193},
        {"coeff_mod_bit_sizes": [54, 37]},
        {"coeff_mod_bit_sizes": [36, 54]},
        {"coeff_mod_bit_sizes": [36, 36, 37]},
        {"poly_modulus_degree": 8192},
    ],
    ids=str,
)
def test_contexts_of_other_parameters_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(CiphertextError):
        BFV.load_public_key(wrapped(only_public(context_of(**changes))))


def test_a_public_key_of_other_parameters_inside_our_container_is_refused() -> None:
    foreign = only_public(context_of(plain_modulus=1032193))
    ours = only_public(context_of())
    parameters = ours[: 2 + ours[1]]
    with pytest.raises(CiphertextError, match="not a valid one"):
        BFV.load_public_key(wrapped(parameters + foreign[2 + foreign[1] :]))


def test_public_keys_that_are_refused() -> None:
    data = only_public(context_of())
    ckks = ts.context(ts.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40, 60], n_threads=1)
    symmetric = context_of(encryption_type=ts.ENCRYPTION_TYPE.SYMMETRIC)
    for bad in (
        b"",
        b"garbage",
        bytes(1000),
        data[:-1],
        data + b"\0",
        data + data,
        context_of().serialize(False, False, False, False),
        only_public(ckks),
        symmetric.serialize(False, False, False, False),
    ):
        with pytest.raises(CiphertextError):
            BFV.load_public_key(wrapped(bad))
    with pytest.raises(CiphertextError, match="bfv-8192"):
        BFV.load_public_key(wrapped(data, "bfv-8192"))
    with pytest.raises(WireError):
        BFV.load_public_key(data)
    with pytest.raises(WireError):
        BFV.load_public_key(context_of().serialize(True, True, False, False))


def test_a_refused_public_key_is_refused_again() -> None:
    """The cache of loaded keys holds no refusal, and no key under other bytes."""
    data = wrapped(context_of().serialize(True, True, False, False))
    for _ in range(2):
        with pytest.raises(SecretKeyExposedError):
            BFV.load_public_key(data)
    one, two = fresh()[1], fresh()[1]
    assert one.key_id != two.key_id


def test_keys_are_fresh() -> None:
    assert BFV.generate_key().public_bytes != BFV.generate_key().public_bytes


def test_the_public_key_cannot_decrypt() -> None:
    _, public = fresh()
    block = decode(_Upload, BFV.encrypt(public, np.ones(3, dtype=np.int64))).blocks[0]
    with pytest.raises(ValueError, match="secret_key"):
        BFV._tenseal.load_block(public._context, block).decrypt()


def test_equal_vectors_have_different_ciphertexts() -> None:
    _, public = fresh()
    zero = np.zeros(5, dtype=np.int64)
    assert BFV.encrypt(public, zero) != BFV.encrypt(public, zero)


# --- ciphertexts that SEAL's own encryption does not make -----------------------------------------------------------

Polynomial = NDArray[np.uint64]
ZERO: Polynomial = np.zeros(N, dtype=np.uint64)


def parms_ids() -> tuple[list[int], list[int]]:
    """The identifiers of the level of fresh ciphertexts and of the level of keys."""
    context = context_of().seal_context().data
    return context.first_parms_id(), context.key_parms_id()


DATA_LEVEL, KEY_LEVEL = parms_ids()


def seal_ciphertext(
    *polynomials: Polynomial,
    level: list[int] = DATA_LEVEL,
    ntt: bool = False,
    primes: int = 1,
    declared: int | None = None,
    degree: int = N,
) -> bytes:
    """A ciphertext as SEAL writes it: header, then compressed identifier, form, sizes, scale, and the words."""

    def header(content_size: int, compression: int = 0) -> bytes:
        return struct.pack("<HBBBBHQ", 0xA15E, 16, 4, 3, compression, 0, 16 + content_size)

    words = np.concatenate(polynomials).astype("<u8").tobytes()
    size = len(polynomials) // primes if declared is None else declared
    fields = struct.pack("<4Q?QQQdQ", *level, ntt, size, degree, primes, 1.0, 1)
    array = header(8 + len(words)) + struct.pack("<Q", len(words) // 8) + words
    compressed = zlib.compress(fields + array, 1)
    return header(len(compressed), compression=1) + compressed


def constant(value: int) -> Polynomial:
    polynomial = ZERO.copy()
    polynomial[0] = value
    return polynomial


def total_of(key: BfvOpeningKey, *blocks: bytes, length: int = N) -> bytes:
    return encode(_Total(key_id=key.key_id, length=length, blocks=blocks))


def test_the_forge_makes_valid_ciphertexts() -> None:
    """c0 = step * 5, c1 = 1 opens to 5 in every slot. Without this, the refusals below would say little."""
    key, public = fresh()
    honest = seal_ciphertext(constant(Q // T * 5), constant(1))
    BFV.accumulator(public, N).add(encode(_Upload(key_id=public.key_id, length=N, blocks=(honest,))))
    assert BFV.open(key, total_of(key, honest), length=N, bound=5).tolist() == [5] * N


ODD: dict[str, Callable[[], bytes]] = {
    "transparent": lambda: seal_ciphertext(constant(Q // T), ZERO),
    "one polynomial": lambda: seal_ciphertext(constant(1)),
    "three polynomials": lambda: seal_ciphertext(constant(1), constant(1), constant(1)),
    "NTT form": lambda: seal_ciphertext(constant(1), constant(1), ntt=True),
    "level of keys": lambda: seal_ciphertext(*[constant(1)] * 4, level=KEY_LEVEL, primes=2),
    "unknown level": lambda: seal_ciphertext(constant(1), constant(1), level=[1, 2, 3, 4]),
    "coefficient q": lambda: seal_ciphertext(constant(1), constant(Q)),
    "more polynomials declared than there are": lambda: seal_ciphertext(constant(1), constant(1), declared=3),
    "2^60 polynomials declared": lambda: seal_ciphertext(constant(1), constant(1), declared=1 << 60),
    "another degree declared": lambda: seal_ciphertext(constant(1), constant(1), degree=8192),
    "byte left over": lambda: seal_ciphertext(constant(1), constant(1)) + b"\0",
    "truncated": lambda: seal_ciphertext(constant(1), constant(1))[:-1],
    "header only": lambda: seal_ciphertext(constant(1), constant(1))[:16],
    "empty": lambda: b"",
    "of another parameter set": lambda: foreign_block(),
}


def foreign_block() -> bytes:
    serialized: bytes = ts.bfv_vector(context_of(plain_modulus=1032193), [1] * N).serialize()
    return serialized[serialized.index(b"\x5e\xa1") :]


@pytest.mark.parametrize("name", ODD)
def test_odd_ciphertexts_are_refused_and_leave_sum_and_key_as_they_were(name: str) -> None:
    key, public = fresh()
    length = 2 * N
    upload = BFV.encrypt(public, np.ones(length, dtype=np.int64))
    first = decode(_Upload, upload).blocks[0]
    accumulator = BFV.accumulator(public, length)
    accumulator.add(upload)
    with pytest.raises(CiphertextError):
        # The first block is sound, so nothing may have been added when the second is found out.
        accumulator.add(encode(_Upload(key_id=public.key_id, length=length, blocks=(first, ODD[name]()))))
    total = accumulator.total()
    with pytest.raises(CiphertextError):
        BFV.open(key, total_of(key, first, ODD[name](), length=length), length=length, bound=5)
    assert BFV.open(key, total, length=length, bound=1).tolist() == [1] * length


def test_the_number_of_blocks_must_fit_the_length() -> None:
    key, public = fresh()
    blocks = decode(_Upload, BFV.encrypt(public, np.ones(2 * N, dtype=np.int64))).blocks
    for length, given in ((2 * N, blocks[:1]), (N, blocks), (N, ()), (2 * N + 1, blocks)):
        with pytest.raises(CiphertextError, match="blocks for"):
            BFV.accumulator(public, length).add(encode(_Upload(key_id=public.key_id, length=length, blocks=given)))
        with pytest.raises(CiphertextError, match="blocks for"):
            BFV.open(key, total_of(key, *given, length=length), length=length, bound=1)


def test_an_upload_that_cancels_the_sum_is_refused() -> None:
    """SEAL refuses to make a ciphertext without a mask; the running sum must survive that."""
    key, public = fresh()
    one = seal_ciphertext(constant(Q // T * 5), constant(7))
    minus_one = seal_ciphertext(constant(Q // T * 5), constant(Q - 7))
    accumulator = BFV.accumulator(public, N)
    accumulator.add(encode(_Upload(key_id=public.key_id, length=N, blocks=(one,))))
    with pytest.raises(CiphertextError, match="cancels"):
        accumulator.add(encode(_Upload(key_id=public.key_id, length=N, blocks=(minus_one,))))
    assert accumulator.count == 1
    assert BFV.open(key, accumulator.total(), length=N, bound=5).tolist() == [5] * N


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
        BFV.open(key, total_of(key, seal_ciphertext(ZERO, constant(Q // T << shift))), length=N, bound=10**6)
    # In a short vector with a wide range only the padding gives it away.
    key, _ = fresh()
    with pytest.raises(OpeningError, match="padding"):
        BFV.open(
            key, total_of(key, seal_ciphertext(ZERO, constant(Q // T << shift)), length=1), length=1, bound=BFV.capacity
        )


def test_only_the_range_check_stands_between_the_forgery_and_the_key() -> None:
    """The limit that the docstring states: with a bound at the capacity, an opening would give the key away."""
    key, _ = fresh()
    forged = total_of(key, seal_ciphertext(ZERO, constant(Q // T)))
    slots = BFV.open(key, forged, length=N, bound=BFV.capacity)
    assert np.unique(slots).size > N // 2


def test_padding_must_be_zero() -> None:
    key, public = fresh()
    full = decode(_Upload, BFV.encrypt(public, np.array([1] * 10 + [0] * (N - 11) + [1]))).blocks
    with pytest.raises(OpeningError, match="padding"):
        BFV.open(key, total_of(key, *full, length=10), length=10, bound=1)


def test_registry_gives_this_scheme() -> None:
    assert isinstance(scheme("bfv"), Bfv)
