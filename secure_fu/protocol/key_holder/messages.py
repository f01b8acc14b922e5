"""What server and key-holder say to each other beyond the common messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from secure_fu.crypto.wire import Blob, Nested, encode, message
from secure_fu.protocol.messages import MAX_CIPHERTEXT_BYTES, MAX_MODEL_BYTES, Digest, Roll, Signature, digest

__all__ = ["Opening", "OpeningRequest", "OpeningStatement"]


@message("opening-request")
@dataclass(frozen=True, kw_only=True)
class OpeningRequest:
    """Server to key-holder: the roll, and the summed ciphertext to open."""

    roll: Annotated[Roll, Nested(Roll)]
    total: Annotated[bytes, Blob(MAX_CIPHERTEXT_BYTES)]


@message("opening-statement")
@dataclass(frozen=True, kw_only=True)
class OpeningStatement:
    """What the key-holder signs: this sum opened from this roll."""

    header_digest: Digest
    roll_digest: Digest
    values_digest: Digest


@message("opening")
@dataclass(frozen=True, kw_only=True)
class Opening:
    """Key-holder to server: the opened sum, int64 little endian on the grid."""

    header_digest: Digest
    roll_digest: Digest
    values: Annotated[bytes, Blob(MAX_MODEL_BYTES)]
    signature: Signature

    @property
    def statement(self) -> bytes:
        """What the signature covers."""
        return encode(
            OpeningStatement(
                header_digest=self.header_digest, roll_digest=self.roll_digest, values_digest=digest(self.values)
            )
        )
