"""A committee member's state machine: vote for one roll, then answer on a quorum of votes."""

from __future__ import annotations

from secure_fu.crypto import Identity, Role, Roster
from secure_fu.crypto.sharing import CommitteeTerms, ShareSum, decode_share, encode_share
from secure_fu.crypto.wire import decode, encode
from secure_fu.errors import ArgumentError, CryptoError, PolicyRefusal, ProtocolError, ShareMisfit
from secure_fu.protocol.committee.layout import layout_of
from secure_fu.protocol.committee.member_record import MemberRecord, RecordedVote
from secure_fu.protocol.committee.messages import (
    Answer,
    AnswerStatement,
    Ballot,
    Delivery,
    Quorum,
    ShareBinding,
    Vote,
    VoteStatement,
)
from secure_fu.protocol.committee.votes import check_quorum
from secure_fu.protocol.header import Header, committee_of
from secure_fu.protocol.messages import Announcement, Approval, Domain, digest, shares_digest
from secure_fu.protocol.policy import Policy
from secure_fu.protocol.roll_check import check_roll

__all__ = ["Member"]


class Member:
    """One of those who together open a round's sum. It holds one share of each client's key, and sees no ciphertext.

    Formal guarantees:
        For each (run, round) it votes for at most one roll, and it answers only with the sum of its shares over that
        roll, on a quorum of votes for it: for each round at most one roll is ever answered by honest members. Every
        client in the roll has signed its upload, this member's sealed share included, under this very header; no client
        is listed twice, all are in the cohort, and they are at least the minimum cohort. The policy, pinned and not
        taken from the server, admits the header. Vote and answer are on disk before the vote leaves, so that a kill at
        any moment loses none and changes none.
    Assumes:
        At most `corrupt` members deviate; the record is never restored from a backup (new keys instead).
    Edge cases:
        A share that does not fit is named by its position and not voted for: with enough other members the round goes
        on without this one. A retry gets the same bytes until the run's next round begins.

    Args:
        identity: secret; its role is MEMBER.
        roster: pinned identities.
        policy: pinned demands.
        record: durable record of votes and answers.

    Raises:
        ArgumentError: the identity has another role or is not in the policy's committee, or the roster is not the
            pinned one.
    """

    def __init__(self, identity: Identity, *, roster: Roster, policy: Policy, record: MemberRecord) -> None:
        if identity.role is not Role.MEMBER:
            raise ArgumentError("identity", identity.role.value, "an identity in the role of a member")
        if identity.name not in policy.committee:
            raise ArgumentError("identity", identity.name, f"one of the policy's committee {list(policy.committee)}")
        policy.check_roster(roster)
        self._identity = identity
        self._roster = roster
        self._policy = policy
        self._record = record
        self._position = policy.committee.index(identity.name)

    @property
    def name(self) -> str:
        """As in the roster."""
        return self._identity.name

    def vote(self, ballot: bytes) -> bytes:
        """Vote for a roll, once for each (run, round).

        Args:
            ballot: an encoded :class:`~secure_fu.protocol.committee.messages.Ballot`.

        Returns:
            an encoded :class:`~secure_fu.protocol.committee.messages.Vote`; for a repeated roll, the same bytes again.

        Raises:
            WireError, SignatureError, RosterError: malformed, or not signed by server and clients.
            PolicyRefusal: the policy forbids the round or the roll.
            ProtocolError: this member voted for another roll of the round, or in a later round of the run.
            ShareMisfit: a client's share to this member does not open or is malformed; names the position.
        """
        message = decode(Ballot, ballot)
        header_digest = message.announcement.header_digest
        header = self._checked_header(message.announcement)
        check_roll(message.roll, header, header_digest, roster=self._roster, server=self._policy.server)
        roll_digest = digest(message.roll.statement)
        bound = self._record.newest(self.name, header.run_id)
        if bound is not None and bound.round_number >= header.round_number:
            if (bound.header_digest, bound.roll_digest) == (header_digest, roll_digest):
                return bound.vote
            raise ProtocolError(
                f"member {self.name!r} is bound to another roll, in round {bound.round_number} of this run; "
                f"this one is of round {header.round_number}"
            )
        share = self._summed_share(message, header, header_digest)
        vote = RecordedVote(
            header=message.announcement.header,
            round_number=header.round_number,
            header_digest=header_digest,
            roll_digest=roll_digest,
            vote=self._signed_vote(header, header_digest, roll_digest),
            answer=self._signed_answer(header_digest, roll_digest, share),
        )
        self._record.bind(self.name, header.run_id, vote)
        return vote.vote

    def answer(self, quorum: bytes) -> bytes:
        """Hand over the sum of this member's shares over the roll that it voted for.

        Args:
            quorum: an encoded :class:`~secure_fu.protocol.committee.messages.Quorum`.

        Returns:
            an encoded :class:`~secure_fu.protocol.committee.messages.Answer`; the same bytes at every retry.

        Raises:
            WireError, SignatureError, RosterError: malformed, or a vote is not its member's.
            PolicyRefusal: fewer votes than a quorum.
            ProtocolError: this member did not vote for that roll, or the run has gone on.
        """
        message = decode(Quorum, quorum)
        bound = self._record.by_header(self.name, message.header_digest)
        if bound is None or bound.roll_digest != message.roll_digest:
            raise ProtocolError(f"member {self.name!r} is not bound to this roll")
        check_quorum(
            message.votes,
            decode(Header, bound.header),
            header_digest=message.header_digest,
            roll_digest=message.roll_digest,
            roster=self._roster,
            own=decode(Vote, bound.vote).approval,
        )
        return bound.answer

    def _checked_header(self, announcement: Announcement) -> Header:
        self._roster.verify(
            self._policy.server, Role.SERVER, Domain.HEADER, announcement.header, announcement.signature
        )
        header = decode(Header, announcement.header)
        self._policy.check(header)
        self._policy.check_cohort(header, self._roster)
        return header

    def _summed_share(self, ballot: Ballot, header: Header, header_digest: bytes) -> bytes:
        if len(ballot.deliveries) != len(ballot.roll.entries):
            raise ProtocolError(f"{len(ballot.deliveries)} shares for {len(ballot.roll.entries)} clients in the roll")
        terms = committee_of(header)
        degree = layout_of(header).parameter_set.degree
        total = ShareSum(terms, degree=degree)
        for entry, delivery in zip(ballot.roll.entries, ballot.deliveries, strict=True):
            self._check_delivery(delivery, entry.client, entry.shares_digest, terms)
            binding = ShareBinding(header_digest=header_digest, client=entry.client, member=self.name)
            try:
                share = self._identity.unseal(delivery.box, associated_data=encode(binding))
                total.add(decode_share(share, terms=terms, degree=degree))
            except CryptoError as error:
                raise ShareMisfit(
                    f"the share of client {entry.client!r} to member {self.name!r} does not fit "
                    f"({type(error).__name__})"
                ) from None
        return encode_share(total.total())

    def _check_delivery(self, delivery: Delivery, client: str, signed: bytes, terms: CommitteeTerms) -> None:
        """Only what the client signed is opened: a server that swaps shares is not mistaken for a misfit."""
        digests = delivery.share_digests
        if len(digests) != terms.members or shares_digest(digests) != signed:
            raise PolicyRefusal(f"the shares delivered for client {client!r} are not those that it signed")
        if digest(delivery.box) != digests[self._position]:
            raise PolicyRefusal(f"the share delivered for client {client!r} is not the one to member {self.name!r}")

    def _signed_vote(self, header: Header, header_digest: bytes, roll_digest: bytes) -> bytes:
        statement = encode(VoteStatement.of(header, header_digest, roll_digest))
        approval = Approval(name=self.name, signature=self._identity.sign(Domain.VOTE, statement))
        return encode(Vote(header_digest=header_digest, roll_digest=roll_digest, approval=approval))

    def _signed_answer(self, header_digest: bytes, roll_digest: bytes, share: bytes) -> bytes:
        statement = AnswerStatement(header_digest=header_digest, roll_digest=roll_digest, share_digest=digest(share))
        return encode(
            Answer(
                header_digest=header_digest,
                roll_digest=roll_digest,
                member=self.name,
                share=share,
                signature=self._identity.sign(Domain.ANSWER, encode(statement)),
            )
        )
