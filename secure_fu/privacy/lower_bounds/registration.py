"""What an audit settles before it looks at a score: thresholds and guesses, from what scores are expected to be."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, ndtr
from scipy.stats import binom

from secure_fu.errors import ArgumentError
from secure_fu.privacy._checks import positive, positive_integer
from secure_fu.privacy.gaussian import gaussian_epsilon, gaussian_sigma
from secure_fu.privacy.lower_bounds._inputs import one_sided_tail
from secure_fu.privacy.lower_bounds.counting import epsilon_of_counts
from secure_fu.privacy.lower_bounds.f_dp import f_dp_shift
from secure_fu.privacy.lower_bounds.guesses import Guesses
from secure_fu.privacy.lower_bounds.one_run import one_run_epsilon

__all__ = ["ExpectedScores", "Registered", "register"]

_HEAVY = 16  # weights from 1 to this lose next to nothing against real numbers
_MARGIN = 1.1
_NEGLIGIBLE = 1e-12
_REACH = 9.0  # standard deviations beyond which no score is expected

_Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ExpectedScores:
    """What the auditor expects of the scores, from public settings alone.

    A canary that was left out scores N(0, noise^2); one that was inserted, ``shift`` more for each round it is in.

    Args:
        shift: what one round of a canary adds to its score.
        noise: standard deviation of the whole score.
        rounds: number of rounds that a canary may be in.
        sampling_rate: probability with which it is in each of them, secretly; 1.0 if it always is.

    Raises:
        ArgumentError: a value is outside its domain.
    """

    shift: float
    noise: float
    rounds: int = 1
    sampling_rate: float = 1.0

    def __post_init__(self) -> None:
        positive("shift", self.shift)
        positive("noise", self.noise)
        positive_integer("rounds", self.rounds)
        if positive("sampling_rate", self.sampling_rate) > 1.0:
            raise ArgumentError("sampling_rate", self.sampling_rate, "a probability above 0 and at most 1")

    @classmethod
    def of_claim(cls, *, epsilon: float, delta: float, shift: float = 1.0) -> ExpectedScores:
        """The scores of one Gaussian mechanism that is just (epsilon, delta)-DP; ``shift`` sets the unit."""
        return cls(shift=shift, noise=gaussian_sigma(shift, epsilon, delta))

    def _shifts(self) -> tuple[_Floats, _Floats]:
        """What an inserted canary may add, in standard deviations of the noise, and with what probabilities."""
        times = np.arange(self.rounds + 1)
        chances = binom.pmf(times, self.rounds, self.sampling_rate)
        likely = chances > _NEGLIGIBLE
        return times[likely] * (self.shift / self.noise), chances[likely] / chances[likely].sum()

    def log_ratio(self, scores: ArrayLike) -> _Floats:
        """Logarithm of the likelihood of "inserted" over "left out" for each score."""
        shifts, chances = self._shifts()
        standard = np.asarray(scores, dtype=np.float64) / self.noise
        exponents = np.multiply.outer(standard, shifts) - shifts**2 / 2.0 + np.log(chances)
        return np.asarray(np.logaddexp.reduce(exponents, axis=-1))

    def above(self, threshold: ArrayLike) -> tuple[_Floats, _Floats]:
        """Probability of a score above the threshold: of inserted and of left-out canaries."""
        shifts, chances = self._shifts()
        standard = np.asarray(threshold, dtype=np.float64) / self.noise
        return ndtr(np.subtract.outer(shifts, standard).T) @ chances, ndtr(-standard)

    def grid(self) -> _Floats:
        """Scores from the lowest to the highest that are expected, evenly spaced."""
        return np.linspace(-_REACH, float(self._shifts()[0].max()) + _REACH, 5001) * self.noise


@dataclass(frozen=True, kw_only=True)
class Registered:
    """Everything that the bounds of one audit need and that must not depend on the scores.

    Args:
        canaries: number of canaries.
        threshold: for :func:`counting_bound`.
        guesses: for :func:`one_run_bound`.
        f_dp_guesses: for :func:`f_dp_bound`; of one weight.
        centre: for :func:`mean_bound`.

    Raises:
        ArgumentError: more guesses than canaries, guesses of several weights for f-DP, or a value that is not finite.
    """

    canaries: int
    threshold: float
    guesses: Guesses
    f_dp_guesses: Guesses
    centre: float = 0.0

    def __post_init__(self) -> None:
        positive_integer("canaries", self.canaries)
        for argument in ("threshold", "centre"):
            if not math.isfinite(getattr(self, argument)):
                raise ArgumentError(argument, getattr(self, argument), "a finite number")
        for argument in ("guesses", "f_dp_guesses"):
            count = len(getattr(self, argument))
            if count > self.canaries:
                raise ArgumentError(argument, f"{count} guesses", f"at most one a canary, {self.canaries}")
        if len(self.f_dp_guesses.by_weight) > 1:
            raise ArgumentError("f_dp_guesses", "guesses of several weights", "guesses of one weight")

    def to_json(self) -> dict[str, object]:
        """To be written down before the run; weights in full."""
        return {
            "canaries": self.canaries,
            "threshold": self.threshold,
            "guesses": {"inserted": list(self.guesses.inserted), "left_out": list(self.guesses.left_out)},
            "f_dp_guesses": {
                "inserted": len(self.f_dp_guesses.inserted),
                "left_out": len(self.f_dp_guesses.left_out),
            },
            "centre": self.centre,
        }


def register(canaries: int, expected: ExpectedScores, *, claim: float, delta: float, level: float = 0.95) -> Registered:
    """The threshold and the guesses that promise the largest bounds if scores come out as expected.

    The choice is about power only: every bound holds with any of them, as long as they are fixed beforehand. Few
    guesses promise most of a mechanism that keeps its claim, but too few could not contradict it, whatever leaks: where
    the canaries suffice, a perfect attack with these guesses shows a tenth more than the claim.

    Takes under a second for 1000 canaries, some twelve for 10 000.

    Args:
        canaries: how many there will be, inserted or not.
        expected: their scores, if the claim is kept.
        claim: the claimed epsilon.
        delta: its delta.
        level: of each bound.

    Raises:
        ArgumentError: an argument is outside its domain.
    """
    count = positive_integer("canaries", canaries)
    positive("claim", claim)
    tail = one_sided_tail(delta, level)
    grid = expected.grid()
    inside, outside = expected.above(grid)
    # The scores that are expected at each rank, highest first, and what each says.
    ranks = (np.arange(count) + 0.5) / count
    typical = np.interp(ranks, (inside + outside)[::-1] / 2.0, grid[::-1])
    ratios = expected.log_ratio(typical)
    counted = epsilon_of_counts(
        count / 2 * inside, math.ceil(count / 2), count / 2 * outside, math.ceil(count / 2), delta=delta, tail=tail
    )
    return Registered(
        canaries=count,
        threshold=float(grid[_best(counted, inside - outside)]),
        guesses=_weighted(ratios, count, claim, delta, tail),
        f_dp_guesses=_equal(ratios, count, claim, delta, tail),
    )


def _best(bounds: _Floats, otherwise: _Floats) -> int:
    """Where the bound is largest; where none is above 0, where the other figure is."""
    return int(np.argmax(bounds if bounds.max() > 0.0 else otherwise))


def _largest(
    candidates: list[Guesses], ratios: _Floats, claim: float, epsilon: Callable[[Guesses, int], float]
) -> Guesses:
    """The candidate with the largest expected epsilon, or else the one furthest from chance.

    Only of those that could contradict the claim, if there are any.
    """
    able = [guesses for guesses in candidates if epsilon(guesses, guesses.total) >= _MARGIN * claim] or candidates
    chances = expit(np.abs(ratios))
    bounds, distances = [], []
    for guesses in able:
        chosen = np.concatenate([chances[: len(guesses.inserted)], chances[::-1][: len(guesses.left_out)]])
        weights = np.array(guesses.weights, dtype=np.float64)
        bounds.append(epsilon(guesses, int(weights @ chosen)))
        distances.append(float(weights @ (chosen - 0.5)) / float(np.linalg.norm(weights)))
    return able[_best(np.array(bounds), np.array(distances))]


def _weighted(ratios: _Floats, canaries: int, claim: float, delta: float, tail: float) -> Guesses:
    """Weights log-odds minus epsilon, the most powerful test's, for the epsilon that it then shows; or equal ones.

    Delta costs equal weights less where there are very many canaries.
    """
    odds = np.abs(ratios)
    candidates = _counts(ratios)
    for least in np.linspace(0.0, 0.9, 19) * odds.max():
        weights = np.rint((odds - least) / (odds.max() - least) * _HEAVY).astype(int)
        candidates.append(_by_rank(ratios, weights))

    def epsilon(guesses: Guesses, right: int) -> float:
        return one_run_epsilon(guesses, right, canaries=canaries, delta=delta, tail=tail)

    return _largest(candidates, ratios, claim, epsilon)


def _equal(ratios: _Floats, canaries: int, claim: float, delta: float, tail: float) -> Guesses:
    """As many guesses of one weight as show most, those with the largest log-odds."""

    def epsilon(guesses: Guesses, right: int) -> float:
        return gaussian_epsilon(f_dp_shift(right, len(guesses), canaries=canaries, tail=tail), 1.0, delta)

    return _largest(_counts(ratios), ratios, claim, epsilon)


def _counts(ratios: _Floats) -> list[Guesses]:
    """From one guess to one for every canary, those with the largest log-odds, all of one weight."""
    order, canaries = np.argsort(-np.abs(ratios), kind="stable"), len(ratios)
    candidates = []
    for number in sorted({max(1, round(canaries * 0.5**power)) for power in np.arange(0.0, 10.0, 0.5)}):
        chosen = np.zeros(canaries, dtype=int)
        chosen[order[:number]] = 1
        candidates.append(_by_rank(ratios, chosen))
    return candidates


def _by_rank(ratios: _Floats, weights: NDArray[np.int_]) -> Guesses:
    """Guesses of the expected log-odds' signs; ``ratios`` and ``weights`` by rank, highest score first."""
    into, out = (ratios > 0.0) & (weights > 0), (ratios <= 0.0) & (weights > 0)
    return Guesses(inserted=tuple(weights[into].tolist()), left_out=tuple(weights[out][::-1].tolist()))
