"""What every scheme must do: exact sums, refusals, keys that open once."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from secure_fu.crypto import KeyHolderScheme, OpeningKey, PublicKey, scheme
from secure_fu.crypto.plain import _Upload as PlainUpload
from secure_fu.crypto.scheme import check_opened
from secure_fu.crypto.wire import encode
from secure_fu.errors import (
    ArgumentError,
    CapacityError,
    CiphertextError,
    CryptoError,
    OpeningError,
    ReuseError,
    WireError,
)

SCHEMES = ["bfv", "plain"]
# Around the borders of a ciphertext of 4096 integers, and elsewhere.
LENGTHS = [1, 2, 100, 4095, 4096, 4097, 8191, 8192, 8193]


@pytest.fixture(params=SCHEMES)
def one(request: pytest.FixtureRequest) -> KeyHolderScheme:
    return scheme(request.param)


def fresh(additive: KeyHolderScheme) -> tuple[OpeningKey, PublicKey]:
    key = additive.generate_key()
    return key, additive.load_public_key(key.public_bytes)


def summed(additive: KeyHolderScheme, public: PublicKey, vectors: list[NDArray[np.int64]]) -> bytes:
    accumulator = additive.accumulator(public, vectors[0].size)
    for vector in vectors:
        accumulator.add(additive.encrypt(public, vector))
    assert accumulator.count == len(vectors)
    return accumulator.total()


@pytest.mark.parametrize("name", SCHEMES)
@settings(max_examples=25, deadline=None)
@given(
    cohort=st.integers(1, 30),
    length=st.sampled_from(LENGTHS) | st.integers(1, 9000),
    bits=st.integers(0, 24),
    seed=st.integers(0, 2**32),
)
@example(cohort=30, length=8193, bits=24, seed=0)
@example(cohort=1, length=4096, bits=0, seed=0)
def test_the_sum_is_exact(name: str, cohort: int, length: int, bits: int, seed: int) -> None:
    additive = scheme(name)
    rng = np.random.default_rng(seed)
    vectors = [rng.integers(-(2**bits), 2**bits, length, endpoint=True) for _ in range(cohort)]
    expected = [sum(column) for column in zip(*(vector.tolist() for vector in vectors), strict=True)]
    additive.check_capacity(clients=cohort, magnitude=2**bits)
    key, public = fresh(additive)
    opened = additive.open(key, summed(additive, public, vectors), length=length, bound=cohort * 2**bits)
    assert opened.dtype == np.int64
    assert opened.shape == (length,)
    assert opened.tolist() == expected


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("length", [1, 4096, 4097])
def test_sums_up_to_the_capacity_open(one: KeyHolderScheme, length: int, sign: int) -> None:
    capacity = one.capacity
    key, public = fresh(one)
    parts = [capacity // 3, capacity // 3, capacity - 2 * (capacity // 3)]
    vectors = [np.full(length, sign * part, dtype=np.int64) for part in parts]
    opened = one.open(key, summed(one, public, vectors), length=length, bound=capacity)
    assert opened.tolist() == [sign * capacity] * length


def test_a_single_upload_up_to_the_capacity_opens_and_one_beyond_is_refused(one: KeyHolderScheme) -> None:
    key, public = fresh(one)
    extremes = np.array([one.capacity, -one.capacity, 0], dtype=np.int64)
    assert one.open(key, summed(one, public, [extremes]), length=3, bound=one.capacity).tolist() == extremes.tolist()
    for beyond in (one.capacity + 1, -one.capacity - 1, -(2**63)):
        with pytest.raises(CapacityError, match="values"):
            one.encrypt(public, np.array([0, beyond], dtype=np.int64))


def test_capacity_is_checked_to_the_unit(one: KeyHolderScheme) -> None:
    one.check_capacity(clients=1, magnitude=one.capacity)
    one.check_capacity(clients=one.max_clients, magnitude=one.capacity // one.max_clients)
    one.check_capacity(clients=one.max_clients, magnitude=0)
    with pytest.raises(CapacityError, match="clients"):
        one.check_capacity(clients=one.max_clients + 1, magnitude=0)
    with pytest.raises(CapacityError, match="holds at most"):
        one.check_capacity(clients=1, magnitude=one.capacity + 1)
    for clients, magnitude in ((0, 1), (-1, 1), (1, -1), (1.0, 1), (1, 0.5), (True, 1)):
        with pytest.raises(ArgumentError):
            one.check_capacity(clients=clients, magnitude=magnitude)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "values",
    [
        [1, 2],
        np.array([1.0]),
        np.array([1], dtype=np.int32),
        np.array([1], dtype=np.uint64),
        np.array([1], dtype=">i8"),
        np.zeros((2, 2), dtype=np.int64),
        np.zeros((), dtype=np.int64),
        np.zeros(0, dtype=np.int64),
    ],
    ids=lambda values: f"{type(values).__name__} {getattr(values, 'dtype', '')} {getattr(values, 'shape', '')}",
)
def test_vectors_that_are_refused(one: KeyHolderScheme, values: Any) -> None:
    _, public = fresh(one)
    with pytest.raises(ArgumentError, match="values"):
        one.encrypt(public, values)


def test_vectors_with_strides_are_read_right(one: KeyHolderScheme) -> None:
    key, public = fresh(one)
    strided = np.arange(20_000, dtype=np.int64)[::-2]
    opened = one.open(key, summed(one, public, [strided]), length=10_000, bound=20_000)
    assert np.array_equal(opened, strided)


def test_an_empty_sum_has_no_total(one: KeyHolderScheme) -> None:
    _, public = fresh(one)
    accumulator = one.accumulator(public, 3)
    assert accumulator.count == 0
    with pytest.raises(CiphertextError, match="empty"):
        accumulator.total()


def test_a_key_opens_once(one: KeyHolderScheme) -> None:
    key, public = fresh(one)
    total = summed(one, public, [np.ones(3, dtype=np.int64)])
    one.open(key, total, length=3, bound=1)
    with pytest.raises(ReuseError):
        one.open(key, total, length=3, bound=1)
    assert one.load_public_key(key.public_bytes).key_id == public.key_id


def test_a_refused_opening_uses_the_key_up_and_tells_nothing(one: KeyHolderScheme) -> None:
    key, public = fresh(one)
    total = summed(one, public, [np.array([1, 98765, 1], dtype=np.int64)])
    with pytest.raises(OpeningError) as caught:
        one.open(key, total, length=3, bound=98764)
    assert "98765" not in str(caught.value)
    with pytest.raises(ReuseError):
        one.open(key, total, length=3, bound=98765)


@pytest.mark.parametrize("values", [[6, 0], [-6, 0]])
def test_the_range_check_is_exact_to_the_unit(one: KeyHolderScheme, values: list[int]) -> None:
    for bound, accepted in ((6, True), (5, False)):
        key, public = fresh(one)
        total = summed(one, public, [np.array(values, dtype=np.int64)])
        if accepted:
            assert one.open(key, total, length=2, bound=bound).tolist() == values
        else:
            with pytest.raises(OpeningError):
                one.open(key, total, length=2, bound=bound)


def test_what_is_refused_before_decryption_leaves_the_key_usable(one: KeyHolderScheme) -> None:
    key, public = fresh(one)
    total = summed(one, public, [np.array([1, 2, 3], dtype=np.int64)])
    upload = one.encrypt(public, np.array([1, 2, 3], dtype=np.int64))
    _, other_public = fresh(one)
    foreign = summed(one, other_public, [np.array([1, 2, 3], dtype=np.int64)])
    for length, bound in ((0, 1), (-3, 1), (3, -1), (3, one.capacity + 1), (True, 1), (3, 1.5)):
        with pytest.raises(ArgumentError):
            one.open(key, total, length=length, bound=bound)  # type: ignore[arg-type]
    for bad, error in ((total[:-1], CryptoError), (b"", WireError), (upload, WireError), (foreign, CiphertextError)):
        with pytest.raises(error):
            one.open(key, bad, length=3, bound=3)
    with pytest.raises(CiphertextError, match="3 coordinates, not 4"):
        one.open(key, total, length=4, bound=3)
    assert one.open(key, total, length=3, bound=3).tolist() == [1, 2, 3]


def test_of_many_threads_one_opens(one: KeyHolderScheme) -> None:
    key, public = fresh(one)
    total = summed(one, public, [np.ones(3, dtype=np.int64)])
    outcomes: list[str] = []
    start = threading.Barrier(8)

    def attempt() -> None:
        start.wait()
        try:
            one.open(key, total, length=3, bound=1)
            outcomes.append("opened")
        except ReuseError:
            outcomes.append("refused")

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["opened"] + ["refused"] * 7


def test_a_refused_upload_leaves_the_sum_unchanged(one: KeyHolderScheme) -> None:
    length = 5000
    key, public = fresh(one)
    _, other_public = fresh(one)
    ones = np.ones(length, dtype=np.int64)
    good = one.encrypt(public, ones)
    accumulator = one.accumulator(public, length)
    accumulator.add(good)
    bad = [
        one.encrypt(other_public, ones),
        one.encrypt(public, ones[:-1]),
        one.encrypt(public, np.ones(length + 4096, dtype=np.int64)),
        good[:-1],
        good + b"\0",
        b"",
        accumulator.total(),
    ]
    for data in bad:
        with pytest.raises(CryptoError):
            accumulator.add(data)
        assert accumulator.count == 1
    accumulator.add(good)
    assert one.open(key, accumulator.total(), length=length, bound=2).tolist() == [2] * length


def test_a_total_may_be_taken_midway(one: KeyHolderScheme) -> None:
    key, public = fresh(one)
    upload = one.encrypt(public, np.array([5], dtype=np.int64))
    accumulator = one.accumulator(public, 1)
    accumulator.add(upload)
    assert accumulator.total() == accumulator.total()
    accumulator.add(upload)
    assert one.open(key, accumulator.total(), length=1, bound=10).tolist() == [10]


def test_keys_of_another_scheme_are_refused() -> None:
    for name, other in (("bfv", "plain"), ("plain", "bfv")):
        key, public = fresh(scheme(other))
        additive = scheme(name)
        with pytest.raises(ArgumentError, match="key"):
            additive.encrypt(public, np.ones(1, dtype=np.int64))
        with pytest.raises(ArgumentError, match="key"):
            additive.accumulator(public, 1)
        with pytest.raises(ArgumentError, match="key"):
            additive.open(key, b"", length=1, bound=1)
        with pytest.raises(WireError):
            additive.load_public_key(key.public_bytes)


@pytest.mark.parametrize("length", [0, -1, 1.0, True, 1 << 40])
def test_lengths_that_are_refused(one: KeyHolderScheme, length: Any) -> None:
    _, public = fresh(one)
    with pytest.raises(ArgumentError, match="length"):
        one.accumulator(public, length)


def test_registry() -> None:
    for name in SCHEMES:
        assert scheme(name).name == name
        assert scheme(name) is scheme(name)
    assert (scheme("bfv").secure, scheme("plain").secure) == (True, False)
    assert scheme("bfv").parameter_set == "bfv-4096-54-36"
    assert scheme("plain").parameter_set == "plain-int64"
    with pytest.raises(ArgumentError, match=r"one of \['bfv', 'plain'\]"):
        scheme("ckks")


def test_plain_refuses_sums_and_uploads_beyond_its_capacity() -> None:
    plain = scheme("plain")
    key, public = fresh(plain)
    for sign in (1, -1):
        accumulator = plain.accumulator(public, 2)
        accumulator.add(plain.encrypt(public, np.array([sign * plain.capacity, 0], dtype=np.int64)))
        for step in (1, plain.capacity):
            with pytest.raises(CapacityError):
                accumulator.add(plain.encrypt(public, np.array([sign * step, 0], dtype=np.int64)))
    upload = plain.encrypt(public, np.array([0, 0], dtype=np.int64))
    with pytest.raises(CiphertextError, match="capacity"):
        plain.accumulator(public, 2).add(upload[:-8] + np.array([2**62 + 1], dtype="<i8").tobytes())
    assert key.key_id == public.key_id


@pytest.mark.parametrize("size", [0, 8, 15, 17, 24])
def test_plain_refuses_uploads_whose_length_is_not_that_of_their_bytes(size: int) -> None:
    plain = scheme("plain")
    _, public = fresh(plain)
    with pytest.raises(CiphertextError, match="not 16"):
        plain.accumulator(public, 2).add(encode(PlainUpload(key_id=public.key_id, length=2, values=bytes(size))))


def test_check_opened_wants_zero_padding() -> None:
    opened = np.array([1, -1, 0, 0], dtype=np.int64)
    assert check_opened(opened, length=2, bound=1).tolist() == [1, -1]
    for padding in ([1, 0], [0, -1]):
        with pytest.raises(OpeningError, match="padding"):
            check_opened(np.array([1, -1, *padding], dtype=np.int64), length=2, bound=1)


@pytest.mark.parametrize("name", SCHEMES)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_changed_bytes_raise_nothing_but_crypto_errors(name: str, data: st.DataObject) -> None:
    additive = scheme(name)
    key, public, upload, total = MATERIAL[name]
    kind = data.draw(st.sampled_from(["public key", "upload", "total"]))
    raw = bytearray({"public key": key.public_bytes, "upload": upload, "total": total}[kind])
    for _ in range(data.draw(st.integers(1, 3))):
        near = st.integers(0, min(150, len(raw) - 1)) | st.integers(0, len(raw) - 1)
        at = data.draw(near)
        match data.draw(st.sampled_from(["set", "cut", "delete", "insert"])):
            case "set":
                raw[at] = data.draw(st.integers(0, 255))
            case "cut":
                del raw[max(at, 1) :]
            case "delete":
                del raw[at : at + data.draw(st.integers(1, min(20, len(raw) - 1)))]
            case _:
                raw[at:at] = data.draw(st.binary(min_size=1, max_size=20))
        if len(raw) < 2:
            break
    try:
        match kind:
            case "public key":
                additive.encrypt(additive.load_public_key(bytes(raw)), np.ones(3, dtype=np.int64))
            case "upload":
                accumulator = additive.accumulator(public, 3)
                accumulator.add(upload)
                accumulator.add(bytes(raw))
                accumulator.total()
            case _:
                opener = type(key)(public_bytes=key.public_bytes, key_id=key.key_id, secret=key._secret)
                additive.open(opener, bytes(raw), length=3, bound=3)
    except CryptoError:
        pass


def _material(name: str) -> tuple[OpeningKey, PublicKey, bytes, bytes]:
    additive = scheme(name)
    key, public = fresh(additive)
    vector = np.array([1, 2, 3], dtype=np.int64)
    return key, public, additive.encrypt(public, vector), summed(additive, public, [vector])


MATERIAL = {name: _material(name) for name in SCHEMES}
