"""The terms of a committee, and where its members and what is shared sit on the polynomials of :mod:`sharing`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from secure_fu.crypto._checks import require_int
from secure_fu.crypto.sharing._field import FIELD_PRIME, Elements
from secure_fu.errors import ArgumentError

__all__ = ["MAX_MEMBERS", "CommitteeTerms", "member_points", "random_points", "secret_points"]

MAX_MEMBERS: Final = 1024


@dataclass(frozen=True, kw_only=True)
class CommitteeTerms:
    """Who has to act together to open a sum, of how many.

    Args:
        members: m, the size of the committee, from 1 to 1024 (:data:`MAX_MEMBERS`).
        threshold: t, how many members' answers give the key. At least ``corrupt + 1``, because ``corrupt`` coefficients
            of each polynomial are random (that hides the rest from ``corrupt`` members) and one at least has to carry
            the key; at most ``members``, or no sum would ever open.
        quorum: Q, how many members must have signed one and the same roll before any of them answers. 2 Q > m + f, so
            that two quorums have more than ``corrupt`` members in common, hence an honest one, and honest members sign
            one roll a round: two different rolls never both pass. At most ``members``.
        corrupt: f, how many members may work together with the server. Their shares of a key say nothing about it.

    A committee of one is ``members=1, threshold=1, quorum=1, corrupt=0``: its single share is the key itself.

    Raises:
        ArgumentError: a number is not an int, or breaks one of these conditions.
    """

    members: int
    threshold: int
    quorum: int
    corrupt: int

    def __post_init__(self) -> None:
        members = require_int("members", self.members, least=1, most=MAX_MEMBERS)
        corrupt = require_int("corrupt", self.corrupt, least=0)
        if corrupt >= members:
            raise ArgumentError("corrupt", corrupt, f"at most {members - 1}: one of the {members} members is honest")
        threshold = require_int("threshold", self.threshold, least=1)
        if not corrupt < threshold <= members:
            raise ArgumentError(
                "threshold", threshold, f"from {corrupt + 1} (corrupt + 1, or they open alone) to {members} (members)"
            )
        quorum = require_int("quorum", self.quorum, least=1)
        if not members + corrupt < 2 * quorum <= 2 * members:
            raise ArgumentError(
                "quorum",
                quorum,
                f"from {(members + corrupt) // 2 + 1} (more than half of members + corrupt, or two quorums need not"
                f" share an honest member) to {members} (members)",
            )

    @property
    def packing(self) -> int:
        """How many coefficients of the key one polynomial carries: ``threshold - corrupt``."""
        return self.threshold - self.corrupt

    def share_length(self, degree: int) -> int:
        """Return how many field elements are one member's share of a key with ``degree`` coefficients.

        Raises:
            ArgumentError: ``degree`` is not an int of at least 1.
        """
        return -(-require_int("degree", degree, least=1) // self.packing)

    def share_bytes(self, degree: int) -> int:
        """Return how many bytes the encoding of such a share takes."""
        return 2 * self.share_length(degree)


def secret_points(terms: CommitteeTerms) -> Elements:
    """Return where a polynomial takes the values of the key: -1 .. -packing modulo p."""
    return FIELD_PRIME - np.arange(1, terms.packing + 1, dtype=np.int64)


def random_points(terms: CommitteeTerms) -> Elements:
    """Return where a polynomial takes the random values: 1 .. f."""
    return np.arange(1, terms.corrupt + 1, dtype=np.int64)


def member_points(terms: CommitteeTerms) -> Elements:
    """Return where a polynomial takes the shares: 1 .. m."""
    return np.arange(1, terms.members + 1, dtype=np.int64)
