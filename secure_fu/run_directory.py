"""The directory that a run writes: made once, never written over."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from secure_fu.errors import RunDirectoryError

__all__ = ["RunDirectory"]


class RunDirectory:
    """A new directory for one run.

    Args:
        path: must not exist, or be an empty directory.

    Raises:
        RunDirectoryError: it holds something already, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()):
                raise RunDirectoryError(
                    f"--out is {str(path)!r}, which holds files already; expected a new or empty folder"
                )
            (path / "models").mkdir()
        except (FileExistsError, NotADirectoryError):
            raise RunDirectoryError(
                f"--out is {str(path)!r}, which is a file or lies below one; expected a new or empty folder"
            ) from None
        except OSError as error:
            raise RunDirectoryError(
                f"--out is {str(path)!r}, which cannot be written ({error.strerror}); expected a folder of yours"
            ) from None
        self.path = path

    def write_text(self, name: str, text: str) -> None:
        """Write one UTF-8 file whole or not at all."""
        self._write(self.path / name, text.encode())

    def write_json(self, name: str, value: Mapping[str, object]) -> None:
        """Write one JSON file; NaN and infinity are refused."""
        self.write_text(name, json.dumps(value, indent=2, allow_nan=False) + "\n")

    def write_model(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write a released model as `models/<name>.safetensors`, float32."""
        content = save({key: tensor.float().contiguous() for key, tensor in tensors.items()})
        self._write(self.path / "models" / f"{name}.safetensors", content)

    @staticmethod
    def _write(target: Path, content: bytes) -> None:
        scratch = target.with_name(target.name + ".part")
        try:
            with scratch.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(target)
        except OSError as error:
            raise RunDirectoryError(f"{target} cannot be written ({error.strerror}); is the disk full?") from None
        finally:
            scratch.unlink(missing_ok=True)  # an interrupt leaves no half file either
