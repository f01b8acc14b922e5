"""Attacks on models and deletions."""

from __future__ import annotations

from secure_fu.audit.membership import MembershipAudit, membership_audit

__all__ = ["MembershipAudit", "membership_audit"]
