"""Tests of separation have their level, and the power that is stated."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from secure_fu.audit.detection import (
    auc_power,
    can_find_anything,
    detectable_auc,
    fewest_records,
    members_needed,
    non_members_needed,
    rank_test,
    top_count,
    top_test,
)
from secure_fu.errors import ArgumentError
from secure_fu.privacy import true_positive_rate


def test_the_rank_test_by_counting() -> None:
    """Of all ways to place three members among eight ranks, the share that is at least as far from the middle."""
    members, others = [2.0, 5.5, 9.0], [1.0, 3.0, 4.0, 6.0, 7.0]
    values = np.array(members + others)

    def wins(chosen: tuple[int, ...]) -> int:
        rest = [index for index in range(8) if index not in chosen]
        return int(sum(values[one] > values[other] for one in chosen for other in rest))

    middle = 3 * 5 / 2
    distances = [abs(wins(chosen) - middle) for chosen in itertools.combinations(range(8), 3)]
    expected = np.mean([distance >= abs(wins((0, 1, 2)) - middle) for distance in distances])
    assert rank_test(members, others) == pytest.approx(expected)
    assert rank_test(others, members) == pytest.approx(expected)  # two-sided
    assert rank_test([1.0, 1.0], [1.0, 1.0, 1.0]) == 1.0


def test_both_tests_keep_their_level_and_find_what_is_there() -> None:
    generator = np.random.default_rng(3)
    under_null, low, outliers = [], [], []
    for _ in range(2000):
        # heavy tails and ties: levels do not depend on the distribution
        members, others = (np.round(generator.standard_t(2, size=size), 1) for size in (60, 90))
        under_null.append((rank_test(members, others), top_test(members, others)[0]))
    for _ in range(100):
        members, others = generator.normal(size=(2, 400))
        low.append(rank_test(members - 0.5, others))
        members[:8] += 6.0
        outliers.append((rank_test(members, others), top_test(members, others)[0]))
    # 2000 draws at 5 %: 100 expected; above 142 with a chance below 1e-5
    assert (np.array(under_null) <= 0.05).sum(axis=0).max() <= 142
    assert (np.array(low) <= 1e-3).mean() > 0.9
    by_rank, by_top = (np.array(outliers) <= 0.05).mean(axis=0)
    assert by_rank < 0.3
    assert by_top > 0.6


def test_the_highest_scores_are_counted_with_ties_against_the_members() -> None:
    assert [top_count(records) for records in (5, 100, 1000, 2001)] == [5, 10, 10, 21]
    p_value, found = top_test(np.arange(100, 200), np.arange(100))
    assert found == 10
    assert p_value == pytest.approx(stats.hypergeom(200, 100, 10).pmf(10))
    assert top_test(np.ones(50), np.ones(50)) == (1.0, 0)


def separation(area: float) -> float:
    return float(np.sqrt(2.0) * stats.norm.ppf(area))


@pytest.mark.parametrize(("members", "non_members"), [(40, 40), (143, 360), (500, 2000)])
@pytest.mark.parametrize("level", [0.95, 0.99])
def test_the_area_that_is_said_to_be_found_is_found(members: int, non_members: int, level: float) -> None:
    """Scores of unit normals; 2000 draws: the share found is within 0.02 of what is stated, and never far below."""
    generator = np.random.default_rng(11)
    area = detectable_auc(members=members, non_members=non_members, power=0.95, level=level)
    assert area is not None

    def found(shift: float) -> float:
        draws = 2000
        inside = generator.normal(shift, size=(draws, members))
        outside = generator.normal(size=(draws, non_members))
        return float((stats.mannwhitneyu(inside, outside, axis=1).pvalue <= 1.0 - level).mean())

    assert found(separation(area)) == pytest.approx(0.95, abs=0.02)
    half = 0.5 + (area - 0.5) / 2.0
    stated = auc_power(half, members=members, non_members=non_members, level=level)
    assert found(separation(half)) == pytest.approx(stated, abs=0.05)
    assert stated < 0.7


def test_how_many_records_it_takes() -> None:
    for margin, power in ((0.05, 0.8), (0.1, 0.95)):
        count = members_needed(margin, power=power)
        assert auc_power(0.5 + margin, members=count, non_members=count) >= power
        assert auc_power(0.5 + margin, members=count - 1, non_members=count - 1) < power
    assert members_needed(0.02) > members_needed(0.05)
    for rate in (0.1, 0.01, 0.001):
        count = non_members_needed(rate)
        scores = np.arange(float(count))
        assert true_positive_rate([1.0], scores, false_positive_rate=rate) is not None
        assert true_positive_rate([1.0], scores[1:], false_positive_rate=rate) is None


def test_with_hardly_any_records_nothing_can_be_found() -> None:
    # two of 20 ways for three against three: 0.1; two of 70 for four against four: 0.029
    assert not can_find_anything(3, 3, level=0.95)
    assert can_find_anything(4, 4, level=0.95)
    assert fewest_records(0.95) == 4
    assert detectable_auc(members=3, non_members=3) is None
    assert detectable_auc(members=1, non_members=10) is None
    assert rank_test([7.0, 8.0, 9.0, 10.0], [1.0, 2.0, 3.0, 4.0]) == pytest.approx(2 / 70)


@pytest.mark.parametrize(
    "call",
    [
        lambda: members_needed(0.0),
        lambda: members_needed(0.5),
        lambda: members_needed(0.1, power=1.0),
        lambda: non_members_needed(0.0),
        lambda: auc_power(0.4, members=5, non_members=5),
    ],
)
def test_out_of_range(call: object) -> None:
    with pytest.raises(ArgumentError):
        call()  # type: ignore[operator]


def test_few_members_with_many_ties_keep_the_level() -> None:
    """Yes-or-no scores, four members, of a rare yes: the normal approximation says too often that they differ."""
    draw = np.random.default_rng(3)
    p_values, normal = [], []
    for _ in range(300):
        scores = (draw.random(404) < 0.03).astype(float)
        p_values.append(rank_test(scores[:4], scores[4:]))
        normal.append(stats.mannwhitneyu(scores[:4], scores[4:]).pvalue if scores.any() else 1.0)
    # 0.0113 is the level: four members of whom one says yes. The normal approximation is far below 0.05 there.
    assert np.mean(np.array(p_values) <= 0.05) <= 0.05 + 4 * np.sqrt(0.05 * 0.95 / 300)
    assert np.mean(np.array(normal) <= 0.05) > np.mean(np.array(p_values) <= 0.05)
