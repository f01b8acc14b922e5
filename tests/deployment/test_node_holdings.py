"""Destroying takes the same work whatever is destroyed: what a file system is asked to do does not tell who asked."""

from __future__ import annotations

import os
import pathlib

import numpy as np
import pytest
from node_cast import save_records
from small_federations import silos

from secure_fu.deployment.node.data import DataFile
from secure_fu.deployment.node.holdings import Holdings
from secure_fu.deployment.node.state import Pending
from secure_fu.learning import FlatModel, mlp
from secure_fu.training import ClientHistory, ModelArchive

CLIENT = "silo-1"
RECORDS = silos()[CLIENT]
MODEL = FlatModel(mlp(RECORDS.features.shape[1], (3,), 3, 0))
ROUNDS, KEPT = 6, 3
SAMPLES = np.random.default_rng(5).random((ROUNDS, len(RECORDS))) < 0.5


def made(folder):
    """A client with records in a file, and a history of some rounds."""
    folder.mkdir(parents=True)
    save_records(folder / "records.npz", RECORDS)
    archive = ModelArchive(folder / "models", dimension=MODEL.dimension)
    holdings = Holdings(
        CLIENT,
        RECORDS,
        (),
        data_file=DataFile(path=folder / "records.npz"),
        folder=folder / "history",
        keeps_history=True,
        model=MODEL,
        archive=archive,
        prune=lambda: archive.keep_only(holdings.silo.history.digests),
    )
    for number, sample in enumerate(SAMPLES):
        model = np.full(MODEL.dimension, number, dtype=np.float32)
        holdings.silo.remember_sample(number, model, sample)
    return holdings


def work(folder, places, monkeypatch):
    """Calls that change the file system, from marking some records to their being gone, and what is there then."""
    holdings, calls = made(folder), []
    with monkeypatch.context() as patch:
        for owner, name in (
            (os, "open"),
            (os, "fsync"),
            (os, "link"),
            (os, "mkdir"),
            (pathlib.Path, "replace"),
            (pathlib.Path, "unlink"),
            (pathlib.Path, "rmdir"),
        ):
            patch.setattr(owner, name, noted(getattr(owner, name), name, calls))
        ordered = holdings.marked(places, without=(), continues_after=KEPT)
        holdings.destroy(places, ordered, Pending(remembered=KEPT, until=ROUNDS - 1))
    assert holdings.silo.history.rounds == tuple(range(KEPT + 1))
    for entry, sample in zip(holdings.silo.history, SAMPLES, strict=False):
        assert not entry.sampled[list(places)].any()
        left = np.setdiff1d(np.arange(len(RECORDS)), places)
        assert np.array_equal(entry.sampled[left], sample[left])
    assert len(holdings.silo.records) == len(RECORDS) - len(places)
    sizes = sorted((path.name, path.stat().st_size) for path in folder.rglob("*") if path.is_file())
    return calls, sizes


def noted(real, name, calls):
    def call(*arguments, **named):
        first = arguments[0]
        # A branch's folder has a random name.
        calls.append((name, pathlib.Path(first).name[:6] if isinstance(first, (str, pathlib.Path)) else ""))
        return real(*arguments, **named)

    return call


MARKS = {"none": (), "one": (2,), "some": (0, 3, 7)}


def all_work(tmp_path, monkeypatch):
    return {name: work(tmp_path / name / "client", places, monkeypatch) for name, places in MARKS.items()}


def test_wiping_takes_the_same_work_whatever_is_wiped(tmp_path, monkeypatch):
    none, one, some = all_work(tmp_path, monkeypatch).values()
    assert none == one == some
    names = [name for name, _ in none[0]]
    assert names.count("link") == KEPT + 1  # every round was written again
    assert names.count("fsync") > 4 * KEPT


@pytest.mark.parametrize("lazy", ["erase", "wipe"])
def test_work_that_depends_on_what_is_wiped_would_be_seen(tmp_path, monkeypatch, lazy):
    owner = ClientHistory if lazy == "erase" else DataFile
    real = getattr(owner, lazy)
    monkeypatch.setattr(owner, lazy, lambda self, marks: real(self, marks) if marks.any() else None)
    none, one, some = (calls for calls, _ in all_work(tmp_path, monkeypatch).values())
    assert none != one == some


def test_a_second_wiping_takes_as_long_as_a_first(tmp_path, monkeypatch):
    """Records that went before do not make the next time shorter."""
    first, _ = work(tmp_path / "a", (0, 3), monkeypatch)
    file = DataFile(path=tmp_path / "a" / "records.npz")
    before = file.path.read_bytes()
    inode = file.path.stat().st_ino
    held = file.path.open("rb")  # so that its number is not given again
    gone = np.isin(np.arange(len(RECORDS)), (0, 3))
    file.wipe(gone)
    assert file.path.read_bytes() == before
    assert file.path.stat().st_ino != inode
    held.close()
    assert first
