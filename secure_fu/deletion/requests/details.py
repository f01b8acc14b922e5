"""The part of a deletion request that is sealed, padded so that its length tells little."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Annotated, Final

from secure_fu.crypto import U32, U64, Blob, Fixed, Sequence, Text, encode, message
from secure_fu.deletion.requests.request import DeletionRequest, Scope
from secure_fu.errors import ArgumentError, WireError

__all__ = ["MAX_DETAILS_BYTES", "MAX_POSITIONS", "Details", "pack_details"]

MAX_POSITIONS: Final = 1_000_000
"""Most positions of records in one request. Who wants more to go asks in parts, or for the whole client."""
MAX_DETAILS_BYTES: Final = 8 << 20
"""Longest encoding of details."""

_MAX_GROUPS: Final = 10_000
_MAX_GROUP_BYTES: Final = 1024
_SALT_BYTES: Final = 32
_LEAST_BYTES: Final = 512
_UNIT_BYTES: Final = {Scope.CLIENT: 0, Scope.CLASS: 0, Scope.RECORDS: 4, Scope.GROUP: 72}


@message("deletion-details")
@dataclass(frozen=True, kw_only=True, repr=False)
class Details:
    """What exactly is to be forgotten, as it is sealed: never in a log, an error or a `repr`.

    Attributes:
        salt: 32 random bytes.
        label: the class + 1; 0 for none.
        groups: the persons.
        records: the positions.
        padding: zeros.
    """

    salt: Annotated[bytes, Fixed(_SALT_BYTES)]
    label: Annotated[int, U64]
    groups: Annotated[tuple[str, ...], Sequence(Text(_MAX_GROUP_BYTES), _MAX_GROUPS)]
    records: Annotated[tuple[int, ...], Sequence(U32, MAX_POSITIONS)]
    padding: Annotated[bytes, Blob(MAX_DETAILS_BYTES)]


def pack_details(request: DeletionRequest, units: int) -> bytes:
    """The details' encoding, of a length that follows from scope and units wherever it can.

    Raises:
        ArgumentError: more positions or persons than a request can have, or values that do not travel.
    """
    if len(request.records) > MAX_POSITIONS:
        raise ArgumentError("records", f"{len(request.records)} positions", f"at most {MAX_POSITIONS}: ask in parts")
    if len(request.groups) > _MAX_GROUPS:
        raise ArgumentError("groups", f"{len(request.groups)} persons", f"at most {_MAX_GROUPS}: ask in parts")
    label = 0 if request.label is None else request.label + 1
    try:
        bare = Details(
            salt=os.urandom(_SALT_BYTES), label=label, groups=request.groups, records=request.records, padding=b""
        )
        content = encode(bare)
    except WireError as error:
        raise ArgumentError("request", "values out of range", f"values that travel ({error})") from None
    wanted = max(len(content), _LEAST_BYTES, min(_LEAST_BYTES + units * _UNIT_BYTES[request.scope], 4 << 20))
    length = 1 << (wanted - 1).bit_length()
    if length > MAX_DETAILS_BYTES:
        raise ArgumentError("request", f"{length} bytes of details", f"at most {MAX_DETAILS_BYTES}: ask in parts")
    return encode(replace(bare, padding=bytes(length - len(content))))
