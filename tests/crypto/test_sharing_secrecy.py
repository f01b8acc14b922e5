"""Any f shares say nothing about the key: exact, by the rank of what production code computes, not by statistics.

Sharing is a linear map of (key, random values). If the random values alone reach every value of the f members' shares,
each value of these shares goes with each key, and with equally many random values: the shares are independent of it.
The maps are read off the production code by feeding it unit vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from secure_fu.crypto import InsecureDeterministicRandomness, RandomStream
from secure_fu.crypto.sharing import FIELD_PRIME, CommitteeTerms, share_key
from secure_fu.crypto.sharing import shares as sharing
from secure_fu.crypto.sharing._field import uniform_elements
from secure_fu.crypto.sharing.terms import member_points, secret_points

Share = Callable[..., NDArray[np.uint16]]
LENGTH = 7  # of the keys here: enough for two polynomials or more, the last one filled up
COMMITTEES = [
    CommitteeTerms(members=members, threshold=threshold, quorum=members, corrupt=corrupt)
    for members, threshold, corrupt in [(2, 2, 1), (4, 3, 1), (4, 4, 3), (5, 3, 2), (6, 5, 3), (6, 5, 2), (7, 6, 4)]
]


class Lanes:
    """A stream whose 16-bit parts are the given ones, and zero after them."""

    def __init__(self, values: list[int]) -> None:
        self._values = values

    def words(self, count: int) -> NDArray[np.uint64]:
        taken, self._values = self._values[: 4 * count], self._values[4 * count :]
        return np.array(taken + [0] * (4 * count - len(taken)), dtype="<u2").view("<u8").astype(np.uint64)


def unit(size: int, position: int) -> list[int]:
    return [int(index == position) for index in range(size)]


def matrices(share: Share, terms: CommitteeTerms) -> tuple[NDArray[Any], NDArray[Any]]:
    """What the shares are of the key, and of the random values: shape (members, polynomials, inputs) each."""
    lanes = terms.corrupt * terms.share_length(LENGTH) + 4
    key = [share(np.array(unit(LENGTH, i)), terms, stream=Lanes([])) for i in range(LENGTH)]
    random = [share(np.zeros(LENGTH, dtype=np.int64), terms, stream=Lanes(unit(lanes, i))) for i in range(lanes)]
    return np.stack(key, axis=2).astype(np.int64), np.stack(random, axis=2).astype(np.int64)


def rank(matrix: NDArray[Any]) -> int:
    """Over the field, in Python's integers."""
    rows = [[int(value) for value in row] for row in matrix]
    found = 0
    for column in range(len(rows[0])):
        chosen = next((row for row in rows[found:] if row[column]), None)
        if chosen is None:
            continue
        rows.remove(chosen)
        inverse = pow(chosen[column], -1, FIELD_PRIME)
        rows[found:] = [
            [(a - row[column] * inverse * b) % FIELD_PRIME for a, b in zip(row, chosen, strict=True)]
            for row in rows[found:]
        ]
        rows.insert(found, chosen)
        found += 1
    return found


def hidden_from(share: Share, terms: CommitteeTerms, count: int) -> list[bool]:
    """For each choice of so many members: whether their shares are uniform and independent of the key."""
    _, random = matrices(share, terms)
    return [
        rank(random[list(chosen)].reshape(-1, random.shape[2])) == count * random.shape[1]
        for chosen in combinations(range(terms.members), count)
    ]


@pytest.fixture(autouse=True)
def _no_stale_matrix() -> Iterator[None]:
    sharing._sharing_matrix.cache_clear()
    yield
    sharing._sharing_matrix.cache_clear()


@pytest.mark.parametrize("terms", COMMITTEES, ids=str)
def test_sharing_is_linear(terms: CommitteeTerms) -> None:
    """Without this, ranks would say nothing."""
    of_key, of_random = matrices(share_key, terms)
    rng = np.random.default_rng(0)
    for _ in range(20):
        key = rng.integers(-32760, 32761, LENGTH)
        lanes = rng.integers(0, FIELD_PRIME, of_random.shape[2])
        expected = (of_key @ (key % FIELD_PRIME) + of_random @ lanes) % FIELD_PRIME
        assert share_key(key, terms, stream=Lanes(lanes.tolist())).tolist() == expected.tolist()


@pytest.mark.parametrize("terms", COMMITTEES, ids=str)
def test_any_f_shares_are_independent_of_the_key(terms: CommitteeTerms) -> None:
    assert all(hidden_from(share_key, terms, terms.corrupt))


@pytest.mark.parametrize("terms", COMMITTEES, ids=str)
def test_any_f_plus_1_shares_are_not(terms: CommitteeTerms) -> None:
    """The bound is tight: there is not more randomness than is said, and any t shares determine the key."""
    assert not any(hidden_from(share_key, terms, terms.corrupt + 1))
    of_key, of_random = matrices(share_key, terms)
    both = np.concatenate([of_key, of_random], axis=2)
    for chosen in combinations(range(terms.members), terms.threshold):
        rows = both[list(chosen)].reshape(-1, both.shape[2])
        assert rank(rows) == rank(of_random[list(chosen)].reshape(len(rows), -1)) + LENGTH


def constant_polynomials(monkeypatch: pytest.MonkeyPatch) -> Share:
    """Coefficients of degree above 0 forgotten: every share is a combination of the packed values."""
    production = sharing._sharing_matrix

    def forgetful(terms: CommitteeTerms) -> NDArray[np.int64]:
        return production(terms) * (np.arange(terms.threshold) < terms.packing)

    forgetful.cache_clear = production.cache_clear  # type: ignore[attr-defined]
    monkeypatch.setattr(sharing, "_sharing_matrix", forgetful)
    return share_key


def no_random_values(monkeypatch: pytest.MonkeyPatch) -> Share:
    monkeypatch.setattr(sharing, "uniform_elements", lambda count, *, stream: np.zeros(count, dtype=np.int64))
    return share_key


def one_random_value_for_all_polynomials(monkeypatch: pytest.MonkeyPatch) -> Share:
    def reused(count: int, *, stream: RandomStream) -> NDArray[np.int64]:
        return np.repeat(uniform_elements(count // polynomials, stream=stream), polynomials)

    polynomials = 0

    def share(key: NDArray[np.int64], terms: CommitteeTerms, *, stream: RandomStream) -> NDArray[np.uint16]:
        nonlocal polynomials
        polynomials = terms.share_length(key.size)
        return share_key(key, terms, stream=stream)

    monkeypatch.setattr(sharing, "uniform_elements", reused)
    return share


def one_random_value_for_two_points(monkeypatch: pytest.MonkeyPatch) -> Share:
    def reused(count: int, *, stream: RandomStream) -> NDArray[np.int64]:
        values = uniform_elements(count, stream=stream)
        values[-1] = values[0]
        return values

    monkeypatch.setattr(sharing, "uniform_elements", reused)
    return share_key


def threshold_one_too_small(monkeypatch: pytest.MonkeyPatch) -> Share:
    def share(key: NDArray[np.int64], terms: CommitteeTerms, *, stream: RandomStream) -> NDArray[np.uint16]:
        smaller = CommitteeTerms(
            members=terms.members,
            threshold=terms.threshold - 1,
            quorum=terms.quorum,
            corrupt=terms.corrupt - 1,
        )
        assert smaller.packing == terms.packing
        return share_key(key, smaller, stream=stream)

    return share


def a_member_at_a_secret_point(monkeypatch: pytest.MonkeyPatch) -> Share:
    monkeypatch.setattr(
        sharing, "member_points", lambda terms: np.append(member_points(terms)[:-1], secret_points(terms)[0])
    )
    return share_key


def two_members_at_one_point(monkeypatch: pytest.MonkeyPatch) -> Share:
    monkeypatch.setattr(sharing, "member_points", lambda terms: np.append(member_points(terms)[:-1], 1))
    return share_key


@pytest.mark.parametrize(
    "fault",
    [
        constant_polynomials,
        no_random_values,
        one_random_value_for_all_polynomials,
        one_random_value_for_two_points,
        threshold_one_too_small,
        a_member_at_a_secret_point,
        two_members_at_one_point,
    ],
)
@pytest.mark.parametrize("terms", [COMMITTEES[3], COMMITTEES[4], COMMITTEES[6]], ids=str)
def test_faults_are_found(
    fault: Callable[[pytest.MonkeyPatch], Share], terms: CommitteeTerms, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert all(hidden_from(share_key, terms, terms.corrupt))
    sharing._sharing_matrix.cache_clear()
    assert not all(hidden_from(fault(monkeypatch), terms, terms.corrupt))


def test_the_rank_is_the_rank() -> None:
    assert rank(np.eye(3, dtype=np.int64)) == 3
    assert rank(np.array([[0, 0], [0, 0]])) == 0
    assert rank(np.array([[0, 2, 4], [0, 1, 2], [1, 0, 0]])) == 2
    assert rank(np.array([[1, 2], [32761, 1]])) == 1  # 32761 is a half


def least_p_value(shares: NDArray[np.uint16]) -> float:
    """Over all members: equal parts of the field, lowest bits, and the few values that a reduction would favour."""
    p_values = []
    for share in shares.astype(np.int64):
        parts = np.bincount(share * 1000 // FIELD_PRIME, minlength=1000)
        sizes = np.bincount(np.arange(FIELD_PRIME) * 1000 // FIELD_PRIME)
        p_values.append(stats.chisquare(parts, sizes / FIELD_PRIME * share.size).pvalue)
        low = np.bincount(share & 15, minlength=16)
        p_values.append(
            stats.chisquare(low, np.bincount(np.arange(FIELD_PRIME) & 15) / FIELD_PRIME * share.size).pvalue
        )
        few = int(np.count_nonzero(share < 15))
        p_values.append(stats.binomtest(few, share.size, 15 / FIELD_PRIME).pvalue)
    return float(min(p_values) * len(p_values))


def test_shares_are_uniform(monkeypatch: pytest.MonkeyPatch) -> None:
    terms = CommitteeTerms(members=3, threshold=3, quorum=3, corrupt=2)
    key = np.full(1 << 20, 77)
    seeds = InsecureDeterministicRandomness(5)
    assert least_p_value(share_key(key, terms, stream=seeds.stream("x"))) > 1e-4

    def reduced(count: int, *, stream: RandomStream) -> NDArray[np.int64]:
        """The fault: 16 bits modulo p, which favours 0 to 14."""
        return stream.words(-(-count // 4)).view(np.uint16)[:count].astype(np.int64) % FIELD_PRIME

    monkeypatch.setattr(sharing, "uniform_elements", reduced)
    assert least_p_value(share_key(key, terms, stream=seeds.stream("x"))) < 1e-9

    def cut(count: int, *, stream: RandomStream) -> NDArray[np.int64]:
        """The fault: 15 bits."""
        return stream.words(-(-count // 4)).view(np.uint16)[:count].astype(np.int64) >> 1

    monkeypatch.setattr(sharing, "uniform_elements", cut)
    assert least_p_value(share_key(key, terms, stream=seeds.stream("x"))) < 1e-9


def test_candidates_beyond_the_field_are_thrown_away() -> None:
    lanes = [65535, 3, FIELD_PRIME, FIELD_PRIME - 1, 0, 65521, 7, 8, 9]
    assert uniform_elements(5, stream=Lanes(lanes)).tolist() == [3, FIELD_PRIME - 1, 0, 7, 8]
    assert uniform_elements(0, stream=Lanes([])).size == 0
