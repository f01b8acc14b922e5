"""The command line, `secure-fu`: the only place that draws progress, colours and tables."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from secure_fu.config import SimulationConfig, load_config, load_preset, preset_names, with_overrides
from secure_fu.errors import (
    ArgumentError,
    CapacityError,
    ConfigError,
    DataError,
    LedgerError,
    RunDirectoryError,
    SecureFUError,
    UnattainableEpsilonError,
)

__all__ = ["app", "main"]

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130

_DEFAULT_PRESET = "digits-silos"

_BAD_INPUT_ERRORS = (ArgumentError, CapacityError, DataError, LedgerError, RunDirectoryError, UnattainableEpsilonError)

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
        str | None, typer.Option(metavar="NAME", help="bfv, or plain: INSECURE, for comparison only.")
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
