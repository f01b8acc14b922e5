"""Are members and non-members records of one distribution? If not, an attack may find the difference of the records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, spatial, stats

from secure_fu.errors import ArgumentError
from secure_fu.learning import Records

__all__ = ["FEWEST_RECORDS", "TwoSampleTest", "two_sample_test"]

FEWEST_RECORDS: Final = 20
_MOST_RECORDS: Final = 1000  # of each side; bounds the cost, and keeps differences that do not matter from mattering
_RIDGE: Final = 0.0005
_MOST_CLASSES: Final = 1000
_PERMUTATIONS: Final = 1999


@dataclass(frozen=True, kw_only=True)
class TwoSampleTest:
    """Whether a classifier that sees records, and no model, tells which of two groups they are from.

    Attributes:
        auc: area under its ROC curve on records that it was not trained on; 0.5 where there is nothing to tell.
        p_value: of the hypothesis that both groups are drawn from one distribution.
        first, second: how many records of each group were looked at.
    """

    auc: float
    p_value: float
    first: int
    second: int

    @property
    def sentence(self) -> str:
        """The test's figures in words."""
        return (
            f"two-sample test: p {self.p_value:.2g}; a classifier that sees the records and no model tells them apart "
            f"with an AUC of {self.auc:.2f} ({self.first} against {self.second} records)"
        )


def two_sample_test(first: Records, second: Records, *, seed: int = 0) -> TwoSampleTest:
    """A classifier two-sample test (Lopez-Paz, Oquab 2017, arXiv 1610.06545) on records, and one on their labels alone.

    Both groups are cut in two at random. Kernel ridge regression, a linear plus a Gaussian kernel with the median
    distance for its width, is fitted to one half and tried on the other by the one-sided test of Mann and Whitney; then
    the other way round. A permutation test of Pearson's statistic asks whether classes are as frequent in both. The
    p-value is three times the smallest of the three.

    Guarantee: if the records of both groups are independent draws of one distribution, the p-value is at most x with a
    chance of at most x, for every x, whatever the classifier is worth (up to the normal approximation of Mann and
    Whitney's test above eight records). Scaling uses both groups alike.

    Args:
        first, second: at least 20 records each, of one shape. Of more than 1000 a random 1000 is taken.
        seed: of the random choices.

    Raises:
        ArgumentError: too few records, records of different shapes, or a negative seed.
    """
    for name, records in (("first", first), ("second", second)):
        if len(records) < FEWEST_RECORDS:
            raise ArgumentError(name, f"{len(records)} records", f"at least {FEWEST_RECORDS}")
    if first.shape != second.shape:
        raise ArgumentError("second", f"records of shape {second.shape}", f"records of shape {first.shape}")
    if seed < 0:
        raise ArgumentError("seed", seed, "an integer >= 0")
    generator = np.random.default_rng(seed)
    chosen = [records.subset(generator.permutation(len(records))[:_MOST_RECORDS]) for records in (first, second)]
    sizes = [len(records) for records in chosen]
    points = _points(chosen)
    kernel = _kernel(points)
    group = np.repeat([1.0, -1.0], sizes)
    # Records came in random order, so every second one of each group is a random half.
    half = np.concatenate([np.arange(size) % 2 == 0 for size in sizes])
    areas, p_values = [], []
    for train, test in ((half, ~half), (~half, half)):
        scores = _fitted(kernel, group, train, test)
        inside, outside = scores[group[test] > 0], scores[group[test] < 0]
        if np.ptp(scores) == 0.0:
            areas.append(0.5)
            p_values.append(1.0)
            continue
        found = stats.mannwhitneyu(inside, outside, alternative="greater")
        areas.append(float(found.statistic) / (len(inside) * len(outside)))
        p_values.append(float(found.pvalue))
    p_values.append(_label_test(chosen[0].labels.numpy(), chosen[1].labels.numpy(), generator))
    return TwoSampleTest(
        auc=float(np.mean(areas)), p_value=min(1.0, len(p_values) * min(p_values)), first=sizes[0], second=sizes[1]
    )


def _label_test(first: NDArray[np.int64], second: NDArray[np.int64], generator: np.random.Generator) -> float:
    """Exact p-value, by permutation, of the hypothesis that classes are as frequent in both groups."""
    classes, of = np.unique(np.concatenate([first, second]), return_inverse=True)
    totals = np.bincount(of)
    expected = totals * (len(first) / len(of))
    found = float((((np.bincount(of[: len(first)], minlength=len(classes)) - expected) ** 2) / expected).sum())
    draws = generator.multivariate_hypergeometric(totals, len(first), size=_PERMUTATIONS, method="marginals")
    statistics = ((draws - expected) ** 2 / expected).sum(axis=1)
    return float(1 + np.count_nonzero(statistics >= found - 1e-9)) / (_PERMUTATIONS + 1)


def _points(groups: list[Records]) -> NDArray[np.float64]:
    """Features with unit variance, and labels as indicators that weigh as much as all features together."""
    features = np.concatenate([records.features.numpy().reshape(len(records), -1) for records in groups])
    labels = np.concatenate([records.labels.numpy() for records in groups])
    features = features.astype(np.float64)
    spread = features.std(axis=0)
    kept = spread > 1e-9 * max(1.0, float(np.abs(features).max(initial=0.0)))
    scaled: NDArray[np.float64] = (features[:, kept] - features[:, kept].mean(axis=0)) / spread[kept]
    classes, of = np.unique(labels, return_inverse=True)
    if not 1 < len(classes) <= _MOST_CLASSES:
        return scaled
    indicators = np.eye(len(classes))[of] * np.sqrt(max(1, scaled.shape[1]))
    return np.concatenate([scaled, indicators], axis=1)


def _kernel(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of a linear and a Gaussian kernel, both about 1 on the diagonal."""
    count = len(points)
    if points.shape[1] == 0:
        return np.ones((count, count))
    inner = points @ points.T
    inner /= max(float(np.trace(inner)) / count, 1e-300)
    distances = spatial.distance.squareform(spatial.distance.pdist(points, "sqeuclidean"))
    width = float(np.median(distances[np.triu_indices(count, 1)]))
    result: NDArray[np.float64] = (inner + np.exp(-distances / max(width, 1e-300))) / 2.0
    return result


def _fitted(
    kernel: NDArray[np.float64], group: NDArray[np.float64], train: NDArray[np.bool_], test: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Scores of the test records by ridge regression on the training records, both groups weighing the same."""
    side = group[train]
    share = np.where(side > 0, (side > 0).mean(), (side < 0).mean())
    # Weighted ridge regression: (K + lambda n W^-1) alpha = y.
    system = kernel[np.ix_(train, train)] + np.diag(_RIDGE * len(side) * 2.0 * share)
    alpha = linalg.solve(system, side, assume_a="pos")
    result: NDArray[np.float64] = kernel[np.ix_(test, train)] @ alpha
    return result
