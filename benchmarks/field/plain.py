"""What clients contribute, in plain, written down by a test's node process: product code never does this."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secure_fu.protocol import Client

__all__ = ["Mutable", "differing_sums", "read_plain", "record_plain"]

_HEAD = struct.Struct("<32sQ")


def record_plain(folder: Path) -> None:
    """Have every client of this process append its integers, noise and all, before they are encrypted."""
    folder.mkdir(exist_ok=True)
    real = Client._noised_contribution

    def recording(self: Client, header: Any, header_digest: bytes, *arguments: Any) -> Any:
        values, failure = real(self, header, header_digest, *arguments)
        content = values.astype("<i8").tobytes()
        descriptor = os.open(folder / self.name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, _HEAD.pack(header_digest, len(content)) + content)
        finally:
            os.close(descriptor)
        return values, failure

    Client._noised_contribution = recording  # type: ignore[method-assign]


def read_plain(folder: Path) -> dict[tuple[str, bytes], NDArray[np.int64]]:
    """By client and header digest.

    Raises:
        ValueError: a client contributed to one header twice.
    """
    found: dict[tuple[str, bytes], NDArray[np.int64]] = {}
    for path in sorted(folder.iterdir()):
        content, place = path.read_bytes(), 0
        while place + _HEAD.size <= len(content):
            header, length = _HEAD.unpack_from(content, place)
            place += _HEAD.size
            values = np.frombuffer(content[place : place + length], dtype="<i8")
            place += length
            if place > len(content):
                break  # cut short by a kill, before anything was encrypted
            if (path.name, header) in found:
                raise ValueError(f"{path.name} contributed twice under one header")
            found[path.name, header] = values
    return found


def differing_sums(
    released: Mapping[bytes, tuple[tuple[str, ...], bytes]], plain: Mapping[tuple[str, bytes], NDArray[np.int64]]
) -> list[bytes]:
    """Headers whose released integers are not the plain sum over those who took part, bit for bit.

    Args:
        released: by header digest: participants, and SHA-256 of the released integers.
        plain: see :func:`read_plain`.
    """
    wrong = []
    for header, (participants, values_digest) in released.items():
        parts = [plain[name, header] for name in participants if (name, header) in plain]
        total = np.sum(parts, axis=0, dtype=np.int64) if parts else np.zeros(0, dtype=np.int64)
        exact = hashlib.sha256(total.astype("<i8").tobytes()).digest() == values_digest
        if len(parts) != len(participants) or not exact:
            wrong.append(header)
    return wrong


class Mutable:
    """A node that does not answer while a file is there: its connections end without a reply."""

    def __init__(self, node: Any, mute: Path) -> None:
        self._node, self._mute = node, mute

    def handle(self, request: bytes) -> bytes:
        if self._mute.exists():
            raise ConnectionAbortedError("muted")
        reply: bytes = self._node.handle(request)
        if self._mute.exists():
            raise ConnectionAbortedError("muted")
        return reply
