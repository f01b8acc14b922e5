"""Every unlearning method against retraining, on all tasks: distance, costs, guarantees, and what is noise.

Seeds 0, 1, ...; settings were chosen on seeds from 100 on. Each cell (task, request, seed) trains once, retrains three
times, and runs every method that does not refuse; the baselines (nothing, fine-tuning, and training from scratch for
as many rounds as each method takes); the cheapest retraining that reaches equal accuracy; and plaintext peers that see
every update. Noise and keys are fresh each time. What is done is kept in `cells.jsonl` in the output folder, and a run
that was stopped or killed goes on from there.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from comparison.cells import run_job, settings_of
from comparison.gathered import Comparison
from comparison.pages import PREFACE, overview, page
from comparison.results_file import ResultsFile, SettingsDiffer, fingerprint
from comparison.shorter import cheapest
from comparison.tasks import REQUESTS, SCAN_SEED, Task, tasks
from comparison.workers import run_jobs
from harness import report
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Job = dict[str, Any]

RETRAININGS = 3


def main() -> int:
    options = _arguments()
    chosen = _chosen(options)
    options.out.mkdir(parents=True, exist_ok=True)
    failed: dict[str, str] = {}
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the workers, too
    with (
        ResultsFile(options.out / "cells.jsonl") as results,
        tempfile.TemporaryDirectory(prefix="unlearning-", dir=_memory()) as scratch,
    ):
        run = _Run(options, results, scratch, failed)
        try:
            run.all(chosen)
        except KeyboardInterrupt:
            print(f"stopped; {len(results)} jobs are in {results.path}, run again to go on", file=sys.stderr)
            return 130
        summary = _write(options, chosen, run)
    for job, error in failed.items():
        print(f"{job} failed:\n{error}", file=sys.stderr)
    if options.json is not None:
        with contextlib.redirect_stdout(io.StringIO()):  # too long to read
            report(options, summary)
    print(f"{len(results)} jobs done; pages and pictures are in {options.out}")
    return 1 if failed else 0


def _memory() -> str | None:
    """A folder in memory, where there is one: ledgers and records sync to disk in every round, and here need not."""
    folder = Path("/dev/shm")
    return str(folder) if folder.is_dir() and os.access(folder, os.W_OK) else None


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few small cells, to see that it works")
    parser.add_argument("--only", action="append", metavar="TASK[:REQUEST]", help="only these; may be repeated")
    parser.add_argument("--seeds", type=int, metavar="N", help="so many seeds instead of each task's own number")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder with the four IDX files of MNIST")
    parser.add_argument("--out", type=Path, default=Path("runs/unlearning"), help="default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there, too")
    parser.add_argument("--processes", type=int, default=min(2, len(os.sched_getaffinity(0))), choices=(0, 1, 2))
    parser.add_argument("--pages-only", action="store_true", help="run nothing; write pages from what is there")
    return parser.parse_args()


def _chosen(options: argparse.Namespace) -> list[tuple[Task, list[str]]]:
    """Tasks and their requests, as asked for."""
    known = tasks(quick=options.quick)
    asked = [(name, request) for name, _, request in (entry.partition(":") for entry in options.only or ())]
    for name, request in asked:
        if not any(task.name == name and (not request or request in task.requests) for task in known):
            offered = "; ".join(f"{task.name} with {', '.join(task.requests)}" for task in known)
            sys.exit(f"--only is {name}:{request}; expected TASK or TASK:REQUEST of: {offered}")
    chosen = []
    for task in known:
        requests = [
            key
            for key in task.requests
            if not asked or any(name == task.name and request in ("", key) for name, request in asked)
        ]
        if requests and task.needs_data and options.data is None:
            print(f"{task.name} is left out: it needs --data DIR", file=sys.stderr)
        elif requests:
            chosen.append((task, requests))
    return chosen


class _Run:
    """All jobs of a run: first the scans for the cheapest retrainings, then the cells."""

    def __init__(self, options: argparse.Namespace, results: ResultsFile, scratch: str, failed: dict[str, str]) -> None:
        self._options, self._results, self._scratch, self._failed = options, results, scratch, failed

    def all(self, chosen: list[tuple[Task, list[str]]]) -> None:
        self._run("choosing the cheapest retrainings", [job for task, _ in chosen for job in self.scans(task)])
        cells = [
            job
            for task, requests in chosen
            if self.shorter(task) is not None
            for request in requests
            for job in self.cells(task, request)
        ]
        self._run("cells", cells)

    def scans(self, task: Task) -> list[Job]:
        return [
            {"kind": "scan", "scheme": "plain", **self._common(task, SCAN_SEED + number)}
            for number in range(task.scan_seeds)
        ]

    def shorter(self, task: Task) -> dict[str, Any] | None:
        """What the scans chose; None if they are not all done."""
        found = [self.result(job) for job in self.scans(task)]
        known = [result for result in found if result is not None]
        return (
            cheapest([result["scan"] for result in known], full=known[0]["full"]) if len(known) == len(found) else None
        )

    def cells(self, task: Task, request: str) -> list[Job]:
        shorter = self.shorter(task)
        return [
            {
                "kind": "cell",
                "request": request,
                "scheme": "kahe" if seed == 0 else "plain",
                "retrainings": RETRAININGS,
                "peers": seed < task.peers,
                "shorter": shorter,
                **self._common(task, seed),
            }
            for seed in range(task.seeds if self._options.seeds is None else self._options.seeds)
        ]

    def _common(self, task: Task, seed: int) -> Job:
        data = str(self._options.data) if task.needs_data else None
        return {"task": task.name, "seed": seed, "quick": self._options.quick, "data": data, "scratch": self._scratch}

    def result(self, job: Job) -> dict[str, Any] | None:
        return self._results.get(_key(job), fingerprint(settings_of(job)))

    def _run(self, title: str, jobs: list[Job]) -> None:
        left = [job for job in jobs if self.result(job) is None]
        if self._options.pages_only or not left:
            return
        with _progress(title, len(jobs), len(jobs) - len(left)) as show:
            running = run_jobs(run_job, left, processes=self._options.processes, started=lambda job: show(job, False))
            with contextlib.closing(running):
                for job, result, error in running:
                    if error is None:
                        self._results.add(_key(job), fingerprint(settings_of(job)), result)
                    else:
                        self._failed[_key(job)] = error
                    show(job, True)


def _key(job: Job) -> str:
    place = f"{job['task']}/{job['request']}" if job["kind"] == "cell" else job["task"]
    return f"{'quick ' if job['quick'] else ''}{job['kind']} {place}/{job['seed']}"


@contextlib.contextmanager
def _progress(title: str, total: int, done: int) -> Iterator[Callable[[Job, bool], None]]:
    """A bar on a terminal, with what is running; nothing in a pipe."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _job, _ended: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[now]}"), console=console) as progress:
        bar = progress.add_task(title, total=total, completed=done, now="")
        running: list[str] = []

        def show(job: Job, ended: bool) -> None:
            if ended:
                running.remove(_key(job))
                progress.advance(bar)
            else:
                running.append(_key(job))
            progress.update(bar, now=", ".join(running))

        yield show


def _write(options: argparse.Namespace, chosen: list[tuple[Task, list[str]]], run: _Run) -> dict[str, object]:
    """Pages and pictures of what is done so far, and all of it as plain figures."""
    compared: dict[str, list[Comparison]] = {}
    texts, figures = [PREFACE], {}
    for task, requests in chosen:
        shorter = run.shorter(task)
        if shorter is None:
            continue
        found = []
        for request in requests:
            results = {job["seed"]: result for job in run.cells(task, request) if (result := run.result(job))}
            if results:
                found.append(Comparison(task, request, results))
        if not found:
            continue
        compared[task.name] = found
        text, drawn = page(task, found, shorter)
        texts.append(text)
        (options.out / f"{drawn.name}.png").write_bytes(drawn.png)
        figures[task.name] = {
            "cheapest retraining": shorter,
            "requests": {comparison.request: comparison.to_json() for comparison in found},
        }
    for request in REQUESTS:
        drawn = overview(compared, request=request)
        if drawn is not None:
            (options.out / f"{drawn.name}.png").write_bytes(drawn.png)
    (options.out / "unlearning.md").write_text("\n".join(texts), encoding="utf-8")
    return figures


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (SettingsDiffer, OSError) as error:
        sys.exit(str(error))
