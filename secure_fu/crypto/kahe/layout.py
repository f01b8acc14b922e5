"""How a vector sits in a ciphertext: digits, coefficients, bytes and the bounds that make a sum exact."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from secure_fu.crypto._checks import require_int
from secure_fu.crypto.kahe.parameters import PARAMETER_SETS, SIGMA_SQUARED, ParameterSet
from secure_fu.crypto.sharing import FIELD_PRIME
from secure_fu.discrete_gaussian import tail_bound
from secure_fu.errors import ArgumentError, CapacityError

__all__ = ["Layout", "choose_layout"]

_FAILURE_BITS: Final = 128
_MAX_LENGTH: Final = 1 << 31
_MAX_DIGIT_BITS: Final = 62


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Everything public about the ciphertexts of one round.

    Coordinate j of the vector is digit ``j // coefficients`` of coefficient ``j % coefficients``, so that digit k of
    all coefficients is a contiguous piece of the vector. What is left over at the end of the last piece is zero, and an
    opened sum is refused if it is not. A coefficient is m = sum_k digit_k 2^(k digit_bits), its digits signed.

    Formal Guarantees:
        With E = ``error_bound(clients)`` and T = ``scale``, 2 (2 E + 1) T <= q. Every coefficient of T e + m with
        |e| <= E and all digits within ``largest_digit`` is at most T (2 E + 1) / 2 < q / 2 in absolute value, so sums
        of up to ``clients`` ciphertexts whose coordinates stay within ``largest_digit`` open exactly. The values that
        an honest coefficient can take are at most half of all residues, and ((2 E + 1) T / q)^coefficients <= 2^-128:
        that is what key confirmation rests on (docs/kahe.md).

    Args:
        parameter_set: one of :data:`PARAMETER_SETS`.
        length: number of coordinates d, from 1 to 2^31.
        digit_bits: width b of a digit, from 2 to 62.
        clients: size of the cohort, the most ciphertexts in a sum.

    Raises:
        ArgumentError: an argument is outside its domain.
        CapacityError: not one digit fits beside the error of so many ciphertexts, or a sum of so many keys could leave
            the field in which keys are shared.
    """

    parameter_set: ParameterSet
    length: int
    digit_bits: int
    clients: int

    def __post_init__(self) -> None:
        if self.parameter_set not in PARAMETER_SETS.values():
            raise ArgumentError("parameter_set", self.parameter_set, f"one of {', '.join(PARAMETER_SETS)}")
        for name, least, most in (("length", 1, _MAX_LENGTH), ("digit_bits", 2, _MAX_DIGIT_BITS), ("clients", 1, None)):
            object.__setattr__(self, name, require_int(name, getattr(self, name), least=least, most=most))
        if 2 * self.key_bound(self.clients) >= FIELD_PRIME:
            raise CapacityError(f"a sum of {self.clients} keys can leave the field of {FIELD_PRIME} elements")
        if not self._fit[0]:
            raise CapacityError(
                f"no digit of {self.digit_bits} bits fits beside the error of {self.clients} ciphertexts"
                f" under {self.parameter_set.name}"
            )

    @functools.cached_property
    def _fit(self) -> tuple[int, int]:
        return _fit(self.parameter_set, self.length, self.digit_bits, self.clients)

    @property
    def digits(self) -> int:
        """Digits in each coefficient: as many as make ciphertexts smallest, which for long vectors is all that fit."""
        return self._fit[0]

    @property
    def coefficients(self) -> int:
        """K, the coefficients that travel: a multiple of 8, the fewest that hold the digits and confirm the key."""
        return self._fit[1]

    @property
    def scale(self) -> int:
        """T, the factor of the error: one more than the largest packed value of unsigned digits."""
        return 1 << (self.digits * self.digit_bits)

    @property
    def largest_digit(self) -> int:
        """The largest absolute value of a coordinate, of one vector and of a sum."""
        return _largest_digit(self.digit_bits)

    @property
    def blocks(self) -> int:
        """Ring elements that a ciphertext consists of. Of the last, only the leading coefficients travel."""
        return -(-self.coefficients // self.parameter_set.degree)

    @property
    def residues(self) -> int:
        """Residues in a ciphertext: ``coefficients`` for each prime."""
        return self.coefficients * len(self.parameter_set.primes)

    @property
    def ciphertext_bytes(self) -> int:
        """Exact size of every ciphertext and of every total."""
        return self.residues * self.parameter_set.residue_bits // 8

    def error_bound(self, uploads: int) -> int:
        """Return E: no error coefficient of a sum of ``uploads`` exceeds it, but with probability 2^-128.

        Raises:
            ArgumentError: ``uploads`` is not from 1 to ``clients``.
        """
        return _bound(require_int("uploads", uploads, least=1, most=self.clients), self.coefficients)

    def key_bound(self, uploads: int) -> int:
        """Return a bound on the coefficients of a sum of ``uploads`` keys; it fails with probability 2^-128.

        Raises:
            ArgumentError: ``uploads`` is not from 1 to ``clients``.
        """
        return _bound(require_int("uploads", uploads, least=1, most=self.clients), self.parameter_set.degree)


def choose_layout(
    *, length: int, clients: int, magnitude: int, share_bytes: Callable[[int], int], allowed: Collection[str]
) -> Layout:
    """Return the layout with the smallest uploads.

    Args:
        length: number of coordinates.
        clients: size of the cohort.
        magnitude: largest absolute value of a coordinate of a sum, at least 0.
        share_bytes: bytes of all sealed shares of a key, as a function of the ring degree.
        allowed: names of the parameter sets to choose from.

    Raises:
        ArgumentError: an argument is outside its domain, or ``allowed`` names a set that does not exist.
        CapacityError: none of the allowed sets holds such sums.
    """
    magnitude = require_int("magnitude", magnitude, least=0)
    digit_bits = max(2, magnitude.bit_length() + 1)
    if digit_bits > _MAX_DIGIT_BITS:
        raise CapacityError(f"coordinates of {digit_bits} bits are wider than a digit, {_MAX_DIGIT_BITS} bits")
    for name in allowed:
        if name not in PARAMETER_SETS:
            raise ArgumentError("allowed", name, f"names among {', '.join(PARAMETER_SETS)}")
    best: tuple[int, Layout] | None = None
    for name, parameter_set in PARAMETER_SETS.items():
        if name not in allowed:
            continue
        try:
            layout = Layout(parameter_set=parameter_set, length=length, digit_bits=digit_bits, clients=clients)
        except CapacityError:
            continue
        size = layout.ciphertext_bytes + share_bytes(parameter_set.degree)
        if best is None or size < best[0]:
            best = size, layout
    if best is None:
        raise CapacityError(
            f"no allowed parameter set holds sums of {clients} vectors with coordinates of {digit_bits} bits"
        )
    return best[1]


def _largest_digit(digit_bits: int) -> int:
    return (1 << (digit_bits - 1)) - 1


def _bound(summands: int, size: int) -> int:
    return tail_bound(summands * SIGMA_SQUARED, size, log2_probability=-float(_FAILURE_BITS))


@functools.lru_cache(maxsize=256)
def _fit(parameter_set: ParameterSet, length: int, digit_bits: int, clients: int) -> tuple[int, int]:
    """Return (digits, coefficients), the fewest coefficients and of those the fewest digits; (0, 0) if none fits."""
    q = parameter_set.modulus
    best = 0, 0
    for digits in range(1, q.bit_length() // digit_bits + 1):
        scale = 1 << (digits * digit_bits)
        coefficients = -(-length // (8 * digits)) * 8
        # 128 coefficients always confirm, for each does so with probability 1/2 at least.
        while coefficients < _FAILURE_BITS and not _confirms(q, scale, clients, coefficients):
            coefficients += 8
        if 2 * scale * (2 * _bound(clients, coefficients) + 1) > q:
            break
        if not best[0] or coefficients < best[1]:
            best = digits, coefficients
    return best


def _confirms(q: int, scale: int, clients: int, coefficients: int) -> bool:
    """Whether a uniform ciphertext passes as an honest one with probability 2^-128 at most."""
    honest: int = (scale * (2 * _bound(clients, coefficients) + 1)) ** coefficients
    all_values: int = q**coefficients
    return honest << _FAILURE_BITS <= all_values
