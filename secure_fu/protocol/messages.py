"""The messages that every round has, each its own type, with the statements that their signatures cover.

The wire format (:mod:`secure_fu.crypto.wire`) rejects unknown versions, wrong tags, oversized fields and trailing
bytes. Every signature covers a domain of :class:`Domain` and a statement that holds the hash of the signed header,
which in turn binds run, round, purpose, model, cohort, committee and all privacy parameters.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Annotated

from secure_fu.crypto.wire import Blob, Fixed, Nested, Sequence, Text, encode, message
from secure_fu.protocol.header import MAX_COHORT, MAX_COMMITTEE

__all__ = [
    "Announcement",
    "Approval",
    "Domain",
    "Invitation",
    "Release",
    "ReleaseStatement",
    "Roll",
    "RollEntry",
    "RollStatement",
    "RoundKey",
    "RoundKeyStatement",
    "Upload",
    "UploadStatement",
    "digest",
    "shares_digest",
]

MAX_PUBLIC_KEY_BYTES = 1 << 22
MAX_MODEL_BYTES = (1 << 32) - 1
MAX_CIPHERTEXT_BYTES = (1 << 32) - 1
MAX_SHARE_BYTES = 1 << 16

Digest = Annotated[bytes, Fixed(32)]
Signature = Annotated[bytes, Fixed(64)]
Name = Annotated[str, Text(64)]


class Domain(StrEnum):
    """What a signature is for; part of what is signed, so that no signature serves for two purposes."""

    HEADER = "header"
    ROUND_KEY = "round-key"
    UPLOAD = "upload"
    ROLL = "roll"
    OPENING = "opening"
    VOTE = "vote"
    ANSWER = "answer"
    RELEASE = "release"


def digest(data: bytes) -> bytes:
    """SHA-256 of `data`, 32 bytes."""
    return hashlib.sha256(data).digest()


def shares_digest(digests: tuple[bytes, ...]) -> bytes:
    """One digest for the digests of an upload's sealed shares, in the order of the committee; 32 bytes each."""
    return digest(b"".join(digests))


@message("announcement")
@dataclass(frozen=True, kw_only=True)
class Announcement:
    """Server to everybody: the encoded header and the server's signature over it."""

    header: Annotated[bytes, Blob(1 << 27)]
    signature: Signature

    @cached_property
    def header_digest(self) -> bytes:
        """SHA-256 of the encoded header, which every other message of the round names."""
        return digest(self.header)


@message("round-key-statement")
@dataclass(frozen=True, kw_only=True)
class RoundKeyStatement:
    """What the key-holder signs: this public key belongs to this header."""

    header_digest: Digest
    public_key_digest: Digest


@message("round-key")
@dataclass(frozen=True, kw_only=True)
class RoundKey:
    """Key-holder to server and clients: the fresh public key of one round. Scheme `kahe` has none."""

    header_digest: Digest
    public_key: Annotated[bytes, Blob(MAX_PUBLIC_KEY_BYTES)]
    signature: Signature

    @property
    def statement(self) -> bytes:
        """What the signature covers."""
        return encode(RoundKeyStatement(header_digest=self.header_digest, public_key_digest=digest(self.public_key)))


@message("invitation")
@dataclass(frozen=True, kw_only=True)
class Invitation:
    """Server to client: announcement, round key (with a key-holder only) and the model (float32, little endian)."""

    announcement: Annotated[Announcement, Nested(Announcement)]
    round_key: Annotated[tuple[RoundKey, ...], Sequence(Nested(RoundKey), 1)]
    model: Annotated[bytes, Blob(MAX_MODEL_BYTES)]


@message("upload-statement")
@dataclass(frozen=True, kw_only=True)
class UploadStatement:
    """What a client signs: this ciphertext and these sealed shares are mine, for this header."""

    header_digest: Digest
    client: Name
    ciphertext_digest: Digest
    shares_digest: Digest


@message("upload")
@dataclass(frozen=True, kw_only=True)
class Upload:
    """Client to server, once a round.

    Attributes:
        body: with a committee, the ciphertext; with a key-holder, the ciphertext sealed to the server, so that the
            key-holder cannot read it in transit.
        shares: a share of the ciphertext's key for each member, sealed to it; none with a key-holder.
    """

    header_digest: Digest
    client: Name
    ciphertext_digest: Digest
    body: Annotated[bytes, Blob(MAX_CIPHERTEXT_BYTES)]
    shares: Annotated[tuple[bytes, ...], Sequence(Blob(MAX_SHARE_BYTES), MAX_COMMITTEE)]
    signature: Signature

    @cached_property
    def share_digests(self) -> tuple[bytes, ...]:
        """Of each sealed share, 32 bytes."""
        return tuple(digest(share) for share in self.shares)

    @cached_property
    def statement(self) -> bytes:
        """What the signature covers."""
        return encode(
            UploadStatement(
                header_digest=self.header_digest,
                client=self.client,
                ciphertext_digest=self.ciphertext_digest,
                shares_digest=shares_digest(self.share_digests),
            )
        )


@message("roll-entry")
@dataclass(frozen=True, kw_only=True)
class RollEntry:
    """One upload that is in the sum, with its client's signature."""

    client: Name
    ciphertext_digest: Digest
    shares_digest: Digest
    signature: Signature

    def statement(self, header_digest: bytes) -> bytes:
        """The client's statement that the signature covers."""
        return encode(
            UploadStatement(
                header_digest=header_digest,
                client=self.client,
                ciphertext_digest=self.ciphertext_digest,
                shares_digest=self.shares_digest,
            )
        )


@message("roll-statement")
@dataclass(frozen=True, kw_only=True)
class RollStatement:
    """What the server signs: these uploads, and no others, are in this total. Its digest is the *roll digest*."""

    header_digest: Digest
    entries: Annotated[tuple[RollEntry, ...], Sequence(Nested(RollEntry), MAX_COHORT)]
    total_digest: Digest


@message("roll")
@dataclass(frozen=True, kw_only=True)
class Roll:
    """Who is in the sum, sorted by name, and the digest of the summed ciphertext."""

    header_digest: Digest
    entries: Annotated[tuple[RollEntry, ...], Sequence(Nested(RollEntry), MAX_COHORT)]
    total_digest: Digest
    signature: Signature

    @cached_property
    def statement(self) -> bytes:
        """What the signature covers."""
        return encode(
            RollStatement(header_digest=self.header_digest, entries=self.entries, total_digest=self.total_digest)
        )

    @cached_property
    def participants(self) -> tuple[str, ...]:
        """Names of the clients in the sum."""
        return tuple(entry.client for entry in self.entries)


@message("approval")
@dataclass(frozen=True, kw_only=True)
class Approval:
    """Who agreed to open a roll: a member by its vote, or the key-holder by its opening."""

    name: Name
    signature: Signature


@message("release-statement")
@dataclass(frozen=True, kw_only=True)
class ReleaseStatement:
    """What the server signs: this header, this roll, these values."""

    header_digest: Digest
    roll_digest: Digest
    values_digest: Digest
    approvals_digest: Digest


@message("release")
@dataclass(frozen=True, kw_only=True)
class Release:
    """One link of the transcript; the header inside names the link before it.

    Attributes:
        values_digest: of the opened sum, int64, little endian, in steps of the grid.
        approvals: sorted by name.
    """

    announcement: Annotated[Announcement, Nested(Announcement)]
    roll: Annotated[Roll, Nested(Roll)]
    values_digest: Digest
    approvals: Annotated[tuple[Approval, ...], Sequence(Nested(Approval), MAX_COMMITTEE)]
    signature: Signature

    @property
    def statement(self) -> bytes:
        """What the signature covers."""
        return encode(
            ReleaseStatement(
                header_digest=self.announcement.header_digest,
                roll_digest=digest(self.roll.statement),
                values_digest=self.values_digest,
                approvals_digest=digest(b"".join(encode(approval) for approval in self.approvals)),
            )
        )
