"""Exact, vectorised samples of the discrete Gaussian, and a bound on how large they get.

N_Z(0, sigma**2) has P[X = y] proportional to exp(-y**2 / (2 sigma**2)) on the integers (Canonne, Kamath, Steinke 2020,
"The Discrete Gaussian for Differential Privacy", arXiv 2004.00010, definition 1). Their sampler proposes from a
discrete Laplace distribution; this one proposes from a paving of the curve by equal cells, which needs one word and a
table look-up for 19 samples of 20. The arithmetic is integer throughout, compiled for the bulk and Python's integers
where 64 bits do not decide.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from secure_fu.compiled import kernel, read_only
from secure_fu.discrete_gaussian._exponential import uniform_below_scaled_exponential
from secure_fu.discrete_gaussian._paving import SLOT_BITS, Paving, pave
from secure_fu.errors import ArgumentError

__all__ = ["MAX_SIGMA_SQUARED", "RandomStream", "fresh_words", "sample_discrete_gaussian", "tail_bound"]

MAX_SIGMA_SQUARED: Final = 2**80
"""Largest sigma**2 that the sampler accepts: sigma = 2**40."""

_BLOCK = 2**14
_SLOT_MASK = np.uint64(2**SLOT_BITS - 1)
_SIGN_SHIFT = np.uint64(SLOT_BITS)
_OFFSET_SHIFT = np.uint64(SLOT_BITS + 1)
_ONE = np.uint64(1)


class RandomStream(Protocol):
    """A source of fresh uniform words, such as ``secure_fu.crypto.SecureStream``."""

    def words(self, count: int) -> NDArray[np.uint64]:
        """Returns `count` fresh uniform words, shape (count,), uint64; never one twice. `count` may be 0."""
        ...


def fresh_words(stream: RandomStream, count: int) -> NDArray[np.uint64]:
    """The next words of a stream as kernels take them: they check neither how many there are nor of what type.

    Args:
        stream: of independent, uniform 64-bit words.
        count: how many.

    Returns:
        Shape (count,), uint64, not writeable.

    Raises:
        ArgumentError: the stream gave something else than `count` words.
    """
    words = stream.words(count)
    if words.dtype != np.uint64 or words.shape != (count,):
        given = f"one that gives {words.dtype} of shape {words.shape}"
        raise ArgumentError("stream", given, f"one that gives uint64 of shape ({count},)")
    return read_only(words)


def sample_discrete_gaussian(sigma_squared: Fraction, size: int, *, stream: RandomStream) -> NDArray[np.int64]:
    """Draws independent samples of N_Z(0, sigma_squared).

    Args:
        sigma_squared: exact sigma**2, in (0, 2**80].
        size: number of samples, at least 0.
        stream: source of uniform words; words that are left over at the end are thrown away.

    Returns:
        Shape (size,), int64.

    Raises:
        ArgumentError: `sigma_squared` is not a rational number in its range, `size` is negative, or the stream does not
            give words as it should.

    Formal Guarantees:
        If the stream's words are independent and uniform, the samples are independent and each has exactly the law
        N_Z(0, sigma_squared). No floating-point number enters a decision. The argument, for w, v powers of two and n an
        integer from :func:`~secure_fu.discrete_gaussian._paving.pave`:

        1. *Proposal.* The low 13 bits of a word choose one of 2**13 slots, the next bit a sign, the following bits an
           offset below w; they are disjoint, hence independent and exactly uniform. A slot is a cell (column k, level
           i), the tail, or empty (rejected).
        2. *Cell.* Given that column k is hit, y = k w + offset is uniform in the column and, with a further uniform U
           in [0, 1), so is the height (i + U) / n in the column's cells. The point is accepted if and only if
           i + U < n exp(-y**2 / (2 sigma**2)). The cells of a column reach above the curve everywhere, so every y in
           the columns is accepted with probability 2**-13 n exp(-y**2 / (2 sigma**2)) / w in all.
        3. *Inner cells* lie below the curve as a whole: accepted without drawing U.
        4. *Edge cells*: the first 64 bits of U are a word of its own. Fixed-point arithmetic with a proven error
           decides, or says that it cannot (fewer than one edge cell in 10,000). Then the same 64 bits are compared with
           the exact value, refined by further words for as long as they leave the answer open. Either way the answer is
           that of the real-number comparison in 2.
        5. *Tail cell*, y >= L: block j with probability 2**-(j + 1) (the number of zero bits before the first one), an
           offset below v, accepted if and only if U < n (v / w) 2**(j + 1) exp(-y**2 / (2 sigma**2)), again exactly.
           The right-hand side is at most 1, so y has probability 2**-13 2**-(j + 1) / v times it, which is the same
           2**-13 n exp(-y**2 / (2 sigma**2)) / w as in 2.
        6. *Sign.* Zero with a negative sign is rejected; all other y carry either sign with equal probability. So the
           accepted values have probabilities proportional to exp(-y**2 / (2 sigma**2)) over the integers.
        7. *Stopping.* Proposals are judged one by one, independently, and the first `size` accepted are returned in
           their order; how many are drawn at a time does not depend on their values beyond the number accepted so far.

    Edge cases:
        A sample of 2**63 or more in absolute value would raise OverflowError; at sigma = 2**40 the probability of one
        is below 2**-(10**13).

    The running time depends on the values drawn; see SECURITY.md on side channels.
    """
    paving = pave(_checked_sigma_squared(sigma_squared))
    if size < 0:
        raise ArgumentError("size", size, "a number of samples, at least 0")
    samples = np.empty(size, dtype=np.int64)
    filled = 0
    while filled < size:
        proposals = min(_BLOCK, int((size - filled) / paving.acceptance) + 64)
        accepted = _propose(paving, proposals, stream)[: size - filled]
        samples[filled : filled + len(accepted)] = accepted
        filled += len(accepted)
    return samples


def tail_bound(sigma_squared: Fraction, size: int, *, log2_probability: float) -> int:
    """Bounds `size` sub-Gaussian integers at once.

    Args:
        sigma_squared: exact variance parameter, positive; for a sum of independent discrete Gaussians, the sum of
            theirs.
        size: number of coordinates, at least 1; they may depend on each other.
        log2_probability: binary logarithm of the allowed probability, at most 0.

    Returns:
        An integer B with P[max_i |X_i| > B] <= 2**log2_probability.

    Raises:
        ArgumentError: an argument is out of its domain.

    Formal Guarantees:
        For X ~ N_Z(0, sigma**2), E[exp(t X)] = exp(t**2 sigma**2 / 2) theta(t sigma**2) / theta(0), where theta(s) is
        the sum of exp(-(y - s)**2 / (2 sigma**2)) over the integers, whose Fourier coefficients are all positive
        (Poisson summation), so that it is largest at integers s. So X is sub-Gaussian with parameter sigma**2 (Canonne,
        Kamath, Steinke 2020, section 2), and so are sums of independent ones with the sum of the parameters. By
        Chernoff's bound P[|X| >= B + 1] <= 2 exp(-(B + 1)**2 / (2 sigma**2)), and the union bound takes care of `size`.
        At 2**-64 the result is within 5 % of the exact quantile for sigma >= 10.
    """
    if not sigma_squared > 0:
        raise ArgumentError("sigma_squared", sigma_squared, "a positive rational number")
    if size < 1:
        raise ArgumentError("size", size, "a number of coordinates, at least 1")
    if not -math.inf < log2_probability <= 0.0:
        raise ArgumentError("log2_probability", log2_probability, "a finite number, at most 0")
    nats = (math.log(2 * size) - log2_probability * math.log(2.0)) * (1.0 + 2.0**-40)
    return math.isqrt(math.ceil(2 * sigma_squared * Fraction(nats)) - 1)


def _checked_sigma_squared(sigma_squared: object) -> Fraction:
    if isinstance(sigma_squared, (Fraction, int)) and 0 < sigma_squared <= MAX_SIGMA_SQUARED:
        return Fraction(sigma_squared)
    raise ArgumentError("sigma_squared", sigma_squared, "a Fraction above 0 and at most 2**80")


def _propose(paving: Paving, count: int, stream: RandomStream) -> NDArray[np.int64]:
    """Judges `count` proposals; returns those accepted, in order, int64."""
    words = fresh_words(stream, count)
    magnitudes = np.empty(count, dtype=np.int64)
    accepted = np.empty(count, dtype=np.bool_)
    undecided = np.empty(count, dtype=np.int64)
    undecided = undecided[
        : _judge(
            words,
            paving.start,
            paving.first_edge,
            paving.tail_slot,
            paving.width_bits,
            magnitudes,
            accepted,
            undecided,
        )
    ]
    heights = fresh_words(stream, len(undecided))
    slots = (words[undecided] & _SLOT_MASK).astype(np.int64)
    in_tail = slots == paving.tail_slot
    tail_points, tail_heights = undecided[in_tail], heights[in_tail]
    edge_points, edge_heights = undecided[~in_tail], heights[~in_tail]

    edges = slots[~in_tail] - paving.first_edge
    offsets = (magnitudes[edge_points] & ((1 << paving.width_bits) - 1)).astype(np.uint64)
    below, decided = paving.edge_verdicts(edges, offsets, edge_heights)
    for index in np.flatnonzero(~decided):
        magnitude = int(magnitudes[edge_points[index]])
        level = int(paving.edge_level[edges[index]])
        below[index] = _is_below(paving, magnitude, level, int(edge_heights[index]), stream)
    accepted[edge_points] = below

    for point, height in zip(tail_points, tail_heights, strict=True):
        tail_magnitude = _propose_tail(paving, int(height), stream)
        if tail_magnitude is not None:
            magnitudes[point] = tail_magnitude
            accepted[point] = True

    return magnitudes[: _sign(words, accepted, magnitudes)]


@kernel
def _judge(
    words: NDArray[np.uint64],
    start: NDArray[np.int64],
    first_edge: int,
    tail_slot: int,
    width_bits: int,
    magnitudes: NDArray[np.int64],
    accepted: NDArray[np.bool_],
    undecided: NDArray[np.int64],
) -> int:
    """Writes the magnitude of each proposal, whether it is in an inner cell, and where those are that need a height.

    Returns:
        how many need a height: those in edge cells and in the tail.
    """
    width_mask = (_ONE << np.uint64(width_bits)) - _ONE
    found = 0
    for i in range(words.size):
        slot = np.int64(words[i] & _SLOT_MASK)
        magnitudes[i] = start[slot] + np.int64((words[i] >> _OFFSET_SHIFT) & width_mask)
        accepted[i] = slot < first_edge
        undecided[found] = i
        if first_edge <= slot <= tail_slot:
            found += 1
    return found


@kernel
def _sign(words: NDArray[np.uint64], accepted: NDArray[np.bool_], magnitudes: NDArray[np.int64]) -> int:
    """Puts the signed samples of the accepted proposals first, in their order; how many there are."""
    found = 0
    for i in range(words.size):
        sign = -np.int64((words[i] >> _SIGN_SHIFT) & _ONE)
        sample = (magnitudes[i] ^ sign) - sign
        magnitudes[found] = sample
        if accepted[i] and not (sample == 0 and sign != 0):
            found += 1
    return found


def _is_below(paving: Paving, magnitude: int, level: int, height: int, stream: RandomStream) -> bool:
    """Whether level + U < n exp(-magnitude**2 / (2 sigma**2)), where U in [0, 1) starts with the 64 bits `height`."""
    exponent = Fraction(magnitude * magnitude) / (2 * paving.sigma_squared)
    return uniform_below_scaled_exponential(
        (level << 64) | height, 64, paving.levels, exponent, lambda: _next_word(stream)
    )


def _propose_tail(paving: Paving, height: int, stream: RandomStream) -> int | None:
    """One proposal from the tail: the integer if accepted, None if not. `height` is the first 64 bits of U."""
    block = 0
    while (word := _next_word(stream)) == 0:
        block += 64
    block += (word & -word).bit_length() - 1
    offset = _next_word(stream) & ((1 << paving.tail_bits) - 1)
    magnitude = paving.tail_start + (block << paving.tail_bits) + offset
    scale = paving.levels << (paving.tail_bits - paving.width_bits + block + 1)
    exponent = Fraction(magnitude * magnitude) / (2 * paving.sigma_squared)
    accepted = uniform_below_scaled_exponential(height, 64, scale, exponent, lambda: _next_word(stream))
    return magnitude if accepted else None


def _next_word(stream: RandomStream) -> int:
    return int(stream.words(1)[0])
