from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from secure_fu.errors import ArgumentError
from secure_fu.privacy.statistics import (
    auc,
    clopper_pearson,
    mean_interval,
    paired_gap_interval,
    roc_curve,
    true_positive_rate,
)


def covered(interval, truth) -> bool:
    return interval.low <= truth <= interval.high


# AUC


def slow_auc(members, non_members):
    """The definition, and DeLong's variance by its double loops."""
    kernel = np.array([[1.0 if m > n else 0.5 if m == n else 0.0 for n in non_members] for m in members])
    rows, columns = kernel.mean(axis=1), kernel.mean(axis=0)
    return kernel.mean(), rows.var(ddof=1) / len(rows) + columns.var(ddof=1) / len(columns)


@pytest.mark.parametrize("ties", [False, True])
def test_auc_and_its_variance_by_definition(ties):
    generator = np.random.default_rng(1)
    members, non_members = generator.normal(0.6, 1, 40), generator.normal(0, 1, 25)
    if ties:
        members, non_members = members.round(), non_members.round()
    value, variance = slow_auc(members, non_members)
    result = auc(members, non_members)
    assert result.value == pytest.approx(value, rel=1e-12)
    labels = np.repeat([1, 0], [40, 25])
    assert result.value == pytest.approx(roc_auc_score(labels, np.concatenate([members, non_members])), rel=1e-12)
    # On the logit scale the interval is symmetric, with DeLong's standard error and a quantile near the normal one.
    width = stats.logistic.ppf(result.high) - stats.logistic.ppf(result.low)
    assert width / 2 * value * (1 - value) / math.sqrt(variance) == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize(("m", "n"), [(143, 360), (20, 20), (10, 200)])
@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_coverage_of_the_auc_interval(m, n, shift):
    generator = np.random.default_rng(2)
    truth = stats.norm.cdf(shift / math.sqrt(2))
    hits = [covered(auc(generator.normal(shift, 1, m), generator.normal(0, 1, n)), truth) for _ in range(400)]
    assert 0.92 <= np.mean(hits) <= 0.99
    narrow = [
        covered(auc(generator.normal(shift, 1, m), generator.normal(0, 1, n), level=0.8), truth) for _ in range(400)
    ]
    assert 0.74 <= np.mean(narrow) <= 0.87


@pytest.mark.parametrize(
    ("members", "non_members", "value"),
    [
        ([3, 4, 5], [0, 1, 2], 1.0),
        ([0, 1], [2, 3], 0.0),
        ([1, 1, 1], [1, 1], 0.5),
        ([2], [1], 1.0),
        ([1], [1, 2], 0.25),
    ],
)
def test_degenerate_scores_give_wide_intervals_not_none(members, non_members, value):
    result = auc(members, non_members)
    assert result.value == value
    assert 0.0 <= result.low <= value <= result.high <= 1.0
    assert result.high - result.low > 0.5


def test_perfect_separation_is_a_run_of_successes():
    result = auc(np.arange(50) + 100.0, np.arange(80))
    assert (result.low, result.high) == (pytest.approx(0.025 ** (1 / 50)), 1.0)


# Proportions


def test_clopper_pearson_by_its_definition():
    result = clopper_pearson(3, 40, level=0.9)
    assert stats.binom.sf(2, 40, result.low) == pytest.approx(0.05)
    assert stats.binom.cdf(3, 40, result.high) == pytest.approx(0.05)
    assert clopper_pearson(0, 20).low == 0.0
    assert clopper_pearson(20, 20).high == 1.0
    assert clopper_pearson(0, 20).high == pytest.approx(1 - 0.025 ** (1 / 20))


@pytest.mark.parametrize("p", [0.01, 0.2, 0.5])
def test_clopper_pearson_covers_exactly_by_enumeration(p):
    chances = stats.binom.pmf(np.arange(61), 60, p)
    inside = [covered(clopper_pearson(k, 60), p) for k in range(61)]
    assert 0.95 <= chances[inside].sum() < 0.995


@pytest.mark.parametrize(("n", "rate", "shift"), [(1000, 0.01, 0.0), (1000, 0.01, 2.0), (300, 0.1, 1.0)])
def test_coverage_of_the_true_positive_rate(n, rate, shift):
    generator = np.random.default_rng(3)
    truth = stats.norm.sf(stats.norm.isf(rate) - shift)
    results = [
        true_positive_rate(generator.normal(shift, 1, n), generator.normal(0, 1, n), false_positive_rate=rate)
        for _ in range(300)
    ]
    assert np.mean([covered(result, truth) for result in results]) >= 0.96
    assert np.mean([result.value for result in results]) == pytest.approx(truth, rel=0.1, abs=0.01)
    # Not by being useless: the two errors added up, by the delta method, and a quarter for small counts.
    slope = stats.norm.pdf(stats.norm.isf(rate) - shift) / stats.norm.pdf(stats.norm.isf(rate))
    errors = math.sqrt(truth * (1 - truth) / n) + slope * math.sqrt(rate * (1 - rate) / n)
    assert np.mean([result.high - result.low for result in results]) < 1.25 * 2 * 1.96 * errors


def test_true_positive_rate_by_counting():
    non_members = np.arange(1000.0)
    # Ten of a thousand lie above 989; 25 of the hundred members do.
    members = np.concatenate([np.full(75, 989.0), np.full(25, 989.5)])
    result = true_positive_rate(members, non_members)
    assert result is not None
    assert result.value == 0.25
    assert result.low < 0.25 < result.high
    tied = true_positive_rate(members, np.concatenate([np.zeros(900), np.full(100, 989.2)]))
    assert tied is not None
    assert tied.value == 0.25


@pytest.mark.parametrize(
    ("n", "rate", "shown"), [(999, 0.01, False), (1000, 0.01, True), (99, 0.1, False), (100, 0.1, True)]
)
def test_too_few_non_members_give_none(n, rate, shown):
    result = true_positive_rate(np.zeros(5), np.arange(float(n)), false_positive_rate=rate)
    assert (result is not None) is shown


# ROC


def test_roc_curve_by_counting():
    members, non_members = [0.9, 0.8, 0.8, 0.3], [0.8, 0.5, 0.1]
    curve = roc_curve(members, non_members)
    np.testing.assert_allclose(curve.true_positive_rates, [0, 1 / 4, 3 / 4, 3 / 4, 1, 1])
    np.testing.assert_allclose(curve.false_positive_rates, [0, 0, 1 / 3, 2 / 3, 2 / 3, 1])
    for hits, low, high in zip(curve.true_positive_rates * 4, curve.low, curve.high, strict=True):
        expected = clopper_pearson(round(hits), 4)
        assert (low, high) == (expected.low, expected.high)


def test_roc_curve_area_is_the_auc_and_thinning_keeps_its_shape():
    generator = np.random.default_rng(4)
    members, non_members = generator.normal(1, 1, 3000), generator.normal(0, 1, 4000)
    area = auc(members, non_members).value
    for points, tolerance in ((10_000, 1e-12), (100, 1e-4)):
        curve = roc_curve(members, non_members, points=points)
        assert np.trapezoid(curve.true_positive_rates, curve.false_positive_rates) == pytest.approx(area, abs=tolerance)
        assert len(curve.low) <= points
        for rates in (curve.false_positive_rates, curve.true_positive_rates):
            assert (rates[0], rates[-1]) == (0.0, 1.0)
            assert (np.diff(rates) >= 0).all()
        assert (curve.low <= curve.true_positive_rates).all()
        assert (curve.true_positive_rates <= curve.high).all()


def test_roc_band_covers_at_a_fixed_threshold():
    generator = np.random.default_rng(5)
    non_members = np.linspace(-2, 2, 41)
    hits = []
    for _ in range(300):
        curve = roc_curve(generator.normal(0.5, 1, 60), non_members, points=1000)
        at = np.flatnonzero(curve.false_positive_rates >= 21 / 41)[0]  # the threshold is the middle score, 0
        hits.append(curve.low[at] <= stats.norm.sf(-0.5) <= curve.high[at])
    assert np.mean(hits) >= 0.93


# Means


def test_mean_interval_is_students():
    result = mean_interval([1.0, 2.0, 4.0], level=0.9)
    assert result.value == pytest.approx(7 / 3)
    low, high = stats.t.interval(0.9, 2, loc=7 / 3, scale=stats.sem([1.0, 2.0, 4.0]))
    assert (result.low, result.high) == (pytest.approx(low), pytest.approx(high))
    assert result.to_json() == {"value": result.value, "low": result.low, "high": result.high}


def test_coverage_of_means_and_paired_gaps():
    generator = np.random.default_rng(6)
    means, gaps = [], []
    for _ in range(2000):
        shared = generator.normal(0, 5, 10)
        first, second = shared + generator.normal(0.3, 1, 10), shared + generator.normal(0, 1, 10)
        means.append(covered(mean_interval(first - shared), 0.3))
        gaps.append(covered(paired_gap_interval(first, second), 0.3))
    assert np.mean(means) == pytest.approx(0.95, abs=0.017)
    assert np.mean(gaps) == pytest.approx(0.90, abs=0.023)


# Bad input


@pytest.mark.parametrize("bad", [[], [[1.0, 2.0]], [1.0, math.nan], [math.inf]])
@pytest.mark.parametrize("function", [auc, true_positive_rate, roc_curve])
def test_bad_scores_are_named(function, bad):
    with pytest.raises(ArgumentError, match=r"^members"):
        function(bad, [0.0, 1.0])
    with pytest.raises(ArgumentError, match=r"^non_members"):
        function([0.0, 1.0], bad)


def test_bad_arguments_are_named():
    for call, named in (
        (lambda: auc([1.0], [2.0], level=1.0), "level"),
        (lambda: true_positive_rate([1.0], [2.0], false_positive_rate=0.0), "false_positive_rate"),
        (lambda: roc_curve([1.0], [2.0], points=1), "points"),
        (lambda: clopper_pearson(3, 2), "successes"),
        (lambda: clopper_pearson(0, 0), "trials"),
        (lambda: clopper_pearson(0, 5, level=95), "level"),
        (lambda: mean_interval([1.0]), "values"),
        (lambda: paired_gap_interval([1.0, 2.0], [1.0, 2.0, 3.0]), "second"),
    ):
        with pytest.raises(ArgumentError, match=named):
            call()
