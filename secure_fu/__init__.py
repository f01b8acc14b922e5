"""Federated unlearning that can be proved: every release is a clipped, noised, encrypted sum.

    from secure_fu import DeletionRequest, Federation, Records, Rollback, make_plan, membership_audit

The rooms: :mod:`~secure_fu.crypto` and :mod:`~secure_fu.privacy`, which can be used alone; :mod:`~secure_fu.learning`;
:mod:`~secure_fu.protocol`, where they meet; :mod:`~secure_fu.training`, :mod:`~secure_fu.unlearning`,
:mod:`~secure_fu.audit` and :mod:`~secure_fu.deletion` on top; :mod:`~secure_fu.simulation` for whole comparisons.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from secure_fu.audit import MembershipAudit, membership_audit
    from secure_fu.crypto import CommitteeTerms
    from secure_fu.deletion import DeletionBatch, DeletionRequest
    from secure_fu.errors import SecureFUError
    from secure_fu.federation import Cost, Federation, Unlearned
    from secure_fu.learning import LinearHead, Records
    from secure_fu.planning import Plan, make_plan
    from secure_fu.privacy import Unit
    from secure_fu.training import Recipe
    from secure_fu.unlearning import (
        Ascent,
        Baseline,
        Certified,
        Correction,
        Eraser,
        Exact,
        FineTune,
        Fisher,
        Heuristic,
        Negation,
        Newton,
        Requirement,
        Retrain,
        Rollback,
        Scratch,
        Scrub,
        UnlearningMethod,
    )

__all__ = [
    "Ascent",
    "Baseline",
    "Certified",
    "CommitteeTerms",
    "Correction",
    "Cost",
    "DeletionBatch",
    "DeletionRequest",
    "Eraser",
    "Exact",
    "Federation",
    "FineTune",
    "Fisher",
    "Heuristic",
    "LinearHead",
    "MembershipAudit",
    "Negation",
    "Newton",
    "Plan",
    "Recipe",
    "Records",
    "Requirement",
    "Retrain",
    "Rollback",
    "Scratch",
    "Scrub",
    "SecureFUError",
    "Unit",
    "Unlearned",
    "UnlearningMethod",
    "make_plan",
    "membership_audit",
]

# Names are looked up when they are first used: who needs crypto or privacy alone does not pay for torch.
_HOMES = {
    "audit": ("MembershipAudit", "membership_audit"),
    "crypto": ("CommitteeTerms",),
    "deletion": ("DeletionBatch", "DeletionRequest"),
    "errors": ("SecureFUError",),
    "federation": ("Cost", "Federation", "Unlearned"),
    "learning": ("LinearHead", "Records"),
    "planning": ("Plan", "make_plan"),
    "privacy": ("Unit",),
    "training": ("Recipe",),
    "unlearning": (
        "Ascent",
        "Baseline",
        "Certified",
        "Correction",
        "Eraser",
        "Exact",
        "FineTune",
        "Fisher",
        "Heuristic",
        "Negation",
        "Newton",
        "Requirement",
        "Retrain",
        "Rollback",
        "Scratch",
        "Scrub",
        "UnlearningMethod",
    ),
}


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"secure_fu.{home}"), name)
    raise AttributeError(f"module 'secure_fu' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
