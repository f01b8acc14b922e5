"""Worker processes end with the run, and a job that fails does not take the others along."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import worker_jobs
from comparison.workers import run_jobs

HERE = Path(__file__).parent
BENCHMARKS = HERE.parents[1] / "benchmarks"


def alive(process_id):
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("processes", [0, 2])
def test_every_job_comes_back_once_and_failures_say_why(processes):
    jobs = [{"what": "double", "number": number} for number in range(4)] + [{"what": "raise", "number": 9}]
    found = list(run_jobs(worker_jobs.work, jobs, processes=processes))
    assert sorted(job["number"] for job, _, _ in found) == [0, 1, 2, 3, 9]
    for job, result, error in found:
        if job["what"] == "raise":
            assert result is None
            assert "no such job" in error
        else:
            assert (result["double"], error) == (2 * job["number"], None)
            assert (result["process"] == os.getpid()) is (processes == 0)


def test_a_worker_that_dies_fails_its_job_and_those_nobody_is_left_for():
    jobs = [{"what": "die", "number": 0}, {"what": "double", "number": 1}]
    found = list(run_jobs(worker_jobs.work, jobs, processes=1))
    assert [(job["number"], result) for job, result, _ in found] == [(0, None), (1, None)]
    assert "exit code 3" in found[0][2]
    assert "no worker" in found[1][2]


def test_workers_that_cannot_start_fail_their_jobs(monkeypatch):
    monkeypatch.setenv("ONLY_IN_PROCESS", str(os.getpid()))
    jobs = [{"what": "double", "number": number} for number in range(3)]
    found = list(run_jobs(worker_jobs.work, jobs, processes=2))
    assert sorted(job["number"] for job, _, _ in found) == [0, 1, 2]
    assert all(result is None and error for _, result, error in found)


def test_workers_end_when_the_run_stops_listening(tmp_path):
    file = tmp_path / "pid"
    jobs = [{"what": "double", "number": 1}, {"what": "sleep", "file": str(file)}]
    running = run_jobs(worker_jobs.work, jobs, processes=2)
    next(running)
    wait_until(lambda: file.exists() and file.read_text())
    assert alive(int(file.read_text()))
    running.close()
    assert not alive(int(file.read_text()))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_when_the_run_is_stopped_or_killed(tmp_path, how):
    file = tmp_path / "pid"
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import signal, sys
            sys.path[:0] = sys.argv[1:3]
            import worker_jobs
            from comparison.workers import run_jobs
            if __name__ == "__main__":
                signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job is born ignoring it
                list(run_jobs(worker_jobs.work, [{"what": "sleep", "file": sys.argv[3]}], processes=1))
            """
        )
    )
    run = subprocess.Popen(
        [sys.executable, str(script), str(HERE), str(BENCHMARKS), str(file)], stderr=subprocess.DEVNULL
    )
    wait_until(lambda: file.exists() and file.read_text())
    run.send_signal(how)
    run.wait(timeout=30)
    wait_until(lambda: not alive(int(file.read_text())))
