"""The grid: saturation and nearest rounding of float64 vectors to integers, and what both do to the sensitivity."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import numpy as np
from numpy.typing import NDArray

from secure_fu.discrete_gaussian import RandomStream
from secure_fu.errors import ArgumentError
from secure_fu.privacy._checks import positive, positive_integer
from secure_fu.privacy.clipping import check_clip_norm
from secure_fu.privacy.noise import NoiseShare
from secure_fu.privacy.units import Unit

__all__ = ["MAX_SUMMED_VECTORS", "Grid"]

MAX_SUMMED_VECTORS: Final = 2**20
"""Largest number of clipped vectors that one client may add up in float64 for one release; see :class:`Grid`."""

_FINENESS = 100
_MAX_INTEGER = 2**52


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Public map from a client's float64 vector to integers: clamp each coordinate, then round to the nearest step.

    Attributes:
        step: distance between neighbouring grid points, in the vector's units; a power of two, so that scaling by it is
            exact.
        saturation: each coordinate is clamped to [-saturation, saturation] before rounding.
        dimension: number of coordinates d.
        clip_norm: L2 bound C on one unit's contribution, in the vector's units.
        unit: the privacy unit.

    Raises:
        ArgumentError: a field is out of its domain, or saturation / step exceeds 2**52.

    Formal Guarantees:
        Let two federations be neighbours for `unit`, and let every client's vector be a float64 sum, in any order, of
        at most MAX_SUMMED_VECTORS = M vectors of norm at most C, each of which depends on its own record or group only
        (and on what was released before). Then the sums over clients of `step * quantise(vector)` differ by at most
        `sensitivity` in L2. Only one client's vector differs; for that one:

        1. Exact sums differ by the one unit's vector, norm at most C (record and group: add or remove; client: against
           zero).
        2. A float64 sum of M terms is off, coordinate by coordinate, by at most gamma sum_i |x_i|,
           gamma = M u / (1 - M u), u = 2**-53, whatever the order (Higham 2002, equation 4.4); in L2 by at most
           gamma M C. Record and group have two such sums: 2 gamma M C = C 2**-12 (1 + 2**-33). The client unit has
           none: its one vector is clipped as a whole.
        3. Clamping a coordinate is a projection onto an interval, so it moves no two vectors apart.
        4. Rounding moves each coordinate by at most step/2, hence a vector by at most step sqrt(d) / 2. Record and
           group compare two rounded vectors: step sqrt(d). The client unit compares with zero, which rounds to zero
           exactly: step sqrt(d) / 2.

        So sensitivity = C (1 + 2 gamma M) + step sqrt(d) for record and group, C + step sqrt(d) / 2 for the client
        unit, computed rounding upwards.

    Edge cases:
        ============================  ================================================
        input to quantise             result
        ============================  ================================================
        half-way between grid points  the even neighbour
        beyond saturation             round(saturation / step), with the sign
        NaN, infinity                 ArgumentError, naming no value
        ============================  ================================================
    """

    step: float
    saturation: float
    dimension: int
    clip_norm: float
    unit: Unit

    def __post_init__(self) -> None:
        check_clip_norm(self.clip_norm)
        if not (0.0 < self.step < math.inf and math.frexp(self.step)[0] == 0.5):
            raise ArgumentError("step", self.step, "a power of two")
        positive("saturation", self.saturation)
        positive_integer("dimension", self.dimension)
        if not isinstance(self.unit, Unit):
            raise ArgumentError("unit", self.unit, "a Unit")
        if self.saturation > self.step * _MAX_INTEGER:
            raise ArgumentError("saturation", self.saturation, f"at most 2**52 steps of {self.step!r}")

    @classmethod
    def fine(cls, clip_norm: float, dimension: int, saturation: float, unit: Unit) -> Grid:
        """The grid whose step is the largest power of two <= clip_norm / (100 sqrt(dimension)).

        Rounding then adds between 0.5 % and 1 % of the clip norm to the sensitivity (half of that for the client unit).

        Raises:
            ArgumentError: an argument is out of its domain.
        """
        check_clip_norm(clip_norm)
        positive_integer("dimension", dimension)
        limit = Fraction(clip_norm) ** 2 / (_FINENESS**2 * dimension)
        step = math.ldexp(1.0, math.frexp(clip_norm / (_FINENESS * math.sqrt(dimension)))[1])
        while Fraction(step) ** 2 > limit:
            step /= 2.0
        return cls(step=step, saturation=saturation, dimension=dimension, clip_norm=clip_norm, unit=unit)

    @property
    def sensitivity(self) -> float:
        """L2 bound on one unit's effect on the sum of the rounded vectors, in the vector's units."""
        rounding = _up(self.step * _up(math.sqrt(self.dimension)))
        if self.unit is Unit.CLIENT:
            return _up(self.clip_norm + rounding / 2.0)
        unit_roundoff = math.ulp(1.0) / 2.0
        relative = _up(MAX_SUMMED_VECTORS * unit_roundoff / (1.0 - MAX_SUMMED_VECTORS * unit_roundoff))
        summation = _up(2.0 * relative * MAX_SUMMED_VECTORS * self.clip_norm)
        return _up(_up(self.clip_norm + summation) + rounding)

    @property
    def encoded_dimension(self) -> int:
        """Number of integers that :meth:`encode` returns: d."""
        return self.dimension

    @property
    def max_integer(self) -> int:
        """Largest absolute value that :meth:`quantise` returns: ceil(saturation / step)."""
        return math.ceil(self.saturation / self.step)

    def quantise(self, vector: NDArray[np.float64]) -> NDArray[np.int64]:
        """Clamps and rounds one client's vector.

        Args:
            vector: shape (d,), float64.

        Returns:
            Shape (d,), int64, in steps; absolute values at most `max_integer`.

        Raises:
            ArgumentError: the shape is not (d,), or a coordinate is NaN or infinite.
        """
        vector = np.asarray(vector, dtype=np.float64)
        self._check_shape("vector", vector.shape)
        if not np.isfinite(vector).all():
            raise ArgumentError("vector", "an array with NaN or infinite coordinates", "finite coordinates only")
        clamped = np.clip(vector, -self.saturation, self.saturation)
        return np.rint(clamped / self.step).astype(np.int64)

    def dequantise(self, integers: NDArray[np.int64]) -> NDArray[np.float64]:
        """Scales integers (a vector or an opened sum) back to the vector's units.

        Args:
            integers: shape (d,), int64, in steps.

        Returns:
            Shape (d,), float64; exact up to 2**53 steps, beyond that the nearest float64.

        Raises:
            ArgumentError: the shape is not (d,), or the dtype is not an integer type.
        """
        if not np.issubdtype(integers.dtype, np.integer):
            raise ArgumentError("integers", f"an array of {integers.dtype}", "an array of int64")
        self._check_shape("integers", integers.shape)
        return integers.astype(np.float64) * self.step

    def encode(self, vector: NDArray[np.float64], *, seed: bytes, stream: RandomStream) -> NDArray[np.int64]:
        """:meth:`quantise`, with the signature of :meth:`RotatedGrid.encode`; `seed` and `stream` are not used."""
        del seed, stream
        return self.quantise(vector)

    def decode(self, integers: NDArray[np.int64], *, seed: bytes) -> NDArray[np.float64]:
        """:meth:`dequantise`, with the signature of :meth:`RotatedGrid.decode`; `seed` is not used."""
        del seed
        return self.dequantise(integers)

    def sum_bound(self, clients: int, share: NoiseShare, *, log2_probability: float = -64.0) -> int:
        """Bounds the coordinates of a sum of encoded vectors and their noise, all d of them at once.

        Args:
            clients: number of contributions in the sum.
            share: law of each client's noise; made with this grid's step.
            log2_probability: binary logarithm of the allowed probability.

        Returns:
            An integer, in steps, that some coordinate's absolute value exceeds with probability at most
            2**log2_probability, over the noise: `clients` times :attr:`max_integer`, and the noise's tail.

        Raises:
            ArgumentError: an argument is out of its domain, or the share has another step.
        """
        if share.step != self.step:
            raise ArgumentError("share", f"noise in steps of {share.step!r}", f"noise in this grid's {self.step!r}")
        tail = share.sum_tail_bound(clients, self.dimension, log2_probability=log2_probability)
        return clients * self.max_integer + tail

    def _check_shape(self, argument: str, shape: tuple[int, ...]) -> None:
        if shape != (self.dimension,):
            raise ArgumentError(argument, f"an array of shape {shape}", f"shape ({self.dimension},)")


def _up(value: float) -> float:
    """The next float64 above, which bounds the exact result of one correctly rounded operation."""
    return math.nextafter(value, math.inf)
