"""A deletion request as it travels: signed by who asks, its details sealed to the clients concerned.

What a curious server learns from a request, and from a queue of them
    Who asks (the signer), what kind of thing is to go (a whole client, persons, records, a class), at which client if
    one is named, at most how many privacy units that is, when it was asked and until when it has to be done, and
    whether the certificate may name who asked. All of it is in the open part, for without it nobody could check the
    request, batch it, or bound what a deletion does to the guarantees.
    It does not learn which records, which persons or which class: those are sealed to the clients concerned. The sealed
    part is padded. Its length follows from scope and units alone, except where it has more positions than units (all
    records of a person): then the length tells how many those are, up to a factor of two.
    From many requests it learns how often each client asks, and when. Who does not want that known asks its own node in
    private; such units ride in the policy's hidden units, and no request reaches the server.
    A client that colludes with the server opens the box that was sealed to it: a request for persons or a class at
    every client is known to the server as soon as one client is dishonest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Final

from secure_fu.crypto import SEAL_OVERHEAD_BYTES, U32, U64, Blob, Choice, Fixed, Nested, Sequence, Text, encode, message
from secure_fu.deletion.requests.details import MAX_DETAILS_BYTES
from secure_fu.deletion.requests.request import Scope
from secure_fu.errors import ArgumentError

__all__ = [
    "MAX_BATCH_REQUESTS",
    "MAX_BOXES",
    "MAX_REQUEST_BYTES",
    "REQUEST_ID_BYTES",
    "Disclosure",
    "SealedDetails",
    "SignedBatch",
    "SignedRequest",
    "require_times",
]

MAX_REQUEST_BYTES: Final = 16 << 20
"""Longest encoding of a request; a file that is longer is refused by its size, unread."""
MAX_BATCH_REQUESTS: Final = 100_000
"""Most requests in one batch."""

_MAX_NAME_BYTES: Final = 64
MAX_BOXES: Final = 10_000
"""Most clients that a request can be sealed to."""
_MAX_UNITS: Final = (1 << 32) - 1
REQUEST_ID_BYTES: Final = 16
"""Of a request and of a window."""
_LATEST: Final = 253_402_300_799  # the last second of the year 9999


class Disclosure(Enum):
    """Whether a certificate may name who asked; the value is what travels."""

    NAMED = "named"
    HIDDEN = "hidden"


@message("sealed-details")
@dataclass(frozen=True, kw_only=True)
class SealedDetails:
    """What exactly is to be forgotten, sealed to one client.

    Attributes:
        client: whom it is sealed to.
        box: the sealed bytes.
    """

    client: Annotated[str, Text(_MAX_NAME_BYTES)]
    box: Annotated[bytes, Blob(MAX_DETAILS_BYTES + SEAL_OVERHEAD_BYTES)]


@message("deletion-request")
@dataclass(frozen=True, kw_only=True)
class SignedRequest:
    """A deletion request as the server keeps it; see the module for what it tells and what it hides.

    Attributes:
        request_id: 16 random bytes.
        server: verification key of the server that is asked, 32 bytes: the request is worth nothing anywhere else.
        signer: who asks, by its name in the roster.
        scope: what kind of thing is to be forgotten.
        client: the client concerned; "" for persons or a class wherever they are.
        units: at most so many privacy units are covered, at least 1; a client refuses a request that covers more.
        submitted: when it was signed, in seconds since 1970 (UTC).
        deadline: when it has to be done, in the same seconds; later than `submitted`.
        disclosure: whether the certificate may name the signer.
        boxes: for each client concerned the sealed details, sorted by client.
        signature: by the signer over all of the above.

    Raises:
        ArgumentError: a field is not of this form.
    """

    request_id: Annotated[bytes, Fixed(REQUEST_ID_BYTES)]
    server: Annotated[bytes, Fixed(32)]
    signer: Annotated[str, Text(_MAX_NAME_BYTES)]
    scope: Annotated[Scope, Choice(Scope)]
    client: Annotated[str, Text(_MAX_NAME_BYTES)]
    units: Annotated[int, U32]
    submitted: Annotated[int, U64]
    deadline: Annotated[int, U64]
    disclosure: Annotated[Disclosure, Choice(Disclosure)]
    boxes: Annotated[tuple[SealedDetails, ...], Sequence(Nested(SealedDetails), MAX_BOXES)]
    signature: Annotated[bytes, Fixed(64)]

    def __post_init__(self) -> None:
        if len(self.request_id) != REQUEST_ID_BYTES:
            raise ArgumentError("request_id", f"{len(self.request_id)} bytes", f"{REQUEST_ID_BYTES} bytes")
        if not self.signer:
            raise ArgumentError("signer", self.signer, "the name of a party")
        require_times(self.submitted, self.deadline)
        if not 1 <= self.units <= _MAX_UNITS:
            raise ArgumentError("units", self.units, f"from 1 to {_MAX_UNITS}")
        if not self.client and self.scope not in (Scope.GROUP, Scope.CLASS):
            raise ArgumentError("client", self.client, f"the name of a client for scope {self.scope.value}")
        names = [box.client for box in self.boxes]
        if not names or names != sorted(set(names)):
            raise ArgumentError("boxes", f"{len(names)} boxes", "one or more, sorted by client, one for each client")
        if self.client and names != [self.client]:
            raise ArgumentError("boxes", f"{len(names)} boxes", "one box, to the client that the request names")

    @property
    def disclose(self) -> bool:
        """Whether the certificate may name who asked."""
        return self.disclosure is Disclosure.NAMED

    @property
    def digest(self) -> bytes:
        """SHA-256 of the encoding, 32 bytes.

        It commits to who asked without telling: boxes and id are random, so nobody can guess the request from it, and
        whoever has the request can show that it is the one.
        """
        return hashlib.sha256(encode(self)).digest()

    def concerns(self, client: str) -> bool:
        """Whether a client has to look for something to forget."""
        return any(box.client == client for box in self.boxes)

    def describe(self) -> str:
        """One sentence in plain words, of what is open to everybody."""
        what = {
            Scope.CLIENT: f"client {self.client} leaves",
            Scope.GROUP: "persons",
            Scope.RECORDS: "records",
            Scope.CLASS: "a class",
        }[self.scope]
        place = "" if self.scope is Scope.CLIENT else f" at {self.client or 'every client'}"
        return f"{what}{place}, at most {self.units} unit{'' if self.units == 1 else 's'}, to be forgotten"


@dataclass(frozen=True, kw_only=True)
class SignedBatch:
    """The requests that one window executes together.

    Attributes:
        window_id: 16 bytes, of this batch and no other; see :meth:`of`.
        opened: when the window was due, in seconds since 1970 (UTC).
        requests: sorted by id. May be empty where hidden units are covered: then it is a round for cover alone.
        hidden_units: so many units, at most, each client may forget on requests that the server does not see.

    Raises:
        ArgumentError: a field is not of this form.
    """

    window_id: bytes
    opened: int
    requests: tuple[SignedRequest, ...]
    hidden_units: int

    def __post_init__(self) -> None:
        if isinstance(self.hidden_units, bool) or not 0 <= self.hidden_units <= _MAX_UNITS:
            raise ArgumentError("hidden_units", self.hidden_units, f"from 0 to {_MAX_UNITS}")
        if not self.requests and not self.hidden_units:
            raise ArgumentError("requests", (), "at least one request, or hidden_units of at least 1")
        ids = [request.request_id for request in self.requests]
        if ids != sorted(set(ids)):
            raise ArgumentError("requests", f"{len(ids)} requests", "sorted by id, each once")
        if len(ids) > MAX_BATCH_REQUESTS:
            raise ArgumentError("requests", f"{len(ids)} requests", f"at most {MAX_BATCH_REQUESTS}")
        if self.window_id != _window_id(self.opened, ids, self.hidden_units):
            raise ArgumentError("window_id", self.window_id.hex(), "that of these requests; SignedBatch.of makes it")

    @classmethod
    def of(cls, opened: int, requests: Iterable[SignedRequest], hidden_units: int) -> SignedBatch:
        """The batch of a window.

        Its id is a hash of when the window was due, which requests it has and how many hidden units: the same batch has
        the same id after any restart, and another batch another.
        """
        chosen = tuple(sorted(requests, key=lambda request: request.request_id))
        ids = [request.request_id for request in chosen]
        return cls(
            window_id=_window_id(opened, ids, hidden_units), opened=opened, requests=chosen, hidden_units=hidden_units
        )

    @property
    def units(self) -> int:
        """At most so many units are forgotten on these requests; hidden ones, of each client, come on top."""
        return sum(request.units for request in self.requests)

    def describe(self) -> str:
        """One sentence in plain words, of what is open to everybody."""
        count = len(self.requests)
        hidden = f"up to {self.hidden_units} hidden units at each client"
        if not count:
            return f"no request; cover for {hidden}"
        said = f"{count} request{'' if count == 1 else 's'}, at most {self.units} unit{'' if self.units == 1 else 's'}"
        return f"{said}, and {hidden}" if self.hidden_units else said


def require_times(submitted: int, deadline: int) -> None:
    """Raise ``ArgumentError`` unless a request's times make sense."""
    if not 0 <= submitted < deadline <= _LATEST:
        expected = f"later than when the request is made, {submitted}, and at most {_LATEST} (unix seconds)"
        raise ArgumentError("deadline", deadline, expected)


def _window_id(opened: int, ids: list[bytes], hidden_units: int) -> bytes:
    said = b"secure-fu/1/window\0" + opened.to_bytes(8, "big") + hidden_units.to_bytes(4, "big") + b"".join(ids)
    return hashlib.sha256(said).digest()[:REQUEST_ID_BYTES]
