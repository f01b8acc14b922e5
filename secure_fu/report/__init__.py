"""What a run looks like to a person: one offline HTML page, its pictures, and a table for the terminal.

Everything here starts from a decoded ``result.json`` (schema ``secure-fu/result/1``), never from live objects, so a
report can be written again from a run directory at any time.
"""

from __future__ import annotations

from secure_fu.report.page import write_report
from secure_fu.report.schema import SCHEMA, validate_result
from secure_fu.report.table import terminal_table

__all__ = ["SCHEMA", "terminal_table", "validate_result", "write_report"]
