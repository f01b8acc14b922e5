"""Attacks on models and deletions, and what can be concluded from them.

Everything here works on what it is handed: modules, arrays, models of runs. `secure_fu.auditor` makes those.
"""

from __future__ import annotations

from secure_fu.audit.attack_result import AttackResult
from secure_fu.audit.attacks import choose_attack
from secure_fu.audit.detection import members_needed, non_members_needed
from secure_fu.audit.membership import ExposedRecord, MembershipAudit, membership_audit, scores_audit
from secure_fu.audit.own_audit import OwnAudit, own_audit
from secure_fu.audit.scores import MembershipScores, read_scores
from secure_fu.audit.shadows import ShadowModels, balanced_members, shadow_models, shadow_models_by
from secure_fu.audit.two_samples import TwoSampleTest, two_sample_test
from secure_fu.audit.verdict import Outcome, Verdict, worst

__all__ = [
    "AttackResult",
    "ExposedRecord",
    "MembershipAudit",
    "MembershipScores",
    "Outcome",
    "OwnAudit",
    "ShadowModels",
    "TwoSampleTest",
    "Verdict",
    "balanced_members",
    "choose_attack",
    "members_needed",
    "membership_audit",
    "non_members_needed",
    "own_audit",
    "read_scores",
    "scores_audit",
    "shadow_models",
    "shadow_models_by",
    "two_sample_test",
    "worst",
]
