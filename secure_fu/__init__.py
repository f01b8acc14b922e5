"""Federated unlearning that can be proved: every release is a clipped, noised, encrypted sum.

    from secure_fu import DeletionRequest, Federation, Records, Rollback, make_plan, membership_audit

The rooms: :mod:`~secure_fu.crypto` and :mod:`~secure_fu.privacy`, which can be used alone; :mod:`~secure_fu.learning`;
:mod:`~secure_fu.protocol`, where they meet; :mod:`~secure_fu.training`, :mod:`~secure_fu.unlearning`,
:mod:`~secure_fu.audit` and :mod:`~secure_fu.deletion` on top; :mod:`~secure_fu.simulation` for whole comparisons.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from secure_fu.lazy import lazily

if TYPE_CHECKING:
    from secure_fu.audit import MembershipAudit as MembershipAudit
    from secure_fu.audit import membership_audit as membership_audit
    from secure_fu.crypto import CommitteeTerms as CommitteeTerms
    from secure_fu.deletion import DeletionBatch as DeletionBatch
    from secure_fu.deletion import DeletionRequest as DeletionRequest
    from secure_fu.errors import SecureFUError as SecureFUError
    from secure_fu.federation import Cost as Cost
    from secure_fu.federation import Federation as Federation
    from secure_fu.federation import Unlearned as Unlearned
    from secure_fu.learning import LinearHead as LinearHead
    from secure_fu.learning import Records as Records
    from secure_fu.planning import Plan as Plan
    from secure_fu.planning import make_plan as make_plan
    from secure_fu.privacy import Unit as Unit
    from secure_fu.training import Recipe as Recipe
    from secure_fu.unlearning import Ascent as Ascent
    from secure_fu.unlearning import Baseline as Baseline
    from secure_fu.unlearning import Certified as Certified
    from secure_fu.unlearning import CertifiedModel as CertifiedModel
    from secure_fu.unlearning import Correction as Correction
    from secure_fu.unlearning import Eraser as Eraser
    from secure_fu.unlearning import Exact as Exact
    from secure_fu.unlearning import FineTune as FineTune
    from secure_fu.unlearning import Fisher as Fisher
    from secure_fu.unlearning import Heuristic as Heuristic
    from secure_fu.unlearning import JointRounds as JointRounds
    from secure_fu.unlearning import JointTask as JointTask
    from secure_fu.unlearning import Negation as Negation
    from secure_fu.unlearning import Newton as Newton
    from secure_fu.unlearning import Requirement as Requirement
    from secure_fu.unlearning import Rerun as Rerun
    from secure_fu.unlearning import Retrain as Retrain
    from secure_fu.unlearning import Rollback as Rollback
    from secure_fu.unlearning import Scratch as Scratch
    from secure_fu.unlearning import Scrub as Scrub
    from secure_fu.unlearning import TrainingRounds as TrainingRounds
    from secure_fu.unlearning import UnlearningMethod as UnlearningMethod

# Who needs crypto or privacy alone does not pay for torch.
_HOMES: Final = {
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
        "CertifiedModel",
        "Correction",
        "Eraser",
        "Exact",
        "FineTune",
        "Fisher",
        "Heuristic",
        "JointRounds",
        "JointTask",
        "Negation",
        "Newton",
        "Requirement",
        "Rerun",
        "Retrain",
        "Rollback",
        "Scratch",
        "Scrub",
        "TrainingRounds",
        "UnlearningMethod",
    ),
}
__all__ = sorted(name for names in _HOMES.values() for name in names)

if not TYPE_CHECKING:  # a type checker has the names from above, and refuses others
    __getattr__, __dir__ = lazily(__name__, _HOMES)
