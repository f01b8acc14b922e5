"""The interface of additively homomorphic schemes with a key-holder: encrypt integer vectors, add, open the sum.

Scheme `kahe`, which has none, is :mod:`secure_fu.crypto.kahe`.

Public and secret objects are different types. A :class:`PublicKey` encrypts and adds and can do nothing else; an
:class:`OpeningKey` opens one sum, once.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secure_fu.crypto._checks import require_int
from secure_fu.crypto._secret import Secret
from secure_fu.errors import ArgumentError, CapacityError, CiphertextError, OpeningError, ReuseError

__all__ = [
    "Accumulator",
    "KeyHolderScheme",
    "OpeningKey",
    "PublicKey",
    "check_belongs",
    "check_opened",
    "check_opening",
    "check_vector",
]


class PublicKey:
    """The public half of a round's key, as :meth:`KeyHolderScheme.load_public_key` returns it. Holds no secret.

    Attributes:
        key_id: 16 bytes that name the key; every ciphertext carries them. They are no authentication.
    """

    __slots__ = ("key_id",)

    def __init__(self, key_id: bytes) -> None:
        self.key_id = key_id

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.key_id.hex()}>"


class OpeningKey(Secret):
    """The secret half of a round's key. Opens one sum; redacts its ``repr``; refuses pickling and copying."""

    __slots__ = ("_lock", "_public_bytes", "_secret", "key_id")

    def __init__(self, *, public_bytes: bytes, key_id: bytes, secret: Any) -> None:
        self.key_id = key_id
        self._public_bytes = public_bytes
        self._secret = secret
        self._lock = threading.Lock()

    @property
    def public_bytes(self) -> bytes:
        """The public half, for :meth:`KeyHolderScheme.load_public_key`."""
        return self._public_bytes

    def _take(self) -> Any:
        """Hand over the secret and forget it. Of several threads, one gets it and all others raise.

        Raises:
            ReuseError: it was taken before.
        """
        with self._lock:
            secret, self._secret = self._secret, None
        if secret is None:
            raise ReuseError(f"this {type(self).__name__} has opened its sum; every round needs a fresh key")
        return secret


class Accumulator(ABC):
    """A running sum of ciphertexts. Holds one ciphertext, whatever the number that was added."""

    @property
    @abstractmethod
    def count(self) -> int:
        """How many ciphertexts are in the sum."""

    @abstractmethod
    def add(self, ciphertext: bytes) -> None:
        """Add one upload. When this raises, the sum is as before.

        Raises:
            WireError: the bytes are no upload of this scheme.
            CiphertextError: the upload is for another key or length, or is not a fresh ciphertext of this parameter
                set.
            CapacityError: the sum holds ``max_clients`` ciphertexts already.
        """

    @abstractmethod
    def total(self) -> bytes:
        """Return the encrypted sum, for :meth:`KeyHolderScheme.open`. More may be added afterwards.

        Raises:
            CiphertextError: nothing was added.
        """


class KeyHolderScheme(ABC):
    """An additively homomorphic scheme with a key-holder; stateless, so one instance serves everybody.

    Attributes:
        name: the name in the registry.
        parameter_set: names every parameter; goes into each round's header.
        secure: whether ciphertexts hide anything at all.
        max_clients: the most ciphertexts whose sum still opens exactly.
        capacity: the largest absolute value of a coordinate, of an upload or of a sum, that opens exactly.
    """

    name: str
    parameter_set: str
    secure: bool
    max_clients: int
    capacity: int

    def check_capacity(self, *, clients: int, magnitude: int) -> None:
        """Return only if every sum of ``clients`` uploads with coordinates up to ``magnitude`` opens exactly.

        Raises:
            ArgumentError: ``clients`` is below 1, or ``magnitude`` negative.
            CapacityError: it might not.
        """
        clients = require_int("clients", clients, least=1)
        magnitude = require_int("magnitude", magnitude, least=0)
        if clients > self.max_clients:
            raise CapacityError(f"{clients} clients; scheme {self.name!r} sums at most {self.max_clients} exactly")
        if clients * magnitude > self.capacity:
            raise CapacityError(
                f"{clients} uploads with coordinates up to {magnitude} can reach {clients * magnitude}; "
                f"scheme {self.name!r} holds at most {self.capacity}"
            )

    @abstractmethod
    def generate_key(self) -> OpeningKey:
        """Return a fresh key pair, for one round."""

    @abstractmethod
    def load_public_key(self, data: bytes) -> PublicKey:
        """Return the public key whose bytes are ``data``.

        Raises:
            WireError: the bytes are no public key of this scheme.
            SecretKeyExposedError: they hold a secret, relinearisation or Galois key.
            CiphertextError: they are of another parameter set, or the key in them is invalid.
        """

    @abstractmethod
    def encrypt(self, key: PublicKey, values: NDArray[np.int64]) -> bytes:
        """Encrypt one vector, as an upload.

        Args:
            values: shape (d,) with d >= 1, dtype int64, every coordinate within ``capacity``.

        Raises:
            ArgumentError: ``values`` has another shape or dtype, or ``key`` is of another scheme.
            CapacityError: a coordinate is beyond ``capacity``.
        """

    @abstractmethod
    def accumulator(self, key: PublicKey, length: int) -> Accumulator:
        """Return an empty sum of vectors with ``length`` coordinates under ``key``.

        Raises:
            ArgumentError: ``length`` is below 1 or beyond the format, or ``key`` is of another scheme.
        """

    @abstractmethod
    def open(self, key: OpeningKey, total: bytes, *, length: int, bound: int) -> NDArray[np.int64]:
        """Open a sum. Uses ``key`` up as soon as anything is decrypted, whether or not the result is accepted.

        Args:
            length: d, the number of coordinates of the vectors.
            bound: the largest absolute value that a coordinate of an honest sum can have; at most ``capacity``.

        Returns:
            shape (d,), int64.

        Raises:
            ArgumentError: ``length`` or ``bound`` is out of range, or ``key`` is of another scheme; ``key`` stays
                usable.
            WireError: the bytes are no total of this scheme; ``key`` stays usable.
            CiphertextError: the total is for another key, length or parameter set; ``key`` stays usable.
            ReuseError: ``key`` has opened a sum before.
            OpeningError: a coordinate is beyond ``bound``, or padding is not zero. The message holds no value.
        """


def check_vector(values: NDArray[np.int64], *, capacity: int, max_length: int) -> None:
    """Refuse what :meth:`KeyHolderScheme.encrypt` refuses. Messages hold shapes and types, no value.

    Raises:
        ArgumentError: ``values`` is not an int64 array of shape (d,), 1 <= d <= ``max_length``.
        CapacityError: a coordinate is beyond ``capacity``.
    """
    if not isinstance(values, np.ndarray):
        raise ArgumentError("values", type(values).__name__, "a numpy array")
    if values.dtype != np.int64 or values.ndim != 1 or not 1 <= values.size <= max_length:
        raise ArgumentError(
            "values", f"{values.dtype} of shape {values.shape}", f"int64 of shape (d,), 1 <= d <= {max_length}"
        )
    # Not abs(): it overflows on the least int64.
    if int(values.max()) > capacity or int(values.min()) < -capacity:
        raise CapacityError(f"values has a coordinate beyond the capacity of {capacity}")


def check_opening(
    scheme: KeyHolderScheme, *, key_id: bytes, total_key_id: bytes, length: int, total_length: int, bound: int
) -> None:
    """Refuse, before anything is decrypted, what :meth:`KeyHolderScheme.open` refuses from public knowledge alone.

    Raises:
        ArgumentError: ``bound`` is not an int from 0 to the scheme's capacity.
        CiphertextError: the total belongs to another key or length.
    """
    require_int("bound", bound, least=0, most=scheme.capacity)
    check_belongs("the total", key_id=key_id, found_key_id=total_key_id, length=length, found_length=total_length)


def check_belongs(what: str, *, key_id: bytes, found_key_id: bytes, length: int, found_length: int) -> None:
    """Raise ``CiphertextError`` unless a ciphertext is for this key and length."""
    if found_key_id != key_id:
        raise CiphertextError(f"{what} is for key {found_key_id.hex()}, not for {key_id.hex()}")
    if found_length != length:
        raise CiphertextError(f"{what} has {found_length} coordinates, not {length}")


def check_opened(opened: NDArray[np.int64], *, length: int, bound: int) -> NDArray[np.int64]:
    """Return the first ``length`` coordinates of ``opened`` if they can be an honest sum.

    Args:
        opened: shape (at least ``length``,), int64; what follows the first ``length`` coordinates is padding.

    Raises:
        OpeningError: a coordinate is beyond ``bound``, or the padding is not zero. The message holds no value.
    """
    values, padding = opened[:length], opened[length:]
    if int(values.max()) > bound or int(values.min()) < -bound:
        raise OpeningError(f"the opened sum has a coordinate beyond the range of an honest sum, {bound}")
    if padding.any():
        raise OpeningError("the opened sum has padding that is not zero")
    return values
