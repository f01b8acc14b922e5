"""The deletion part of an audit: shadow runs of a configuration's methods, and what `audit.json` says of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from secure_fu.audit import Outcome, Verdict, worst
from secure_fu.audit.deletion import NOTHING, DeletionAudit, DeletionRow, DeletionTerms, audit_deletion
from secure_fu.auditor.outcome import TargetKind
from secure_fu.auditor.shadow.cast import ShadowCast, choose_targets
from secure_fu.auditor.shadow.runs import RETRAINED, deletion_runs
from secure_fu.config import SimulationConfig
from secure_fu.privacy import holm
from secure_fu.unlearning import UnlearningMethod

__all__ = ["Counted", "audit_deletions", "deletion_not_seen", "deletion_verdicts"]

Counted = Callable[[str, int], Callable[[int, int], None]]
"""Begins a phase of so many steps and returns what is told (steps done, steps)."""

_TITLES: Final = {NOTHING: "Doing nothing (control)", RETRAINED: "A second retraining (control)"}
_WORDS: Final = {
    "leak": "tells the forgotten from retraining",
    "passed": "not told from retraining, by tests that would have told",
    "cannot tell": "not told from retraining, by tests too weak to say so",
    "invalid": "cannot be judged",
}


def audit_deletions(
    config: SimulationConfig,
    *,
    data_dir: Path | None,
    runs: int,
    targets: TargetKind | None,
    processes: int | None,
    quick: bool,
    counted: Counted,
) -> tuple[dict[str, Any], dict[str, NDArray[Any]], DeletionAudit, tuple[UnlearningMethod, ...]]:
    """Run every method of a configuration many times and judge it against retraining.

    Args:
        data_dir: takes the place of `data.path`.
        runs: shadow runs.
        targets: what is deleted in them.
        processes: None for as many as there are cores, at most two; 1 works in this process.
        quick: leaves out rebuilding of records and relearning.
        counted: for progress.

    Returns:
        Figures as `audit.json` carries them, arrays of `scores.npz`, the audit itself, and the methods that it is of.

    Raises:
        ArgumentError: too few runs.
    """
    cast = ShadowCast.of(config, data_dir=data_dir)
    terms = DeletionTerms(weight_decay=config.training.weight_decay)
    if quick:
        terms = DeletionTerms(weight_decay=config.training.weight_decay, relearning_steps=0, inversion_runs=0)
    workers = _processes() if processes is None else processes
    shadow = deletion_runs(
        cast,
        runs=runs,
        seed=config.seed,
        targets=choose_targets(cast, kind=targets, seed=config.seed),
        processes=0 if workers < 2 else workers,
        progress=counted("shadow runs", runs),
    )
    judged = counted("judging methods", len(shadow.runs.after) + 1)
    done = 0

    def tell(_: str) -> None:
        nonlocal done
        done += 1
        judged(done, done)

    audit = audit_deletion(shadow.runs, terms=terms, progress=tell)
    figures = audit.to_json()
    own = {method.name: method for method in cast.audited}
    rows = [
        {
            **row.to_json(),
            "title": own[row.name].title if row.name in own else _TITLES.get(row.name, row.name),
            "baseline": row.name in own and own[row.name].baseline,
        }
        for row in audit.rows
    ]
    figures |= {
        "unit": cast.plan.recipe.unit.value,
        "rows": rows,
        "refused": [{"name": name, "reason": reason} for name, reason in shadow.refused.items()],
    }
    scores: dict[str, NDArray[Any]] = {"deletion/parts": shadow.runs.parts, "deletion/units": shadow.runs.units}
    return figures, scores, audit, cast.audited


def deletion_verdicts(audit: DeletionAudit, methods: Iterable[UnlearningMethod]) -> Iterator[Verdict]:
    """What counts for the whole audit: the methods that are offered to forget, one verdict for each outcome.

    Baselines and controls are there to be told from retraining, and the models before and after together give a
    deletion away even after exact retraining: both stand in the table and do not count here. Each method has the whole
    level in its row; here the methods share it (Bonferroni), so that offering many faultless ones is no leak.

    Args:
        methods: that the audit is of.
    """
    offered = {method.name: method for method in methods if not method.baseline}
    counted = [row for row in audit.rows if row.name in offered]
    limit = (1.0 - audit.terms.level) / max(1, len(counted))
    outcomes = {row.name: _shared(row, limit) for row in counted}
    for outcome in dict.fromkeys(outcomes.values()):
        named = [row for row in counted if outcomes[row.name] is outcome]
        titles = ", ".join(offered[row.name].title for row in named)
        reason = f" {named[0].verdict.sentence}" if len(named) == 1 and named[0].verdict.outcome is outcome else ""
        yield Verdict(outcome=outcome, sentence=f"{titles}: {_WORDS[outcome.value]}.{reason}")
    if not counted:
        rows: tuple[DeletionRow, ...] = audit.rows
        yield Verdict(
            outcome=worst(row.verdict for row in rows if row.name == RETRAINED),
            sentence="No method was offered beside retraining, which was compared with itself.",
        )


def _shared(row: DeletionRow, limit: float) -> Outcome:
    """A row's outcome where its difference from retraining has to stand at a level that methods share."""
    if row.verdict.outcome is not Outcome.LEAK:
        return row.verdict.outcome
    tests = {test.name: test.test for test in (*row.after_only, row.forget_excess) if test.test is not None}
    adjusted = holm({name: min(1.0, test.p_different) for name, test in tests.items()})
    found = [adjusted[name] for name, test in tests.items() if not test.equivalent]
    return Outcome.LEAK if min(found, default=1.0) <= limit else Outcome.CANNOT_TELL


def deletion_not_seen(audit: DeletionAudit) -> list[str]:
    """What the tests would have missed."""
    found = [
        f"Deletion, {one.name}: with {one.runs} runs a method as good as retraining passes at a margin of "
        f"{one.margin:g} with a chance of {one.power:.0%}"
        + (f"; {one.runs_needed} runs make it 80 %." if one.runs_needed and one.power < 0.8 else ".")
        for one in audit.power
    ]
    return [*found, "Deletion: traces that attacks on outputs and on this change of parameters do not look at."]


def _processes() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return min(2, len(affinity(0)) if affinity is not None else os.cpu_count() or 1)
