"""Counting a committee's votes: whoever counts them, member, server or auditor, counts the same way."""

from __future__ import annotations

from collections.abc import Sequence

from secure_fu.crypto import Role, Roster
from secure_fu.crypto.wire import encode
from secure_fu.errors import PolicyRefusal
from secure_fu.protocol.committee.messages import VoteStatement
from secure_fu.protocol.header import Header
from secure_fu.protocol.messages import Approval, Domain

__all__ = ["check_quorum"]


def check_quorum(
    votes: Sequence[Approval],
    header: Header,
    *,
    header_digest: bytes,
    roll_digest: bytes,
    roster: Roster,
    own: Approval | None = None,
) -> None:
    """Return only if a quorum of the header's committee signed for this roll of this round.

    Args:
        votes: to count.
        header, header_digest, roll_digest: of the round.
        roster: pinned identities.
        own: the vote that the caller itself signed for this very roll, which need not be verified.

    Raises:
        PolicyRefusal: too few votes, one of a stranger, or two of one member.
        SignatureError, RosterError: a vote is not its member's, or is for something else.
    """
    statement = encode(VoteStatement.of(header, header_digest, roll_digest))
    names = [vote.name for vote in votes]
    if len(set(names)) != len(names):
        raise PolicyRefusal("a member's vote is counted twice")
    strangers = set(names) - set(header.committee)
    if strangers:
        raise PolicyRefusal(f"{min(strangers)!r} voted and is not in the committee")
    if len(names) < header.quorum:
        raise PolicyRefusal(f"{len(names)} members voted for this roll; a quorum is {header.quorum}")
    for vote in votes:
        if vote == own:
            continue
        roster.verify(vote.name, Role.MEMBER, Domain.VOTE, statement, vote.signature)
