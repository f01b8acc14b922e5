"""How a client encrypts its integers: for a key-holder, or so that a committee has to open the sum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from secure_fu.protocol.header import Header
from secure_fu.protocol.messages import Invitation

__all__ = ["EncryptedVector", "UploadEncryption"]


@dataclass(frozen=True, kw_only=True)
class EncryptedVector:
    """What an upload carries.

    Attributes: as in :class:`~secure_fu.protocol.messages.Upload`.
    """

    ciphertext_digest: bytes
    body: bytes
    shares: tuple[bytes, ...]


class UploadEncryption(Protocol):
    """One scheme from a client's side."""

    def check(self, invitation: Invitation, header: Header) -> None:
        """Return only if this client can encrypt for the round, and the sum of the whole cohort opens exactly.

        Raises:
            PolicyRefusal: the header is for another scheme.
            CapacityError: the sum might not fit.
            ProtocolError, SignatureError, CryptoError: the round's key is missing, not the pinned key-holder's, or bad.
        """
        ...

    def begin(
        self, invitation: Invitation, header: Header, client: str, values: NDArray[np.int64]
    ) -> Callable[[], EncryptedVector]:
        """Start to encrypt under keys that are fresh for this round.

        Args:
            invitation, header: checked.
            client: name of the client.
            values: shape (encoded dimension,), int64, noise included. Secret.

        Returns:
            a function that waits for the result.
        """
        ...
