"""The models that a training went through, each once, and how the files of a client's history are read and written."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from secure_fu.errors import ArgumentError, DamagedHistory, HistoryError
from secure_fu.protocol.files import destroy_file, leftovers

__all__ = ["ADVICE", "ModelArchive", "destroy_folder", "make_folder", "read_file", "usable", "write_file"]

ADVICE: Final = "restore it from a copy made after the last deletion, or delete the whole history and go on without it"
"""For a file that is no good."""

_NAME: Final = re.compile(r"([0-9a-f]{64})\.safetensors")


class ModelArchive:
    """The models that training went through, each once: `<SHA-256>.safetensors` in a folder, or in memory.

    A file is read back bit for bit or not at all, for its name is the hash of what it holds.

    Args:
        folder: made if there is none, for its owner alone; None keeps the models in memory.
        dimension: d, of each.

    Raises:
        HistoryError: the folder cannot be used.
    """

    def __init__(self, folder: Path | None = None, *, dimension: int) -> None:
        self.folder: Final = folder
        self.dimension: Final = dimension
        self._memory: dict[bytes, NDArray[np.float32]] = {}
        self._stored: set[bytes] = set()
        if folder is not None:
            with usable(folder):
                make_folder(folder)
                for path in leftovers(folder, "*.safetensors"):
                    path.unlink()
                found = (_NAME.fullmatch(path.name) for path in folder.iterdir())
                self._stored = {bytes.fromhex(name[1]) for name in found if name}

    def __repr__(self) -> str:
        return f"ModelArchive({len(self)} models of {self.dimension} parameters)"

    def __len__(self) -> int:
        return len(self._memory) + len(self._stored)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._memory or digest in self._stored

    def put(self, model: NDArray[np.float32]) -> bytes:
        """Keep a model, shape (d,); its digest, as :attr:`~secure_fu.protocol.ReleasedModel.digest`.

        Raises:
            ArgumentError: another shape or type.
            HistoryError: it cannot be written.
        """
        if model.dtype != np.float32 or model.shape != (self.dimension,):
            raise ArgumentError("model", f"{model.dtype} of shape {model.shape}", f"float32, {self.dimension} of them")
        digest = _digest(model)
        if digest not in self:
            if self.folder is None:
                kept = model.copy()
                kept.setflags(write=False)
                self._memory[digest] = kept
            else:
                write_file(self._path(self.folder, digest), save({"model": np.ascontiguousarray(model)}))
                self._stored.add(digest)
        return digest

    def get(self, digest: bytes) -> NDArray[np.float32]:
        """A model that was put, shape (d,), read-only.

        Raises:
            HistoryError: there is none, or its file is missing, damaged or of another model; names the file.
        """
        if self.folder is None:
            if digest not in self._memory:
                raise HistoryError(f"no model {digest.hex()} in memory; expected one of the {len(self)} put there")
            return self._memory[digest]
        path = self._path(self.folder, digest)
        _, tensors = read_file(path)
        model = tensors.get("model")
        if model is None or model.dtype != np.float32 or model.ndim != 1 or _digest(model) != digest:
            raise DamagedHistory(f"{path} is damaged: it does not hold the model that its name says; {ADVICE}")
        if model.shape != (self.dimension,):
            raise HistoryError(f"{path} is of a model of {model.size} parameters; expected {self.dimension}")
        model.setflags(write=False)
        return model

    def keep_only(self, digests: Iterable[bytes]) -> None:
        """Destroy all models but these: what a rollback and a deletion leave behind.

        Raises:
            HistoryError: a file cannot be destroyed.
        """
        wanted = set(digests)
        self._memory = {digest: model for digest, model in self._memory.items() if digest in wanted}
        if self.folder is not None:
            with usable(self.folder):
                for digest in sorted(self._stored - wanted):
                    destroy_file(self._path(self.folder, digest))
                    self._stored.remove(digest)

    @staticmethod
    def _path(folder: Path, digest: bytes) -> Path:
        return folder / f"{digest.hex()}.safetensors"


def _digest(model: NDArray[np.float32]) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(model, dtype="<f4").tobytes()).digest()


def read_file(path: Path) -> tuple[dict[str, str], dict[str, NDArray[Any]]]:
    """Metadata and tensors of a safetensors file.

    Raises:
        DamagedHistory: it is missing, truncated or damaged; names it.
    """
    if not path.exists():
        raise DamagedHistory(f"{path} is missing; {ADVICE}")
    try:
        with safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {}), {name: file.get_tensor(name) for name in list(file.keys())}
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise DamagedHistory(f"{path} is truncated or damaged ({error}); {ADVICE}") from error


def write_file(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all, readable by its owner only; not synced.

    Raises:
        HistoryError: it cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    with usable(path):
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
        part.replace(path)


def make_folder(folder: Path) -> None:
    """For its owner alone."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def destroy_folder(folder: Path) -> None:
    """And the files in it. Some may go by themselves meanwhile, as a branch does that nobody refers to."""
    with suppress(FileNotFoundError):
        for path in folder.iterdir():
            with suppress(FileNotFoundError):
                destroy_file(path)
        folder.rmdir()


@contextmanager
def usable(path: Path) -> Iterator[None]:
    """Turns what the system says into HistoryError."""
    try:
        yield
    except OSError as error:
        raise HistoryError(f"{path} cannot be used for a history ({error}); expected a folder of its own") from error
