"""A client's side of schemes with a key-holder: encrypt under the round's public key, seal to the server."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from secure_fu.crypto import Encryptor, InlineEncryptor, KeyHolderScheme, Role, Roster, seal
from secure_fu.errors import PolicyRefusal, ProtocolError
from secure_fu.privacy import Grid
from secure_fu.protocol.encryption import EncryptedVector
from secure_fu.protocol.header import Header, grid_of, noise_share_of
from secure_fu.protocol.messages import Domain, Invitation, digest

__all__ = ["KeyHolderEncryption", "check_capacity", "upload_associated_data"]


def upload_associated_data(header_digest: bytes, client: str) -> bytes:
    """What a sealed upload is bound to: one round, one client."""
    return b"upload\0" + header_digest + client.encode("ascii")


def check_capacity(scheme: KeyHolderScheme, header: Header) -> None:
    """Return only if the scheme holds the sum of the whole cohort.

    Raises:
        PolicyRefusal: the header's grid is one that needs the digits of scheme `kahe`.
        CapacityError: it might not.
    """
    grid = grid_of(header)
    if not isinstance(grid, Grid):
        raise PolicyRefusal(f"header field grid is {header.grid!r}; with a key-holder it is 'fine'")
    magnitude = grid.max_integer + noise_share_of(header).tail_bound(header.length, log2_probability=-64)
    scheme.check_capacity(clients=len(header.cohort), magnitude=magnitude)


class KeyHolderEncryption:
    """Encrypts under a public key that the pinned key-holder signed for this header.

    The body is sealed to the server: TLS apart, the key-holder must not read an upload in transit.

    Args:
        scheme: with a key-holder.
        roster: pinned identities.
        server, key_holder: their names, from the client's policy.
        encryptor: does the work; this process unless given.
    """

    def __init__(
        self,
        scheme: KeyHolderScheme,
        *,
        roster: Roster,
        server: str,
        key_holder: str,
        encryptor: Encryptor | None = None,
    ) -> None:
        self._scheme = scheme
        self._roster = roster
        self._server = server
        self._key_holder = key_holder
        self._encryptor = InlineEncryptor(scheme) if encryptor is None else encryptor

    def check(self, invitation: Invitation, header: Header) -> None:
        """See :class:`~secure_fu.protocol.encryption.UploadEncryption`."""
        if header.parameter_set != self._scheme.parameter_set or header.digit_bits:
            raise PolicyRefusal(
                f"header fields parameter_set and digit_bits are {header.parameter_set!r} and {header.digit_bits}; "
                f"this client runs {self._scheme.parameter_set!r} and 0"
            )
        if not invitation.round_key:
            raise ProtocolError("the invitation has no round key")
        (round_key,) = invitation.round_key
        if round_key.header_digest != invitation.announcement.header_digest:
            raise ProtocolError("the round key belongs to another header than the announcement")
        self._roster.verify(
            self._key_holder, Role.KEY_HOLDER, Domain.ROUND_KEY, round_key.statement, round_key.signature
        )
        check_capacity(self._scheme, header)
        self._scheme.load_public_key(round_key.public_key)

    def begin(
        self, invitation: Invitation, header: Header, client: str, values: NDArray[np.int64]
    ) -> Callable[[], EncryptedVector]:
        """See :class:`~secure_fu.protocol.encryption.UploadEncryption`."""
        header_digest = invitation.announcement.header_digest
        encrypting = self._encryptor.submit(invitation.round_key[0].public_key, values)

        def finish() -> EncryptedVector:
            ciphertext = encrypting()
            box = seal(
                self._roster.party(self._server).sealing_key,
                ciphertext,
                associated_data=upload_associated_data(header_digest, client),
            )
            return EncryptedVector(ciphertext_digest=digest(ciphertext), body=box, shares=())

        return finish
