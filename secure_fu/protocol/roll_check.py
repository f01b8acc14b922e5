"""What whoever opens a sum checks of a roll, be it a key-holder or a committee's member."""

from __future__ import annotations

from secure_fu.crypto import Role, Roster
from secure_fu.errors import PolicyRefusal, ProtocolError
from secure_fu.protocol.header import Header
from secure_fu.protocol.messages import Domain, Roll

__all__ = ["check_roll"]


def check_roll(roll: Roll, header: Header, header_digest: bytes, *, roster: Roster, server: str) -> None:
    """Return only if the roll is the server's, of this round, and every client in it signed its upload to this round.

    Raises:
        SignatureError, RosterError: a signature is not the server's, or not that of the client listed.
        ProtocolError: the roll is of another round.
        PolicyRefusal: it is not sorted, repeats a client, lists one outside the cohort, or too few.
    """
    if roll.header_digest != header_digest:
        raise ProtocolError("the roll is of another round than its header")
    roster.verify(server, Role.SERVER, Domain.ROLL, roll.statement, roll.signature)
    names = list(roll.participants)
    if names != sorted(set(names)):
        raise PolicyRefusal(f"the roll of round {header.round_number} is not sorted or repeats a client")
    strangers = set(names) - set(header.cohort)
    if strangers:
        raise PolicyRefusal(f"client {min(strangers)!r} is in the roll and not in the cohort")
    if len(names) < header.minimum_cohort:
        raise PolicyRefusal(
            f"the roll lists {len(names)} clients; this round opens with at least {header.minimum_cohort}"
        )
    for entry in roll.entries:
        roster.verify(entry.client, Role.CLIENT, Domain.UPLOAD, entry.statement(header_digest), entry.signature)
