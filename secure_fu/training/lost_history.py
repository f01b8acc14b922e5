"""In the place of a client's history whose files are damaged: the client goes on, and no method reads what is left."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from secure_fu.errors import ArgumentError, DamagedHistory
from secure_fu.protocol.files import destroy_file
from secure_fu.training.history import LOST, ClientHistory
from secure_fu.training.model_archive import ModelArchive, usable, write_file

__all__ = ["LostHistory", "open_history"]

_LOGGER = logging.getLogger("secure_fu")
_SAYS: Final = b"Rounds are missing from this history for good: restored files would not make it whole.\n"


class LostHistory:
    """Stands for the history in the client's silo. It remembers nothing, and says why when it is asked for.

    Nobody can tell any more what damaged files say of which records, so the first deletion that is executed destroys
    them all. Before that, and before the first round of training that it misses, restored files make the history whole
    again; afterwards a file `lost` keeps them from being taken for it.

    Args:
        folder: of the history.
        records: n, of the client when it joined.
        archive: where the models are.
        owns_archive: whether no other client shares it.
        reason: what is damaged.

    Raises:
        HistoryError: the folder cannot be used.
    """

    def __init__(self, folder: Path, *, records: int, archive: ModelArchive, owns_archive: bool, reason: str) -> None:
        with usable(folder):
            self._marked = LOST in {path.name for path in folder.iterdir()}
        self.records: Final = records
        self.archive: Final = archive
        self.reason: Final = reason
        self._folder = folder
        self._owns_archive = owns_archive
        self._parent: LostHistory | None = None

    def __repr__(self) -> str:
        return "LostHistory()"

    def __len__(self) -> int:
        return 0

    @property
    def dimension(self) -> int:
        """Of the model, d."""
        return self.archive.dimension

    @property
    def rounds(self) -> tuple[int, ...]:
        """Numbers of the rounds that it remembers: none."""
        return ()

    @property
    def digests(self) -> frozenset[bytes]:
        """Of the models that it needs: none."""
        return frozenset()

    def remember_sample(self, round_number: int, model: NDArray[np.float32], sampled: NDArray[np.bool_]) -> None:
        """Note that a round is missing.

        Raises:
            HistoryError: it cannot be written.
        """
        del round_number, model, sampled
        self._miss()

    def remember_update(self, round_number: int, model: NDArray[np.float32], update: NDArray[np.float64]) -> None:
        """As :meth:`remember_sample`."""
        del round_number, model, update
        self._miss()

    def forget_after(self, round_number: int) -> None:
        """Nothing yet: whatever is forgotten, all goes when it is settled."""

    def erase(self, forgotten: NDArray[np.bool_]) -> None:
        """As :meth:`forget_after`."""

    def branch(self) -> LostHistory:
        """See :meth:`ClientHistory.branch`."""
        made = LostHistory(
            self._folder,
            records=self.records,
            archive=self.archive,
            owns_archive=self._owns_archive,
            reason=self.reason,
        )
        made._parent = self
        return made

    def settle(self) -> LostHistory:
        """Destroy all files; what this was branched from, and stands for them from then on.

        Raises:
            ArgumentError: it is no branch.
            HistoryError: a file cannot be destroyed.
        """
        parent, self._parent = self._parent, None
        if parent is None:
            raise ArgumentError("history", "not a branch", "what branch() returned, once")
        parent._miss()
        with usable(parent._folder):
            for path in parent._folder.glob("round-*.safetensors"):
                destroy_file(path)
        if parent._owns_archive:
            parent.archive.keep_only(())
        return parent

    def _miss(self) -> None:
        # What a branch misses counts when it is settled.
        if self._parent is None and not self._marked:
            write_file(self._folder / LOST, _SAYS)
            self._marked = True


def open_history(
    client: str, *, records: int, dimension: int, folder: Path | None, archive: ModelArchive | None
) -> ClientHistory | LostHistory:
    """A client's history as its folder has it; lost, with a warning in the log of `secure_fu`, if files are damaged.

    Args:
        client: its name.
        records, dimension, folder, archive: as of :class:`ClientHistory`.

    Raises:
        HistoryError: the folder holds another history, or cannot be used.
    """
    try:
        return ClientHistory(records=records, dimension=dimension, folder=folder, archive=archive)
    except DamagedHistory as error:
        if folder is None:
            raise
        _LOGGER.warning("client %s has lost its history, which some methods need: %s", client, error)
        return LostHistory(
            folder,
            records=records,
            archive=ModelArchive(folder / "models", dimension=dimension) if archive is None else archive,
            owns_archive=archive is None,
            reason=str(error),
        )
