"""What is registered beforehand, and how much of the truth the bounds then show."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats

from secure_fu.errors import ArgumentError
from secure_fu.privacy import (
    Assumption,
    ExpectedScores,
    Guesses,
    Registered,
    gaussian_sigma,
    lower_bounds,
    one_run_bound,
    register,
)

DELTA = 1e-5


def runs(expected, registered, *, noise_share=1.0, repetitions=200):
    generator = np.random.default_rng(1)
    for _ in range(repetitions):
        coins = generator.random(registered.canaries) < 0.5
        scores = expected.shift * coins + generator.normal(scale=noise_share * expected.noise, size=len(coins))
        yield lower_bounds(scores, coins, delta=DELTA, registered=registered)


def test_power_at_epsilon_four():
    expected = ExpectedScores.of_claim(epsilon=4.0, delta=DELTA)
    registered = register(1000, expected, claim=4.0, delta=DELTA)
    found = list(runs(expected, registered))
    medians = {row[0].method: np.median([bound.value for bound in row]) / 4.0 for row in zip(*found, strict=True)}
    labels = {bound.method: bound.assumption for bound in found[0]}
    assert labels["mean test"] is Assumption.CENTRED_GAUSSIAN
    assert labels["Gaussian scores"] is Assumption.GAUSSIAN
    assert medians["mean test"] >= 0.85
    assert medians["Gaussian scores"] >= 0.84
    assert labels["f-DP"] is Assumption.GAUSSIAN_TRADE_OFF
    assert medians["f-DP"] >= 0.5
    assert labels["one run"] is Assumption.COINS
    assert medians["one run"] >= 0.33
    assert medians["Clopper-Pearson"] >= 0.22


def test_halved_noise_is_found_and_right_noise_is_not():
    expected = ExpectedScores.of_claim(epsilon=1.0, delta=DELTA)
    registered = register(1000, expected, claim=1.0, delta=DELTA)

    def found(noise_share):
        return np.mean([bounds[-1].value > 1.0 for bounds in runs(expected, registered, noise_share=noise_share)])

    assert found(0.5) >= 0.95
    assert found(1.0) <= 0.12


def test_weights_show_more_than_counts():
    expected = ExpectedScores.of_claim(epsilon=4.0, delta=DELTA)
    weighted = register(1000, expected, claim=1.0, delta=DELTA).guesses
    generator = np.random.default_rng(2)
    shown = {"weighted": [], 20: [], 80: [], 500: []}
    for _ in range(200):
        coins = generator.random(1000) < 0.5
        scores = coins + generator.normal(scale=expected.noise, size=1000)
        for name, values in shown.items():
            guesses = weighted if name == "weighted" else Guesses.equal(name // 2, name // 2)
            values.append(one_run_bound(scores, coins, guesses=guesses, delta=DELTA).value)
    means = {name: np.mean(values) for name, values in shown.items()}
    assert means["weighted"] > 1.05 * max(means[20], means[80], means[500])


def test_what_is_registered_could_contradict_the_claim():
    for claim in (1.0, 4.0):
        registered = register(1000, ExpectedScores.of_claim(epsilon=claim, delta=DELTA), claim=claim, delta=DELTA)
        scores, coins = np.arange(1000.0), np.arange(1000) >= 500
        one_run, f_dp = lower_bounds(scores, coins, delta=DELTA, registered=registered)[:2]
        assert one_run.value == one_run.largest >= 1.1 * claim
        assert f_dp.value == f_dp.largest >= 1.1 * claim
    # Ten canaries cannot, and then it does not matter.
    assert register(10, ExpectedScores.of_claim(epsilon=4.0, delta=DELTA), claim=4.0, delta=DELTA).canaries == 10


def test_registered_once_and_for_all():
    expected = ExpectedScores(shift=1.0, noise=4.0, rounds=20, sampling_rate=0.1)
    first = register(300, expected, claim=3.0, delta=DELTA)
    assert first == register(300, expected, claim=3.0, delta=DELTA)
    assert json.loads(json.dumps(first.to_json()))["canaries"] == 300
    # Left-out canaries of a rarely drawn kind are hard to tell: high scores say more than low ones.
    assert sum(first.guesses.inserted) > sum(first.guesses.left_out)
    balanced = register(300, ExpectedScores(shift=1.0, noise=2.0), claim=3.0, delta=DELTA).guesses
    assert sum(balanced.inserted) == pytest.approx(sum(balanced.left_out), abs=2)


def test_the_unit_of_scores_moves_the_threshold_only():
    one = register(200, ExpectedScores.of_claim(epsilon=2.0, delta=DELTA), claim=2.0, delta=DELTA)
    other = register(200, ExpectedScores.of_claim(epsilon=2.0, delta=DELTA, shift=5.0), claim=2.0, delta=DELTA)
    assert other.threshold == pytest.approx(5.0 * one.threshold)
    assert other.guesses == one.guesses
    assert ExpectedScores.of_claim(epsilon=2.0, delta=DELTA, shift=5.0).noise == gaussian_sigma(5.0, 2.0, DELTA)


def test_expected_scores_are_those_that_come():
    expected = ExpectedScores(shift=1.5, noise=2.0, rounds=6, sampling_rate=0.3)
    generator = np.random.default_rng(3)
    times = generator.binomial(6, 0.3, 200_000)
    scores = 1.5 * times + generator.normal(scale=2.0, size=200_000)
    for threshold in (0.0, 3.0, 6.0):
        inside, outside = expected.above(threshold)
        assert inside == pytest.approx(np.mean(scores > threshold), abs=0.005)
        assert outside == pytest.approx(stats.norm.sf(threshold / 2.0))
    chances = stats.binom.pmf(np.arange(7), 6, 0.3)
    density = chances @ stats.norm.pdf(2.5, 1.5 * np.arange(7), 2.0)
    assert expected.log_ratio(2.5) == pytest.approx(math.log(density / stats.norm.pdf(2.5, 0.0, 2.0)))


SCORES, COINS = np.arange(10.0), np.arange(10) % 2 == 0
REGISTERED = Registered(canaries=10, threshold=0.0, guesses=Guesses.equal(2, 2), f_dp_guesses=Guesses.equal(1, 1))


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: lower_bounds(SCORES[:9], COINS[:9], delta=DELTA, registered=REGISTERED), "scores"),
        (lambda: lower_bounds(np.full(10, np.nan), COINS, delta=DELTA, registered=REGISTERED), "scores"),
        (lambda: lower_bounds(SCORES, COINS[::2], delta=DELTA, registered=REGISTERED), "inserted"),
        (lambda: lower_bounds(SCORES, SCORES == 3, delta=DELTA, registered=REGISTERED), "inserted"),
        (lambda: register(0, ExpectedScores(shift=1.0, noise=1.0), claim=1.0, delta=DELTA), "canaries"),
        (lambda: register(5, ExpectedScores(shift=1.0, noise=1.0), claim=0.0, delta=DELTA), "claim"),
        (lambda: ExpectedScores(shift=0.0, noise=1.0), "shift"),
        (lambda: ExpectedScores(shift=1.0, noise=math.inf), "noise"),
        (lambda: ExpectedScores(shift=1.0, noise=1.0, sampling_rate=1.5), "sampling_rate"),
        (
            lambda: Registered(
                canaries=3, threshold=0.0, guesses=Guesses.equal(2, 2), f_dp_guesses=Guesses.equal(1, 1)
            ),
            "guesses",
        ),
        (
            lambda: Registered(
                canaries=9,
                threshold=0.0,
                guesses=Guesses.equal(2, 2),
                f_dp_guesses=Guesses(inserted=(2, 1), left_out=()),
            ),
            "f_dp_guesses",
        ),
    ],
)
def test_bad_arguments_are_named(call, argument):
    with pytest.raises(ArgumentError) as caught:
        call()
    assert caught.value.argument == argument
