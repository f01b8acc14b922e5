"""No bound exceeds the truth more often than it says, where what it assumes holds; what is done wrong elsewhere does.

The short form of benchmarks/audit_validity.py, with the truths computed apart: each mechanism's law is given as a
density, and its epsilon is found by integrating that.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad
from scipy.optimize import brentq

from secure_fu.privacy import (
    Assumption,
    ExpectedScores,
    Guesses,
    counting_bound,
    lower_bounds,
    mean_bound,
    one_run_bound,
    register,
)

DELTA = 1e-5
CANARIES = 200
RUNS = 1200
# An exact 5 % bound exceeds this many times with probability 1e-4.
MOST = stats.binom.isf(1e-4, RUNS, 0.05)


def epsilon_of(inside, outside, low, high, delta=DELTA):
    """Epsilon at delta of two densities, by integrating what is above e^epsilon times the other."""

    def excess(epsilon):
        over = quad(
            lambda x: max(inside(x) - math.exp(epsilon) * outside(x), 0.0),
            low,
            high,
            points=[0.0, 1.0],
            limit=500,
        )[0]
        return over - delta

    return 0.0 if excess(0.0) <= 0.0 else brentq(excess, 0.0, 30.0, xtol=1e-6)


class Gaussian:
    holds = frozenset(Assumption)
    epsilon = epsilon_of(lambda x: stats.norm.pdf(x, 1.0), stats.norm.pdf, -9.0, 10.0)

    def draw(self, generator, coins):
        return coins + generator.normal(size=len(coins))


class Null(Gaussian):
    epsilon = 0.0

    def draw(self, generator, coins):
        return generator.normal(size=len(coins))


class Laplace:
    holds = frozenset({Assumption.COINS, Assumption.INDEPENDENT})
    epsilon = epsilon_of(lambda x: math.exp(-2 * abs(x - 1)), lambda x: math.exp(-2 * abs(x)), -10.0, 10.0)

    def draw(self, generator, coins):
        return coins + generator.laplace(scale=0.5, size=len(coins))


class Response(Laplace):
    """Right with probability 0.9: delta at epsilon is 0.9 - 0.1 e^epsilon."""

    epsilon = math.log((0.9 - DELTA) / 0.1)

    def draw(self, generator, coins):
        return np.where(coins ^ (generator.random(len(coins)) < 0.1), 10.0, -10.0)


class Revealing(Response):
    """The same and, with probability delta, each bit as it is: delta at log 9 is just delta."""

    epsilon = math.log(9.0)
    delta = 1e-4

    def draw(self, generator, coins):
        revealed = generator.random(len(coins)) < self.delta
        return np.where(revealed, np.where(coins, 20.0, -20.0), super().draw(generator, coins))


class Tied(Gaussian):
    """One offset for all scores of a run: neither independent nor centred."""

    holds = frozenset({Assumption.COINS, Assumption.GAUSSIAN_TRADE_OFF, Assumption.GAUSSIAN})

    def draw(self, generator, coins):
        return super().draw(generator, coins) + generator.normal(scale=5.0)


def test_laplace_truth_in_closed_form():
    assert Laplace.epsilon == pytest.approx(2.0 + 2.0 * math.log1p(-DELTA), abs=2e-5)


@pytest.mark.parametrize("mechanism", [Null(), Gaussian(), Laplace(), Response(), Revealing(), Tied()])
def test_bounds_hold_where_their_assumption_does(mechanism):
    generator = np.random.default_rng(7)
    delta = getattr(mechanism, "delta", DELTA)
    expected = ExpectedScores.of_claim(epsilon=2.0, delta=delta)
    registered = register(CANARIES, expected, claim=2.0, delta=delta)
    above: dict[str, int] = {}
    for _ in range(RUNS):
        coins = generator.random(CANARIES) < 0.5
        scores = mechanism.draw(generator, coins)
        for bound in lower_bounds(scores, coins, delta=delta, registered=registered):
            if bound.assumption in mechanism.holds:
                above[bound.method] = above.get(bound.method, 0) + (bound.value > mechanism.epsilon)
    assert len(above) >= 2
    assert max(above.values()) <= MOST
    if isinstance(mechanism, Gaussian) and "mean test" in above:
        assert above["mean test"] >= stats.binom.ppf(1e-4, RUNS, 0.05)  # exact, not merely safe


def test_gaussian_labels_are_needed():
    """On Laplace noise the labelled bounds exceed the truth in nearly every run."""
    generator = np.random.default_rng(8)
    registered = register(CANARIES, ExpectedScores.of_claim(epsilon=2.0, delta=DELTA), claim=2.0, delta=DELTA)
    above = np.zeros(5)
    for _ in range(100):
        coins = generator.random(CANARIES) < 0.5
        found = lower_bounds(Laplace().draw(generator, coins), coins, delta=DELTA, registered=registered)
        above += [bound.value > Laplace.epsilon for bound in found]
    labels = {bound.method: share for bound, share in zip(found, above, strict=True)}
    assert min(labels["Gaussian scores"], labels["mean test"], labels["f-DP"]) > 70
    assert max(labels["one run"], labels["Clopper-Pearson"]) < 20


def test_a_threshold_chosen_on_the_scores_is_caught():
    """At a level of 60 %, as Clopper and Pearson's two limits together are far from tight."""
    generator = np.random.default_rng(9)
    best, fixed = 0, 0
    for _ in range(250):
        coins = generator.random(CANARIES) < 0.5
        scores = generator.normal(size=CANARIES)

        def found(threshold, scores=scores, coins=coins):
            return counting_bound(scores[coins], scores[~coins], threshold=threshold, delta=DELTA, level=0.6).value

        best += max(found(threshold) for threshold in scores) > 0.0
        fixed += found(0.5) > 0.0
    assert stats.binom.sf(best - 1, 250, 0.4) < 1e-4
    assert stats.binom.sf(fixed - 1, 250, 0.4) > 1e-4


def test_a_number_of_guesses_chosen_on_the_scores_is_caught():
    generator = np.random.default_rng(10)
    numbers = [Guesses.equal(count, count) for count in range(2, 100, 3)]
    wrong = 0
    for _ in range(400):
        coins = generator.random(CANARIES) < 0.5
        scores = generator.normal(size=CANARIES)
        wrong += max(one_run_bound(scores, coins, guesses=guesses, delta=DELTA).value for guesses in numbers) > 0.0
    assert stats.binom.sf(wrong - 1, 400, 0.05) < 1e-4


def test_leaving_delta_out_is_caught():
    """Each coin told with probability delta = 0.2 and else noise: that is (0, delta)-DP, so the truth is 0."""
    generator = np.random.default_rng(11)
    guesses = Guesses.equal(CANARIES // 2, CANARIES // 2)
    treated, ignored = 0, 0
    for _ in range(100):
        coins = generator.random(CANARIES) < 0.5
        told = generator.random(CANARIES) < 0.2
        scores = np.where(told, np.where(coins, 20.0, -20.0), generator.normal(size=CANARIES))
        treated += one_run_bound(scores, coins, guesses=guesses, delta=0.2).value > 0.0
        ignored += one_run_bound(scores, coins, guesses=guesses, delta=1e-12).value > 0.0
        treated += counting_bound(scores[coins], scores[~coins], threshold=0.0, delta=0.2).value > 0.0
    assert treated <= 5
    assert ignored > 60


def test_a_claimed_scale_would_hide_what_a_measured_one_shows():
    """Half the noise that epsilon 1 needs: the mean test finds it, unless it believes in the noise that is claimed."""
    generator = np.random.default_rng(12)
    expected = ExpectedScores.of_claim(epsilon=1.0, delta=DELTA)
    measured, believed = 0, 0
    for _ in range(200):
        inserted = generator.normal(1.0, expected.noise / 2, 500)
        left_out = generator.normal(0.0, expected.noise / 2, 500)
        measured += mean_bound(inserted, left_out, delta=DELTA).value > 1.0
        believed += mean_bound(inserted, left_out, scale=expected.noise, delta=DELTA).value > 1.0
    assert measured >= 190
    assert believed < 20
