"""Why a deletion request may not be served."""

from __future__ import annotations

from secure_fu.errors import ProtocolError

__all__ = ["RequestExpired", "RequestForged", "RequestFromTheFuture", "RequestRefused", "RequestUnauthorised"]


class RequestRefused(ProtocolError):
    """A deletion request that may not be served; nothing was changed."""


class RequestForged(RequestRefused):
    """The request was not signed, in this form and for this server, by the party that it names."""


class RequestExpired(RequestRefused):
    """The request's deadline has passed."""


class RequestFromTheFuture(RequestRefused):
    """The request was submitted later than now, beyond what clocks may differ."""


class RequestUnauthorised(RequestRefused):
    """The signer may not ask for this."""
