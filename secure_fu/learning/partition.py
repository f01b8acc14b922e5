"""Ways to deal the records of one data set to simulated clients.

Each partitioner takes (records, clients, seed) and gives one sorted int64 array of indices a client: disjoint,
together all records, none empty. A seed gives the same partition on every machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secure_fu.errors import ArgumentError, DataError
from secure_fu.learning.records import Records

__all__ = ["by_column", "by_label", "dirichlet", "iid"]


def iid(records: Records, clients: int, seed: int) -> list[NDArray[np.int64]]:
    """Deal shuffled records in turn: sizes differ by at most one.

    Raises:
        ArgumentError: ``clients`` is below 1 or ``seed`` negative.
        DataError: there are fewer records than clients.
    """
    order = _generator(records, clients, seed).permutation(len(records))
    return [np.sort(order[client::clients]) for client in range(clients)]


def dirichlet(records: Records, clients: int, seed: int, *, alpha: float) -> list[NDArray[np.int64]]:
    """Split every class by proportions from a symmetric Dirichlet distribution (Hsu, Qi, Brown 2019).

    A client left without a record takes one from the client that then has most, so that no silo is empty.

    Args:
        alpha: concentration, > 0: small values give each class to few clients, large ones come close to :func:`iid`.

    Raises:
        ArgumentError, DataError: as :func:`iid`, or ``alpha`` is not a positive number.
    """
    if not 0.0 < alpha < float("inf"):
        raise ArgumentError("alpha", alpha, "a positive finite number")
    generator = _generator(records, clients, seed)
    labels = records.labels.numpy()
    owner = np.empty(len(records), dtype=np.int64)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        cuts = np.floor(np.cumsum(generator.dirichlet(np.full(clients, alpha))) * len(members) + 0.5)
        bounds = np.minimum(cuts, len(members)).astype(np.int64)[:-1]
        for client, part in enumerate(np.split(members, bounds)):
            owner[part] = client
    sizes = np.bincount(owner, minlength=clients)
    for empty in np.flatnonzero(sizes == 0):
        donor = int(np.argmax(sizes))
        owner[generator.choice(np.flatnonzero(owner == donor))] = empty
        sizes[donor] -= 1
        sizes[empty] += 1
    return _by_owner(owner, clients)


def by_label(records: Records, clients: int, seed: int, *, shards: int = 2) -> list[NDArray[np.int64]]:
    """Sort by label, cut into ``clients * shards`` equal pieces, deal ``shards`` pieces to each client.

    The non-IID split of McMahan et al. 2017: most clients see about ``shards`` classes.

    Raises:
        ArgumentError, DataError: as :func:`iid`; ``shards`` below 1, or fewer records than pieces.
    """
    if shards < 1:
        raise ArgumentError("shards", shards, "at least 1")
    generator = _generator(records, clients, seed)
    if len(records) < clients * shards:
        raise DataError(f"{len(records)} records cannot fill {clients * shards} pieces; expected at least one each")
    shuffled = generator.permutation(len(records))
    order = shuffled[np.argsort(records.labels.numpy()[shuffled], kind="stable")]
    pieces = np.array_split(order, clients * shards)
    dealt = generator.permutation(clients * shards).reshape(clients, shards)
    return [np.sort(np.concatenate([pieces[piece] for piece in row])) for row in dealt]


def by_column(records: Records, clients: int, seed: int) -> list[NDArray[np.int64]]:
    """Keep every group of ``records.groups`` whole at one client.

    With as many groups as clients, each client is one group, in sorted order of the names. With more, groups are
    shuffled, the largest dealt first, each to the client with the fewest records.

    Raises:
        ArgumentError, DataError: as :func:`iid`; the records have no groups, or fewer groups than clients.
    """
    generator = _generator(records, clients, seed)
    if records.groups is None:
        raise DataError("the records have no groups; expected records with a group column")
    names, group_of = np.unique(records.groups, return_inverse=True)
    if len(names) < clients:
        raise DataError(f"{len(names)} groups cannot fill {clients} clients; expected at least one group a client")
    if len(names) == clients:
        return _by_owner(group_of, clients)
    sizes = np.bincount(group_of)
    shuffled = generator.permutation(len(names))
    client_of = np.empty(len(names), dtype=np.int64)
    load = np.zeros(clients, dtype=np.int64)
    for group in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        client_of[group] = int(np.argmin(load))
        load[client_of[group]] += sizes[group]
    return _by_owner(client_of[group_of], clients)


def _generator(records: Records, clients: int, seed: int) -> np.random.Generator:
    if clients < 1:
        raise ArgumentError("clients", clients, "at least 1")
    if seed < 0:
        raise ArgumentError("seed", seed, "an integer >= 0")
    if len(records) < clients:
        raise DataError(f"{len(records)} records cannot fill {clients} clients; expected at least one record a client")
    return np.random.default_rng(seed)


def _by_owner(owner: NDArray[np.int64], clients: int) -> list[NDArray[np.int64]]:
    return [np.flatnonzero(owner == client) for client in range(clients)]
