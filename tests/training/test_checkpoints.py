"""Checkpoints come back bit for bit or not at all, lie on a public grid, and are gone when they are to be gone."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from secure_fu.errors import ArgumentError, CheckpointError
from secure_fu.protocol import ReleasedModel
from secure_fu.protocol import files as durable_files
from secure_fu.training import CheckpointStore, TrainingState
from secure_fu.training import checkpoints as module

DIMENSION = 7


def start(seed=0, dimension=DIMENSION):
    return ReleasedModel.public(np.random.default_rng(seed).normal(size=dimension))


def state(rounds, seed=0, dimension=DIMENSION):
    draw = np.random.default_rng([seed, rounds])
    return TrainingState(
        model=ReleasedModel.public(draw.normal(size=dimension)),
        velocity=draw.normal(size=dimension),
        rounds=rounds,
        last_round=rounds + 3,
    )


def lineage(rounds):
    return (("original", rounds), ("unlearn/rollback", rounds + 3))


def filled(directory, upto=40, **settings):
    store = CheckpointStore(directory, start=start(), **settings)
    for rounds in range(1, upto + 1):
        store.save(state(rounds), lineage(rounds))
    return store


def same(one, other):
    assert one.model.encode() == other.model.encode()
    assert one.velocity.tobytes() == other.velocity.tobytes()
    assert (one.rounds, one.last_round) == (other.rounds, other.last_round)


def file_of(directory, rounds):
    return directory / f"rounds-{rounds:08}.safetensors"


def test_states_come_back_bit_for_bit_from_another_store(tmp_path):
    filled(tmp_path)
    store = CheckpointStore(tmp_path, start=start())
    assert store.rounds == (0, 10, 20, 30, 40)
    for rounds in store.rounds[1:]:
        same(store.load(rounds), state(rounds))
        assert store.lineage(rounds) == lineage(rounds)
        assert store.load(rounds).velocity.dtype == np.float64
    same(store.load(0), TrainingState.initial(start()))
    assert store.lineage(0) == ()
    assert not [path for path in tmp_path.iterdir() if path.stat().st_mode & 0o077]


def test_the_grid_is_a_function_of_the_number_of_rounds_alone(tmp_path):
    """An oracle that knows how many rounds were done, and nothing else."""
    store = CheckpointStore(tmp_path, start=start(), every=3, limit=5)
    for rounds in range(1, 100):
        kept = store.save(state(rounds), ())
        spacing = next(3 * 2**k for k in range(10) if rounds // (3 * 2**k) + 1 <= 5)
        assert store.rounds == tuple(range(0, rounds + 1, spacing))
        assert kept == (rounds % spacing == 0)
        on_disk = sorted(path.name for path in tmp_path.glob("rounds-*"))
        assert on_disk == [file_of(tmp_path, kept).name for kept in store.rounds]
        assert store.spacing == spacing
    again = CheckpointStore(tmp_path, start=start(), every=3, limit=5)
    assert (again.rounds, again.spacing) == (store.rounds, store.spacing)
    # The spacing stays when a deletion has taken the store back.
    again.destroy_after(0)
    assert CheckpointStore(tmp_path, start=start(), every=3, limit=5).spacing == store.spacing


def test_a_grid_is_not_changed_afterwards(tmp_path):
    filled(tmp_path)
    for settings in ({"every": 5}, {"limit": 31}):
        with pytest.raises(CheckpointError, match=r"grid\.json says every 10 rounds and at most 32"):
            CheckpointStore(tmp_path, start=start(), **settings)
    (tmp_path / "grid.json").unlink()
    with pytest.raises(CheckpointError, match=r"grid\.json is missing"):
        CheckpointStore(tmp_path, start=start())


def test_later_states_are_overwritten_and_gone(tmp_path, monkeypatch):
    store = filled(tmp_path)
    linked = tmp_path.parent / "linked"  # a second name of the same bytes shows what was written over them
    os.link(file_of(tmp_path, 30), linked)
    size = linked.stat().st_size
    synced: list[int] = []
    real = os.fsync
    monkeypatch.setattr(durable_files.os, "fsync", lambda descriptor: (synced.append(1), real(descriptor))[1])
    store.destroy_after(20)
    assert linked.read_bytes() == bytes(size)
    assert store.rounds == (0, 10, 20)
    assert len(synced) == 6  # the folder, the file, the folder again, for each of two states
    assert CheckpointStore(tmp_path, start=start()).rounds == (0, 10, 20)
    # And another history may follow.
    store.save(state(30, seed=5), ())
    same(store.load(30), state(30, seed=5))


def test_without_a_destruction_no_second_history_is_kept(tmp_path):
    store = filled(tmp_path)
    assert store.save(state(20), lineage(20))  # the same again, as a resumed training does
    with pytest.raises(ArgumentError, match="another state at round 20"):
        store.save(state(20, seed=5), lineage(20))
    with pytest.raises(ArgumentError, match="another state at round 20"):
        store.save(state(20), lineage(21))
    with pytest.raises(ArgumentError, match="more than 40"):
        store.save(state(25), ())
    same(store.load(20), state(20))


@pytest.mark.parametrize("rounds", [0, 20])
def test_any_damaged_byte_is_found(tmp_path, rounds):
    filled(tmp_path, upto=20)
    store = CheckpointStore(tmp_path, start=start())
    path = file_of(tmp_path, rounds)
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        with pytest.raises(CheckpointError, match=re.escape(str(path))):
            store.load(rounds)
    for length in (0, 4, 8, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"damaged.*delete it"):
            store.load(rounds)
    path.write_bytes(whole)
    store.load(rounds)


def test_the_hash_is_what_finds_a_changed_coordinate(tmp_path, monkeypatch):
    """The same damage passes a store whose hash is blind."""
    store = filled(tmp_path, upto=10)
    path = file_of(tmp_path, 10)
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(bytes(whole))
    with pytest.raises(CheckpointError, match="does not hold what was written"):
        store.load(10)
    written = module._content(state(10), lineage(10))
    monkeypatch.setattr(module, "_content", lambda *_: written)
    store.load(10)


def test_a_missing_file_is_named(tmp_path):
    store = filled(tmp_path)
    file_of(tmp_path, 20).unlink()
    with pytest.raises(CheckpointError, match=r"rounds-00000020\.safetensors is missing; restore it"):
        store.load(20)
    with pytest.raises(CheckpointError, match=r"rounds-00000015\.safetensors is missing: there is no checkpoint"):
        store.load(15)
    # Whoever opens it again goes on without: the deletion then goes further back.
    assert CheckpointStore(tmp_path, start=start()).rounds == (0, 10, 30, 40)


def test_a_lost_start_is_written_again_for_it_is_public(tmp_path):
    filled(tmp_path)
    file_of(tmp_path, 0).unlink()
    same(CheckpointStore(tmp_path, start=start()).load(0), TrainingState.initial(start()))


def test_another_model_or_start_is_refused(tmp_path):
    filled(tmp_path)
    with pytest.raises(CheckpointError, match="of another model, of 7 parameters instead of 8"):
        CheckpointStore(tmp_path, start=start(dimension=8))
    with pytest.raises(CheckpointError, match="belongs to another federation"):
        CheckpointStore(tmp_path, start=start(seed=1))
    other = tmp_path / "other"
    filled_other = CheckpointStore(other, start=start(dimension=8))
    filled_other.save(state(10, dimension=8), ())
    file_of(tmp_path, 10).write_bytes(file_of(other, 10).read_bytes())
    with pytest.raises(CheckpointError, match="of another model"):
        CheckpointStore(tmp_path, start=start()).load(10)
    with pytest.raises(ArgumentError, match="8 parameters"):
        CheckpointStore(tmp_path, start=start()).save(state(50, dimension=8), ())


def test_a_state_of_other_rounds_under_this_name_is_refused(tmp_path):
    store = filled(tmp_path)
    file_of(tmp_path, 10).write_bytes(file_of(tmp_path, 40).read_bytes())
    with pytest.raises(CheckpointError, match="does not hold what was written"):
        store.load(10)


def test_foreign_files_stay(tmp_path):
    foreign = {
        "notes.txt": b"mine",
        "rounds-1.safetensors": b"mine",
        "rounds-00000015.safetensors.bak": b"mine",
        "model.safetensors": save({"model": np.zeros(3)}),
    }
    for name, content in foreign.items():
        (tmp_path / name).write_bytes(content)
    store = filled(tmp_path, upto=90, limit=4)
    store.destroy_after(0)
    assert store.rounds == (0,)
    assert {name: (tmp_path / name).read_bytes() for name in foreign} == foreign


def test_bad_arguments_are_named(tmp_path):
    for settings in ({"every": 0}, {"limit": 1}):
        with pytest.raises(ArgumentError, match=next(iter(settings))):
            CheckpointStore(tmp_path, start=start(), **settings)
    with pytest.raises(ArgumentError, match="rounds"):
        filled(tmp_path).destroy_after(-1)


def killed(do, at, name):
    """Run something in a child that is killed before the n-th call of a function that makes files durable."""
    child = os.fork()
    if child == 0:
        left = [at]
        real = getattr(os, name)

        def count(*arguments, **named):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **named)

        setattr(durable_files.os, name, count)
        do()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("name", ["fsync", "open", "fdopen"])
def test_a_kill_leaves_each_state_whole_or_absent(tmp_path, name):
    at, ended = 0, False
    while not ended:
        at += 1
        directory = tmp_path / str(at)
        filled(directory, upto=30, limit=4)

        def go_on(directory: Path = directory) -> None:
            store = CheckpointStore(directory, start=start(), limit=4)
            store.save(state(40), lineage(40))  # widens the grid: 10 and 30 go
            store.destroy_after(10)

        ended = not killed(go_on, at, name)
        store = CheckpointStore(directory, start=start(), limit=4)
        assert set(store.rounds) <= {0, 10, 20, 30, 40}
        assert all(rounds % store.spacing == 0 for rounds in store.rounds)
        for rounds in store.rounds[1:]:
            same(store.load(rounds), state(rounds))
        named = {f"rounds-{rounds:08}.safetensors" for rounds in store.rounds}
        assert {path.name for path in directory.iterdir()} - {".grid.json.part"} == {"grid.json", *named}
    assert at > 3
    assert store.rounds == (0,)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_kill_never_leaves_an_older_state_as_the_newest(tmp_path):
    """For what came before the newest state, the released sums are not kept any more."""
    at, ended = 0, False
    while not ended:
        at += 1
        directory = tmp_path / str(at)
        filled(directory, upto=30, limit=4)
        saved = CheckpointStore(directory, start=start(), limit=4).save
        ended = not killed(lambda saved=saved: saved(state(40), lineage(40)), at, "fsync")
        newest = CheckpointStore(directory, start=start(), limit=4).rounds[-1]
        assert newest in (30, 40)
    assert newest == 40
    assert at > 4


def test_metadata_is_text_that_others_can_read(tmp_path):
    filled(tmp_path, upto=10)
    head = file_of(tmp_path, 10).read_bytes()
    metadata = json.loads(head[8 : 8 + int.from_bytes(head[:8], "little")])["__metadata__"]
    assert metadata["format"] == "secure-fu/checkpoint/1"
    assert json.loads(metadata["lineage"]) == [["original", 10], ["unlearn/rollback", 13]]
