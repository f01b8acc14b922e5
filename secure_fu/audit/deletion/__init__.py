"""Attacks on deletions: what a model still tells of forgotten units, and what the two models tell together."""

from __future__ import annotations

from secure_fu.audit.deletion.audit import DeletionAudit, DeletionRow, DeletionTerms, audit_deletion
from secure_fu.audit.deletion.figures import Comparison
from secure_fu.audit.deletion.judgement import Usefulness
from secure_fu.audit.deletion.pairs import Feature, Game, PairAttack
from secure_fu.audit.deletion.poisoning import Poisoned, poisoned, poisoning_score
from secure_fu.audit.deletion.power import Power
from secure_fu.audit.deletion.runs import NOTHING, DeletionRuns, Part, secret_parts
from secure_fu.audit.deletion.stacked import FINETUNE, RETRAIN, stacked_deletion_runs

__all__ = [
    "FINETUNE",
    "NOTHING",
    "RETRAIN",
    "Comparison",
    "DeletionAudit",
    "DeletionRow",
    "DeletionRuns",
    "DeletionTerms",
    "Feature",
    "Game",
    "PairAttack",
    "Part",
    "Poisoned",
    "Power",
    "Usefulness",
    "audit_deletion",
    "poisoned",
    "poisoning_score",
    "secret_parts",
    "stacked_deletion_runs",
]
