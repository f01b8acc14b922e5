"""The auditor: shadow runs, canary runs and whole audits, put together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from secure_fu.lazy import lazily

if TYPE_CHECKING:
    from secure_fu.auditor.audit import audit_config as audit_config
    from secure_fu.auditor.audit import audit_run as audit_run
    from secure_fu.auditor.audit import audit_scores as audit_scores
    from secure_fu.auditor.canary.protocol_audit import audit_protocol as audit_protocol
    from secure_fu.auditor.canary.runs import CanaryRun as CanaryRun
    from secure_fu.auditor.canary.runs import canary_run as canary_run
    from secure_fu.auditor.canary.views import PartyView as PartyView
    from secure_fu.auditor.canary.views import canary_views as canary_views
    from secure_fu.auditor.outcome import AuditOptions as AuditOptions
    from secure_fu.auditor.outcome import AuditOutcome as AuditOutcome
    from secure_fu.auditor.outcome import AuditPart as AuditPart
    from secure_fu.auditor.outcome import TargetKind as TargetKind
    from secure_fu.auditor.shadow.cast import ShadowCast as ShadowCast
    from secure_fu.auditor.shadow.cast import choose_targets as choose_targets
    from secure_fu.auditor.shadow.runs import ShadowRuns as ShadowRuns
    from secure_fu.auditor.shadow.runs import deletion_runs as deletion_runs
    from secure_fu.auditor.transcript_views import read_transcript as read_transcript
    from secure_fu.auditor.transcript_views import transcript_views as transcript_views

# Bad input of a command is refused before torch and all that needs it is loaded.
_HOMES: Final = {
    "audit": ("audit_config", "audit_run", "audit_scores"),
    "canary.runs": ("CanaryRun", "canary_run"),
    "outcome": ("AuditOptions", "AuditOutcome", "AuditPart", "TargetKind"),
    "canary.protocol_audit": ("audit_protocol",),
    "shadow.cast": ("ShadowCast", "choose_targets"),
    "shadow.runs": ("ShadowRuns", "deletion_runs"),
    "transcript_views": ("read_transcript", "transcript_views"),
    "canary.views": ("PartyView", "canary_views"),
}
__all__ = sorted(name for names in _HOMES.values() for name in names)

if not TYPE_CHECKING:  # a type checker has the names from above, and refuses others
    __getattr__, __dir__ = lazily(__name__, _HOMES)
