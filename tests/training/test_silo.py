"""What a client remembers of its rounds, and what is left of it after a deletion."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from training_cast import (
    MODEL,
    Words,
    drawn,
    drawn_again,
    records,
    silo,
    terms,
    vector,
)

from secure_fu.errors import ArgumentError, HistoryError
from secure_fu.learning import FlatModel, PerRecordGradients, mlp
from secure_fu.privacy import Unit
from secure_fu.training import (
    Silo,
    TrainingTask,
    single_update,
    training_task,
)


def test_a_silo_needs_records_and_marks_of_its_length():
    with pytest.raises(ArgumentError, match=r"'silo'.*0 records"):
        silo(records().subset(slice(0)))
    with pytest.raises(ArgumentError, match="forgotten"):
        silo().forgetting(np.zeros(11, dtype=bool))


def test_a_silo_and_its_task_print_no_data():
    own = silo()
    TrainingTask(own).contribution(vector(), terms(), Words())
    assert repr(own) == "Silo('silo', 12 records)"
    (entry,) = own.history
    for shown in (repr(own), repr(own.history), repr(entry), repr(own.records), repr(training_task(own))):
        assert "array" not in shown
        assert "tensor" not in shown


def test_the_history_holds_the_model_and_the_secret_sample_of_each_training_round():
    own = silo()
    samples = []
    for number in range(3):
        stream = Words(number)
        TrainingTask(own).contribution(vector(number), terms(number=number), stream)
        samples.append(drawn(stream, 12, 0.5))
    assert len(own.history) == 3
    for number, entry in enumerate(own.history):
        assert entry.round_number == number
        assert np.array_equal(own.history.archive.get(entry.digest), vector(number))
        assert np.array_equal(entry.sampled, samples[number])
        assert entry.update is None


@pytest.mark.parametrize("length", [1, len(vector()) - 1, len(vector()) + 1])
def test_a_model_of_another_length_leaves_no_trace_in_the_history(length):
    """It would fail later, in the unlearning, for the records alone that were in that sample."""
    own = silo()
    TrainingTask(own).contribution(vector(), terms(), Words())
    with pytest.raises(ArgumentError):
        TrainingTask(own).contribution(np.zeros(length, dtype=np.float32), terms(number=1), Words())
    assert [entry.round_number for entry in own.history] == [0]
    assert len(own.history.archive) == 1


def test_an_unlearning_branch_reads_a_copy_of_the_history_and_adds_nothing():
    own = silo()
    TrainingTask(own).contribution(vector(), terms(), Words())
    marked = own.forgetting(np.arange(12) < 2)
    TrainingTask(marked).contribution(vector(4), terms(), Words())
    assert len(marked.history) == len(own.history) == 1
    TrainingTask(own).contribution(vector(5), terms(number=1), Words())
    assert (len(marked.history), len(own.history)) == (1, 2)
    assert not own.forgotten.any()
    assert marked.forgotten.sum() == 2


def test_a_round_asked_for_again_takes_the_place_of_the_first():
    own, again = silo(), Words(8)
    for number, stream in ((0, Words(7)), (1, again)):
        TrainingTask(own).contribution(vector(), terms(number=number), stream)
    (entry,) = own.history
    assert np.array_equal(entry.sampled, drawn(again, 12, 0.5))

    own = silo()
    TrainingTask(own).contribution(vector(1), terms(Unit.CLIENT), Words())
    TrainingTask(own).contribution(vector(2), terms(Unit.CLIENT, number=1), Words())
    update = -TrainingTask(own).contribution(vector(2), terms(Unit.CLIENT, number=2), Words())
    first = single_update("silo", MODEL, vector(1), own.records, terms(Unit.CLIENT))
    assert [entry.round_number for entry in own.history] == [0, 2]
    assert own.history.total_update() == pytest.approx(first + update, rel=1e-6, abs=1e-8)


def test_who_keeps_no_history_keeps_none():
    own = silo(keeps_history=False)
    TrainingTask(own).contribution(vector(), terms(), Words())
    TrainingTask(own).contribution(vector(), terms(Unit.CLIENT, number=1), Words())
    assert own.history is None
    for asked in (own, own.forgetting(np.arange(12) < 2, continues_after=0)):
        with pytest.raises(HistoryError, match=r"'silo'.*keep_history"):
            asked.checked_history()


def test_the_client_unit_remembers_its_own_updates():
    own = silo()
    contributions = [
        TrainingTask(own).contribution(vector(number), terms(Unit.CLIENT, number=number), Words())
        for number in range(3)
    ]
    for entry, contribution in zip(own.history, contributions, strict=True):
        assert entry.update.dtype == np.float32
        assert entry.update == pytest.approx(-contribution, rel=1e-6, abs=1e-9)
        assert entry.sampled is None
    assert own.history.total_update() == pytest.approx(-sum(contributions), rel=1e-6, abs=1e-8)


# A deletion that is executed


@pytest.mark.parametrize("kept", [-1, 1, 2])
def test_an_executed_deletion_goes_on_from_its_start_without_the_forgotten(kept, tmp_path):
    """Three rounds of training, a deletion that goes back to after round `kept`, two rounds without four records."""
    own = silo(folder=tmp_path / "own")
    for number in range(3):
        TrainingTask(own).contribution(vector(number), terms(number=number), Words(number))
    forgotten = np.arange(12) < 4
    before = [entry.sampled for entry in own.history]
    leaving = own.forgetting(forgotten, Unit.RECORD, continues_after=kept)
    for number in (3, 4):
        TrainingTask(leaving).contribution(vector(number), terms(number=number), Words(number))
    assert len(own.history) == len(leaving.history) == 3, "the old history is there for as long as the method needs it"
    assert np.array_equal([entry.sampled for entry in own.history], before)

    after = leaving.erased()
    assert (len(after.records), after.forgotten.any(), after.leaves) == (8, False, False)
    assert after.records.labels.equal(own.records.labels[4:])
    assert [entry.round_number for entry in after.history] == [*range(kept + 1), 3, 4]
    expected = [drawn_again(number)[4:] for number in (*range(kept + 1), 3, 4)]
    assert np.array_equal([after.sampled_then(entry) for entry in after.history], expected)
    assert not any(entry.sampled[:4].any() for entry in after.history)
    TrainingTask(after).contribution(vector(5), terms(number=5), Words(5))
    assert np.array_equal(after.sampled_then([*after.history][-1]), drawn_again(5, 8))
    assert sorted(path.name for path in (tmp_path / "own").glob("*round*")) == [
        f"round-{number:08}.safetensors" for number in (*range(kept + 1), 3, 4, 5)
    ]
    # A process that starts again brings the records as they were, and deletes them again.
    again = silo(folder=tmp_path / "own").forgetting(forgotten).erased()
    assert [entry.round_number for entry in again.history] == [*range(kept + 1), 3, 4, 5]
    assert [again.sampled_then(entry).tolist() for entry in again.history] == [
        after.sampled_then(entry).tolist() for entry in after.history
    ]
    # A second deletion counts among the records that are left.
    last = again.forgetting(np.arange(8) >= 6, continues_after=5).erased()
    assert last.records.labels.equal(own.records.labels[4:10])
    for entry, before in zip(last.history, after.history, strict=True):
        assert np.array_equal(last.sampled_then(entry), after.sampled_then(before)[:6])
        assert not entry.sampled[np.r_[0:4, 10:12]].any()
    assert len(last.forgetting(np.ones(6, bool)).erased().history) == 0


def test_who_forgets_nothing_goes_back_with_the_others():
    own = silo()
    for number in range(3):
        TrainingTask(own).contribution(vector(number), terms(number=number), Words(number))
    after = own.forgetting(np.zeros(12, bool), continues_after=0).erased()
    assert [entry.round_number for entry in after.history] == [0]
    untouched = after.forgetting(np.zeros(12, bool)).erased()
    assert [entry.round_number for entry in untouched.history] == [0]


@pytest.mark.parametrize("unit", [Unit.RECORD, Unit.CLIENT])
@pytest.mark.parametrize("executed", [True, False])
def test_of_a_client_that_left_nothing_is_kept(unit, executed, tmp_path):
    own = silo(folder=tmp_path)
    for number in range(2):
        TrainingTask(own).contribution(vector(number), terms(unit, number=number), Words(number))
    leaving = own.forgetting(np.ones(12, bool), unit, continues_after=1 if executed else None)
    TrainingTask(leaving).contribution(vector(2), terms(unit, number=2), Words(2))
    gone = leaving.erased()
    assert (len(gone.records), len(gone.history), gone.leaves) == (0, 0, True)
    assert not TrainingTask(gone).contribution(vector(3), terms(unit, number=3), Words(3)).any()
    assert [path.name for path in tmp_path.rglob("*")] == ["models"]


def test_a_history_of_other_records_or_another_model_is_refused(tmp_path):
    own = silo(folder=tmp_path)
    TrainingTask(own).contribution(vector(), terms(), Words())
    with pytest.raises(HistoryError, match=r"round-00000000.safetensors.*12 records.*expected 11"):
        silo(records(11), folder=tmp_path)
    other = FlatModel(mlp(4, (6,), 3, 0))
    with pytest.raises(HistoryError, match=rf"does not fit the model.*{MODEL.dimension}.*expected {other.dimension}"):
        Silo.of("silo", records(), other, PerRecordGradients(other), folder=tmp_path)
    with pytest.raises(HistoryError, match=r"'silo' is of 12 records.*13 are left"):
        replace(own, records=records(13), forgotten=np.zeros(13, bool), places=np.arange(13))
    with pytest.raises(HistoryError, match=rf"{MODEL.dimension} parameters; expected {other.dimension}"):
        replace(own, model=other)


# Whole units


@pytest.mark.parametrize(
    ("unit", "forgotten", "whole"),
    [
        (Unit.RECORD, [0], True),
        (Unit.GROUP, [0, 1], True),
        (Unit.GROUP, [0, 1, 2], False),
        (Unit.GROUP, [1], False),
        (Unit.GROUP, [], True),
        (Unit.CLIENT, [0, 1], False),
        (Unit.CLIENT, [], True),
        (Unit.CLIENT, range(6), True),
    ],
)
def test_a_part_of_a_unit_is_not_forgotten(unit, forgotten, whole):
    own = silo(records(6, groups=["a", "a", "b", "b", "c", "c"]))
    mask = np.isin(np.arange(6), list(forgotten))
    if whole:
        assert own.forgetting(mask, unit).forgotten.sum() == len(forgotten)
    else:
        with pytest.raises(ArgumentError, match=f"whole units.*{unit.value}"):
            own.forgetting(mask, unit)
