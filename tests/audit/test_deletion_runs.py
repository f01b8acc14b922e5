"""Runs of a deletion procedure: what they must be, and how parts are drawn."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from deletion_cast import digit_runs, others, shuffled_digits, training

from secure_fu.audit.deletion import FINETUNE, NOTHING, RETRAIN, DeletionRuns, Part, secret_parts, stacked_deletion_runs
from secure_fu.errors import ArgumentError
from secure_fu.learning import FlatModel, logistic, train_stacked


@pytest.fixture(scope="module")
def small() -> DeletionRuns:
    return digit_runs(runs=4, targets=30, steps=5)


def test_nothing_is_always_among_the_methods(small: DeletionRuns) -> None:
    assert set(small.after) == {NOTHING, RETRAIN, FINETUNE}
    np.testing.assert_array_equal(small.after[NOTHING], small.before)
    alone = dataclasses.replace(small, after={})
    assert set(alone.after) == {NOTHING}


def test_counts(small: DeletionRuns) -> None:
    assert (small.runs, small.unit_count, small.forgotten) == (4, 30, 10)
    assert small.record_parts.shape == (4, 30)
    assert small.target_logits(small.before).shape == (4, 30, 10)


def unfit(runs: DeletionRuns) -> dict[str, dict[str, object]]:
    unequal = runs.parts.copy()
    unequal[0, unequal[0] == Part.NEVER] = Part.FORGOTTEN
    unequal[0, 0] = Part.NEVER
    broken = runs.retrained.copy()
    broken[1, 2] = np.nan
    return {
        "too few runs": {"parts": runs.parts[:2]},
        "an unknown part": {"parts": np.where(runs.parts == 2, 3, runs.parts).astype(np.int8)},
        "a part is missing": {"parts": np.where(runs.parts == 2, 0, runs.parts).astype(np.int8)},
        "deletions of unequal size": {"parts": unequal},
        "units do not fit": {"units": runs.units[:-1]},
        "a unit without a record": {"units": np.zeros_like(runs.units)},
        "models of another shape": {"before": runs.before[:, :-1]},
        "a model that is not finite": {"retrained": broken},
        "nothing has done something": {"after": {NOTHING: runs.retrained}},
        "no test records": {"test": runs.test.subset(slice(0, 0))},
    }


@pytest.mark.parametrize(
    "case",
    [
        "too few runs",
        "an unknown part",
        "a part is missing",
        "deletions of unequal size",
        "units do not fit",
        "a unit without a record",
        "models of another shape",
        "a model that is not finite",
        "nothing has done something",
        "no test records",
    ],
)
def test_what_does_not_fit_is_refused(small: DeletionRuns, case: str) -> None:
    with pytest.raises(ArgumentError):
        dataclasses.replace(small, **unfit(small)[case])


def test_parts_are_drawn_for_each_run_on_its_own() -> None:
    parts = secret_parts(3000, 7, seed=3)
    counts = [(parts == part).sum(axis=1) for part in Part]
    assert [set(count.tolist()) for count in counts] == [{3}, {2}, {2}]
    # Every unit is forgotten in 2 of 7 runs; 5 standard deviations are 0.041.
    np.testing.assert_allclose((parts == Part.FORGOTTEN).mean(axis=0), 2 / 7, atol=0.042)
    # What a unit was in one run says nothing of the next one.
    gone = (parts == Part.FORGOTTEN).astype(float)
    assert abs(np.corrcoef(gone[:-1].ravel(), gone[1:].ravel())[0, 1]) < 0.035


def test_one_of_several_clients() -> None:
    parts = secret_parts(10, 10, seed=0, forgotten=1)
    assert ((parts == Part.FORGOTTEN).sum(axis=1) == 1).all()
    assert ((parts == Part.NEVER).sum(axis=1) == 3).all()


@pytest.mark.parametrize(("units", "forgotten"), [(2, None), (5, 4), (5, 0)])
def test_too_few_units_are_refused(units: int, forgotten: int | None) -> None:
    with pytest.raises(ArgumentError):
        secret_parts(5, units, seed=0, forgotten=forgotten)


def test_models_are_trained_on_what_their_parts_say() -> None:
    """With every record in every step and no noise, a model is a function of its members: a loop gives the same."""
    data = shuffled_digits()
    model = FlatModel(logistic(64, 10, seed=0))
    how = training(20, sampling_rate=1.0, divisor=20.0, steps=20)
    runs = stacked_deletion_runs(
        model, data.train.subset(slice(0, 9)), others(10, 100), data.test, runs=3, training=how, seed=0
    )
    pool = np.concatenate([np.arange(9), np.arange(100, 110)])
    for run in range(3):
        for vectors, left_out in ((runs.before, {2}), (runs.retrained, {1, 2}), (runs.after[RETRAIN], {1, 2})):
            own = [i for i in range(19) if i >= 9 or int(runs.parts[run, i]) not in left_out]
            records = data.train.subset(pool[own])
            alone = train_stacked(
                model, records, np.ones((1, len(own)), bool), training=how, start=model.vector(), seeds=[7]
            )
            np.testing.assert_allclose(vectors[run], alone[0], atol=1e-5)


def test_retraining_is_independent_of_the_reference_unless_randomness_is_fixed() -> None:
    free = digit_runs(runs=3, targets=30, steps=5)
    assert not np.allclose(free.after[RETRAIN], free.retrained, atol=1e-4)
    data = shuffled_digits()
    fixed = stacked_deletion_runs(
        FlatModel(logistic(64, 10, seed=0)),
        data.train.subset(slice(0, 30)),
        None,
        data.test,
        runs=3,
        training=training(10, steps=0),
        seed=0,
        fixed_randomness=True,
    )
    assert RETRAIN not in fixed.after
