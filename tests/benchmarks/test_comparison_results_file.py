"""The file of finished jobs: resumed, torn by a kill, locked, guarded against other settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from comparison.results_file import ResultsFile, SettingsDiffer, fingerprint

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_what_was_added_is_there_again(tmp_path):
    path = tmp_path / "results.jsonl"
    with ResultsFile(path) as results:
        assert results.get("one", "s") is None
        results.add("one", "s", {"value": 1.5})
    with ResultsFile(path) as results:
        assert results.get("one", "s") == {"value": 1.5}
        results.add("two", "s", {"value": 2})
        assert len(results) == 2


def test_other_settings_are_not_mixed(tmp_path):
    with ResultsFile(tmp_path / "results.jsonl") as results:
        results.add("one", fingerprint({"rounds": 10}), {})
        with pytest.raises(SettingsDiffer, match="one"):
            results.get("one", fingerprint({"rounds": 11}))


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_torn_last_line_is_cut_off_and_its_job_runs_again(tmp_path, cut):
    path = tmp_path / "results.jsonl"
    with ResultsFile(path) as results:
        results.add("one", "s", {"value": 1})
        results.add("two", "s", {"value": 2})
    path.write_bytes(path.read_bytes()[:-cut])
    with ResultsFile(path) as results:
        assert results.get("one", "s") == {"value": 1}
        assert results.get("two", "s") is None
        results.add("two", "s", {"value": 3})
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["one", "two"]


def test_a_broken_line_in_the_middle_is_refused_and_nothing_is_changed(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text('nonsense\n{"key": "one", "settings": "s", "result": {}}\n')
    before = path.read_bytes()
    with pytest.raises(ValueError, match="line 1"):
        ResultsFile(path)
    assert path.read_bytes() == before


def test_two_runs_cannot_write_one_file(tmp_path):
    path = tmp_path / "results.jsonl"
    with ResultsFile(path), pytest.raises(OSError, match="in use"):
        ResultsFile(path)
    ResultsFile(path).close()


def test_nan_is_refused_and_leaves_no_line(tmp_path):
    path = tmp_path / "results.jsonl"
    with ResultsFile(path) as results:
        with pytest.raises(ValueError, match="JSON"):
            results.add("one", "s", {"value": float("nan")})
        assert results.get("one", "s") is None
    assert path.read_bytes() == b""


def test_a_result_is_on_disk_when_the_process_is_killed_right_after(tmp_path):
    path = tmp_path / "results.jsonl"
    script = textwrap.dedent(
        """
        import os, pathlib, signal, sys
        sys.path.insert(0, sys.argv[1])
        from comparison.results_file import ResultsFile
        results = ResultsFile(pathlib.Path(sys.argv[2]))
        results.add("one", "s", {"value": 1})
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    done = subprocess.run([sys.executable, "-c", script, str(BENCHMARKS), str(path)], env=os.environ, check=False)
    assert done.returncode == -9
    with ResultsFile(path) as results:
        assert results.get("one", "s") == {"value": 1}
