"""The audit of every unlearning method: is it told from retraining, and does the pair of models give the deletion away?

Digits, MLP 64-32-10, ten silos, the recipe of the default preset, every method that serves the request. Two questions:
single records, and whole silos whose classes differ (Dirichlet 0.3). Shadow runs draw anew in each run who is
forgotten, retained and never there; the models are those of the real methods on float sums of the same law. Margins,
level and attacks are the audit's defaults. Doing nothing and a second retraining are the controls.
"""

from __future__ import annotations

import os
import time
from typing import Any

from harness import arguments, report

from secure_fu.audit.deletion import DeletionRow, DeletionTerms, audit_deletion
from secure_fu.auditor import ShadowCast, TargetKind, choose_targets, deletion_runs
from secure_fu.config_file import load_preset, with_overrides
from secure_fu.unlearning import METHODS

SEED = 0
QUESTIONS = {
    "records": (TargetKind.RECORDS, ()),
    "whole silos": (TargetKind.CLIENTS, ("data.partition=dirichlet", "data.alpha=0.3")),
}
QUICK = ("training.rounds=20", "deletion.joined_at=12")


def one_question(kind: TargetKind, changes: tuple[str, ...], runs: int, quick: bool) -> dict[str, Any]:
    methods = ", ".join(f'"{name}"' for name in METHODS if name != "retrain")
    config = with_overrides(
        load_preset("digits-silos"),
        [f"unlearning.methods=[{methods}]", f"seed={SEED}", *changes, *(QUICK if quick else ())],
    )
    cast = ShadowCast.of(config)
    targets = choose_targets(cast, kind=kind, seed=SEED)
    started = time.perf_counter()
    shadow = deletion_runs(cast, runs=runs, seed=SEED, targets=targets, processes=min(2, os.cpu_count() or 1))
    trained = time.perf_counter()
    audit = audit_deletion(shadow.runs, terms=DeletionTerms(inversion_runs=0))
    return {
        "runs": runs,
        "units": audit.units,
        "forgotten in each run": audit.forgotten,
        "power": {one.name: one.to_json() for one in audit.power},
        "rows": {row.name: _row(row) for row in audit.rows},
        "refused": dict(shadow.refused),
        "seconds": {"shadow runs": trained - started, "audit": time.perf_counter() - trained},
    }


def _row(row: DeletionRow) -> dict[str, Any]:
    likelihood, loss = row.after_only
    headline = row.to_json()["pair"]
    return {
        "verdict": row.verdict.outcome.value,
        "likelihood ratio, gap": likelihood.gap.to_json(),
        "loss, gap": loss.gap.to_json(),
        "excess of forget accuracy, gap": row.forget_excess.gap.to_json(),
        "test accuracy": row.usefulness.accuracy.value.to_json(),
        "before/after verdict": row.pair_verdict.outcome.value,
        "before/after": headline,
        "relearning": None if row.relearning is None else row.relearning.to_json(),
        "harm to the retained, by the method": row.harm.by_method.to_json(),
    }


def main() -> None:
    options = arguments(__doc__)
    runs = 8 if options.quick else 64
    figures: dict[str, object] = {}
    for name, (kind, changes) in QUESTIONS.items():
        figures[name] = one_question(kind, changes, runs, options.quick)
    report(options, figures)


if __name__ == "__main__":
    main()
