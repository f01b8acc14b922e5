"""The command line, `secure-fu`: the only place that draws progress, colours and tables."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from secure_fu.config import SimulationConfig
from secure_fu.config_file import load_config, load_preset, preset_names, with_overrides
from secure_fu.errors import (
    ArgumentError,
    CapacityError,
    ConfigError,
    DataError,
    LedgerError,
    RecordError,
    RunDirectoryError,
    SecureFUError,
    UnattainableEpsilonError,
    WireError,
)

if TYPE_CHECKING:
    from secure_fu.protocol import VerifiedBranch

__all__ = ["app", "main"]

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130

_DEFAULT_PRESET = "digits-silos"

_BAD_INPUT_ERRORS = (ArgumentError, CapacityError, DataError, LedgerError, RunDirectoryError, UnattainableEpsilonError)

T = TypeVar("T")

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Federated unlearning that can be proved.",
)


@app.callback()
def _root() -> None:
    """Federated unlearning that can be proved: secure sums of clipped, noised, encrypted contributions."""


class _PhaseBars:
    """One progress bar a phase, on a terminal; nothing in a pipe."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def phase(self, title: str, steps: int) -> None:
        if self._task is not None:
            total = self._progress.tasks[-1].total
            self._progress.update(self._task, completed=total)
        self._task = self._progress.add_task(title, total=steps)

    def advance(self) -> None:
        if self._task is not None:
            self._progress.advance(self._task)


@contextmanager
def _phase_bars(console: Console) -> Iterator[_PhaseBars]:
    with Progress(
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as progress:
        yield _PhaseBars(progress)


@app.command()
def simulate(
    config: Annotated[
        Path | None,
        typer.Argument(metavar="CONFIG", help="A TOML file, such as the config.toml of an earlier run."),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help=f"Instead of a file: {', '.join(preset_names())}. Default: {_DEFAULT_PRESET}."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one setting, as privacy.epsilon=4; repeatable."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Run directory, new or empty. Default: runs/NAME-TIME.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Fixes data split, first model and scenario; never noise or keys."),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Folder or file with the data; the mnist presets need one of IDX files."),
    ] = None,
    scheme: Annotated[
        str | None, typer.Option(metavar="NAME", help="kahe, bfv, or plain: INSECURE, for comparison only.")
    ] = None,
    insecure_deterministic: Annotated[
        bool,
        typer.Option("--insecure-deterministic", help="INSECURE, for tests: make noise and sampling from the seed."),
    ] = False,
) -> None:
    """Train a federation, delete, unlearn with every method, compare with retraining, write a report."""
    if config is not None and preset is not None:
        raise ConfigError("--preset", preset, "either a configuration file or a preset, not both")
    chosen = load_config(config) if config is not None else load_preset(preset or _DEFAULT_PRESET)
    overrides = list(set_ or [])
    if seed is not None:
        overrides.append(f"seed={seed}")
    if scheme is not None:
        overrides.append(f'protocol.scheme="{scheme}"')
    chosen = with_overrides(chosen, overrides)
    target = out if out is not None else Path("runs") / f"{chosen.name}-{datetime.now():%Y%m%d-%H%M%S}"
    try:
        _run(chosen, target, data_dir=data_dir, insecure_deterministic=insecure_deterministic)
    except KeyboardInterrupt as interrupt:
        _complain("interrupted", interrupt)
        raise typer.Exit(INTERRUPTED) from None


def _run(config: SimulationConfig, target: Path, *, data_dir: Path | None, insecure_deterministic: bool) -> None:
    # torch and all that needs it: only a run should wait for them.
    from secure_fu.learning import limit_threads
    from secure_fu.report import terminal_table
    from secure_fu.simulation import Simulation

    limit_threads()
    with _phase_bars(Console(stderr=True)) as bars:
        result = Simulation(
            config, target, data_dir=data_dir, insecure_deterministic=insecure_deterministic, progress=bars
        ).run()
    console = Console()
    console.print(terminal_table(result))
    console.print(f"Report: {target / 'report.html'}", soft_wrap=True, highlight=False)


@app.command()
def ledger(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run directory.")],
) -> None:
    """Show what each branch of a run has spent, and on what."""
    from secure_fu.privacy import PrivacyLedger
    from secure_fu.report.ledger_table import ledger_table

    path = run_dir / "ledger.sqlite"
    if not path.is_file():
        raise RunDirectoryError(
            f"RUN_DIR is {str(run_dir)!r}, which holds no ledger.sqlite; expected the folder of a run"
        )
    with PrivacyLedger.open(path, read_only=True) as opened:
        Console().print(ledger_table(opened))


@app.command()
def verify(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="A run directory, or a transcript file; that needs --roster.")
    ],
    roster: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The roster that you pinned. Default: the run directory's own roster.bin."),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The policy that you pinned. Default: the run directory's own policy.toml."),
    ] = None,
) -> None:
    """Check from outside what a run released: who signed, who took part, who agreed to open, in which order."""
    from secure_fu.crypto import Roster
    from secure_fu.privacy import PrivacyLedger
    from secure_fu.protocol import read_policy, verify_transcript
    from secure_fu.protocol.verification import verify_against_ledger

    files = _transcript_files(path, roster, policy)
    pinned_roster = _read(
        "--roster", files.roster, "a roster, as a run's roster.bin", lambda: Roster.decode(files.roster.read_bytes())
    )
    pinned_policy = None
    if files.policy is not None:
        chosen = files.policy
        pinned_policy = _read("--policy", chosen, "a policy, as a run's policy.toml", lambda: read_policy(chosen))
        if pinned_policy.roster_digest != pinned_roster.digest:
            raise ArgumentError("--policy", str(chosen), f"a policy for the roster in {files.roster}, not for another")
    branches = verify_transcript(files.transcript, roster=pinned_roster, policy=pinned_policy)
    unreleased = None
    if files.ledger is not None:
        with PrivacyLedger.open(files.ledger, read_only=True) as opened:
            unreleased = verify_against_ledger(branches, opened)
    console = Console()
    if branches:
        console.print(_branch_table(branches))
    parties = f"{len(pinned_roster.parties)} parties"
    for line in (*_heads(branches), f"Roster {pinned_roster.digest.hex()}, {parties}, from {files.roster}", ""):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for line in _findings(files, branches, unreleased):
        console.print(line, "", sep="\n", markup=False, highlight=False)


@dataclass(frozen=True, kw_only=True)
class _TranscriptFiles:
    """What a transcript is checked with; `from_run` names what the run itself brought along."""

    transcript: Path
    roster: Path
    policy: Path | None
    ledger: Path | None
    from_run: tuple[str, ...]


def _transcript_files(path: Path, roster: Path | None, policy: Path | None) -> _TranscriptFiles:
    try:
        if path.is_file():
            if roster is None:
                raise ArgumentError(
                    "--roster", None, "the roster's file, to check a transcript without its run directory"
                )
            files = _TranscriptFiles(transcript=path, roster=roster, policy=policy, ledger=None, from_run=())
        elif path.is_dir():
            files = _files_of_run(path, roster, policy)
        else:
            raise ArgumentError("PATH", str(path), "an existing run directory or transcript file")
        with files.transcript.open("rb"):
            return files
    except OSError as error:
        raise ArgumentError("PATH", str(path), f"something that can be read ({error.strerror})") from None


def _files_of_run(folder: Path, roster: Path | None, policy: Path | None) -> _TranscriptFiles:
    own = {name: folder / name for name in ("transcript.jsonl", "roster.bin", "policy.toml", "ledger.sqlite")}
    there = {name for name, file in own.items() if file.is_file()}
    needed = {"transcript.jsonl"} | ({"roster.bin"} if roster is None else set())
    if not needed <= there:
        if {"config.toml", "roster.bin"} <= {file.name for file in folder.iterdir()}:
            raise RunDirectoryError(f"PATH is {str(folder)!r}, a run that ended before its first release")
        missing = " and no ".join(sorted(needed - there, reverse=True))
        raise RunDirectoryError(f"PATH is {str(folder)!r}, which holds no {missing}; expected the folder of a run")
    from_run = ("roster",) if roster is None else ()
    if policy is None and "policy.toml" in there:
        policy, from_run = own["policy.toml"], (*from_run, "policy")
    return _TranscriptFiles(
        transcript=own["transcript.jsonl"],
        roster=own["roster.bin"] if roster is None else roster,
        policy=policy,
        ledger=own["ledger.sqlite"] if "ledger.sqlite" in there else None,
        from_run=from_run,
    )


def _read(option: str, path: Path, expected: str, read: Callable[[], T]) -> T:
    try:
        return read()
    except (OSError, WireError, RecordError) as error:
        raise ArgumentError(option, str(path), f"{expected} ({error})") from None


def _branch_table(branches: Collection[VerifiedBranch]) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    table.add_column("branch", overflow="fold")
    table.add_column("releases", justify="right", no_wrap=True)
    table.add_column("opened by")
    for branch in branches:
        table.add_row(Text(branch.name), str(len(branch.releases)), Text(branch.openers))
    return table


def _heads(branches: Collection[VerifiedBranch]) -> Iterator[str]:
    yield from ("", "Heads: who has the same head of a branch has the same releases.") if branches else ()
    yield from (f"{branch.head.hex()}  {branch.name}" for branch in branches)
    yield ""


def _findings(files: _TranscriptFiles, branches: Collection[VerifiedBranch], unreleased: int | None) -> Iterator[str]:
    """In plain words what holds now, and what may still be otherwise."""
    from secure_fu.crypto import scheme

    if not branches:
        yield f"Nothing to check: {files.transcript} holds no release."
    else:
        yield (
            "Checked: every release is signed by the server and follows the one before it; every client in its sum "
            "signed its own upload to that round, and they are at least the round's minimum cohort; those who open "
            "signed for exactly that list of uploads."
            + ("" if files.policy is None else f" Every round keeps to the policy in {files.policy}.")
            + (
                ""
                if unreleased is None
                else " The run's ledger has charged every release, as its header says, to those who took part."
            )
        )
    if any(
        release.parameter_set == scheme("plain").parameter_set for branch in branches for release in branch.releases
    ):
        yield "INSECURE: --scheme plain: uploads were not encrypted, and whoever saw them knows every contribution."
    if unreleased:
        yield (
            f"The ledger has charged {unreleased} more round{'s' * (unreleased > 1)} without a release here: opened or "
            "not, they count as spent; or lines are missing at the end of a branch."
        )
    if files.policy is None:
        yield "Not checked, for want of a policy (--policy): that noise, clipping and cohorts are what was agreed."
    yield (
        "Not checked, for a transcript cannot show it: that a released sum is the sum of the uploads; that no release "
        "is missing at the end of a branch, or a whole branch; that clients bounded and noised what they sent."
    )
    if files.from_run:
        yield (
            f"NOT PINNED: the {' and the '.join(files.from_run)} came from the run directory itself, and whoever wrote "
            "it may have chosen other parties or rules. Compare the roster's digest with what you know, or give your "
            f"own copies: {' '.join(f'--{name} FILE' for name in files.from_run)}."
        )


def _complain(message: str, error: BaseException) -> None:
    for line in (message, *getattr(error, "__notes__", ())):
        print(f"secure-fu: {line}", file=sys.stderr)


def main() -> None:
    """Entry point of `secure-fu`. Exit codes: 0 done, 1 the run failed, 2 bad input, 130 interrupted."""
    try:
        app()
    except _BAD_INPUT_ERRORS as error:
        _complain(str(error), error)
        sys.exit(BAD_INPUT)
    except SecureFUError as error:
        _complain(f"{type(error).__name__}: {error}", error)
        sys.exit(FAILED)
