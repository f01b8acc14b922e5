"""Released sums on disk before they are counted as released, so that an interrupted algorithm goes on where it was.

An algorithm of this package is a pure function of its settings and of released sums. So a branch that was interrupted
is run again from its beginning, and its first sums are read here: the same models come out, bit for bit, and nothing is
asked or charged twice.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
from numpy.typing import NDArray

from secure_fu.crypto.wire import Blob, Nested, decode, encode, message
from secure_fu.errors import ProtocolError, RecordError, WireError
from secure_fu.protocol.files import destroy_file, leftovers, write_whole
from secure_fu.protocol.header import Header, canonical_settings
from secure_fu.protocol.messages import Release, digest
from secure_fu.protocol.release import ReleasedSum, released_sum
from secure_fu.protocol.sums import SecureSums, SumRequest

__all__ = ["LoggedRelease", "ReleaseLog", "ResumableSums"]

_NAME: Final = re.compile(r"round-(\d{8,})\.release")
_HASH_BYTES: Final = 32
_ADVICE: Final = (
    "restore it; or delete it if it is the newest and the transcript does not have its round, which then stays charged "
    "and is asked for again"
)


@message("logged-release")
@dataclass(frozen=True, kw_only=True)
class LoggedRelease:
    """One entry of the log.

    Attributes:
        release: as the server signed it; the transcript gets the same.
        values: of the opened sum, int64, little endian, in steps of the grid; the release has their digest.
    """

    release: Annotated[Release, Nested(Release)]
    values: Annotated[bytes, Blob((1 << 32) - 1)]

    @cached_property
    def header(self) -> Header:
        """Of the round."""
        return decode(Header, self.release.announcement.header)

    @cached_property
    def link(self) -> bytes:
        """Hash of the release, 32 bytes: the transcript's head after it."""
        return digest(encode(self.release))

    @property
    def integers(self) -> NDArray[np.int64]:
        """The opened sum, in steps of the grid."""
        return np.frombuffer(self.values, dtype="<i8").astype(np.int64)

    @property
    def released(self) -> ReleasedSum:
        """What the algorithm was given, or would have been."""
        return released_sum(self.header, self.release, self.integers)


@dataclass(frozen=True, kw_only=True)
class _Entry:
    round_number: int
    previous: bytes
    link: bytes


class ReleaseLog:
    """The released sums of one branch, one file a round, in the order of its transcript.

    Formal guarantees:
        What :meth:`append` returned from is on disk, and comes back bit for bit or not at all: a file carries a SHA-256
        of all that it holds, and each release names the one before it. A kill at any moment leaves a release whole or
        absent; what was half written is destroyed when the log is opened again.
    Assumes:
        One process at a time has the folder; in a federation the ledger's lock sees to that.

    Args:
        directory: of the branch; made if there is none.

    Raises:
        RecordError: here and in every method, a file is damaged or missing in the middle, or the folder cannot be used;
            names the file and what to do.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            for path in leftovers(directory, "round-*.release"):
                destroy_file(path)
            numbers = sorted(int(found[1]) for path in directory.iterdir() if (found := _NAME.fullmatch(path.name)))
        except OSError as error:
            raise RecordError(f"{directory} cannot be used as a log of releases: {error}") from error
        self._entries: list[_Entry] = []
        for number in numbers:
            self._note(self.read(number), self._path(number))

    def _note(self, logged: LoggedRelease, path: Path) -> None:
        header = logged.header
        if self._entries and header.previous_transcript != self._entries[-1].link:
            raise RecordError(
                f"{path} does not follow round {self._entries[-1].round_number}: a file between them is missing from "
                f"{self._directory}, or one is of another run; restore the folder as it was"
            )
        self._entries.append(
            _Entry(round_number=header.round_number, previous=header.previous_transcript, link=logged.link)
        )

    @property
    def rounds(self) -> tuple[int, ...]:
        """Numbers of the rounds in the log, ascending."""
        return tuple(entry.round_number for entry in self._entries)

    @property
    def links(self) -> tuple[bytes, ...]:
        """Hashes of the releases in the log, in order: the transcript's heads after each."""
        return tuple(entry.link for entry in self._entries)

    def append(self, release: Release, integers: NDArray[np.int64]) -> None:
        """Add a release; durable on return.

        Args:
            release: signed, and the next of its branch.
            integers: the opened sum, in steps of the grid.

        Raises:
            ProtocolError: it does not follow the newest release of the log.
            RecordError: it cannot be written; the log is as before.
        """
        logged = LoggedRelease(release=release, values=integers.astype("<i8").tobytes())
        header = logged.header
        if self._entries and (
            header.previous_transcript != self._entries[-1].link
            or header.round_number <= self._entries[-1].round_number
        ):
            raise ProtocolError(
                f"round {header.round_number} does not follow round {self._entries[-1].round_number}, the newest in "
                f"{self._directory}: a release was logged and not settled; open the federation again"
            )
        content = encode(logged)
        path = self._path(header.round_number)
        try:
            write_whole(path, hashlib.sha256(content).digest() + content)
        except OSError as error:
            raise RecordError(f"{path} cannot be written: {error}; the round counts as spent") from error
        self._note(logged, path)

    def read(self, round_number: int) -> LoggedRelease:
        """The release of a round.

        Raises:
            RecordError: there is none, or its file is damaged.
        """
        path = self._path(round_number)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise RecordError(f"{path} cannot be read: {error}; {_ADVICE}") from error
        if hashlib.sha256(content[_HASH_BYTES:]).digest() != content[:_HASH_BYTES]:
            raise RecordError(f"{path} is damaged: it does not hold what was written; {_ADVICE}")
        try:
            logged = decode(LoggedRelease, content[_HASH_BYTES:])
            header = logged.header
        except WireError as error:
            raise RecordError(f"{path} is no release of this version: {error}; {_ADVICE}") from error
        if header.round_number != round_number or digest(logged.values) != logged.release.values_digest:
            raise RecordError(f"{path} is damaged: it holds another round or other values than were signed; {_ADVICE}")
        return logged

    def destroy(self, *, until: int | None = None) -> None:
        """Destroy releases; they are gone on return, see :func:`~secure_fu.protocol.files.destroy_file`.

        For states that are kept as checkpoints, and for what a deletion that was executed has taken back. The
        transcript keeps the hashes.

        Args:
            until: number of the newest round to destroy; None destroys all.
        """
        while self._entries and (until is None or self._entries[0].round_number <= until):
            path = self._path(self._entries[0].round_number)
            try:
                destroy_file(path)
            except OSError as error:
                raise RecordError(f"{path} cannot be destroyed: {error}; destroy it by hand") from error
            del self._entries[0]

    def _path(self, round_number: int) -> Path:
        return self._directory / f"round-{round_number:08}.release"


class ResumableSums:
    """Secure sums that are answered from a log as long as it has releases, and by the clients from then on.

    Formal guarantees:
        A request is answered from the log only if each of its fields is the one that the release was asked with, the
        model's digest included; nothing is asked of any client, and nothing charged, for it.
    Assumes:
        The server behind `inner` writes its releases to the same log (:attr:`Run.on_release`).

    Args:
        inner: what runs live rounds.
        log: of the branch, as it was found; None where none is kept.
        after: number of a round; the log's releases up to it are passed over, for the caller has the state behind them.
    """

    def __init__(self, inner: SecureSums, log: ReleaseLog | None, *, after: int = -1) -> None:
        self._inner = inner
        rounds = () if log is None else log.rounds
        self._waiting = [(log, number) for number in rounds if log is not None and number > after]
        self._done = 0

    @property
    def left(self) -> int:
        """How many more requests the log will answer."""
        return len(self._waiting)

    def secure_sum(self, request: SumRequest) -> ReleasedSum:
        """Read or run one round; see :class:`~secure_fu.protocol.sums.SecureSums`.

        Raises:
            ProtocolError: the request is not the one that was logged in its place; nothing was asked or charged.
            RecordError: the logged release is damaged.
        """
        if not self._waiting:
            return self._inner.secure_sum(request)
        log, number = self._waiting[0]
        logged = log.read(number)
        asked, now = _asked_then(logged.header), _asked_now(request)
        for name, value in now.items():
            if asked[name] != value:
                raise ProtocolError(
                    f"request {self._done + 1} of the resumed branch differs from round {number}, which "
                    f"answered it before the interruption: {name} is {_shown(value)}, was {_shown(asked[name])}; "
                    "resume with the method, settings, data layout and version that it was begun with, or begin a new "
                    "branch, which is charged anew"
                )
        del self._waiting[0]
        self._done += 1
        return logged.released


def _asked_now(request: SumRequest) -> Mapping[str, Any]:
    return {
        "purpose": request.purpose,
        "phase": request.phase.value,
        "model": request.model.digest,
        "unit": request.unit.value,
        "clip_norm": request.clip_norm,
        "saturation": request.saturation,
        "noise_multiplier": request.noise_multiplier,
        "retained_rate": request.retained_rate,
        "forgotten_rate": request.forgotten_rate,
        "settings": canonical_settings(request.settings),
        "length": request.model.dimension if request.length is None else request.length,
    }


def _asked_then(header: Header) -> Mapping[str, Any]:
    return {
        "purpose": header.purpose,
        "phase": header.phase,
        "model": header.model_digest,
        "unit": header.unit,
        "clip_norm": header.clip_norm,
        "saturation": header.saturation,
        "noise_multiplier": header.noise_multiplier,
        "retained_rate": header.retained_rate,
        "forgotten_rate": header.forgotten_rate,
        "settings": header.settings,
        "length": header.length,
    }


def _shown(value: object) -> str:
    return value.hex()[:16] + "..." if isinstance(value, bytes) else repr(value)
