"""What an order covers at a client: its requests checked and opened, and found among the client's own records."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from secure_fu.crypto import Identity
from secure_fu.deletion import DeletionRequest, Scope
from secure_fu.deletion.requests import (
    RequestFromTheFuture,
    RequestRefused,
    SignedRequest,
    check_signature,
    decode_request,
    open_request,
)
from secure_fu.deletion.wiping import order_digest
from secure_fu.deployment.exchange.messages import Order, method_of, order_settings
from secure_fu.deployment.logs import event
from secure_fu.deployment.node.directory import NodeDirectory
from secure_fu.deployment.node.state import PrivateRequest
from secure_fu.errors import ArgumentError, CryptoError, PolicyRefusal, SecureFUError
from secure_fu.federation.marks import count_units
from secure_fu.learning import Records
from secure_fu.privacy import Unit
from secure_fu.protocol.header import parse_settings
from secure_fu.training import check_whole_units
from secure_fu.unlearning import settings_of

__all__ = ["Marked", "check_order", "mark_order", "marks_of", "requests_digest"]

_LOGGER = logging.getLogger("secure_fu")
_REASONS: Final = {
    "records": "it names a record that this client has not",
    "request": "it names a person, and the records here have no group column",
    "units": "it covers more units than it declares",
}
"""Why a request cannot be done, by the argument that is at fault."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Marked:
    """What an order covers at a client.

    Attributes:
        marks: positions of records, as they were brought, ascending.
        private: ids of the private requests among what is covered.
        given: ids of the requests that the order showed this client.
        undone: ids of requests of the order that cannot be done here.
    """

    marks: NDArray[np.int64]
    private: tuple[bytes, ...]
    given: tuple[bytes, ...]
    undone: tuple[bytes, ...]


def requests_digest(order: Order) -> bytes:
    """SHA-256 of what may not change under one window: when it was due, its requests and hidden units; 32 bytes."""
    return order_digest(
        window_id=order.window_id,
        opened=order.opened,
        method="",
        settings="",
        request_digests=order.request_digests,
        hidden_units=order.hidden_units,
        continues_after=0,
    )


def check_order(
    order: Order, files: NodeDirectory, now: int, *, settled: Collection[bytes]
) -> tuple[SignedRequest, ...]:
    """The requests that an order shows this client, each one signed by who may ask for it; from what is public alone.

    A deadline that has passed is no reason to refuse: what was asked for in time is better forgotten late than never,
    and the certificate tells.

    Not guaranteed:
        That digests without a request are of requests: whom a request does not concern has the server's word for it,
        in the smallest batch too.

    Args:
        now: seconds since 1970 (UTC).
        settled: digests of requests that were in windows which are executed: they fill up no batch.

    Raises:
        RequestRefused: a request is forged, from the future, or not the signer's to make.
        ConfigError, PolicyRefusal: a method or settings that are not allowed; fewer requests than the pinned smallest
            batch, or more than the largest; more hidden units than are pinned; the same request twice, or one that the
            digests do not have.
    """
    _check_method(order, files)
    digests = frozenset(order.request_digests)
    if list(order.request_digests) != sorted(digests):
        raise PolicyRefusal("the order's digests are not sorted, or it has the same request twice")
    if not digests.issuperset(hashlib.sha256(content).digest() for content in order.requests):
        raise PolicyRefusal("the order shows a request that is not among its digests")
    requests = tuple(decode_request(content) for content in order.requests)
    if len({request.request_id for request in requests}) != len(requests):
        raise PolicyRefusal("the order has the same request twice")
    _check_counts(order, files, fresh=len(digests.difference(settled)))
    pinned = files.deletion_policy
    for request in requests:
        check_signature(request, roster=files.roster, policy=pinned)
        if request.submitted > now + pinned.clock_tolerance_seconds:
            raise RequestFromTheFuture(f"the request was submitted at {request.submitted}, and it is only {now}")
    return requests


def _check_method(order: Order, files: NodeDirectory) -> None:
    if f"unlearn/{order.method}" not in files.policy.purposes:  # before any code is looked for under that name
        raise PolicyRefusal(
            f"the order's method is {order.method!r}; the policy allows {sorted(files.policy.purposes)}"
        )
    method, pinned = method_of(order.method, order.settings), files.pinned_method
    told_all = parse_settings(order.settings).keys() == settings_of(method).keys()
    if pinned is not None and not (method == pinned and told_all):
        raise PolicyRefusal(
            f"the order's method is {order.method!r} with {order.settings}; the pinned deletion policy has "
            f"{pinned.name!r} with {order_settings(pinned)}"
        )


def _check_counts(order: Order, files: NodeDirectory, *, fresh: int) -> None:
    count, pinned = len(order.request_digests), files.deletion_policy
    if fresh < pinned.minimum_batch and not (pinned.cover and not count):
        # Hidden units do not count: for all that anybody knows there are none.
        raise PolicyRefusal(
            f"the order has {fresh} requests of no executed window; the pinned deletion policy serves "
            f"{pinned.minimum_batch} or more together"
        )
    if count > pinned.maximum_batch:
        raise PolicyRefusal(
            f"the order has {count} requests; the pinned deletion policy serves {pinned.maximum_batch} or fewer"
        )
    if order.hidden_units > pinned.hidden_units:
        raise PolicyRefusal(
            f"the order has {order.hidden_units} hidden units; the pinned deletion policy has {pinned.hidden_units}"
        )
    if not count and not order.hidden_units:
        raise PolicyRefusal("the order has neither requests nor hidden units")


def mark_order(
    requests: Sequence[SignedRequest],
    identity: Identity,
    *,
    private: Iterable[PrivateRequest],
    hidden_units: int,
    brought: Records,
    gone: NDArray[np.bool_],
    unit: Unit,
) -> Marked:
    """Find what an order covers here. Raises nothing that depends on data; see :class:`Marked`.

    Args:
        requests: checked; those that do not concern this client are passed over.
        private: of this client, in the order in which they came.
        hidden_units: how many units private requests may add.
        brought: all records, as they were brought; only labels and groups are looked at.
        gone: which of them have been forgotten, shape (n,).
        unit: the privacy unit.
    """
    found: dict[bytes, NDArray[np.bool_]] = {}
    undone: list[bytes] = []
    for request in requests:
        if not request.concerns(identity.name):
            continue
        try:
            mask = _covered(open_request(request, identity), identity.name, brought, gone)
            units = _units(brought, mask, unit)
            if units > request.units and not _leaves(request, identity.name):
                raise ArgumentError("units", request.units, f"at least {units}")
        except SecureFUError as error:
            _undone(identity.name, request.request_id, _why_undone(error))
            undone.append(request.request_id)
        else:
            if units > request.units:
                _LOGGER.warning(
                    "client %s leaves with request %s, which declares fewer units than there are: the figures of the "
                    "certificate are too small for it",
                    identity.name,
                    request.request_id.hex(),
                )
            found[request.request_id] = mask
    marks = _union(found.values(), len(brought))
    if not _is_whole(brought, marks, gone, unit):
        for request_id, mask in tuple(found.items()):
            if not _is_whole(brought, mask, gone, unit):
                _undone(identity.name, request_id, "it covers a part of a unit")
                undone.append(request_id)
                del found[request_id]
        marks = _union(found.values(), len(brought))
    joined: list[bytes] = []
    left = hidden_units
    for one in private:
        if one.wiped:
            joined.append(one.request_id)  # it waits for a window that unlearns; there is nothing left to mark
            continue
        try:
            mask = _covered(one.request, identity.name, brought, gone) & ~marks
        except SecureFUError as error:
            _LOGGER.warning("client %s: a private request cannot be done (%s)", identity.name, type(error).__name__)
            continue
        units = _units(brought, mask, unit)
        if units > left or not _is_whole(brought, marks | mask, gone, unit):
            _LOGGER.warning("client %s: a private request waits: it does not fit in this window", identity.name)
            continue
        marks, left = marks | mask, left - units
        joined.append(one.request_id)
    given = tuple(request.request_id for request in requests)
    return Marked(marks=np.flatnonzero(marks), private=tuple(joined), given=given, undone=tuple(undone))


def marks_of(places: Iterable[int], length: int) -> NDArray[np.bool_]:
    """Positions as a mark, shape (length,)."""
    marks = np.zeros(length, dtype=np.bool_)
    marks[list(places)] = True
    return marks


def _leaves(request: SignedRequest, client: str) -> bool:
    """Whether a client asks that all of it goes: then there is nothing that a bound could spare."""
    return request.scope is Scope.CLIENT and request.signer == request.client == client


def _covered(request: DeletionRequest, client: str, brought: Records, gone: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return request.identify(client, brought) & ~gone


def _units(brought: Records, mask: NDArray[np.bool_], unit: Unit) -> int:
    return count_units(brought, mask, unit) if mask.any() else 0


def _union(masks: Iterable[NDArray[np.bool_]], length: int) -> NDArray[np.bool_]:
    marks = np.zeros(length, dtype=np.bool_)
    for mask in masks:
        marks |= mask
    return marks


def _is_whole(brought: Records, mask: NDArray[np.bool_], gone: NDArray[np.bool_], unit: Unit) -> bool:
    try:
        check_whole_units(brought.subset(~gone), mask[~gone], unit)
    except ArgumentError:
        return False
    return True


def _undone(client: str, request_id: bytes, why: str) -> None:
    """Say so in the node's own log. The id is in the server's queue with who asked; of private ones there is none."""
    said = {"client": client, "request": request_id.hex(), "reason": f"{why}; tell who asked"}
    _LOGGER.error("a request is left undone", extra=event("request-left-undone", said))


def _why_undone(error: SecureFUError) -> str:
    """In words, and without the text of the error, which could quote the request."""
    if isinstance(error, ArgumentError):
        return _REASONS.get(error.argument, type(error).__name__)
    return "what it covers cannot be read" if isinstance(error, (CryptoError, RequestRefused)) else type(error).__name__
