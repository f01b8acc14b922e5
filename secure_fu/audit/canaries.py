"""Canaries: made-up units with orthogonal random directions, which ride in real rounds and are clipped like all others.

A canary's raw contribution is longer than the clip norm, so that a client that does not clip shows. Whether a canary is
inserted is a fair coin of the auditor's. Directions are public: differential privacy has to hold whoever knows them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct, idct

from secure_fu.errors import ArgumentError
from secure_fu.learning.per_client import clipped_change
from secure_fu.learning.sampling import poisson_sample
from secure_fu.privacy import Unit
from secure_fu.protocol import LocalTask, RoundTerms
from secure_fu.protocol.sums import RandomStream

__all__ = ["RAW_LENGTH", "CanaryDirections", "CanaryTask", "NoiseAlone"]

RAW_LENGTH: Final = 10.0
"""Norm of a canary's contribution before it is clipped, in clip norms."""


class CanaryDirections:
    """Orthonormal random directions, without a matrix: random signs, a cosine transform, and a random choice of rows.

    Direction i is D C^T e_{r(i)}: e of row r(i), C the orthonormal DCT-II, D random signs. They are orthonormal to
    float64 rounding, every coordinate is at most sqrt(2 / d), and for a fixed vector g the component along each has
    mean 0 and variance |g|^2 / d over the signs. All transforms take O(d log d).

    Args:
        dimension: d, of the sums.
        count: m <= d.
        seed: of signs and rows; an auditor draws it anew for each run.

    Raises:
        ArgumentError: a number is out of range; no more directions than coordinates can be orthogonal.
    """

    def __init__(self, *, dimension: int, count: int, seed: int) -> None:
        if dimension < 1:
            raise ArgumentError("dimension", dimension, "at least 1")
        if not 1 <= count <= dimension:
            raise ArgumentError("count", count, f"1 to {dimension}: no more directions than coordinates are orthogonal")
        generator = np.random.default_rng(seed)
        self.dimension: Final = dimension
        self.count: Final = count
        self._signs = generator.choice(np.array([-1.0, 1.0]), size=dimension)
        self._rows = generator.choice(dimension, size=count, replace=False)

    def combine(self, coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum of coefficient times direction: (m,) to (d,), float64; its norm is that of the coefficients.

        Raises:
            ArgumentError: another shape.
        """
        if coefficients.shape != (self.count,):
            raise ArgumentError("coefficients", coefficients.shape, f"shape ({self.count},)")
        spread = np.zeros(self.dimension)
        spread[self._rows] = coefficients
        combined: NDArray[np.float64] = self._signs * idct(spread, norm="ortho")
        return combined

    def scores(self, vector: NDArray[np.float64]) -> NDArray[np.float64]:
        """Component of a vector along each direction: (d,) to (m,), float64; (rounds, d) to (rounds, m).

        Raises:
            ArgumentError: another shape.
        """
        return self._all_components(vector)[..., self._rows]

    def others(self, vector: NDArray[np.float64]) -> NDArray[np.float64]:
        """Component along each direction that completes these to a basis: (rounds, d) to (rounds, d - m), float64.

        Raises:
            ArgumentError: another shape.
        """
        return np.delete(self._all_components(vector), self._rows, axis=-1)

    def _all_components(self, vector: NDArray[np.float64]) -> NDArray[np.float64]:
        if vector.ndim not in (1, 2) or vector.shape[-1] != self.dimension:
            raise ArgumentError("vector", vector.shape, f"shape ({self.dimension},) or (rounds, {self.dimension})")
        components: NDArray[np.float64] = dct(vector * self._signs, norm="ortho")
        return components


class CanaryTask:
    """A client's code with the canaries that it holds: its own contribution and theirs, in one upload.

    Record and group unit: the client samples each of its canaries secretly, at the round's rate for retained units, and
    scales it by the factor that its clip gives a gradient of that norm. Client unit: the canary is the client, and its
    raw change goes through the clip of changes. Nobody outside sees which canaries are inserted: others are sampled as
    well, and add nothing; a canary client that is not inserted sends zero, as the unit's neighbour does.

    Args:
        inner: the client's own task; None for a canary client, which has no data.
        directions: of all canaries.
        held: which of them this client holds, shape (k,).
        inserted: whether each is inserted, shape (k,).
        clip_factors: from norms (n,) and the clip norm to factors (n,), the very code that clips records; None for the
            client unit.
        raw_length: norm before clipping, in clip norms; above 1.
        on_inner: called with the round number and the client's own contribution, for an auditor who is to know all but
            the coins, the canaries' samples and the noise.

    Raises:
        ArgumentError: shapes do not fit, or the raw length is not above 1.
    """

    def __init__(
        self,
        inner: LocalTask | None,
        *,
        directions: CanaryDirections,
        held: NDArray[np.int64],
        inserted: NDArray[np.bool_],
        clip_factors: Callable[[NDArray[np.float64], float], NDArray[np.float64]] | None,
        raw_length: float = RAW_LENGTH,
        on_inner: Callable[[int, NDArray[np.float64]], None] | None = None,
    ) -> None:
        if inserted.shape != held.shape or held.ndim != 1:
            raise ArgumentError("inserted", inserted.shape, f"one coin for each canary held: shape {held.shape}")
        if not 1.0 < raw_length < 1e6:
            raise ArgumentError("raw_length", raw_length, "above 1 clip norm, so that a missing clip shows")
        self._inner = inner
        self._directions = directions
        self._held, self._inserted = held, inserted
        self._clip_factors = clip_factors
        self._raw_length = raw_length
        self._on_inner = on_inner

    def __repr__(self) -> str:
        return f"CanaryTask({self._held.size} canaries)"

    def contribution(self, model: NDArray[np.float32], terms: RoundTerms, stream: RandomStream) -> NDArray[np.float64]:
        """See :class:`~secure_fu.protocol.LocalTask`."""
        own = np.zeros(terms.length) if self._inner is None else self._inner.contribution(model, terms, stream)
        if self._on_inner is not None:
            self._on_inner(terms.round_number, own)
        return own + self._canaries(terms, stream)

    def _canaries(self, terms: RoundTerms, stream: RandomStream) -> NDArray[np.float64]:
        coefficients = np.zeros(self._directions.count)
        raw = np.full(self._held.size, self._raw_length * terms.clip_norm)
        if terms.unit is Unit.CLIENT:
            coefficients[self._held] = np.where(self._inserted, raw, 0.0)
            return clipped_change(self._directions.combine(coefficients), clip_norm=terms.clip_norm)
        if self._clip_factors is None:
            raise ArgumentError("clip_factors", None, "the clip of records, for the record and the group unit")
        taken = poisson_sample(self._held.size, terms.retained_rate, stream) & self._inserted
        factors = self._clip_factors(raw, terms.clip_norm)
        coefficients[self._held] = np.where(taken, raw * factors, 0.0)
        return self._directions.combine(coefficients)


class NoiseAlone:
    """What everybody runs in a zero round: nothing of anybody, so that the sum is the noise."""

    def contribution(self, model: NDArray[np.float32], terms: RoundTerms, stream: RandomStream) -> NDArray[np.float64]:
        """The zero vector, shape (terms.length,); see :class:`~secure_fu.protocol.LocalTask`."""
        return np.zeros(terms.length)
