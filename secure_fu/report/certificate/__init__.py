"""A deletion certificate as a page for people."""

from __future__ import annotations

from secure_fu.report.certificate.page import write_certificate_page

__all__ = ["write_certificate_page"]
