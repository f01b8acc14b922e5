"""One client's private side: its records, which of them are to be forgotten, and what it remembers of its own part."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secure_fu.errors import ArgumentError, HistoryError
from secure_fu.learning import FlatModel, PerRecordGradients, Records
from secure_fu.privacy import MAX_SUMMED_VECTORS, Unit
from secure_fu.training.history import ClientHistory, HistoryEntry
from secure_fu.training.local_updates import StackedUpdates
from secure_fu.training.lost_history import LostHistory, open_history
from secure_fu.training.model_archive import ModelArchive

__all__ = ["Silo", "check_size", "check_whole_units"]


@dataclass(frozen=True, eq=False, repr=False)
class Silo:
    """A client's data and own history. Never leaves the client.

    Attributes:
        name: of the client.
        records: all n of its records; those that a deletion took away are no more among them.
        gradients: computes sums of clipped gradients of the federation's model.
        model: the federation's, for its architecture.
        forgotten: marks of the records that are to be forgotten, shape (n,).
        places: of these records among those that the client joined with, shape (n,): samples in histories are of those.
        history: of the training rounds up to now, or what stands for a damaged one; None where the client keeps none.
        line: where it writes down the rounds to come, without the forgotten records; None where it does not.
        stacked: computes updates for the client unit together with other clients of a simulation; None computes alone.

    Raises:
        ArgumentError: marks of another length.
        HistoryError: the history is of another model, or of another number of records.
    """

    name: str
    records: Records
    gradients: PerRecordGradients
    model: FlatModel
    forgotten: NDArray[np.bool_]
    places: NDArray[np.int64]
    history: ClientHistory | LostHistory | None = None
    line: ClientHistory | LostHistory | None = None
    stacked: StackedUpdates | None = None

    def __post_init__(self) -> None:
        count = len(self.records)
        if self.forgotten.shape != (count,):
            raise ArgumentError("forgotten", self.forgotten.shape, f"shape ({count},)")
        if self.history is not None and self.history.dimension != self.model.dimension:
            raise HistoryError(
                f"the history of client {self.name!r} is of a model of {self.history.dimension} parameters; expected "
                f"{self.model.dimension}"
            )
        if self.history is not None and (
            self.places.shape != (count,) or self.places.max(initial=-1) >= self.history.records
        ):
            raise HistoryError(
                f"the history of client {self.name!r} is of {self.history.records} records; expected one of those that "
                f"it joined with, of which {count} are left"
            )

    @classmethod
    def of(
        cls,
        name: str,
        records: Records,
        model: FlatModel,
        gradients: PerRecordGradients,
        *,
        keeps_history: bool = True,
        folder: Path | None = None,
        archive: ModelArchive | None = None,
        stacked: StackedUpdates | None = None,
    ) -> Silo:
        """A silo with nothing to forget.

        Args:
            keeps_history: whether it remembers its training rounds.
            folder: of its history, for this client alone; None keeps it in memory.
            archive: of the models that histories refer to, which the clients of a simulation share; None makes one.

        Raises:
            ArgumentError: it has no records, or more than the float64 error in the sensitivity allows for.
            HistoryError: the folder holds a history that does not fit, or cannot be used. Where one is damaged the
                client goes on without it, see :class:`~secure_fu.training.LostHistory`.
        """
        check_size(name, records)
        history = None
        if keeps_history:
            history = open_history(
                name, records=len(records), dimension=model.dimension, folder=folder, archive=archive
            )
        return cls(
            name=name,
            records=records,
            gradients=gradients,
            model=model,
            forgotten=np.zeros(len(records), dtype=np.bool_),
            places=np.arange(len(records)),
            history=history,
            line=history,
            stacked=stacked,
        )

    def __repr__(self) -> str:
        return f"Silo({self.name!r}, {len(self.records)} records)"

    def forgetting(
        self, forgotten: NDArray[np.bool_], unit: Unit | None = None, *, continues_after: int | None = None
    ) -> Silo:
        """The same client after it marked records as to be forgotten: same data, a copy on write of the history.

        Args:
            forgotten: shape (n,).
            unit: refuse marks that part a unit of this kind.
            continues_after: for a deletion that is executed, the number of the last round behind the state that it
                starts from: the copy remembers the rounds to come, after those up to that one. None remembers nothing.

        Raises:
            ArgumentError: marks of another length, or a part of a unit.
        """
        if unit is not None and forgotten.shape == (len(self.records),):
            check_whole_units(self.records, forgotten, unit)
        history = line = None
        if self.history is not None:
            history = self.history.branch()
            if continues_after is not None:
                line = self.history.branch()
                line.forget_after(continues_after)
                _erase(line, self.places, forgotten)
        return replace(
            self, forgotten=forgotten, history=history, line=line, stacked=None if forgotten.any() else self.stacked
        )

    def erased(self) -> Silo:
        """The client after the deletion was executed: without the marked records and all that it remembers of them.

        Of what :meth:`forgetting` returned. The history goes on where `continues_after` said, or as it was; it takes
        the place of the one that it was copied from, on disk as well, and what is not in it is destroyed.

        Raises:
            HistoryError: a file cannot be read, moved or destroyed.
        """
        history = None
        if self.history is not None:
            history = self.line
            if history is None:
                history = self.history
                _erase(history, self.places, self.forgotten)
            history = history.settle()
        return replace(self.without_records(), history=history, line=history)

    def without_records(self) -> Silo:
        """The client without the marked records and without a history. Touches no file, so that it cannot fail."""
        return replace(
            self,
            records=self.retained_records,
            forgotten=np.zeros(int((~self.forgotten).sum()), dtype=np.bool_),
            places=self.places[~self.forgotten],
            history=None,
            line=None,
        )

    def checked_history(self) -> ClientHistory:
        """The history, read once from end to end: an unlearning round must not fail at those alone who use it.

        Raises:
            HistoryError: the client keeps none or has lost it, or a file is missing or damaged.
        """
        if self.history is None:
            raise HistoryError(
                f"client {self.name!r} keeps no history of its own; expected keep_history=True from the first round on"
            )
        if isinstance(self.history, LostHistory):
            raise HistoryError(
                f"client {self.name!r} has lost its history: {self.history.reason}. Expected a method that needs none"
            )
        self.history.check()
        return self.history

    def sampled_then(self, entry: HistoryEntry) -> NDArray[np.bool_]:
        """Which of the records were in a round's secret sample, shape (n,); none where the history is of updates."""
        return np.zeros(len(self.records), dtype=np.bool_) if entry.sampled is None else entry.sampled[self.places]

    def remember_sample(self, round_number: int, model: NDArray[np.float32], sampled: NDArray[np.bool_]) -> None:
        """Keep what a training round took, marks of shape (n,); see :meth:`ClientHistory.remember_sample`."""
        if self.line is not None and not self.leaves:
            marks = np.zeros(self.line.records, dtype=np.bool_)
            marks[self.places[sampled & ~self.forgotten]] = True
            self.line.remember_sample(round_number, model, marks)

    def remember_update(self, round_number: int, model: NDArray[np.float32], update: NDArray[np.float64]) -> None:
        """Keep a round's clipped update, shape (d,); see :meth:`ClientHistory.remember_update`."""
        if self.line is not None and not self.leaves:
            self.line.remember_update(round_number, model, update)

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


def _erase(history: ClientHistory | LostHistory, places: NDArray[np.int64], forgotten: NDArray[np.bool_]) -> None:
    if forgotten.all():
        history.forget_after(-1)
        return
    marks = np.zeros(history.records, dtype=np.bool_)
    marks[places[forgotten]] = True
    history.erase(marks)


def check_size(client: str, records: Records) -> None:
    """Raise ArgumentError for no records, or more than the float64 error in the sensitivity allows for."""
    if not 1 <= len(records) <= MAX_SUMMED_VECTORS:
        expected = "at least one record" if len(records) == 0 else f"at most {MAX_SUMMED_VECTORS}"
        raise ArgumentError(f"records of client {client!r}", f"{len(records)} records", expected)


def check_whole_units(records: Records, forgotten: NDArray[np.bool_], unit: Unit) -> None:
    """Refuse to forget a part of a unit: what stays of it would still be charged, and bounded, as one unit.

    Raises:
        ArgumentError: the mark parts a client, for the client unit, or somebody's records, for the group unit.
    """
    if unit is Unit.CLIENT:
        parted = bool(forgotten.any() and not forgotten.all())
    elif unit is Unit.GROUP and records.groups is not None:
        parted = bool(np.isin(records.groups[~forgotten], records.groups[forgotten]).any())
    else:
        parted = False
    if parted:
        raise ArgumentError(
            "request", f"{int(forgotten.sum())} records", f"whole units: the privacy unit is the {unit.value}"
        )
