"""A client's side of scheme `kahe`: a key of its own, used once, of which every member gets one sealed share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from secure_fu.crypto import Roster, SecureStream, seal
from secure_fu.crypto.kahe import ClientKey
from secure_fu.crypto.sharing import encode_share, share_key
from secure_fu.crypto.wire import encode
from secure_fu.errors import ProtocolError
from secure_fu.protocol.committee.layout import layout_of
from secure_fu.protocol.committee.messages import ShareBinding
from secure_fu.protocol.encryption import EncryptedVector
from secure_fu.protocol.header import Header, committee_of
from secure_fu.protocol.messages import Invitation, digest

__all__ = ["CommitteeEncryption"]


class CommitteeEncryption:
    """Encrypts under a fresh secret key and shares that key among the committee.

    Formal guarantees:
        Key, error and shares come from fresh streams of the operating system and exist in this call only. Each share is
        sealed to one member and bound to header, client and member. Up to `corrupt` members learn nothing of the key.

    Args:
        roster: pinned identities.
    """

    def __init__(self, *, roster: Roster) -> None:
        self._roster = roster

    def check(self, invitation: Invitation, header: Header) -> None:
        """See :class:`~secure_fu.protocol.encryption.UploadEncryption`."""
        layout_of(header)
        if invitation.round_key:
            raise ProtocolError("the invitation has a round key; a round with a committee has none")

    def begin(
        self, invitation: Invitation, header: Header, client: str, values: NDArray[np.int64]
    ) -> Callable[[], EncryptedVector]:
        """See :class:`~secure_fu.protocol.encryption.UploadEncryption`."""
        header_digest = invitation.announcement.header_digest
        key = ClientKey.generate(layout_of(header))
        shares = share_key(key.coefficients, committee_of(header), stream=SecureStream())
        boxes = tuple(
            seal(
                self._roster.party(member).sealing_key,
                encode_share(share),
                associated_data=encode(ShareBinding(header_digest=header_digest, client=client, member=member)),
            )
            for member, share in zip(header.committee, shares, strict=True)
        )
        ciphertext = key.encrypt(values, seed=header_digest)
        vector = EncryptedVector(ciphertext_digest=digest(ciphertext), body=ciphertext, shares=boxes)
        return lambda: vector
