"""Certificates of deletions: how a server writes them, and how anybody checks them without its word."""

from __future__ import annotations

from secure_fu.deletion.certificates.accounts import Accounts, Counted, ledger_rounds
from secure_fu.deletion.certificates.certificate import (
    Certificate,
    build_certificate,
    concerned_clients,
    read_certificate,
)
from secure_fu.deletion.certificates.check import Evidence, Findings, check_certificate
from secure_fu.deletion.certificates.schema import CertificateError, parse_certificate
from secure_fu.deletion.certificates.store import CertificateStore, certificate_files, read_certificates

__all__ = [
    "Accounts",
    "Certificate",
    "CertificateError",
    "CertificateStore",
    "Counted",
    "Evidence",
    "Findings",
    "build_certificate",
    "certificate_files",
    "check_certificate",
    "concerned_clients",
    "ledger_rounds",
    "parse_certificate",
    "read_certificate",
    "read_certificates",
]
