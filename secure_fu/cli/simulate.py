"""`secure-fu simulate`: a whole comparison."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from secure_fu.cli.bars import phase_bars
from secure_fu.cli.common import DEFAULT_PRESET, INTERRUPTED, DataDirectory, Overrides, complain
from secure_fu.config import SimulationConfig
from secure_fu.config_file import load_config, load_preset, preset_names, with_overrides
from secure_fu.errors import ConfigError

__all__ = ["simulate"]


def simulate(
    config: Annotated[
        Path | None,
        typer.Argument(metavar="CONFIG", help="A TOML file, such as the config.toml of an earlier run."),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help=f"Instead of a file: {', '.join(preset_names())}. Default: {DEFAULT_PRESET}."
        ),
    ] = None,
    set_: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Run directory, new or empty. Default: runs/NAME-TIME.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Fixes data split, first model and scenario; never noise or keys."),
    ] = None,
    data_dir: DataDirectory = None,
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
    chosen = load_config(config) if config is not None else load_preset(preset or DEFAULT_PRESET)
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
        complain("interrupted", interrupt)
        raise typer.Exit(INTERRUPTED) from None


def _run(config: SimulationConfig, target: Path, *, data_dir: Path | None, insecure_deterministic: bool) -> None:
    # torch and all that needs it: only a run should wait for them.
    from secure_fu.learning import limit_threads
    from secure_fu.report import terminal_table
    from secure_fu.simulation import Simulation

    limit_threads()
    with phase_bars(Console(stderr=True)) as bars:
        result = Simulation(
            config, target, data_dir=data_dir, insecure_deterministic=insecure_deterministic, progress=bars
        ).run()
    console = Console()
    console.print(terminal_table(result))
    console.print(f"Report: {target / 'report.html'}", soft_wrap=True, highlight=False, markup=False)
