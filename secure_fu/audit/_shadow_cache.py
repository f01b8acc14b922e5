"""Shadow models on disk: a safetensors file of vectors, and a JSON file of what they were made from."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from secure_fu.errors import ArgumentError, DataError
from secure_fu.protocol.files import write_whole

__all__ = ["ShadowCache", "digest_of"]

_KIND: Final = "secure-fu/shadow-models/"
SCHEMA: Final = f"{_KIND}1"
_ADVICE: Final = "delete it and its .json to train anew, or name another file"
_PATIENCE: Final = 10.0  # a file is written again after so many times as long as its last writing took


def digest_of(*parts: NDArray[Any] | str) -> str:
    """SHA-256 in hex of arrays (their type, shape and values) and strings, in this order."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            head, body = f"text {len(part.encode())}", part.encode()
        else:
            plain = np.ascontiguousarray(part)
            plain = plain.astype(plain.dtype.newbyteorder("<"), copy=False)
            head, body = f"{plain.dtype.str} {plain.shape}", plain.tobytes()
        digest.update(f"{head}\n".encode() + body)
    return digest.hexdigest()


class ShadowCache:
    """One set of shadow models in a file, the first k of them so far.

    Args:
        path: the ``.safetensors`` file; the ``.json`` beside it says what the models were made from, and the file of
            models names the hash of that.
        made_from: plain JSON values; only files with exactly these are read.
        shape: (S, d) of the whole set.

    Raises:
        ArgumentError: the path has another suffix.
        DataError: a file cannot be used, is damaged, of another version or kind, or was made from something else; the
            message names it. From all methods.
    """

    def __init__(self, path: Path, *, made_from: Mapping[str, object], shape: tuple[int, int]) -> None:
        if path.suffix != ".safetensors":
            raise ArgumentError("cache", str(path), "a path that ends in .safetensors")
        self._path, self._note = path, path.with_suffix(".json")
        self._made_from = json.loads(json.dumps(made_from))
        self._shape = shape
        self._key = digest_of(json.dumps({"schema": SCHEMA, "made_from": self._made_from}, sort_keys=True))
        self._kept, self._took, self._at = 0, 0.0, float("-inf")

    def read(self, vectors: NDArray[np.float32]) -> int:
        """Fill in the models that are there, and say how many; where there are none, note what is to come.

        Raises:
            DataError: as the class.
        """
        differing = self._check_note()
        if not self._path.exists():
            note = {"schema": SCHEMA, "made_from": self._made_from}
            self._write(self._note, json.dumps(note, indent=2).encode())
            return 0
        if differing is None:
            raise DataError(f"{self._note} is missing: nothing says what {self._path.name} was made from; {_ADVICE}")
        if differing:
            raise DataError(f"{self._path} was made from something else: {', '.join(differing)} differ; {_ADVICE}")
        metadata, found = self._read_vectors()
        if metadata.get("made_from") != self._key:
            raise DataError(f"{self._path} does not belong to {self._note.name} beside it; {_ADVICE}")
        count, dimension = self._shape
        if found is None or found.dtype != np.float32 or found.ndim != 2 or found.shape[1] != dimension:
            raise DataError(f"{self._path} does not hold shadow models of {dimension} parameters; {_ADVICE}")
        if len(found) > count or metadata.get("sha256") != digest_of(found):
            raise DataError(f"{self._path} is damaged: its models are not those that were written; {_ADVICE}")
        vectors[: len(found)] = found
        self._kept = len(found)
        return self._kept

    def keep(self, vectors: NDArray[np.float32], *, now: bool = False) -> None:
        """Write the models so far, unless that was done a moment ago; with ``now`` in any case."""
        started = time.monotonic()
        if len(vectors) == self._kept or (not now and started - self._at < _PATIENCE * self._took):
            return
        metadata = {"schema": SCHEMA, "made_from": self._key, "sha256": digest_of(vectors)}
        self._write(self._path, save({"vectors": np.ascontiguousarray(vectors)}, metadata=metadata))
        self._kept, self._at = len(vectors), time.monotonic()
        self._took = self._at - started

    def _check_note(self) -> list[str] | None:
        """In what the models of the note differ from those that are wanted; None where there is no note."""
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DataError(f"{self._note} cannot be read ({error.strerror}); {_ADVICE}") from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{self._note} is damaged ({type(error).__name__}); {_ADVICE}") from None
        schema = note.get("schema") if isinstance(note, dict) else None
        if not isinstance(schema, str) or not schema.startswith(_KIND):
            raise DataError(f"{self._note} is no note of shadow models; {_ADVICE}")
        if schema != SCHEMA:
            raise DataError(f"{self._note} is of version {schema[:80]!r}; expected {SCHEMA!r}; {_ADVICE}")
        theirs = note.get("made_from")
        if not isinstance(theirs, dict):
            raise DataError(f"{self._note} is damaged: it does not say what the models were made from; {_ADVICE}")
        missing = object()
        names = sorted({*theirs, *self._made_from})
        return [name for name in names if theirs.get(name, missing) != self._made_from.get(name, missing)]

    def _read_vectors(self) -> tuple[dict[str, str], NDArray[Any] | None]:
        try:
            with safe_open(self._path, framework="numpy") as file:
                keys = list(file.keys())
                return dict(file.metadata() or {}), file.get_tensor("vectors") if keys == ["vectors"] else None
        except (SafetensorError, OSError, ValueError, TypeError) as error:
            raise DataError(f"{self._path} is truncated or damaged ({error}); {_ADVICE}") from error

    def _write(self, path: Path, content: bytes) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, content)
        except OSError as error:
            raise DataError(f"{path} cannot be written ({error.strerror}); expected a folder for a cache") from error
