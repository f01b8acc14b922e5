"""The examples run as they stand, each as a process of its own in an empty folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SCRIPTS = {path.name for path in EXAMPLES.glob("*.py")}


def run_example(folder: Path, name: str, *arguments: str) -> str:
    finished = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    return finished.stdout


def number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    assert found is not None, f"{pattern!r} is not in:\n{text}"
    return float(found.group(1))


def test_secure_simulation(tmp_path):
    output = run_example(tmp_path, "secure_simulation.py", "--out", "somewhere")
    out = tmp_path / "somewhere"
    assert list(tmp_path.iterdir()) == [out]
    assert (out / "report.html").is_file()
    assert output.splitlines()[-1] == f"Report: {out.relative_to(tmp_path) / 'report.html'}"
    result = json.loads((out / "result.json").read_text("utf-8"))
    assert result["complete"]
    assert result["insecure"] == []
    assert result["scheme"]["name"] == "kahe"
    assert result["scheme"]["secure"]
    rows = {row["name"]: row for row in result["rows"]}
    assert set(rows) == {"original", "retrained", "rollback", "finetune"}
    assert all(name in output for name in rows)
    assert rows["rollback"]["guarantee"] == "exact"
    # Ten classes: chance is 0.1. The noise is fresh in every run, so margins are wide.
    assert rows["retrained"]["test_accuracy"] > 0.4
    assert rows["rollback"]["backdoor_success"] < rows["original"]["backdoor_success"]
    assert all(entry["value"] <= 8.0 for row in rows.values() for entry in row["epsilon"])


def test_membership_audit(tmp_path):
    output = run_example(tmp_path, "membership_audit.py")
    assert list(tmp_path.iterdir()) == []
    # A network that knows its training records by heart: the whole interval is above chance.
    assert number(r"95 % interval ([0-9.]+) to", output) > 0.5
    assert number(r"AUC of the loss attack: ([0-9.]+) ", output) > 0.6
    assert "True positive rate at 1 % false positives: 0." in output


def test_own_model(tmp_path):
    output = run_example(tmp_path, "own_model.py")
    assert list(tmp_path.iterdir()) == []
    assert number(r"original: accuracy ([0-9.]+)", output) > 0.75
    rollback, scrub = output.split("\nscrub:")
    assert number(r"rollback: accuracy ([0-9.]+)", rollback) > 0.75
    # The checkpoint is one up to which the patient had paid at most what the example asks for.
    assert 0.0 < number(r"Certified: epsilon ([0-9.]+) at delta 1e-05 for one unit", rollback) <= 4.0
    assert number(r"forgotten patient, unlearning: ([0-9.]+)", rollback) == 0.0
    assert "Heuristic" in scrub
    assert number(r"forgotten patient, unlearning: ([0-9.]+)", scrub) > 0.0
    assert number(r"retained patient, training\+unlearning: ([0-9.]+)", scrub) <= 8.0
    assert output.count("Membership attack on the 6 recordings: AUC ") == 2


def test_secure_sum(tmp_path):
    output = run_example(tmp_path, "secure_sum.py")
    assert list(tmp_path.iterdir()) == []
    assert output.splitlines()[-1] == "the sum is right: True"
    # Sums of twenty numbers up to a thousand take 16 bits; the error around them takes no more than as much again.
    assert 2.0 < number(r"kahe-[0-9-]+: ([0-9.]+) bytes a number", output) < 4.0


def test_every_example_is_tested():
    source = Path(__file__).read_text("utf-8")
    assert {name for name in SCRIPTS if f'run_example(tmp_path, "{name}"' in source} == SCRIPTS
    assert len(SCRIPTS) == 4
