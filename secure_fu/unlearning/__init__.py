"""Unlearning methods: each one file behind one small protocol, on secure sums only, and named by what it guarantees."""

from __future__ import annotations

from secure_fu.unlearning.ascent import Ascent
from secure_fu.unlearning.baselines import FineTune, Scratch
from secure_fu.unlearning.correction import Correction
from secure_fu.unlearning.eraser import Eraser
from secure_fu.unlearning.fisher import Fisher
from secure_fu.unlearning.guarantee import (
    Baseline,
    Certified,
    CertifiedModel,
    Exact,
    Guarantee,
    Heuristic,
    satisfies,
)
from secure_fu.unlearning.joint import JointRounds, JointTask
from secure_fu.unlearning.method import Checkpoints, Deletion, Outcome, PlannedRounds, UnlearningMethod
from secure_fu.unlearning.negation import Negation
from secure_fu.unlearning.newton import Newton
from secure_fu.unlearning.registry import (
    METHODS,
    installed,
    known_methods,
    method_from_settings,
    methods_from,
    methods_text,
    settings_of,
)
from secure_fu.unlearning.requirement import Requirement
from secure_fu.unlearning.rerun import Rerun, TrainingRounds
from secure_fu.unlearning.retrain import Retrain
from secure_fu.unlearning.rollback import Rollback
from secure_fu.unlearning.scrub import Scrub

__all__ = [
    "METHODS",
    "Ascent",
    "Baseline",
    "Certified",
    "CertifiedModel",
    "Checkpoints",
    "Correction",
    "Deletion",
    "Eraser",
    "Exact",
    "FineTune",
    "Fisher",
    "Guarantee",
    "Heuristic",
    "JointRounds",
    "JointTask",
    "Negation",
    "Newton",
    "Outcome",
    "PlannedRounds",
    "Requirement",
    "Rerun",
    "Retrain",
    "Rollback",
    "Scratch",
    "Scrub",
    "TrainingRounds",
    "UnlearningMethod",
    "installed",
    "known_methods",
    "method_from_settings",
    "methods_from",
    "methods_text",
    "satisfies",
    "settings_of",
]
