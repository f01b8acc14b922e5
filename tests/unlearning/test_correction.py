"""Correction: minus each unit's own clipped history, recomputed by its client, against a slow loop."""

from __future__ import annotations

import numpy as np
import pytest
from unlearning_cast import (
    CLIP,
    FORGOTTEN,
    GRADIENTS,
    GROUPS,
    MODEL,
    Words,
    clipped,
    clipped_sum,
    gradient,
    overflowing,
    records,
    sampled,
    silo,
    terms,
    weights,
)

from secure_fu.errors import ArgumentError, HistoryError
from secure_fu.learning import PerRecordGradients
from secure_fu.learning.unit_rows import clipped_rows
from secure_fu.privacy import Unit
from secure_fu.training import TrainingTask
from secure_fu.unlearning import Correction

ROUNDS = 5


def trained(own, unit=Unit.RECORD, rate=0.5, clip_norm=CLIP, **arguments):
    """A silo after some training rounds on models of their own; seeds are the round numbers."""
    made = silo(own, **arguments)
    for number in range(ROUNDS):
        round_terms = terms(unit, retained=rate, number=number, clip_norm=clip_norm)
        TrainingTask(made).contribution(weights(number), round_terms, Words(number))
    return made


def contribution(of, unit=Unit.RECORD, *, retained=0.0, forgotten=1.0, seed=99, task=None, clip_norm=CLIP):
    if task is None:
        ((purpose, task),) = Correction().client_tasks(of).items()
        assert purpose == "unlearn/correction"
    round_terms = terms(unit, retained=retained, forgotten=forgotten, clip_norm=clip_norm, number=99)
    return task.contribution(weights(77), round_terms, Words(seed))


def history(own, positions, rate, names=None, clip_norm=CLIP):
    """What these records, as one unit, contributed to training: the slow loop."""
    total = np.zeros(MODEL.dimension)
    for number in range(ROUNDS):
        if names is None:
            (inside,) = sampled(number, rate, len(own))
            chosen = inside[positions[0]]
        else:
            (inside,) = sampled(number, rate, len(set(names)))
            chosen = inside[sorted(set(names)).index(names[positions[0]])]
        if chosen:
            together = sum(gradient(weights(number), own.features[i], own.labels[i]) for i in positions)
            total += clipped(together, clip_norm)
    return total


@pytest.mark.parametrize(("clip_norm", "acts"), [(CLIP, True), (100.0, False)])
def test_it_takes_back_each_records_own_clipped_history(clip_norm, acts):
    own = records()
    leaving = trained(own, clip_norm=clip_norm).forgetting(FORGOTTEN)
    found = contribution(leaving, clip_norm=clip_norm)
    histories = [history(own, [i], 0.5, clip_norm=clip_norm) for i in np.flatnonzero(FORGOTTEN)]
    assert any(np.linalg.norm(part) > clip_norm for part in histories) == acts
    expected = -clipped_sum((part for part in histories if part.any()), clip_norm)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_the_others_train_in_the_same_sum(seed):
    own = records()
    found = contribution(trained(own).forgetting(FORGOTTEN), retained=0.5, forgotten=0.5, seed=seed)
    trains, takes_back = sampled(seed, 0.5, 12, 12)
    steps = [gradient(weights(77), own.features[i], own.labels[i]) for i in np.flatnonzero(trains & ~FORGOTTEN)]
    back = [history(own, [i], 0.5) for i in np.flatnonzero(takes_back & FORGOTTEN)]
    expected = clipped_sum(steps) - clipped_sum(part for part in back if part.any())
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_a_person_is_one_unit():
    own = records(groups=GROUPS)
    forgotten = np.isin(GROUPS, ["a", "d"])
    found = contribution(trained(own, Unit.GROUP).forgetting(forgotten), Unit.GROUP)
    histories = [history(own, [0, 2, 6], 0.5, GROUPS), history(own, [5, 8], 0.5, GROUPS)]
    assert all(part.any() for part in histories)
    assert found == pytest.approx(-clipped_sum(histories), rel=1e-9, abs=1e-12)


def test_every_round_takes_back_the_same(monkeypatch):
    own = records()
    leaving = trained(own).forgetting(FORGOTTEN)
    ((_, task),) = Correction().client_tasks(leaving).items()
    first, again = contribution(leaving, task=task), contribution(leaving, task=task)
    monkeypatch.setattr("secure_fu.unlearning.correction._KEPT_BYTES", 0)
    recomputed = contribution(leaving)
    assert np.array_equal(first, again)
    assert np.array_equal(first, recomputed)


@pytest.mark.parametrize("unit", [Unit.RECORD, Unit.GROUP])
def test_a_round_with_another_clip_norm_is_bounded_by_that(unit):
    """What is kept from one round to the next was clipped to the norm of the first."""
    own = records(groups=GROUPS)
    leaving = trained(own, unit, rate=1.0).forgetting(np.isin(GROUPS, ["a"]))
    ((_, task),) = Correction().client_tasks(leaving).items()
    units = 3 if unit is Unit.RECORD else 1
    for clip_norm in (CLIP, 1e-6, CLIP / 7.0, 100.0, 1e-6, CLIP):
        found = contribution(leaving, unit, task=task, clip_norm=clip_norm)
        assert np.array_equal(found, contribution(leaving, unit, clip_norm=clip_norm))
        assert 0.0 < np.linalg.norm(found) <= units * clip_norm


def test_a_round_for_another_unit_takes_back_that_units_history():
    own = records(groups=GROUPS)
    leaving = trained(own, rate=1.0).forgetting(np.isin(GROUPS, ["a", "d"]))
    ((_, task),) = Correction().client_tasks(leaving).items()
    for unit in (Unit.RECORD, Unit.GROUP, Unit.RECORD):
        assert np.array_equal(contribution(leaving, unit, task=task), contribution(leaving, unit))


# One unit, one bound


@pytest.mark.parametrize("out", np.flatnonzero(FORGOTTEN))
def test_one_record_moves_the_sum_by_at_most_the_clip_norm(out):
    """Neighbours share the history of models; the record that is out was never there."""
    own, keep = records(), np.arange(12) != out
    with_it = trained(own, rate=1.0)
    without = trained(own.subset(keep), rate=1.0)
    difference = contribution(with_it.forgetting(FORGOTTEN)) - contribution(without.forgetting(FORGOTTEN[keep]))
    # Five rounds of up to C each: unclipped, the history would be far over the bound.
    assert np.linalg.norm(history(own, [out], 1.0)) > CLIP
    assert np.linalg.norm(difference) == pytest.approx(CLIP, rel=1e-9)
    assert np.linalg.norm(difference) <= CLIP * (1.0 + 1e-12)


@pytest.mark.parametrize("name", "abcde")
def test_one_person_moves_the_sum_by_at_most_the_clip_norm(name):
    own, keep = records(groups=GROUPS), np.array([other != name for other in GROUPS])
    forgotten = np.isin(GROUPS, ["a", "c"])
    with_it, without = trained(own, Unit.GROUP, 1.0), trained(own.subset(keep), Unit.GROUP, 1.0)
    difference = contribution(with_it.forgetting(forgotten), Unit.GROUP, retained=1.0) - contribution(
        without.forgetting(forgotten[keep]), Unit.GROUP, retained=1.0
    )
    assert 0.0 < np.linalg.norm(difference) <= CLIP * (1.0 + 1e-12)


def test_a_client_that_leaves_takes_its_summed_updates_back():
    own = trained(records(), Unit.CLIENT, rate=1.0)
    updates = sum(
        -TrainingTask(silo()).contribution(weights(number), terms(Unit.CLIENT, number=number), Words())
        for number in range(ROUNDS)
    )
    assert np.linalg.norm(updates) > CLIP
    found = contribution(own.forgetting(np.ones(12, dtype=bool)), Unit.CLIENT, retained=1.0)
    # The server descends: what moved the model along `updates` is sent as it is.
    assert found == pytest.approx(clipped(updates), rel=1e-6, abs=1e-8)  # kept as float32
    assert np.linalg.norm(found) <= CLIP


def test_a_client_that_stays_trains_on():
    found = contribution(trained(records(), Unit.CLIENT, rate=1.0), Unit.CLIENT, retained=1.0)
    expected = TrainingTask(silo()).contribution(weights(77), terms(Unit.CLIENT, number=99), Words())
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("forgotten", [FORGOTTEN, np.zeros(12, bool), np.ones(12, bool)])
def test_without_a_history_every_client_refuses_whoever_leaves(forgotten):
    forgetful = silo(records(), keeps_history=False)
    TrainingTask(forgetful).contribution(weights(), terms(), Words())
    with pytest.raises(HistoryError, match=r"'silo'.*keep_history"):
        Correction().client_tasks(forgetful.forgetting(forgotten))


@pytest.mark.parametrize("forgotten", [FORGOTTEN, np.zeros(12, bool)])
@pytest.mark.parametrize("what", ["round-00000002.safetensors", "models"])
def test_a_damaged_history_is_found_before_the_first_round_by_whoever_has_it(tmp_path, forgotten, what):
    leaving = trained(records(), folder=tmp_path).forgetting(forgotten)
    path = tmp_path / what
    path = next(path.iterdir()) if path.is_dir() else path
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(HistoryError, match=path.name):
        Correction().client_tasks(leaving)


@pytest.mark.parametrize("unit", list(Unit))
def test_who_never_took_part_takes_nothing_back(unit):
    own = silo(records(groups=GROUPS), np.ones(12, bool))
    assert not contribution(own, unit).any()


def test_histories_on_disk_and_in_chunks_give_the_same(monkeypatch, tmp_path):
    own = records()
    expected = contribution(trained(own).forgetting(FORGOTTEN))
    monkeypatch.setattr("secure_fu.unlearning.correction._WORK_BYTES", 2 * MODEL.dimension * 8)
    found = contribution(trained(own, folder=tmp_path).forgetting(FORGOTTEN))
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_each_old_round_is_one_batch_of_the_units_that_were_in_it(monkeypatch):
    """No gradient but those that the units had a part in, and each once, however many rounds take them back."""
    leaving = trained(records()).forgetting(FORGOTTEN)
    batches = []

    def counted(gradients, model, chosen, units, **arguments):
        batches.append(units.tolist())
        return clipped_rows(gradients, model, chosen, units, **arguments)

    ((_, task),) = Correction().client_tasks(leaving).items()
    monkeypatch.setattr("secure_fu.unlearning.correction.clipped_rows", counted)
    for _ in range(3):
        contribution(leaving, task=task)
    assert batches == [np.flatnonzero(entry.sampled & FORGOTTEN).tolist() for entry in leaving.history]
    assert 0 < sum(map(len, batches)) < ROUNDS * FORGOTTEN.sum()


@pytest.mark.parametrize("chunk", [1, 2**27])
def test_rows_are_each_units_own(chunk, monkeypatch):
    monkeypatch.setattr("secure_fu.learning.per_record._CHUNK_BYTES", chunk)
    own, units = records(), np.array([4, 4, 9, 0, 9, 9, 0, 4, 2, 2, 2, 11])
    found = clipped_rows(GRADIENTS, weights(1).astype(np.float64), own, units, clip_norm=CLIP)
    for row, unit in zip(found, (0, 2, 4, 9, 11), strict=True):
        total = sum(gradient(weights(1), own.features[i], own.labels[i]) for i in np.flatnonzero(units == unit))
        assert row == pytest.approx(clipped(total), rel=1e-9, abs=1e-12)
        assert np.linalg.norm(row) <= CLIP
    assert (
        clipped_rows(GRADIENTS, weights(1).astype(np.float64), own.subset(slice(0)), units[:0], clip_norm=1.0).size == 0
    )
    with pytest.raises(ArgumentError, match="units"):
        clipped_rows(GRADIENTS, weights(1).astype(np.float64), own, units[1:], clip_norm=1.0)


def test_a_unit_that_overflows_has_a_row_of_zeros_and_moves_no_other(monkeypatch):
    monkeypatch.setattr("secure_fu.learning.per_record._CHUNK_BYTES", 1)
    deep, model, own = overflowing(4)
    found = clipped_rows(PerRecordGradients(deep), model, own, np.arange(4), clip_norm=CLIP)
    keep = np.array([0, 1, 3])
    assert not found[2].any()
    assert found[keep].any(axis=1).all()
    alone = clipped_rows(PerRecordGradients(deep), model, own.subset(keep), np.arange(3), clip_norm=CLIP)
    assert np.array_equal(found[keep], alone)


@pytest.mark.parametrize(("settings", "argument"), [({"length": 0}, "length"), ({"rate_factor": 0.0}, "rate_factor")])
def test_settings_out_of_their_domain(settings, argument):
    with pytest.raises(ArgumentError) as caught:
        Correction(**settings)
    assert caught.value.argument == argument
