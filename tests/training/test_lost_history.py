"""A damaged history costs the methods that need it and nothing else; what is left goes with the next deletion."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from training_cast import Words, records, silo, terms, vector

from secure_fu.errors import ArgumentError, DamagedHistory, HistoryError
from secure_fu.privacy import Unit
from secure_fu.training import ClientHistory, LostHistory, ModelArchive, TrainingTask

FORGOTTEN = np.arange(12) < 4
KEPT = "round-00000001.safetensors"


GROUPED = [f"person-{i // 2}" for i in range(12)]


def trained(folder, unit=Unit.RECORD, rounds=3):
    own = silo(records(groups=GROUPED), folder=folder)
    for number in range(rounds):
        TrainingTask(own).contribution(vector(number), terms(unit, number=number), Words(number))
    return own


def files(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def torn(path):
    path.write_bytes(path.read_bytes()[:-3])


def flipped(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


@pytest.fixture(params=[torn, flipped, lambda path: path.unlink()], ids=["torn", "flipped", "missing"])
def damaged(request, tmp_path):
    """A folder of which one file is no good."""
    trained(tmp_path)
    request.param(tmp_path / KEPT)
    return tmp_path


@pytest.mark.parametrize("unit", list(Unit))
def test_the_client_trains_on_as_if_it_kept_no_history(tmp_path, unit, caplog):
    trained(tmp_path, unit)
    torn(tmp_path / KEPT)
    with caplog.at_level(logging.WARNING, logger="secure_fu"):
        own = silo(records(groups=GROUPED), folder=tmp_path)
    (warning,) = caplog.messages
    assert "silo" in warning
    assert KEPT in warning
    without = silo(records(groups=GROUPED), keeps_history=False)
    for number in (3, 4):
        found, expected = (
            TrainingTask(each).contribution(vector(number), terms(unit, number=number), Words(number))
            for each in (own, without)
        )
        assert np.array_equal(found, expected)
    assert repr(own.history) == "LostHistory()"
    assert len(own.history) == 0


def test_whoever_needs_it_is_told_what_is_wrong(damaged):
    own = silo(folder=damaged)
    assert isinstance(own.history, LostHistory)
    for asked in (own, own.forgetting(FORGOTTEN), own.forgetting(FORGOTTEN, continues_after=1)):
        with pytest.raises(HistoryError, match=r"'silo' has lost its history: .*round.*a method that needs none"):
            asked.checked_history()
    with pytest.raises(DamagedHistory, match=r"missing|damaged"):
        ClientHistory(records=12, dimension=own.model.dimension, folder=damaged)


def test_a_file_that_is_restored_in_time_makes_it_whole_again(tmp_path):
    trained(tmp_path)
    content = (tmp_path / KEPT).read_bytes()
    torn(tmp_path / KEPT)
    before = silo(folder=tmp_path)
    # A method that is tried out beside the main line changes nothing.
    tried = before.forgetting(FORGOTTEN)
    TrainingTask(tried).contribution(vector(7), terms(number=7), Words())
    (tmp_path / KEPT).write_bytes(content)
    assert len(silo(folder=tmp_path).checked_history()) == 3


def test_a_file_that_is_restored_too_late_does_not(tmp_path):
    trained(tmp_path)
    content = (tmp_path / KEPT).read_bytes()
    torn(tmp_path / KEPT)
    TrainingTask(silo(folder=tmp_path)).contribution(vector(3), terms(number=3), Words())
    (tmp_path / KEPT).write_bytes(content)
    with pytest.raises(HistoryError, match=r"lost says that rounds are missing from it for good"):
        silo(folder=tmp_path).checked_history()


@pytest.mark.parametrize("forgotten", [FORGOTTEN, np.zeros(12, bool), np.ones(12, bool)], ids=["some", "none", "all"])
@pytest.mark.parametrize("shared", [False, True])
def test_an_executed_deletion_destroys_all_that_is_left(damaged, forgotten, shared):
    archive = ModelArchive(damaged / "models", dimension=len(vector())) if shared else None
    own = silo(folder=damaged, archive=archive)
    leaving = own.forgetting(forgotten, continues_after=1)
    TrainingTask(leaving).contribution(vector(5), terms(number=5), Words())
    assert KEPT.replace("1", "0") in files(damaged), "a deletion that fails has destroyed nothing"
    assert "lost" not in files(damaged)
    after = leaving.erased()
    assert files(damaged) == ["lost"]
    assert len(after.records) == 12 - forgotten.sum()
    # Of a shared archive, whoever shares it says what to keep.
    assert len(after.history.archive) == (3 if shared else 0)
    assert not after.history.digests
    again = silo(folder=damaged, archive=archive).forgetting(forgotten).erased()
    with pytest.raises(HistoryError, match="for good"):
        again.checked_history()
    with pytest.raises(ArgumentError, match="not a branch"):
        again.history.settle()


def test_a_whole_history_beside_it_is_kept(tmp_path):
    """The same deletion, to see that the test above could fail."""
    own = trained(tmp_path)
    after = own.forgetting(np.zeros(12, bool), continues_after=1).erased()
    assert len(after.checked_history()) == 2
    assert len(files(tmp_path)) == 2


def test_a_folder_that_cannot_be_used_is_still_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HistoryError, match="cannot be used"):
        silo(folder=tmp_path / "file")
