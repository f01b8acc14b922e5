"""Uploads put together by hand, whole or broken: every byte a choice of the attacker's, signed with a true key.

The frame is written from its description, not by :mod:`secure_fu.crypto.wire`, which would refuse most of this.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from secure_fu.crypto import Identity
from secure_fu.crypto.kahe import Layout
from secure_fu.crypto.wire import decode
from secure_fu.protocol.messages import Domain, Upload

__all__ = ["Frame", "residue_at", "with_residue"]


def _prefixed(content: bytes, declared: int | None = None) -> bytes:
    return (len(content) if declared is None else declared).to_bytes(4, "big") + content


@dataclass(frozen=True, kw_only=True)
class Frame:
    """An upload in pieces.

    Attributes:
        declared: lengths and counts that the frame claims, where they are not the true ones: `client`, `body`,
            `shares`, and `share <position>`.
        tail: bytes after the last field.
    """

    magic: bytes = b"SFU"
    version: int = 1
    tag: bytes = b"\x06upload"
    header_digest: bytes
    client: bytes
    ciphertext_digest: bytes
    body: bytes
    shares: tuple[bytes, ...]
    signature: bytes
    tail: bytes = b""
    declared: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, upload: bytes) -> Frame:
        """The pieces of an honest upload."""
        message = decode(Upload, upload)
        return cls(
            header_digest=message.header_digest,
            client=message.client.encode(),
            ciphertext_digest=message.ciphertext_digest,
            body=message.body,
            shares=message.shares,
            signature=message.signature,
        )

    def encode(self) -> bytes:
        """The frame's bytes."""
        declared = self.declared.get
        return b"".join(
            [
                self.magic,
                bytes([self.version]),
                self.tag,
                self.header_digest,
                _prefixed(self.client, declared("client")),
                self.ciphertext_digest,
                _prefixed(self.body, declared("body")),
                declared("shares", len(self.shares)).to_bytes(4, "big"),
                *(_prefixed(share, declared(f"share {position}")) for position, share in enumerate(self.shares)),
                self.signature,
                self.tail,
            ]
        )

    def statement(self) -> bytes:
        """What a server that reads this frame would hold the signature against."""
        digests = b"".join(hashlib.sha256(share).digest() for share in self.shares)
        return b"".join(
            [
                b"SFU\x01\x10upload-statement",
                self.header_digest,
                _prefixed(self.client),
                self.ciphertext_digest,
                hashlib.sha256(digests).digest(),
            ]
        )

    def with_body(self, body: bytes) -> Frame:
        """Another ciphertext, with its true digest."""
        return replace(self, body=body, ciphertext_digest=hashlib.sha256(body).digest())

    def with_share(self, position: int, share: bytes) -> Frame:
        """Another sealed share."""
        return replace(self, shares=(*self.shares[:position], share, *self.shares[position + 1 :]))

    def signed(self, identity: Identity, domain: str = Domain.UPLOAD) -> Frame:
        """With a true signature over the statement."""
        return replace(self, signature=identity.sign(domain, self.statement()))


def _places(layout: Layout, row: int, column: int) -> tuple[int, int, int, int]:
    """Where a residue of the first block lies: low 16 bits, next 8, the byte of the rest, and its shift there."""
    n, bits = min(layout.coefficients, layout.parameter_set.degree), layout.parameter_set.residue_bits
    start = row * n * bits // 8
    shift = column * (bits - 24)
    return start + 2 * column, start + 2 * n + column, start + 3 * n + shift // 8, shift % 8


def residue_at(layout: Layout, body: bytes, row: int, column: int) -> int:
    """The residue of a coefficient of the first block modulo the prime number `row`."""
    low, middle, top, shift = _places(layout, row, column)
    value = int.from_bytes(body[low : low + 2], "little") | body[middle] << 16
    width = layout.parameter_set.residue_bits - 24
    return value | ((body[top] >> shift) & ((1 << width) - 1)) << 24 if width else value


def with_residue(layout: Layout, body: bytes, row: int, column: int, value: int) -> bytes:
    """The ciphertext with one residue of its first block changed, to whatever fits into the planes."""
    low, middle, top, shift = _places(layout, row, column)
    changed = bytearray(body)
    changed[low : low + 2] = (value & 0xFFFF).to_bytes(2, "little")
    changed[middle] = (value >> 16) & 0xFF
    width = layout.parameter_set.residue_bits - 24
    if width:
        mask = ((1 << width) - 1) << shift
        changed[top] = (changed[top] & ~mask) | ((value >> 24) << shift)
    return bytes(changed)
