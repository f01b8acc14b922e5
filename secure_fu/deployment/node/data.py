"""A client's data file at its node: read whole, and rewritten without what was forgotten."""

from __future__ import annotations

import csv
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from secure_fu.errors import DataError
from secure_fu.learning import Records
from secure_fu.protocol.files import destroy_file, sync_folder, write_whole

__all__ = ["DataFile"]

_ARRAYS: Final = ("features", "labels", "groups")


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """A client's records in a file: a CSV, or an archive of arrays.

    An archive has `features` (n, ...), `labels` (n,) and, if anybody says whose they are, `groups` (n,). Labels are
    class numbers from 0. Positions in deletion requests are those of the file; they never change.

    Attributes:
        path: ends in `.npz`, or is a CSV with a header line.
        label_column, group_column: of a CSV; every other column is a numeric feature.
    """

    path: Path
    label_column: str = "label"
    group_column: str | None = None

    def read(self) -> Records:
        """All records; those that were wiped are zeros.

        Raises:
            DataError: the file is missing or malformed; names file, line and column, and no value.
        """
        self._recover()
        return self._parsed(self._content(self.path))

    def wipe(self, gone: NDArray[np.bool_]) -> None:
        """Rewrite the file with zeros for these records, and destroy the old one.

        It is rewritten in one form whatever there is to wipe (an archive without compression, a CSV without quotes that
        it does not need): whoever sees how long it takes does not see whether there was anything. A kill leaves the old
        file or the new one, and :meth:`read` finds either.

        Args:
            gone: shape (n,).

        Raises:
            DataError: the file is missing or malformed.
            OSError: it cannot be written or destroyed.
        """
        self._recover()
        write_whole(self._fresh, self._without(self._content(self.path), gone))
        destroy_file(self.path)
        self._recover()

    @property
    def _fresh(self) -> Path:
        return self.path.with_name(f".{self.path.name}.wiped")

    def _recover(self) -> None:
        """End what a kill has interrupted."""
        for name in (self.path.name, self._fresh.name):
            destroy_file(self.path.with_name(f".{name}.part"))
        if self._fresh.exists():
            destroy_file(self.path)
            self._fresh.replace(self.path)
            sync_folder(self.path.parent)

    @staticmethod
    def _content(path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}; expected a client's records") from None

    @property
    def _is_archive(self) -> bool:
        return self.path.suffix.lower() == ".npz"

    def _parsed(self, content: bytes) -> Records:
        if self._is_archive:
            arrays = self._arrays(content)
            groups = arrays.get("groups")
            made = Records.from_arrays(
                arrays["features"], arrays["labels"], None if groups is None else [str(group) for group in groups]
            )
        else:
            made = self._table(content)
        if len(made) == 0:
            raise DataError(f"{self.path} has no records; expected at least one")
        return made

    def _without(self, content: bytes, gone: NDArray[np.bool_]) -> bytes:
        if not self._is_archive:
            return self._table_without(content, gone)
        arrays = self._arrays(content)
        for array in arrays.values():
            if len(array) != len(gone):
                raise DataError(
                    f"{self.path} has {len(array)} records; expected {len(gone)}, as when the node was made"
                )
        for array in arrays.values():
            array[gone] = np.zeros((), dtype=array.dtype)
        out = io.BytesIO()
        np.savez(out, **arrays)  # type: ignore[arg-type]  # its last parameter is no array
        return out.getvalue()

    def _arrays(self, content: bytes) -> dict[str, NDArray[Any]]:
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as archive:
                arrays = {name: np.array(archive[name]) for name in archive.files}
        except (OSError, EOFError, ValueError, zipfile.BadZipFile, AttributeError) as error:
            raise DataError(f"{self.path} is no archive of arrays ({type(error).__name__})") from None
        for name in ("features", "labels"):
            if name not in arrays:
                raise DataError(f"{self.path} has no array {name!r}; expected features, labels, and groups if any")
        strangers = sorted(set(arrays) - set(_ARRAYS))
        if strangers:
            # Whatever else there is about the records could not be wiped.
            raise DataError(f"{self.path} has the arrays {strangers}; expected {', '.join(_ARRAYS)} alone")
        if arrays["features"].ndim < 2 or any(array.shape[:1] != arrays["labels"].shape for array in arrays.values()):
            raise DataError(f"{self.path} has arrays whose shapes do not fit each other; expected (n, ...), (n,), (n,)")
        return arrays

    def _rows(self, content: bytes) -> tuple[list[str], list[list[str]]]:
        try:
            rows = [row for row in csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True) if row]
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{self.path} cannot be read ({type(error).__name__}); expected CSV in UTF-8") from None
        header = [name.strip() for name in rows[0]] if rows else []
        for name in (self.label_column, self.group_column):
            if name is not None and header.count(name) != 1:
                raise DataError(f"{self.path} has {header.count(name)} columns {name!r}; expected one")
        for line, row in enumerate(rows, start=1):
            if len(row) != len(header):
                raise DataError(f"{self.path}, line {line} has {len(row)} fields; expected {len(header)}")
        return header, rows[1:]

    def _table(self, content: bytes) -> Records:
        header, rows = self._rows(content)
        labels, groups = header.index(self.label_column), None
        if self.group_column is not None:
            groups = header.index(self.group_column)
        taken = {labels, groups}
        features = [column for column in range(len(header)) if column not in taken]
        values = np.zeros((len(rows), len(features)))
        numbers = np.zeros(len(rows), dtype=np.int64)
        for line, row in enumerate(rows):
            try:
                values[line] = [float(row[column]) for column in features]
                numbers[line] = int(row[labels])
            except ValueError:
                raise DataError(
                    f"{self.path}, record {line} holds something that is no number, or a label that is no class number"
                ) from None
        return Records.from_arrays(values, numbers, None if groups is None else [row[groups].strip() for row in rows])

    def _table_without(self, content: bytes, gone: NDArray[np.bool_]) -> bytes:
        header, rows = self._rows(content)
        if len(rows) != len(gone):
            raise DataError(f"{self.path} has {len(rows)} records; expected {len(gone)}, as when the node was made")
        blank = ["" if name == self.group_column else "0" for name in header]
        out = io.StringIO(newline="")
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(blank if is_gone else row for row, is_gone in zip(rows, gone, strict=True))
        return out.getvalue().encode()
