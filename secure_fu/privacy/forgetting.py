"""What a claim of forgetting rests on: one rule, for whoever runs a deletion and for whoever checks a certificate.

The rule looks at charges alone: in which rounds the ledger charged the units that were to be forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ChargedRounds"]


@dataclass(frozen=True, kw_only=True)
class ChargedRounds:
    """In which rounds units that were to be forgotten were charged.

    Attributes:
        deletion: in those of the deletion itself.
        basis: in those behind the state that it began with.
        released: in any that was released before.
    """

    deletion: bool
    basis: bool
    released: bool

    def objection(self, *, exact: bool, chosen_late: bool) -> str | None:
        """Why a claim cannot be made, as the end of a sentence that begins with the claim; None if it can.

        Formal guarantees:
            An exact claim passes only if the outcome is a function of rounds that no forgotten unit was charged for,
            and, where the request or a setting may have been chosen after seeing models, only if no model knew the
            units at all. One that counts charges passes only if the deletion's own rounds charged them nothing: what
            it counts came before.

        Args:
            exact: whether the claim is exact; otherwise it counts what was charged before.
            chosen_late: whether request or settings may have been chosen after seeing models.
        """
        if self.deletion:
            return "units to be forgotten entered the deletion's rounds"
        if exact and (self.basis or (chosen_late and self.released)):
            return "what it rests on had charged the units"
        return None
