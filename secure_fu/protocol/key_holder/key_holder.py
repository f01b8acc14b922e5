"""The key-holder's state machine: a fresh key for each round, one opening for each round."""

from __future__ import annotations

from dataclasses import dataclass

from secure_fu.crypto import Identity, KeyHolderScheme, OpeningKey, Role, Roster
from secure_fu.crypto.wire import decode, encode
from secure_fu.errors import ArgumentError, PolicyRefusal, ProtocolError
from secure_fu.protocol.header import Header, grid_of, largest_sum_of
from secure_fu.protocol.key_holder.encryption import check_capacity
from secure_fu.protocol.key_holder.messages import Opening, OpeningRequest, OpeningStatement
from secure_fu.protocol.key_holder.opening_record import OpeningRecord
from secure_fu.protocol.messages import Announcement, Domain, RoundKey, RoundKeyStatement, digest
from secure_fu.protocol.policy import Policy
from secure_fu.protocol.roll_check import check_roll

__all__ = ["KeyHolder"]


@dataclass(frozen=True)
class _PendingRound:
    header: Header
    header_digest: bytes
    key: OpeningKey


class KeyHolder:
    """A committee of one, and not the server. It opens one sum a round and sees no upload.

    Formal guarantees:
        For each (run, round) at most one roll is opened; until the run's next round begins, a retry gets the same
        bytes. A roll is opened only when every entry carries a cohort member's signature over this header, no client is
        listed twice, and at least the header's minimum cohort is listed, which is at least the policy's. Every opened
        coordinate lies in the range that an honest sum under this header can have.
    Not guaranteed:
        That the ciphertext opened is the sum over the roll: scheme `bfv` gives a key-holder no way to check it. An
        honest but curious server, and clients that send honest ciphertexts, are assumed.
    Edge cases:
        The secret key of a round lives in memory only, until it is used or the run's next round begins. After a restart
        a round without a recorded opening cannot be opened any more; its charge stays in the ledger.

    Args:
        identity: secret; its role is KEY_HOLDER.
        roster: pinned identities.
        policy: pinned demands.
        scheme: additive encryption scheme.
        record: durable record of what was opened.
    """

    def __init__(
        self, identity: Identity, *, roster: Roster, policy: Policy, scheme: KeyHolderScheme, record: OpeningRecord
    ) -> None:
        if identity.role is not Role.KEY_HOLDER:
            raise ArgumentError("identity", identity.role.value, "an identity in the role of a key-holder")
        policy.check_roster(roster)
        self._identity = identity
        self._roster = roster
        self._policy = policy
        self._scheme = scheme
        self._record = record
        self._pending: dict[bytes, _PendingRound] = {}

    def issue_key(self, announcement: bytes) -> bytes:
        """Make the key of one round and publish its public part.

        Args:
            announcement: an encoded :class:`~secure_fu.protocol.messages.Announcement`.

        Returns:
            an encoded :class:`~secure_fu.protocol.messages.RoundKey`.

        Raises:
            WireError, SignatureError: malformed, or not from the pinned server.
            PolicyRefusal: the policy forbids the round.
            ProtocolError: the round is not newer than the last one of this run.
        """
        message = decode(Announcement, announcement)
        self._roster.verify(self._policy.server, Role.SERVER, Domain.HEADER, message.header, message.signature)
        header = decode(Header, message.header)
        self._policy.check(header)
        if header.parameter_set != self._scheme.parameter_set or header.digit_bits:
            raise PolicyRefusal(
                f"header fields parameter_set and digit_bits are {header.parameter_set!r} and {header.digit_bits}; "
                f"this key-holder runs {self._scheme.parameter_set!r} and 0"
            )
        check_capacity(self._scheme, header)
        self._record.begin(header.run_id, header.round_number, message.header_digest)
        key = self._scheme.generate_key()
        self._pending[header.run_id] = _PendingRound(header, message.header_digest, key)
        statement = RoundKeyStatement(header_digest=message.header_digest, public_key_digest=digest(key.public_bytes))
        return encode(
            RoundKey(
                header_digest=message.header_digest,
                public_key=key.public_bytes,
                signature=self._identity.sign(Domain.ROUND_KEY, encode(statement)),
            )
        )

    def open(self, request: bytes) -> bytes:
        """Open the sum of one round, once.

        Args:
            request: an encoded :class:`~secure_fu.protocol.key_holder.messages.OpeningRequest`.

        Returns:
            an encoded :class:`~secure_fu.protocol.key_holder.messages.Opening`; for a repeated roll, the same bytes.

        Raises:
            WireError, SignatureError, RosterError: malformed, or not signed by server and clients.
            PolicyRefusal: too few clients, a repeated one, or one outside the cohort.
            ProtocolError: no such round is pending, or another roll of it was opened.
            OpeningError: the sum lies outside its range; the key is destroyed and nothing is released.
        """
        message = decode(OpeningRequest, request)
        roll = message.roll
        self._roster.verify(self._policy.server, Role.SERVER, Domain.ROLL, roll.statement, roll.signature)
        if digest(message.total) != roll.total_digest:
            raise ProtocolError("the summed ciphertext is not the one that the server signed with the roll")
        roll_digest = digest(roll.statement)
        recorded = self._record.opening(roll.header_digest, roll_digest)
        if recorded is not None:
            return recorded
        pending = self._pending_round(roll.header_digest)
        check_roll(roll, pending.header, pending.header_digest, roster=self._roster, server=self._policy.server)
        self._record.choose(pending.header.run_id, pending.header.round_number, roll_digest)
        del self._pending[pending.header.run_id]
        values = self._scheme.open(
            pending.key,
            message.total,
            length=grid_of(pending.header).encoded_dimension,
            bound=largest_sum_of(pending.header, len(roll.entries)),
        )
        body = values.astype("<i8").tobytes()
        statement = OpeningStatement(
            header_digest=roll.header_digest, roll_digest=roll_digest, values_digest=digest(body)
        )
        opening = encode(
            Opening(
                header_digest=roll.header_digest,
                roll_digest=roll_digest,
                values=body,
                signature=self._identity.sign(Domain.OPENING, encode(statement)),
            )
        )
        self._record.finish(pending.header.run_id, pending.header.round_number, opening)
        return opening

    def _pending_round(self, header_digest: bytes) -> _PendingRound:
        for pending in self._pending.values():
            if pending.header_digest == header_digest:
                return pending
        raise ProtocolError("no round with this header is waiting to be opened")
