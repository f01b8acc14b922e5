"""Parties of an audited run: real machines, and beside them what some of the parties know, kept for the auditor."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secure_fu.crypto import Identity
from secure_fu.federation.parties import Parties
from secure_fu.protocol import Header, UploadEncryption
from secure_fu.protocol.encryption import EncryptedVector
from secure_fu.protocol.messages import Invitation

__all__ = ["CapturedUpload", "TappedParties", "UploadTap"]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CapturedUpload:
    """One upload as the server got it.

    Attributes:
        client: who sent it.
        header: of its round.
        header_digest: 32 bytes.
        body: the ciphertext.
        shares: sealed shares of its key, one a member, in the header's order; none without a committee.
        values: what it encrypts, noise included: for the auditor alone, to compare with what others make of it.
    """

    client: str
    header: Header
    header_digest: bytes
    body: bytes
    shares: tuple[bytes, ...]
    values: NDArray[np.int64]


class UploadTap:
    """Passes everything on to the real encryption and keeps what an audit needs. Holds secrets of audited runs only.

    Args:
        inner: the real one.
        watched: clients whose integers are kept, noise included: what a client that pools its knowledge would tell.
        purpose: of the rounds that are looked at.
        capture: clients whose uploads of the first such round are kept as they are.
    """

    def __init__(
        self, inner: UploadEncryption, *, watched: Collection[str], purpose: str, capture: Collection[str]
    ) -> None:
        self._inner = inner
        self._watched = frozenset(watched)
        self._purpose = purpose
        self._capture = frozenset(capture)
        self.headers: dict[int, tuple[Header, bytes]] = {}
        self.values: dict[tuple[int, str], NDArray[np.int64]] = {}
        self.sizes: dict[int, set[int]] = {}
        self.captured: list[CapturedUpload] = []

    def check(self, invitation: Invitation, header: Header) -> None:
        """See :class:`~secure_fu.protocol.UploadEncryption`."""
        self._inner.check(invitation, header)

    def begin(
        self, invitation: Invitation, header: Header, client: str, values: NDArray[np.int64]
    ) -> Callable[[], EncryptedVector]:
        """See :class:`~secure_fu.protocol.UploadEncryption`."""
        finish = self._inner.begin(invitation, header, client, values)
        if header.purpose != self._purpose:
            return finish
        number = header.round_number
        self.headers[number] = (header, invitation.announcement.header_digest)
        if client in self._watched:
            self.values[number, client] = values.copy()
        captured = client in self._capture and number == min(self.headers)
        own = values.copy() if captured else values

        def finished() -> EncryptedVector:
            vector = finish()
            self.sizes.setdefault(number, set()).add(len(vector.body) + sum(map(len, vector.shares)))
            if captured:
                self.captured.append(
                    CapturedUpload(
                        client=client,
                        header=header,
                        header_digest=invitation.announcement.header_digest,
                        body=vector.body,
                        shares=vector.shares,
                        values=own,
                    )
                )
            return vector

        return finished


class TappedParties(Parties):
    """All parties of a run that is audited; :meth:`tap` comes before the branch that is looked at."""

    _tap: UploadTap | None = None

    def tap(self, *, watched: Collection[str], purpose: str, capture: Collection[str] = ()) -> UploadTap:
        """Look at the uploads of the branches that are begun from here on; see :class:`UploadTap`."""
        self._tap = UploadTap(super()._encryption(), watched=watched, purpose=purpose, capture=capture)
        return self._tap

    def _encryption(self) -> UploadEncryption:
        return super()._encryption() if self._tap is None else self._tap

    def members(self, count: int) -> dict[str, Identity]:
        """The first members of the committee with their keys: what they would bring if they pooled what they have."""
        return {name: self._identities[name] for name in self.policy.committee[:count]}
