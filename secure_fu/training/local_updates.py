"""Local training of clients for the client unit: one by one, or a whole cohort of a simulation as one stacked model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from secure_fu.learning import FlatModel, LocalTraining, Records, client_update, stacked_client_updates
from secure_fu.protocol import RoundTerms

__all__ = ["StackedUpdates", "local_training", "single_update"]


def local_training(terms: RoundTerms) -> LocalTraining:
    """The local training that a round's public settings ask for: `epochs`, `batch_size`, `learning_rate`."""
    return LocalTraining(
        epochs=int(terms.settings["epochs"]),
        batch_size=int(terms.settings["batch_size"]),
        learning_rate=float(terms.settings["learning_rate"]),
    )


def _order_seed(client: str, terms: RoundTerms) -> int:
    # The order of records carries no privacy for the client unit.
    return int.from_bytes(hashlib.sha256(f"{client}/{terms.round_number}".encode()).digest()[:6], "big")


def single_update(
    client: str, model: FlatModel, vector: NDArray[np.float32], records: Records, terms: RoundTerms
) -> NDArray[np.float64]:
    """One client's clipped update, shape (d,); zero if its training diverged."""
    return client_update(
        model,
        vector.astype(np.float64),
        records,
        training=local_training(terms),
        clip_norm=terms.clip_norm,
        seed=_order_seed(client, terms),
    )


class StackedUpdates:
    """The updates of all clients of a simulation, computed together when the first of them is asked for in a round.

    A speed-up of simulations only: it gives each client its own row, equal to :func:`single_update`.

    Args:
        model: the federation's.
        records: of each client.
    """

    def __init__(self, model: FlatModel, records: Mapping[str, Records]) -> None:
        self._model = model
        self._records = dict(records)
        self._rows = {name: row for row, name in enumerate(self._records)}
        self._vector: NDArray[np.float32] | None = None
        self._terms: RoundTerms | None = None
        self._updates: NDArray[np.float64] = np.empty((0, 0))

    def __repr__(self) -> str:
        return f"StackedUpdates({len(self._records)} clients)"

    def update(self, client: str, vector: NDArray[np.float32], terms: RoundTerms) -> NDArray[np.float64]:
        """One client's clipped update, shape (d,); zero if its training diverged."""
        if self._terms != terms or self._vector is None or not np.array_equal(self._vector, vector):
            self._updates = stacked_client_updates(
                self._model,
                vector.astype(np.float64),
                list(self._records.values()),
                training=local_training(terms),
                clip_norm=terms.clip_norm,
                seeds=[_order_seed(name, terms) for name in self._records],
            )
            self._vector, self._terms = vector, terms
        row: NDArray[np.float64] = self._updates[self._rows[client]]
        return row
