"""The cast of the deletion audit's tests: digits learned by heart, with every procedure in a second or two."""

from __future__ import annotations

from functools import cache

import numpy as np

from secure_fu.audit.deletion import DeletionRuns, stacked_deletion_runs
from secure_fu.learning import Dataset, FlatModel, Records, StackedTraining, digits, mlp


@cache
def shuffled_digits() -> Dataset:
    """Digits with training records in random order: the file has them by writer."""
    data = digits(seed=0)
    order = np.random.default_rng(5).permutation(len(data.train))
    return Dataset(
        train=data.train.subset(order), test=data.test, classes=10, name="digits", description="Digits in random order."
    )


def training(members: int, **changes: float) -> StackedTraining:
    settings = {"steps": 100, "sampling_rate": 0.25, "learning_rate": 0.1, "divisor": 0.25 * members, "momentum": 0.9}
    return StackedTraining(**(settings | changes))


def digit_runs(runs: int = 24, targets: int = 300, seed: int = 1, **changes: float) -> DeletionRuns:
    """Models that learn half of some hundred digits by heart, without any noise, unless `changes` say otherwise."""
    data = shuffled_digits()
    return stacked_deletion_runs(
        FlatModel(mlp(64, (64,), 10, 0)),
        data.train.subset(slice(0, targets)),
        None,
        data.test,
        runs=runs,
        training=training(targets // 3, **changes),
        seed=seed,
    )


@cache
def memorising_runs() -> DeletionRuns:
    return digit_runs(runs=24)


def others(count: int, first: int) -> Records:
    return shuffled_digits().train.subset(slice(first, first + count))
