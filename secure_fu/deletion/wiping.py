"""What a deletion order says, and what a client signs when it has destroyed what the order covers at it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Annotated, Final

from secure_fu.crypto import Identity, Role, Roster
from secure_fu.crypto.wire import U32, U64, Fixed, Sequence, Text, encode, message

__all__ = [
    "DIGEST_BYTES",
    "MAX_SETTINGS_BYTES",
    "SALT_BYTES",
    "WINDOW_ID_BYTES",
    "WIPED",
    "WipeStatement",
    "order_digest",
    "wipe_commitment",
]

WIPED: Final = "wiped"
"""Domain of the signature."""
WINDOW_ID_BYTES: Final = 16
SALT_BYTES: Final = 32
DIGEST_BYTES: Final = 32
"""Of an order, and of a request in it."""
MAX_SETTINGS_BYTES: Final = 1 << 16
"""Longest text of a method's settings."""
_MAX_REQUESTS: Final = 100_000


@message("order-statement")
@dataclass(frozen=True, kw_only=True)
class _OrderStatement:
    """What :func:`order_digest` is the SHA-256 of."""

    window_id: Annotated[bytes, Fixed(WINDOW_ID_BYTES)]
    opened: Annotated[int, U64]
    method: Annotated[str, Text(64)]
    settings: Annotated[str, Text(MAX_SETTINGS_BYTES)]
    request_digests: Annotated[tuple[bytes, ...], Sequence(Fixed(DIGEST_BYTES), _MAX_REQUESTS)]
    hidden_units: Annotated[int, U32]
    continues_after: Annotated[int, U64]


def order_digest(
    *,
    window_id: bytes,
    opened: int,
    method: str,
    settings: str,
    request_digests: tuple[bytes, ...],
    hidden_units: int,
    continues_after: int,
) -> bytes:
    """SHA-256 of all that a deletion order says, 32 bytes: the same for every client, whatever it is shown of it.

    Args:
        window_id: of the window, 16 bytes.
        opened: when the window was due, in seconds since 1970 (UTC).
        method: by its name.
        settings: of the method, as :func:`secure_fu.deployment.exchange.messages.order_settings` writes them.
        request_digests: SHA-256 of each encoded request of the batch, 32 bytes each, sorted; see
            :attr:`secure_fu.deletion.requests.SignedRequest.digest`.
        hidden_units: how many units each client may add on requests that nobody else sees.
        continues_after: 0 where clients remember none of their rounds of before, else 1 + the number of the last round
            that they still remember.

    Raises:
        WireError: a value has not this form.
    """
    statement = _OrderStatement(
        window_id=window_id,
        opened=opened,
        method=method,
        settings=settings,
        request_digests=request_digests,
        hidden_units=hidden_units,
        continues_after=continues_after,
    )
    return hashlib.sha256(encode(statement)).digest()


@message("wipe-statement")
@dataclass(frozen=True, kw_only=True)
class WipeStatement:
    """A client: what this order covers at me is destroyed.

    Every client signs one, also who had nothing to destroy, and they all have the same size.

    Attributes:
        window_id: of the window, 16 bytes.
        order: digest of the order that the client was given, 32 bytes; see :func:`order_digest`.
        client: by its name in the roster.
        rounds: how many rounds of the order's method this client has answered in the window's run. Who answered none
            has destroyed data, and taken no part in any unlearning.
        commitment: to the client's own undisclosed requests, or to none; see :func:`wipe_commitment`.
        signature: of the client, over :attr:`statement`.
    """

    window_id: Annotated[bytes, Fixed(WINDOW_ID_BYTES)]
    order: Annotated[bytes, Fixed(DIGEST_BYTES)]
    client: Annotated[str, Text(64)]
    rounds: Annotated[int, U32]
    commitment: Annotated[bytes, Fixed(32)]
    signature: Annotated[bytes, Fixed(64)]

    @property
    def statement(self) -> bytes:
        """What the signature covers: the encoded message with zeros in the signature's place."""
        return encode(replace(self, signature=bytes(64)))

    @classmethod
    def signed(
        cls, identity: Identity, *, window_id: bytes, order: bytes, rounds: int, commitment: bytes
    ) -> WipeStatement:
        """The client's statement; the same bytes for the same values."""
        unsigned = cls(
            window_id=window_id,
            order=order,
            client=identity.name,
            rounds=rounds,
            commitment=commitment,
            signature=bytes(64),
        )
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
