"""The bound that knows the trade-off curve: guesses about all canaries of a run, against a Gaussian mechanism's curve.

Mahloujifar, Melis, Chaudhuri 2024 (arXiv 2410.22235), rederived. Let r of m canaries be guessed, C of the guesses be
right, and p_j = P[C = j]. Take a canary i and "inserted", and the event that it is guessed so while at least c - 1 of
the other guesses are right. If i was inserted, that is a right guess and C >= c; if it was left out, a wrong one and
C >= c - 1. For an f-DP mechanism the chance of the first is at most fbar = 1 - f of the chance of the second. The same
holds for "left out". Averaged over both and over all m canaries (fbar is concave):

    R_c <= fbar(H_{c-1}),   R_c = sum_{j >= c} (j / m) p_j,   H_c = sum_{j >= c} ((r - j) / m) p_j.

Suppose that P[C >= c] = alpha. Least is needed further down if all of that lies at C = c. Then, for i = c - 1 down to
0, H_i is at least the inverse of fbar at R_{i+1}, which fixes the least p_i and with it R_i. If the total, (m / r) (R_0
+ H_0) = P[C >= 0], comes to more than 1, then P[C >= c] >= alpha is impossible, and C >= c rejects f at level alpha.

With fbar(x) = Phi(Phi^-1(x) + mu) the smallest mu that is not rejected is a lower bound on the mu of a mu-GDP
mechanism (Dong, Roth, Su 2022), and the Gaussian mechanism's epsilon at delta follows exactly. Nothing is assumed of
how scores depend on each other.
"""

from __future__ import annotations

from functools import lru_cache

from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from secure_fu.errors import ArgumentError
from secure_fu.privacy.gaussian import gaussian_epsilon
from secure_fu.privacy.lower_bounds._inputs import game, one_sided_tail
from secure_fu.privacy.lower_bounds.bound import Assumption, EpsilonBound
from secure_fu.privacy.lower_bounds.guesses import Guesses

__all__ = ["f_dp_bound", "f_dp_shift"]

_PRECISION = 1e-6


def f_dp_bound(
    scores: ArrayLike, inserted: ArrayLike, *, guesses: Guesses, delta: float, level: float = 0.95
) -> EpsilonBound:
    """Lower bound on the epsilon of a mechanism whose trade-off curve is a Gaussian mechanism's.

    Scores may depend on each other and have any law; but for a mechanism of another curve (randomised response, say)
    it can exceed the truth.

    Args:
        scores: one a canary, shape (m,); larger speaks for insertion. Listed in an order that does not follow the
            coins.
        inserted: the coins, booleans of shape (m,).
        guesses: fixed before the scores were seen; all of one weight.
        delta: the delta of the claim.
        level: one-sided confidence level.

    Raises:
        ArgumentError: arrays that do not fit, more guesses than canaries, guesses of several weights, or an argument
        outside its domain.
    """
    values, coins = game(scores, inserted)
    tail = one_sided_tail(delta, level)
    if len(guesses.by_weight) > 1:
        raise ArgumentError("guesses", "guesses of several weights", "guesses of one weight, as Guesses.equal makes")
    ((weight, count),) = guesses.by_weight
    hits = guesses.right(values, coins) // weight

    def epsilon(right: int) -> float:
        shift = f_dp_shift(right, count, canaries=len(values), tail=tail)
        return gaussian_epsilon(shift, 1.0, delta)

    return EpsilonBound(
        method="f-DP",
        assumption=Assumption.GAUSSIAN_TRADE_OFF,
        value=epsilon(hits),
        largest=epsilon(count),
        delta=delta,
        level=level,
        canaries=len(values),
    )


@lru_cache(maxsize=65536)
def f_dp_shift(right: int, guesses: int, *, canaries: int, tail: float) -> float:
    """The largest mu for which that many right guesses out of ``guesses`` are rejected at level ``tail``; 0 if none."""

    def excess(shift: float) -> float:
        return _least_total(shift, right, guesses, canaries, tail) - 1.0

    if right == 0 or excess(0.0) <= 0.0:
        return 0.0
    high = 1.0
    while excess(high) > 0.0:
        high *= 2.0
    # A step below the root, where the rejection is certain.
    return max(float(brentq(excess, 0.0, high, xtol=_PRECISION)) - 2.0 * _PRECISION, 0.0)


def _least_total(shift: float, right: int, guesses: int, canaries: int, tail: float) -> float:
    """The least P[C >= 0] if P[C >= right] = ``tail``, for a mu-GDP mechanism; some number above 1 where it is."""
    hit, missed = tail * right / canaries, tail * (guesses - right) / canaries
    scale = canaries / guesses
    for i in range(right - 1, -1, -1):
        least = float(ndtr(ndtri(hit) - shift))
        if least > missed:
            mass = (least - missed) / (guesses - i)
            hit, missed = hit + i * mass, least
    return scale * (hit + missed)
