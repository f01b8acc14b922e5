"""The public ring elements ``a`` of a round: uniform, and the same for everybody who knows the seed."""

from __future__ import annotations

import functools
import hashlib
from typing import Final

import numpy as np

from secure_fu.crypto.kahe._ntt import Residues
from secure_fu.crypto.kahe.parameters import ParameterSet
from secure_fu.errors import ArgumentError

__all__ = ["SEED_BYTES", "expand"]

SEED_BYTES: Final = 32
_DOMAIN: Final = b"secure-fu/1/kahe-a"


def expand(parameter_set: ParameterSet, seed: bytes, blocks: int) -> Residues:
    """Return the transforms of the first ``blocks`` ring elements of a seed: shape (blocks, L, N), uint32, read only.

    The residues of block b modulo the prime number i are the values below the prime, in order, of the endless stream
    SHAKE-128("secure-fu/1/kahe-a" || 00 || name of the parameter set || 00 || seed || u32be b || u32be i), read as
    little-endian 32-bit words of which the lowest ``residue_bits`` bits count.

    Kept for the last two sets of arguments: parties that share a process share the work. That is 4 N L bytes a block,
    2.9 bytes a parameter for 16-bit digits under kahe-8192-196.

    Guarantee
        If SHAKE-128 is a random oracle, the residues are independent and exactly uniform, and so are the ring elements:
        the transform is a bijection of Z_p^N for each prime.

    Raises:
        ArgumentError: ``seed`` is not 32 bytes.
    """
    if len(seed) != SEED_BYTES:
        raise ArgumentError("seed", f"{len(seed)} bytes", f"{SEED_BYTES} bytes")
    return _expand(parameter_set, bytes(seed), blocks)


@functools.lru_cache(maxsize=2)
def _expand(parameter_set: ParameterSet, seed: bytes, blocks: int) -> Residues:
    out = np.empty((blocks, len(parameter_set.primes), parameter_set.degree), dtype=np.uint32)
    prefix = b"\0".join([_DOMAIN, parameter_set.name.encode("ascii"), seed])
    for block in range(blocks):
        for index, prime in enumerate(parameter_set.primes):
            message = prefix + block.to_bytes(4, "big") + index.to_bytes(4, "big")
            out[block, index] = _residues(message, prime, parameter_set)
    out.flags.writeable = False
    return out


def _residues(message: bytes, prime: int, parameter_set: ParameterSet) -> Residues:
    stream = hashlib.shake_128(message)
    mask = np.uint32((1 << parameter_set.residue_bits) - 1)
    wanted = parameter_set.degree
    # The primes lie within 1.2 % of the next power of two, so that one word in eighty is rejected at most.
    words = wanted + wanted // 32 + 64
    while True:
        candidates = np.frombuffer(stream.digest(4 * words), dtype="<u4") & mask
        good = candidates[candidates < prime]
        if good.size >= wanted:
            return good[:wanted].astype(np.uint32, copy=False)
        words *= 2
