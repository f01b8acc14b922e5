"""Each bound against its definition, written out apart from the package."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import brentq, linprog

from secure_fu.errors import ArgumentError
from secure_fu.privacy import (
    Assumption,
    EpsilonBound,
    Guesses,
    canaries_needed,
    clopper_pearson,
    counting_bound,
    f_dp_bound,
    gaussian_bound,
    gaussian_epsilon,
    mean_bound,
    one_run_bound,
)

DELTA = 1e-5


def played(right, wrong):
    """Scores and coins of a run in which all top guesses but ``wrong`` of them are right; as many left out."""
    count = right + wrong
    scores = np.arange(2.0 * count)
    coins = np.zeros(2 * count, dtype=bool)
    coins[count:] = True
    coins[count : count + wrong] = False
    return scores, coins


# Counting


def test_counting_by_clopper_and_pearson():
    inserted, left_out = np.repeat([1.0, 0.0], [40, 60]), np.repeat([1.0, 0.0], [3, 97])
    bound = counting_bound(inserted, left_out, threshold=0.5, delta=1e-3, level=0.9)
    low, high = clopper_pearson(40, 100, level=0.9).low, clopper_pearson(3, 100, level=0.9).high
    assert bound.value == pytest.approx(math.log((low - 1e-3) / high))
    assert bound.largest == pytest.approx(
        math.log((clopper_pearson(100, 100, level=0.9).low - 1e-3) / clopper_pearson(0, 100, level=0.9).high)
    )
    assert bound.assumption is Assumption.INDEPENDENT
    assert bound.canaries == 200
    # The threshold itself counts as passed, and delta comes off the true positives.
    assert counting_bound(inserted, left_out, threshold=1.0, delta=1e-3, level=0.9).value == bound.value
    assert counting_bound(inserted, left_out, threshold=1.1, delta=1e-3).value == 0.0
    assert counting_bound(inserted, left_out, threshold=0.5, delta=0.3, level=0.9).value < bound.value
    assert counting_bound(inserted, left_out, threshold=-1.0, delta=1e-3).value == 0.0


# Guesses


def test_guesses_by_rank():
    scores = np.array([5.0, 1.0, 4.0, 2.0, 3.0])
    coins = np.array([True, False, False, True, False])
    # Descending: in, out, out, in, out.
    assert Guesses(inserted=(7, 5), left_out=()).right(scores, coins) == 7
    assert Guesses(inserted=(), left_out=(3, 2, 10)).right(scores, coins) == 13
    assert Guesses(inserted=(7, 5), left_out=(3, 2)).right(scores, coins) == 10
    assert Guesses.equal(1, 2).by_weight == ((1, 3),)
    assert Guesses(inserted=(7, 5), left_out=(5,)).total == 17


def test_ties_give_nothing_away_even_if_all_inserted_are_listed_first():
    for first in (True, False):
        coins = np.repeat([first, not first], 500)
        for guesses in (Guesses.equal(100, 0), Guesses.equal(0, 100), Guesses.equal(50, 50)):
            assert abs(guesses.right(np.zeros(1000), coins) - 50) < 10


# One run


def published_p_value(canaries, count, right, epsilon, delta):
    """Theorem 5.2 of Steinke, Nasr, Jagielski."""
    chance = 1.0 / (1.0 + math.exp(-epsilon))
    law = stats.binom(count, chance)
    worst = max((law.cdf(right - 1) - law.cdf(right - i - 1)) / i for i in range(1, right + 1))
    return law.sf(right - 1) + 2.0 * canaries * delta * worst


@pytest.mark.parametrize(("right", "wrong"), [(20, 0), (37, 3), (150, 50)])
def test_one_run_without_delta_is_the_published_bound(right, wrong):
    scores, coins = played(right, wrong)
    count = right + wrong
    bound = one_run_bound(scores, coins, guesses=Guesses.equal(count, 0), delta=1e-14)
    assert published_p_value(2 * count, count, right, bound.value, 0.0) == pytest.approx(0.05, rel=1e-6)
    assert bound.largest == pytest.approx(-math.log(0.05 ** (-1 / count) - 1.0), rel=1e-6)
    assert bound.value <= bound.largest
    assert bound.assumption is Assumption.COINS


@pytest.mark.parametrize("delta", [1e-5, 1e-4])
@pytest.mark.parametrize(("right", "wrong"), [(60, 0), (90, 10), (150, 50)])
def test_one_run_with_delta_takes_the_smaller_of_two_terms(right, wrong, delta):
    scores, coins = played(right, wrong)
    count = right + wrong
    bound = one_run_bound(scores, coins, guesses=Guesses.equal(count, 0), delta=delta)
    chance = 1.0 / (1.0 + math.exp(-bound.value))
    published = published_p_value(2 * count, count, right, bound.value, delta)
    own = stats.binom.sf(right - 1, count, chance) + 2 * count * delta / (1.0 + math.exp(bound.value))
    assert min(published, own) == pytest.approx(0.05, rel=1e-6)
    # Rejected all the way down, or not at all: nothing above the bound is.
    above = np.linspace(bound.value + 1e-6, bound.value + 3.0, 50)
    assert min(published_p_value(2 * count, count, right, epsilon, delta) for epsilon in above) > 0.05


def test_weighted_guesses_by_enumeration():
    guesses = Guesses(inserted=(9, 7, 7, 4, 2), left_out=(8, 5, 3, 1))
    generator = np.random.default_rng(0)
    for _ in range(5):
        scores, coins = generator.normal(size=30), generator.random(30) < 0.5
        scores += 6.0 * coins
        right = guesses.right(scores, coins)
        bound = one_run_bound(scores, coins, guesses=guesses, delta=1e-4)

        def p_value(epsilon, right=right):
            chance = 1.0 / (1.0 + math.exp(-epsilon))
            tail = sum(
                math.prod(chance if hit else 1.0 - chance for hit in hits)
                for hits in itertools.product((0, 1), repeat=9)
                if np.dot(hits, guesses.weights) >= right
            )
            return tail + 30 * 1e-4 / (1.0 + math.exp(epsilon))

        if bound.value > 0.0:
            assert p_value(bound.value) == pytest.approx(0.05, rel=1e-6)
        else:
            assert p_value(0.0) >= 0.05


def test_the_delta_term_covers_a_mechanism_that_spends_all_of_its_delta():
    """Each coin is told truthfully with probability delta, else by randomised response: exact tails, all outcomes."""
    epsilon, delta, count = 0.5, 0.02, 8
    honest = 1.0 / (1.0 + math.exp(-epsilon))
    chance = delta + (1.0 - delta) * honest
    told = stats.binom(count, chance)
    broken = []
    for right in range(count + 1):
        p_value = min(
            published_p_value(count, count, right, epsilon, delta) if right else 1.0,
            stats.binom.sf(right - 1, count, honest) + count * delta / (1.0 + math.exp(epsilon)),
        )
        assert told.sf(right - 1) <= p_value + 1e-12
        broken.append(told.sf(right - 1) > stats.binom.sf(right - 1, count, honest) + 1e-3)
    assert any(broken)  # without the term some tail would be wrong


def test_one_run_shows_nothing_where_delta_explains_all():
    scores, coins = played(60, 0)
    assert one_run_bound(scores, coins, guesses=Guesses.equal(60, 0), delta=0.01).value == 0.0
    assert one_run_bound(scores, coins, guesses=Guesses.equal(60, 0), delta=1e-5).value > 2.5


def test_canaries_needed_is_the_fewest():
    for epsilon in (1.0, 2.0, 4.0):
        count = canaries_needed(epsilon, delta=DELTA)
        for canaries, enough in ((count, True), (count - 1, False)):
            largest = one_run_bound(
                np.arange(canaries), np.ones(canaries, dtype=bool), guesses=Guesses.equal(canaries, 0), delta=DELTA
            ).largest
            assert (largest >= epsilon) == enough
    with pytest.raises(ArgumentError, match="delta"):
        canaries_needed(4.0, delta=0.1)


# f-DP


def least_total_by_linear_programming(shift, right, guesses, canaries, alpha):
    """The least total of p with P[C >= right] = alpha, under tangents of the convex inverse of fbar."""
    levels = np.concatenate([np.geomspace(1e-12, 0.5, 400), 1 - np.geomspace(1e-12, 0.5, 400)])
    inverse = stats.norm.cdf(stats.norm.ppf(levels) - shift)
    slopes = np.exp(shift * stats.norm.ppf(levels) - shift**2 / 2.0)
    j = np.arange(guesses + 1)
    rows, limits = [], []
    for c in range(1, guesses + 1):
        hit = np.where(j >= c, j, 0) / canaries
        missed = np.where(j >= c - 1, guesses - j, 0) / canaries
        rows.extend(slopes[:, None] * hit - missed)
        limits.extend(slopes * levels - inverse)
    answer = linprog(
        np.ones(guesses + 1),
        A_ub=np.array(rows),
        b_ub=np.array(limits),
        A_eq=[(j >= right).astype(float)],
        b_eq=[alpha],
        method="highs",
    )
    return answer.fun


@pytest.mark.parametrize(("right", "guesses", "canaries"), [(8, 8, 8), (9, 10, 20), (6, 6, 40)])
def test_f_dp_bound_is_where_the_least_total_is_one(right, guesses, canaries):
    coins = np.zeros(canaries, dtype=bool)
    coins[canaries - right :] = True
    bound = f_dp_bound(
        np.arange(canaries),
        coins,
        guesses=Guesses.equal(guesses, 0),
        delta=DELTA,
    )
    assert bound.value > 0.0
    shift = brentq(lambda mu: gaussian_epsilon(mu, 1.0, DELTA) - bound.value, 1e-3, 20.0)
    for away, feasible in ((0.98, False), (1.02, True)):
        total = least_total_by_linear_programming(away * shift, right, guesses, canaries, 0.05)
        assert (total <= 1.0) == feasible
    assert bound.assumption is Assumption.GAUSSIAN_TRADE_OFF


def test_f_dp_never_rejects_independent_gaussian_mechanisms_too_often():
    """All canaries guessed, each right with probability Phi(mu / 2): exact tails of the counts that are rejected."""
    count = 60
    for shift in (0.0, 0.5, 1.5):
        law = stats.binom(count, stats.norm.cdf(shift / 2.0))
        rejected = [
            right
            for right in range(count + 1)
            if f_dp_bound(*counted(right, count), guesses=Guesses.equal(count, 0), delta=DELTA).value
            > (gaussian_epsilon(shift, 1.0, DELTA) if shift else 0.0)
        ]
        assert rejected
        assert law.pmf(rejected).sum() <= 0.05


def counted(right, count):
    coins = np.zeros(count, dtype=bool)
    coins[:right] = True
    return np.zeros(count), coins


# Gaussian scores and the mean test


def test_gaussian_bound_by_scipys_noncentral_t():
    generator = np.random.default_rng(1)
    inserted, left_out = generator.normal(1.2, 1.0, 30), generator.normal(0.0, 1.0, 20)
    bound = gaussian_bound(inserted, left_out, delta=DELTA, level=0.9)
    statistic = stats.ttest_ind(inserted, left_out).statistic
    shift = brentq(lambda ncp: stats.nct.sf(statistic, 48, ncp) - 0.1, 1e-3, 20.0)
    assert bound.value == pytest.approx(gaussian_epsilon(shift * math.sqrt(1 / 30 + 1 / 20), 1.0, DELTA), rel=1e-6)
    assert bound.assumption is Assumption.GAUSSIAN
    # Student's test of no difference, and this bound, agree on whether there is anything.
    for gap in (0.2, 0.4, 0.6, 0.8):
        shifted = left_out + gap
        rejected = stats.ttest_ind(shifted, left_out, alternative="greater").pvalue < 0.05
        assert (gaussian_bound(shifted, left_out, delta=1e-12).value > 0.0) == rejected


def test_mean_bound_by_scipys_noncentral_t():
    generator = np.random.default_rng(2)
    inserted, left_out = generator.normal(4.0, 2.0, 25), generator.normal(3.0, 2.0, 35)
    noise = generator.normal(0.0, 2.0, 40)
    bound = mean_bound(inserted, left_out, centre=3.0, noise=noise, delta=DELTA)
    squares = ((inserted - inserted.mean()) ** 2).sum() + ((left_out - 3.0) ** 2).sum() + (noise**2).sum()
    freedom = 24 + 35 + 40
    statistic = (inserted.mean() - 3.0) * math.sqrt(25) / math.sqrt(squares / freedom)
    shift = brentq(lambda ncp: stats.nct.sf(statistic, freedom, ncp) - 0.05, 1e-6, 20.0)
    assert bound.value == pytest.approx(gaussian_epsilon(shift / 5.0, 1.0, DELTA), rel=1e-6)
    known = mean_bound(inserted, left_out, centre=3.0, scale=2.0, delta=DELTA)
    z = (inserted.mean() - 3.0) / 2.0 - stats.norm.ppf(0.95) / 5.0
    assert known.value == pytest.approx(gaussian_epsilon(z, 1.0, DELTA), rel=1e-9)


@pytest.mark.parametrize("bound", [gaussian_bound, mean_bound])
def test_no_noise_at_all_gives_a_finite_figure(bound):
    without = bound(np.ones(5), np.zeros(5), delta=DELTA)
    assert without.value > 1e5
    assert without.largest == math.inf
    assert without.to_json()["largest"] is None
    tiny = bound(np.ones(50) + 1e-9 * np.arange(50), 1e-9 * np.arange(50), delta=DELTA)
    assert tiny.value == without.value
    assert bound(np.zeros(5), np.ones(5), delta=DELTA).value == 0.0
    assert bound(np.zeros(5), np.zeros(5), delta=DELTA).value == 0.0


# What a bound says of itself


def test_a_bound_goes_into_json():
    bound = counting_bound([1.0], [0.0], threshold=0.5, delta=DELTA)
    text = json.dumps(bound.to_json(), allow_nan=False)
    assert json.loads(text)["assumption"] == "independent"
    assert set(json.loads(text)) == {
        "method",
        "assumption",
        "assumes",
        "value",
        "largest",
        "delta",
        "level",
        "canaries",
    }


@pytest.mark.parametrize("changes", [{"value": math.nan}, {"value": -1.0}, {"largest": 0.5}, {"largest": math.nan}])
def test_a_bound_that_makes_no_sense_is_refused(changes):
    figures = {"value": 1.0, "largest": 2.0} | changes
    with pytest.raises(ArgumentError):
        EpsilonBound(method="m", assumption=Assumption.COINS, delta=DELTA, level=0.95, canaries=3, **figures)


SCORES, COINS = np.arange(4.0), np.array([True, False, True, False])
EQUAL = Guesses.equal(1, 1)


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: counting_bound([], [1.0], threshold=0.0, delta=DELTA), "inserted"),
        (lambda: counting_bound([1.0], [math.nan], threshold=0.0, delta=DELTA), "left_out"),
        (lambda: counting_bound([1.0], [1.0], threshold=math.nan, delta=DELTA), "threshold"),
        (lambda: counting_bound([1.0], [1.0], threshold=0.0, delta=0.0), "delta"),
        (lambda: counting_bound([1.0], [1.0], threshold=0.0, delta=DELTA, level=0.3), "level"),
        (lambda: one_run_bound(SCORES, COINS[:3], guesses=EQUAL, delta=DELTA), "inserted"),
        (lambda: one_run_bound(SCORES, COINS.astype(int), guesses=EQUAL, delta=DELTA), "inserted"),
        (lambda: one_run_bound(SCORES, COINS, guesses=Guesses.equal(3, 2), delta=DELTA), "guesses"),
        (lambda: f_dp_bound(SCORES, COINS, guesses=Guesses.equal(3, 2), delta=DELTA), "guesses"),
        (lambda: f_dp_bound(SCORES, COINS, guesses=Guesses(inserted=(2, 1), left_out=()), delta=DELTA), "guesses"),
        (lambda: gaussian_bound([1.0], [1.0, 2.0], delta=DELTA), "inserted"),
        (lambda: mean_bound([1.0, 2.0], [1.0], delta=DELTA), "left_out"),
        (lambda: mean_bound([1.0, 2.0], [1.0, 2.0], noise=[1.0], scale=1.0, delta=DELTA), "scale"),
        (lambda: mean_bound([1.0, 2.0], [1.0, 2.0], scale=0.0, delta=DELTA), "scale"),
        (lambda: Guesses.equal(0, 0), "inserted"),
        (lambda: Guesses(inserted=(0,), left_out=()), "inserted"),
        (lambda: Guesses(inserted=(), left_out=(1001,)), "left_out"),
        (lambda: canaries_needed(0.0, delta=DELTA), "epsilon"),
    ],
)
def test_bad_arguments_are_named(call, argument):
    with pytest.raises(ArgumentError) as caught:
        call()
    assert caught.value.argument == argument
