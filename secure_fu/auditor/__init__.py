"""The auditor: shadow runs, canary runs and whole audits, put together."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from secure_fu.auditor.audit import audit_config, audit_run, audit_scores
    from secure_fu.auditor.canary.protocol_audit import audit_protocol
    from secure_fu.auditor.canary.runs import CanaryRun, canary_run
    from secure_fu.auditor.canary.views import PartyView, canary_views
    from secure_fu.auditor.outcome import AuditOptions, AuditOutcome, AuditPart, TargetKind
    from secure_fu.auditor.shadow.cast import ShadowCast, choose_targets
    from secure_fu.auditor.shadow.runs import ShadowRuns, deletion_runs
    from secure_fu.auditor.transcript_views import read_transcript, transcript_views

__all__ = [
    "AuditOptions",
    "AuditOutcome",
    "AuditPart",
    "CanaryRun",
    "PartyView",
    "ShadowCast",
    "ShadowRuns",
    "TargetKind",
    "audit_config",
    "audit_protocol",
    "audit_run",
    "audit_scores",
    "canary_run",
    "canary_views",
    "choose_targets",
    "deletion_runs",
    "read_transcript",
    "transcript_views",
]

# Looked up when first used: bad input of a command is refused before torch and all that needs it is loaded.
_HOMES = {
    "audit": ("audit_config", "audit_run", "audit_scores"),
    "canary.runs": ("CanaryRun", "canary_run"),
    "outcome": ("AuditOptions", "AuditOutcome", "AuditPart", "TargetKind"),
    "canary.protocol_audit": ("audit_protocol",),
    "shadow.cast": ("ShadowCast", "choose_targets"),
    "shadow.runs": ("ShadowRuns", "deletion_runs"),
    "transcript_views": ("read_transcript", "transcript_views"),
    "canary.views": ("PartyView", "canary_views"),
}


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"secure_fu.auditor.{home}"), name)
    raise AttributeError(f"module 'secure_fu.auditor' has no attribute {name!r}")
