"""A client's own history: what it keeps on disk, what it refuses to read, what is gone after a deletion."""

from __future__ import annotations

import gc
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from history_cast import DIMENSION, RECORDS, as_list, content, history, model, sample

from secure_fu.errors import ArgumentError, DamagedHistory, HistoryError, UnlearningError
from secure_fu.protocol import ReleasedModel
from secure_fu.training import ClientHistory, ModelArchive


@pytest.fixture(params=["disk", "memory"])
def folder(request, tmp_path):
    return tmp_path / "own" if request.param == "disk" else None


@pytest.mark.parametrize("updates", [False, True])
def test_it_gives_back_what_it_was_told_in_the_order_of_rounds(folder, updates):
    of = history(folder, updates=updates)
    for number, entry in enumerate(of):
        assert entry.round_number == number
        assert np.array_equal(of.archive.get(entry.digest), model(number))
        assert entry.digest == ReleasedModel.public(model(number)).digest
        assert np.array_equal(entry.update, model(50 + number)) if updates else entry.update is None
        assert entry.sampled is None if updates else np.array_equal(entry.sampled, sample(number))
        assert of.find(entry.digest).round_number == number
    assert (len(of), len(of.digests)) == (4, 4)
    assert of.find(bytes(32)) is None
    assert of.total_update() == pytest.approx(sum(model(50 + i) for i in range(4)) if updates else np.zeros(DIMENSION))
    of.check()


@pytest.mark.parametrize("updates", [False, True])
def test_it_goes_on_after_a_restart(tmp_path, updates):
    before = history(tmp_path, updates=updates)
    after = ClientHistory(records=RECORDS, dimension=DIMENSION, folder=tmp_path)
    assert content(after) == content(before)
    after.remember_sample(9, model(9), sample(9))
    assert [entry.round_number for entry in history(tmp_path, rounds=0)] == [0, 1, 2, 3, 9]


def test_a_round_asked_for_again_takes_the_place_of_the_first(folder):
    of = history(folder)
    of.remember_sample(7, model(3), sample(7))
    assert [entry.round_number for entry in of] == [0, 1, 2, 7]
    assert np.array_equal([*of][-1].sampled, sample(7))
    if folder is not None:
        assert len(list(folder.glob("round-*"))) == 4
        assert content(history(folder, rounds=0)) == content(of)


@pytest.mark.parametrize("number", [0, 3])
def test_rounds_go_on(folder, number):
    of = history(folder)
    with pytest.raises(ArgumentError, match="above 3"):
        of.remember_sample(number, model(8), sample(8))
    assert len(of) == 4


def test_what_does_not_fit_is_not_remembered(folder):
    of = history(folder)
    before = content(of)
    with pytest.raises(ArgumentError, match="sampled"):
        of.remember_sample(9, model(9), sample(9, RECORDS + 1))
    with pytest.raises(ArgumentError, match="model"):
        of.remember_sample(9, model(9)[:-1], sample(9))
    with pytest.raises(ArgumentError, match="update"):
        of.remember_update(9, model(9), np.zeros(DIMENSION + 1))
    with pytest.raises(ArgumentError, match="forgotten"):
        of.erase(np.zeros(RECORDS - 1, bool))
    assert content(of) == before


# Private, and small


def test_files_are_for_their_owner_alone_and_nothing_is_shown(tmp_path):
    of = history(tmp_path / "own")
    for path in (tmp_path / "own").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
    assert stat.S_IMODE((tmp_path / "own").stat().st_mode) == 0o700
    for shown in (repr(of), str(next(iter(of))), repr(of.archive)):
        assert "array" not in shown
        assert "True" not in shown


def test_memory_does_not_grow_with_the_data_on_disk(tmp_path):
    """What stays in memory for a round is a path, a number and a digest."""
    of = history(tmp_path, updates=True)
    assert not any(hasattr(held.where, "update") for held in of._held)
    assert not of.archive._memory


def test_a_sample_takes_a_bit_a_record(tmp_path):
    of = ClientHistory(records=60_000, dimension=DIMENSION, folder=tmp_path)
    of.remember_sample(0, model(0), np.ones(60_000, bool))
    (path,) = tmp_path.glob("round-*")
    assert path.stat().st_size < 60_000 / 8 + 1000


# Refused


def rounds(folder):
    return sorted(folder.glob("round-*"))


def flipped(path, place):
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1
    path.write_bytes(bytes(raw))


@pytest.mark.parametrize("updates", [False, True])
def test_every_flipped_bit_and_every_torn_file_is_found(tmp_path, updates):
    history(tmp_path, rounds=2, updates=updates)
    path = rounds(tmp_path)[1]
    whole = path.read_bytes()
    for place in range(len(whole)):
        flipped(path, place)
        with pytest.raises(HistoryError, match=r"round-00000001.safetensors"):
            history(tmp_path, rounds=0)
        path.write_bytes(whole[:place])
        with pytest.raises(HistoryError, match=r"round-00000001.safetensors"):
            history(tmp_path, rounds=0)
        path.write_bytes(whole)
    history(tmp_path, rounds=0)


def test_damage_is_found_while_it_is_in_use_as_well(tmp_path):
    of = history(tmp_path)
    flipped(rounds(tmp_path)[2], -1)
    with pytest.raises(HistoryError, match=r"round-00000002.safetensors"):
        of.check()
    rounds(tmp_path)[2].unlink()
    with pytest.raises(HistoryError, match=r"round-00000002.safetensors is missing"):
        list(of)


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_a_round_missing_from_the_middle_is_found(tmp_path, gone):
    history(tmp_path)
    rounds(tmp_path)[gone].unlink()
    with pytest.raises(HistoryError, match="missing"):
        history(tmp_path, rounds=0)


def test_another_rounds_file_is_no_substitute(tmp_path):
    of = history(tmp_path)
    first, second, *_ = rounds(tmp_path)
    second.write_bytes(first.read_bytes())
    with pytest.raises(HistoryError, match=r"expected round-00000000"):
        of.check()
    with pytest.raises(HistoryError, match=r"round-00000001"):
        history(tmp_path, rounds=0)


def test_a_history_that_does_not_fit_is_refused(tmp_path):
    history(tmp_path)
    with pytest.raises(HistoryError, match=r"does not fit the model.*8 parameters.*expected 9"):
        ClientHistory(records=RECORDS, dimension=9, folder=tmp_path)
    with pytest.raises(HistoryError, match=r"21 records; expected 20"):
        ClientHistory(records=20, dimension=DIMENSION, folder=tmp_path)
    with pytest.raises(HistoryError, match=r"8 parameters; expected 9"):
        ClientHistory(records=RECORDS, dimension=9, archive=ModelArchive(dimension=DIMENSION))
    of = ClientHistory(records=RECORDS, dimension=9, archive=ModelArchive(tmp_path / "models", dimension=9))
    with pytest.raises(HistoryError, match=r"8 parameters; expected 9"):
        of.archive.get(ReleasedModel.public(model(0)).digest)


def test_a_folder_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HistoryError, match="file cannot be used") as caught:
        history(tmp_path / "file")
    assert isinstance(caught.value, UnlearningError)


# Deletion


def test_going_back_destroys_what_came_after(folder):
    of = history(folder)
    of.forget_after(1)
    assert [entry.round_number for entry in of] == [0, 1]
    assert len(of.archive) == 2, "the models too, of an archive of its own"
    if folder is not None:
        assert len(rounds(folder)) == len(list((folder / "models").iterdir())) == 2
    of.remember_sample(7, model(7), sample(7))
    assert [entry.round_number for entry in of] == [0, 1, 7]
    of.check()


def test_erased_records_leave_no_bit(folder):
    of, gone = history(folder), np.arange(RECORDS) % 4 == 1
    assert all((entry.sampled & gone).any() for entry in of)
    for _ in range(2):  # after a kill in the middle it is asked for again
        of.erase(gone)
        for number, entry in enumerate(of):
            assert np.array_equal(entry.sampled, sample(number) & ~gone)
        if folder is not None:
            of = ClientHistory(records=RECORDS, dimension=DIMENSION, folder=folder)
    of.remember_sample(9, model(9), sample(9))
    assert [entry.round_number for entry in of] == [0, 1, 2, 3, 9]


@pytest.mark.parametrize("updates", [False, True])
def test_a_client_that_leaves_erases_everything(folder, updates):
    of = history(folder, updates=updates)
    of.erase(np.ones(RECORDS, bool))
    assert (len(of), len(of.archive)) == (0, 0)
    if folder is not None:
        assert [path.name for path in folder.rglob("*")] == ["models"]


def test_updates_cannot_be_taken_apart(folder):
    of = history(folder, updates=True)
    with pytest.raises(ArgumentError, match="updates"):
        of.erase(np.arange(RECORDS) < 3)
    assert len(of) == 4


# Branches


def changed(branch):
    branch.forget_after(2)
    branch.erase(np.arange(RECORDS) < 5)
    branch.remember_sample(6, model(6), sample(6))
    return branch


def test_a_branch_changes_nothing_until_it_is_settled(folder):
    of = history(folder)
    before = content(of)
    branch = changed(of.branch())
    assert [entry.round_number for entry in branch] == [0, 1, 2, 6]
    assert content(of) == before
    expected = content(branch)
    assert branch.settle() is of
    assert content(of) == expected != before
    assert len(branch) == 0
    if folder is not None:
        assert sorted(path.name for path in folder.iterdir()) == [
            "models",
            *(f"round-{number:08}.safetensors" for number in (0, 1, 2, 6)),
        ]
        assert content(ClientHistory(records=RECORDS, dimension=DIMENSION, folder=folder)) == expected
    with pytest.raises(ArgumentError, match="branch"):
        branch.settle()
    with pytest.raises(ArgumentError, match="branch"):
        of.settle()


def test_a_branch_that_is_dropped_leaves_nothing(tmp_path):
    of = history(tmp_path)
    branch = changed(of.branch())
    names = [path.name for path in tmp_path.iterdir()]
    assert sum(name.startswith("branch-") for name in names) == 1
    del branch
    gc.collect()
    assert len(list(tmp_path.iterdir())) == len(names) - 1
    of.check()


def test_a_branch_cut_off_by_a_kill_is_gone_after_the_restart(tmp_path):
    of = history(tmp_path)
    branch = changed(of.branch())
    (tmp_path / ".round-00000009.safetensors.part").write_bytes(b"half")
    again = history(tmp_path, rounds=0)
    assert content(again) == content(of)
    assert not any(path.name.startswith((".", "branch-")) for path in tmp_path.iterdir())
    del branch


@pytest.mark.parametrize("call", range(6))
def test_a_branch_may_go_by_itself_while_a_restart_destroys_it(tmp_path, monkeypatch, call):
    """The last reference to it goes at any time: between two calls of the history that is opened in its place."""
    of = history(tmp_path)
    branches = [changed(of.branch())]
    calls = []

    def later(real):
        def step(path, *arguments):
            if path.parent.name.startswith("branch-") or path.name.startswith("branch-"):
                calls.append(path)
                if len(calls) == call + 1:
                    branches.clear()
                    gc.collect()
            return real(path, *arguments)

        return step

    for name in ("iterdir", "replace", "unlink", "rmdir"):
        monkeypatch.setattr(Path, name, later(getattr(Path, name)))
    again = history(tmp_path, rounds=0)
    assert not branches
    assert content(again) == content(of)
    assert not any(path.name.startswith((".", "branch-")) for path in tmp_path.iterdir())


class Died(BaseException):
    """The process, at a call."""


def dies(monkeypatch, left):
    """Every call that changes files counts, and at the last one the process ends, before it or after it."""

    def counted(real):
        def call(*arguments, **named):
            left[0] -= 1
            if left[0] == 0:
                raise Died
            result = real(*arguments, **named)
            left[0] -= 1
            if left[0] == 0:
                raise Died
            return result

        return call

    for owner, name in ((os, "fsync"), (os, "link"), (Path, "replace"), (Path, "unlink"), (Path, "rmdir")):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))


def killed_while_settling(tmp_path, monkeypatch):
    """What is there after a kill at each call: the rounds and their samples, or that they are damaged."""
    found = []
    for last in range(1, 1000):
        folder = tmp_path / str(last)
        branch = changed(history(folder).branch())
        with monkeypatch.context() as patch:
            dies(patch, [last])
            try:
                branch.settle()
            except Died:
                was_killed = True
            else:
                was_killed = False
        try:
            again = ClientHistory(records=RECORDS, dimension=DIMENSION, folder=folder)
            found.append([(entry.round_number, as_list(entry.sampled)) for entry in again])
            assert not any(path.name.startswith((".", "branch-")) for path in folder.iterdir())
        except DamagedHistory:
            found.append(None)
        if not was_killed:
            return found
    raise AssertionError("it never ends")


def test_a_kill_while_a_branch_is_settled_leaves_a_history_that_goes_on(tmp_path, monkeypatch):
    found = killed_while_settling(tmp_path, monkeypatch)
    assert len(found) > 60
    erased = np.arange(RECORDS) < 5
    old = [(number, sample(number).tolist()) for number in range(4)]
    new = [(number, (sample(number) & ~erased).tolist()) for number in range(3)] + [(6, sample(6).tolist())]
    assert found[0] == old
    assert found[-1] == new
    for each in found:
        assert each is not None
        # Of each round the old sample or the new one, and none is missing from the middle.
        assert [number for number, _ in each] in ([0, 1, 2, 3], [0, 1, 2], [0, 1, 2, 6])
        assert all(one in old or one in new for one in each)


def test_where_files_cannot_be_linked_a_kill_may_cost_the_history_and_nothing_else(tmp_path, monkeypatch):
    """Also shows that the test above would find a history that is damaged."""

    def refused(*_arguments, **_named):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refused)
    found = killed_while_settling(tmp_path, monkeypatch)
    assert None in found
    assert [number for number, _ in found[-1]] == [0, 1, 2, 6]


def test_two_branches_do_not_meet(folder):
    of = history(folder)
    one, other = changed(of.branch()), of.branch()
    other.remember_sample(6, model(8), sample(8))
    assert [entry.round_number for entry in other] == [0, 1, 2, 3, 6]
    assert not any(entry.sampled[:5].any() for entry in [*one][:-1])
    assert any(entry.sampled[:5].any() for entry in other)
    one.settle()
    assert [entry.round_number for entry in of] == [0, 1, 2, 6]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the owner of everything may write everywhere")
def test_a_disk_that_refuses_is_named(tmp_path):
    of = history(tmp_path)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(HistoryError, match="round-00000009"):
            of.remember_sample(9, model(0), sample(9))
    finally:
        tmp_path.chmod(0o700)
