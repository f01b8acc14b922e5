"""Files that are whole or not there, and files that are to be gone."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["destroy_file", "leftovers", "sync_folder", "write_whole"]

_PART = ".part"
_BLOCK = bytes(1 << 20)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, readable by its owner only, so that after a kill at any moment it has the old content or the new.

    Written beside its place, synced, and renamed. A kill may leave the unfinished one behind: see :func:`leftovers`.

    Raises:
        OSError: it cannot be written; what was there stays.
    """
    part = path.with_name(f".{path.name}{_PART}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    sync_folder(path.parent)


def leftovers(folder: Path, pattern: str) -> list[Path]:
    """The files that kills have left in a folder, half written or half destroyed.

    Args:
        folder: where :func:`write_whole` wrote.
        pattern: glob pattern of the names that it wrote.
    """
    return sorted(folder.glob(f".{pattern}{_PART}"))


def destroy_file(path: Path) -> None:
    """Overwrite a file with zeros, sync, remove it, sync its folder. One that is not there is left alone.

    Its name goes first, so that after a kill there is a file of :func:`leftovers` and never one of zeros in its place.

    Not guaranteed:
        That the old bytes are gone from the medium. Flash storage writes to other cells than it reads from, file
        systems that copy on write or journal their data keep old blocks, and backups and snapshots keep whole files.
        Where that matters the folder has to be on an encrypted volume whose key can be destroyed.

    Raises:
        OSError: it cannot be renamed, overwritten or removed.
    """
    doomed = path if path.name.endswith(_PART) else path.with_name(f".{path.name}{_PART}")
    try:
        path.replace(doomed)
    except FileNotFoundError:
        return
    sync_folder(path.parent)
    if doomed.is_symlink():  # what it points to is no file of this folder's
        doomed.unlink()
        sync_folder(path.parent)
        return
    with os.fdopen(os.open(doomed, os.O_WRONLY), "wb") as file:
        left = doomed.stat().st_size
        while left > 0:
            left -= file.write(_BLOCK[:left])
        file.flush()
        os.fsync(file.fileno())
    doomed.unlink()
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make durable which files a folder has; where the system cannot open folders, nothing is done."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
