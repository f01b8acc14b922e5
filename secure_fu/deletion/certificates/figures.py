"""Whether a certificate's figures follow from the charges that it lists, by the library's own accountant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from secure_fu.deletion.certificates.accounts import Accounts, Counted, Part
from secure_fu.deletion.certificates.schema import CertificateError
from secure_fu.errors import ArgumentError
from secure_fu.privacy import ChargedRounds, Phase, Subject, gaussian_epsilon

__all__ = ["Figure", "accounts_of", "check_figures", "figures", "named_clients"]

# The same accountant in another version of its libraries may differ in the last digits.
_TOLERANCE: Final = 1e-6

Figure = tuple[str, float | None, float | None]
"""What it is of, what the certificate states, and what follows from the charges; None is no finite bound."""


def figures(body: Mapping[str, Any]) -> tuple[Figure, ...]:
    """Every epsilon of a certificate that follows from charges, stated and recomputed.

    Args:
        body: of a certificate that follows its schema.

    Raises:
        CertificateError: the charges are none.
    """
    accounts = accounts_of(body)
    found: list[Figure] = []
    said = body["confidentiality"]
    for title, group in (("", said), (" of the group", said["group"])):
        if group is None:
            continue
        at = group["phase"]
        if any((one["delta"], one["group_size"]) != (at["delta"], at["group_size"]) for one in _three(group)):
            raise CertificateError("its three figures of confidentiality are for different deltas or group sizes")
        again = accounts.confidentiality(delta=at["delta"], group_size=at["group_size"])
        found += [(f"confidentiality, {name}{title}", group[name]["value"], again[name]) for name in again]
    for entry in body["epsilon"]:
        value = accounts.epsilon(
            Subject(entry["subject"]), Phase(entry["phase"]), delta=entry["delta"], group_size=entry["group_size"]
        )
        found.append((f"epsilon, {entry['subject']} units, {entry['phase']}", entry["value"], value))
    guarantee = body["forgetting"]
    if guarantee["counted"] is not None:
        value = accounts.forgetting(
            Counted(guarantee["counted"]), delta=guarantee["delta"], group_size=guarantee["group_size"]
        )
        found.append(("forgetting", guarantee["epsilon"], value))
    return tuple(found)


def accounts_of(body: Mapping[str, Any]) -> Accounts:
    """The charges of a certificate.

    Raises:
        CertificateError: they are none.
    """
    try:
        return Accounts.from_json(body["accounting"]["rounds"])
    except (ArgumentError, ValueError) as error:
        raise CertificateError(f"its charges are none: {error}") from None


def check_figures(body: Mapping[str, Any]) -> tuple[Figure, ...]:
    """Return the figures only if none is smaller than its charges give, and the parts of the certificate fit together.

    Raises:
        CertificateError: names the figure, what is stated and what follows; or the parts that do not fit.
    """
    accounts = accounts_of(body)
    _check_entries(body)
    _check_guarantee(body, accounts)
    found = figures(body)
    for title, stated, value in found:
        if value is None and stated is not None:
            raise CertificateError(f"{title} is stated as {stated:.6g}; its charges give no finite bound")
        if value is not None and stated is not None and stated < value - _TOLERANCE * max(1.0, value):
            raise CertificateError(f"{title} is stated as {stated:.6g}; its charges give {value:.6g}")
    rounds = accounts.rounds(part=Part.DELETION)
    if rounds > body["transcript"]["rounds"]:
        raise CertificateError(
            f"it charges {rounds} released rounds of the deletion and names {body['transcript']['rounds']}"
        )
    times = body["times"]
    if not times["started"] <= times["finished"] <= times["issued"]:
        raise CertificateError("its times are not in order: started, finished, issued")
    confirmed = [entry["client"] for entry in body["wiped"]]
    for names in (confirmed, body["unconfirmed"]):
        if names != sorted(set(names)):
            raise CertificateError("its clients that confirmed, or did not, are not sorted, each once")
    if set(confirmed) & set(body["unconfirmed"]):
        raise CertificateError("a client both confirmed and did not confirm")
    return found


def _check_entries(body: Mapping[str, Any]) -> None:
    """All six entries are there, at the one delta, so that none is left out because it is large."""
    delta = body["accounting"]["delta"]
    wanted = sorted((subject.value, phase.value, delta, 1) for subject in Subject for phase in Phase)
    there = sorted((one["subject"], one["phase"], one["delta"], one["group_size"]) for one in body["epsilon"])
    if there != wanted:
        raise CertificateError(f"its epsilon list is not one entry for each subject and phase at delta {delta:g}")
    said = body["confidentiality"]
    if (said["group"] is None) is not (body["asked"]["units"] == 1):
        raise CertificateError("it has figures for the units as a group exactly where there is more than one")
    for group, size in ((said, 1), (said["group"], body["asked"]["units"])):
        if group is not None and any((one["delta"], one["group_size"]) != (delta, size) for one in _three(group)):
            raise CertificateError(f"its figures of confidentiality are not for {size} units at delta {delta:g}")


def _check_guarantee(body: Mapping[str, Any], accounts: Accounts) -> None:
    said, kind = body["forgetting"], body["forgetting"]["kind"]
    numbers = [said[name] for name in ("delta", "group_size", "view")]
    if kind != "certified":
        if said["epsilon"] is not None or any(number is not None for number in (*numbers, said["counted"])):
            raise CertificateError(
                f"its guarantee of forgetting is {kind} and has numbers, which only certified ones have"
            )
    elif None in numbers:
        raise CertificateError("its guarantee of forgetting is certified and has no delta, group size or view")
    elif said["group_size"] < body["asked"]["units"]:
        raise CertificateError(
            f"it certifies {said['group_size']} units, and {body['asked']['units']} were to be forgotten"
        )
    by_noise = said["shift"] is not None and said["output_noise"] is not None
    if (kind == "certified") is not (by_noise or said["counted"] is not None) or (by_noise and said["counted"]):
        raise CertificateError("a certified guarantee comes either from charges or from noise on the model")
    if by_noise:
        least = gaussian_epsilon(said["shift"], said["output_noise"], said["delta"])
        if said["epsilon"] is not None and said["epsilon"] < least * (1.0 - _TOLERANCE):
            raise CertificateError(f"forgetting is stated as {said['epsilon']:.6g}; shift and noise give {least:.6g}")
    if kind == "exact" or said["counted"] is not None:
        objection = _charged(body, accounts).objection(exact=kind == "exact", chosen_late=said["adaptive"])
        if objection is not None:
            raise CertificateError(f"its guarantee is {kind}, and {objection}")
    if said["adaptive"] and said["counted"] == Counted.BASIS:
        raise CertificateError("the request may have been chosen late, and its guarantee counts the first model alone")


def _charged(body: Mapping[str, Any], accounts: Accounts) -> ChargedRounds:
    """Which rounds charged what was to be forgotten; of those before the deletion only where its clients are named."""

    def entered(parts: frozenset[Part], *, as_forgotten: bool) -> bool:
        return any(
            one.part in parts
            and (one.forgotten if as_forgotten else one.larger) is not None
            and any(profile[place] for profile in accounts.forgotten)
            for place, one in enumerate(accounts.kinds)
        )

    named = named_clients(body) is not None
    return ChargedRounds(
        deletion=entered(frozenset({Part.DELETION}), as_forgotten=True),
        basis=named and entered(frozenset({Part.BASIS}), as_forgotten=False),
        released=named and entered(frozenset(Part) - {Part.DELETION}, as_forgotten=False),
    )


def named_clients(body: Mapping[str, Any]) -> frozenset[str] | None:
    """The clients that hold what was to be forgotten; None where that is not told, and figures are those of all."""
    asked = body["asked"]
    names = [one["client"] for one in asked["requests"]]
    if asked["hidden_units"] or not names or None in names:
        return None
    return frozenset(names)


def _three(group: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [group[name] for name in ("phase", "pair", "who_asked")]
