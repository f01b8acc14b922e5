"""States of training on the server's disk, on a public grid of rounds: what a deletion can go back to."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from secure_fu.errors import ArgumentError, CheckpointError
from secure_fu.protocol import ReleasedModel
from secure_fu.protocol.files import destroy_file, leftovers, write_whole
from secure_fu.training.recipe import TrainingState

__all__ = ["CheckpointStore", "Lineage", "pack_state", "read_state"]

Lineage = tuple[tuple[str, int], ...]
"""Where a state comes from: (branch of the ledger, number of the last round taken from it), the oldest first."""

_FORMAT: Final = "secure-fu/checkpoint/1"
_FIELDS: Final = {"format", "rounds", "last_round", "lineage", "sha256"}
_GRID: Final = "grid.json"
_NAME: Final = re.compile(r"rounds-(\d{8,})\.safetensors")
_ADVICE: Final = (
    "delete it, so that an earlier checkpoint serves in its place and unlearning takes more rounds, or restore it from "
    "a copy made after the last deletion"
)


class CheckpointStore:
    """One file a state, for the rounds that are multiples of a public spacing, round 0 among them.

    Formal guarantees:
        Which rounds are kept is a function of `every`, `limit` and how many rounds were done, and of no data: the
        spacing is `every`, doubled as often as it takes to keep at most `limit` states up to the last round saved.
        What leaves the grid, and what :meth:`destroy_after` names, is destroyed before the method returns. A state is
        read back bit for bit, or not at all: each file has a SHA-256 over all that it holds.
    Not guaranteed:
        Against who can write the folder, for the hash has no key; and that destroyed bytes are gone from the medium,
        see :func:`~secure_fu.protocol.files.destroy_file`. Copies of the folder outlive every deletion.
    Edge cases:
        A kill at any moment leaves each state whole or absent; what was half written or half destroyed is destroyed
        when the store is opened again. Other files in the folder are not touched. One process at a time may have it.

    Args:
        directory: made if there is none; kept for one federation.
        start: the public starting point, which is the state at round 0.
        every: spacing at first, in rounds.
        limit: most states to keep, at least 2.

    Raises:
        ArgumentError: `every` or `limit` is out of its domain.
        CheckpointError: the folder holds states of another start, model or grid, or cannot be used.
    """

    def __init__(self, directory: Path, *, start: ReleasedModel, every: int = 10, limit: int = 32) -> None:
        if every < 1:
            raise ArgumentError("every", every, "at least 1")
        if limit < 2:
            raise ArgumentError("limit", limit, "at least 2: the start and one more")
        self._directory = directory
        self._dimension = start.dimension
        self._every = every
        self._limit = limit
        self._lineages: dict[int, Lineage] = {}  # known still where a file has become unreadable since
        try:
            directory.mkdir(parents=True, exist_ok=True)
            known = (directory / _GRID).exists()
            self._rounds = sorted(
                int(found[1]) for path in directory.iterdir() if (found := _NAME.fullmatch(path.name))
            )
            if known:
                self._spacing = self._read_grid()
            elif self._rounds:
                raise CheckpointError(
                    f"{directory / _GRID} is missing beside checkpoints; {directory} cannot be used: choose another "
                    "folder, or restore that file"
                )
            else:
                self._spacing = every
                self._write_grid()
            for path in leftovers(directory, "rounds-*.safetensors"):
                destroy_file(path)
            self._widen(self._spacing_for(max(self._rounds, default=0)))
        except OSError as error:
            raise CheckpointError(f"{directory} cannot be used for checkpoints: {error}") from error
        self._keep_start(start)

    def _keep_start(self, start: ReleasedModel) -> None:
        if 0 not in self._rounds:
            self._write(TrainingState.initial(start), ())
        elif self.load(0).model.digest != start.digest:
            raise CheckpointError(
                f"{self._path(0)} is not the start that was given: {self._directory} belongs to another federation; "
                "choose another folder"
            )

    @property
    def rounds(self) -> tuple[int, ...]:
        """The rounds of training behind each state that is kept, ascending, from 0 on."""
        return tuple(self._rounds)

    @property
    def spacing(self) -> int:
        """Rounds between two states at present."""
        return self._spacing

    def save(self, state: TrainingState, lineage: Lineage) -> bool:
        """Keep a state if its rounds are on the grid; durable on return.

        Args:
            state: after the last one kept, or equal to one that is kept.
            lineage: where it comes from.

        Returns:
            whether it is kept.

        Raises:
            ArgumentError: the state is of another model; it is another one than is kept for its rounds, or comes before
                the last one kept: after a deletion :meth:`destroy_after` comes first.
            CheckpointError: it cannot be written.
        """
        rounds = state.rounds
        if (state.model.dimension, state.velocity.shape) != (self._dimension, (self._dimension,)):
            raise ArgumentError("state", f"{state.model.dimension} parameters", f"{self._dimension} parameters")
        if rounds in self._rounds:
            if _content(state, lineage) != _content(self.load(rounds), self.lineage(rounds)):
                raise ArgumentError("state", f"another state at round {rounds}", "the one kept; destroy_after first")
            return True
        if rounds < self._rounds[-1]:
            raise ArgumentError("state.rounds", rounds, f"more than {self._rounds[-1]}, the last kept")
        spacing = self._spacing_for(rounds)
        try:
            if rounds % spacing == 0:
                self._write(state, lineage)
            self._widen(spacing)  # only now: of what a kill leaves, the newest state is never older than before
        except OSError as error:
            raise CheckpointError(f"{self._path(rounds)} cannot be written: {error}") from error
        return rounds in self._rounds

    def _spacing_for(self, rounds: int) -> int:
        """The present spacing, doubled until the grid up to a round has no more points than states may be kept."""
        spacing = self._spacing
        while rounds // spacing + 1 > self._limit:
            spacing *= 2
        return spacing

    def _widen(self, spacing: int) -> None:
        if spacing != self._spacing:
            self._spacing = spacing
            self._write_grid()
        self._destroy(lambda kept: kept % spacing != 0)

    def load(self, rounds: int) -> TrainingState:
        """The state at a round.

        Raises:
            CheckpointError: there is none, or its file is missing or damaged, or of another model; names the file and
                what to do.
        """
        return self._read(rounds)[0]

    def lineage(self, rounds: int) -> Lineage:
        """Where the state at a round comes from.

        Raises:
            CheckpointError: as :meth:`load`.
        """
        if rounds not in self._lineages:
            self._lineages[rounds] = self._read(rounds)[1]
        return self._lineages[rounds]

    def destroy_after(self, rounds: int) -> None:
        """Destroy every state of more than `rounds` rounds, the newest first; they are gone on return.

        Args:
            rounds: at least 0; the start is public and stays.

        Raises:
            ArgumentError: `rounds` is negative.
            CheckpointError: a file cannot be overwritten or removed; names it. Those that are newer are gone.
        """
        if rounds < 0:
            raise ArgumentError("rounds", rounds, "at least 0")
        self._destroy(lambda kept: kept > rounds)

    def _destroy(self, doomed: Callable[[int], bool]) -> None:
        for rounds in sorted(filter(doomed, self._rounds), reverse=True):
            try:
                destroy_file(self._path(rounds))
            except OSError as error:
                raise CheckpointError(
                    f"{self._path(rounds)} cannot be destroyed: {error}; destroy it by hand and open the store again"
                ) from error
            self._rounds.remove(rounds)
            self._lineages.pop(rounds, None)

    def _path(self, rounds: int) -> Path:
        return self._directory / f"rounds-{rounds:08}.safetensors"

    def _write(self, state: TrainingState, lineage: Lineage) -> None:
        write_whole(self._path(state.rounds), pack_state(state, lineage))
        self._lineages[state.rounds] = lineage
        self._rounds = sorted({*self._rounds, state.rounds})

    def _read(self, rounds: int) -> tuple[TrainingState, Lineage]:
        path = self._path(rounds)
        if not path.exists() and rounds not in self._rounds:
            raise CheckpointError(f"{path} is missing: there is no checkpoint at round {rounds}, but at {self.rounds}")
        state, lineage = read_state(path)
        if state.rounds != rounds:
            raise CheckpointError(f"{path} is damaged: it does not hold what was written; {_ADVICE}")
        if state.model.dimension != self._dimension:
            raise CheckpointError(
                f"{path} is of another model, of {state.model.dimension} parameters instead of {self._dimension}; move "
                "it out of the folder"
            )
        return state, lineage

    def _write_grid(self) -> None:
        grid = {"every": self._every, "limit": self._limit, "spacing": self._spacing}
        write_whole(self._directory / _GRID, json.dumps(grid).encode())

    def _read_grid(self) -> int:
        path = self._directory / _GRID
        try:
            grid = json.loads(path.read_bytes())
            every, limit, spacing = (int(grid[name]) for name in ("every", "limit", "spacing"))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CheckpointError(f"{path} is damaged ({error}); restore it from a copy") from error
        if (every, limit) != (self._every, self._limit):
            raise CheckpointError(
                f"{path} says every {every} rounds and at most {limit}; every {self._every} and at most {self._limit} "
                "were asked for: the grid is fixed when a federation begins"
            )
        return spacing


def pack_state(state: TrainingState, lineage: Lineage) -> bytes:
    """A state as the content of a safetensors file, with a SHA-256 over all that it holds."""
    metadata = {
        "format": _FORMAT,
        "rounds": str(state.rounds),
        "last_round": str(state.last_round),
        "lineage": json.dumps(lineage),
        "sha256": _content(state, lineage).hex(),
    }
    tensors: dict[str, NDArray[Any]] = {"model": np.array(state.model.vector), "velocity": np.array(state.velocity)}
    return save(tensors, metadata)


def read_state(path: Path) -> tuple[TrainingState, Lineage]:
    """What :func:`pack_state` packed, bit for bit.

    Raises:
        CheckpointError: the file is missing or damaged; names it and what to do.
    """
    if not path.exists():
        raise CheckpointError(
            f"{path} is missing; restore it from a copy made after the last deletion, or, if it is a checkpoint, open "
            "the store again without it"
        )
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in list(file.keys())}
        state, lineage = _state_of(metadata, tensors)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError, ArgumentError) as error:
        raise CheckpointError(f"{path} is damaged or no checkpoint ({error}); {_ADVICE}") from error
    if _content(state, lineage).hex() != metadata.get("sha256"):
        raise CheckpointError(f"{path} is damaged: it does not hold what was written; {_ADVICE}")
    return state, lineage


def _state_of(metadata: dict[str, str], tensors: dict[str, NDArray[Any]]) -> tuple[TrainingState, Lineage]:
    """Raises ValueError, KeyError, TypeError or ArgumentError where these do not make a state."""
    model, velocity = tensors["model"], tensors["velocity"]
    if set(tensors) != {"model", "velocity"} or set(metadata) != _FIELDS:
        raise ValueError(f"it holds {sorted(tensors)} and {sorted(metadata)}")
    if metadata["format"] != _FORMAT:
        raise ValueError(f"its format is {metadata['format']!r}, not {_FORMAT!r}")
    if velocity.dtype != np.float64 or velocity.shape != model.shape:
        raise ValueError(f"its velocity is {velocity.dtype} of shape {velocity.shape}")
    lineage = tuple((str(branch), int(last)) for branch, last in json.loads(metadata["lineage"]))
    state = TrainingState(
        model=ReleasedModel(model),
        velocity=velocity,
        rounds=int(metadata["rounds"]),
        last_round=int(metadata["last_round"]),
    )
    return state, lineage


def _content(state: TrainingState, lineage: Lineage) -> bytes:
    """SHA-256 of everything that a checkpoint is, 32 bytes."""
    fields = json.dumps([_FORMAT, state.rounds, state.last_round, state.model.dimension, lineage]).encode()
    parts = (fields, state.model.encode(), state.velocity.astype("<f8").tobytes())
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).digest()
