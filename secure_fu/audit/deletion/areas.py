"""Areas under the ROC curve run by run, and what each run is worth where an attack is learned on the other runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from secure_fu.audit.deletion.likelihood import Parted, likelihood_ratios

__all__ = ["areas", "learned_areas", "unit_means"]


def unit_means(values: NDArray[np.float64], units: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean over the records of each unit: (R, t) -> (R, u)."""
    counts = np.bincount(units)
    shares = np.zeros((len(units), len(counts)))
    shares[np.arange(len(units)), units] = 1.0 / counts[units]
    result: NDArray[np.float64] = values @ shares
    return result


def areas(scores: NDArray[np.float64], parted: Parted) -> NDArray[np.float64]:
    """Area under the ROC curve of each run, inside against outside, ties counting half: (R, u) -> (R,)."""
    inside, outside = parted.inside.sum(axis=1), parted.outside.sum(axis=1)
    if inside.min() == inside.max() and outside.min() == outside.max():
        return _areas(scores[parted.inside].reshape(len(scores), -1), scores[parted.outside].reshape(len(scores), -1))
    return np.concatenate(
        [
            _areas(row[None, one], row[None, other])
            for row, one, other in zip(scores, parted.inside, parted.outside, strict=True)
        ]
    )


def learned_areas(
    signal: NDArray[np.float64], parted: Parted, scored: Sequence[NDArray[np.float64]]
) -> tuple[NDArray[np.float64], ...]:
    """Areas by likelihood ratios that are learned on the other runs, one array (R,) for each signal that is scored.

    Their means are the mean areas. Their spread is not that of the plain areas, for those are not independent: what
    run r shows with the help of run s, run s shows again with the help of run r. Where the attack has nothing to
    learn but chance, half of the variance of the mean is in that, and Student's interval of the plain areas would be
    too narrow by sqrt(2). A jackknife over runs sees it twice (Efron and Stein 1981: its variance is never too small
    on average). Each value here is half way between the run's own area and its jackknife pseudo-value, both centred
    at the mean area. Coverage is tested by simulation; it is a little above the level where there is nothing to find.

    Args:
        signal, parted, scored: as :func:`~secure_fu.audit.deletion.likelihood.likelihood_ratios`.
    """
    runs = len(signal)
    plain = np.stack([areas(scores, parted) for scores in likelihood_ratios(signal, parted, scored)])
    means = plain.mean(axis=1, keepdims=True)
    without = np.empty_like(plain)
    for run in range(runs):
        fewer = parted.without(run)
        rest = [np.delete(values, run, axis=0) for values in (signal, *scored)]
        ratios = likelihood_ratios(rest[0], fewer, rest[1:])
        without[:, run] = [areas(scores, fewer).mean() for scores in ratios]
    pseudo = means - (runs - 1.0) * (without - without.mean(axis=1, keepdims=True))
    return tuple((plain + pseudo) / 2.0)


def _areas(inside: NDArray[np.float64], outside: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mann and Whitney's statistic row by row: (R, m) and (R, n) -> (R,)."""
    m, n = inside.shape[1], outside.shape[1]
    ranks = stats.rankdata(np.concatenate([inside, outside], axis=1), axis=1)[:, :m]
    result: NDArray[np.float64] = (ranks.sum(axis=1) - m * (m + 1) / 2.0) / (m * n)
    return result
