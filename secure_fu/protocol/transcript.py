"""The hash chain over what a run has released."""

from __future__ import annotations

import json
from pathlib import Path

from secure_fu.crypto.wire import encode
from secure_fu.errors import ArgumentError
from secure_fu.protocol.messages import Header, Release, digest

__all__ = ["Transcript"]


class Transcript:
    """Appends one link a release. The head binds every release before it; the next header names it.

    A line of the file has the hash of a release message, but not its participants' names nor its signature, and nobody
    signs the line: it binds only for whoever holds the messages.

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
        if release.previous_transcript != self._head:
            raise ArgumentError("release.previous_transcript", release.previous_transcript.hex(), self._head.hex())
        head = digest(encode(release))
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(self._line(header, release, head)) + "\n")
        self._head = head

    def _line(self, header: Header, release: Release, head: bytes) -> dict[str, object]:
        return {
            "branch": self._branch,
            "round": header.round_number,
            "purpose": header.purpose,
            "run_id": header.run_id.hex(),
            "model": header.model_digest.hex(),
            "noise_multiplier": header.noise_multiplier,
            "clip_norm": header.clip_norm,
            "retained_rate": header.retained_rate,
            "forgotten_rate": header.forgotten_rate,
            "minimum_cohort": header.minimum_cohort,
            "participants": len(release.participants),
            "header": release.header_digest.hex(),
            "roll": release.roll_digest.hex(),
            "sum": release.values_digest.hex(),
            "previous": release.previous_transcript.hex(),
            "hash": head.hex(),
        }
