"""What `secure-fu verify` does with a deletion certificate, or a folder of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console

from secure_fu.errors import ArgumentError, CryptoError, RecordError
from secure_fu.file_names import TRANSCRIPT

if TYPE_CHECKING:
    from secure_fu.crypto import Roster
    from secure_fu.deletion import DeletionPolicy
    from secure_fu.deletion.certificates import Certificate, Findings

__all__ = ["CertificateOptions", "looks_like_a_certificate", "verify_certificate"]

_HEAD: Final = 1 << 12


@dataclass(frozen=True, kw_only=True)
class CertificateOptions:
    """Files to hold a certificate against, and how to say what was found."""

    roster: Path | None
    policy: Path | None
    transcript: Path | None
    begins_later: bool
    ledger: Path | None
    model_before: Path | None
    model_after: Path | None
    chain: Path | None
    audit: Path | None
    requests: tuple[Path, ...]
    deletion_policy: Path | None
    as_json: bool

    @property
    def own(self) -> list[str]:
        """Options given that only a certificate can be checked with."""
        names = ("transcript", "ledger", "model_before", "model_after", "chain", "audit", "deletion_policy")
        given = [f"--{name.replace('_', '-')}" for name in names if getattr(self, name) is not None]
        given += ["--request"] * bool(self.requests)
        return given + ["--begins-later"] * self.begins_later + ["--json"] * self.as_json


def looks_like_a_certificate(path: Path) -> bool:
    """Whether a path is a certificate, perhaps an edited one, or a folder of them; by its content.

    A certificate begins with a line of one bracket and names its schema; one edit leaves one of both. A transcript's
    first line is a whole object.

    Raises:
        OSError: it cannot be read.
    """
    from secure_fu.deletion.certificates import certificate_files

    if path.is_dir():
        return not (path / TRANSCRIPT).exists() and bool(certificate_files(path))
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(_HEAD)
    first = head.split(b"\n", 1)[0]
    return b'"branch"' not in first and (first.strip() == b"{" or b'"certificate"' in head or b"/certificate/" in head)


def verify_certificate(path: Path, options: CertificateOptions) -> None:
    """Check a certificate, or each of a folder, and say in plain words what is proved and what is not.

    Raises:
        ArgumentError: an option is missing, or names no such file.
        CertificateError, TranscriptError: something does not hold.
    """
    from secure_fu.crypto import Roster
    from secure_fu.deletion.certificates import Evidence, check_certificate, read_certificate, read_certificates
    from secure_fu.deletion.policy import read_deletion_policy
    from secure_fu.deletion.requests import RequestRefused, read_request
    from secure_fu.errors import SecureFUError
    from secure_fu.privacy import PrivacyLedger
    from secure_fu.protocol import read_policy

    if options.roster is None:
        raise ArgumentError("--roster", None, "the roster's file that you pinned, to check a certificate")
    try:
        roster = Roster.decode(options.roster.read_bytes())
    except (OSError, CryptoError) as error:
        raise ArgumentError("--roster", str(options.roster), f"a roster, as roster.bin ({error})") from None
    policy = None
    if options.policy is not None:
        try:
            policy = read_policy(options.policy)
        except RecordError as error:
            raise ArgumentError("--policy", str(options.policy), f"a policy, as policy.toml ({error})") from None
    deletion_policy = None
    if options.deletion_policy is not None:
        try:
            deletion_policy = _with_all_settings(read_deletion_policy(options.deletion_policy))
        except RecordError as error:
            expected = f"a deletion policy, as deletion.toml ({error})"
            raise ArgumentError("--deletion-policy", str(options.deletion_policy), expected) from None
    for name in ("transcript", "ledger", "model_before", "model_after", "audit"):
        file: Path | None = getattr(options, name)
        if file is not None and not file.is_file():
            raise ArgumentError(f"--{name.replace('_', '-')}", str(file), "an existing file")
    if options.chain is not None and not options.chain.is_dir():
        raise ArgumentError("--chain", str(options.chain), "a folder of certificates")
    try:
        requests = [read_request(file) for file in options.requests]
    except (RequestRefused, RecordError, OSError, CryptoError) as error:
        raise ArgumentError("--request", str(options.requests[0]), f"files of signed requests ({error})") from None
    certificates = read_certificates(path) if path.is_dir() else [read_certificate(path)]
    folder = path if path.is_dir() else options.chain
    earlier = [] if folder is None else read_certificates(folder)
    with ExitStack() as opened:
        ledger = None
        if options.ledger is not None:
            ledger = opened.enter_context(PrivacyLedger.open(options.ledger, read_only=True))
        results = []
        for certificate in certificates:
            if certificate is not certificates[-1] and certificate.body["roster"] != roster.digest.hex():
                continue  # of another roster: the chain holds it
            number = certificate.body["number"]
            newest = certificate is certificates[-1]
            evidence = Evidence(
                policy=policy,
                transcript=options.transcript,
                begins_later=options.begins_later,
                ledger=ledger,
                model_before=options.model_before if newest else None,
                model_after=options.model_after if newest else None,
                earlier=[one for one in earlier if one.body["number"] < number],
                requests=requests if newest else (),
                deletion_policy=deletion_policy if certificate.body["asked"]["signed"] or newest else None,
                audit=None if options.audit is None or not newest else options.audit.read_bytes(),
            )
            try:
                results.append((certificate, check_certificate(certificate, roster=roster, evidence=evidence)))
            except SecureFUError as error:
                error.add_note(f"nothing is proved of certificate {number} in {path}; it must not be relied on")
                raise
    _print(results, options, roster)


def _with_all_settings(policy: DeletionPolicy) -> DeletionPolicy:
    """The policy with all settings of its method: `secure-fu found` wrote only those that were chosen, once."""
    from secure_fu.unlearning import METHODS, method_from_settings, settings_of

    if policy.method not in METHODS:
        return policy
    try:
        return replace(policy, settings=settings_of(method_from_settings(policy.method, policy.settings)))
    except ArgumentError as error:
        raise RecordError(str(error)) from error


def _print(results: list[tuple[Certificate, Findings]], options: CertificateOptions, roster: Roster) -> None:
    if options.as_json:
        said = [
            {"certificate": one.digest.hex(), "number": one.body["number"], "window": one.body["window"]}
            | findings.to_json()
            for one, findings in results
        ]
        print(json.dumps(said[0] if len(said) == 1 else said, indent=1))
        return
    console = Console()
    for certificate, findings in results:
        for line in (*summary(certificate), *_found(findings), f"Roster {roster.digest.hex()}, from {options.roster}"):
            console.print(line, markup=False, highlight=False, soft_wrap=line.startswith(("  ", "Roster")))


def summary(certificate: Certificate) -> Iterator[str]:
    """What a certificate says, in a few lines."""
    body = certificate.body
    asked, guarantee = body["asked"], body["forgetting"]
    named = sorted({one["requester"]["name"] for one in asked["requests"]} - {None})
    hidden = sum(one["requester"]["name"] is None for one in asked["requests"])
    who = ", ".join(named[:6]) + (", ..." if len(named) > 6 else "")
    parts = [who] * bool(named) + [f"{hidden} not named"] * bool(hidden)
    parts += [f"up to {asked['hidden_units']} at each client in private"] * bool(asked["hidden_units"])
    yield f"Certificate {body['number']} of {body['server']}, issued {body['times']['issued']}"
    yield f"  SHA-256       {certificate.digest.hex()}"
    yield f"  asked by      {'; '.join(parts) or 'nobody'}; at most {asked['units']} {body['accounting']['unit']}(s)"
    yield f"  method        {body['method']['name']}, {body['transcript']['rounds']} rounds"
    bound = "" if guarantee["kind"] != "certified" else f", epsilon {_number(guarantee['epsilon'])}"
    yield f"  forgetting    {guarantee['kind']}{bound}"
    said = body["confidentiality"]
    figures = ", ".join(
        f"{name.replace('_', ' ')} {_number(said[name]['value'])}" for name in ("phase", "pair", "who_asked")
    )
    yield f"  confidential  epsilon: {figures}, at delta {said['phase']['delta']:g}"
    yield f"  model         {body['model']['before']}"
    yield f"  became        {body['model']['after']}"
    audit = body["audit"]
    yield f"  audit         {'none was run' if audit is None else audit['outcome']}"
    yield ""


def _found(findings: Findings) -> Iterator[str]:
    for title, sentences in (
        ("PROVED", findings.proved),
        ("MIND", findings.attention),
        ("NOT CHECKED, for want of a file", findings.not_checked),
        ("NOT PROVED, and no certificate can", findings.not_proved),
    ):
        if sentences:
            yield title
            yield from (f"- {sentence}" for sentence in sentences)
            yield ""


def _number(value: float | None) -> str:
    return "unbounded" if value is None else f"{value:.2f}"
