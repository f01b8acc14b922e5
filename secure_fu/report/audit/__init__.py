"""What an audit looks like to a person: one offline HTML page, its pictures, and a table for the terminal.

Everything here starts from a decoded ``audit.json`` (schema ``secure-fu/audit/1``), never from live objects.
"""

from __future__ import annotations

from secure_fu.report.audit.page import write_audit_page
from secure_fu.report.audit.schema import AUDIT_SCHEMA, validate_audit
from secure_fu.report.audit.table import audit_summary

__all__ = ["AUDIT_SCHEMA", "audit_summary", "validate_audit", "write_audit_page"]
