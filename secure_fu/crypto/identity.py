r"""Who takes part: Ed25519 identities, and the pinned roster against which every signature is checked.

What is signed is ``b"secure-fu/1/" + domain + b"\0" + message``. A domain holds no NUL, so a signature made for one
purpose never verifies for another. The roster is the root of trust: whoever pins its digest accepts its parties and
nobody else.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from secure_fu.crypto._secret import Secret
from secure_fu.crypto.sealing import SEALING_KEY_BYTES, SealingKey, check_sealing_key
from secure_fu.crypto.wire import Choice, Fixed, Nested, Sequence, Text, decode, encode, message
from secure_fu.errors import ArgumentError, RosterError, SignatureError

__all__ = ["SIGNATURE_BYTES", "Identity", "Party", "Role", "Roster", "SigningKey"]

SIGNATURE_BYTES: Final = 64
_VERIFY_KEY_BYTES: Final = 32
_MAX_NAME_BYTES: Final = 64
_MAX_PARTIES: Final = 1_000_000
_NAME: Final = re.compile(rf"[A-Za-z0-9._-]{{1,{_MAX_NAME_BYTES}}}")


class Role(enum.Enum):
    """What a party does in a round; the value is what travels."""

    CLIENT = "client"
    SERVER = "server"
    KEY_HOLDER = "key-holder"
    MEMBER = "member"


def _signed_bytes(domain: str, message: bytes) -> bytes:
    if not domain or not domain.isascii() or "\0" in domain:
        raise ArgumentError("domain", domain, "a string of ASCII characters without NUL, not empty")
    return b"secure-fu/1/" + domain.encode("ascii") + b"\0" + message


class SigningKey(Secret):
    """An Ed25519 private key (RFC 8032). Redacts its ``repr``; refuses pickling and copying."""

    __slots__ = ("_key", "_public_bytes")

    SECRET_BYTES: Final = 32

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self._public_bytes = key.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> SigningKey:
        """Return a fresh key from the operating system's generator."""
        return cls.from_secret_bytes(os.urandom(cls.SECRET_BYTES))

    @classmethod
    def from_secret_bytes(cls, secret: bytes) -> SigningKey:
        """Return the key that belongs to 32 secret uniform bytes.

        Raises:
            ArgumentError: ``secret`` has another length.
        """
        if len(secret) != cls.SECRET_BYTES:
            raise ArgumentError("secret", f"{len(secret)} bytes", f"{cls.SECRET_BYTES} bytes")
        return cls(Ed25519PrivateKey.from_private_bytes(secret))

    @property
    def public_bytes(self) -> bytes:
        """The verification key, 32 bytes."""
        return self._public_bytes

    def sign(self, domain: str, message: bytes) -> bytes:
        """Return the signature, 64 bytes, over ``message`` for the purpose ``domain``.

        Raises:
            ArgumentError: ``domain`` is empty, not ASCII, or holds NUL.
        """
        return self._key.sign(_signed_bytes(domain, message))


@message("party")
@dataclass(frozen=True, kw_only=True)
class Party:
    """The public half of an identity.

    Attributes:
        name: 1 to 64 characters of ``A-Z a-z 0-9 . _ -``.
        role: the one role in which this party may sign.
        verify_key: Ed25519 public key, 32 bytes.
        sealing_key: X25519 and ML-KEM-768 public keys, 1216 bytes.

    Raises:
        ArgumentError: a field is not of this form.
    """

    name: Annotated[str, Text(_MAX_NAME_BYTES)]
    role: Annotated[Role, Choice(Role)]
    verify_key: Annotated[bytes, Fixed(_VERIFY_KEY_BYTES)]
    sealing_key: Annotated[bytes, Fixed(SEALING_KEY_BYTES)]

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ArgumentError("name", self.name, f"1 to {_MAX_NAME_BYTES} characters of A-Z a-z 0-9 . _ -")
        if not isinstance(self.role, Role):
            raise ArgumentError("role", self.role, "a Role")
        if len(self.verify_key) != _VERIFY_KEY_BYTES:
            raise ArgumentError("verify_key", f"{len(self.verify_key)} bytes", f"{_VERIFY_KEY_BYTES} bytes")
        check_sealing_key("sealing_key", self.sealing_key)


class Identity(Secret):
    """A party with its secret keys. Redacts its ``repr``; refuses pickling and copying.

    Raises:
        ArgumentError: the name or the role is malformed.
    """

    __slots__ = ("_party", "_sealing_key", "_signing_key")

    def __init__(self, name: str, role: Role, *, signing_key: SigningKey, sealing_key: SealingKey) -> None:
        self._party = Party(
            name=name, role=role, verify_key=signing_key.public_bytes, sealing_key=sealing_key.public_bytes
        )
        self._signing_key = signing_key
        self._sealing_key = sealing_key

    @classmethod
    def generate(cls, name: str, role: Role) -> Identity:
        """Return an identity with fresh keys from the operating system's generator."""
        return cls(name, role, signing_key=SigningKey.generate(), sealing_key=SealingKey.generate())

    @property
    def name(self) -> str:
        """The party's name."""
        return self._party.name

    @property
    def role(self) -> Role:
        """The party's role."""
        return self._party.role

    @property
    def party(self) -> Party:
        """The public half."""
        return self._party

    def sign(self, domain: str, message: bytes) -> bytes:
        """Return the signature, 64 bytes, over ``message`` for the purpose ``domain``.

        Raises:
            ArgumentError: ``domain`` is empty, not ASCII, or holds NUL.
        """
        return self._signing_key.sign(domain, message)

    def unseal(self, box: bytes, *, associated_data: bytes) -> bytes:
        """Open a box that was sealed to this party.

        Raises:
            SealError: the box does not open under this key and associated data.
        """
        return self._sealing_key.unseal(box, associated_data=associated_data)


@message("roster")
@dataclass(frozen=True)
class Roster:
    """The parties that may take part, pinned by everybody.

    Attributes:
        parties: at least one, sorted by name; no two share a name, a verification key or a sealing key. Use
            :meth:`of` for parties in any order.

    Raises:
        ArgumentError: the parties are not of this form.
    """

    parties: Annotated[tuple[Party, ...], Sequence(Nested(Party), _MAX_PARTIES)]

    def __post_init__(self) -> None:
        given: object = self.parties
        if not isinstance(given, tuple) or not all(isinstance(party, Party) for party in given):
            raise ArgumentError("parties", type(given).__name__, "a tuple of Party")
        if not self.parties:
            raise ArgumentError("parties", self.parties, "at least one party")
        names = [party.name for party in self.parties]
        if names != sorted(names):
            raise ArgumentError("parties", "not in order", "parties sorted by name (Roster.of sorts them)")
        _require_distinct("name", names)
        _require_distinct("verify_key", [party.verify_key.hex() for party in self.parties])
        _require_distinct("sealing_key", [party.sealing_key.hex() for party in self.parties])

    @classmethod
    def of(cls, parties: Iterable[Party]) -> Roster:
        """Return the roster of ``parties``, given in any order.

        Raises:
            ArgumentError: no party is given, or two share a name or a key.
        """
        return cls(tuple(sorted(parties, key=lambda party: party.name)))

    @functools.cached_property
    def _by_name(self) -> Mapping[str, Party]:
        return {party.name: party for party in self.parties}

    @functools.cached_property
    def digest(self) -> bytes:
        """SHA-256 of :meth:`encode`, 32 bytes: what policies pin and headers carry."""
        return hashlib.sha256(self.encode()).digest()

    @functools.cached_property
    def clients(self) -> frozenset[str]:
        """Names of all parties in the role of a client."""
        return frozenset(self.names(Role.CLIENT))

    def encode(self) -> bytes:
        """Return the wire encoding."""
        return encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Roster:
        """Return the roster whose encoding is ``data``.

        Raises:
            WireError: ``data`` is not the encoding of a roster.
        """
        return decode(cls, data)

    def party(self, name: str) -> Party:
        """Return the party of that name.

        Raises:
            RosterError: there is none.
        """
        try:
            return self._by_name[name]
        except KeyError:
            raise RosterError(f"{name!r} is not in the roster") from None

    def names(self, role: Role) -> tuple[str, ...]:
        """Return the names of all parties in ``role``, sorted; empty when there are none."""
        return tuple(party.name for party in self.parties if party.role is role)

    def verify(self, name: str, role: Role, domain: str, message: bytes, signature: bytes) -> None:
        """Return only if ``signature`` is that of party ``name``, in role ``role``, over ``message`` for ``domain``.

        Raises:
            RosterError: the party is not in the roster, or not in that role.
            SignatureError: the signature does not verify under the pinned key.
            ArgumentError: ``domain`` is empty, not ASCII, or holds NUL.
        """
        party = self.party(name)
        if party.role is not role:
            raise RosterError(f"{name!r} is in the roster as {party.role.value}, not as {role.value}")
        signed = _signed_bytes(domain, message)
        try:
            _verification_key(party.verify_key).verify(signature, signed)
        except (InvalidSignature, ValueError):
            raise SignatureError(f"the signature of {name!r} for {str(domain)!r} does not verify") from None


@functools.lru_cache(maxsize=4096)
def _verification_key(data: bytes) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(data)


def _require_distinct(what: str, values: list[str]) -> None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise ArgumentError("parties", f"two parties with {what} {value[:_MAX_NAME_BYTES]}", f"distinct {what}s")
        seen.add(value)
