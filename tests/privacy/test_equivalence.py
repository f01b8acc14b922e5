from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad

from secure_fu.errors import ArgumentError
from secure_fu.privacy import equivalence_power, equivalence_test, holm, runs_needed


def test_both_one_sided_tests_by_hand():
    gaps = np.array([0.01, 0.03, -0.02, 0.02, 0.04, -0.01])
    result = equivalence_test(gaps, margin=0.05)
    above = stats.ttest_1samp(gaps, -0.05, alternative="greater").pvalue
    below = stats.ttest_1samp(gaps, 0.05, alternative="less").pvalue
    assert result.p_value == pytest.approx(max(above, below), rel=1e-12)
    assert result.p_different == pytest.approx(stats.ttest_1samp(gaps, 0.0).pvalue, rel=1e-12)
    assert result.equivalent
    assert not result.different
    low, high = stats.t.interval(0.9, 5, loc=gaps.mean(), scale=stats.sem(gaps))
    assert (result.gap.low, result.gap.high) == (pytest.approx(low), pytest.approx(high))


@pytest.mark.parametrize("centre", [-0.06, -0.03, 0.0, 0.01, 0.04])
def test_equivalent_exactly_where_the_interval_lies_within_the_margin(centre):
    generator = np.random.default_rng(5)
    for _ in range(100):
        result = equivalence_test(generator.normal(centre, 0.03, 8), margin=0.05)
        assert result.equivalent == (result.gap.low >= -0.05 and result.gap.high <= 0.05)


def test_few_runs_show_neither_and_many_can_show_both():
    generator = np.random.default_rng(1)
    few = equivalence_test(generator.normal(0.0, 0.2, 4), margin=0.05)
    assert not few.equivalent
    assert not few.different
    many = equivalence_test(generator.normal(0.02, 0.05, 500), margin=0.05)
    assert many.equivalent
    assert many.different


def test_gaps_without_spread_are_known_exactly():
    same = equivalence_test(np.zeros(5), margin=0.01)
    assert same.equivalent
    assert not same.different
    assert same.p_different == 1.0
    off = equivalence_test(np.full(5, 0.02), margin=0.01)
    assert not off.equivalent
    assert off.different


def test_errors_of_the_test_at_its_margin_and_at_no_gap():
    generator = np.random.default_rng(2)
    results = [equivalence_test(generator.normal(1.0, 0.5, 12), margin=1.0) for _ in range(4000)]
    share = np.mean([result.equivalent for result in results])
    assert 0.035 < share < 0.064
    differ = [equivalence_test(generator.normal(0.0, 0.5, 12), margin=1.0).different for _ in range(4000)]
    assert 0.035 < np.mean(differ) < 0.064
    # A two-sided test of "no difference" that does not reject, taken for equivalence, would be wrong nearly always.
    assert (
        np.mean([not equivalence_test(generator.normal(1.0, 2.0, 5), margin=1.0).different for _ in range(400)]) > 0.5
    )


def slow_power(spread, runs, margin, level, gap):
    """Over the estimated variance by adaptive quadrature."""
    error, freedom = spread / math.sqrt(runs), runs - 1
    quantile = stats.t.ppf(level, freedom)

    def integrand(squared):
        room = margin - quantile * error * math.sqrt(squared / freedom)
        inside = stats.norm.cdf((room - gap) / error) - stats.norm.cdf((-room - gap) / error)
        return inside * stats.chi2.pdf(squared, freedom)

    most = freedom * (margin / (quantile * error)) ** 2
    return quad(integrand, 0.0, min(most, freedom + 40 * math.sqrt(freedom)), limit=200)[0]


@pytest.mark.parametrize(
    ("spread", "runs", "margin", "level", "gap"),
    [
        (1.0, 3, 1.0, 0.95, 0.0),
        (1.0, 8, 0.9, 0.95, 0.3),
        (1.0, 20, 0.5, 0.9, 0.0),
        (0.028, 64, 0.01, 0.95, 0.002),
        (1.0, 400, 0.1, 0.95, 0.0),
    ],
)
def test_power_by_quadrature_and_by_simulation(spread, runs, margin, level, gap):
    power = equivalence_power(spread, runs, margin=margin, level=level, gap=gap)
    assert power == pytest.approx(slow_power(spread, runs, margin, level, gap), abs=1e-6)
    generator = np.random.default_rng(3)
    found = np.mean(
        [
            equivalence_test(generator.normal(gap, spread, runs), margin=margin, level=level).equivalent
            for _ in range(2000)
        ]
    )
    assert found == pytest.approx(power, abs=4.5 * math.sqrt(0.25 / 2000))
    wrong = equivalence_power(2.0 * spread, runs, margin=margin, level=level, gap=gap)
    assert abs(found - wrong) > 4.5 * math.sqrt(0.25 / 2000) or power < 0.1


def test_power_at_the_margin_is_at_most_the_level():
    for runs in (2, 5, 50):
        assert equivalence_power(0.01, runs, margin=1.0, gap=1.0) == pytest.approx(0.05, abs=1e-6)
        assert equivalence_power(1.0, runs, margin=0.1, gap=0.1) < 0.05


def test_runs_needed_is_the_fewest():
    runs = runs_needed(0.028, margin=0.02, power=0.9)
    assert equivalence_power(0.028, runs, margin=0.02) >= 0.9 > equivalence_power(0.028, runs - 1, margin=0.02)
    assert runs_needed(1e-6, margin=1.0) == 2
    # The textbook's normal approximation: (z_.95 + z_.95)^2 spread^2 / margin^2 at power 0.9.
    assert runs_needed(1.0, margin=0.1, power=0.9) == pytest.approx((2 * 1.6449) ** 2 / 0.01, rel=0.01)


def test_holm_by_hand():
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert list(adjusted) == ["a", "b", "c", "d"]
    assert adjusted == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({}) == {}
    assert holm({"only": 0.2}) == {"only": 0.2}
    assert holm({"x": 0.9, "y": 0.8}) == {"x": 1.0, "y": 1.0}


def test_holm_keeps_the_chance_of_any_false_alarm():
    generator = np.random.default_rng(4)
    raw, adjusted = 0, 0
    for _ in range(3000):
        values = dict(zip("abcdefgh", generator.random(8).tolist(), strict=True))
        raw += min(values.values()) <= 0.05
        adjusted += min(holm(values).values()) <= 0.05
    assert adjusted / 3000 < 0.066
    assert raw / 3000 > 0.3


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: equivalence_test([0.1], margin=0.1), "values"),
        (lambda: equivalence_test([0.1, math.nan], margin=0.1), "values"),
        (lambda: equivalence_test([0.1, 0.2], margin=0.0), "margin"),
        (lambda: equivalence_test([0.1, 0.2], margin=0.1, level=0.4), "level"),
        (lambda: equivalence_power(1.0, 1, margin=0.1), "runs"),
        (lambda: equivalence_power(0.0, 3, margin=0.1), "spread"),
        (lambda: runs_needed(1.0, margin=0.1, gap=0.1), "margin"),
        (lambda: runs_needed(1e6, margin=1e-3), "margin"),
        (lambda: holm({"a": 1.5}), "p_values['a']"),
        (lambda: holm({"a": math.nan}), "p_values['a']"),
    ],
)
def test_bad_arguments_are_named(call, argument):
    with pytest.raises(ArgumentError) as caught:
        call()
    assert caught.value.argument == argument


def test_json_has_no_nan():
    assert not any(
        isinstance(value, float) and math.isnan(value)
        for value in equivalence_test(np.zeros(3), margin=1.0).to_json().values()
    )
