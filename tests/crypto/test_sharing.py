"""Packed sharing against a slow oracle in Python's integers, and the encoding and the sums of shares."""

from __future__ import annotations

import copy
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from secure_fu.crypto import InsecureDeterministicRandomness, SecureStream
from secure_fu.crypto.sharing import (
    FIELD_PRIME,
    CommitteeTerms,
    ShareSum,
    decode_share,
    encode_share,
    recover_key,
    share_key,
)
from secure_fu.errors import ArgumentError, CiphertextError, WireError

LARGEST = FIELD_PRIME // 2
TERMS = CommitteeTerms(members=5, threshold=4, quorum=4, corrupt=2)


def lagrange_oracle(values: dict[int, int], x: int) -> int:
    """The value at ``x`` of the polynomial through ``values``, by the textbook formula."""
    total = 0
    for own, value in values.items():
        numerator = denominator = 1
        for other in values:
            if other != own:
                numerator = numerator * (x - other) % FIELD_PRIME
                denominator = denominator * (own - other) % FIELD_PRIME
        total += value * numerator * pow(denominator, -1, FIELD_PRIME)
    return total % FIELD_PRIME


def recover_oracle(answers: dict[int, NDArray[np.uint16]], terms: CommitteeTerms, length: int) -> list[int]:
    """The key by interpolation through the first t answers, coefficient by coefficient."""
    found = []
    for position in range(terms.share_length(length) * terms.packing):
        polynomial, point = divmod(position, terms.packing)
        few = {k + 1: int(answers[k][polynomial]) for k in sorted(answers)[: terms.threshold]}
        value = lagrange_oracle(few, -(point + 1))
        found.append(value - FIELD_PRIME if value > LARGEST else value)
    return found


@st.composite
def committees(draw: st.DrawFn) -> CommitteeTerms:
    members = draw(st.integers(1, 9))
    threshold = draw(st.integers(1, members))
    corrupt = draw(st.integers(0, threshold - 1))
    return CommitteeTerms(members=members, threshold=threshold, quorum=members, corrupt=corrupt)


def test_the_prime() -> None:
    assert all(FIELD_PRIME % divisor for divisor in range(2, 256))
    assert all(any(number % divisor == 0 for divisor in range(2, 256)) for number in range(FIELD_PRIME + 1, 1 << 16))


@settings(max_examples=60)
@given(committees(), st.integers(1, 30), st.integers(0, 2**32), st.data())
def test_shares_are_those_of_the_oracle(terms: CommitteeTerms, length: int, seed: int, data: st.DataObject) -> None:
    coefficient = st.integers(-LARGEST, LARGEST) | st.sampled_from([-LARGEST, -1, 0, 1, LARGEST])
    key = np.array(data.draw(st.lists(coefficient, min_size=length, max_size=length)), dtype=np.int64)
    shares = share_key(key, terms, stream=InsecureDeterministicRandomness(seed).stream("shares"))
    assert shares.shape == (terms.members, terms.share_length(length))
    assert shares.dtype == np.uint16
    padded = [*key.tolist(), *[0] * (shares.shape[1] * terms.packing - length)]
    for polynomial, column in enumerate(shares.T.tolist()):
        packed = padded[polynomial * terms.packing :][: terms.packing]
        # The key at -1 .. -packing and the first f shares, which are the random values, fix the polynomial.
        known = {-(j + 1): value % FIELD_PRIME for j, value in enumerate(packed)}
        known |= {k + 1: column[k] for k in range(terms.corrupt)}
        assert column == [lagrange_oracle(known, k + 1) for k in range(terms.members)]


@pytest.mark.parametrize(("members", "threshold", "corrupt"), [(5, 3, 1), (5, 3, 2), (6, 4, 0), (7, 7, 3), (1, 1, 0)])
def test_any_t_members_recover_the_sum_of_the_keys(members: int, threshold: int, corrupt: int) -> None:
    terms = CommitteeTerms(members=members, threshold=threshold, quorum=members, corrupt=corrupt)
    length, clients = 11, 5
    rng = np.random.default_rng(members)
    keys = rng.integers(-LARGEST // clients, LARGEST // clients + 1, (clients, length))
    keys[:, 0], keys[:, 1], keys[:, -1] = LARGEST // clients, -LARGEST // clients + 1, -1
    sums = [ShareSum(terms, degree=length) for _ in range(members)]
    for key in keys:
        for running, share in zip(sums, share_key(key, terms, stream=SecureStream()), strict=True):
            running.add(decode_share(encode_share(share), terms=terms, degree=length))
    totals = [running.total() for running in sums]
    expected = keys.sum(axis=0).tolist()
    for chosen in combinations(range(members), threshold):
        answers = {k: totals[k] for k in chosen}
        found = recover_key(answers, terms, length=length, bound=LARGEST, accept=lambda key: key)
        assert found.value.tolist() == expected
        assert found.value.dtype == np.int64
        assert found.misfits == ()
    assert recover_oracle(dict(enumerate(totals)), terms, length)[:length] == expected


@settings(max_examples=60)
@given(committees(), st.integers(1, 40), st.integers(1, 4), st.data())
def test_any_committee_recovers(terms: CommitteeTerms, length: int, clients: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    chosen = data.draw(st.permutations(range(terms.members)))[: data.draw(st.integers(terms.threshold, terms.members))]
    keys = rng.integers(-LARGEST // clients, LARGEST // clients + 1, (clients, length))
    shares = sum(share_key(key, terms, stream=SecureStream()).astype(np.int64) for key in keys) % FIELD_PRIME
    answers = {k: shares[k].astype(np.uint16) for k in chosen}
    found = recover_key(answers, terms, length=length, bound=LARGEST, accept=np.ndarray.tolist)
    assert found.value == keys.sum(axis=0).tolist()
    assert found.value == recover_oracle(answers, terms, length)[:length]


def test_the_largest_committee() -> None:
    key = np.arange(-200, 200)
    for threshold, corrupt in [(1024, 0), (1024, 1023), (700, 341)]:
        terms = CommitteeTerms(members=1024, threshold=threshold, quorum=1024, corrupt=corrupt)
        shares = share_key(key, terms, stream=SecureStream())
        found = recover_key(dict(enumerate(shares)), terms, length=400, bound=200, accept=np.ndarray.tolist)
        assert found.value == key.tolist()


def test_a_committee_of_one_holds_the_key() -> None:
    terms = CommitteeTerms(members=1, threshold=1, quorum=1, corrupt=0)
    assert share_key(np.array([5, -3]), terms, stream=SecureStream()).tolist() == [[5, FIELD_PRIME - 3]]


def test_random_values_are_fresh_each_time() -> None:
    key = np.zeros(400, dtype=np.int64)
    one, other = (share_key(key, TERMS, stream=SecureStream()) for _ in range(2))
    for k in range(TERMS.members):
        assert np.count_nonzero(one[k] == other[k]) < 5


@pytest.mark.parametrize(
    "key",
    [
        np.zeros(0, dtype=np.int64),
        np.zeros((2, 2), dtype=np.int64),
        np.zeros(4, dtype=np.int32),
        np.zeros(4),
        np.array([0, LARGEST + 1]),
        np.array([-LARGEST - 1, 0]),
        np.array([np.iinfo(np.int64).min, 0]),
    ],
)
def test_keys_that_are_refused(key: NDArray[np.int64]) -> None:
    with pytest.raises(ArgumentError, match="key") as caught:
        share_key(key, TERMS, stream=SecureStream())
    assert str(LARGEST + 1) not in str(caught.value)


def test_the_encoding() -> None:
    share = np.array([0, 1, 256, FIELD_PRIME - 1], dtype=np.uint16)
    assert encode_share(share) == bytes([0, 0, 1, 0, 0, 1, 0xF0, 0xFF])
    found = decode_share(encode_share(share), terms=TERMS, degree=7)
    assert found.tolist() == share.tolist()
    assert found.dtype == np.uint16
    assert len(encode_share(share)) == TERMS.share_bytes(7) == TERMS.share_bytes(8)


@pytest.mark.parametrize("data", [b"", bytes(7), bytes(9), bytes(6), bytes(10), bytes(8000)])
def test_encodings_of_another_length_are_refused(data: bytes) -> None:
    with pytest.raises(WireError, match=f"{len(data)} bytes, not 8"):
        decode_share(data, terms=TERMS, degree=8)


@pytest.mark.parametrize("value", [FIELD_PRIME, FIELD_PRIME + 1, 65535])
@pytest.mark.parametrize("position", [0, 3])
def test_values_beyond_the_field_are_refused(value: int, position: int) -> None:
    """Each element has one encoding: p + 1 is not taken for 1."""
    words = [0, 0, 0, 0]
    words[position] = value
    with pytest.raises(WireError, match="not below"):
        decode_share(np.array(words, dtype="<u2").tobytes(), terms=TERMS, degree=8)
    with pytest.raises(ArgumentError, match="share"):
        encode_share(np.array(words, dtype=np.uint16))


BAD_SHARES: list[Any] = [
    np.zeros(3, dtype=np.uint16),
    np.zeros(5, dtype=np.uint16),
    np.zeros(0, dtype=np.uint16),
    np.zeros((1, 4), dtype=np.uint16),
    np.zeros(4, dtype=np.int64),
    np.full(4, FIELD_PRIME, dtype=np.uint16),
]


@pytest.mark.parametrize("share", BAD_SHARES)
def test_a_refused_share_leaves_the_sum_unchanged(share: Any) -> None:
    running = ShareSum(TERMS, degree=8)
    running.add(np.array([1, 2, 3, FIELD_PRIME - 1], dtype=np.uint16))
    with pytest.raises(ArgumentError, match="share"):
        running.add(share)
    assert running.count == 1
    running.add(np.array([1, 1, 1, 2], dtype=np.uint16))
    assert running.total().tolist() == [2, 3, 4, 1]
    assert running.count == 2


@pytest.mark.parametrize("share", [BAD_SHARES[2], BAD_SHARES[3], BAD_SHARES[4]])
def test_what_is_no_share_is_not_encoded(share: Any) -> None:
    with pytest.raises(ArgumentError, match="share"):
        encode_share(share)


def test_a_sum_of_many_shares() -> None:
    """More than 32 bits would hold, had they been summed in those."""
    running = ShareSum(TERMS, degree=2)
    share = np.array([FIELD_PRIME - 1], dtype=np.uint16)
    for _ in range(70_000):
        running.add(share)
    assert running.total().tolist() == [-70_000 % FIELD_PRIME]


def test_an_empty_sum_has_no_total() -> None:
    with pytest.raises(CiphertextError, match="empty"):
        ShareSum(TERMS, degree=8).total()


def test_a_sum_of_shares_is_secret() -> None:
    running = ShareSum(TERMS, degree=8)
    assert repr(running) == "<ShareSum: redacted>"
    with pytest.raises(TypeError, match="secret"):
        copy.copy(running)
    assert not hasattr(running, "__dict__")
