"""Sealed boxes: hybrid public-key encryption to one recipient, X25519 together with ML-KEM-768.

Both shared secrets go through HKDF-SHA256, bound to the ephemeral public key, the KEM ciphertext and the recipient's
key, into one AES-256-GCM key that is used once.

Guarantee
    A box stays confidential and unaltered as long as either X25519 (RFC 7748) or ML-KEM-768 (FIPS 203) holds: an
    attacker of the future with a quantum computer gains nothing from a recording of today. It opens only under the
    recipient's key and the very associated data that it was sealed with.
Not guaranteed
    A box says nothing about who sealed it (sign it, with the sender's name in the associated data), and it hides
    neither the length of its content nor the recipient. Whoever takes the recipient's key can open old boxes.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from typing import Annotated, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from secure_fu.crypto._secret import Secret
from secure_fu.crypto.wire import Blob, Fixed, decode, encode, message
from secure_fu.errors import ArgumentError, SealError, WireError

__all__ = ["SEALING_KEY_BYTES", "SEAL_OVERHEAD_BYTES", "SealingKey", "check_sealing_key", "seal"]

_X25519_BYTES: Final = 32
_KEM_KEY_BYTES: Final = 1184
_KEM_CIPHERTEXT_BYTES: Final = 1088
_KEM_SEED_BYTES: Final = 64
_MAX_PLAINTEXT_BYTES: Final = 1 << 31
_TAG_BYTES: Final = 16
# Each AEAD key encrypts one message, so its nonce can be constant.
_NONCE: Final = bytes(12)

SEALING_KEY_BYTES: Final = _X25519_BYTES + _KEM_KEY_BYTES
"""Length of a public sealing key: the X25519 key, then the ML-KEM-768 encapsulation key."""

SEAL_OVERHEAD_BYTES: Final = 1155
"""What a box is longer than its content: the wire format's head, the ephemeral key, the KEM ciphertext and the tag."""


@message("sealed-box")
@dataclass(frozen=True, kw_only=True)
class _Box:
    ephemeral_key: Annotated[bytes, Fixed(_X25519_BYTES)]
    kem_ciphertext: Annotated[bytes, Fixed(_KEM_CIPHERTEXT_BYTES)]
    ciphertext: Annotated[bytes, Blob(_MAX_PLAINTEXT_BYTES + _TAG_BYTES)]


# Whoever seals does so to the same few recipients, round after round.
@functools.lru_cache(maxsize=1024)
def _load_recipient(recipient: bytes) -> tuple[X25519PublicKey, MLKEM768PublicKey]:
    """Raises ``ValueError`` when ``recipient`` is not a public sealing key."""
    if len(recipient) != SEALING_KEY_BYTES:
        raise ValueError(f"a sealing key has {SEALING_KEY_BYTES} bytes, not {len(recipient)}")
    return (
        X25519PublicKey.from_public_bytes(recipient[:_X25519_BYTES]),
        MLKEM768PublicKey.from_public_bytes(recipient[_X25519_BYTES:]),
    )


def check_sealing_key(argument: str, value: bytes) -> None:
    """Raise ``ArgumentError``, naming ``argument``, when ``value`` is not a public sealing key."""
    try:
        _load_recipient(value)
    except ValueError:
        raise ArgumentError(
            argument, f"{len(value)} bytes", f"an X25519 and an ML-KEM-768 public key, {SEALING_KEY_BYTES} bytes in all"
        ) from None


def _box_key(*, x25519_secret: bytes, kem_secret: bytes, ephemeral: bytes, kem_ciphertext: bytes, to: bytes) -> AESGCM:
    # All inputs have fixed lengths, so the concatenations are unambiguous.
    info = b"secure-fu/1/seal\0" + ephemeral + kem_ciphertext + to
    derivation = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info)
    return AESGCM(derivation.derive(x25519_secret + kem_secret))


def seal(recipient: bytes, plaintext: bytes, *, associated_data: bytes) -> bytes:
    """Seal ``plaintext`` to the holder of ``recipient``.

    Args:
        recipient: public sealing key, ``SEALING_KEY_BYTES`` bytes.
        plaintext: at most 2 GiB.
        associated_data: what the box is bound to; the recipient has to name the same. Does not travel in the box.

    Returns:
        The box, ``SEAL_OVERHEAD_BYTES`` longer than ``plaintext``.

    Raises:
        SealError: ``recipient`` is not a valid key, or ``plaintext`` is too long.
    """
    if len(plaintext) > _MAX_PLAINTEXT_BYTES:
        raise SealError(f"plaintext has {len(plaintext)} bytes; a box holds at most {_MAX_PLAINTEXT_BYTES}")
    ephemeral = X25519PrivateKey.generate()
    try:
        x25519_key, kem_key = _load_recipient(recipient)
        x25519_secret = ephemeral.exchange(x25519_key)  # raises ValueError on points of small order
    except ValueError:
        raise SealError("recipient is not a public sealing key") from None
    kem_secret, kem_ciphertext = kem_key.encapsulate()
    ephemeral_public = ephemeral.public_key().public_bytes_raw()
    key = _box_key(
        x25519_secret=x25519_secret,
        kem_secret=kem_secret,
        ephemeral=ephemeral_public,
        kem_ciphertext=kem_ciphertext,
        to=recipient,
    )
    return encode(
        _Box(
            ephemeral_key=ephemeral_public,
            kem_ciphertext=kem_ciphertext,
            ciphertext=key.encrypt(_NONCE, plaintext, associated_data),
        )
    )


class SealingKey(Secret):
    """The secret key that opens sealed boxes. Redacts its ``repr``; refuses pickling and copying."""

    __slots__ = ("_kem_key", "_public_bytes", "_x25519_key")

    SECRET_BYTES: Final = _X25519_BYTES + _KEM_SEED_BYTES

    def __init__(self, x25519_key: X25519PrivateKey, kem_key: MLKEM768PrivateKey) -> None:
        self._x25519_key = x25519_key
        self._kem_key = kem_key
        self._public_bytes = x25519_key.public_key().public_bytes_raw() + kem_key.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> SealingKey:
        """Return a fresh key from the operating system's generator."""
        return cls.from_secret_bytes(os.urandom(cls.SECRET_BYTES))

    @classmethod
    def from_secret_bytes(cls, secret: bytes) -> SealingKey:
        """Return the key that belongs to 96 secret uniform bytes: X25519 private key, then ML-KEM-768 seed (d, z).

        Raises:
            ArgumentError: ``secret`` has another length.
        """
        if len(secret) != cls.SECRET_BYTES:
            raise ArgumentError("secret", f"{len(secret)} bytes", f"{cls.SECRET_BYTES} bytes")
        return cls(
            X25519PrivateKey.from_private_bytes(secret[:_X25519_BYTES]),
            MLKEM768PrivateKey.from_seed_bytes(secret[_X25519_BYTES:]),
        )

    @property
    def public_bytes(self) -> bytes:
        """What others seal to: ``SEALING_KEY_BYTES`` bytes."""
        return self._public_bytes

    def unseal(self, box: bytes, *, associated_data: bytes) -> bytes:
        """Open a box.

        Raises:
            SealError: the box is malformed, altered, or was sealed to another key or with other associated data. Which
                of them is not said.
        """
        try:
            parts = decode(_Box, box)
            key = _box_key(
                x25519_secret=self._x25519_key.exchange(X25519PublicKey.from_public_bytes(parts.ephemeral_key)),
                # A wrong KEM ciphertext gives a pseudo-random secret here (implicit rejection) and fails below.
                kem_secret=self._kem_key.decapsulate(parts.kem_ciphertext),
                ephemeral=parts.ephemeral_key,
                kem_ciphertext=parts.kem_ciphertext,
                to=self._public_bytes,
            )
            return key.decrypt(_NONCE, parts.ciphertext, associated_data)
        except (WireError, ValueError, InvalidTag):
            raise SealError("the box does not open under this key and associated data") from None
