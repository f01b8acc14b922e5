"""Do inserted canaries come clipped, and as seldom as they are to be sampled? By client, with exact tails."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import binom

from secure_fu.errors import ArgumentError

__all__ = ["ContributionTest", "HeldCanaries", "contribution_test"]


@dataclass(frozen=True, kw_only=True)
class HeldCanaries:
    """The inserted canaries of one client, or of all.

    Attributes:
        name: of the client.
        draws: how often one of them might have been in a sum: canaries times rounds.
        factor: what came of them over what clip norm and sampling rate let expect, 1 if all is as declared.
        deviation: standard deviation of the factor if all is as declared; None if there is no draw.
        p_too_large, p_too_small: probability of so large, or so small, a factor if all is as declared.
    """

    name: str
    draws: int
    factor: float
    deviation: float | None
    p_too_large: float
    p_too_small: float

    def to_json(self) -> dict[str, object]:
        """As ``audit.json`` carries it."""
        return {
            "name": self.name,
            "draws": self.draws,
            "factor": self.factor,
            "p_too_large": self.p_too_large,
            "p_too_small": self.p_too_small,
        }


@dataclass(frozen=True, kw_only=True)
class ContributionTest:
    """The figures of all holders.

    Attributes:
        overall: of all canaries.
        held: one a client that holds canaries; of canary clients those that were inserted.
        one_each: whether the canaries are clients themselves, so that what matters is the code that all of them run.
    """

    overall: HeldCanaries
    held: tuple[HeldCanaries, ...]
    one_each: bool

    @property
    def largest(self) -> HeldCanaries:
        """The client whose figure is the least likely, or all clients where theirs is."""
        return min((self.overall, *self.held), key=lambda each: (each.p_too_large, -each.factor))

    @property
    def p_too_large(self) -> float:
        """The smallest p-value times the number of tests: of any client, or all together, sending too much."""
        return min(1.0, (1 + len(self.held)) * self.largest.p_too_large)

    def visible_factor(self, alarm: float, quantile: float) -> float:
        """The factor at which any single client, whichever it is, is found; inf if one has no inserted canary.

        Where canaries are clients themselves, the factor of all of them together.

        Args:
            alarm: level of the test over all clients.
            quantile: of the normal law, of the probability of finding it.
        """
        looked_at = (self.overall,) if self.one_each else self.held
        deviation = max(math.inf if each.deviation is None else each.deviation for each in looked_at)
        return 1.0 + (float(ndtri(1.0 - alarm / (1 + len(self.held)))) + quantile) * deviation

    def to_json(self) -> dict[str, object]:
        """As ``audit.json`` carries it; of the clients the ten least likely."""
        least = sorted(self.held, key=lambda each: each.p_too_large)[:10]
        return {
            "overall": self.overall.to_json(),
            "p_too_large": self.p_too_large,
            "least_likely": [each.to_json() for each in least],
        }


def contribution_test(
    components: NDArray[np.float64],
    *,
    inserted: NDArray[np.bool_],
    holders: tuple[str, ...],
    holder: NDArray[np.int64],
    took_part: NDArray[np.bool_],
    noise: NDArray[np.float64],
    rate: float,
) -> ContributionTest:
    """Compare what came of inserted canaries with what may come of them.

    If all is as declared, the sum of components over a client's k inserted canaries and the rounds it took part in is
    Binomial(draws, q) plus N(0, k sum of noise^2): independent, as directions are orthogonal and canaries sampled one
    by one. A canary that is clipped to less only makes it smaller. The tails are exact for that law.

    Args:
        components: shape (rounds, m), in clip norms.
        inserted: shape (m,).
        holders, holder, took_part: see :class:`~secure_fu.audit.protocol.CanaryObservations`.
        noise: standard deviation by round, shape (rounds,).
        rate: q.

    Raises:
        ArgumentError: no canary was inserted.
    """
    if not inserted.any():
        raise ArgumentError("inserted", "no canary", "at least one that was inserted")
    present = took_part[:, holder] & inserted
    held = []
    one_each = len(holders) == holder.size and bool((np.bincount(holder, minlength=len(holders)) == 1).all())
    for place, name in enumerate(holders):
        mine = np.flatnonzero(inserted & (holder == place))
        if mine.size == 0:
            # A canary client that is its own holder and was left out is no client of whom anything is to be seen.
            if not one_each:
                held.append(_nothing(name))
            continue
        held.append(_figures(name, components[:, mine], present[:, mine], noise, rate))
    overall = _figures("all clients", components[:, inserted], present[:, inserted], noise, rate)
    return ContributionTest(overall=overall, held=tuple(held), one_each=one_each)


def _nothing(name: str) -> HeldCanaries:
    return HeldCanaries(name=name, draws=0, factor=0.0, deviation=None, p_too_large=1.0, p_too_small=1.0)


def _figures(
    name: str, components: NDArray[np.float64], present: NDArray[np.bool_], noise: NDArray[np.float64], rate: float
) -> HeldCanaries:
    draws = int(present.sum())
    if draws == 0:
        return _nothing(name)
    came = float(components[present].sum())
    spread = math.sqrt(float((present.sum(axis=1) * noise**2).sum()))
    expected = rate * draws
    deviation = math.sqrt(spread**2 + draws * rate * (1.0 - rate)) / expected
    if rate == 1.0:
        too_large = float(ndtr((expected - came) / spread))
        too_small = float(ndtr((came - expected) / spread))
    else:
        # Ten standard deviations around the mean; what is beyond has no weight at any level used here.
        reach = 10.0 * math.sqrt(draws * rate * (1.0 - rate)) + 20.0
        times = np.arange(max(0, math.floor(expected - reach)), min(draws, math.ceil(expected + reach)) + 1)
        weights = binom.pmf(times, draws, rate)
        too_large = float(weights @ ndtr((times - came) / spread))
        too_small = float(weights @ ndtr((came - times) / spread))
    return HeldCanaries(
        name=name,
        draws=draws,
        factor=came / expected,
        deviation=deviation,
        p_too_large=min(1.0, too_large),
        p_too_small=min(1.0, too_small),
    )
