"""`secure-fu audit`: attack a run, a configuration or somebody's scores, and say what was found."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.console import Console

from secure_fu.cli.bars import phase_bars
from secure_fu.cli.common import INTERRUPTED, INVALID_FOUND, LEAK_FOUND, DataDirectory, Overrides, complain
from secure_fu.config import SimulationConfig
from secure_fu.config_file import load_config, load_preset, preset_names, with_overrides
from secure_fu.errors import ArgumentError

if TYPE_CHECKING:
    from secure_fu.auditor.outcome import AuditOptions, AuditOutcome
    from secure_fu.cli.bars import PhaseBars

__all__ = ["audit"]


class _Part(StrEnum):
    """A question of the audit, as --only takes it."""

    MEMBERSHIP = "membership"
    DELETION = "deletion"
    PROTOCOL = "protocol"
    VIEWS = "views"


class _Targets(StrEnum):
    """What is deleted in shadow runs."""

    RECORDS = "records"
    CLIENTS = "clients"


class _FailOn(StrEnum):
    """An outcome that ends the command with a code of its own."""

    LEAK = "leak"
    INVALID = "invalid"


def audit(
    source: Annotated[
        Path | None,
        typer.Argument(metavar="RUN_DIR|CONFIG", help="The folder of a run, or a TOML file to make runs from."),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(metavar="NAME", help=f"Instead of a file: {', '.join(preset_names())}.")
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Instead: an NPZ file of an attack's scores, of any model from anywhere."),
    ] = None,
    data_dir: DataDirectory = None,
    set_: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="New or empty folder. Default: RUN_DIR/audit or runs/audit-NAME-TIME."),
    ] = None,
    only: Annotated[
        list[_Part] | None,
        typer.Option(metavar="PART", help="Audit this part only: membership, deletion, protocol or views; repeatable."),
    ] = None,
    runs: Annotated[int | None, typer.Option(metavar="N", help="Shadow runs of the deletion, at least 8.")] = None,
    shadows: Annotated[
        int | None, typer.Option(metavar="N", help="Shadow models of the attacker, an even number.")
    ] = None,
    targets: Annotated[
        _Targets | None,
        typer.Option(metavar="records|clients", help="What shadow runs delete. Default: what the privacy unit allows."),
    ] = None,
    canaries: Annotated[
        int | None, typer.Option(metavar="N", help="Canaries in the protocol's run, at least 20.")
    ] = None,
    processes: Annotated[int | None, typer.Option(metavar="N", min=1, help="Processes to work with.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer of all three: a look, not a verdict to sign.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print audit.json in place of the summary.")] = False,
    fail_on: Annotated[
        list[_FailOn] | None,
        typer.Option(
            metavar="leak|invalid",
            help=f"End with code {LEAK_FOUND} on a leak, {INVALID_FOUND} on an audit that is not valid; repeatable.",
        ),
    ] = None,
) -> None:
    """Attack models, deletions and the protocol; write audit.json, scores.npz and audit.html."""
    job = _job(source, preset, scores, data_dir, set_ or [])
    parts = [part.value for part in only or []]
    numbers = {"runs": runs, "shadows": shadows, "canaries": canaries}
    if scores is not None:
        _only_for_runs(parts, {**numbers, "targets": targets}, quick=quick)
    options = _options(parts, numbers, targets=targets, processes=processes, quick=quick)
    try:
        outcome, folder = _audit(job, out, options)
    except KeyboardInterrupt as interrupt:
        complain("interrupted; nothing was written", interrupt)
        raise typer.Exit(INTERRUPTED) from None
    _show(outcome, folder, as_json=json_)
    code = _exit_code(outcome.result, fail_on or ())
    if code:
        raise typer.Exit(code)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What to audit: exactly one of a run directory, a configuration and a file of scores."""

    run: Path | None = None
    config: SimulationConfig | None = None
    scores: Path | None = None
    data_dir: Path | None = None

    def folder(self) -> Path:
        """Where the audit goes unless told otherwise: new."""
        if self.run is not None:
            taken = {path.name for path in self.run.iterdir()}
            names = (f"audit-{number}" if number > 1 else "audit" for number in itertools.count(1))
            return self.run / next(name for name in names if name not in taken)
        name = "scores" if self.config is None else self.config.name
        return Path("runs") / f"audit-{name}-{datetime.now():%Y%m%d-%H%M%S}"

    def audit(self, options: AuditOptions, progress: PhaseBars) -> AuditOutcome:
        """Do it."""
        from secure_fu.auditor.audit import audit_config, audit_run, audit_scores

        if self.run is not None:
            return audit_run(self.run, data_dir=self.data_dir, options=options, progress=progress)
        if self.config is not None:
            return audit_config(self.config, data_dir=self.data_dir, options=options, progress=progress)
        return audit_scores(cast(Path, self.scores), options=options, progress=progress)


def _job(
    source: Path | None, preset: str | None, scores: Path | None, data_dir: Path | None, overrides: Sequence[str]
) -> _Job:
    given = {"RUN_DIR|CONFIG": source, "--preset": preset, "--scores": scores}
    there = [name for name, value in given.items() if value is not None]
    if len(there) != 1:
        what = " and ".join(there) or "nothing"
        raise ArgumentError("audit's input", what, "one of a run directory, a TOML file, --preset and --scores")
    if scores is not None:
        if overrides:
            raise ArgumentError("--set", overrides[0], "no setting with --scores: nothing is run")
        if data_dir is not None:
            raise ArgumentError("--data-dir", str(data_dir), "no data with --scores: nothing is run")
        if not scores.is_file():
            raise ArgumentError("--scores", str(scores), "an existing NPZ file")
        return _Job(scores=scores)
    if source is not None and source.is_dir():
        from secure_fu.auditor.run_source import read_run

        if overrides:
            raise ArgumentError(
                "--set", overrides[0], "no setting with a run directory, whose settings are what they were"
            )
        read_run(source)
        return _Job(run=source, data_dir=data_dir)
    config = load_preset(preset) if preset is not None else _read_config(cast(Path, source))
    return _Job(config=with_overrides(config, overrides), data_dir=data_dir)


def _read_config(path: Path) -> SimulationConfig:
    if path.suffix == ".npz":
        raise ArgumentError("RUN_DIR|CONFIG", str(path), "a run directory or a TOML file; write --scores FILE")
    if not path.exists() and path.suffix != ".toml" and str(path) not in preset_names():
        raise ArgumentError("RUN_DIR|CONFIG", str(path), "an existing run directory or TOML file")
    return load_config(path)


def _only_for_runs(parts: Sequence[str], options: Mapping[str, object], *, quick: bool) -> None:
    """Scores from elsewhere answer one question, and nothing can be run again for another."""
    for part in parts:
        if part != "membership":
            raise ArgumentError("--only", part, "membership with --scores: scores hold nothing else")
    for name, value in {**options, "quick": True if quick else None}.items():
        if value is not None:
            raise ArgumentError(f"--{name}", value, "nothing with --scores: no model is trained")


def _options(
    parts: Sequence[str],
    numbers: Mapping[str, int | None],
    *,
    targets: _Targets | None,
    processes: int | None,
    quick: bool,
) -> AuditOptions:
    from secure_fu.auditor.outcome import AuditOptions, AuditPart, TargetKind

    chosen = frozenset(AuditPart(part) for part in parts) or frozenset(AuditPart)
    kind = None if targets is None else TargetKind(targets.value)
    try:
        return AuditOptions(**numbers, targets=kind, processes=processes, quick=quick, parts=chosen)
    except ArgumentError as error:
        raise ArgumentError(f"--{error.argument}", error.value, error.expected) from None


def _audit(job: _Job, out: Path | None, options: AuditOptions) -> tuple[AuditOutcome, Path]:
    # torch and all that needs it: only an audit should wait for them.
    from secure_fu.auditor.audit_directory import AuditDirectory
    from secure_fu.learning import limit_threads

    limit_threads()
    with AuditDirectory(job.folder() if out is None else out) as directory, phase_bars(Console(stderr=True)) as bars:
        outcome = job.audit(options, bars)
        directory.write(outcome)
    return outcome, directory.path


def _show(outcome: AuditOutcome, folder: Path, *, as_json: bool) -> None:
    from secure_fu.report.audit import audit_summary

    if as_json:
        print(json.dumps(outcome.result, indent=2, allow_nan=False))
        return
    console = Console()
    console.print(audit_summary(outcome.result))
    console.print(f"Report: {folder / 'audit.html'}", soft_wrap=True, highlight=False, markup=False)


def _exit_code(result: Mapping[str, object], fail_on: Sequence[_FailOn]) -> int:
    found = cast(Mapping[str, object], result["verdict"])["outcome"]
    codes = {_FailOn.LEAK: LEAK_FOUND, _FailOn.INVALID: INVALID_FOUND}
    return next((codes[word] for word in fail_on if word.value == found), 0)
