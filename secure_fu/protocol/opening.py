"""How a round is opened inside one process: by a key-holder, or by a committee some of whose members may be away."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from secure_fu.errors import CryptoError, ProtocolError
from secure_fu.protocol.committee.member import Member
from secure_fu.protocol.committee.member_record import MemberRecord
from secure_fu.protocol.committee.server import CommitteeServer
from secure_fu.protocol.key_holder.key_holder import KeyHolder
from secure_fu.protocol.key_holder.server import KeyHolderServer
from secure_fu.protocol.release import ReleasedSum
from secure_fu.protocol.server import RoundServer

__all__ = ["CommitteeOpening", "KeyHolderOpening", "Opening"]

_LOGGER = logging.getLogger("secure_fu")


class Opening(Protocol):
    """A server with those who open its sums."""

    @property
    def server(self) -> RoundServer:
        """The server."""
        ...

    def invite(self, announcement: bytes) -> bytes:
        """From an announcement to the invitation."""
        ...

    def open(self) -> ReleasedSum:
        """From the last upload to the release.

        Raises:
            CohortTooSmall, RoundAborted, OpeningError: nothing is released.
        """
        ...


class KeyHolderOpening:
    """One key-holder opens.

    Args:
        server: of the round.
        key_holder: the policy's.
    """

    def __init__(self, server: KeyHolderServer, key_holder: KeyHolder) -> None:
        self.server: Final = server
        self._key_holder = key_holder

    def invite(self, announcement: bytes) -> bytes:
        """See :class:`Opening`."""
        return self.server.invite(self._key_holder.issue_key(announcement))

    def open(self) -> ReleasedSum:
        """See :class:`Opening`."""
        return self.server.release(self._key_holder.open(self.server.close()))


class CommitteeOpening:
    """A committee opens; all members keep their records in one file, which is synced once a round.

    Args:
        server: of the round.
        members: those of the policy's committee that are there at all.
        record: of all members.
        vanishes: whether a member is away, by (round number, name), asked before it votes and again before it answers.
    """

    def __init__(
        self,
        server: CommitteeServer,
        members: Sequence[Member],
        record: MemberRecord,
        *,
        vanishes: Callable[[int, str], bool] = lambda _round, _member: False,
    ) -> None:
        self.server: Final = server
        self._members = tuple(members)
        self._record = record
        self._vanishes = vanishes

    def invite(self, announcement: bytes) -> bytes:
        """See :class:`Opening`."""
        return self.server.invite()

    def open(self) -> ReleasedSum:
        """See :class:`Opening`."""
        number = self.server.close()
        votes: dict[str, bytes] = {}
        with self._record.together():
            for member in self._members:
                if self._vanishes(number, member.name):
                    continue
                try:
                    votes[member.name] = member.vote(self.server.ballot(member.name))
                except (ProtocolError, CryptoError) as refusal:
                    _LOGGER.warning("the round goes on without member %s: %s", member.name, refusal)
        for vote in votes.values():
            self._receive(self.server.receive_vote, vote)
        quorum = self.server.quorum()
        for member in self._members:
            if member.name not in votes or self._vanishes(number, member.name):
                continue
            try:
                answer = member.answer(quorum)
            except (ProtocolError, CryptoError) as refusal:
                _LOGGER.warning("the round goes on without member %s: %s", member.name, refusal)
                continue
            self._receive(self.server.receive_answer, answer)
        return self.server.release()

    @staticmethod
    def _receive(take: Callable[[bytes], None], message: bytes) -> None:
        """A message that the server refuses costs the round one member and no more."""
        try:
            take(message)
        except (ProtocolError, CryptoError) as refusal:
            _LOGGER.warning("the round goes on without a member's message: %s", refusal)
