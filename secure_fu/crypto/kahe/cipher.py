"""Scheme ``kahe``: encrypt under a key of one's own, add ciphertexts, open the sum with the sum of the keys.

c = a s + T e + m in Z_q[X] / (X^N + 1), block by block, with the same key s in all blocks of one upload, fresh errors
e, and ``a`` uniform and public, from the hash of the round's header. Keys and errors are discrete Gaussian with
sigma = 6.4. The sum of ciphertexts is a ciphertext of the sum under the sum of the keys.

Guarantee
    Under ring-LWE, a ciphertext tells nothing but its layout to who lacks its key (one upload for each key and seed).
    Given the sums of all keys, errors and vectors over a set with two honest clients, the ciphertexts of the honest
    ones tell nothing more about their vectors than these sums do (Hint-RLWE; docs/kahe.md has the argument and the
    figures). A sum of at most ``clients`` uploads whose coordinates stay within ``largest_digit`` opens exactly, but
    with probability 2^-128.
Assumes
    A fresh key for each round and upload; a seed that was never used before (it is the hash of a header that names run
    and round); who opens has the sum of exactly the keys of the uploads in the total.
Not provided
    Ciphertexts are not authenticated and can be altered by whoever carries them: signatures are the protocol's. This is
    own lattice code, not audited; its running time may depend on secrets only through the error sampler.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from secure_fu.compiled import read_only
from secure_fu.crypto._checks import require_int
from secure_fu.crypto._secret import Secret
from secure_fu.crypto.kahe._expansion import expand
from secure_fu.crypto.kahe._ntt import Residues, ring_tables, times_key, transform_key
from secure_fu.crypto.kahe._packing import pack_block, unpack_block
from secure_fu.crypto.kahe._planes import fold, from_wire, to_wire
from secure_fu.crypto.kahe.layout import Layout
from secure_fu.crypto.kahe.parameters import SIGMA_SQUARED
from secure_fu.crypto.randomness import RandomStream, SecureStream
from secure_fu.discrete_gaussian import sample_discrete_gaussian
from secure_fu.errors import ArgumentError, CapacityError, CiphertextError, OpeningError, ReuseError

__all__ = ["CiphertextSum", "ClientKey", "open_sum"]


class ClientKey(Secret):
    """The secret key of one client for one round. Encrypts once; redacts its ``repr``; refuses pickling and copying."""

    __slots__ = ("_coefficients", "_layout", "_lock", "_process", "_used")

    def __init__(self, layout: Layout, coefficients: NDArray[np.int64]) -> None:
        self._layout = layout
        self._coefficients = coefficients
        self._coefficients.flags.writeable = False
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._used = False

    @classmethod
    def generate(cls, layout: Layout, *, stream: RandomStream | None = None) -> ClientKey:
        """Return a fresh key: N independent discrete Gaussians of width 6.4.

        Args:
            layout: the round's.
            stream: source of uniform words; a fresh :class:`~secure_fu.crypto.SecureStream` if not given.
        """
        words = SecureStream() if stream is None else stream
        return cls(layout, sample_discrete_gaussian(SIGMA_SQUARED, layout.parameter_set.degree, stream=words))

    @property
    def coefficients(self) -> NDArray[np.int64]:
        """The key itself, for sharing: shape (N,), int64, read only. Secret."""
        return self._coefficients

    def encrypt(self, values: NDArray[np.int64], *, seed: bytes, stream: RandomStream | None = None) -> bytes:
        """Encrypt one vector, once.

        Args:
            values: shape (length,), int64, each coordinate within ``layout.largest_digit``.
            seed: 32 bytes, the hash of the round's header.
            stream: source of uniform words for the errors; a fresh :class:`~secure_fu.crypto.SecureStream` if not
                given.

        Returns:
            ``layout.ciphertext_bytes`` bytes, whatever the vector.

        Raises:
            ArgumentError: ``values`` or ``seed`` has a wrong type or shape.
            CapacityError: a coordinate is too large.
            ReuseError: the key has encrypted before, or was made before this process was forked.
        """
        layout = self._layout
        _check_vector("values", values, layout.length)
        if int(values.max()) > layout.largest_digit or int(values.min()) < -layout.largest_digit:
            raise CapacityError(f"a coordinate exceeds {layout.largest_digit} in absolute value")
        publics = expand(layout.parameter_set, seed, layout.blocks)
        with self._lock:
            if self._used or os.getpid() != self._process:
                raise ReuseError("a client's key encrypts one vector, in the process that made it")
            self._used = True

        words = SecureStream() if stream is None else stream
        errors = sample_discrete_gaussian(SIGMA_SQUARED, layout.coefficients, stream=words)
        values = read_only(values)
        residues = np.empty(layout.residues, dtype=np.uint32)
        for block, start, masks in _masks(layout, publics, self._coefficients):
            stop = min(start + layout.parameter_set.degree, layout.coefficients)
            pack_block(layout, block, values, errors[start:stop], masks, _part(layout, residues, start, stop))
        return to_wire(layout, residues)


class CiphertextSum:
    """A running sum of ciphertexts: ``4 * layout.residues`` bytes, however many were added.

    Not for use by several threads at once.
    """

    __slots__ = ("_count", "_layout", "_total")

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._total = np.zeros(layout.residues, dtype=np.uint32)
        self._count = 0

    @property
    def count(self) -> int:
        """Ciphertexts added so far."""
        return self._count

    def add(self, ciphertext: bytes) -> None:
        """Add one ciphertext. When this raises, the sum is what it was.

        Raises:
            CapacityError: the sum holds ``layout.clients`` ciphertexts already.
            CiphertextError: the length is not the layout's, or a residue is not below its prime.
        """
        if self._count >= self._layout.clients:
            raise CapacityError(f"the sum holds {self._count} ciphertexts already, the size of the cohort")
        self._fold(from_wire(self._layout, ciphertext))

    def _fold(self, residues: Residues) -> None:
        """Add what ``from_wire`` made of a ciphertext."""
        fold(self._layout, self._total, residues)
        self._count += 1

    def total(self) -> bytes:
        """Return the sum, in the form of a ciphertext.

        Raises:
            CiphertextError: nothing was added yet.
        """
        if not self._count:
            raise CiphertextError("the sum is empty: add at least one ciphertext")
        return to_wire(self._layout, self._total)


def open_sum(
    layout: Layout, total: bytes, summed_key: NDArray[np.int64], *, seed: bytes, uploads: int
) -> NDArray[np.int64]:
    """Open a sum with the sum of the keys of its uploads.

    Args:
        layout: the round's.
        total: from :meth:`CiphertextSum.total`.
        summed_key: shape (N,), int64.
        seed: 32 bytes, the hash of the round's header.
        uploads: number of ciphertexts in the total, from 1 to ``layout.clients``.

    Returns:
        shape (length,), int64: the sum of the vectors, if each of its coordinates is within ``layout.largest_digit``.

    Raises:
        ArgumentError: ``summed_key``, ``seed`` or ``uploads`` is outside its domain.
        CiphertextError: ``total`` is not the one encoding of a ciphertext of this layout.
        OpeningError: the key is not that of the total (key confirmation: a coefficient of the key or an error is beyond
            the bound for so many uploads), or a digit or padding has a value that no sum within bounds has.
    """
    return _open(layout, total, summed_key, seed=seed, uploads=uploads)[0]


def _open(
    layout: Layout, total: bytes, summed_key: NDArray[np.int64], *, seed: bytes, uploads: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the opened vector and the opened errors, shape (coefficients,); see :func:`open_sum`."""
    uploads = require_int("uploads", uploads, least=1, most=layout.clients)
    _check_vector("summed_key", summed_key, layout.parameter_set.degree)
    residues = from_wire(layout, total)
    publics = expand(layout.parameter_set, seed, layout.blocks)
    key_bound = layout.key_bound(uploads)
    if int(summed_key.max()) > key_bound or int(summed_key.min()) < -key_bound:
        raise OpeningError(f"a coefficient of the key is beyond the bound for {uploads} uploads")
    values = np.empty(layout.length, dtype=np.int64)
    errors = np.empty(layout.coefficients, dtype=np.int64)
    for block, start, masks in _masks(layout, publics, summed_key):
        stop = min(start + layout.parameter_set.degree, layout.coefficients)
        unpack_block(
            layout,
            block,
            bound=layout.error_bound(uploads),
            residues=_part(layout, residues, start, stop),
            masks=masks,
            values=values,
            errors=errors[start:stop],
        )
    return values, errors


def _masks(layout: Layout, publics: Residues, key: NDArray[np.int64]) -> Iterator[tuple[int, int, Residues]]:
    """Yield (block, its first coefficient, a s for it); the last, shape (L, N), is overwritten by the next."""
    tables = ring_tables(layout.parameter_set)
    transformed = transform_key(key, tables)
    masks = np.empty(publics.shape[1:], dtype=np.uint32)
    for block in range(layout.blocks):
        times_key(publics[block], transformed, tables, masks)
        yield block, block * layout.parameter_set.degree, masks


def _part(layout: Layout, residues: Residues, start: int, stop: int) -> Residues:
    rows = len(layout.parameter_set.primes)
    return residues[start * rows : stop * rows]


def _check_vector(argument: str, values: object, length: int) -> None:
    if not isinstance(values, np.ndarray) or values.dtype != np.int64 or values.shape != (length,):
        found = f"{values.dtype} of shape {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
        raise ArgumentError(argument, found, f"int64 of shape ({length},)")
