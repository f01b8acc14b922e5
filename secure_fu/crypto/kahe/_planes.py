"""The wire form of a ciphertext: residues in planes of whole bytes, and one encoding for each.

For each block, for each prime, the residues of the block's n coefficients: their low 16 bits (n little-endian 16-bit
words), then their next 8 bits (n bytes), then the 0, 1 or 4 bits that are left (n / 8 or n / 2 bytes, the first residue
in the lowest bits). n is a multiple of 8, so every plane is whole bytes and no bit is left over.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secure_fu.compiled import kernel
from secure_fu.crypto.kahe._ntt import Residues, ring_tables
from secure_fu.crypto.kahe.layout import Layout
from secure_fu.errors import CiphertextError

__all__ = ["fold", "from_wire", "to_wire"]

_U32 = np.uint32
_U8 = np.uint8


def to_wire(layout: Layout, residues: Residues) -> bytes:
    """Return the bytes of residues, shape (layout.residues,), each below its prime: block by block, prime by prime."""
    out = np.empty(layout.ciphertext_bytes, dtype=np.uint8)
    parameter_set = layout.parameter_set
    shape = layout.coefficients, parameter_set.degree, len(parameter_set.primes)
    _write_planes(residues, out, *shape, parameter_set.residue_bits - 24)
    return out.tobytes()


def from_wire(layout: Layout, data: bytes) -> Residues:
    """Return the residues of a ciphertext, shape (layout.residues,), uint32: block by block, prime by prime.

    Raises:
        CiphertextError: the length is not that of the layout, or a residue is not below its prime.
    """
    if len(data) != layout.ciphertext_bytes:
        raise CiphertextError(f"{len(data)} bytes; a ciphertext of this layout has {layout.ciphertext_bytes}")
    parameter_set = layout.parameter_set
    planes = np.frombuffer(bytes(data), dtype=np.uint8)
    residues = np.empty(layout.residues, dtype=np.uint32)
    primes = ring_tables(parameter_set).primes
    if not _read_planes(
        planes, residues, primes, layout.coefficients, parameter_set.degree, parameter_set.residue_bits - 24
    ):
        raise CiphertextError("a residue is not below its prime: not the one encoding of a ciphertext")
    return residues


def fold(layout: Layout, total: Residues, fresh: Residues) -> None:
    """Add ``fresh`` to ``total`` modulo the primes, in place; both as :func:`from_wire` returns them."""
    primes = ring_tables(layout.parameter_set).primes
    _fold(total, fresh, primes, layout.coefficients, layout.parameter_set.degree)


# Kernels index slices from zero on: numba then sees that no index is negative, and the loops become vector code.


@kernel
def _write_planes(
    residues: Residues, out: NDArray[np.uint8], coefficients: int, degree: int, rows: int, top_bits: int
) -> None:
    source = 0
    at = 0
    for start in range(0, coefficients, degree):
        n = min(degree, coefficients - start)
        for _ in range(rows):
            part = residues[source : source + n]
            low = out[at : at + 2 * n]
            middle = out[at + 2 * n : at + 3 * n]
            for j in range(n):
                low[2 * j] = _U8(part[j])
                low[2 * j + 1] = _U8(part[j] >> _U32(8))
            for j in range(n):
                middle[j] = _U8(part[j] >> _U32(16))
            at += 3 * n
            source += n
            if top_bits == 4:
                top = out[at : at + (n >> 1)]
                for j in range(n >> 1):
                    top[j] = _U8((part[2 * j] >> _U32(24)) | ((part[2 * j + 1] >> _U32(24)) << _U32(4)))
                at += n >> 1
            elif top_bits == 1:
                top = out[at : at + (n >> 3)]
                for j in range(n >> 3):
                    byte = _U32(0)
                    for k in range(8):
                        byte |= (part[8 * j + k] >> _U32(24)) << _U32(k)
                    top[j] = _U8(byte)
                at += n >> 3


@kernel
def _read_planes(
    planes: NDArray[np.uint8], residues: Residues, primes: Residues, coefficients: int, degree: int, top_bits: int
) -> bool:
    target = 0
    at = 0
    canonical = True
    for start in range(0, coefficients, degree):
        n = min(degree, coefficients - start)
        for row in range(primes.size):
            part = residues[target : target + n]
            low = planes[at : at + 2 * n]
            middle = planes[at + 2 * n : at + 3 * n]
            for j in range(n):
                part[j] = _U32(low[2 * j]) | (_U32(low[2 * j + 1]) << _U32(8)) | (_U32(middle[j]) << _U32(16))
            at += 3 * n
            target += n
            if top_bits == 4:
                top = planes[at : at + (n >> 1)]
                for j in range(n >> 1):
                    part[2 * j] |= _U32(top[j] & _U8(15)) << _U32(24)
                    part[2 * j + 1] |= _U32(top[j] >> _U8(4)) << _U32(24)
                at += n >> 1
            elif top_bits == 1:
                top = planes[at : at + (n >> 3)]
                for j in range(n >> 3):
                    byte = _U32(top[j])
                    for k in range(8):
                        part[8 * j + k] |= ((byte >> _U32(k)) & _U32(1)) << _U32(24)
                at += n >> 3
            largest = _U32(0)
            for j in range(n):
                largest = max(largest, part[j])
            canonical &= largest < primes[row]
    return canonical


@kernel
def _fold(total: Residues, fresh: Residues, primes: Residues, coefficients: int, degree: int) -> None:
    at = 0
    for start in range(0, coefficients, degree):
        n = min(degree, coefficients - start)
        for row in range(primes.size):
            p = primes[row]
            running = total[at : at + n]
            part = fresh[at : at + n]
            for j in range(n):
                value = _U32(running[j] + part[j])
                running[j] = min(value, _U32(value - p))  # what is below p wraps around to something larger
            at += n
