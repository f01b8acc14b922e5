"""Scheme ``plain``: INSECURE. Vectors travel as they are; anybody can read every upload.

For comparison only: what a federation costs and computes without encryption, through the same interface and with the
same checks. ``secure`` is False, and whoever runs this must say so wherever results are shown.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated, Final

import numpy as np
from numpy.typing import NDArray

from secure_fu.crypto._checks import require_int
from secure_fu.crypto.scheme import (
    Accumulator,
    KeyHolderScheme,
    OpeningKey,
    PublicKey,
    check_belongs,
    check_opened,
    check_opening,
    check_vector,
)
from secure_fu.crypto.wire import U32, Blob, Fixed, decode, encode, message
from secure_fu.errors import ArgumentError, CapacityError, CiphertextError

__all__ = ["Plain", "PlainOpeningKey", "PlainPublicKey"]

_KEY_ID_BYTES: Final = 16
_MAX_LENGTH: Final = 1 << 28


@message("plain/public-key")
@dataclass(frozen=True, kw_only=True)
class _PublicKeyMessage:
    key_id: Annotated[bytes, Fixed(_KEY_ID_BYTES)]


@dataclass(frozen=True, kw_only=True)
class _Values:
    key_id: Annotated[bytes, Fixed(_KEY_ID_BYTES)]
    length: Annotated[int, U32]
    values: Annotated[bytes, Blob(_MAX_LENGTH * 8)]


@message("plain/upload")
@dataclass(frozen=True, kw_only=True)
class _Upload(_Values):
    pass


@message("plain/total")
@dataclass(frozen=True, kw_only=True)
class _Total(_Values):
    pass


class PlainPublicKey(PublicKey):
    """The name of a round, no key."""

    __slots__ = ()


class PlainOpeningKey(OpeningKey):
    """The right to open one sum; holds nothing that is needed for it."""

    __slots__ = ()


def _values(parts: _Values, capacity: int) -> NDArray[np.int64]:
    if len(parts.values) != 8 * parts.length:
        raise CiphertextError(f"{len(parts.values)} bytes for {parts.length} coordinates, not {8 * parts.length}")
    values = np.frombuffer(parts.values, dtype="<i8").astype(np.int64)
    if int(values.max()) > capacity or int(values.min()) < -capacity:
        raise CiphertextError(f"a coordinate is beyond the capacity of {capacity}")
    return values


def _pack(values: NDArray[np.int64]) -> bytes:
    return values.astype("<i8").tobytes()


class _PlainAccumulator(Accumulator):
    def __init__(self, key: PlainPublicKey, *, length: int, capacity: int, max_clients: int) -> None:
        self._key = key
        self._capacity = capacity
        self._max_clients = max_clients
        self._count = 0
        self._sum = np.zeros(length, dtype=np.int64)

    @property
    def count(self) -> int:
        return self._count

    def add(self, ciphertext: bytes) -> None:
        if self._count >= self._max_clients:
            raise CapacityError(f"the sum holds {self._count} vectors already, the most that it may")
        parts = decode(_Upload, ciphertext)
        check_belongs(
            "the upload",
            key_id=self._key.key_id,
            found_key_id=parts.key_id,
            length=self._sum.size,
            found_length=parts.length,
        )
        # Both terms are at most 2^62, so the only sum that wraps is +2^63, to -2^63, which is beyond the capacity as
        # well.
        total = self._sum + _values(parts, self._capacity)
        if int(total.max()) > self._capacity or int(total.min()) < -self._capacity:
            raise CapacityError(f"the sum has a coordinate beyond the capacity of {self._capacity}")
        self._sum = total
        self._count += 1

    def total(self) -> bytes:
        if not self._count:
            raise CiphertextError("the sum is empty: add at least one ciphertext")
        return encode(_Total(key_id=self._key.key_id, length=self._sum.size, values=_pack(self._sum)))


class Plain(KeyHolderScheme):
    """INSECURE: no encryption at all. The interface, range checks and refusals of the secure schemes."""

    name = "plain"
    parameter_set = "plain-int64"
    secure = False
    capacity = 1 << 62
    max_clients = 1 << 32

    def generate_key(self) -> PlainOpeningKey:
        """Return a fresh key pair, for one round."""
        key_id = os.urandom(_KEY_ID_BYTES)
        return PlainOpeningKey(public_bytes=encode(_PublicKeyMessage(key_id=key_id)), key_id=key_id, secret=key_id)

    def load_public_key(self, data: bytes) -> PlainPublicKey:
        """Return the public key whose bytes are ``data``; see :meth:`KeyHolderScheme.load_public_key`."""
        return PlainPublicKey(decode(_PublicKeyMessage, data).key_id)

    def encrypt(self, key: PublicKey, values: NDArray[np.int64]) -> bytes:
        """Write down one vector as an upload; see :meth:`KeyHolderScheme.encrypt`."""
        public = _own_public_key(key)
        check_vector(values, capacity=self.capacity, max_length=_MAX_LENGTH)
        return encode(_Upload(key_id=public.key_id, length=values.size, values=_pack(values)))

    def accumulator(self, key: PublicKey, length: int) -> Accumulator:
        """Return an empty sum; see :meth:`KeyHolderScheme.accumulator`."""
        length = require_int("length", length, least=1, most=_MAX_LENGTH)
        return _PlainAccumulator(
            _own_public_key(key), length=length, capacity=self.capacity, max_clients=self.max_clients
        )

    def open(self, key: OpeningKey, total: bytes, *, length: int, bound: int) -> NDArray[np.int64]:
        """Open a sum, once for each key; see :meth:`KeyHolderScheme.open`."""
        if not isinstance(key, PlainOpeningKey):
            raise ArgumentError("key", type(key).__name__, "an opening key of scheme 'plain'")
        length = require_int("length", length, least=1, most=_MAX_LENGTH)
        parts = decode(_Total, total)
        check_opening(
            self,
            key_id=key.key_id,
            total_key_id=parts.key_id,
            length=length,
            total_length=parts.length,
            bound=bound,
        )
        values = _values(parts, self.capacity)
        key._take()
        return check_opened(values, length=length, bound=bound)


def _own_public_key(key: PublicKey) -> PlainPublicKey:
    if not isinstance(key, PlainPublicKey):
        raise ArgumentError("key", type(key).__name__, "a public key of scheme 'plain'")
    return key
