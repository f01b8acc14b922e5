"""A file of finished jobs, one JSON object a line: what is in it is not run again.

A line is written at once and synced before the job counts as done. A run that is killed leaves at most one torn last
line, which the next run cuts off. A lock keeps two runs from writing one file.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["ResultsFile", "SettingsDiffer", "fingerprint"]


class SettingsDiffer(RuntimeError):
    """The file holds results of the same job under other settings: figures of both must not be mixed."""


def fingerprint(settings: object) -> str:
    """A short hash of settings made of plain dictionaries, lists and scalars."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, allow_nan=False).encode()).hexdigest()[:16]


class ResultsFile:
    """Finished jobs by key, kept in a file.

    Args:
        path: made if it does not exist; its folder must exist.

    Raises:
        OSError: another run has the file open, or it cannot be written.
        ValueError: a line that is not the last is no result.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._results = self._read()
        except BlockingIOError as error:
            os.close(self._descriptor)
            raise OSError(f"{path} is in use by another run; end that run, or give another file") from error
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> ResultsFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)

    def get(self, key: str, settings: str) -> dict[str, Any] | None:
        """What a job gave; None if it has not been done.

        Args:
            key: names the job.
            settings: fingerprint of everything that the result depends on.

        Raises:
            SettingsDiffer: it has been done under other settings.
        """
        found = self._results.get(key)
        if found is None:
            return None
        if found["settings"] != settings:
            raise SettingsDiffer(
                f"{self.path} has results of {key} under other settings ({found['settings']}, now {settings}); "
                "give another file, or remove this one"
            )
        result: dict[str, Any] = found["result"]
        return result

    def add(self, key: str, settings: str, result: Mapping[str, Any]) -> None:
        """Keep what a job gave; durable when this returns.

        Raises:
            ValueError: the job is there already, or the result holds NaN or infinity.
        """
        if key in self._results:
            raise ValueError(f"{key} is done already")
        entry = {"key": key, "settings": settings, "result": dict(result)}
        line = json.dumps(entry, allow_nan=False).encode() + b"\n"
        written = 0
        while written < len(line):
            written += os.write(self._descriptor, line[written:])
        os.fsync(self._descriptor)
        self._results[key] = json.loads(line)

    def __len__(self) -> int:
        return len(self._results)

    def _read(self) -> dict[str, dict[str, Any]]:
        content = self.path.read_bytes()
        end = content.rfind(b"\n") + 1
        if end < len(content):  # torn by a kill
            os.ftruncate(self._descriptor, end)
            os.fsync(self._descriptor)
        results: dict[str, dict[str, Any]] = {}
        for number, line in enumerate(content[:end].splitlines(), start=1):
            try:
                entry = json.loads(line)
                results[entry["key"]] = {"settings": entry["settings"], "result": entry["result"]}
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{self.path}, line {number}: no result; move the file away") from error
        return results
