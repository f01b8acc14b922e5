"""What a client signs when it has destroyed what a deletion window covers at it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Annotated, Final

from secure_fu.crypto import Identity, Role, Roster
from secure_fu.crypto.wire import Fixed, Text, encode, message

__all__ = ["SALT_BYTES", "WINDOW_ID_BYTES", "WIPED", "WipeStatement", "wipe_commitment"]

WIPED: Final = "wiped"
"""Domain of the signature."""
WINDOW_ID_BYTES: Final = 16
SALT_BYTES: Final = 32


@message("wipe-statement")
@dataclass(frozen=True, kw_only=True)
class WipeStatement:
    """A client: what this window covers at me is destroyed.

    Every client signs one, also who had nothing to destroy, and they all have the same size.

    Attributes:
        window_id: of the window, 16 bytes.
        client: by its name in the roster.
        commitment: to the client's own undisclosed requests, or to none; see :func:`wipe_commitment`.
        signature: of the client, over :attr:`statement`.
    """

    window_id: Annotated[bytes, Fixed(WINDOW_ID_BYTES)]
    client: Annotated[str, Text(64)]
    commitment: Annotated[bytes, Fixed(32)]
    signature: Annotated[bytes, Fixed(64)]

    @property
    def statement(self) -> bytes:
        """What the signature covers: the encoded message with zeros in the signature's place."""
        return encode(replace(self, signature=bytes(64)))

    @classmethod
    def signed(cls, identity: Identity, *, window_id: bytes, commitment: bytes) -> WipeStatement:
        """The client's statement; the same bytes for the same window and commitment."""
        unsigned = cls(window_id=window_id, client=identity.name, commitment=commitment, signature=bytes(64))
        return replace(unsigned, signature=identity.sign(WIPED, unsigned.statement))

    def check(self, roster: Roster) -> None:
        """Return only if the client that it names has signed it.

        Raises:
            RosterError, SignatureError: it has not.
        """
        roster.verify(self.client, Role.CLIENT, WIPED, self.statement, self.signature)


def wipe_commitment(salt: bytes, private: bytes) -> bytes:
    """SHA-256 of salt and encoded undisclosed requests, 32 bytes.

    A client that asked in private can hand out both, to show that its request was in a window; without the salt nobody
    can tell a commitment to requests from one to none.

    Args:
        salt: 32 random bytes, secret until handed out.
        private: the requests, encoded; empty for none.
    """
    return hashlib.sha256(salt + private).digest()
