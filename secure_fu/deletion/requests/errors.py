"""Why a deletion request may not be served."""

from __future__ import annotations

from secure_fu.errors import ProtocolError

__all__ = [
    "RequestExpired",
    "RequestForged",
    "RequestFromTheFuture",
    "RequestRefused",
    "RequestTooLarge",
    "RequestUnauthorised",
    "TooManyWaiting",
]


class RequestRefused(ProtocolError):
    """A deletion request that may not be served; nothing was changed."""


class RequestForged(RequestRefused):
    """The request was not signed, in this form and for this server, by the party that it names."""


class RequestExpired(RequestRefused):
    """The request's deadline has passed."""


class RequestFromTheFuture(RequestRefused):
    """The request was submitted later than now, beyond what clocks may differ."""


class RequestTooLarge(RequestRefused):
    """The request covers more units than the policy allows."""


class TooManyWaiting(RequestRefused):
    """As much of this signer waits already as the policy allows; it can be handed in again when some is done."""


class RequestUnauthorised(RequestRefused):
    """The signer may not ask for this."""
