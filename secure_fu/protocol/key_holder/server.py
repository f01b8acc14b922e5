"""The server of a federation with a key-holder: schemes `bfv` and `plain`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from secure_fu.crypto import SEAL_OVERHEAD_BYTES, Identity, KeyHolderScheme, Role
from secure_fu.crypto.wire import decode, encode
from secure_fu.errors import CiphertextError, ProtocolError
from secure_fu.protocol.header import Header, grid_of
from secure_fu.protocol.key_holder.encryption import check_capacity, upload_associated_data
from secure_fu.protocol.key_holder.messages import Opening, OpeningRequest
from secure_fu.protocol.messages import Approval, Domain, RoundKey, Upload
from secure_fu.protocol.release import ReleasedSum
from secure_fu.protocol.server import FRAME_BYTES, Announced, Closed, RoundServer, Run

__all__ = ["KeyHolderServer"]


class KeyHolderServer(RoundServer):
    """Asks the policy's key-holder for each round's public key, and for the opening of its sum.

    Args:
        identity, run: as :class:`~secure_fu.protocol.server.RoundServer`.
        scheme: with a key-holder.
    """

    def __init__(self, identity: Identity, run: Run, *, scheme: KeyHolderScheme) -> None:
        super().__init__(identity, run)
        self._scheme = scheme

    def _encrypted_header(self, draft: Header) -> Header:
        header = replace(draft, parameter_set=self._scheme.parameter_set, digit_bits=0)
        check_capacity(self._scheme, header)
        return header

    def _largest_upload(self, header: Header) -> int:
        # Up to 16 bytes a coordinate and whole blocks, in both schemes; their own checks are exact.
        return 16 * (grid_of(header).encoded_dimension + 8192) + SEAL_OVERHEAD_BYTES + FRAME_BYTES

    def _ciphertext_of(self, upload: Upload) -> bytes:
        if upload.shares:
            raise CiphertextError(f"the upload has {len(upload.shares)} shares; a round with a key-holder has none")
        return self._identity.unseal(
            upload.body, associated_data=upload_associated_data(upload.header_digest, upload.client)
        )

    def _keep_shares(self, upload: Upload) -> None:
        pass  # there are none

    def _forget(self) -> None:
        pass  # the state was all there is

    def invite(self, round_key: bytes) -> bytes:
        """Take the key-holder's public key and make the invitation, one for all clients.

        Args:
            round_key: an encoded :class:`~secure_fu.protocol.messages.RoundKey`.

        Returns:
            an encoded :class:`~secure_fu.protocol.messages.Invitation`.

        Raises:
            SignatureError: not from the pinned key-holder.
            SecretKeyExposedError: the context holds a secret, relinearisation or Galois key.
        """
        current = self._expect(Announced)
        message = decode(RoundKey, round_key)
        if message.header_digest != current.header_digest:
            raise ProtocolError("the round key belongs to another header")
        (key_holder,) = current.header.committee
        self._roster.verify(key_holder, Role.KEY_HOLDER, Domain.ROUND_KEY, message.statement, message.signature)
        public_key = self._scheme.load_public_key(message.public_key)
        length = grid_of(current.header).encoded_dimension
        return self._invite(self._scheme.accumulator(public_key, length), (message,))

    def close(self) -> bytes:
        """End the collection and ask for the opening.

        Returns:
            an encoded :class:`~secure_fu.protocol.key_holder.messages.OpeningRequest`.

        Raises:
            CohortTooSmall: fewer uploads than the minimum cohort; the reservation is void, the server idle again.
        """
        current, total = self._close()
        return encode(OpeningRequest(roll=current.roll, total=total))

    def release(self, opening: bytes) -> ReleasedSum:
        """Check the opening, commit the ledger entry, publish the sum.

        Args:
            opening: an encoded :class:`~secure_fu.protocol.key_holder.messages.Opening`.

        Returns:
            the released sum, scaled back to the contribution's units.

        Raises:
            SignatureError: not from the pinned key-holder.
            ProtocolError: for another roll, or of the wrong length.
        """
        current = self._expect(Closed)
        message = decode(Opening, opening)
        (key_holder,) = current.header.committee
        self._roster.verify(key_holder, Role.KEY_HOLDER, Domain.OPENING, message.statement, message.signature)
        if (message.header_digest, message.roll_digest) != (current.header_digest, current.roll_digest):
            raise ProtocolError("the opening belongs to another roll")
        length = grid_of(current.header).encoded_dimension
        if len(message.values) != 8 * length:
            raise ProtocolError(f"the opening has {len(message.values)} bytes; expected {8 * length}")
        integers = np.frombuffer(message.values, dtype="<i8").astype(np.int64)
        return self._release(current, integers, (Approval(name=key_holder, signature=message.signature),))
