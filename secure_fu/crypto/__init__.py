"""Identities, sealing, the wire format, random streams, and schemes that add what they cannot read.

Imports nothing of privacy, learning or any framework. TenSEAL is loaded when scheme ``"bfv"`` is first asked for.
"""

from __future__ import annotations

from secure_fu.crypto._secret import Secret
from secure_fu.crypto.encryptor import EncryptionPool, Encryptor, InlineEncryptor
from secure_fu.crypto.identity import Identity, Party, Role, Roster, SigningKey
from secure_fu.crypto.randomness import (
    InsecureDeterministicRandomness,
    OsRandomness,
    Randomness,
    RandomStream,
    SecureStream,
)
from secure_fu.crypto.scheme import Accumulator, KeyHolderScheme, OpeningKey, PublicKey
from secure_fu.crypto.sealing import SEAL_OVERHEAD_BYTES, SealingKey, seal
from secure_fu.crypto.sharing import CommitteeTerms
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
    "SEAL_OVERHEAD_BYTES",
    "U32",
    "U64",
    "Accumulator",
    "Blob",
    "Choice",
    "CommitteeTerms",
    "EncryptionPool",
    "Encryptor",
    "Fixed",
    "Identity",
    "InlineEncryptor",
    "InsecureDeterministicRandomness",
    "KeyHolderScheme",
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
    "Secret",
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
