"""The signed hash chain over what a run has released."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from secure_fu.crypto.wire import encode
from secure_fu.errors import ArgumentError
from secure_fu.protocol.header import Header
from secure_fu.protocol.messages import Release, digest

__all__ = ["Transcript", "transcript_line"]


class Transcript:
    """Appends one link a release. The head binds every release before it; the next header names it.

    A line of the file holds the whole release message, signed by server, clients and openers, and says beside it what
    is in it, for readers. :func:`secure_fu.protocol.verification.verify_transcript` checks it from outside.

    Args:
        start: 32 bytes, the head that this transcript goes on from; zeros for a new run.
        path: JSON-lines file that each link is appended to; None keeps the head alone.
        branch: name written beside each link.
    """

    def __init__(self, *, start: bytes = bytes(32), path: Path | None = None, branch: str = "") -> None:
        if len(start) != 32:
            raise ArgumentError("start", f"{len(start)} bytes", "32 bytes")
        self._head = start
        self._path = path
        self._branch = branch

    @property
    def head(self) -> bytes:
        """Hash of the last release, 32 bytes."""
        return self._head

    def append(self, header: Header, release: Release) -> None:
        """Add one link.

        Raises:
            ArgumentError: the release does not follow the head.
        """
        if header.previous_transcript != self._head:
            raise ArgumentError("header.previous_transcript", header.previous_transcript.hex(), self._head.hex())
        head = digest(encode(release))
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(transcript_line(self._branch, header, release)) + "\n")
        self._head = head


def transcript_line(branch: str, header: Header, release: Release) -> dict[str, object]:
    """One line of a transcript file: the release message, and what is in it."""
    body = encode(release)
    return {
        "branch": branch,
        "round": header.round_number,
        "purpose": header.purpose,
        "phase": header.phase,
        "run_id": header.run_id.hex(),
        "model": header.model_digest.hex(),
        "parameter_set": header.parameter_set,
        "noise_multiplier": header.noise_multiplier,
        "clip_norm": header.clip_norm,
        "retained_rate": header.retained_rate,
        "forgotten_rate": header.forgotten_rate,
        "minimum_cohort": header.minimum_cohort,
        "participants": list(release.roll.participants),
        "approvals": [approval.name for approval in release.approvals],
        "sum": release.values_digest.hex(),
        "previous": header.previous_transcript.hex(),
        "hash": digest(body).hex(),
        "release": base64.b64encode(body).decode("ascii"),
    }
