"""The messages of a round, each its own type, with the statements that their signatures cover.

The wire format (:mod:`secure_fu.crypto.wire`) rejects unknown versions, wrong tags, oversized fields and trailing
bytes. Every signature covers a domain of :class:`Domain` and a statement that holds the hash of the signed header,
which in
turn binds run, round, purpose, model, cohort and all privacy parameters.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from secure_fu.crypto.wire import (
    F64,
    U32,
    U64,
    Blob,
    Fixed,
    Nested,
    Sequence,
    Text,
    encode,
    message,
)
from secure_fu.errors import ArgumentError, ProtocolError

__all__ = [
    "Announcement",
    "Domain",
    "Header",
    "Invitation",
    "Opening",
    "OpeningStatement",
    "Release",
    "Roll",
    "RollEntry",
    "RoundKey",
    "RoundKeyStatement",
    "Settings",
    "Upload",
    "UploadStatement",
    "canonical_settings",
    "digest",
    "parse_settings",
]

Settings = Mapping[str, float | int | str | bool]

MAX_COHORT = 1_000_000
MAX_PUBLIC_KEY_BYTES = 1 << 22
MAX_MODEL_BYTES = (1 << 32) - 1
MAX_CIPHERTEXT_BYTES = (1 << 32) - 1

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


def digest(data: bytes) -> bytes:
    """SHA-256 of `data`, 32 bytes."""
    return hashlib.sha256(data).digest()


def canonical_settings(settings: Settings) -> str:
    """The one JSON text of public task settings: sorted keys, no spaces, finite numbers only.

    Raises:
        ArgumentError: a value is not a finite number, a string or a boolean.
    """
    for key, value in settings.items():
        if not isinstance(value, (bool, int, float, str)):
            raise ArgumentError(f"settings[{key!r}]", type(value).__name__, "a finite number, a string or a boolean")
    try:
        return json.dumps(dict(settings), sort_keys=True, separators=(",", ":"), allow_nan=False)
    except ValueError:
        raise ArgumentError("settings", sorted(settings), "finite numbers only") from None


def parse_settings(text: str) -> Settings:
    """Read what :func:`canonical_settings` wrote.

    Raises:
        ProtocolError: the text is anything else.
    """
    try:
        settings = json.loads(text)
        if isinstance(settings, dict) and canonical_settings(settings) == text:
            return settings
    except (ValueError, RecursionError):  # ValueError: no JSON, or values that settings cannot have
        pass
    raise ProtocolError("header field settings is not the canonical text of finite numbers, strings and booleans")


@message("header")
@dataclass(frozen=True, kw_only=True)
class Header:
    """What one round is, in full; public, and signed by the server.

    Attributes:
        run_id: 16 random bytes that name the run (or the branch of a simulation).
        round_number: strictly increasing within a run.
        purpose: `train`, `unlearn/<method>` or `statistic/<name>`.
        previous_transcript: hash of the last :class:`Release` of the run, or of its starting point.
        model_digest: hash of the model that the clients compute on.
        parameter_set: of the encryption scheme.
        length: coordinates of the sum.
        grid_step, saturation, clip_norm: in units of the released sum.
        unit: the privacy unit, a value of :class:`secure_fu.privacy.Unit`.
        noise_multiplier: standard deviation of the assured noise over the unit's sensitivity.
        retained_rate, forgotten_rate: largest probability with which one retained (forgotten) unit enters this sum; 1
            is no amplification by sampling, 0 means that units of that kind do not enter at all.
        settings: public settings of the task, canonical JSON.
        roster_digest: hash of the roster of identities.
        cohort: names of the clients invited, sorted.
        committee: names of those who open the sum.
        minimum_cohort: fewer uploads than this, and the round ends without a release.
    """

    run_id: Annotated[bytes, Fixed(16)]
    round_number: Annotated[int, U64]
    purpose: Name
    previous_transcript: Digest
    model_digest: Digest
    parameter_set: Name
    length: Annotated[int, U32]
    grid_step: Annotated[float, F64]
    saturation: Annotated[float, F64]
    clip_norm: Annotated[float, F64]
    unit: Name
    noise_multiplier: Annotated[float, F64]
    retained_rate: Annotated[float, F64]
    forgotten_rate: Annotated[float, F64]
    settings: Annotated[str, Text(65536)]
    roster_digest: Digest
    cohort: Annotated[tuple[str, ...], Sequence(Text(64), MAX_COHORT)]
    committee: Annotated[tuple[str, ...], Sequence(Text(64), 1024)]
    minimum_cohort: Annotated[int, U32]


@message("announcement")
@dataclass(frozen=True, kw_only=True)
class Announcement:
    """Server to key-holder and clients: the encoded header and the server's signature over it."""

    header: Annotated[bytes, Blob(1 << 27)]
    signature: Signature

    @property
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
    """Key-holder to server and clients: the fresh public key of one round."""

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
    """Server to client: announcement, round key and the current model (float32, little endian)."""

    announcement: Annotated[Announcement, Nested(Announcement)]
    round_key: Annotated[RoundKey, Nested(RoundKey)]
    model: Annotated[bytes, Blob(MAX_MODEL_BYTES)]


@message("upload-statement")
@dataclass(frozen=True, kw_only=True)
class UploadStatement:
    """What a client signs: this ciphertext is mine, for this header."""

    header_digest: Digest
    client: Name
    ciphertext_digest: Digest


@message("upload")
@dataclass(frozen=True, kw_only=True)
class Upload:
    """Client to server, once a round: the ciphertext, sealed so that the key-holder cannot read it in transit."""

    header_digest: Digest
    client: Name
    ciphertext_digest: Digest
    box: Annotated[bytes, Blob(MAX_CIPHERTEXT_BYTES)]
    signature: Signature

    @property
    def statement(self) -> bytes:
        """What the signature covers."""
        return encode(
            UploadStatement(
                header_digest=self.header_digest, client=self.client, ciphertext_digest=self.ciphertext_digest
            )
        )


@message("roll-entry")
@dataclass(frozen=True, kw_only=True)
class RollEntry:
    """One upload that is in the sum, with its client's signature."""

    client: Name
    ciphertext_digest: Digest
    signature: Signature

    def statement(self, header_digest: bytes) -> bytes:
        """The client's statement that the signature covers."""
        return encode(
            UploadStatement(header_digest=header_digest, client=self.client, ciphertext_digest=self.ciphertext_digest)
        )


@message("roll")
@dataclass(frozen=True, kw_only=True)
class Roll:
    """Server to key-holder: who is in the sum (sorted by name), and the summed ciphertext to open."""

    header_digest: Digest
    entries: Annotated[tuple[RollEntry, ...], Sequence(Nested(RollEntry), MAX_COHORT)]
    total: Annotated[bytes, Blob(MAX_CIPHERTEXT_BYTES)]
    signature: Signature

    @property
    def statement(self) -> bytes:
        """What the server signs: the roll without its signature."""
        return b"".join((self.header_digest, *(encode(entry) for entry in self.entries), digest(self.total)))


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


@message("release")
@dataclass(frozen=True, kw_only=True)
class Release:
    """Server to all: one link of the transcript. The hash of this message is the next round's `previous_transcript`."""

    header_digest: Digest
    previous_transcript: Digest
    roll_digest: Digest
    values_digest: Digest
    participants: Annotated[tuple[str, ...], Sequence(Text(64), MAX_COHORT)]
    opening_signature: Signature
