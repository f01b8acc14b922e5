"""What f members, the server and other clients together know of an honest client's key: exactly, by ranks.

Sharing is linear over GF(65521), so what a view tells of a key is a number of dimensions, and for any f members it is
zero: perfect secrecy, for random values that are uniform. The map is read off what the protocol calls, and checked
against the true messages of a round. What uploads show beyond shares is in test_committee_distinguisher.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from committee_machines import CommitteeMachines, announcement_in, make_committee_machines, share_in
from numpy.typing import NDArray
from scipy import sparse
from sharing_faults import (
    TERMS,
    no_random_values,
    one_random_value_too_few,
    polynomials_of_the_key_alone,
    the_same_random_values_for_all_polynomials,
)

from secure_fu.crypto import CommitteeTerms, SecureStream
from secure_fu.crypto.kahe import cipher
from secure_fu.crypto.sharing import FIELD_PRIME, recover_key
from secure_fu.crypto.sharing import shares as sharing
from secure_fu.crypto.sharing._field import lagrange
from secure_fu.crypto.sharing.terms import member_points, random_points, secret_points
from secure_fu.crypto.wire import decode
from secure_fu.discrete_gaussian import sample_discrete_gaussian
from secure_fu.protocol import Header
from secure_fu.protocol.committee import encryption
from secure_fu.protocol.committee.layout import layout_of
from secure_fu.protocol.messages import Upload

HONEST = ("client-1", "client-3")

Matrix = NDArray[np.int64]


class Lanes:
    """A stream whose 16-bit parts are the given ones, and zero after them."""

    def __init__(self, values: NDArray[Any]) -> None:
        self._values = np.asarray(values, dtype=np.int64)

    def words(self, count: int) -> NDArray[np.uint64]:
        taken, self._values = self._values[: 4 * count], self._values[4 * count :]
        return np.pad(taken, (0, 4 * count - taken.size)).astype("<u2").view("<u8").astype(np.uint64)


@pytest.fixture(autouse=True)
def _no_stale_matrix() -> Iterator[None]:
    sharing._sharing_matrix.cache_clear()
    yield
    sharing._sharing_matrix.cache_clear()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., CommitteeMachines]]:
    made: list[CommitteeMachines] = []

    def machines(**arguments: Any) -> CommitteeMachines:
        made.append(make_committee_machines(tmp_path, terms=TERMS, **arguments))
        return made[-1]

    yield machines
    for each in made:
        each.close()


# Exact ranks.


def rank(matrix: Matrix) -> int:
    """Over GF(65521), by elimination, each connected part of the matrix by itself."""
    rows, columns = np.nonzero(matrix)
    height = matrix.shape[0]
    ones = np.ones(rows.size, dtype=np.int8)
    graph = sparse.coo_array((ones, (rows, columns + height)), shape=(sum(matrix.shape),) * 2)
    count, labels = sparse.csgraph.connected_components(graph, directed=False)
    order = np.argsort(labels, kind="stable")
    found = 0
    for part in np.split(order, np.cumsum(np.bincount(labels, minlength=count))[:-1]):
        up, across = part[part < height], part[part >= height] - height
        found += _eliminated(matrix[np.ix_(up, across)]) if up.size and across.size else 0
    return found


def _eliminated(block: Matrix) -> int:
    block = block % FIELD_PRIME
    found = 0
    for column in range(block.shape[1]):
        candidates = np.flatnonzero(block[found:, column])
        if not candidates.size:
            continue
        chosen = found + int(candidates[0])
        block[[found, chosen]] = block[[chosen, found]]
        pivot = block[found] * pow(int(block[found, column]), -1, FIELD_PRIME) % FIELD_PRIME
        below = found + 1 + np.flatnonzero(block[found + 1 :, column])
        block[below] = (block[below] - block[below, column, None] * pivot) % FIELD_PRIME
        found += 1
        if found == block.shape[0]:
            break
    return found


def told(view: Matrix, about: slice | NDArray[np.int64]) -> int:
    """How many dimensions of the unknowns ``about`` a view determines, whatever the other unknowns are."""
    return rank(view) - rank(np.delete(view, np.r_[about], axis=1))


def test_ranks_are_ranks() -> None:
    rng = np.random.default_rng(0)
    for inner in (1, 3, 8):
        product = rng.integers(0, FIELD_PRIME, (9, inner)) @ rng.integers(0, FIELD_PRIME, (inner, 12)) % FIELD_PRIME
        assert rank(product) == inner
        assert rank(np.kron(np.eye(5, dtype=np.int64), product)) == 5 * inner
    assert told(np.array([[1, 0, 1], [0, 1, 1]]), slice(0, 1)) == 0
    assert told(np.array([[1, 0, 1], [0, 1, 1]]), slice(0, 2)) == 1


class View:
    """The linear map from (key, random values) of a client to its shares, read off what the protocol calls."""

    def __init__(self, terms: CommitteeTerms, degree: int) -> None:
        self.degree, self.randoms = degree, terms.corrupt * terms.share_length(degree)
        self.width = degree + self.randoms
        self.shares = np.zeros((terms.members, terms.share_length(degree), self.width), dtype=np.int64)
        for i in range(degree):
            self.shares[:, :, i] = encryption.share_key(
                np.eye(1, degree, i, dtype=np.int64)[0], terms, stream=Lanes(np.zeros(0))
            )
        for i in range(self.randoms):
            self.shares[:, :, degree + i] = encryption.share_key(
                np.zeros(degree, dtype=np.int64), terms, stream=Lanes(np.eye(1, self.randoms, i)[0])
            )

    def of(self, members: tuple[int, ...]) -> Matrix:
        """What these members hold of one client."""
        return self.shares[list(members)].reshape(-1, self.width)

    def of_two(self, members: tuple[int, ...], answering: tuple[int, ...]) -> Matrix:
        """What these members hold of two clients, and the sums of both clients' shares that some answered with."""
        own, answers = self.of(members), self.of(answering)
        nothing = np.zeros_like(own)
        return np.block([[own, nothing], [nothing, own], [answers, answers]])

    @property
    def key(self) -> slice:
        """Where the key of the first client is among the unknowns."""
        return slice(0, self.degree)

    @property
    def second_key(self) -> slice:
        """Where that of the second is."""
        return slice(self.width, self.width + self.degree)


class Played:
    """A real round: every message of it, and what members hold."""

    def __init__(self, machines: CommitteeMachines) -> None:
        invitation = machines.invited(0)
        self.machines, self.announcement = machines, announcement_in(invitation)
        self.header = decode(Header, self.announcement.header)
        self.degree = layout_of(self.header).parameter_set.degree
        self.uploads = machines.uploads(invitation)
        for upload in self.uploads.values():
            machines.server.receive(upload)
        quorum = machines.voted()
        answers = [machines.members[name].answer(quorum) for name in machines.members]
        for answer in answers:
            machines.server.receive_answer(answer)
        machines.server.release()
        self.answers = np.stack([share_in(answer) for answer in answers]).astype(np.int64)

    def shares(self, client: str) -> Matrix:
        """All shares of one client's key, shape (m, polynomials)."""
        boxes = decode(Upload, self.uploads[client]).shares
        opened = [
            self.machines.opened_share(self.announcement, client, box, member)
            for member, box in zip(self.header.committee, boxes, strict=True)
        ]
        return np.stack(opened).astype(np.int64)

    def key(self, client: str) -> NDArray[np.int64]:
        """The key, which t members together could read."""
        shares = dict(enumerate(self.shares(client).astype(np.uint16)))
        return recover_key(shares, TERMS, length=self.degree, bound=90, accept=lambda key: key).value


@pytest.fixture
def played(make: Callable[..., CommitteeMachines]) -> Played:
    return Played(make())


def test_f_members_know_nothing_of_a_key_and_one_more_does(played: Played) -> None:
    view, polynomials = View(TERMS, played.degree), TERMS.share_length(played.degree)
    for client in HONEST:  # the map is that of the true messages
        shares = played.shares(client)
        unknowns = np.concatenate([played.key(client), shares[: TERMS.corrupt].reshape(-1)])
        assert np.array_equal(view.of(tuple(range(7))) @ unknowns % FIELD_PRIME, shares.reshape(-1))
    for members in [(0, 1), (0, 6), (2, 5), (5, 6)]:
        assert told(view.of(members), view.key) == 0
    for members in [(0, 1, 2), (1, 3, 5), (4, 5, 6)]:
        assert told(view.of(members), view.key) == polynomials
    assert told(view.of((0, 2, 3, 4, 6)), view.key) == 3 * polynomials
    assert told(view.of((0, 1, 2, 3, 5, 6)), view.key) == played.degree


def test_server_f_members_and_all_but_two_clients_know_the_sum_of_the_two_keys_and_nothing_else(
    played: Played,
) -> None:
    """What the others hold is theirs and can be taken off the answers, of which the server has all."""
    view, everybody = View(TERMS, played.degree), tuple(range(TERMS.members))
    others = sum(played.shares(name) for name in played.machines.names if name not in HONEST)
    assert np.array_equal(
        (played.answers - others) % FIELD_PRIME, sum(played.shares(name) for name in HONEST) % FIELD_PRIME
    )
    both = np.r_[view.key, view.second_key]
    for members in [(0, 1), (3, 6)]:
        seen = view.of_two(members, everybody)
        assert told(seen, view.key) == 0
        assert told(seen, view.second_key) == 0
        assert told(seen, both) == played.degree
        total = np.zeros((played.degree, 2 * view.width), dtype=np.int64)
        total[:, view.key] = total[:, view.second_key] = np.eye(played.degree, dtype=np.int64)
        assert rank(np.concatenate([seen, total])) == rank(seen)
    seen = view.of_two((0, 3, 6), everybody)
    assert told(seen, view.key) == TERMS.share_length(played.degree)


def test_with_all_other_clients_the_one_that_is_left_is_known(played: Played) -> None:
    """Nothing can hide a key from who has all others and the sum: that is why two honest clients are demanded."""
    others = sum(played.key(name) for name in played.machines.names if name != "client-1")
    summed = recover_key(
        dict(enumerate(played.answers.astype(np.uint16))),
        TERMS,
        length=played.degree,
        bound=400,
        accept=lambda key: key,
    ).value
    assert np.array_equal(summed - others, played.key("client-1"))
    assert played.machines.policy.minimum_cohort - played.machines.policy.colluders >= 2


@pytest.mark.parametrize("members", list(combinations(range(7), 2))[::4])
def test_the_same_view_goes_with_any_other_key(played: Played, members: tuple[int, ...]) -> None:
    """Another pair of keys with the same sum, and random values with which production code sends the very same view."""
    rows = list(members)
    one, two = (played.shares(name) for name in HONEST)
    keys = [played.key(name) for name in HONEST]
    other = sample_discrete_gaussian(cipher.SIGMA_SQUARED, played.degree, stream=SecureStream())
    assert not np.array_equal(other, keys[0])
    forged = []
    for key, shares in ((other, one), (keys[0] + keys[1] - other, two)):
        known = np.concatenate([secret_points(TERMS), member_points(TERMS)[rows]])
        packed = key.reshape(-1, TERMS.packing).T % FIELD_PRIME
        matrix = lagrange(known, random_points(TERMS))[0]
        random = matrix @ np.concatenate([packed, shares[rows]]) % FIELD_PRIME
        forged.append(encryption.share_key(key, TERMS, stream=Lanes(random.reshape(-1))).astype(np.int64))
        assert np.array_equal(forged[-1][rows], shares[rows])
    assert np.array_equal(sum(forged) % FIELD_PRIME, (one + two) % FIELD_PRIME)
    assert not np.array_equal(forged[0], one)


# Faults.


SHARING_FAULTS = [
    polynomials_of_the_key_alone,
    no_random_values,
    the_same_random_values_for_all_polynomials,
    one_random_value_too_few,
]


@pytest.mark.parametrize("plant", SHARING_FAULTS)
def test_the_rank_tests_find_faults_of_the_sharing(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch, make: Callable[..., CommitteeMachines]
) -> None:
    plant(monkeypatch)
    played = Played(make())  # the round itself works: nobody would notice
    view = View(TERMS, played.degree)
    assert told(view.of((2, 5)), view.key) > 0
    assert told(view.of_two((2, 5), tuple(range(7))), view.key) > 0
