"""One client's private side: its records, which of them are to be forgotten, and what it remembers of its own part."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from secure_fu.errors import ArgumentError
from secure_fu.learning import FlatModel, PerRecordGradients, Records
from secure_fu.privacy import MAX_SUMMED_VECTORS
from secure_fu.training.local_updates import StackedUpdates

__all__ = ["HistoryEntry", "Silo"]


@dataclass(frozen=True, eq=False, repr=False)
class HistoryEntry:
    """What a client did in one training round.

    Attributes:
        model: that it computed on, shape (d,), float32, as the server released it.
        sampled: which of its records were in its secret sample, shape (n,).
    """

    model: NDArray[np.float32]
    sampled: NDArray[np.bool_]


@dataclass(eq=False, repr=False)
class Silo:
    """A client's data and own history. Never leaves the client.

    Attributes:
        name: of the client.
        records: all n of its records.
        gradients: computes sums of clipped gradients of the federation's model.
        forgotten: marks of the records that are to be forgotten, shape (n,).
        history: one entry a training round, where the client keeps it (record and group unit).
        own_updates: sum of its clipped updates, shape (d,), for the client unit; None before the first.
        keeps_history: whether it does.
        stacked: computes updates for the client unit together with other clients of a simulation; None computes alone.
    """

    name: str
    records: Records
    gradients: PerRecordGradients
    model: FlatModel
    forgotten: NDArray[np.bool_]
    keeps_history: bool = True
    history: list[HistoryEntry] = field(default_factory=list)
    own_updates: NDArray[np.float64] | None = None
    stacked: StackedUpdates | None = None
    _newest: tuple[NDArray[np.float32], NDArray[np.float64]] | None = None

    @classmethod
    def of(
        cls,
        name: str,
        records: Records,
        model: FlatModel,
        gradients: PerRecordGradients,
        *,
        keeps_history: bool = True,
        stacked: StackedUpdates | None = None,
    ) -> Silo:
        """A silo with nothing to forget.

        Raises:
            ArgumentError: it has no records, or more than the float64 error in the sensitivity allows for.
        """
        if len(records) == 0:
            raise ArgumentError(f"records of client {name!r}", "0 records", "at least one record")
        if len(records) > MAX_SUMMED_VECTORS:
            raise ArgumentError(
                f"records of client {name!r}", f"{len(records)} records", f"at most {MAX_SUMMED_VECTORS}"
            )
        return cls(
            name=name,
            records=records,
            gradients=gradients,
            model=model,
            forgotten=np.zeros(len(records), dtype=np.bool_),
            keeps_history=keeps_history,
            stacked=stacked,
        )

    def __repr__(self) -> str:
        return f"Silo({self.name!r}, {len(self.records)} records)"

    def forgetting(self, forgotten: NDArray[np.bool_]) -> Silo:
        """The same client after it marked records as to be forgotten: same data, a copy of the history.

        Args:
            forgotten: shape (n,).
        """
        if forgotten.shape != (len(self.records),):
            raise ArgumentError("forgotten", forgotten.shape, f"shape ({len(self.records)},)")
        return Silo(
            name=self.name,
            records=self.records,
            gradients=self.gradients,
            model=self.model,
            forgotten=forgotten,
            keeps_history=False,
            history=list(self.history),
            own_updates=self.own_updates,
            stacked=None if forgotten.any() else self.stacked,
        )

    def remember_sample(self, model: NDArray[np.float32], sampled: NDArray[np.bool_]) -> None:
        """Keep what a training round took. A round asked for again, on the same model, takes the place of the first."""
        if self.keeps_history:
            if self.history and np.array_equal(self.history[-1].model, model):
                self.history.pop()
            self.history.append(HistoryEntry(model, sampled))

    def remember_update(self, model: NDArray[np.float32], update: NDArray[np.float64]) -> None:
        """Keep a round's clipped update, shape (d,); a round asked for again takes the place of the first."""
        if self.keeps_history:
            total = np.zeros_like(update) if self.own_updates is None else self.own_updates
            if self._newest is not None and np.array_equal(self._newest[0], model):
                total = total - self._newest[1]
            self._newest = (model, update)
            self.own_updates = total + update

    @cached_property
    def retained_records(self) -> Records:
        """Records that stay."""
        return self.records.subset(~self.forgotten)

    @cached_property
    def forgotten_records(self) -> Records:
        """Records that are to be forgotten."""
        return self.records.subset(self.forgotten)

    @property
    def leaves(self) -> bool:
        """Whether nothing of this client stays."""
        return bool(self.forgotten.all())
