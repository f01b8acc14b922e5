"""Named parameter sets of scheme ``kahe``: ring degree and modulus, each within the 128-bit column of the table.

The derivation stands in docs/kahe.md; in short, for secret and error of width sigma = 6.4 every set is at least as hard
as ring-LWE with width 6.4 / sqrt(2) = 4.53 even when the sum of two honest keys and errors is known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Final

from secure_fu.errors import ArgumentError

__all__ = ["PARAMETER_SETS", "SIGMA_SQUARED", "ParameterSet"]

SIGMA_SQUARED: Final = Fraction(1024, 25)
"""Exact variance parameter of every coefficient of a key and of an error: sigma = 6.4."""


@dataclass(frozen=True, kw_only=True)
class ParameterSet:
    """The ring Z_q[X] / (X^N + 1), q a product of primes over which X^N + 1 splits into linear factors.

    Attributes:
        name: what headers call the set.
        degree: N, a power of two.
        residue_bits: bits of a residue on the wire; every prime has exactly so many bits, at most 28.
        primes: the factors of q, distinct and 1 modulo 2 N: the largest such ones, in falling order.

    Raises:
        ArgumentError: one of these does not hold, except that primality is not tested.
    """

    name: str
    degree: int
    residue_bits: int
    primes: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.degree < 16 or self.degree & (self.degree - 1):
            raise ArgumentError("degree", self.degree, "a power of two, at least 16")
        if not 24 <= self.residue_bits <= 28:
            raise ArgumentError("residue_bits", self.residue_bits, "from 24 to 28")
        fits = all(p.bit_length() == self.residue_bits and p % (2 * self.degree) == 1 for p in self.primes)
        if not fits or not self.primes or list(self.primes) != sorted(set(self.primes), reverse=True):
            raise ArgumentError(
                "primes", self.primes, f"falling primes of {self.residue_bits} bits, 1 modulo {2 * self.degree}"
            )

    @property
    def modulus(self) -> int:
        """The ciphertext modulus q, the product of the primes."""
        return math.prod(self.primes)


_SETS: Final = (
    ParameterSet(
        name="kahe-8192-196",
        degree=8192,
        residue_bits=28,
        primes=(268369921, 268271617, 268238849, 268189697, 268091393, 268042241, 267943937),
    ),
    ParameterSet(name="kahe-4096-96", degree=4096, residue_bits=24, primes=(16760833, 16736257, 16588801, 16580609)),
    ParameterSet(name="kahe-2048-48", degree=2048, residue_bits=24, primes=(16760833, 16736257)),
    ParameterSet(name="kahe-1024-25", degree=1024, residue_bits=25, primes=(33550337,)),
)

PARAMETER_SETS: Final[Mapping[str, ParameterSet]] = MappingProxyType({found.name: found for found in _SETS})
"""The named sets, by name. There are no others: a :class:`~secure_fu.crypto.kahe.Layout` takes only these."""
