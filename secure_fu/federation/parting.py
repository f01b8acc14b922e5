"""What a client has in hand between the end of a deletion and the wiping of its records."""

from __future__ import annotations

from dataclasses import dataclass

from secure_fu.learning import Records
from secure_fu.training import TrainingState

__all__ = ["Parting", "no_parting"]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Parting:
    """What a client whose records are forgotten has in hand before it wipes them. Never leaves the client.

    Attributes:
        client: its name.
        forgotten: its records that the deletion covers.
        before: the state that knew them.
        after: the state that the deletion ended in.
    """

    client: str
    forgotten: Records
    before: TrainingState
    after: TrainingState

    def __repr__(self) -> str:
        return f"Parting({self.client!r}, {len(self.forgotten)} records)"


def no_parting(_: Parting) -> None:
    """A client that does nothing before it wipes its records."""
