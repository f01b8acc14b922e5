"""What the ledger has to say about a round."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from secure_fu.privacy.epsilon import Phase, Subject
from secure_fu.privacy.events import GaussianSumEvent

__all__ = ["EventStatus", "LedgerEvent", "Reservation"]


@dataclass(frozen=True, kw_only=True)
class Reservation:
    """A round that has been charged and may now be opened; commit or void it once.

    Args:
        event_id: the round's number in the ledger.
        branch: name of its branch.
        round_number: its number within the branch.
        cohort: the clients that are charged, sorted.
    """

    event_id: int
    branch: str
    round_number: int
    cohort: tuple[str, ...]


class EventStatus(enum.Enum):
    """Where a round stands."""

    RESERVED = "reserved"
    """Announced, not settled: counts as spent for the whole cohort."""

    COMMITTED = "committed"
    """Released: spent by those who took part."""

    VOID = "void"
    """Never opened, by the word of the server, which did not send its sum: spent by nobody."""


@dataclass(frozen=True, kw_only=True)
class LedgerEvent:
    """One round as the ledger has it.

    Args:
        event_id: number of the row.
        branch: name of its branch.
        round_number: strictly increasing within the branch.
        purpose: what the round was for, as its header says.
        phase: training or unlearning.
        status: where it stands.
        charges: what it costs each client that is charged, by subject; None where it touches no unit of that kind.
        cohort: the clients that were invited, sorted.
        participants: the clients in the released sum, sorted; None unless committed.
        void_reason: why it is known not to have been opened; None unless void.
    """

    event_id: int
    branch: str
    round_number: int
    purpose: str
    phase: Phase
    status: EventStatus
    charges: Mapping[Subject, GaussianSumEvent | None]
    cohort: tuple[str, ...]
    participants: tuple[str, ...] | None
    void_reason: str | None

    @property
    def charged(self) -> tuple[str, ...]:
        """The clients that have spent this round's charges."""
        if self.status is EventStatus.VOID:
            return ()
        return self.cohort if self.participants is None else self.participants

    @property
    def reservation(self) -> Reservation:
        """What commits or voids the round."""
        return Reservation(
            event_id=self.event_id, branch=self.branch, round_number=self.round_number, cohort=self.cohort
        )
