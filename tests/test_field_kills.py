"""A federation of real processes under kill -9, a handful of them; and the checks of it find planted faults.

`benchmarks/kills.py` does the same at 200 points, `benchmarks/soak.py` the soak of 300 rounds.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def figures_of(script, folder, *arguments, status=0):
    out = folder / "figures.json"
    run = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), "--quick", "--json", str(out), *arguments],
        capture_output=True,
        text=True,
        # Sockets have short paths, and files that nobody else needs to find need no disk.
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert run.returncode == status, f"{run.stdout[-4000:]}\n{run.stderr[-4000:]}"
    return json.loads(out.read_text())["figures"]


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    return figures_of("kills.py", tmp_path_factory.mktemp("kills"), "--points", "8", "--seed", "1", "--faults")


def test_nothing_is_lost_done_twice_or_unaccounted_when_processes_are_killed(killed):
    assert killed["kills"] >= 8
    assert killed["requests"] >= 5  # of one story
    assert killed["violations"] == []
    assert "NOT IN THE LEDGER" not in killed["outcomes"]


def test_the_checks_find_planted_faults_and_nothing_without_one(killed):
    faults = killed["faults"]
    assert faults["none"] == []
    assert "openings" in faults["member forgets"]
    assert "requests" in faults["queue forgets"]
    assert "epsilon" in faults["ledger gives back"]


def test_sums_are_exact_while_nodes_drop_out(tmp_path):
    figures = figures_of("soak.py", tmp_path, "--rounds", "8", "--seed", "2")
    assert figures["released sums"] == 8
    assert figures["sums that are not exact"] == 0
    assert sum(figures["dropouts"].values()) >= 1
    assert set(figures["clients in a sum"]) <= {"3", "4", "5", "6"}


@pytest.fixture
def field_package(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_a_sum_that_is_off_by_one_or_of_other_clients_is_found(field_package):
    from field.plain import differing_sums

    header = bytes(32)
    plain = {("a", header): np.array([1, -2]), ("b", header): np.array([5, 5]), ("c", header): np.array([0, 1])}
    exact = hashlib.sha256(np.array([6, 3], dtype="<i8").tobytes()).digest()
    assert differing_sums({header: (("a", "b"), exact)}, plain) == []
    assert differing_sums({header: (("a", "b", "c"), exact)}, plain) == [header]
    assert differing_sums({header: (("a", "b", "d"), exact)}, plain) == [header]
    off = {**plain, ("a", header): np.array([1, -1])}
    assert differing_sums({header: (("a", "b"), exact)}, off) == [header]


def test_a_trend_in_memory_is_told_from_steps_of_warm_up(field_package):
    from field.memory import trend

    draw = np.random.default_rng(1)
    rounds = np.arange(300)
    flat = trend(list(zip(rounds, 300_000 + draw.integers(-50, 50, 300), strict=True)))
    assert flat["low"] < 0.0 < flat["high"]
    growing = trend(list(zip(rounds, 300_000 + 8 * rounds + draw.integers(-50, 50, 300), strict=True)))
    assert growing["low"] > 7.0
    assert growing["high"] < 9.0
