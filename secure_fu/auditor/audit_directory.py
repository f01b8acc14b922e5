"""The folder that an audit writes: there as a whole or not at all, never written over."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from numpy.lib import format as npy_format
from numpy.typing import NDArray

from secure_fu.auditor.outcome import AuditOutcome
from secure_fu.errors import RunDirectoryError
from secure_fu.report.audit import validate_audit, write_audit_page

__all__ = ["AuditDirectory"]


class AuditDirectory:
    """A new folder for one audit, as a context manager.

    Everything is written to a folder beside it, ``.NAME.part-PID``, which takes its name when all of it is there. If
    the block ends otherwise, nothing remains; a process that is killed leaves that folder, and never ``path``.

    Args:
        path: must not exist, or be an empty folder.

    Raises:
        RunDirectoryError: on entering, it holds something already or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        # A link, or `.`, has no name of its own that a finished folder could be given.
        self.path = path if path.name and not path.is_symlink() else path.resolve()
        self._scratch: Path | None = None
        self._made: list[Path] = []

    def __enter__(self) -> AuditDirectory:
        path = self.path
        try:
            if path.is_dir() and any(path.iterdir()):
                raise RunDirectoryError(
                    f"--out is {str(path)!r}, which holds files already; expected a new or empty folder"
                )
            if path.exists() and not path.is_dir():
                raise FileExistsError
            self._make(path.parent)
            # For its owner alone, as are the files in it: they tell of single records.
            self._scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.part-", dir=path.parent))
        except (FileExistsError, NotADirectoryError):
            self._clean()
            raise RunDirectoryError(
                f"--out is {str(path)!r}, which is a file or lies below one; expected a new or empty folder"
            ) from None
        except OSError as error:
            self._clean()
            raise RunDirectoryError(
                f"--out is {str(path)!r}, which cannot be written ({error.strerror}); expected a folder of yours"
            ) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clean()

    def write(self, outcome: AuditOutcome) -> None:
        """Write audit.json, scores.npz, audit.html and its plots, all of them or nothing.

        Raises:
            RunDirectoryError: the result does not follow its schema, or the disk does not take it.
        """
        validate_audit(outcome.result)
        scratch = self._scratch
        if scratch is None:
            raise RunDirectoryError(f"{self.path} was not entered; expected a directory in a with statement")
        text = json.dumps(outcome.result, indent=2, allow_nan=False) + "\n"
        try:
            (scratch / "audit.json").write_text(text, encoding="utf-8")
            _write_arrays(scratch / "scores.npz", outcome.scores)
            write_audit_page(outcome.result, scratch)
            for path in scratch.rglob("*"):
                if path.is_file():
                    path.chmod(0o600)
                    with path.open("rb") as file:
                        os.fsync(file.fileno())
            scratch.replace(self.path)
        except OSError as error:
            raise RunDirectoryError(
                f"{self.path} cannot be written ({error.strerror}); is the disk full, or did somebody else write there?"
            ) from None
        self._made.clear()

    def _make(self, folder: Path) -> None:
        missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
        for parent in reversed(missing):
            parent.mkdir(exist_ok=True)
            self._made.append(parent)

    def _clean(self) -> None:
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
        for folder in reversed(self._made):
            with suppress(OSError):
                folder.rmdir()  # which leaves it if somebody else has put something there
        self._made.clear()


def _write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                npy_format.write_array(member, array, allow_pickle=False)
