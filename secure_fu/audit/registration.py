"""What an auditor writes down before a canary run, so that nothing can be chosen after the scores are seen.

The statistic is the likelihood ratio of "inserted" against "left out" if everything is as declared: best of all by
Neyman and Pearson, and still a fixed function of the released sums, so that bounds on it hold whatever the truth is.
Threshold and guesses are those that would show most if everything is as declared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from secure_fu.errors import ArgumentError
from secure_fu.privacy import Unit
from secure_fu.privacy.lower_bounds import (
    EpsilonBound,
    ExpectedScores,
    Guesses,
    Registered,
    lower_bounds,
    mean_bound,
    register,
)

__all__ = [
    "STATISTIC",
    "Registration",
    "all_bounds",
    "level_of_verdicts",
    "likelihood_scores",
    "linear_scores",
    "register_canaries",
]

STATISTIC: Final = (
    "for each canary the logarithm of the likelihood ratio, inserted against left out, of the components of the "
    "rounds' sums along its direction: sum over rounds of log(1 - q + q exp((y - 1/2) / s^2)), y in clip norms, q the "
    "sampling rate, s the standard deviation of the noise of all uploads in clip norms; for the mean test the sum of y "
    "over the rounds, each round weighted by 1 / s^2"
)
FEWEST_CANARIES: Final = 20
_SIMULATED: Final = 5_000
_BOUNDS: Final = 5


def likelihood_scores(
    components: NDArray[np.float64], *, noise: NDArray[np.float64], rate: float
) -> NDArray[np.float64]:
    """The statistic, one score a canary; larger says inserted.

    At rate 1 it is the sum of the components, weighted by one over the noise's variance and shifted.

    Args:
        components: y, shape (rounds, m), in clip norms.
        noise: s, shape (rounds,), in clip norms.
        rate: q in (0, 1].

    Returns:
        shape (m,), float64.

    Raises:
        ArgumentError: shapes do not fit, or the noise is not positive.
    """
    _check_noise(components, noise)
    evidence = (components - 0.5) / noise[:, None] ** 2
    if rate < 1.0:
        evidence = np.logaddexp(math.log1p(-rate), math.log(rate) + evidence)
    scores: NDArray[np.float64] = evidence.sum(axis=0)
    return scores


def linear_scores(components: NDArray[np.float64], *, noise: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weighted sum over the rounds, shape (m,), whose mean is 0 for a canary that was left out, whatever the noise.

    Raises:
        ArgumentError: shapes do not fit, or the noise is not positive.
    """
    _check_noise(components, noise)
    scores: NDArray[np.float64] = (components / noise[:, None] ** 2).sum(axis=0)
    return scores


def _check_noise(components: NDArray[np.float64], noise: NDArray[np.float64]) -> None:
    if components.ndim != 2 or noise.shape != components.shape[:1]:
        raise ArgumentError("noise", noise.shape, f"one figure a round: shape {components.shape[:1]}")
    if not bool((noise > 0.0).all()):
        raise ArgumentError("noise", "a figure that is not above 0", "the standard deviation of each round's noise")


@dataclass(frozen=True, kw_only=True)
class Registration:
    """What was fixed before the run.

    Attributes:
        canaries, rounds: how many there are.
        unit: of privacy.
        sampling_rate: of a canary in each round.
        noise: standard deviation of the noise of all uploads, in clip norms, if nobody vanishes.
        raw_length: of a canary before it is clipped, in clip norms.
        claim: the epsilon that the rounds are planned to cost a canary unit; what the ledger charges counts.
        delta: of claim and bounds.
        level: of each bound by itself.
        alarm: probability at most with which a faultless run is flagged at all, over all tests together.
        registered: threshold and guesses of the bounds. Views with fewer canaries take them in proportion.
        expected: by method of the bound, what it would show, roughly, if everything is as declared.
        refutes: claims below this would be refuted, roughly, if everything else is as declared: the largest bound that
            is then expected at a level that counts all tests.
        coins_digest: SHA-256, hexadecimal, of a secret salt and the coins; "" for coins from elsewhere.
        statistic: in words.
    """

    canaries: int
    rounds: int
    unit: Unit
    sampling_rate: float
    noise: float
    raw_length: float
    claim: float
    delta: float
    level: float
    alarm: float
    registered: Registered
    expected: Mapping[str, float]
    refutes: float
    coins_digest: str = ""
    statistic: str = STATISTIC

    def __post_init__(self) -> None:
        object.__setattr__(self, "expected", MappingProxyType(dict(self.expected)))

    def registered_for(self, canaries: int) -> Registered:
        """Threshold and guesses for a view with so many of the canaries: the same ranks, in proportion."""
        if canaries == self.canaries:
            return self.registered

        def thinned(weights: tuple[int, ...]) -> tuple[int, ...]:
            kept = len(weights) * canaries // self.canaries
            return tuple(weights[place * len(weights) // kept] for place in range(kept))

        def in_proportion(guesses: Guesses) -> Guesses:
            inserted, left_out = thinned(guesses.inserted), thinned(guesses.left_out)
            return Guesses(inserted=inserted or guesses.inserted[:1], left_out=left_out)

        return Registered(
            canaries=canaries,
            threshold=self.registered.threshold,
            guesses=in_proportion(self.registered.guesses),
            f_dp_guesses=in_proportion(self.registered.f_dp_guesses),
            centre=self.registered.centre,
        )

    def to_json(self) -> dict[str, object]:
        """As it is written down."""
        return {
            "canaries": self.canaries,
            "rounds": self.rounds,
            "unit": self.unit.value,
            "sampling_rate": self.sampling_rate,
            "noise": self.noise,
            "raw_length": self.raw_length,
            "claim": self.claim,
            "delta": self.delta,
            "level": self.level,
            "alarm": self.alarm,
            "registered": self.registered.to_json(),
            "expected": dict(self.expected),
            "refutes": self.refutes,
            "coins_digest": self.coins_digest,
            "statistic": self.statistic,
        }


def all_bounds(
    likelihood: NDArray[np.float64],
    linear: NDArray[np.float64],
    inserted: NDArray[np.bool_],
    *,
    registered: Registered,
    delta: float,
    level: float,
) -> tuple[EpsilonBound, ...]:
    """Every bound on the registered statistic, from the one that assumes least to the one that assumes most.

    Args:
        likelihood: of :func:`likelihood_scores`, shape (m,).
        linear: of :func:`linear_scores`, shape (m,); for the mean test, whose centre is then 0 whatever the noise is.
        inserted: the coins, shape (m,).

    Raises:
        ArgumentError: as :func:`secure_fu.privacy.lower_bounds.lower_bounds`.
    """
    bounds = lower_bounds(likelihood, inserted, delta=delta, level=level, registered=registered)
    mean = mean_bound(linear[inserted], linear[~inserted], delta=delta, level=level)
    return (*bounds[:-1], mean)


def level_of_verdicts(alarm: float) -> float:
    """The level of each bound with which all of them together raise a quarter of the false alarms."""
    return 1.0 - alarm / 4.0 / _BOUNDS


class _Expected(ExpectedScores):
    """Scores that are log likelihood ratios already, by the quantiles of made-up ones."""

    def __init__(self, left_out: NDArray[np.float64], inserted: NDArray[np.float64]) -> None:
        super().__init__(shift=1.0, noise=1.0)
        object.__setattr__(self, "_left_out", left_out)
        object.__setattr__(self, "_inserted", inserted)

    _left_out: NDArray[np.float64]
    _inserted: NDArray[np.float64]

    def log_ratio(self, scores: ArrayLike) -> NDArray[np.float64]:
        return np.asarray(scores, dtype=np.float64)

    def above(self, threshold: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        def share(scores: NDArray[np.float64]) -> NDArray[np.float64]:
            return 1.0 - np.searchsorted(scores, np.asarray(threshold)) / scores.size

        return share(self._inserted), share(self._left_out)

    def grid(self) -> NDArray[np.float64]:
        return np.linspace(self._left_out[0], self._inserted[-1], 20001)


def register_canaries(
    *,
    canaries: int,
    rounds: int,
    unit: Unit,
    sampling_rate: float,
    noise: float,
    raw_length: float,
    claim: float,
    delta: float,
    level: float = 0.95,
    alarm: float = 0.01,
    coins_digest: str = "",
) -> Registration:
    """Choose threshold and guesses by what is declared: public figures only, no score.

    Raises:
        ArgumentError: a figure is out of its domain; fewer than 20 canaries, with which no bound would say anything.
    """
    if canaries < FEWEST_CANARIES:
        raise ArgumentError("canaries", canaries, f"at least {FEWEST_CANARIES}; with fewer no bound says anything")
    if rounds < 1:
        raise ArgumentError("rounds", rounds, "at least 1")
    for name, value in (("noise", noise), ("raw_length", raw_length), ("claim", claim)):
        if not 0.0 < value < math.inf:
            raise ArgumentError(name, value, "a positive finite number")
    if not 0.0 < sampling_rate <= 1.0:
        raise ArgumentError("sampling_rate", sampling_rate, "a number in (0, 1]")
    if not 0.0 < alarm < 0.5:
        raise ArgumentError("alarm", alarm, "a probability above 0 and below 1/2")
    left_out, inserted, linear = _made_up(rounds, noise, sampling_rate)
    registered = register(canaries, _Expected(left_out, inserted), claim=claim, delta=delta, level=level)
    ranks = ((np.arange(canaries // 2) + 0.5) / (canaries // 2) * _SIMULATED).astype(np.int64)

    def typical(at: float) -> dict[str, float]:
        bounds = all_bounds(
            np.concatenate([left_out[ranks], inserted[ranks]]),
            np.concatenate([linear[0][ranks], linear[1][ranks]]),
            np.repeat([False, True], ranks.size),
            registered=registered if canaries % 2 == 0 else _one_less(registered),
            delta=delta,
            level=at,
        )
        return {bound.method: bound.value for bound in bounds}

    return Registration(
        canaries=canaries,
        rounds=rounds,
        unit=unit,
        sampling_rate=sampling_rate,
        noise=noise,
        raw_length=raw_length,
        claim=claim,
        delta=delta,
        level=level,
        alarm=alarm,
        registered=registered,
        expected=typical(level),
        refutes=max(typical(level_of_verdicts(alarm)).values()),
        coins_digest=coins_digest,
    )


def _one_less(registered: Registered) -> Registered:
    """For an odd number of canaries the expected scores are those of one fewer."""
    guesses, equal = registered.guesses, registered.f_dp_guesses
    return Registered(
        canaries=registered.canaries - 1,
        threshold=registered.threshold,
        guesses=Guesses(inserted=guesses.inserted, left_out=guesses.left_out[: registered.canaries // 4]),
        f_dp_guesses=Guesses(inserted=equal.inserted, left_out=equal.left_out[: registered.canaries // 4]),
    )


def _made_up(
    rounds: int, noise: float, rate: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Scores under what is declared, sorted: likelihood of left out and of inserted, and the linear ones of both."""
    if rate == 1.0:
        # Sums of Gaussians: their quantiles are known.
        normal = ndtri((np.arange(_SIMULATED) + 0.5) / _SIMULATED) * math.sqrt(rounds) / noise
        gap = rounds / noise**2
        return normal - gap / 2.0, normal + gap / 2.0, np.stack([normal, normal + gap])
    generator = np.random.default_rng(0)
    likelihood, linear = np.zeros((2, _SIMULATED)), np.zeros((2, _SIMULATED))
    scale = np.full(1, noise)
    for _ in range(rounds):
        components = noise * generator.standard_normal((2, _SIMULATED))
        components[1] += generator.random(_SIMULATED) < rate
        likelihood += likelihood_scores(components.reshape(1, -1), noise=scale, rate=rate).reshape(2, -1)
        linear += components / noise**2
    likelihood.sort(axis=1)
    linear.sort(axis=1)
    return likelihood[0], likelihood[1], linear
