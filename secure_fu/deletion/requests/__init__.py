"""Deletion requests as they are asked: what they cover, signed, sealed and checked."""

from __future__ import annotations

from secure_fu.deletion.requests.details import MAX_POSITIONS
from secure_fu.deletion.requests.errors import (
    RequestExpired,
    RequestForged,
    RequestFromTheFuture,
    RequestRefused,
    RequestTooLarge,
    RequestUnauthorised,
    TooManyWaiting,
)
from secure_fu.deletion.requests.messages import (
    MAX_REQUEST_BYTES,
    Disclosure,
    SealedDetails,
    SignedBatch,
    SignedRequest,
)
from secure_fu.deletion.requests.request import DeletionBatch, DeletionRequest, Scope
from secure_fu.deletion.requests.signed import (
    check_request,
    check_signature,
    decode_request,
    open_request,
    read_request,
    sign_request,
)

__all__ = [
    "MAX_POSITIONS",
    "MAX_REQUEST_BYTES",
    "DeletionBatch",
    "DeletionRequest",
    "Disclosure",
    "RequestExpired",
    "RequestForged",
    "RequestFromTheFuture",
    "RequestRefused",
    "RequestTooLarge",
    "RequestUnauthorised",
    "Scope",
    "SealedDetails",
    "SignedBatch",
    "SignedRequest",
    "TooManyWaiting",
    "check_request",
    "check_signature",
    "decode_request",
    "open_request",
    "read_request",
    "sign_request",
]
