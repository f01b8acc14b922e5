"""Scores of an attack that was run elsewhere, as a NumPy archive."""

from __future__ import annotations

import io
import lzma
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Final

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from secure_fu.errors import DataError

__all__ = ["MembershipScores", "read_scores"]

_NAMES: Final = ("member_scores", "non_member_scores")
_MOST_BYTES: Final = 2**30


@dataclass(frozen=True, kw_only=True, eq=False)
class MembershipScores:
    """One score a record; larger speaks for membership.

    Attributes:
        member_scores: float64, finite, shape (m,), m >= 1.
        non_member_scores: float64, finite, shape (n,), n >= 1.
    """

    member_scores: NDArray[np.float64]
    non_member_scores: NDArray[np.float64]


def read_scores(path: Path | str) -> MembershipScores:
    """Read an archive by ``numpy.savez(path, member_scores=..., non_member_scores=...)``.

    Both arrays are one-dimensional and hold real numbers; other arrays in the archive are not looked at. Arrays of
    Python objects are refused: reading one would run code from the file.

    Raises:
        DataError: the file is missing, no archive, or too large, or an array is missing, empty, not one-dimensional, of
            another type, or has entries that are NaN or infinite. The message names the file and the array.
    """
    file = Path(path)
    if not file.is_file():
        raise DataError(f"{file} is no file; expected an archive by numpy.savez")
    try:
        with zipfile.ZipFile(file) as archive:
            names = set(archive.namelist())
            missing = [name for name in _NAMES if f"{name}.npy" not in names]
            if missing:
                raise DataError(f"{file} has no array {missing[0]!r}; expected arrays {_NAMES[0]} and {_NAMES[1]}")
            members, non_members = (_scores(archive, name, file) for name in _NAMES)
    except (
        OSError,
        EOFError,
        ValueError,
        RuntimeError,
        MemoryError,
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
    ) as error:
        raise DataError(
            f"{file} cannot be read ({type(error).__name__}); expected an archive by numpy.savez"
        ) from error
    return MembershipScores(member_scores=members, non_member_scores=non_members)


def _scores(archive: zipfile.ZipFile, name: str, file: Path) -> NDArray[np.float64]:
    """One array; its size is known before anything is allocated, since what the header claims has to fit the bytes."""
    size = archive.getinfo(f"{name}.npy").file_size
    if size > _MOST_BYTES:
        raise DataError(f"{file}: {name} unpacks to {size} bytes; expected at most {_MOST_BYTES}")
    with archive.open(f"{name}.npy") as stream:
        content = stream.read(size + 1)
    scores = _array(content, name, file).astype(np.float64)
    broken = int((~np.isfinite(scores)).sum())
    if broken:
        raise DataError(f"{file}: {broken} of {len(scores)} {name} are NaN or infinite; expected finite scores")
    return scores


def _array(content: bytes, name: str, file: Path) -> NDArray[np.generic]:
    stream = io.BytesIO(content)
    try:
        version = npy.read_magic(stream)
        read_header = npy.read_array_header_2_0 if version == (2, 0) else npy.read_array_header_1_0
        shape, _, dtype = read_header(stream)
    except (ValueError, TypeError, KeyError, SyntaxError, TokenError, RecursionError, MemoryError) as error:
        raise DataError(f"{file}: {name} cannot be read ({type(error).__name__}); expected an .npy array") from error
    if dtype.kind not in "buif":
        raise DataError(f"{file}: {name} are {dtype}; expected real numbers")
    body = content[stream.tell() :]
    if len(shape) != 1 or shape[0] < 1:
        raise DataError(f"{file}: {name} are of shape {shape}; expected (n,), one score a record, n >= 1")
    if shape[0] * dtype.itemsize != len(body):
        raise DataError(f"{file}: {name} claim {shape[0]} values of {dtype}, but hold {len(body)} bytes")
    return np.frombuffer(body, dtype=dtype)
