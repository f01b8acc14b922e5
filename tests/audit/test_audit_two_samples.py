"""The two-sample test keeps its level on real records, and finds records of another distribution."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from secure_fu.audit import TwoSampleTest, two_sample_test
from secure_fu.errors import ArgumentError
from secure_fu.learning import Records, breast_cancer, digits


def together(first: Records, second: Records) -> Records:
    return Records(torch.cat([first.features, second.features]), torch.cat([first.labels, second.labels]))


DATA = digits(seed=0)
DIGITS = together(DATA.train, DATA.test)


def halves(records: Records, first: int, second: int, generator: np.random.Generator) -> tuple[Records, Records]:
    order = generator.permutation(len(records))
    return records.subset(order[:first]), records.subset(order[first : first + second])


def test_records_of_one_distribution_are_not_told_apart() -> None:
    """600 splits at 5 %: 30 expected at most, above 54 with a chance below 2e-5; and the test can reject at all."""
    generator = np.random.default_rng(5)
    cancer = breast_cancer(seed=0).train
    found = [two_sample_test(*halves(DIGITS, 40, 60, generator), seed=seed) for seed in range(300)]
    found += [two_sample_test(*halves(cancer, 30, 30, generator), seed=seed) for seed in range(300)]
    assert sum(test.p_value <= 0.05 for test in found) <= 54
    assert sum(test.p_value <= 0.05 for test in found) >= 2
    assert np.mean([test.auc for test in found]) == pytest.approx(0.5, abs=0.02)


def shifted(records: Records) -> Records:
    return Records(torch.roll(records.features, 1, -1), records.labels)


def noisy(records: Records) -> Records:
    noise = torch.randn(records.features.shape, generator=torch.Generator().manual_seed(0))
    return Records(records.features + 0.15 * noise, records.labels)


def without_a_class(records: Records) -> Records:
    return records.subset(records.labels.numpy() != 3)


def one_class(records: Records) -> Records:
    return records.subset(records.labels.numpy() == 3)


def other_labels(records: Records) -> Records:
    return Records(records.features, (records.labels + 1) % 10)


@pytest.mark.parametrize("change", [shifted, noisy, without_a_class, one_class, other_labels])
def test_another_distribution_is_found(change: Callable[[Records], Records]) -> None:
    first, second = halves(DIGITS, 600, 900, np.random.default_rng(1))
    found = two_sample_test(first, change(second))
    assert found.p_value < 0.01
    assert (found.first, found.second) == (600, len(change(second)))
    assert f"p {found.p_value:.2g}" in found.sentence
    # the same test on the same records, unchanged, finds nothing
    assert two_sample_test(first, second).p_value > 0.01


def test_the_cost_is_bounded_and_the_order_does_not_matter() -> None:
    generator = np.random.default_rng(0)
    many = Records.from_arrays(generator.normal(size=(3000, 3)), generator.integers(0, 2, size=3000))
    found = two_sample_test(many.subset(slice(0, 1500)), many.subset(slice(1500, 3000)))
    assert (found.first, found.second) == (1000, 1000)
    # sorted by what differs: a split by position would be one by class
    ordered = many.subset(np.argsort(many.labels.numpy(), kind="stable"))
    assert two_sample_test(ordered.subset(slice(0, 3000, 2)), ordered.subset(slice(1, 3000, 2))).p_value > 0.01


def test_records_without_differences() -> None:
    same = Records.from_arrays(np.ones((40, 2)), np.zeros(40, int))
    assert two_sample_test(same, same) == TwoSampleTest(auc=0.5, p_value=1.0, first=40, second=40)


def test_bad_input() -> None:
    few = DIGITS.subset(slice(0, 19))
    with pytest.raises(ArgumentError, match="at least 20"):
        two_sample_test(DIGITS, few)
    with pytest.raises(ArgumentError, match="shape"):
        two_sample_test(DIGITS, breast_cancer(seed=0).train)
    with pytest.raises(ArgumentError):
        two_sample_test(DIGITS, DIGITS, seed=-1)
