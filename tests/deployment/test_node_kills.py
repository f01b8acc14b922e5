"""A node that is killed at any write goes on: nothing is half forgotten, nothing confirmed that is not destroyed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What node_killed.py saw: lives are forked, which needs a process without threads."""
    done = subprocess.run(
        [sys.executable, str(HERE / "node_killed.py"), str(tmp_path_factory.mktemp("killed"))],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize(("phase", "least"), [("begin", 4), ("invite", 4), ("wipe", 60)])
def test_after_a_kill_at_any_write_the_window_is_settled_whole(found, phase, least):
    kills = [one for one in found[phase] if one["killed"]]
    assert len(kills) >= least
    assert not found[phase][-1]["killed"]  # each was tried
    for one in found[phase]:
        assert one["begun"] == "done"
        assert one["gone"] == [0, 3, 5, 7]
        # A request that was wiped and in no round waits; an answer that was not written down counts as none.
        assert one["private"] == 1 - one["confirmed"]
        assert one["confirmed"] in {"begin": (0,), "invite": (0, 1), "wipe": (1,)}[phase]
        assert one["traces"] == []
        assert one["samples"] == 0
        assert one["values"] == found["never"]
        assert one["same statement"]
        # The history is whole, or has lost what was being moved into its place; it never holds what is forgotten.
        assert one["rounds"] == [0, 1]
        assert one["models"] == len(one["rounds"])


def test_kills_came_before_in_and_after_the_wiping(found):
    states = {(tuple(one["before"][0]), one["before"][1]) for one in found["wipe"] if one["killed"]}
    # Before it was written down; and after, for opening the node has ended what was begun.
    assert {one[0] for one in states} == {(), (0, 3, 5, 7)}
    assert not any(pending for _, pending in states)


def test_a_round_is_answered_once_whatever_is_killed(found):
    # The round of training, the order's if its upload was written down, and the one afterwards.
    assert {one["answered"] for one in found["invite"]} == {2, 3}


def test_a_wiping_that_is_taken_for_ended_too_early_would_be_found(found):
    assert any(one["traces"] for one in found["forgetful"])
