"""Scheme ``bfv``: Brakerski / Fan-Vercauteren encryption, 4096 integers a ciphertext, by Microsoft SEAL in TenSEAL.

N = 4096, plain modulus t a prime of 30 bits, ciphertext modulus q of 54 bits, key-switching prime P of 36 bits: 90 of
the 109 bits that the HomomorphicEncryption.org table allows for ternary secrets at 128 bits of security.

An upload is its key's name, its length, and the coefficients of its ciphertexts, 54 bits each: 13.5 bytes a parameter.
It has one encoding. Adding is addition modulo q, so the total does not depend on the order, and whoever has the uploads
can compute it again to the byte.

Guarantee
    Whoever lacks the opening key learns nothing from uploads but their length and key (IND-CPA under ring-LWE). A sum
    of at most ``max_clients`` honestly encrypted vectors whose coordinates stay within ``capacity`` opens to exactly
    the sum of the vectors. A total under another key, or of random ciphertexts, is refused: one of its coordinates
    passes the range check with probability (2 bound + 1) / t, all of them with the d-th power of that, and each padding
    slot with 1 / t.
Assumes
    An honest-but-curious server and honest-but-curious clients. The key-holder cannot check *which* sum it opens: a
    server that sends it a single upload as the total gets that upload opened. Ciphertexts are not authenticated; forged
    ones can, when opened, give away the secret key. The range check refuses the known forgery that yields all key
    slots, and the key is fresh each round and opens once, but a forgery made to pass (one with a single non-zero slot
    passes with probability (2 bound + 1) / t) is not ruled out. With ``bound`` near ``capacity`` the range check checks
    next to nothing. There is no circuit privacy and no flooding: with the secret key a total also shows its error, a
    function of the single uploads.

How many ciphertexts a sum can hold
    SEAL decrypts the phase c0 + c1 s = (q/t) M + V mod q to M exactly while |V| < (q/t) (1/2 - 1/gamma), where gamma is
    an auxiliary prime of 61 bits (Bajard, Eynard, Hasan, Zucca, SAC 2016). V of a sum is the sum of the terms of its
    ciphertexts. Each is encrypted as SEAL 4 does: a public-key encryption of zero modulo q P, divided by P and rounded,
    plus round((q/t) m); a test measures that the noise is that of this procedure. With N, B = 21 (the largest error of
    SEAL's centred binomial sampler; 19 for its clipped Gaussian) and ternary s and u, every coefficient of the noise of
    a fresh ciphertext is at most

        v  =  N B + B + N B, over P     u e + e1 + e2 s, the noise of the encryption of zero, divided by P
            + 1/2 + N/2                 rounding c0, and rounding c1 times s
            + 1/2                       rounding (q/t) m

    so sums of n are exact for every n <= (q/t) (1/2 - 1/gamma) / v. This is a worst case, not a tail bound: the
    probability of failure is zero. That matters, because bounds that take ciphertexts to be independent do not hold
    when a server adds one ciphertext many times (the attacks on exact schemes of ePrint 2024/116).
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Final

import numpy as np
from numpy.typing import NDArray

from secure_fu.crypto._checks import require_int
from secure_fu.crypto._packing import pack, packed_size, unpack
from secure_fu.crypto._tenseal import COEFFICIENT_BITS, DEGREE, PLAIN_MODULUS, Tenseal, Words
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
from secure_fu.crypto.wire import U32, Blob, Fixed, Sequence, Text, decode, encode, message
from secure_fu.errors import ArgumentError, CapacityError, CiphertextError

__all__ = ["Bfv", "BfvOpeningKey", "BfvPublicKey", "exact_sum_limit"]

_KEY_ID_BYTES: Final = 16
_MAX_BLOCKS: Final = 1 << 16
_MAX_LENGTH: Final = _MAX_BLOCKS * DEGREE
# Room for a context with Galois keys (2.5 MB), so that such a one is called by its name when it is refused.
_MAX_CONTEXT_BYTES: Final = 1 << 22

_ERROR_BOUND: Final = 21
_GAMMA: Final = 1 << 60  # SEAL's is a prime of 61 bits, so this is a lower bound


@message("bfv/public-key")
@dataclass(frozen=True, kw_only=True)
class _PublicKeyMessage:
    parameter_set: Annotated[str, Text(64)]
    context: Annotated[bytes, Blob(_MAX_CONTEXT_BYTES)]


@dataclass(frozen=True, kw_only=True)
class _Blocks:
    key_id: Annotated[bytes, Fixed(_KEY_ID_BYTES)]
    length: Annotated[int, U32]
    blocks: Annotated[tuple[bytes, ...], Sequence(Fixed(packed_size(2 * DEGREE)), _MAX_BLOCKS)]


# Two types with the same fields, so that an upload is not taken for a total by mistake.
@message("bfv/upload")
@dataclass(frozen=True, kw_only=True)
class _Upload(_Blocks):
    pass


@message("bfv/total")
@dataclass(frozen=True, kw_only=True)
class _Total(_Blocks):
    pass


class BfvPublicKey(PublicKey):
    """A TenSEAL context with a public key and no other."""

    __slots__ = ("_context",)

    def __init__(self, key_id: bytes, context: Any) -> None:
        super().__init__(key_id)
        self._context = context


class BfvOpeningKey(OpeningKey):
    """A TenSEAL context with its secret key."""

    __slots__ = ()


def exact_sum_limit(ciphertext_modulus: int) -> int:
    """Return how many ciphertexts can be summed so that even the worst case opens exactly (see the module)."""
    least_special_prime = 1 << (COEFFICIENT_BITS[1] - 1)
    fresh = Fraction((2 * DEGREE + 1) * _ERROR_BOUND, least_special_prime) + Fraction(1 + DEGREE, 2) + Fraction(1, 2)
    room = Fraction(ciphertext_modulus, PLAIN_MODULUS) * (Fraction(1, 2) - Fraction(1, _GAMMA))
    return int(room / fresh)


def _block_count(length: int) -> int:
    return -(-length // DEGREE)


def _words(parts: _Blocks, ciphertext_modulus: int) -> list[Words]:
    """Return the coefficients of every block, shape (2, DEGREE) each.

    Raises:
        CiphertextError: the number of blocks does not fit the length, a coefficient is not below the modulus, or a
            block is transparent: without a mask, so that it shows its content to everybody.
    """
    count = _block_count(parts.length)
    if len(parts.blocks) != count:
        raise CiphertextError(f"{len(parts.blocks)} blocks for {parts.length} coordinates, not {count}")
    found = [unpack(block).reshape(2, DEGREE) for block in parts.blocks]
    for words in found:
        if int(words.max()) >= ciphertext_modulus:
            raise CiphertextError("a block has a coefficient that is not below the modulus")
        if not words[1].any():
            raise CiphertextError("a block is transparent: it shows its content to everybody")
    return found


class _BfvAccumulator(Accumulator):
    def __init__(self, key: BfvPublicKey, *, length: int, ciphertext_modulus: int, max_clients: int) -> None:
        self._key_id = key.key_id
        self._length = length
        self._modulus = ciphertext_modulus
        self._max_clients = max_clients
        self._count = 0
        self._sum = [np.zeros((2, DEGREE), dtype=np.uint64) for _ in range(_block_count(length))]

    @property
    def count(self) -> int:
        return self._count

    def add(self, ciphertext: bytes) -> None:
        if self._count >= self._max_clients:
            raise CapacityError(f"the sum holds {self._count} ciphertexts already, the most that open exactly")
        parts = decode(_Upload, ciphertext)
        check_belongs(
            "the upload",
            key_id=self._key_id,
            found_key_id=parts.key_id,
            length=self._length,
            found_length=parts.length,
        )
        fresh = _words(parts, self._modulus)
        for running, words in zip(self._sum, fresh, strict=True):
            running += words
            # What is below the modulus already wraps around to something larger.
            np.minimum(running, running - np.uint64(self._modulus), out=running)
        self._count += 1

    def total(self) -> bytes:
        if not self._count:
            raise CiphertextError("the sum is empty: add at least one ciphertext")
        blocks = tuple(pack(words.reshape(-1)) for words in self._sum)
        return encode(_Total(key_id=self._key_id, length=self._length, blocks=blocks))


class Bfv(KeyHolderScheme):
    """The scheme. Guarantee, assumptions and derivations stand in the module's docstring.

    Construction imports TenSEAL and makes one throw-away context (some 5 ms) to learn the primes that SEAL chose.
    """

    name = "bfv"
    parameter_set = "bfv-4096-54-36"
    secure = True
    capacity = (PLAIN_MODULUS - 1) // 2

    def __init__(self) -> None:
        self._tenseal = Tenseal()
        # Loading costs 3 ms, as much as three encryptions, and all parties of one process load the same key each round.
        self._load = functools.lru_cache(maxsize=4)(self._load_uncached)
        self.max_clients = exact_sum_limit(self._tenseal.ciphertext_modulus)

    def generate_key(self) -> BfvOpeningKey:
        """Return a fresh key pair, for one round."""
        context = self._tenseal.new_context()
        public_bytes = encode(
            _PublicKeyMessage(parameter_set=self.parameter_set, context=self._tenseal.public_bytes(context))
        )
        return BfvOpeningKey(public_bytes=public_bytes, key_id=_key_id(public_bytes), secret=context)

    def load_public_key(self, data: bytes) -> BfvPublicKey:
        """Return the public key whose bytes are ``data``; see :meth:`KeyHolderScheme.load_public_key`."""
        return self._load(data)

    def _load_uncached(self, data: bytes) -> BfvPublicKey:
        parts = decode(_PublicKeyMessage, data)
        if parts.parameter_set != self.parameter_set:
            raise CiphertextError(f"the public key is for {parts.parameter_set!r}, not for {self.parameter_set!r}")
        return BfvPublicKey(_key_id(data), self._tenseal.public_context(parts.context))

    def encrypt(self, key: PublicKey, values: NDArray[np.int64]) -> bytes:
        """Encrypt one vector as an upload; see :meth:`KeyHolderScheme.encrypt`."""
        public = _own_public_key(key)
        check_vector(values, capacity=self.capacity, max_length=_MAX_LENGTH)
        blocks = []
        for start in range(0, values.size, DEGREE):
            block = values[start : start + DEGREE]
            if block.size < DEGREE:
                block = np.concatenate([block, np.zeros(DEGREE - block.size, dtype=np.int64)])
            blocks.append(pack(self._tenseal.encrypt(public._context, block).reshape(-1)))
        return encode(_Upload(key_id=public.key_id, length=values.size, blocks=tuple(blocks)))

    def accumulator(self, key: PublicKey, length: int) -> Accumulator:
        """Return an empty sum; see :meth:`KeyHolderScheme.accumulator`."""
        length = require_int("length", length, least=1, most=_MAX_LENGTH)
        return _BfvAccumulator(
            _own_public_key(key),
            length=length,
            ciphertext_modulus=self._tenseal.ciphertext_modulus,
            max_clients=self.max_clients,
        )

    def open(self, key: OpeningKey, total: bytes, *, length: int, bound: int) -> NDArray[np.int64]:
        """Open a sum, once for each key; see :meth:`KeyHolderScheme.open`."""
        if not isinstance(key, BfvOpeningKey):
            raise ArgumentError("key", type(key).__name__, "an opening key of scheme 'bfv'")
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
        blocks = _words(parts, self._tenseal.ciphertext_modulus)
        context = key._take()
        opened = np.concatenate([self._tenseal.decrypt(context, words) for words in blocks])
        return check_opened(opened, length=length, bound=bound)


def _key_id(public_bytes: bytes) -> bytes:
    return hashlib.sha256(public_bytes).digest()[:_KEY_ID_BYTES]


def _own_public_key(key: PublicKey) -> BfvPublicKey:
    if not isinstance(key, BfvPublicKey):
        raise ArgumentError("key", type(key).__name__, "a public key of scheme 'bfv'")
    return key
