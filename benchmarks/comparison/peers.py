"""Peers that see everything: a server in plaintext that keeps every client's updates, and unlearns from them alone.

What secure sums forbid: these need each client's contribution, training round by training round. They are here to
show what that knowledge buys. Clients, recipe, clipping and sampling are those of the comparison; noise there is none,
which is how their authors run them, so they are held against retraining without noise.

Both were published for clients that leave. With forgotten records at every client, all stored updates hold some.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secure_fu.learning import (
    FlatModel,
    LocalTraining,
    PerRecordGradients,
    Records,
    client_update,
    stacked_client_updates,
)
from secure_fu.privacy import Unit
from secure_fu.training import Recipe

__all__ = ["FedEraser", "FedRecover", "History", "PeerOutcome", "PlaintextServer"]

Vector = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class History:
    """What the server kept of training.

    Attributes:
        models: before each round and after the last, shape (rounds + 1, d), float32.
        updates: by client, shape (rounds, d), float32: what it contributed to each sum.
    """

    models: NDArray[np.float32]
    updates: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True, eq=False)
class PeerOutcome:
    """The model that a peer ends in, and the rounds in which it asked clients to compute.

    Attributes:
        client_rounds: mean over clients; a round that only some clients work in counts in part.
    """

    vector: Vector
    client_rounds: float


class PlaintextServer:
    """Federated training by a recipe, in plaintext and without noise.

    Args:
        model: with the start as its parameters.
        clients: records by name.
        recipe: clipping, sampling and the server's step are taken from it; noise is not.
        seed: of the clients' samples. A client's sample follows from seed, client and round, so that the same round
            asked for again, on another model, is of the same records.
    """

    def __init__(self, model: FlatModel, clients: Mapping[str, Records], recipe: Recipe, *, seed: int) -> None:
        self._model, self._recipe, self._seed = model, recipe, seed
        self._clients = dict(clients)
        self._rows = {name: row for row, name in enumerate(sorted(self._clients))}
        self._gradients = PerRecordGradients(model) if recipe.unit is Unit.RECORD else None
        self.start = model.vector()

    @property
    def clients(self) -> tuple[str, ...]:
        """Names of all clients."""
        return tuple(self._clients)

    @property
    def recipe(self) -> Recipe:
        """Public settings."""
        return self._recipe

    def updates(self, names: Sequence[str], vector: Vector, number: int) -> dict[str, Vector]:
        """What these clients contribute to a round: sums of clipped gradients, or minus their clipped updates."""
        if self._gradients is None:
            return self._local_updates(names, vector, number)
        recipe, found = self._recipe, {}
        for name in names:
            records = self._clients[name]
            sampled = self._generator(name, number).random(len(records)) < recipe.sampling_rate
            found[name] = self._gradients.clipped_sum(vector, records.subset(sampled), clip_norm=recipe.clip_norm)
        return found

    def _local_updates(self, names: Sequence[str], vector: Vector, number: int) -> dict[str, Vector]:
        settings = self._recipe.local
        training = LocalTraining(
            epochs=int(settings["epochs"]),
            batch_size=int(settings["batch_size"]),
            learning_rate=float(settings["learning_rate"]),
        )
        clip_norm = self._recipe.clip_norm
        seeds = [int(self._generator(name, number).integers(2**31)) for name in names]
        if len(names) < 10:
            return {
                name: -client_update(
                    self._model, vector, self._clients[name], training=training, clip_norm=clip_norm, seed=seed
                )
                for name, seed in zip(names, seeds, strict=True)
            }
        changes = stacked_client_updates(
            self._model,
            vector,
            [self._clients[name] for name in names],
            training=training,
            clip_norm=clip_norm,
            seeds=seeds,
        )
        return {name: -change for name, change in zip(names, changes, strict=True)}

    def step(self, vector: Vector, velocity: Vector, total: Vector) -> tuple[Vector, Vector]:
        """The server's step of the recipe: the next model and velocity. Models are rounded to float32."""
        recipe = self._recipe
        velocity = recipe.momentum * velocity + total / (recipe.sampling_rate * recipe.nominal_units)
        moved = (vector - recipe.learning_rate * velocity).astype(np.float32).astype(np.float64)
        return moved, velocity

    def train(self, names: Sequence[str]) -> Vector:
        """A training by these clients alone: without the leaver, the reference for the peers."""
        vector, velocity = self.start, np.zeros(len(self.start))
        for number in range(self._recipe.rounds):
            vector, velocity = self.step(vector, velocity, _total(self.updates(names, vector, number)))
        return vector

    def train_and_keep(self) -> tuple[Vector, History]:
        """A training by everybody of which the server keeps everything."""
        rounds, size = self._recipe.rounds, len(self.start)
        kept = {name: np.empty((rounds, size), dtype=np.float32) for name in self._clients}
        models = np.empty((rounds + 1, size), dtype=np.float32)
        vector, velocity = self.start, np.zeros(size)
        for number in range(rounds):
            models[number] = vector
            updates = self.updates(self.clients, vector, number)
            for name, update in updates.items():
                kept[name][number] = update
            vector, velocity = self.step(vector, velocity, _total(updates))
        models[rounds] = vector
        return vector, History(models=models, updates=kept)

    def _generator(self, name: str, number: int) -> np.random.Generator:
        """Of a simulated client's sample; nothing here is private."""
        return np.random.default_rng((self._seed, self._rows[name], number))


@dataclass(frozen=True, kw_only=True)
class FedEraser:
    """Calibrated retraining: who stays computes new updates, which take the length of the stored ones.

    Source: Liu, Ma, Yang, Wang, Liu, "FedEraser: enabling efficient client-level data removal from federated learning
    models", IWQoS 2021, algorithm 1. The first round is taken as it was stored, all later ones are calibrated, layer by
    layer: |stored| new / |new|. Where a round is one sum of gradients there are no local epochs to shorten.

    Attributes:
        every: retaining interval: of so many training rounds one is replayed.
    """

    every: int = 2

    name = "FedEraser"

    def run(self, server: PlaintextServer, history: History, model: FlatModel, leavers: set[str]) -> PeerOutcome:
        """Forget the leavers."""
        stay = [name for name in server.clients if name not in leavers]
        vector, velocity = server.start, np.zeros(len(server.start))
        replayed = range(0, len(history.models) - 1, self.every)
        for number in replayed:
            stored = {name: history.updates[name][number].astype(np.float64) for name in stay}
            if number > 0:
                fresh = server.updates(stay, vector, number)
                stored = {name: _calibrated(stored[name], fresh[name], model) for name in stay}
            vector, velocity = server.step(vector, velocity, _total(stored))
        return PeerOutcome(vector=vector, client_rounds=float(len(replayed) - 1))


def _calibrated(stored: Vector, fresh: Vector, model: FlatModel) -> Vector:
    result = np.zeros_like(fresh)
    for layer in model.layers:
        norm = float(np.linalg.norm(fresh[layer.slice]))
        if norm > 0.0:
            result[layer.slice] = fresh[layer.slice] * (float(np.linalg.norm(stored[layer.slice])) / norm)
    return result


@dataclass(frozen=True, kw_only=True)
class FedRecover:
    """Retraining with estimated updates: the stored one plus a Hessian product by L-BFGS, corrected now and then.

    Source: Cao, Jia, Zhang, Gong, "FedRecover: recovering from poisoning attacks in federated learning using historical
    information", IEEE S&P 2023, algorithms 1 and 2. An estimate with a coordinate larger than any in the stored updates
    of who stays is replaced by an exact update (abnormality fixing).

    Attributes:
        warm_up: first rounds, exact.
        every: exact rounds among the others, one in so many.
        tuning: last rounds, exact.
        pairs: differences that the Hessian is estimated from.
    """

    warm_up: int = 10
    every: int = 10
    tuning: int = 5
    pairs: int = 2

    name = "FedRecover"

    def run(self, server: PlaintextServer, history: History, model: FlatModel, leavers: set[str]) -> PeerOutcome:
        """Forget the leavers."""
        stay = [name for name in server.clients if name not in leavers]
        largest = max(float(np.abs(history.updates[name]).max()) for name in stay)
        rounds, work = len(history.models) - 1, 0
        vector, velocity = server.start, np.zeros(len(server.start))
        moves: list[Vector] = []
        changes: dict[str, list[Vector]] = {name: [] for name in stay}
        for number in range(rounds):
            moved = vector - history.models[number].astype(np.float64)
            exact = number < self.warm_up or number >= rounds - self.tuning or number % self.every == 0
            total = np.zeros(len(vector))
            asked = list(stay) if exact else []
            if not exact:
                for name in stay:
                    stored = history.updates[name][number].astype(np.float64)
                    product = _hessian_product(moves, changes[name], moved)
                    if product is None or not np.abs(stored + product).max() <= largest:
                        asked.append(name)
                    else:
                        total += stored + product
            updates = server.updates(asked, vector, number) if asked else {}
            total += _total(updates) if updates else 0.0
            work += len(asked)
            if exact and float(np.linalg.norm(moved)) > 0.0:
                moves = [*moves, moved][-self.pairs :]
                for name in stay:
                    change = updates[name] - history.updates[name][number]
                    changes[name] = [*changes[name], change][-self.pairs :]
            vector, velocity = server.step(vector, velocity, total)
        return PeerOutcome(vector=vector, client_rounds=work / len(stay))


def _hessian_product(moves: Sequence[Vector], changes: Sequence[Vector], direction: Vector) -> Vector | None:
    """H v from pairs (s, y) with y near H s: compact L-BFGS (Byrd, Nocedal, Schnabel 1994, equation 3.5).

    Returns:
        None where the pairs give no usable estimate.
    """
    if not moves:
        return None
    S, Y = np.stack(moves, axis=1), np.stack(changes, axis=1)
    products = S.T @ Y
    curvature = float(products[-1, -1])
    if not (np.diag(products) > 0.0).all():
        return None
    sigma = curvature / float(S[:, -1] @ S[:, -1])
    lower = np.tril(products, -1)
    middle = np.block([[-np.diag(np.diag(products)), lower.T], [lower, sigma * (S.T @ S)]])
    right = np.concatenate([Y.T @ direction, sigma * (S.T @ direction)])
    try:
        weights = np.linalg.solve(middle, right)
    except np.linalg.LinAlgError:
        return None
    pairs = len(moves)
    product: Vector = sigma * direction - Y @ weights[:pairs] - sigma * (S @ weights[pairs:])
    return product if bool(np.isfinite(product).all()) else None


def _total(updates: Mapping[str, Vector]) -> Vector:
    return np.sum(list(updates.values()), axis=0)
