"""The server of a federation with a committee: scheme `kahe`. It opens the sum itself, with the sum of the keys."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from secure_fu.crypto import SEAL_OVERHEAD_BYTES, Identity, Role
from secure_fu.crypto.kahe import CiphertextSum, choose_layout, open_sum
from secure_fu.crypto.sharing import decode_share, recover_key
from secure_fu.crypto.wire import decode, encode
from secure_fu.errors import CiphertextError, ProtocolError, RoundAborted
from secure_fu.protocol.committee.layout import layout_of
from secure_fu.protocol.committee.messages import Answer, Ballot, Quorum, Vote, VoteStatement
from secure_fu.protocol.committee.sealed_shares import SealedShares
from secure_fu.protocol.header import GridKind, Header, committee_of, grid_of, largest_sum_of
from secure_fu.protocol.messages import Approval, Domain, Upload
from secure_fu.protocol.release import ReleasedSum
from secure_fu.protocol.server import FRAME_BYTES, Announced, Closed, Collecting, RoundServer, Run

__all__ = ["CommitteeServer"]

_LOGGER = logging.getLogger("secure_fu")


class CommitteeServer(RoundServer):
    """Collects votes and answers from the policy's committee, and opens the sum with the key that they add up to.

    Beyond :class:`RoundServer` it keeps, until the round ends, the sealed shares of the uploads in the sum, many of
    them in a temporary file.

    Formal guarantees:
        A sum is released only if every error coefficient and all padding are within their bounds: the key is that of
        exactly the ciphertexts that were added.

    Args:
        identity, run: as :class:`~secure_fu.protocol.server.RoundServer`.
    """

    def __init__(self, identity: Identity, run: Run) -> None:
        super().__init__(identity, run)
        self._shares = SealedShares()
        self._total = b""
        self._votes: dict[str, Approval] = {}
        self._answers: dict[int, NDArray[np.uint16]] = {}

    def _encrypted_header(self, draft: Header) -> Header:
        terms, grid = self._run.policy.terms, grid_of(draft)
        # The rotated grid is made for a width; on the fine one the width follows from the sum.
        widest = (1 << (draft.digit_bits - 1)) - 1
        layout = choose_layout(
            length=grid.encoded_dimension,
            clients=len(draft.cohort),
            magnitude=largest_sum_of(draft, len(draft.cohort)) if draft.grid == GridKind.FINE else widest,
            share_bytes=lambda degree: terms.members * (terms.share_bytes(degree) + SEAL_OVERHEAD_BYTES),
            allowed=self._run.policy.parameter_sets,
        )
        return replace(draft, parameter_set=layout.parameter_set.name, digit_bits=layout.digit_bits)

    def _box_bytes(self, header: Header) -> int:
        return SEAL_OVERHEAD_BYTES + self._run.policy.terms.share_bytes(layout_of(header).parameter_set.degree)

    def _largest_upload(self, header: Header) -> int:
        boxes = self._run.policy.terms.members * (self._box_bytes(header) + 4)
        return layout_of(header).ciphertext_bytes + boxes + FRAME_BYTES

    def _ciphertext_of(self, upload: Upload) -> bytes:
        terms = self._run.policy.terms
        if len(upload.shares) != terms.members:
            raise CiphertextError(f"the upload has {len(upload.shares)} shares, not {terms.members}")
        size = self._box_bytes(self._expect(Collecting).header)
        if any(len(share) != size for share in upload.shares):
            raise CiphertextError(f"the upload has sealed shares of another size than {size} bytes")
        return upload.body

    def _keep_shares(self, upload: Upload) -> None:
        self._shares.add(upload.client, upload.shares, upload.share_digests)

    def _forget(self) -> None:
        self._shares.clear()
        self._votes, self._answers, self._total = {}, {}, b""

    def invite(self) -> bytes:
        """Make the invitation, one for all clients.

        Returns:
            an encoded :class:`~secure_fu.protocol.messages.Invitation`.
        """
        current = self._expect(Announced)
        return self._invite(CiphertextSum(layout_of(current.header)), ())

    def close(self) -> int:
        """End the collection; for each member there is now a :meth:`ballot`.

        Returns:
            the round's number.

        Raises:
            CohortTooSmall: fewer uploads than the minimum cohort; the reservation is void, the server idle again.
        """
        current, self._total = self._close()
        return current.header.round_number

    def ballot(self, member: str) -> bytes:
        """What to ask a member.

        Returns:
            an encoded :class:`~secure_fu.protocol.committee.messages.Ballot`.

        Raises:
            ProtocolError: the name is not a member's.
        """
        current = self._expect(Closed)
        position = self._position(member, current)
        return encode(
            Ballot(
                announcement=current.announcement,
                roll=current.roll,
                deliveries=tuple(self._shares.delivery(name, position) for name in current.roll.participants),
            )
        )

    def receive_vote(self, vote: bytes) -> None:
        """Count a member's vote.

        Args:
            vote: an encoded :class:`~secure_fu.protocol.committee.messages.Vote`.

        Raises:
            WireError, SignatureError, RosterError: malformed or forged.
            ProtocolError: for another roll, or from outside the committee.
        """
        current = self._expect(Closed)
        message = decode(Vote, vote)
        self._belongs(message.header_digest, message.roll_digest, current)
        self._position(message.approval.name, current)
        statement = encode(VoteStatement.of(current.header, current.header_digest, current.roll_digest))
        self._roster.verify(message.approval.name, Role.MEMBER, Domain.VOTE, statement, message.approval.signature)
        self._votes[message.approval.name] = message.approval

    def quorum(self) -> bytes:
        """As many votes as a quorum is, once there are enough.

        Returns:
            an encoded :class:`~secure_fu.protocol.committee.messages.Quorum`, for every member that voted.

        Raises:
            RoundAborted: too few members voted; the round stays charged.
        """
        current = self._expect(Closed)
        if len(self._votes) < current.header.quorum:
            raise RoundAborted(
                f"round {current.header.round_number}: {len(self._votes)} members voted; "
                f"a quorum is {current.header.quorum}"
            )
        return encode(
            Quorum(
                header_digest=current.header_digest,
                roll_digest=current.roll_digest,
                votes=tuple(self._votes[name] for name in sorted(self._votes)[: current.header.quorum]),
            )
        )

    def receive_answer(self, answer: bytes) -> None:
        """Take a member's sum of shares. A second one of the same member changes nothing.

        Args:
            answer: an encoded :class:`~secure_fu.protocol.committee.messages.Answer`.

        Raises:
            WireError, SignatureError, RosterError, CiphertextError: malformed or forged.
            ProtocolError: for another roll, or from outside the committee.
        """
        current = self._expect(Closed)
        message = decode(Answer, answer)
        self._belongs(message.header_digest, message.roll_digest, current)
        position = self._position(message.member, current)
        self._roster.verify(message.member, Role.MEMBER, Domain.ANSWER, message.statement, message.signature)
        degree = layout_of(current.header).parameter_set.degree
        share = decode_share(message.share, terms=committee_of(current.header), degree=degree)
        self._answers.setdefault(position, share)

    def release(self) -> ReleasedSum:
        """Recover the summed key, open, commit the ledger entry, publish the sum.

        Returns:
            the released sum, scaled back to the contribution's units.

        Raises:
            RoundAborted: fewer answers than the threshold; more may still be received.
            OpeningError: the answers do not make a key that opens the sum; nothing is released.
        """
        current = self._expect(Closed)
        header, terms = current.header, committee_of(current.header)
        if len(self._answers) < terms.threshold:
            raise RoundAborted(
                f"round {header.round_number}: {len(self._answers)} members answered; {terms.threshold} are needed"
            )
        layout, uploads = layout_of(header), len(current.roll.entries)
        recovered = recover_key(
            self._answers,
            terms,
            length=layout.parameter_set.degree,
            bound=layout.key_bound(uploads),
            accept=lambda key: open_sum(layout, self._total, key, seed=current.header_digest, uploads=uploads),
        )
        for position in recovered.misfits:
            _LOGGER.warning(
                "round %d: the answer of member %s does not fit; it, or a client's share to it, is wrong",
                header.round_number,
                header.committee[position],
            )
        return self._release(current, recovered.value, tuple(self._votes.values()))

    @staticmethod
    def _belongs(header_digest: bytes, roll_digest: bytes, current: Closed) -> None:
        if (header_digest, roll_digest) != (current.header_digest, current.roll_digest):
            raise ProtocolError("the message is for another roll")

    @staticmethod
    def _position(member: str, current: Closed) -> int:
        if member not in current.header.committee:
            raise ProtocolError(f"{member!r} is not in the committee of this round")
        return current.header.committee.index(member)
