"""The certificate's page: one HTML file that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secure_fu.errors import RunDirectoryError
from secure_fu.report.certificate.words import (
    WEAK,
    cards,
    headline,
    is_weak,
    meaning,
    moment,
    requests,
    secrecy,
    sureness,
    units,
)
from secure_fu.report.templating import environment, flat

__all__ = ["write_certificate_page"]


def write_certificate_page(
    document: Mapping[str, Any],
    path: Path,
    *,
    name: str,
    sha256: str,
    findings: Mapping[str, Any] | None = None,
) -> Path:
    """Write a certificate as a page; a file that is there is overwritten.

    The page refers to nothing outside itself. It is not what is signed, and says so.

    Args:
        document: a decoded certificate that follows its schema.
        path: of the page.
        name: of the certificate's file.
        sha256: of the certificate's file.
        findings: of a check that was made just now; None where none was.

    Returns:
        the path.

    Raises:
        RunDirectoryError: the page cannot be written.
    """
    body = document["certificate"]
    page = (
        environment()
        .get_template("certificate.html.j2")
        .render(
            body=body,
            signature=document["signature"],
            name=name,
            sha256=sha256,
            findings=findings,
            headline=headline(body),
            cards=cards(body),
            requests=requests(body),
            secrecy=secrecy(body),
            meaning=meaning(body),
            settings=list(flat(body["method"]["settings"])),
            moment=moment,
            is_weak=is_weak,
            weak=WEAK,
            sureness=sureness,
            units=units,
            insecure=any(one.startswith("plain") for one in body["parameter_sets"]),
        )
    )
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise RunDirectoryError(f"the page cannot be written to {str(path)!r}: {error.strerror}") from error
    return path
