"""Signing a deletion request, checking one, and opening its sealed part.

Guarantee
    A request that :func:`check_request` returns from was signed by a party of the roster that may ask for this, for
    this server and no other, and is neither expired nor from the future. A box opens only in the request that it was
    made for: its associated data names request, signer, scope, client, recipient and server.
Not guaranteed
    That two clients were sealed the same details: the signer decides what it asks of whom.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Final

from secure_fu.crypto import SEAL_OVERHEAD_BYTES, Identity, Role, Roster, decode, encode, seal
from secure_fu.deletion.policy import DeletionPolicy
from secure_fu.deletion.requests.details import Details, pack_details
from secure_fu.deletion.requests.errors import (
    RequestExpired,
    RequestForged,
    RequestFromTheFuture,
    RequestRefused,
    RequestUnauthorised,
)
from secure_fu.deletion.requests.messages import (
    MAX_BOXES,
    MAX_REQUEST_BYTES,
    REQUEST_ID_BYTES,
    Disclosure,
    SealedDetails,
    SignedBatch,
    SignedRequest,
    require_times,
)
from secure_fu.deletion.requests.request import DeletionRequest, Scope
from secure_fu.deletion.times import time_text
from secure_fu.errors import ArgumentError, CryptoError, SealError, WireError

__all__ = [
    "MAX_REQUEST_BYTES",
    "Disclosure",
    "RequestExpired",
    "RequestForged",
    "RequestFromTheFuture",
    "RequestRefused",
    "RequestUnauthorised",
    "SealedDetails",
    "SignedBatch",
    "SignedRequest",
    "check_request",
    "check_signature",
    "decode_request",
    "open_request",
    "read_request",
    "sign_request",
]

_DOMAIN: Final = "deletion-request"


def sign_request(
    identity: Identity,
    request: DeletionRequest,
    *,
    roster: Roster,
    units: int,
    submitted: int,
    deadline: int,
    disclose: bool = False,
) -> SignedRequest:
    """Sign a request and seal its details to the clients concerned.

    Args:
        identity: of who asks.
        request: what is to be forgotten.
        roster: the pinned parties, with one server.
        units: at most so many privacy units are covered; the server and the certificate will see this bound.
        submitted: now, in seconds since 1970 (UTC).
        deadline: when it has to be done.
        disclose: whether the certificate may name who asks.

    Raises:
        ArgumentError: an unknown client, a deadline before `submitted`, or more positions, persons or clients than a
            request can have.
        RosterError: the roster does not have exactly one server.
    """
    if request.client is not None and request.client not in roster.clients:
        raise ArgumentError("client", request.client, "a client of the roster")
    require_times(submitted, deadline)
    concerned = sorted(roster.clients) if request.client is None else [request.client]
    if len(concerned) > MAX_BOXES:
        raise ArgumentError("client", None, f"a client: the roster has more than {MAX_BOXES} clients to seal to")
    details = pack_details(request, units)
    size = len(concerned) * (len(details) + SEAL_OVERHEAD_BYTES + 100)
    if size > MAX_REQUEST_BYTES - 1000:
        raise ArgumentError(
            "request", f"about {size} bytes for {len(concerned)} clients", f"at most {MAX_REQUEST_BYTES}: ask in parts"
        )
    unsigned = SignedRequest(
        request_id=os.urandom(REQUEST_ID_BYTES),
        server=_server_key(roster),
        signer=identity.name,
        scope=request.scope,
        client=request.client or "",
        units=units,
        submitted=submitted,
        deadline=deadline,
        disclosure=Disclosure.NAMED if disclose else Disclosure.HIDDEN,
        boxes=tuple(SealedDetails(client=name, box=b"") for name in concerned),
        signature=bytes(64),
    )
    boxes = tuple(
        SealedDetails(
            client=name, box=seal(roster.party(name).sealing_key, details, associated_data=_bound_to(unsigned, name))
        )
        for name in concerned
    )
    sealed = replace(unsigned, boxes=boxes)
    return replace(sealed, signature=identity.sign(_DOMAIN, _signed_part(sealed)))


def check_signature(request: SignedRequest, *, roster: Roster, policy: DeletionPolicy) -> None:
    """Return only if the request is genuine, for this server, and its signer may ask for this, whatever the time is.

    A client asks only about itself. Persons and classes at another client, or at every client, only those may ask for
    whom the policy names as class signers. The server never asks, whatever the policy says.

    Raises:
        RequestForged: the signature does not hold, or the request is for another server.
        RequestUnauthorised: the signer is not in the roster, or may not ask for this; or the client is unknown.
    """
    try:
        party = roster.party(request.signer)
    except CryptoError:
        raise RequestUnauthorised(f"signer {request.signer!r} is not in the roster") from None
    if request.server != _server_key(roster):
        raise RequestForged(f"the request of {request.signer!r} is addressed to another server")
    try:
        roster.verify(party.name, party.role, _DOMAIN, _signed_part(request), request.signature)
    except CryptoError as error:
        raise RequestForged(f"the request is not what {request.signer!r} signed: {error}") from None
    if request.client and request.client not in roster.clients:
        raise RequestUnauthorised(f"client {request.client!r} is not in the roster")
    if not request.client and [box.client for box in request.boxes] != sorted(roster.clients):
        raise RequestUnauthorised("the request is for every client, but was sealed to others than the roster's clients")
    if party.role is Role.CLIENT and request.client == request.signer:
        return
    named = request.signer in policy.class_signers and party.role is not Role.SERVER
    if named and request.scope in (Scope.GROUP, Scope.CLASS):
        return
    what = f"scope {request.scope.value} at {request.client or 'every client'}"
    raise RequestUnauthorised(
        f"{request.signer!r} may not ask for {what}; a client asks about itself, and for persons or a class elsewhere "
        "only the policy's class_signers may ask"
    )


def check_request(request: SignedRequest, *, roster: Roster, policy: DeletionPolicy, now: int) -> None:
    """As :func:`check_signature`, and the request is neither expired nor from the future.

    For whoever takes a request in. Once it is taken it stays due, also when its deadline has passed: a server that was
    down executes it late and says so. Clients therefore check only the signature when they execute.

    Args:
        now: seconds since 1970 (UTC).

    Raises:
        RequestExpired: the deadline has passed by more than the policy's clock tolerance.
        RequestFromTheFuture: it was submitted later than now, beyond the tolerance.
        RequestForged, RequestUnauthorised: as there.
    """
    check_signature(request, roster=roster, policy=policy)
    tolerance = policy.clock_tolerance_seconds
    if request.deadline + tolerance <= now:
        raise RequestExpired(f"its deadline, {time_text(request.deadline)}, has passed; it is {time_text(now)}")
    if request.submitted > now + tolerance:
        raise RequestFromTheFuture(
            f"the request was submitted at {time_text(request.submitted)}, and it is only {time_text(now)}; one of the "
            f"clocks is off by more than {tolerance} s"
        )


def open_request(request: SignedRequest, identity: Identity) -> DeletionRequest:
    """What exactly a client is to forget.

    Args:
        request: checked before, by :func:`check_request`.
        identity: of a client that it concerns.

    Raises:
        ArgumentError: the request does not concern this client; see :meth:`SignedRequest.concerns`.
        RequestForged: the box does not open, or its content does not fit the open part.
    """
    for sealed in request.boxes:
        if sealed.client == identity.name:
            break
    else:
        raise ArgumentError("identity", identity.name, "a client that the request concerns")
    try:
        content = identity.unseal(sealed.box, associated_data=_bound_to(request, identity.name))
        details = decode(Details, content)
        return DeletionRequest(
            scope=request.scope,
            client=request.client or None,
            groups=details.groups,
            records=details.records,
            label=details.label - 1 if details.label else None,
        )
    except (SealError, WireError, ArgumentError) as error:
        # No cause: it could name what is sealed.
        raise RequestForged(
            f"the sealed part of a request of {request.signer!r} is unfit: {type(error).__name__}"
        ) from None


def decode_request(content: bytes) -> SignedRequest:
    """The request whose encoding is `content`.

    Raises:
        RequestForged: it is none.
    """
    if len(content) > MAX_REQUEST_BYTES:
        raise RequestForged(f"a request has at most {MAX_REQUEST_BYTES} bytes, not {len(content)}")
    try:
        return decode(SignedRequest, content)
    except WireError as error:
        raise RequestForged(f"not a signed deletion request: {error}") from None


def read_request(path: Path) -> SignedRequest:
    """The request in a file; a file that is too long is refused by its size, unread.

    Raises:
        RequestForged: it holds none, or is too long.
        ArgumentError: it is missing, no plain file, or cannot be read.
    """
    try:
        if not path.is_file():
            raise ArgumentError("FILE", str(path), "a file with a signed deletion request")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_REQUEST_BYTES:
                raise RequestForged(f"{path} has {size} bytes; a request has at most {MAX_REQUEST_BYTES}")
            return decode_request(file.read(MAX_REQUEST_BYTES + 1))
    except OSError as error:
        raise ArgumentError("FILE", str(path), f"a file that can be read ({error.strerror})") from None


def _server_key(roster: Roster) -> bytes:
    servers = roster.names(Role.SERVER)
    if len(servers) != 1:
        raise ArgumentError("roster", f"{len(servers)} servers", "a roster with one server")
    return roster.party(servers[0]).verify_key


def _signed_part(request: SignedRequest) -> bytes:
    return encode(replace(request, signature=bytes(64)))


def _bound_to(request: SignedRequest, recipient: str) -> bytes:
    """What a box is sealed with: all of the open part that is fixed before the boxes are."""
    bare = replace(request, boxes=tuple(replace(box, box=b"") for box in request.boxes), signature=bytes(64))
    return hashlib.sha256(encode(bare)).digest() + recipient.encode()
