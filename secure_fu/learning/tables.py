"""Tables of records in CSV and NPZ files.

Values are used as they stand. Scale features beforehand, by constants that are public: a mean over private records
would be a release that nobody accounted for. The set of classes is public too.
"""

from __future__ import annotations

import csv
import math
import zipfile
import zlib
from array import array
from pathlib import Path
from tokenize import TokenError
from typing import Final

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from secure_fu.errors import DataError
from secure_fu.learning.records import Dataset, Records, split_records

__all__ = ["csv_file", "npz_file"]

_MAXIMUM_BYTES: Final = 2**32
_MAXIMUM_CLASSES: Final = 10_000
_ARRAYS: Final = ("features", "labels", "groups")


def csv_file(
    path: Path | str, *, label_column: str, group_column: str | None = None, test_fraction: float = 0.2, seed: int
) -> Dataset:
    """Read a CSV file with a header line; every other column is a numeric feature.

    Args:
        path: UTF-8 text with commas, first line the column names, at most 4 GiB.
        label_column: the class of a record, any text. If every class is a whole number from 0, the number is the class;
            otherwise the sorted distinct texts are numbered from 0.
        group_column: whom the record belongs to, any text but the empty one; None when nobody says.
        test_fraction, seed: of the split, which keeps groups whole (see :func:`split_records`).

    Returns:
        A data set named after the file; features (n, columns) in the order of the file.

    Raises:
        DataError: the file is missing, too large, not UTF-8, has no records, lacks a column, has a repeated column, a
            line of another length, or a feature that is no finite number. The message names file, line and column, and
            never a value.
        ArgumentError: ``test_fraction`` or ``seed`` is out of range.
    """
    file = _existing(path)
    values = array("d")
    labels: list[str] = []
    groups: list[str] = []
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            header = [name.strip() for name in next(reader, [])]
            label_at, group_at = _columns(file, header, label_column, group_column)
            feature_at = [i for i in range(len(header)) if i not in (label_at, group_at)]
            for row in reader:
                if not row:
                    continue
                where = f"{file}, line {reader.line_num}"
                if len(row) != len(header):
                    raise DataError(f"{where} has {len(row)} fields; expected {len(header)}, as in the header")
                for i in feature_at:
                    values.append(_number(row[i], f"{where}, column {header[i]!r}"))
                labels.append(_text(row[label_at], f"{where}, column {header[label_at]!r}"))
                if group_at is not None:
                    groups.append(_text(row[group_at], f"{where}, column {header[group_at]!r}"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} cannot be read ({type(error).__name__}); expected CSV text in UTF-8") from error
    if not labels:
        raise DataError(f"{file} has no records; expected at least two lines after the header")
    features = np.frombuffer(values, dtype=np.float64).reshape(len(labels), len(feature_at))
    records = Records.from_arrays(features, _numbered(labels), groups if group_at is not None else None)
    return _dataset(file, records, test_fraction=test_fraction, seed=seed)


def npz_file(path: Path | str, *, test_fraction: float = 0.2, seed: int) -> Dataset:
    """Read a NumPy archive with arrays ``features`` (n, ...), ``labels`` (n,) and, if there are any, ``groups`` (n,).

    Arrays of Python objects are refused: reading one would run code from the file.

    Args:
        path: a file as ``numpy.savez`` writes it, at most 4 GiB unpacked.
        test_fraction, seed: of the split, which keeps groups whole (see :func:`split_records`).

    Raises:
        DataError: the file is missing, too large, no archive, lacks an array, or its arrays do not fit each other.
        ArgumentError: ``test_fraction`` or ``seed`` is out of range.
    """
    file = _existing(path)
    try:
        with zipfile.ZipFile(file) as archive:
            arrays = {
                name: _array(archive, f"{name}.npy", file) for name in _ARRAYS if f"{name}.npy" in archive.namelist()
            }
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{file} cannot be read ({type(error).__name__}); expected an archive by numpy.savez"
        ) from error
    for name in ("features", "labels"):
        if name not in arrays:
            raise DataError(f"{file} has no array {name!r}; expected features, labels and, if there are any, groups")
        if arrays[name].dtype.kind not in "buif":
            raise DataError(f"{file}: {name} are {arrays[name].dtype}; expected numbers")
    if arrays["features"].ndim < 2 or arrays["labels"].shape != arrays["features"].shape[:1]:
        raise DataError(
            f"{file}: features of shape {arrays['features'].shape} and labels of shape {arrays['labels'].shape}; "
            "expected (n, ...) and (n,)"
        )
    groups = arrays.get("groups")
    if groups is not None and (groups.dtype.kind not in "Uui" or groups.shape != arrays["labels"].shape):
        raise DataError(f"{file}: groups are {groups.dtype} of shape {groups.shape}; expected texts or integers (n,)")
    if len(arrays["labels"]) == 0:
        raise DataError(f"{file} has no records; expected at least two")
    records = Records.from_arrays(
        arrays["features"], arrays["labels"], None if groups is None else [str(group) for group in groups]
    )
    return _dataset(file, records, test_fraction=test_fraction, seed=seed)


def _array(archive: zipfile.ZipFile, member: str, file: Path) -> NDArray[np.generic]:
    """One array of an archive; the size that it claims is checked against its bytes before anything is allocated."""
    size = archive.getinfo(member).file_size
    if size > _MAXIMUM_BYTES:
        raise DataError(f"{file}: {member} unpacks to {size} bytes; expected at most {_MAXIMUM_BYTES}")
    with archive.open(member) as stream:
        try:
            version = npy.read_magic(stream)
            read_header = npy.read_array_header_2_0 if version == (2, 0) else npy.read_array_header_1_0
            shape, fortran, dtype = read_header(stream)
        except (ValueError, TypeError, KeyError, SyntaxError, TokenError, RecursionError, MemoryError) as error:
            raise DataError(
                f"{file}: {member} cannot be read ({type(error).__name__}); expected an .npy array"
            ) from error
        if dtype.kind not in "buifU" or dtype.itemsize == 0:
            raise DataError(f"{file}: {member} is {dtype}; expected real numbers, or texts for groups")
        if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > size:
            raise DataError(f"{file}: {member} claims {dtype} of shape {shape}, but has {size} bytes in all")
        content = stream.read(math.prod(shape) * dtype.itemsize + 1)
    if len(content) != math.prod(shape) * dtype.itemsize:
        raise DataError(f"{file}: {member} holds {len(content)} bytes of values; expected {dtype} of shape {shape}")
    return np.frombuffer(bytearray(content), dtype=dtype).reshape(shape, order="F" if fortran else "C")


def _existing(path: Path | str) -> Path:
    file = Path(path)
    if not file.is_file():
        raise DataError(f"{file} is no file; expected a data file that exists")
    if file.stat().st_size > _MAXIMUM_BYTES:
        raise DataError(f"{file} has {file.stat().st_size} bytes; expected at most {_MAXIMUM_BYTES}")
    return file


def _dataset(file: Path, records: Records, *, test_fraction: float, seed: int) -> Dataset:
    classes = max(2, 1 + int(records.labels.max()))
    if classes > _MAXIMUM_CLASSES:
        raise DataError(f"{file} has a label of {classes - 1}; expected class numbers below {_MAXIMUM_CLASSES}")
    train, test = split_records(records, test_fraction=test_fraction, seed=seed)
    return Dataset(
        train=train,
        test=test,
        classes=classes,
        name=file.stem.lower(),
        description=f"Records from {file.name}, features as they stand in the file.",
    )


def _columns(file: Path, header: list[str], label_column: str, group_column: str | None) -> tuple[int, int | None]:
    if len(set(header)) != len(header):
        raise DataError(f"{file} names a column twice; expected distinct names in its first line")
    for name in (label_column, group_column):
        if name is not None and name not in header:
            raise DataError(f"{file} has no column {name!r}; expected one of {', '.join(map(repr, header))}")
    if label_column == group_column:
        raise DataError(f"{file}: {label_column!r} is asked for as label and as group; expected two columns")
    if len(header) < (2 if group_column is None else 3):
        raise DataError(f"{file} has no feature column; expected at least one besides label and group")
    return header.index(label_column), None if group_column is None else header.index(group_column)


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        # from None: the message of float() would carry the value.
        raise DataError(f"{where} is no number; expected a finite number") from None
    if not math.isfinite(value):
        raise DataError(f"{where} is not finite; expected a finite number")
    return value


def _text(text: str, where: str) -> str:
    stripped = text.strip()
    if not stripped:
        raise DataError(f"{where} is empty; expected a text")
    return stripped


def _numbered(labels: list[str]) -> NDArray[np.int64]:
    distinct = sorted(set(labels))
    if all(label.isascii() and label.isdecimal() and len(label) <= 4 for label in distinct):
        return np.array([int(label) for label in labels], dtype=np.int64)
    number = {label: index for index, label in enumerate(distinct)}
    return np.array([number[label] for label in labels], dtype=np.int64)
