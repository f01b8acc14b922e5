"""Identities on disk, for simulations: all parties' secret keys in one file. A real party keeps its own, alone."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from secure_fu.crypto._secret import Secret
from secure_fu.crypto.identity import Identity, Role, SigningKey
from secure_fu.crypto.sealing import SealingKey
from secure_fu.crypto.wire import Choice, Fixed, Nested, Sequence, Text, decode, encode, message
from secure_fu.errors import CryptoError

__all__ = ["make_identities", "read_identities"]

_SECRET_BYTES: Final = SigningKey.SECRET_BYTES + SealingKey.SECRET_BYTES
_HASH_BYTES: Final = 32
_MAX_IDENTITIES: Final = 1_000_000


@message("stored-identity")
@dataclass(frozen=True, kw_only=True, repr=False)
class _StoredIdentity(Secret):
    name: Annotated[str, Text(64)]
    role: Annotated[Role, Choice(Role)]
    secret: Annotated[bytes, Fixed(_SECRET_BYTES)]

    def identity(self) -> Identity:
        return Identity(
            self.name,
            self.role,
            signing_key=SigningKey.from_secret_bytes(self.secret[: SigningKey.SECRET_BYTES]),
            sealing_key=SealingKey.from_secret_bytes(self.secret[SigningKey.SECRET_BYTES :]),
        )


@message("stored-identities")
@dataclass(frozen=True, kw_only=True, repr=False)
class _StoredIdentities(Secret):
    identities: Annotated[tuple[_StoredIdentity, ...], Sequence(Nested(_StoredIdentity), _MAX_IDENTITIES)]


def make_identities(path: Path, roles: Mapping[str, Role]) -> dict[str, Identity]:
    """Draw fresh keys from the operating system's generator and write them down; on disk on return.

    The keys exist in this file and in the identities returned; an identity hands its own out to nobody.

    Args:
        path: of the file, which must not exist; readable by its owner only.
        roles: of each party, by name.

    Returns:
        the identities, by name.

    Raises:
        CryptoError: the file exists or cannot be written.
        ArgumentError: a name is malformed.
    """
    stored = [_StoredIdentity(name=name, role=role, secret=os.urandom(_SECRET_BYTES)) for name, role in roles.items()]
    made = {one.name: one.identity() for one in stored}
    content = encode(_StoredIdentities(identities=tuple(stored)))
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(hashlib.sha256(content).digest() + content)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise CryptoError(f"{path} exists; expected no file where new keys are to be kept") from None
    except OSError as error:
        raise CryptoError(f"{path} cannot be written: {error.strerror}") from error
    return made


def read_identities(path: Path) -> dict[str, Identity]:
    """Identities as they were made, by name. Whether they are the right ones, a pinned roster tells.

    Raises:
        CryptoError: the file is missing, may be read by others than its owner, or is damaged; nothing of its content is
            in the message.
    """
    try:
        mode = path.stat().st_mode
        content = path.read_bytes()
    except OSError as error:
        raise CryptoError(f"{path} cannot be read: {error.strerror}; without its keys nothing can go on") from error
    if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        raise CryptoError(
            f"{path} has mode {stat.S_IMODE(mode):o}, so that others can read secret keys; expected 600. Set it back "
            "only if nobody else has read it"
        )
    # Some damage to a secret key shows in no public key.
    if hashlib.sha256(content[_HASH_BYTES:]).digest() != content[:_HASH_BYTES]:
        raise CryptoError(f"{path} is damaged: it is not what was written")
    try:
        return {one.name: one.identity() for one in decode(_StoredIdentities, content[_HASH_BYTES:]).identities}
    except (CryptoError, ValueError):
        raise CryptoError(f"{path} is damaged, or no file of identities") from None
