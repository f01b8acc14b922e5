"""Many shadow runs of a federation's deletion: train, forget with each method, train anew, for random targets.

All of it is the auditor's own simulation, on data that the auditor has, with seeded noise: nothing here is private, and
no figure of the real federation's ledger changes by it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from secure_fu.audit.deletion import DeletionRuns
from secure_fu.auditor.shadow.cast import ShadowCast, Targets, choose_targets
from secure_fu.auditor.shadow.one_run import RETRAINED, OneRun, Runner
from secure_fu.auditor.shadow.run_pool import run_in_processes
from secure_fu.errors import ArgumentError
from secure_fu.learning import FlatModel

__all__ = ["RETRAINED", "ShadowRuns", "deletion_runs"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ShadowRuns:
    """The runs, and what has to be said beside them.

    Attributes:
        runs: for the audit of deletions; `after` has the methods that ran, :data:`RETRAINED` and `nothing`.
        targets: the units that were drawn.
        refused: methods that are left out, by name, with the reason that they gave in the first run that they refused.
        fullest: as of :class:`OneRun`, the largest of all runs.
    """

    runs: DeletionRuns
    targets: Targets
    refused: Mapping[str, str]
    fullest: float


def deletion_runs(
    cast: ShadowCast,
    *,
    runs: int,
    seed: int,
    targets: Targets | None = None,
    processes: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> ShadowRuns:
    """Run a federation's deletion many times.

    In each run a third of the target units, drawn at random, is forgotten, a third retained, and a third was never
    there; a client that is a target and was never there sends zeros and its noise. A method that refuses in any run is
    left out and named.

    Args:
        cast: who takes part, and the methods.
        runs: how many, at least 3.
        seed: of everything. Results do not depend on `processes`.
        targets: None to choose them as :func:`choose_targets` does.
        processes: worker processes, beside this one, which waits; 0 runs here. They end with this call, however it
            ends, and are for a cast made of a configuration.
        progress: told (runs done, runs) after each.

    Raises:
        ArgumentError: an argument is out of its domain.
        NonFiniteError, CohortTooSmall: as :meth:`Runner.run`.
        SecureFUError: a worker process ended early.
    """
    if runs < 3:
        raise ArgumentError("runs", runs, "at least 3")
    if processes < 0:
        raise ArgumentError("processes", processes, "at least 0")
    chosen = choose_targets(cast, seed=seed) if targets is None else targets
    parts = chosen.parts(runs, seed=seed)
    made: dict[int, OneRun] = {}
    with contextlib.closing(
        run_in_processes(cast, chosen, parts, seed=seed, processes=min(processes, runs))
        if processes
        else _run_here(cast, chosen, parts, seed)
    ) as source:
        for number, run in source:
            made[number] = run
            if progress is not None:
                progress(len(made), runs)
    return _gathered(cast, chosen, parts, [made[number] for number in range(runs)])


def _run_here(cast: ShadowCast, targets: Targets, parts: NDArray[np.int8], seed: int) -> Generator[tuple[int, OneRun]]:
    runner = Runner(cast, targets, seed=seed)
    for number, row in enumerate(parts):
        yield number, runner.run(number, row)


def _gathered(cast: ShadowCast, targets: Targets, parts: NDArray[np.int8], runs: list[OneRun]) -> ShadowRuns:
    refused: dict[str, str] = {}
    for number, run in enumerate(runs):
        for name, reason in run.refused.items():
            refused.setdefault(name, reason if number == 0 else f"in run {number}: {reason}")
    names = [name for name in runs[0].after if name not in refused]
    records, units = targets.records(cast.clients)
    return ShadowRuns(
        runs=DeletionRuns(
            model=FlatModel(cast.module),
            targets=records,
            units=units,
            parts=parts,
            others=targets.others(cast.clients),
            test=cast.test,
            before=np.stack([run.before for run in runs]),
            retrained=np.stack([run.retrained for run in runs]),
            after={name: np.stack([run.after[name] for run in runs]) for name in names},
        ),
        targets=targets,
        refused=MappingProxyType(refused),
        fullest=max(run.fullest for run in runs),
    )
