"""All parties but the server, as a federation's server side sees them: in this process, or on machines of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from secure_fu.deletion import DeletionBatch, DeletionRequest, SignedBatch
from secure_fu.federation.marks import Marks
from secure_fu.protocol import RoundTraffic, SecureSums, Transcript
from secure_fu.unlearning import UnlearningMethod

__all__ = ["Concerned", "Fleet", "Instruction", "Request", "RoundSums"]

Request = DeletionRequest | DeletionBatch | SignedBatch
"""In one process requests say what they cover; on machines of their own only clients can open what was signed."""


@dataclass(frozen=True, kw_only=True)
class Concerned:
    """What the server has to know of what a request covers.

    Attributes:
        forgotten: clients that hold, or may hold, units that are to be forgotten.
        retained: clients that hold, or may hold, others.
        units: at most so many units are to be forgotten.
        marks: of the records, as they were brought, in a simulation; empty where the server must not know them.
    """

    forgotten: tuple[str, ...]
    retained: tuple[str, ...]
    units: int
    marks: Marks = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """What the clients are told of one unlearning run.

    Attributes:
        branch: of the ledger, that its rounds are in.
        request: what is to be forgotten.
        concerned: whom it concerns.
        method: how.
        continues_after: for a deletion that is executed, the number of the last round of before that clients may still
            remember, -1 for none; None for one that is tried out.
    """

    branch: str
    request: Request
    concerned: Concerned
    method: UnlearningMethod
    continues_after: int | None


class RoundSums(SecureSums, Protocol):
    """Secure sums that are run one round after the other."""

    @property
    def next_round(self) -> int:
        """Number that the next round will have."""

    @property
    def traffic(self) -> Sequence[RoundTraffic]:
        """What travelled in each round so far."""


class Fleet(Protocol):
    """Clients, and the committee or the key-holder."""

    def identify(self, request: Request) -> Concerned:
        """Whom a request concerns.

        Raises:
            ArgumentError: it names an unknown client or record, covers nothing or a part of a unit.
            AlreadyForgotten: all that it names has been forgotten.
        """

    def prepare(self, instruction: Instruction) -> None:
        """Have every client mark what the request covers at it, before the rounds of its branch."""

    def wipe(self, instruction: Instruction) -> None:
        """The deletion is executed: have every client drop the data, and what it must not remember.

        Raises:
            HistoryError: a client of this process cannot destroy a file; nobody has the data any more.
        """

    def begin(
        self, branch: str, *, parent: str | None, transcript: Transcript, first_round: int, purpose: str
    ) -> RoundSums:
        """The secure sums of a new branch: of training, or of the run that was prepared for it.

        Args:
            branch: a new name.
            parent: the branch that it goes on from.
            transcript: of the branch.
            first_round: number of its first round.
            purpose: what it is for, in whatever words; a branch is resumed only for the same.

        Raises:
            LedgerError, ArgumentError: as :meth:`~secure_fu.federation.server_directory.ServerDirectory.begin`.
        """

    def reopen(self, branch: str, *, transcript: Transcript) -> RoundSums:
        """The secure sums of a branch that was begun before, under its next round number.

        Raises:
            ArgumentError: there is no such branch, or the transcript starts elsewhere.
            RecordError: a party of this process has lost its record.
        """
