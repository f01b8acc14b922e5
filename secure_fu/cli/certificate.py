"""`secure-fu certificate`: show a deletion certificate, or write it as a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from secure_fu.cli.verify_certificate import looks_like_a_certificate, summary
from secure_fu.errors import ArgumentError
from secure_fu.file_names import CERTIFICATES, POLICY, ROSTER, TRANSCRIPT

if TYPE_CHECKING:
    from secure_fu.deletion.certificates import Certificate, Findings

__all__ = ["certificate"]

"""Where a server's directory has its certificates."""


def certificate(
    path: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="A server's directory, a folder of certificates, or a certificate."),
    ],
    window: Annotated[
        str | None,
        typer.Argument(metavar="[WINDOW]", help="A window's id, its first digits, or a number. Default: last."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the certificate itself, as it is signed.")] = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it as a page for people.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a copy of the certificate's file.")] = None,
) -> None:
    """Show the certificate of a deletion window; `secure-fu verify` checks it."""
    from secure_fu.deletion.certificates import certificate_files
    from secure_fu.protocol.files import write_whole
    from secure_fu.report.certificate import write_certificate_page

    folder = path / CERTIFICATES if (path / CERTIFICATES).is_dir() else path
    if not folder.is_dir() and not (folder.is_file() and looks_like_a_certificate(folder)):
        raise ArgumentError("DIR", str(path), "a server's directory, a folder of certificates, or a certificate")
    files = certificate_files(folder) if folder.is_dir() else [folder]
    if not files:
        raise ArgumentError("DIR", str(path), "a place with certificates; it has none yet")
    file, chosen = _chosen(files, window)
    for option, target in (("--out", out), ("--html", html)):
        if target is not None and (target.is_dir() or not target.absolute().parent.is_dir()):
            raise ArgumentError(option, str(target), "a file in a folder that exists")
    try:
        if out is not None:
            write_whole(out, chosen.content)
    except OSError as error:
        raise ArgumentError("--out", str(out), f"a file that can be written ({error.strerror})") from None
    if html is not None:
        from secure_fu.deletion.certificates import parse_certificate

        findings = _findings(path, folder, chosen)
        write_certificate_page(
            parse_certificate(chosen.content),
            html,
            name=file.name if out is None else out.name,
            sha256=chosen.digest.hex(),
            findings=None if findings is None else findings.to_json(),
        )
    if json_:
        print(chosen.content.decode("ascii"), end="")
        return
    console = Console()
    written = [f"Written: {target}" for target in (out, html) if target is not None]
    advice = f"Not checked here: secure-fu verify {file} --roster FILE, with the roster that you pinned."
    for line in (*summary(chosen), *written, advice):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _chosen(files: list[Path], window: str | None) -> tuple[Path, Certificate]:
    from secure_fu.deletion.certificates import read_certificate

    if window is None:
        return files[-1], read_certificate(files[-1])
    found = [(file, read_certificate(file)) for file in files]
    fitting = [
        (file, one)
        for file, one in found
        if str(one.body["number"]) == window or (len(window) >= 4 and one.body["window"].startswith(window.lower()))
    ]
    if len(fitting) != 1:
        known = ", ".join(f"{one.body['number']} ({one.body['window'][:8]})" for _, one in found[-6:])
        raise ArgumentError("WINDOW", window, f"the number or window of one certificate, as {known}")
    return fitting[0]


def _findings(directory: Path, folder: Path, chosen: Certificate) -> Findings | None:
    """A check against the server's own files, as far as they are there; None where there is no roster."""
    from secure_fu.crypto import Roster
    from secure_fu.deletion.certificates import Evidence, check_certificate, read_certificates
    from secure_fu.protocol import read_policy

    roster, policy, transcript = (directory / name for name in (ROSTER, POLICY, TRANSCRIPT))
    if not roster.is_file():
        return None
    earlier = read_certificates(folder) if folder.is_dir() else []
    return check_certificate(
        chosen,
        roster=Roster.decode(roster.read_bytes()),
        evidence=Evidence(
            policy=read_policy(policy) if policy.is_file() else None,
            transcript=transcript if transcript.is_file() else None,
            earlier=[one for one in earlier if one.body["number"] < chosen.body["number"]],
        ),
    )
