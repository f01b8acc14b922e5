"""Slow and obvious versions of what scheme kahe does fast, in Python's integers."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from secure_fu.crypto.kahe import PARAMETER_SETS, Layout, ParameterSet

SETS = list(PARAMETER_SETS.values())
SEED = hashlib.sha256(b"a header").digest()


def layout_of(name: str = "kahe-8192-196", *, length: int = 100, digit_bits: int = 16, clients: int = 3) -> Layout:
    return Layout(parameter_set=PARAMETER_SETS[name], length=length, digit_bits=digit_bits, clients=clients)


def evaluation_points(p: int, n: int) -> NDArray[np.int64]:
    """The roots of X^n + 1 modulo p at which a transform takes values, in its order: shape (n,)."""
    non_residue = next(x for x in range(2, p) if pow(x, (p - 1) // 2, p) == p - 1)
    psi = pow(non_residue, (p - 1) // (2 * n), p)
    bits = n.bit_length() - 1
    reversed_bits = [int(format(j, f"0{bits}b")[::-1], 2) for j in range(n)]
    return np.array([pow(psi, 2 * r + 1, p) for r in reversed_bits], dtype=np.int64)


def values_at(
    coefficients: Sequence[int] | NDArray[np.integer], points: NDArray[np.int64], p: int
) -> NDArray[np.int64]:
    """The values of a polynomial, by Horner's rule at all points at once."""
    values = np.zeros(points.size, dtype=np.int64)
    for coefficient in reversed([int(c) for c in coefficients]):
        values = (values * points + coefficient) % p
    return values


def coefficients_of(values: NDArray[np.integer], p: int) -> NDArray[np.int64]:
    """The polynomial of degree below n with given values at the evaluation points: sum of values times their powers."""
    n = values.size
    inverse_points = np.array([pow(int(x), -1, p) for x in evaluation_points(p, n)], dtype=np.int64)
    coefficients = np.empty(n, dtype=np.int64)
    terms = values.astype(np.int64) * pow(n, -1, p) % p
    for k in range(n):
        coefficients[k] = int(terms.sum()) % p
        terms = terms * inverse_points % p
    return coefficients


def negacyclic(a: NDArray[np.int64], s: NDArray[np.int64], p: int) -> NDArray[np.int64]:
    """The product of a (below p < 2^28) and a small s in Z_p[X] / (X^n + 1). Schoolbook, exact in int64."""
    n = a.size
    assert int(np.abs(s).max()) * int(a.max()) * n < 2**63
    product = np.convolve(a, s)
    product = np.concatenate([product, np.zeros(2 * n - product.size, dtype=np.int64)])
    return (product[:n] - product[n:]) % p


def expansion(parameter_set: ParameterSet, seed: bytes, block: int, index: int) -> list[int]:
    name = parameter_set.name.encode()
    message = b"secure-fu/1/kahe-a\0" + name + b"\0" + seed + block.to_bytes(4, "big") + index.to_bytes(4, "big")
    stream = hashlib.shake_128(message).digest(8 * parameter_set.degree)
    words = [int.from_bytes(stream[at : at + 4], "little") for at in range(0, len(stream), 4)]
    candidates = [word % 2**parameter_set.residue_bits for word in words]
    return [c for c in candidates if c < parameter_set.primes[index]][: parameter_set.degree]


def blocks_of(layout: Layout) -> Iterator[tuple[int, int]]:
    """Number and size of each block."""
    n = layout.parameter_set.degree
    for start in range(0, layout.coefficients, n):
        yield start // n, min(n, layout.coefficients - start)


def read_wire(layout: Layout, data: bytes) -> list[list[int]]:
    """The residues of every block and prime, in the order of the wire."""
    top_bits = layout.parameter_set.residue_bits - 24
    at, found = 0, []
    for _, n in blocks_of(layout):
        for _ in layout.parameter_set.primes:
            low = [int.from_bytes(data[at + 2 * j : at + 2 * j + 2], "little") for j in range(n)]
            middle = list(data[at + 2 * n : at + 3 * n])
            packed = int.from_bytes(data[at + 3 * n : at + 3 * n + n * top_bits // 8], "little")
            top = [(packed >> (top_bits * j)) & ((1 << top_bits) - 1) for j in range(n)]
            found.append([x | y << 16 | z << 24 for x, y, z in zip(low, middle, top, strict=True)])
            at += 3 * n + n * top_bits // 8
    assert at == len(data)
    return found


def write_wire(layout: Layout, rows: Sequence[Sequence[int]]) -> bytes:
    top_bits = layout.parameter_set.residue_bits - 24
    out = b""
    for row in rows:
        out += b"".join((value % 2**16).to_bytes(2, "little") for value in row)
        out += bytes((value >> 16) % 2**8 for value in row)
        packed = sum((value >> 24) << (top_bits * j) for j, value in enumerate(row))
        out += packed.to_bytes(len(row) * top_bits // 8, "little")
    return out


def from_residues(residues: Sequence[int], primes: Sequence[int]) -> int:
    """The integer in (-q/2, q/2) with these residues, by the Chinese remainder theorem."""
    q = math.prod(primes)
    x = sum(r * (q // p) * pow(q // p, -1, p) for r, p in zip(residues, primes, strict=True)) % q
    return x - q if x > q // 2 else x


def packed(layout: Layout, values: Sequence[int], errors: Sequence[int]) -> list[int]:
    """T e + m for every coefficient."""
    k = layout.coefficients
    padded = [int(v) for v in values] + [0] * (layout.digits * k - len(values))
    return [
        layout.scale * int(errors[j]) + sum(padded[i * k + j] << (i * layout.digit_bits) for i in range(layout.digits))
        for j in range(k)
    ]
