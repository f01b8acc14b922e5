"""What a client remembers of its own part in training: on its own disk, one file a round, or in memory.

The models that clients computed on are released, and the same for all of them: an archive addressed by SHA-256 holds
each once. The clients of a simulation share one; a client alone on its machine has its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from secure_fu.errors import ArgumentError, DamagedHistory, HistoryError
from secure_fu.protocol.files import destroy_file, leftovers
from secure_fu.training.model_archive import (
    ADVICE,
    ModelArchive,
    destroy_folder,
    make_folder,
    read_file,
    usable,
    write_file,
)

__all__ = ["LOST", "ClientHistory", "HistoryEntry"]

LOST: Final = "lost"
"""A file of this name says that rounds are missing from a history for good."""

_FORMAT: Final = "secure-fu/history/1"
_FIELDS: Final = {"format", "round", "after", "model", "records", "dimension", "sha256"}
_NAME: Final = re.compile(r"round-(\d{8,})\.safetensors")
_BRANCH: Final = "branch-"
_OLD: Final = ".old.part"
_TENSORS: Final = ({"sampled"}, {"update"})


@dataclass(frozen=True, eq=False, repr=False)
class HistoryEntry:
    """What a client did in one training round. Private to it.

    Attributes:
        round_number: of the protocol.
        digest: SHA-256 of the model that it computed on.
        sampled: which of its records were in its secret sample, shape (n,); None for the client unit.
        update: its clipped update, shape (d,), float32; None for the record and group unit.
    """

    round_number: int
    digest: bytes
    sampled: NDArray[np.bool_] | None = None
    update: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class _Held:
    round_number: int
    digest: bytes
    whole: bool  # an update rather than a sample
    where: HistoryEntry | Path


class ClientHistory:
    """One client's own memory of its training rounds, in their order. Never leaves the client.

    Private to the client: it holds its secret samples, or its updates, in the clear. Files can be read by their owner
    only; nothing of them is logged, sent or shown by `repr`. Whoever reads the folder learns which records were sampled
    when, which undoes the amplification by sampling towards that reader.

    On disk, `round-<number>.safetensors` holds the sample as bits, or the update as float32, with a SHA-256 over all
    that the file says; memory holds a number and a digest a round. Each file names the round before it, so that one
    missing from the middle is found. Writes are not synced: a history that a crash tore is refused, and costs utility
    and no privacy.

    Args:
        records: n, of the client when it joined; samples keep their places when some are deleted.
        dimension: d, of the model.
        folder: of this client alone, made if there is none; what it holds already is read and checked. None keeps
            everything in memory.
        archive: where the models are. None makes one, in `folder/models` or in memory, which then holds what this
            history needs and no more; of a shared one whoever shares it says what to keep.

    Raises:
        DamagedHistory: a file is missing, truncated or corrupt; names it and what would be right.
        HistoryError: a file is of another model or another number of records, or the folder cannot be used.
    """

    def __init__(
        self, *, records: int, dimension: int, folder: Path | None = None, archive: ModelArchive | None = None
    ) -> None:
        self._records = records
        self._folder = folder
        self._parent: ClientHistory | None = None
        self._held: list[_Held] = []
        self._owns_archive = archive is None
        if folder is not None:
            with usable(folder):
                make_folder(folder)
        if archive is None:
            archive = ModelArchive(None if folder is None else folder / "models", dimension=dimension)
        if archive.dimension != dimension:
            raise HistoryError(f"the archive's models have {archive.dimension} parameters; expected {dimension}")
        self.archive: Final = archive
        if folder is not None:
            with usable(folder):
                for stale in folder.glob(f"{_BRANCH}*"):
                    _spare(stale, folder)
                    destroy_folder(stale)
                for path in leftovers(folder, "round-*.safetensors"):
                    destroy_file(path)
                names = sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))
                if (folder / LOST).exists():
                    raise DamagedHistory(f"{folder / LOST} says that rounds are missing from it for good")
            self._held = self._opened(names)

    def _opened(self, paths: list[Path]) -> list[_Held]:
        held: list[_Held] = []
        for path in paths:
            entry, after = self._load(path)
            last = held[-1].round_number if held else -1
            if after != last:
                raise DamagedHistory(f"{path} comes after round {after}, whose file is missing; {ADVICE}")
            held.append(_Held(entry.round_number, entry.digest, entry.update is not None, path))
        return held

    def __repr__(self) -> str:
        return f"ClientHistory({len(self)} rounds)"

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[HistoryEntry]:
        """Entries in the order of rounds, read one at a time.

        Raises:
            HistoryError: a file is missing or damaged.
        """
        for held in tuple(self._held):
            yield self._entry(held)

    @property
    def records(self) -> int:
        """How many records the samples are of, those that were deleted among them, n."""
        return self._records

    @property
    def dimension(self) -> int:
        """Of the model, d."""
        return self.archive.dimension

    @property
    def rounds(self) -> tuple[int, ...]:
        """Numbers of the rounds that it remembers, ascending."""
        return tuple(held.round_number for held in self._held)

    @property
    def digests(self) -> frozenset[bytes]:
        """Of the models that entries refer to."""
        return frozenset(held.digest for held in self._held)

    def check(self) -> None:
        """Read everything once.

        Raises:
            HistoryError: a file, of a round or of a model, is missing or damaged.
        """
        for entry in self:
            self.archive.get(entry.digest)

    def find(self, digest: bytes) -> HistoryEntry | None:
        """The newest round on a model; None if the client had no part in one.

        Raises:
            HistoryError: its file is missing or damaged.
        """
        return next((self._entry(held) for held in reversed(self._held) if held.digest == digest), None)

    def total_update(self) -> NDArray[np.float64]:
        """Sum of all updates, shape (d,)."""
        total = np.zeros(self.dimension)
        for entry in self:
            if entry.update is not None:
                total += entry.update
        return total

    def remember_sample(self, round_number: int, model: NDArray[np.float32], sampled: NDArray[np.bool_]) -> None:
        """Keep what a round took; one asked for again, on the same model, takes the place of the first.

        Args:
            model: shape (d,).
            sampled: shape (n,).

        Raises:
            ArgumentError: a shape does not fit, or the round does not come after the newest.
            HistoryError: it cannot be written.
        """
        if sampled.shape != (self._records,):
            raise ArgumentError("sampled", sampled.shape, f"shape ({self._records},)")
        self._remember(HistoryEntry(round_number, self.archive.put(model), sampled=sampled.copy()))

    def remember_update(self, round_number: int, model: NDArray[np.float32], update: NDArray[np.float64]) -> None:
        """Keep a round's clipped update, shape (d,), rounded to float32. Otherwise as :meth:`remember_sample`."""
        if update.shape != (self.dimension,):
            raise ArgumentError("update", update.shape, f"shape ({self.dimension},)")
        self._remember(HistoryEntry(round_number, self.archive.put(model), update=update.astype(np.float32)))

    def _remember(self, entry: HistoryEntry) -> None:
        before = self._held
        if before and before[-1].digest == entry.digest:
            before = before[:-1]
        if before and entry.round_number <= before[-1].round_number:
            raise ArgumentError("round_number", entry.round_number, f"above {before[-1].round_number}, the newest")
        replaced = self._held[len(before) :]
        self._held = [*before, self._keep(entry, before[-1].round_number if before else -1)]
        self._drop(replaced)

    def forget_after(self, round_number: int) -> None:
        """Destroy all that came after a round: going back to a checkpoint takes its later history away."""
        doomed = [held for held in self._held if held.round_number > round_number]
        self._held = self._held[: len(self._held) - len(doomed)]
        self._drop(doomed)
        self._prune()

    def erase(self, forgotten: NDArray[np.bool_]) -> None:
        """Destroy what the history says of records that are gone; their places stay, and say that they had no part.

        Every sample is written again, whatever it holds: how long this takes does not tell which records are gone, nor
        whether any are. That of a client that leaves altogether does, and so it does where the history is of updates.

        Args:
            forgotten: shape (n,); all of them end the history. Records that were erased before change nothing.

        Raises:
            ArgumentError: another shape, or some but not all records where the history is of the client's updates.
            HistoryError: a file is missing or damaged, or cannot be written or destroyed.
        """
        if forgotten.shape != (self._records,):
            raise ArgumentError("forgotten", forgotten.shape, f"shape ({self._records},)")
        if forgotten.all():
            self.forget_after(-1)
            return
        if forgotten.any() and any(held.whole for held in self._held):
            raise ArgumentError("forgotten", "a part of the records", "all of them: updates cannot be taken apart")
        after = -1
        for index, entry in enumerate(self):
            if entry.sampled is not None:
                old = self._held.pop(index)
                self._drop([old])
                self._held.insert(index, self._keep(replace(entry, sampled=entry.sampled & ~forgotten), after))
            after = entry.round_number

    # Branches

    def branch(self) -> ClientHistory:
        """A copy on write: what is done to it changes nothing here until it is settled.

        It reads the files of this history, which must stay as it is for as long as the branch is used. What a branch
        that is never settled has written goes with it.
        """
        made = ClientHistory(records=self._records, dimension=self.dimension, archive=self.archive)
        made._parent, made._held = self, list(self._held)
        return made

    def settle(self) -> ClientHistory:
        """Put this branch in the place of the history that it was made from, and return that; the rest is destroyed.

        Raises:
            ArgumentError: it is no branch.
            HistoryError: a file cannot be moved or destroyed.
        """
        parent = self._parent
        if parent is None:
            raise ArgumentError("history", "not a branch", "what branch() returned, once")
        old, parent._held = parent._held, list(self._held)
        # The newest first, and what is replaced not yet: a kill at any moment leaves rounds that follow each other.
        replaced = {held.where.name for held in self._held if isinstance(held.where, Path)}
        gone = [held for held in old if isinstance(held.where, Path) and held.where.name not in replaced]
        parent._drop(reversed(gone))
        if parent._folder is not None and self._folder is not None:
            with usable(parent._folder):
                for index, held in enumerate(parent._held):
                    if isinstance(held.where, Path) and held.where.parent == self._folder:
                        parent._held[index] = replace(held, where=_moved(held.where, parent._folder))
                destroy_folder(self._folder)
        parent._prune()
        self._parent, self._folder, self._held = None, None, []
        return parent

    # Files

    def _keep(self, entry: HistoryEntry, after: int) -> _Held:
        folder = self._own_folder()
        where: HistoryEntry | Path = entry
        if folder is not None:
            where = folder / f"round-{entry.round_number:08}.safetensors"
            tensors: dict[str, NDArray[Any]] = {}
            if entry.sampled is not None:
                tensors["sampled"] = np.packbits(entry.sampled)
            if entry.update is not None:
                tensors["update"] = np.ascontiguousarray(entry.update)
            metadata = {
                "format": _FORMAT,
                "round": str(entry.round_number),
                "after": str(after),
                "model": entry.digest.hex(),
                "records": str(self._records),
                "dimension": str(self.dimension),
            }
            metadata["sha256"] = _content(metadata, tensors)
            write_file(where, save(tensors, metadata))
        return _Held(entry.round_number, entry.digest, entry.update is not None, where)

    def _own_folder(self) -> Path | None:
        if self._folder is None and self._parent is not None and self._parent._folder is not None:
            with usable(self._parent._folder):
                self._folder = Path(tempfile.mkdtemp(prefix=_BRANCH, dir=self._parent._folder))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder

    def _drop(self, doomed: Iterable[_Held]) -> None:
        """Destroy files of this history's own, unless a newer entry has taken their place."""
        in_use = {held.where for held in self._held if isinstance(held.where, Path)}
        for held in doomed:
            if isinstance(held.where, Path) and held.where.parent == self._folder and held.where not in in_use:
                with usable(held.where):
                    destroy_file(held.where)

    def _prune(self) -> None:
        if self._owns_archive:
            self.archive.keep_only(self.digests)

    def _entry(self, held: _Held) -> HistoryEntry:
        if isinstance(held.where, HistoryEntry):
            return held.where
        entry, _ = self._load(held.where)
        if (entry.round_number, entry.digest) != (held.round_number, held.digest):
            raise DamagedHistory(f"{held.where} is of another round than was written there; {ADVICE}")
        return entry

    def _load(self, path: Path) -> tuple[HistoryEntry, int]:
        """An entry, and the number of the round before it."""
        metadata, tensors = read_file(path)
        try:
            if set(metadata) != _FIELDS or metadata["format"] != _FORMAT or set(tensors) not in _TENSORS:
                raise ValueError("its fields")
            if metadata["sha256"] != _content(metadata, tensors):
                raise ValueError("its hash")
            number, after, records, dimension = (
                int(metadata[field]) for field in ("round", "after", "records", "dimension")
            )
            digest = bytes.fromhex(metadata["model"])
        except (ValueError, KeyError) as error:
            raise DamagedHistory(f"{path} is damaged, or no part of a history ({error}); {ADVICE}") from None
        if path.name != f"round-{number:08}.safetensors":
            raise DamagedHistory(f"{path} is of round {number}; expected round-{number:08}.safetensors; {ADVICE}")
        if dimension != self.dimension:
            raise HistoryError(
                f"{path} does not fit the model: it is of one of {dimension} parameters; expected {self.dimension}"
            )
        if "update" in tensors:
            return HistoryEntry(number, digest, update=tensors["update"]), after
        if records != self._records:
            raise HistoryError(f"{path} is of {records} records; expected {self._records}, as the client has")
        return HistoryEntry(
            number, digest, sampled=np.unpackbits(tensors["sampled"], count=records).astype(np.bool_)
        ), after


def _moved(path: Path, folder: Path) -> Path:
    """Put a file of a branch into a folder, and destroy the one in whose place it comes; where it is now.

    A kill leaves the one or the other there; what else it leaves is in the branch's folder.
    """
    place, old = folder / path.name, path.with_name(f".{path.name}{_OLD}")
    if place.exists():
        try:
            os.link(place, old)
        except OSError:  # a file system without links: for a moment there is neither
            destroy_file(place)
    path.replace(place)
    destroy_file(old)
    return place


def _spare(branch: Path, folder: Path) -> None:
    """After a kill within :func:`_moved`: a second name of what is still in its place goes without what it names."""
    for old in branch.glob(f".*{_OLD}"):
        place = folder / old.name.removeprefix(".").removesuffix(_OLD)
        with suppress(FileNotFoundError):  # either may not be there, or go by itself meanwhile
            if place.samefile(old):
                old.unlink()


def _content(metadata: dict[str, str], tensors: dict[str, NDArray[Any]]) -> str:
    """SHA-256, in hexadecimal, of everything that a file says; its own hash left out."""
    said = {key: value for key, value in metadata.items() if key != "sha256"}
    shapes = {name: [values.dtype.str, values.shape] for name, values in tensors.items()}
    whole = hashlib.sha256(hashlib.sha256(json.dumps([said, shapes], sort_keys=True).encode()).digest())
    for name in sorted(tensors):
        whole.update(tensors[name].tobytes())
    return whole.hexdigest()
