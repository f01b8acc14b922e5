"""The compressed grid of the client unit: a public rotation and a coarse random rounding let sums take few bits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import numpy as np
from numpy.typing import NDArray

from secure_fu.compiled import read_only
from secure_fu.discrete_gaussian import RandomStream, fresh_words, tail_bound
from secure_fu.errors import ArgumentError
from secure_fu.privacy._checks import positive_integer
from secure_fu.privacy._hadamard import rotate, rotate_back, transform_length
from secure_fu.privacy._rounding import round_at_random
from secure_fu.privacy.clipping import check_clip_norm
from secure_fu.privacy.grid import Grid
from secure_fu.privacy.noise import NoiseShare
from secure_fu.privacy.units import Unit

__all__ = ["LARGEST_INFLATION", "LOG2_WRAP_PROBABILITY", "RotatedGrid"]

LARGEST_INFLATION: Final = 1.1
"""Largest sensitivity, in clip norms, that :meth:`RotatedGrid.for_sums` accepts: rounding adds at most 10 %."""

LOG2_WRAP_PROBABILITY: Final = -20.0
"""Binary logarithm of the probability with which a release may wrap somewhere, unless another one is chosen."""

_MOST_DRAWINGS = 200
_LOG2_FALLBACK = -144.0  # beta**200 = exp(-100) = 2**-144.27
_BIAS_PER_MILLE = 683  # sqrt(ln(1 / (1 - beta)) / 2) = 0.68294, rounded up
_MAX_CLIENTS = 2**20
_MAX_DIMENSION = 2**36
_MAX_CLIP_STEPS = 2**26
_SEED_BYTES = 32
_NEVER = 2**64 - 1  # the word by which nothing is rounded away from zero


@dataclass(frozen=True, kw_only=True)
class RotatedGrid:
    """Public map from a client's clipped float64 vector to integers: rotate, then round each coordinate at random.

    A rotation by public random signs and Walsh-Hadamard transforms (`_hadamard.py`) spreads every vector evenly over
    its coordinates, so that a sum of n clients fits integers of `sum_bits` bits on a coarse grid. Conditional
    stochastic rounding keeps the sensitivity low there (Kairouz, Liu, Steinke 2021, arXiv 2102.06387). The noise
    (:class:`NoiseShare`) is added to the integers, that is, in the rotated domain. There is no padding: d coordinates
    become d integers.

    Attributes:
        step: distance g between neighbouring grid points, in the vector's units; a power of two, at most `clip_norm`.
        dimension: number of coordinates d.
        clip_norm: L2 bound C on a client's vector, in the vector's units.
        clients: most clients in a sum, n.
        sum_bits: sums are taken modulo 2**sum_bits, as numbers between -largest_sum - 1 and `largest_sum`.
        unit: the privacy unit; `Unit.CLIENT`, the only one for which the rounding is analysed.

    Raises:
        ArgumentError: a field is out of its domain.

    Formal Guarantees:
        *Sensitivity.* Let two federations be neighbours for the client unit: one client sends zero in the second. Then
        the sums over clients of `step * encode(vector)` differ by at most `sensitivity` in L2, whatever the vectors,
        the seed and the stream's words are. Every array that `encode` returns has an integer squared norm of at most
        `squared_norm_limit`, which is checked on the integers themselves, in exact arithmetic, and
        sensitivity**2 = step**2 squared_norm_limit, rounded upwards; a zero vector gives zeros. No floating-point
        error, bias or bad seed changes that. With the rounding random, the mechanism is a mixture over integer vectors
        that all satisfy the bound, and divergences are jointly quasi-convex.

        *The limit.* With c = C / g and beta = exp(-1/2), squared_norm_limit is the integer part of
        c**2 + d/4 + sqrt(2 ln(1/beta)) (c + sqrt(d)/2) = c**2 + c + d/4 + sqrt(d)/2. An unconditional rounding of a
        vector of norm at most C exceeds it with probability at most beta (Kairouz, Liu, Steinke 2021, on the properties
        of randomized rounding). The other bound there, (c + sqrt(d))**2, is never smaller at this beta, for any d >= 1.

        *Rounding.* Each coordinate goes to one of its two neighbours, with probabilities that preserve its expectation
        up to 2**-64 steps (towards zero; 64 random bits). The whole vector is drawn again until its norm is within the
        limit, at most 200 times; then, with probability below 2**-144, it is truncated towards zero, which satisfies
        the limit. Conditioning makes a bias of at most 0.683 steps in L2 per client: sqrt(ln(1 / (1 - beta)) / 2), by
        Donsker and Varadhan's inequality for a sub-Gaussian law (proxy 1/4) under an event of probability at least
        1 - beta. It is far smaller in practice, where nearly all first drawings are within the limit. Bias is a matter
        of utility alone.

        *Wrapping.* See :meth:`sum_bound`. A sum that wraps is wrong by a multiple of 2**sum_bits steps in that rotated
        coordinate, which spreads over the model. It costs utility, not privacy: reducing modulo 2**sum_bits is
        post-processing of the noisy sum.

    Edge cases:
        ==============================  =========================================================
        input to encode                 result
        ==============================  =========================================================
        zero vector                     zeros, for every stream
        coordinate on a grid point      that point
        norm above C (1 + 2**-30)       ArgumentError, naming no value
        NaN, infinity                   ArgumentError, naming no value
        ==============================  =========================================================

    The number of drawings, and so the running time, depends on the vector and on the words drawn.
    """

    step: float
    dimension: int
    clip_norm: float
    clients: int
    sum_bits: int = 16
    unit: Unit = Unit.CLIENT

    def __post_init__(self) -> None:
        check_clip_norm(self.clip_norm)
        if not (0.0 < self.step < math.inf and math.frexp(self.step)[0] == 0.5):
            raise ArgumentError("step", self.step, "a power of two")
        if not self.clip_norm / _MAX_CLIP_STEPS <= self.step <= self.clip_norm:
            raise ArgumentError("step", self.step, f"between 2**-26 and 1 times the clip norm {self.clip_norm!r}")
        if positive_integer("dimension", self.dimension) > _MAX_DIMENSION:
            raise ArgumentError("dimension", self.dimension, "at most 2**36")
        if positive_integer("clients", self.clients) > _MAX_CLIENTS:
            raise ArgumentError("clients", self.clients, f"at most {_MAX_CLIENTS}")
        if not 2 <= positive_integer("sum_bits", self.sum_bits) <= 62:
            raise ArgumentError("sum_bits", self.sum_bits, "between 2 and 62")
        if self.unit is not Unit.CLIENT:
            raise ArgumentError("unit", self.unit, "Unit.CLIENT; other units have Grid")

    @classmethod
    def for_sums(
        cls,
        *,
        clip_norm: float,
        dimension: int,
        clients: int,
        noise_multiplier: float,
        assured: int,
        sum_bits: int = 16,
        unit: Unit = Unit.CLIENT,
        log2_probability: float = LOG2_WRAP_PROBABILITY,
    ) -> RotatedGrid:
        """The grid with the finest step on which sums of `clients` noisy contributions fit `sum_bits` bits.

        Steps are powers of two, from that of :meth:`Grid.fine` on upwards. The noise grows with the sensitivity and so
        with the step; counted in steps, though, everything in :meth:`sum_bound` falls as the step grows, so the first
        step that fits is the finest.

        Args:
            clip_norm, dimension, clients, sum_bits, unit: the grid's.
            noise_multiplier, assured: the noise's, see :class:`NoiseShare`.
            log2_probability: binary logarithm of the probability with which a sum may wrap somewhere, between -100 and
                0.

        Raises:
            ArgumentError: an argument is out of its domain, or on the finest step a noise share would have a variance
                below 8 steps**2; or `sum_bits` is too small, so that every step that fits would raise the sensitivity
                above LARGEST_INFLATION clip norms or leave a share less variance than that. The message then names the
                bits that would do.
        """
        step = Grid.fine(clip_norm=clip_norm, dimension=dimension, saturation=clip_norm, unit=unit).step
        bound = 0
        while not bound or step <= clip_norm:
            grid = cls(
                step=step, dimension=dimension, clip_norm=clip_norm, clients=clients, sum_bits=sum_bits, unit=unit
            )
            if grid.sensitivity > LARGEST_INFLATION * clip_norm:
                break
            try:
                share = NoiseShare(
                    noise_multiplier=noise_multiplier, sensitivity=grid.sensitivity, step=step, assured=assured
                )
            except ArgumentError:
                if not bound:
                    raise
                break
            bound = grid.sum_bound(clients, share, log2_probability=log2_probability)
            if bound <= grid.largest_sum:
                return grid
            step *= 2.0
        raise ArgumentError(
            "sum_bits",
            sum_bits,
            f"at least {bound.bit_length() + 1}; with fewer, rounding adds more than a tenth to the sensitivity, or a "
            "noise share has a variance below 8 steps**2",
        )

    @property
    def encoded_dimension(self) -> int:
        """Number of integers that :meth:`encode` returns: d, for nothing is padded."""
        return self.dimension

    @property
    def squared_norm_limit(self) -> int:
        """Largest integer squared L2 norm of what :meth:`encode` returns, in steps squared."""
        clip = Fraction(self.clip_norm) / Fraction(self.step)
        root = Fraction(math.isqrt(self.dimension << 200), 1 << 100)
        return math.floor(clip * clip + clip + Fraction(self.dimension, 4) + root / 2)

    @property
    def sensitivity(self) -> float:
        """L2 bound on one client's effect on the sum of the rounded vectors, in the vector's units."""
        return self.step * math.nextafter(math.sqrt(self.squared_norm_limit), math.inf)

    @property
    def largest_sum(self) -> int:
        """Largest coordinate of a sum that does not wrap: 2**(sum_bits - 1) - 1."""
        return (1 << (self.sum_bits - 1)) - 1

    def sum_bound(self, clients: int, share: NoiseShare, *, log2_probability: float = LOG2_WRAP_PROBABILITY) -> int:
        """Bounds the coordinates of a sum of encoded vectors and their noise, all d of them at once.

        Args:
            clients: number of contributions in the sum.
            share: law of each client's noise; made with this grid's step.
            log2_probability: binary logarithm of the allowed probability, between -100 and 0.

        Returns:
            An integer, in steps, that some coordinate's absolute value exceeds with probability at most
            2**log2_probability.

        Raises:
            ArgumentError: an argument is out of its domain.

        Formal Guarantees:
            The probability is over the signs, the rounding and the noise, for the worst vectors of norm at most C that
            do not depend on the signs of this seed (SHAKE-256 taken for random): also for clients that all send the
            same one. Whoever sees the seed before choosing a vector can make sums wrap, as whoever uploads garbage can.

            A coordinate of the sum has four independent or conditionally independent parts. In steps, n for `clients`:

            1. The rotated exact sum, of norm at most n C: sub-Gaussian with proxy (n C / g)**2 / P, P > d / 2
               (`_hadamard.py`).
            2. Rounding errors less their conditional means given the signs: for each client one of two values that are
               1 apart (or one value), so sub-Gaussian with proxy 1/4 (Hoeffding's lemma), n/4 in all, conditioned on
               the norm or not.
            3. Those means: at most 0.683 n in absolute value; see the class.
            4. Noise: sub-Gaussian with proxy n sigma**2.

            Proxies of 1, 2 and 4 add up (the tower rule), `tail_bound` takes the union over coordinates, n 2**-144 is
            set aside for rounding that falls back to truncation, and one step for floating-point errors of the
            rotation. An upload alone has at most 1/n of the proxy, so it exceeds the bound for n with a probability of
            about the n-th power: digits that hold the sum hold each upload.
        """
        bias = _largest_bias(positive_integer("clients", clients))
        if not -100.0 <= log2_probability <= 0.0:
            raise ArgumentError("log2_probability", log2_probability, "between -100 and 0")
        left = math.log2(2.0**log2_probability - clients * 2.0**_LOG2_FALLBACK)
        return bias + tail_bound(self._variance_proxy(clients, share), self.dimension, log2_probability=left)

    def log2_wrap_probability(self, share: NoiseShare) -> float:
        """Binary logarithm of a bound on the probability that some coordinate of a sum of `clients` uploads wraps.

        Args:
            share: law of each client's noise; made with this grid's step.

        Returns:
            At most 0; the bound is that of :meth:`sum_bound`, solved for the probability.

        Raises:
            ArgumentError: the share has another step.
        """
        proxy = self._variance_proxy(self.clients, share)
        # The sum is an integer: what wraps is at least 1 above largest_sum.
        room = max(0, self.largest_sum + 1 - _largest_bias(self.clients))
        nats = math.log(2 * self.dimension) - float(room * room / (2 * proxy)) * (1.0 - 2.0**-40)
        return min(0.0, float(np.logaddexp2(nats / math.log(2.0), math.log2(self.clients) + _LOG2_FALLBACK)))

    def encode(self, vector: NDArray[np.float64], *, seed: bytes, stream: RandomStream) -> NDArray[np.int64]:
        """Rotates and rounds one client's vector.

        Args:
            vector: shape (d,), float64, of norm at most C as :func:`clip_l2` makes it.
            seed: 32 public bytes, the same for all contributions to a sum and fresh for every sum: the digest of the
                round's header.
            stream: the client's own words; secret, and used for nothing else.

        Returns:
            Shape (d,), int64, in steps, in the rotated domain. Secret.

        Raises:
            ArgumentError: the shape is not (d,), a coordinate is NaN or infinite, the norm is above C by more than
                rounding explains, the seed has not 32 bytes, or the stream does not give d words.
        """
        vector = np.asarray(vector, dtype=np.float64)
        self._check_shape("vector", vector.shape)
        _check_seed(seed)
        with np.errstate(over="ignore"):
            # In steps, which is exact; an overflow or NaN is within no limit.
            scaled = vector / self.step
            squared = float(np.dot(scaled, scaled))
        if not squared <= (self.clip_norm / self.step) ** 2 * (1.0 + 2.0**-29):
            raise self._too_long()
        return self._round(rotate(scaled, seed), stream)

    def decode(self, integers: NDArray[np.int64], *, seed: bytes) -> NDArray[np.float64]:
        """Scales integers (a vector or an opened sum) back to the vector's units and undoes the rotation.

        Args:
            integers: shape (d,), an integer type, in steps.
            seed: that of :meth:`encode`.

        Returns:
            Shape (d,), float64; relative L2 error below 1e-14.

        Raises:
            ArgumentError: the shape is not (d,), the dtype is not an integer type, or the seed has not 32 bytes.
        """
        if not np.issubdtype(integers.dtype, np.integer):
            raise ArgumentError("integers", f"an array of {integers.dtype}", "an array of int64")
        self._check_shape("integers", integers.shape)
        _check_seed(seed)
        return rotate_back(integers.astype(np.float64), seed) * self.step

    def _round(self, scaled: NDArray[np.float64], stream: RandomStream) -> NDArray[np.int64]:
        """Conditional stochastic rounding to integers of a vector in steps."""
        limit = self.squared_norm_limit  # below 2**53 - 2**51, where the squared norms are exact
        rounded = np.empty(scaled.size, dtype=np.int64)
        for _ in range(_MOST_DRAWINGS):
            if round_at_random(scaled, fresh_words(stream, scaled.size), rounded) <= limit:
                return rounded
        never = np.full(scaled.size, _NEVER, dtype=np.uint64)
        if not round_at_random(scaled, read_only(never), rounded) <= limit:
            # Out of reach for a rotation that keeps the norm up to rounding; the sensitivity does not rest on that.
            raise self._too_long()
        return rounded

    def _variance_proxy(self, clients: int, share: NoiseShare) -> Fraction:
        """Sub-Gaussian parameter of one coordinate of a sum of `clients` uploads, less its bias, in steps squared."""
        if share.step != self.step:
            raise ArgumentError("share", f"noise in steps of {share.step!r}", f"noise in this grid's {self.step!r}")
        peak = Fraction(self.clip_norm) / Fraction(self.step) * clients
        return peak**2 / transform_length(self.dimension) + clients * (share.sigma_squared + Fraction(1, 4))

    def _too_long(self) -> ArgumentError:
        expected = f"finite coordinates and a norm of at most {self.clip_norm!r}"
        return ArgumentError("vector", "an array that is too long or not finite", expected)

    def _check_shape(self, argument: str, shape: tuple[int, ...]) -> None:
        if shape != (self.dimension,):
            raise ArgumentError(argument, f"an array of shape {shape}", f"shape ({self.dimension},)")


def _largest_bias(clients: int) -> int:
    """Part 3 of `sum_bound`, rounded up, with one step for floating-point errors."""
    return -(-_BIAS_PER_MILLE * clients // 1000) + 1


def _check_seed(seed: bytes) -> None:
    if len(seed) != _SEED_BYTES:
        raise ArgumentError("seed", f"{len(seed)} bytes", f"{_SEED_BYTES} bytes")
