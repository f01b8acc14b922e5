"""Identities, sealing, the wire format, random streams, and schemes that add what they cannot read.

Imports nothing of privacy, learning or any framework. TenSEAL is loaded when scheme ``"bfv"`` is first asked for.
"""

from __future__ import annotations

from secure_fu.crypto.encryptor import EncryptionPool, Encryptor, InlineEncryptor
from secure_fu.crypto.identity import Identity, Party, Role, Roster, SigningKey
from secure_fu.crypto.randomness import (
    InsecureDeterministicRandomness,
    OsRandomness,
    Randomness,
    RandomStream,
    SecureStream,
)
from secure_fu.crypto.scheme import Accumulator, AdditiveScheme, OpeningKey, PublicKey
from secure_fu.crypto.sealing import SealingKey, seal
from secure_fu.crypto.wire import (
    F64,
    U32,
    U64,
    Blob,
    Choice,
    Fixed,
    Nested,
    Sequence,
    Text,
    decode,
    encode,
    message,
)

# isort: split
# Last, because importing the module secure_fu.crypto.scheme binds this name to the module.
from secure_fu.crypto._registry import scheme

__all__ = [
    "F64",
    "U32",
    "U64",
    "Accumulator",
    "AdditiveScheme",
    "Blob",
    "Choice",
    "EncryptionPool",
    "Encryptor",
    "Fixed",
    "Identity",
    "InlineEncryptor",
    "InsecureDeterministicRandomness",
    "Nested",
    "OpeningKey",
    "OsRandomness",
    "Party",
    "PublicKey",
    "RandomStream",
    "Randomness",
    "Role",
    "Roster",
    "SealingKey",
    "SecureStream",
    "Sequence",
    "SigningKey",
    "Text",
    "decode",
    "encode",
    "message",
    "scheme",
    "seal",
]
