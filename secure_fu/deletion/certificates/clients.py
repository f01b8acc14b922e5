"""What a reader of a certificate should know of the clients: who confirmed, who did not, and who was not there."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from secure_fu.crypto import Roster
from secure_fu.deletion.certificates.certificate import Certificate

__all__ = ["said_of_clients", "said_of_rounds"]

_MOST_NAMES: Final = 12


def said_of_clients(body: Mapping[str, Any], roster: Roster, earlier: Sequence[Certificate]) -> list[str]:
    """Sentences about confirmations and hidden units, to be known before anything is concluded.

    Args:
        body: of a certificate whose confirmations hold.
        roster: of its federation.
        earlier: the certificates before it.
    """
    found = []
    confirmed, open_ = [entry["client"] for entry in body["wiped"]], body["unconfirmed"]
    if open_:
        found.append(
            f"{_clients(open_)} had not confirmed yet, when it was issued, that what the window covers there is "
            f"destroyed: {_names(open_)}."
        )
    if not confirmed:
        found.append("No client's signed statement that data was destroyed is in it.")
    if body["order"] is None:
        return found
    silent = sorted(roster.clients - {*confirmed, *open_})
    if silent:
        found.append(
            f"{_clients(silent)} of the roster {'is' if len(silent) == 1 else 'are'} in neither list, of those that "
            f"confirmed and of those that did not: {_names(silent)}. Nothing is known of what was destroyed there."
        )
    asked, rounds = body["asked"], body["transcript"]["rounds"]
    idle = [entry["client"] for entry in body["wiped"] if not entry["rounds"]]
    if idle and rounds:
        found.append(
            f"{_clients(idle)} confirmed and had answered no round of the deletion: {_names(idle)}. What was asked "
            "there in private, if anything, is not forgotten by this window."
        )
    if not rounds:
        found.append(
            "No round was run for it: whoever asked had to have taken part in nothing, or the model still rests on it."
        )
    if asked["hidden_units"]:
        spare = asked["units"] - sum(one["units"] or 1 for one in asked["requests"])
        counted = spare // asked["hidden_units"]
        if counted < len({*confirmed, *open_, *silent}):
            found.append(
                f"Its {asked['hidden_units']} hidden units are counted at {counted} clients of {len(roster.clients)}: "
                "the others would have to have left before."
            )
    served = {one["requester"]["commitment"] for old in earlier for one in old.body["asked"]["requests"]}
    again = sum(one["requester"]["commitment"] in served for one in asked["requests"])
    if again:
        found.append(f"{again} of its requests are in earlier certificates already, and hide nobody among them.")
    return found


def said_of_rounds(body: Mapping[str, Any], answered: Mapping[str, int]) -> list[str]:
    """Sentences about clients that are in more sums than they had answered when they confirmed.

    Args:
        answered: by client, in how many sums of the deletion it is.
    """
    early = [entry["client"] for entry in body["wiped"] if entry["rounds"] < answered.get(entry["client"], 0)]
    if not early:
        return []
    return [f"{_clients(early)} confirmed before the deletion was at its end, or lost what they knew: {_names(early)}."]


def _names(names: Sequence[str]) -> str:
    return ", ".join(names[:_MOST_NAMES]) + (", ..." if len(names) > _MOST_NAMES else "")


def _clients(names: Collection[str]) -> str:
    return "1 client" if len(names) == 1 else f"{len(names)} clients"
