"""A server's certificates: one file a window, each naming the hash of the one before."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from secure_fu.crypto import Identity, Roster
from secure_fu.deletion.certificates.certificate import Certificate, build_certificate, read_certificate
from secure_fu.deletion.certificates.evidence import check_chain, check_windows
from secure_fu.deletion.certificates.schema import CertificateError
from secure_fu.deletion.execution import Execution
from secure_fu.deletion.requests import SignedBatch
from secure_fu.errors import RecordError
from secure_fu.protocol.files import destroy_file, leftovers, write_whole

__all__ = ["CertificateStore", "certificate_files", "read_certificates"]

_NAME: Final = re.compile(r"certificate-(\d{6,})-([0-9a-f]{32})\.json")


class CertificateStore:
    """Makes a server's certificates and keeps them, chained.

    Formal guarantees:
        What :meth:`certify` named is on disk, whole. A window has one certificate, whatever is asked again and wherever
        it was killed; no two certificates have one number.
    Assumes:
        One process at a time has the folder.

    Args:
        folder: made if there is none.
        identity: of the server.
        roster: of the federation; certificates that are there are of it.
        policy_digest: of the federation's policy, 32 bytes.
        clock: seconds since 1970 (UTC).
        audit: a decoded audit.json of the federation's configuration and its bytes; None where none was run.

    Raises:
        RecordError: the folder cannot be used, or what is in it is no chain; names the file.
    """

    def __init__(
        self,
        folder: Path,
        *,
        identity: Identity,
        roster: Roster,
        policy_digest: bytes,
        clock: Callable[[], int],
        audit: tuple[Mapping[str, Any], bytes] | None = None,
    ) -> None:
        self._folder, self._identity, self._roster = folder, identity, roster
        self._policy_digest, self._clock, self._audit = policy_digest, clock, audit
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for path in leftovers(folder, "certificate-*.json"):
                destroy_file(path)
            self._names = {_window(path): path.name for path in certificate_files(folder)}
            chain = read_certificates(folder)
            for place, one in enumerate(chain):
                check_chain(one, chain[place - 1] if place else None)
            check_windows(chain)
        except (OSError, CertificateError) as error:
            raise RecordError(f"{folder} cannot be used for certificates: {error}") from error
        self._newest = chain[-1] if chain else None

    def certify(self, batch: SignedBatch, execution: Execution) -> str:
        """Make a window's certificate; for a window that has one, nothing is made.

        Returns:
            the name of its file in the folder.

        Raises:
            RecordError: it cannot be written; the folder is as before.
            CertificateError, ArgumentError: as :func:`~secure_fu.deletion.certificates.certificate.build_certificate`.
        """
        window = execution.window_id.hex()
        if window in self._names:
            return self._names[window]
        content = build_certificate(
            batch,
            execution,
            identity=self._identity,
            roster=self._roster,
            policy_digest=self._policy_digest,
            issued=max(self._clock(), execution.finished),
            previous=self._newest,
            audit=self._audit,
        )
        made = Certificate.of(content)
        name = f"certificate-{made.body['number']:06}-{window}.json"
        try:
            write_whole(self._folder / name, content)
        except OSError as error:
            raise RecordError(f"{self._folder / name} cannot be written: {error}") from error
        self._names[window], self._newest = name, made
        return name


def certificate_files(folder: Path) -> list[Path]:
    """The files of a folder that have a certificate's name, in the order of their numbers."""
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def read_certificates(folder: Path) -> list[Certificate]:
    """The certificates of a folder, in the order of their numbers; signatures are not looked at.

    Raises:
        CertificateError: one of them cannot be read, or two have one number; names the file.
    """
    certificates = [(path, read_certificate(path)) for path in certificate_files(folder)]
    for place, (path, one) in enumerate(certificates):
        if place and one.body["number"] <= certificates[place - 1][1].body["number"]:
            raise CertificateError(f"{path} has number {one.body['number']}, as one before it or less")
    return [one for _, one in certificates]


def _window(path: Path) -> str:
    found = _NAME.fullmatch(path.name)
    assert found is not None  # noqa: S101 (certificate_files matched it)
    return found[2]
