from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from secure_fu.errors import ArgumentError, DataError
from secure_fu.learning import Records, poisson_sample, poisson_sample_groups


class Seeded:
    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def words(self, count: int) -> NDArray[np.uint64]:
        return self._generator.integers(0, 2**64, count, dtype=np.uint64)


class Fixed:
    def __init__(self, *words: int) -> None:
        self._words = list(words)

    def words(self, count: int) -> NDArray[np.uint64]:
        drawn, self._words = self._words[:count], self._words[count:]
        return np.array(drawn, dtype=np.uint64)


@pytest.mark.parametrize("rate", [2.0**-64, 2.0**-53, 0.1, 0.25, 1 / 3, 1.0 - 2.0**-53])
def test_exactly_floor_of_rate_times_two_to_64_words_are_in(rate: float) -> None:
    # A float is a rational number with a power of two below, so the threshold can be written down without the code.
    numerator, denominator = rate.as_integer_ratio()
    threshold = (numerator << 64) // denominator
    mask = poisson_sample(4, rate, Fixed(0, threshold - 1, threshold, 2**64 - 1))
    assert mask.dtype == np.bool_
    assert mask.tolist() == [True, True, False, False]


@pytest.mark.parametrize("rate", [0.02, 0.25, 0.9])
def test_rate_and_independence(rate: float) -> None:
    draws = np.array([poisson_sample(500, rate, Seeded(seed)) for seed in range(2000)])
    total = draws.size
    for other, fits in ((rate, True), (min(1.05 * rate, (1 + rate) / 2), False)):
        z = (draws.sum() - total * other) / np.sqrt(total * other * (1 - other))
        assert (abs(z) < 4.5) == fits
    # Sizes vary as a binomial's do: a fixed-size sample of the same rate would fail here.
    sizes = draws.sum(axis=1)
    low, high = stats.chi2.ppf([1e-5, 1 - 1e-5], df=1999) / 1999
    assert low < sizes.var(ddof=1) / (500 * rate * (1 - rate)) < high


def test_edges() -> None:
    assert poisson_sample(0, 0.5, Seeded(0)).shape == (0,)
    assert poisson_sample(5, 1.0, Fixed()).all()
    for count, rate in ((-1, 0.5), (3, 0.0), (3, 1.1), (3, float("nan"))):
        with pytest.raises(ArgumentError):
            poisson_sample(count, rate, Seeded(0))


def test_groups_are_in_or_out_as_a_whole() -> None:
    names = [f"p{i % 40}" for i in range(200)]
    records = Records.from_arrays(np.ones((200, 2)), np.zeros(200), names)
    assert records.groups is not None
    seen = []
    for seed in range(200):
        mask = poisson_sample_groups(records, 0.25, Seeded(seed))
        per_group = {group: mask[records.groups == group] for group in np.unique(records.groups)}
        assert all(rows.all() or not rows.any() for rows in per_group.values())
        seen.append(sum(bool(rows.all()) for rows in per_group.values()))
    assert abs(np.mean(seen) - 10.0) < 5 * np.sqrt(40 * 0.25 * 0.75 / 200)
    with pytest.raises(DataError, match="group column"):
        poisson_sample_groups(Records.from_arrays(np.ones((2, 2)), [0, 1]), 0.5, Seeded(0))
