"""The bound that assumes nothing but the coins: guesses about all canaries of a single run.

Steinke, Nasr, Jagielski 2023 (arXiv 2305.08846): given everything that an (epsilon, delta)-DP mechanism released, and
given the coins of the other canaries before it, a guess about a canary's coin is right with probability at most
p = e^epsilon / (1 + e^epsilon), but for what delta allows. So the number of right guesses among r is no larger than a
binomial with r trials and probability p, however dependent the scores are. Two things are added here.

*Weights.* A weighted sum of right guesses is no larger than that sum of independent Bernoulli(p) variables, as long as
the weights depend on what was released only. By rank they do not depend even on that. Against a known mechanism, the
most powerful test weighs a guess by its log-odds minus epsilon; :func:`register` does.

*Delta.* Let P and Q be the laws of what is released if canary i is in or out, given the coins of those before it. The
posterior of "in" is P / (P + Q), which is above p by x_i = (P - e^epsilon Q) / ((P + Q) (1 + e^epsilon)) at most; on
average over what is released, with density (P + Q) / 2, the positive part of that is at most delta / (2 (1 +
e^epsilon)), and as much for "out". Let guess i be right if U_i <= p + x_i, with U_i uniform. The guesses with
U_i <= p are the independent ones; some other guess is right with probability at most the sum of all x_i, which is
canaries * delta / (1 + e^epsilon). The p-value is hence

    P[sum of w_i Bernoulli_i(p) >= observed] + canaries * delta / (1 + e^epsilon).

At levels close to 1 that leaves only large epsilons to show: 1000 canaries at delta 1e-5 and a level of 0.9995 show
either 0 or more than 2.9. For guesses of equal weight, the paper's own term (theorem 5.2) is taken where it is smaller:
2 canaries delta max_{i >= 1} P[v - i <= Bin(r, p) < v] / i.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.fft import irfft, next_fast_len
from scipy.optimize import brentq
from scipy.special import bdtrc, expit, gammaln

from secure_fu.errors import ArgumentError
from secure_fu.privacy._checks import positive
from secure_fu.privacy.lower_bounds._inputs import game, one_sided_tail
from secure_fu.privacy.lower_bounds.bound import Assumption, EpsilonBound
from secure_fu.privacy.lower_bounds.guesses import Guesses

__all__ = ["canaries_needed", "one_run_bound", "one_run_epsilon"]

_GRID = 48  # epsilons at which a rejection is looked for before the last one is found exactly
_ROUNDING = 1e-12  # of the Fourier transform, with room to spare

_Floats = NDArray[np.float64]


def one_run_bound(
    scores: ArrayLike, inserted: ArrayLike, *, guesses: Guesses, delta: float, level: float = 0.95
) -> EpsilonBound:
    """Lower bound on epsilon from one run with many canaries; assumes the coins only.

    Args:
        scores: one a canary, shape (m,); larger speaks for insertion. Listed in an order that does not follow the
            coins.
        inserted: the coins, booleans of shape (m,).
        guesses: fixed before the scores were seen.
        delta: the delta of the claim.
        level: one-sided confidence level.

    Raises:
        ArgumentError: arrays that do not fit, more guesses than canaries, or an argument outside its domain.
    """
    values, coins = game(scores, inserted)
    tail = one_sided_tail(delta, level)
    right = guesses.right(values, coins)
    return EpsilonBound(
        method="one run",
        assumption=Assumption.COINS,
        value=one_run_epsilon(guesses, right, canaries=len(values), delta=delta, tail=tail),
        largest=one_run_epsilon(guesses, guesses.total, canaries=len(values), delta=delta, tail=tail),
        delta=delta,
        level=level,
        canaries=len(values),
    )


def one_run_epsilon(guesses: Guesses, right: int, *, canaries: int, delta: float, tail: float) -> float:
    """The bound from the sum of the weights of the right guesses."""
    return _epsilon(guesses.by_weight, right, canaries, delta, tail)


def canaries_needed(epsilon: float, *, delta: float, level: float = 0.95) -> int:
    """The fewest canaries with which a perfect attack shows ``epsilon`` without assumptions, one guess each.

    A real attack needs more; this is the number below which no attack suffices.

    Raises:
        ArgumentError: an argument is outside its domain, or delta so large that no number of canaries suffices.
    """
    positive("epsilon", epsilon)
    tail = one_sided_tail(delta, level)

    def enough(count: int) -> bool:
        return bool(_p_values(((1, count),), count, count, delta, np.array([epsilon]))[0] <= tail)

    # Without delta, p^n <= tail is enough.
    count = max(1, math.ceil(-math.log(tail) / math.log1p(math.exp(-epsilon))))
    most = 4 * count + 100
    while not enough(count):
        count += max(1, count // 1000)
        if count > most:
            raise ArgumentError("delta", delta, f"a delta that leaves something to show at epsilon {epsilon:g}")
    return count


@lru_cache(maxsize=65536)
def _epsilon(profile: tuple[tuple[int, int], ...], right: int, canaries: int, delta: float, tail: float) -> float:
    """The largest epsilon that is rejected.

    A mechanism that is (epsilon, delta)-DP is so for every larger epsilon too, and the observed sum does not depend on
    the epsilon that is tested: rejecting any epsilon rejects all below it, at the same level.
    """
    count = sum(number for _, number in profile)
    # Beyond, even all right would not be enough: p^count > tail.
    highest = -math.log(math.expm1(-math.log(tail) / count))
    if highest <= 0.0:
        return 0.0
    grid = np.linspace(0.0, highest, _GRID)
    if len(profile) > 1:
        p_values = _grid_tails(profile, highest)[:, right] + _slack(canaries, delta, grid)
    else:
        p_values = _p_values(profile, right, canaries, delta, grid)
    rejected = np.flatnonzero(p_values <= tail)
    if len(rejected) == 0:
        return 0.0
    last = int(rejected[-1])
    if last == _GRID - 1:
        return highest

    def excess(epsilon: float) -> float:
        return float(_p_values(profile, right, canaries, delta, np.array([epsilon]))[0]) - tail

    low = float(grid[last])
    return low if excess(low) >= 0.0 else float(brentq(excess, low, float(grid[last + 1]), xtol=1e-9, rtol=1e-9))


def _p_values(
    profile: tuple[tuple[int, int], ...], right: int, canaries: int, delta: float, epsilons: _Floats
) -> _Floats:
    """P-value of a sum of right guesses for each epsilon; shape of ``epsilons``."""
    chances: _Floats = expit(epsilons)
    slack = _slack(canaries, delta, epsilons)
    if len(profile) > 1:
        return _weighted_tails(profile, chances)[:, right] + slack
    ((weight, count),) = profile
    hits = -(-right // weight)
    if hits <= 0:
        return np.ones_like(chances)
    slack = np.minimum(slack, 2.0 * canaries * delta * _paper_term(hits, count, chances))
    tails: _Floats = bdtrc(hits - 1, count, chances)
    return tails + slack


def _paper_term(hits: int, count: int, chances: _Floats) -> _Floats:
    """max_i P[hits - i <= Bin(count, p) < hits] / i over i from 1 to hits; theorem 5.2."""
    below = np.arange(hits - 1, -1, -1)
    log_ways = gammaln(count + 1) - gammaln(below + 1) - gammaln(count - below + 1)
    logs = log_ways + below * np.log(chances)[:, None] + (count - below) * np.log1p(-chances)[:, None]
    shares: _Floats = np.exp(logs).cumsum(axis=1) / np.arange(1, hits + 1)
    largest: _Floats = shares.max(axis=1)
    return largest


def _slack(canaries: int, delta: float, epsilons: _Floats) -> _Floats:
    """What delta adds to a p-value: canaries * delta / (1 + e^epsilon)."""
    slack: _Floats = canaries * delta * expit(-epsilons)
    return slack


def _weighted_tails(profile: tuple[tuple[int, int], ...], chances: _Floats) -> _Floats:
    """P[sum of weighted Bernoulli(p) >= v] for each p and each v from 0 on, rounded up; by Fourier transforms."""
    length = next_fast_len(sum(weight * count for weight, count in profile) + 1, real=True)
    frequencies = np.exp(-2j * np.pi * np.arange(length // 2 + 1) / length)
    transform = np.ones((len(chances), len(frequencies)), dtype=np.complex128)
    for weight, count in profile:
        transform *= (1.0 + chances[:, None] * (frequencies**weight - 1.0)) ** count
    masses: _Floats = irfft(transform, length, axis=1)
    return masses[:, ::-1].cumsum(axis=1)[:, ::-1] + _ROUNDING


@lru_cache(maxsize=4)
def _grid_tails(profile: tuple[tuple[int, int], ...], highest: float) -> _Floats:
    """The same on the grid of epsilons, kept for the next sum of the same guesses."""
    return _weighted_tails(profile, expit(np.linspace(0.0, highest, _GRID)))
