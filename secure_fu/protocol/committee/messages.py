"""What server and committee say to each other: vote on one roll, then answer on a quorum of votes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from secure_fu.crypto.wire import U64, Blob, Fixed, Nested, Sequence, encode, message
from secure_fu.protocol.header import MAX_COHORT, MAX_COMMITTEE, Header
from secure_fu.protocol.messages import MAX_SHARE_BYTES, Announcement, Approval, Digest, Name, Roll, Signature, digest

__all__ = ["Answer", "AnswerStatement", "Ballot", "Delivery", "Quorum", "ShareBinding", "Vote", "VoteStatement"]


@message("share-binding")
@dataclass(frozen=True, kw_only=True)
class ShareBinding:
    """The associated data of a sealed share: it opens for this round, from this client, to this member only."""

    header_digest: Digest
    client: Name
    member: Name


@message("delivery")
@dataclass(frozen=True, kw_only=True)
class Delivery:
    """One client's sealed share for one member, with what ties it to the client's signature.

    Attributes:
        share_digests: of all sealed shares of the upload, in the order of the committee.
        box: the share sealed to this member.
    """

    share_digests: Annotated[tuple[bytes, ...], Sequence(Fixed(32), MAX_COMMITTEE)]
    box: Annotated[bytes, Blob(MAX_SHARE_BYTES)]


@message("ballot")
@dataclass(frozen=True, kw_only=True)
class Ballot:
    """Server to one member: the header, the roll, and this member's shares in the roll's order."""

    announcement: Annotated[Announcement, Nested(Announcement)]
    roll: Annotated[Roll, Nested(Roll)]
    deliveries: Annotated[tuple[Delivery, ...], Sequence(Nested(Delivery), MAX_COHORT)]


@message("vote-statement")
@dataclass(frozen=True, kw_only=True)
class VoteStatement:
    """What a member signs, once for each (run, round): this roll, and no other."""

    run_id: Annotated[bytes, Fixed(16)]
    round_number: Annotated[int, U64]
    header_digest: Digest
    roll_digest: Digest

    @classmethod
    def of(cls, header: Header, header_digest: bytes, roll_digest: bytes) -> VoteStatement:
        """The statement for one roll of a header's round."""
        return cls(
            run_id=header.run_id,
            round_number=header.round_number,
            header_digest=header_digest,
            roll_digest=roll_digest,
        )


@message("vote")
@dataclass(frozen=True, kw_only=True)
class Vote:
    """Member to server: its approval of one roll."""

    header_digest: Digest
    roll_digest: Digest
    approval: Annotated[Approval, Nested(Approval)]


@message("quorum")
@dataclass(frozen=True, kw_only=True)
class Quorum:
    """Server to members: enough votes for one roll. Whoever voted for it answers."""

    header_digest: Digest
    roll_digest: Digest
    votes: Annotated[tuple[Approval, ...], Sequence(Nested(Approval), MAX_COMMITTEE)]


@message("answer-statement")
@dataclass(frozen=True, kw_only=True)
class AnswerStatement:
    """What a member signs: the sum of its shares over this roll."""

    header_digest: Digest
    roll_digest: Digest
    share_digest: Digest


@message("answer")
@dataclass(frozen=True, kw_only=True)
class Answer:
    """Member to server: the sum of the shares that it holds of the clients in the roll."""

    header_digest: Digest
    roll_digest: Digest
    member: Name
    share: Annotated[bytes, Blob(MAX_SHARE_BYTES)]
    signature: Signature

    @property
    def statement(self) -> bytes:
        """What the signature covers."""
        return encode(
            AnswerStatement(
                header_digest=self.header_digest, roll_digest=self.roll_digest, share_digest=digest(self.share)
            )
        )
