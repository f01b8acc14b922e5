"""Folders of IDX files: the format of MNIST and the data sets that took its place (yann.lecun.com/exdb/mnist).

An IDX file is a magic number (two zero bytes, a type code, the number of axes), one big-endian 32-bit size an axis,
and the values. Sizes are checked against the bytes that are there before anything is allocated.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from secure_fu.errors import DataError
from secure_fu.learning.records import Dataset, Records

__all__ = ["idx_folder"]

_UNSIGNED_BYTE: Final = 0x08
_MAXIMUM_BYTES: Final = 2**32
_STEMS: Final = {
    "train images": ("train-images-idx3-ubyte", "train-images.idx3-ubyte"),
    "train labels": ("train-labels-idx1-ubyte", "train-labels.idx1-ubyte"),
    "test images": ("t10k-images-idx3-ubyte", "t10k-images.idx3-ubyte"),
    "test labels": ("t10k-labels-idx1-ubyte", "t10k-labels.idx1-ubyte"),
}


def idx_folder(path: Path | str) -> Dataset:
    """Read the four files of an MNIST-like data set, each plain or gzipped.

    Args:
        path: a folder with ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-images-idx3-ubyte`` and
            ``t10k-labels-idx1-ubyte``, each with or without ``.gz`` (a dot in place of the dash before ``idx`` is
            fine).

    Returns:
        A data set named after the folder; features (n, 1, height, width) in [0, 1] (pixels / 255); as many classes as
        the largest label says.

    Raises:
        DataError: a file is missing, truncated, too long, not IDX of unsigned bytes, or the counts of images and labels
            differ. The message names the file and what would be right.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; expected one with the four IDX files of MNIST")
    parts: dict[str, Records] = {}
    for part in ("train", "test"):
        image_file, label_file = _find(folder, f"{part} images"), _find(folder, f"{part} labels")
        images, labels = _read(image_file, axes=3), _read(label_file, axes=1)
        if len(images) != len(labels):
            raise DataError(
                f"{label_file} has {len(labels)} labels for the {len(images)} images of {image_file.name}; "
                "expected one for each image"
            )
        features = torch.from_numpy(images)[:, None].to(torch.float32).div_(255.0)
        parts[part] = Records(features, torch.from_numpy(labels).to(torch.int64))
    if not all(len(records) for records in parts.values()):
        raise DataError(f"{folder} holds a part without images; expected at least one in train and in t10k")
    return Dataset(
        train=parts["train"],
        test=parts["test"],
        classes=max(2, 1 + max(int(records.labels.max()) for records in parts.values())),
        name=folder.resolve().name.lower(),
        description=f"Images from the IDX folder {folder.resolve().name}; pixels divided by 255.",
    )


def _find(folder: Path, role: str) -> Path:
    for stem in _STEMS[role]:
        for name in (stem, stem + ".gz"):
            if (folder / name).is_file():
                return folder / name
    raise DataError(f"{folder} has no {role}; expected a file {_STEMS[role][0]} or {_STEMS[role][0]}.gz")


def _read(file: Path, *, axes: int) -> NDArray[np.uint8]:
    try:
        # gzip.open reads lazily, so a small file that unpacks to terabytes is stopped by the counts below.
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            header = stream.read(4 + 4 * axes)
            if len(header) < 4 + 4 * axes:
                raise DataError(f"{file} ends inside its header; expected an IDX file of {axes} axes")
            if header[:4] != bytes((0, 0, _UNSIGNED_BYTE, axes)):
                raise DataError(
                    f"{file} starts with 0x{header[:4].hex()}; expected 0x{_UNSIGNED_BYTE << 8 | axes:08x}, "
                    f"the magic number of IDX with unsigned bytes and {axes} axes"
                )
            shape = tuple(int(size) for size in np.frombuffer(header, dtype=">u4", offset=4))
            expected = math.prod(shape)
            if expected > _MAXIMUM_BYTES or min(shape[1:], default=1) == 0:
                raise DataError(f"{file} claims the shape {shape}; expected 1 to {_MAXIMUM_BYTES} values in all")
            # In pieces: a false size must not make the reader allocate what the file cannot fill.
            pieces: list[bytes] = []
            left = expected + 1
            while left > 0 and (piece := stream.read(min(left, 2**24))):
                pieces.append(piece)
                left -= len(piece)
            found = expected + 1 - left
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{file} cannot be read to its end ({type(error).__name__}); expected an intact IDX file"
        ) from error
    if found != expected:
        amount = f"{found}" if found < expected else "more"
        raise DataError(f"{file} holds {amount} values; expected {expected}, as its header says with shape {shape}")
    return np.frombuffer(bytearray().join(pieces), dtype=np.uint8).reshape(shape)
