"""What a server can work out of answers to different rolls: linear algebra over the field of shares, slow and exact."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from secure_fu.crypto import CommitteeTerms
from secure_fu.crypto.sharing import FIELD_PRIME

__all__ = ["Matrix", "key_rows", "learnt", "rank", "relations", "view_rows", "within"]

Matrix = NDArray[np.int64]


def _powers(point: int, terms: CommitteeTerms) -> list[int]:
    return [pow(point, exponent, FIELD_PRIME) for exponent in range(terms.threshold)]


def _of_clients(weights: Mapping[int, int], point: int, clients: int, terms: CommitteeTerms) -> Matrix:
    """The weighted sum of clients' polynomials at a point, as a row over all clients' coefficients."""
    row = np.zeros((clients, terms.threshold), dtype=np.int64)
    for client, weight in weights.items():
        row[client] = np.multiply(weight, _powers(point, terms)) % FIELD_PRIME
    return row.reshape(-1)


def view_rows(
    answers: Mapping[int, Collection[int]], corrupt: Collection[int], clients: int, terms: CommitteeTerms
) -> Matrix:
    """All that the server sees of one piece of all keys.

    Args:
        answers: the clients in the sum that an honest member told, by its position.
        corrupt: positions of the members that tell each client's share.
    """
    rows = [_of_clients(dict.fromkeys(roll, 1), member + 1, clients, terms) for member, roll in answers.items()]
    rows += [_of_clients({client: 1}, member + 1, clients, terms) for member in corrupt for client in range(clients)]
    return np.array(rows).reshape(len(rows), clients * terms.threshold)


def key_rows(clients: int, terms: CommitteeTerms) -> Matrix:
    """All coefficients of all keys in that piece, client by client: shape (clients * packing, clients * threshold)."""
    return np.array(
        [
            _of_clients({client: 1}, FIELD_PRIME - 1 - place, clients, terms)
            for client in range(clients)
            for place in range(terms.packing)
        ]
    )


def relations(rows: Matrix) -> Matrix:
    """A basis of all w with w @ rows = 0, in echelon form, as rows: Gauss-Jordan beside the unit matrix."""
    count, width = rows.shape
    work = np.concatenate([rows % FIELD_PRIME, np.eye(count, dtype=np.int64)], axis=1)
    done = _reduce(work, width)
    return work[done:, width:]


def rank(rows: Matrix) -> int:
    """Of the rows."""
    work = rows % FIELD_PRIME
    return _reduce(work, work.shape[1])


def _reduce(work: Matrix, width: int) -> int:
    """Bring the first `width` columns to reduced echelon form, in place; the rank."""
    done = 0
    for column in range(width):
        found = np.flatnonzero(work[done:, column])
        if not found.size:
            continue
        chosen = done + int(found[0])
        work[[done, chosen]] = work[[chosen, done]]
        work[done] = work[done] * pow(int(work[done, column]), -1, FIELD_PRIME) % FIELD_PRIME
        factors = work[:, column].copy()
        factors[done] = 0
        work[:] = (work - factors[:, None] * work[done]) % FIELD_PRIME
        done += 1
    return done


def learnt(view: Matrix, keys: Matrix) -> tuple[Matrix, Matrix]:
    """All linear combinations of keys' coefficients that follow from a view.

    Random values are uniform, so that a combination of what is seen that they do not drop out of says nothing.

    Returns:
        (combinations, weights): combinations @ keys = weights @ view; a basis of the combinations.
    """
    related = relations(np.concatenate([view, keys]))
    weights, combinations = related[:, : len(view)], -related[:, len(view) :] % FIELD_PRIME
    independent: list[int] = []
    for row in range(len(combinations)):
        if rank(combinations[[*independent, row]]) > len(independent):
            independent.append(row)
    return combinations[independent], weights[independent]


def within(combinations: Matrix, approved: Collection[int] | None, clients: int, terms: CommitteeTerms) -> bool:
    """Whether all of them follow from the sum of the keys of the approved clients alone; None approves nothing."""
    if approved is None:
        return len(combinations) == 0
    sums = np.zeros((terms.packing, clients, terms.packing), dtype=np.int64)
    for place in range(terms.packing):
        sums[place, list(approved), place] = 1
    sums = sums.reshape(terms.packing, -1)
    return rank(np.concatenate([sums, combinations])) == rank(sums)
