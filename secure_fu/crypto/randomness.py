"""Random streams: AES-256 in counter mode under a fresh key of the operating system.

Guarantee
    Every word that a :class:`SecureStream` hands out is a fresh word of one AES-256-CTR keystream whose key came from
    ``os.urandom`` and exists nowhere else; no word is handed out twice, in no process that this interpreter forks.
Assumes
    The operating system's generator is seeded; AES-256 is a pseudo-random permutation (a stream is indistinguishable
    from uniform up to about 2^64 blocks); the memory of the process is not restored from a snapshot (a restored virtual
    machine repeats everything, keystreams included).
"""

from __future__ import annotations

import hashlib
import os
import threading
from typing import Protocol

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from secure_fu.crypto._checks import require_int
from secure_fu.crypto._secret import Secret
from secure_fu.errors import ArgumentError, ReuseError

__all__ = [
    "InsecureDeterministicRandomness",
    "OsRandomness",
    "RandomStream",
    "Randomness",
    "SecureStream",
]

# The zeros that are encrypted to keystream. Their length is the block in which output is written: small enough that
# source and destination stay in the second-level cache, large enough that the call overhead vanishes.
_ZEROS = bytes(1 << 17)


class RandomStream(Protocol):
    """A sequence of uniform words, each handed out once."""

    def words(self, count: int) -> NDArray[np.uint64]:
        """Return the next ``count`` words: shape (count,), uint64, uniform and independent of all words before."""
        ...


class Randomness(Protocol):
    """A source of independent streams."""

    def stream(self, label: str) -> RandomStream:
        """Return a fresh stream, independent of all others, also of those with an equal ``label``."""
        ...


class _AesStream(Secret):
    """The AES-256-CTR keystream under ``key``, from the block with number zero on, as little-endian 64-bit words."""

    __slots__ = ("_keystream", "_process")

    def __init__(self, key: bytes) -> None:
        self._keystream = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
        self._process = os.getpid()

    def words(self, count: int) -> NDArray[np.uint64]:
        """Return the next ``count`` words of the keystream.

        Returns:
            shape (count,), uint64.

        Raises:
            ArgumentError: ``count`` is not an int of at least 0.
            ReuseError: the stream was made in another process (this one is a fork of it, and would repeat its words).
        """
        count = require_int("count", count, least=0)
        if os.getpid() != self._process:
            raise ReuseError(
                f"{type(self).__name__} was made before this process was forked; make a fresh stream in the child"
            )
        out = np.empty(count, dtype="<u8")
        if count:
            view = out.view(np.uint8).data
            for start in range(0, len(view), len(_ZEROS)):
                part = view[start : start + len(_ZEROS)]
                self._keystream.update_into(_ZEROS[: len(part)], part)
        return out.astype(np.uint64, copy=False)


class SecureStream(_AesStream):
    """A keystream under a fresh 256-bit key from ``os.urandom``.

    The key is not kept outside the cipher. The stream refuses to be pickled, copied, or used in a forked child.
    Concurrent calls from two threads either get different words or raise; they never share one.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(os.urandom(32))


class OsRandomness:
    """The secure source: every stream has its own fresh key."""

    __slots__ = ()

    def stream(self, label: str) -> SecureStream:
        """Return a fresh :class:`SecureStream`. ``label`` is not used: fresh keys need no separation.

        Raises:
            ArgumentError: ``label`` is empty or not a string (checked so that every source accepts the same labels).
        """
        _check_label(label)
        return SecureStream()


class _InsecureDeterministicStream(_AesStream):
    """A keystream that anyone who knows the seed can repeat."""

    __slots__ = ()


class InsecureDeterministicRandomness(Secret):
    """INSECURE, for tests only: streams that repeat from run to run. Whoever knows the seed knows every word.

    The stream of the n-th call with a label is a function of (seed, label, n) alone, so calls with other labels in
    between change nothing, and no two calls give the same stream.

    Args:
        seed: at least 0.

    Raises:
        ArgumentError: ``seed`` is not an int of at least 0.
    """

    __slots__ = ("_calls", "_lock", "_seed")

    def __init__(self, seed: int) -> None:
        self._seed = require_int("seed", seed, least=0)
        self._calls: dict[str, int] = {}
        self._lock = threading.Lock()

    def stream(self, label: str) -> _InsecureDeterministicStream:
        """Return the next stream of ``label``.

        Raises:
            ArgumentError: ``label`` is empty or not a string.
        """
        _check_label(label)
        with self._lock:
            call = self._calls.get(label, 0)
            self._calls[label] = call + 1
        # Decimal numbers hold no NUL and the label comes last, so no two triples give the same text.
        text = f"secure-fu/1/insecure-deterministic\0{self._seed}\0{call}\0{label}"
        return _InsecureDeterministicStream(hashlib.sha256(text.encode()).digest())


def _check_label(label: object) -> None:
    if not isinstance(label, str) or not label:
        raise ArgumentError("label", label, "a string that is not empty")
