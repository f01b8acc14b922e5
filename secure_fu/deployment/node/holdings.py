"""What a client at a node holds: its records, its history, its data file; and how they are destroyed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from secure_fu.deployment.node.data import DataFile
from secure_fu.deployment.node.orders import marks_of
from secure_fu.deployment.node.state import Pending
from secure_fu.errors import DataError, HistoryError
from secure_fu.learning import FlatModel, PerRecordGradients, Records
from secure_fu.training import ModelArchive, Silo

__all__ = ["Holdings"]

_LOGGER = logging.getLogger("secure_fu")


class Holdings:
    """A client's private side as it is now, without what is gone.

    Args:
        name: of the client.
        records: as they were brought; those that are gone may be blank.
        gone: positions of those.
        data_file: where they came from, to be wiped; None where they were handed in.
        folder: of the client's history.
        keeps_history: whether it keeps one.
        model: of the federation.
        archive: of models, shared by the clients of the node.
        prune: destroys the models in the archive that no client of the node refers to.

    Raises:
        ArgumentError, HistoryError: as :meth:`~secure_fu.training.Silo.of`.
    """

    def __init__(
        self,
        name: str,
        records: Records,
        gone: Iterable[int],
        *,
        data_file: DataFile | None,
        folder: Path,
        keeps_history: bool,
        model: FlatModel,
        archive: ModelArchive,
        prune: Callable[[], None],
    ) -> None:
        self._name, self._data_file, self._folder, self._keeps_history = name, data_file, folder, keeps_history
        self._model, self._archive, self._prune = model, archive, prune
        self._gradients = PerRecordGradients(model)
        # What finds the records that a request covers; of what is gone only the places are left.
        self.brought = Records(torch.zeros((len(records), 1)), records.labels.clone(), records.groups)
        self.gone = np.zeros(len(records), dtype=np.bool_)
        self._blank(gone)
        self.silo = whole = self._opened(records)
        if self.gone.any():
            self._part()
            self.silo = replace(self.silo, history=whole.history, line=whole.line)

    def without(self, places: Iterable[int]) -> Silo:
        """The silo as if it had not these records; its memory is the client's own.

        Args:
            places: as they were brought.
        """
        left = ~marks_of(places, len(self.brought))[self.silo.places]
        return self.silo if left.all() else _subset(self.silo, left)

    def marked(self, places: Iterable[int], *, without: Iterable[int], continues_after: int) -> Silo:
        """The silo with some records marked as to be forgotten.

        Args:
            places: of these, as they were brought.
            without: places of others that are left out, see :meth:`without`.
            continues_after: the last round of before that it goes on to remember; -1 for none.
        """
        silo = self.without(without)
        marks = marks_of(places, len(self.brought))[silo.places]
        try:
            return silo.forgetting(marks, continues_after=continues_after)
        except HistoryError as error:
            _LOGGER.error("client %s goes on without its history: %s", self._name, error)
            return replace(silo, history=None, line=None).forgetting(marks)

    def destroy(self, gone: Iterable[int], ordered: Silo | None, pending: Pending) -> None:
        """Take away what is gone: at once from memory, then from all files that can be wiped, whatever fails at one.

        All that stays is written again, of the history and of the data file: how long this takes does not tell what is
        gone, nor whether anything is, unless it is all that the client had.

        Args:
            gone: positions of all that is gone, as they were brought.
            ordered: what :meth:`marked` returned for the last of it; None finds out again from disk what there is.
            pending: which rounds may not be remembered any more.

        Raises:
            HistoryError, DataError, OSError: a file cannot be destroyed. Nobody has the records any more; the client
                goes on without a history until this was done again.
        """
        self._blank(gone)
        self._part()
        failed: HistoryError | DataError | OSError | None = None
        try:
            if self._data_file is not None:
                self._data_file.wipe(self.gone)
        except (DataError, OSError) as error:
            failed = error
        try:
            whole = self._found(pending) if ordered is None or ordered.history is None else ordered
            erased = whole.erased()
            self.silo = replace(self.silo, history=erased.history, line=erased.line)
            self._prune()
        except (HistoryError, OSError) as error:
            failed = error
        if failed is not None:
            raise failed

    def _part(self) -> None:
        """Take the records that are gone, and the history, out of memory; touches no file, so that it cannot fail."""
        self.silo = replace(_subset(self.silo, ~self.gone[self.silo.places]), history=None, line=None)

    def _found(self, pending: Pending) -> Silo:
        """What a wiping that was interrupted has left, marked anew."""
        features = torch.zeros((len(self.brought), *self.silo.records.shape))
        features[torch.from_numpy(self.silo.places)] = self.silo.records.features
        whole = self._opened(Records(features, self.brought.labels, self.brought.groups))
        rounds = () if whole.history is None else whole.history.rounds
        stale = any(pending.remembered < number <= pending.until for number in rounds)
        return whole.forgetting(self.gone, continues_after=pending.remembered if stale else None)

    def _blank(self, gone: Iterable[int]) -> None:
        self.gone = marks_of(gone, len(self.brought))
        labels, groups = self.brought.labels.clone(), self.brought.groups
        labels[torch.from_numpy(self.gone)] = 0
        if groups is not None:
            groups = groups.copy()
            groups[self.gone] = ""
        self.brought = Records(self.brought.features, labels, groups)

    def _opened(self, records: Records) -> Silo:
        """The silo of all records, those that are gone among them."""
        return Silo.of(
            self._name,
            records,
            self._model,
            self._gradients,
            keeps_history=self._keeps_history,
            folder=self._folder,
            archive=self._archive,
        )


def _subset(silo: Silo, left: NDArray[np.bool_]) -> Silo:
    return replace(
        silo,
        records=silo.records.subset(left),
        forgotten=np.zeros(int(left.sum()), dtype=np.bool_),
        places=silo.places[left],
    )
