"""What others than the server signed of a certificate's window: the order that clients got, their words, the requests.

The order of a window is the digest of its id, of when it was due, of method and settings, of all its requests and of
its hidden units. The run of its rounds is named by that digest, so that every client of every sum has signed for it,
and each client's confirmation names it too. A server that told one client something else cannot certify it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from secure_fu.crypto import Roster
from secure_fu.deletion.certificates.schema import CertificateError
from secure_fu.deletion.policy import DeletionPolicy
from secure_fu.deletion.queue import last_due
from secure_fu.deletion.requests import RequestRefused, SignedBatch, SignedRequest, check_signature
from secure_fu.deletion.times import time_text
from secure_fu.deletion.wiping import WipeStatement, order_digest
from secure_fu.errors import ArgumentError, CryptoError
from secure_fu.protocol.header import canonical_settings
from secure_fu.protocol.run_id import run_id_of

__all__ = [
    "check_asked",
    "check_order",
    "check_requests",
    "check_terms",
    "check_wiped",
    "signed_entry",
]


def signed_entry(request: SignedRequest, *, finished: str) -> dict[str, Any]:
    """What a certificate says of a signed request, and no certificate otherwise.

    Args:
        finished: when the deletion ended, as certificates write it.
    """
    named = request.disclose
    return {
        # Clients concerned were sent the id: whoever it is hidden from must not find it here.
        "request_id": request.request_id.hex() if named else None,
        "scope": request.scope.value,
        "requester": {"name": request.signer if named else None, "commitment": request.digest.hex()},
        "client": (request.client or None) if named else None,
        "units": request.units if named else None,
        "submitted": time_text(request.submitted) if named else None,
        "deadline": time_text(request.deadline) if named else None,
        "deadline_met": finished <= time_text(request.deadline),
    }


def check_asked(body: Mapping[str, Any], shown: Collection[SignedRequest] = ()) -> None:
    """Return only if what was asked fits together: what is told of whom, deadlines, and units.

    Args:
        body: of a certificate that follows its schema.
        shown: requests that are among its own, checked; what they ask for counts, not what the certificate says.

    Raises:
        CertificateError: says what does not fit.
    """
    asked, finished = body["asked"], body["times"]["finished"]
    units = {request.digest.hex(): request.units for request in shown}
    least = asked["hidden_units"]
    commitments = []
    for one in asked["requests"]:
        commitment = one["requester"]["commitment"]
        told = [one[name] is not None for name in ("request_id", "units", "submitted", "deadline")]
        named = asked["signed"] and one["requester"]["name"] is not None
        if any(has is not named for has in told) or (asked["signed"] and not named and one["client"] is not None):
            raise CertificateError("of a signed request that is named it tells all, of any other who asked nothing")
        if (commitment is not None) is not asked["signed"] or (one["deadline_met"] is not None) is not asked["signed"]:
            raise CertificateError(
                "a request has a hash, and a deadline that was met or not, exactly where it is signed"
            )
        if named and not one["submitted"] < one["deadline"]:
            raise CertificateError("a request has a deadline before it was made")
        if named and one["deadline_met"] is not (finished <= one["deadline"]):
            said = "met" if one["deadline_met"] else "not met"
            raise CertificateError(f"it says that a deadline, {one['deadline']}, was {said}, and ended at {finished}")
        commitments.append(commitment)
        least += units.get(commitment) or one["units"] or 1 if asked["signed"] else 0
    if asked["signed"] and commitments != sorted(set(commitments)):
        raise CertificateError("its requests are not sorted by their hashes, each once")
    if least > asked["units"]:
        raise CertificateError(f"it is of {asked['units']} units, and more were asked for, at least {least}")


def check_order(body: Mapping[str, Any]) -> None:
    """Return only if the order is that of what the certificate says, and the run is that of the order.

    Raises:
        CertificateError: says what does not fit.
    """
    order, asked = body["order"], body["asked"]
    if (order is not None) is not asked["signed"]:
        raise CertificateError("it has an order of its window exactly where its requests were signed")
    if order is None:
        if body["wiped"]:
            raise CertificateError("clients confirm what they were ordered, and it has no order")
        return
    try:
        digest = order_digest(
            window_id=bytes.fromhex(body["window"]),
            opened=_seconds(order["opened"]),
            method=body["method"]["name"],
            settings=canonical_settings(body["method"]["settings"]),
            request_digests=tuple(sorted(bytes.fromhex(one["requester"]["commitment"]) for one in asked["requests"])),
            hidden_units=asked["hidden_units"],
            continues_after=order["continues_after"],
        )
    except (ArgumentError, CryptoError, ValueError) as error:
        raise CertificateError(f"its order is none: {error}") from None
    if digest.hex() != order["digest"]:
        raise CertificateError(
            "its order is not that of the window, due time, method, settings, requests and hidden units that it names: "
            f"that would be {digest.hex()}"
        )
    run_id = run_id_of(bytes.fromhex(order["run_key"]), body["ledger"]["branch"], digest).hex()
    if run_id != body["transcript"]["run_id"]:
        raise CertificateError(f"its run is {body['transcript']['run_id']}, and that of its order {run_id}")


def check_wiped(body: Mapping[str, Any], roster: Roster) -> None:
    """Return only if every client that is said to have confirmed has signed that, for this window and this order.

    Raises:
        CertificateError: one has not, or a client that is named as concerned is not spoken of.
    """
    for entry in body["wiped"]:
        statement = WipeStatement(
            window_id=bytes.fromhex(body["window"]),
            order=bytes.fromhex(body["order"]["digest"]),
            client=entry["client"],
            rounds=entry["rounds"],
            commitment=bytes.fromhex(entry["commitment"]),
            signature=bytes.fromhex(entry["signature"]),
        )
        try:
            statement.check(roster)
        except CryptoError as error:
            raise CertificateError(
                f"client {entry['client']!r} did not sign that it destroyed what this window covers: {error}"
            ) from None
    if body["order"] is None:
        return
    listed = {entry["client"] for entry in body["wiped"]} | set(body["unconfirmed"])
    for one in body["asked"]["requests"]:
        if one["client"] is not None and one["client"] not in listed:
            raise CertificateError(
                f"client {one['client']!r} was to forget something, and is in neither list, of those that confirmed "
                "and of those that did not"
            )


def check_requests(
    body: Mapping[str, Any], shown: Sequence[SignedRequest], *, roster: Roster, policy: DeletionPolicy | None
) -> None:
    """Return only if signed requests are genuine and the certificate says of each what it says itself.

    Args:
        body: of a certificate that :func:`check_asked` takes.
        shown: the requests.
        policy: says who may ask for what; None: whoever signed may.

    Raises:
        CertificateError: names the request, and what does not hold.
    """
    entries = {one["requester"]["commitment"]: one for one in body["asked"]["requests"]}
    for request in shown:
        name = request.request_id.hex()
        entry = entries.get(request.digest.hex())
        if entry is None:
            raise CertificateError(f"the request {name} is not among those that it names")
        anybody = DeletionPolicy(window_start=0, window_seconds=60, class_signers=(request.signer,))
        try:
            check_signature(request, roster=roster, policy=anybody if policy is None else policy)
        except RequestRefused as error:
            raise CertificateError(f"the request {name} is not genuine: {error}") from None
        for key, value in signed_entry(request, finished=body["times"]["finished"]).items():
            if entry[key] != value:
                raise CertificateError(
                    f"it says otherwise what request {name} asks, and who: {key} is {entry[key]}, that of the request "
                    f"{value}"
                )
    check_asked(body, shown)
    if body["order"] is not None and len({request.digest for request in shown}) == len(entries):
        batch = {request.digest: request for request in shown}.values()
        if not batch and not body["asked"]["hidden_units"]:
            raise CertificateError("nobody asked for anything, and no hidden units are covered")
        window = SignedBatch.of(_seconds(body["order"]["opened"]), batch, body["asked"]["hidden_units"]).window_id
        if window.hex() != body["window"]:
            raise CertificateError(f"its window is {body['window']}, and that of its requests {window.hex()}")


def check_terms(body: Mapping[str, Any], policy: DeletionPolicy) -> None:
    """Return only if a window of signed requests was one that a deletion policy lets through.

    Args:
        policy: with all settings of its method: one that it does not have is one that the server could choose.

    Raises:
        CertificateError: says what the policy does not have.
    """
    asked, method = body["asked"], body["method"]
    if body["order"] is None:
        raise CertificateError("its requests were not signed, and no deletion policy lets such through")
    opened = _seconds(body["order"]["opened"])
    settings = {name: "inf" if value == math.inf else value for name, value in policy.settings.items()}
    if (method["name"], method["settings"]) != (policy.method, settings):
        raise CertificateError(
            f"its method is {method['name']!r} with {canonical_settings(method['settings'])}, and that of the deletion "
            f"policy {policy.method!r} with {canonical_settings(settings)}"
        )
    if asked["hidden_units"] > policy.hidden_units:
        raise CertificateError(f"it covers {asked['hidden_units']} hidden units; the policy, {policy.hidden_units}")
    if last_due(policy, opened) != opened:
        raise CertificateError(f"no window of the deletion policy was due at {body['order']['opened']}")
    number = len(asked["requests"])
    if number > policy.maximum_batch or (number < policy.minimum_batch and (number or not policy.cover)):
        raise CertificateError(
            f"it is of {number} requests; the policy has {policy.minimum_batch} to {policy.maximum_batch} in a window"
        )


def _seconds(text: str) -> int:
    try:
        return int(datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp())
    except ValueError:
        raise CertificateError(f"{text} is no time") from None
