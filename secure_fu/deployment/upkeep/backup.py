"""Copies of a server's directory, and going back to one without giving budget back.

A ledger that goes back forgets what was spent since, and a transcript that goes back has releases that others know and
it does not. So a copy is opened only against something that shows how far the federation has come: a transcript or a
head that others kept, or what nodes have answered (:func:`seen`).

What cannot be restored: the records of clients (what they have spent and answered) and of members (what they voted
for). A copy of them would forget a promise. Whoever loses one needs new keys, see ``secure-fu keys``.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import io
import json
import os
import shutil
import sqlite3
import tarfile
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from secure_fu.deployment.founding.bundle import BUNDLE_FILES
from secure_fu.deployment.founding.setup import read_roster
from secure_fu.errors import ArgumentError, LedgerError, RecordError, TranscriptError
from secure_fu.federation.founding import read_founding
from secure_fu.federation.server_directory import kept_orders
from secure_fu.file_names import (
    CERTIFICATES,
    FOUNDING,
    KEYS,
    LEDGER,
    MAIN_LINE,
    NODES,
    POLICY,
    QUEUE,
    ROSTER,
    TRANSCRIPT,
    WINDOWS,
)
from secure_fu.privacy import PrivacyLedger
from secure_fu.protocol import read_policy, verify_transcript
from secure_fu.protocol.files import sync_folder
from secure_fu.protocol.run_id import run_id_of
from secure_fu.protocol.verification import verify_against_ledger

__all__ = ["Evidence", "Manifest", "StaleBackup", "back_up", "restore", "seen"]

_FORMAT: Final = "secure-fu/backup/1"
_SEEN: Final = "secure-fu/seen/1"
_MANIFEST: Final = "manifest.json"
_SQLITE: Final = (LEDGER, QUEUE)
_KEPT: Final = (
    *BUNDLE_FILES,
    TRANSCRIPT,
    MAIN_LINE,
    "main_line-*.safetensors",
    NODES,
    "checkpoints/*",
    "releases/*/*",
    f"{WINDOWS}/*/*",
    f"{CERTIFICATES}/*",
    "epochs/*/*",
)
_PATIENCE: Final = 60.0
_RECORDS: Final[Mapping[str, str]] = {
    "client-*.sqlite": "SELECT run_id, MAX(round_number) FROM round GROUP BY run_id",
    "member-*.sqlite": "SELECT run_id, MAX(round_number) FROM vote GROUP BY run_id",
}


class StaleBackup(RecordError):
    """A copy is older than what others have seen; what was spent since would be forgotten."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a copy says of itself.

    Attributes:
        created: seconds since 1970 (UTC).
        epoch: of the federation.
        events: of the ledger, how many.
        heads: of each branch of the transcript, by name; 64 hexadecimal digits.
        files: SHA-256 of each, by path in the directory.
        keys: whether the server's secret keys are in it.
    """

    created: int
    epoch: str
    events: int
    heads: Mapping[str, str]
    files: Mapping[str, str]
    keys: bool


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """How far a federation has come, as others know it. At least one of them, or somebody's word that it is not needed.

    Attributes:
        transcripts: files that others kept.
        heads: of a transcript, each 32 bytes.
        seen: files that `secure-fu seen` wrote at nodes.
        nothing_newer: whether somebody vouches that nothing was run since the copy was made.
    """

    transcripts: Collection[Path] = ()
    heads: Collection[bytes] = ()
    seen: Collection[Path] = ()
    nothing_newer: bool = False

    def __post_init__(self) -> None:
        if not (self.transcripts or self.heads or self.seen or self.nothing_newer):
            raise ArgumentError(
                "--seen",
                None,
                "this, --head or --transcript, which show how far the federation had come; or --nothing-newer",
            )


def back_up(server: Path, out: Path, *, with_keys: bool = False) -> Manifest:
    """Copy a server's directory into one tar file, readable by its owner only.

    Formal guarantees:
        All files are of one moment: the ledger's lock is held meanwhile, so that no server runs. The queue is copied as
        it is at one moment of that time. A kill leaves no file, or the whole one.
    Not guaranteed:
        Secrecy: the file is not encrypted. It has released sums, models and names of who took part. It also outlives
        deletions: copies of before a deletion have models that knew the data, and have to be destroyed with them.

    Args:
        server: the directory; stopped.
        out: of the file, which must not exist.
        with_keys: whether `keys.bin` is copied too: whoever reads it then is the server.

    Raises:
        ArgumentError: the file exists.
        LedgerError: the server runs, or its ledger is damaged.
        RecordError: a file is missing, or cannot be read or written.
    """
    if out.exists():
        raise ArgumentError("--out", str(out), "a file that does not exist")
    founding = read_founding(server / FOUNDING)
    with PrivacyLedger.open(server / LEDGER) as ledger:
        events = sum(1 for _ in ledger.events())
    part = out.with_name(f".{out.name}.part")
    try:
        with _locked(server / LEDGER) as connection:
            contents = {LEDGER: _sqlite_copy(connection, part.with_suffix(".copy"))}
            if (server / QUEUE).exists():
                queue = sqlite3.connect(f"{(server / QUEUE).absolute().as_uri()}?mode=ro", uri=True)
                with contextlib.closing(queue):
                    contents[QUEUE] = _sqlite_copy(queue, part.with_suffix(".copy"))
            names = sorted({path for pattern in _KEPT for path in server.glob(pattern) if path.is_file()})
            manifest = Manifest(
                created=int(time.time()),
                epoch=founding.facts.get("epoch", "1"),
                events=events,
                heads=_heads_of(server),
                files={},
                keys=with_keys,
            )
            with os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as raw:
                with tarfile.open(fileobj=raw, mode="w") as packed:
                    files = {name: _add(packed, name, io.BytesIO(content)) for name, content in contents.items()}
                    for path in [*names, *([server / KEYS] if with_keys else [])]:
                        name = path.relative_to(server).as_posix()
                        if not path.name.startswith("."):
                            with path.open("rb") as file:
                                files[name] = _add(packed, name, file)
                    values = vars(manifest) | {"format": _FORMAT, "files": files}
                    _add(packed, _MANIFEST, io.BytesIO(json.dumps(values, indent=1).encode()))
                raw.flush()
                os.fsync(raw.fileno())
        part.rename(out)
        sync_folder(out.parent)
    except (OSError, sqlite3.Error) as error:
        raise RecordError(f"no copy of {server} can be made in {out}: {error}") from error
    finally:
        part.unlink(missing_ok=True)
        part.with_suffix(".copy").unlink(missing_ok=True)
    return Manifest(**{**vars(manifest), "files": files})


@contextlib.contextmanager
def _locked(ledger: Path) -> Iterator[sqlite3.Connection]:
    """A connection that keeps every server out for as long as it is used."""
    connection = sqlite3.connect(f"{ledger.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=0.0)
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        # In this mode the lock outlives the transaction; inside one, SQLite does not copy.
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("COMMIT")
        yield connection
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
            raise LedgerError(f"{ledger} is open in another process; stop the server first") from error
        raise
    finally:
        connection.close()


def _sqlite_copy(connection: sqlite3.Connection, scratch: Path) -> bytes:
    """A database as it is at one moment, as the content of one file."""
    scratch.unlink(missing_ok=True)
    os.close(os.open(scratch, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    copy = sqlite3.connect(scratch)
    ends = time.monotonic() + _PATIENCE

    def give_up(*_: int) -> None:
        if time.monotonic() > ends:
            raise sqlite3.OperationalError("it is busy for too long")

    try:
        connection.backup(copy, progress=give_up)
        copy.execute("PRAGMA journal_mode = DELETE")
    finally:
        copy.close()
    return scratch.read_bytes()


def _add(packed: tarfile.TarFile, name: str, content: Any) -> str:
    """Add a file; its SHA-256."""
    content.seek(0, os.SEEK_END)
    member = tarfile.TarInfo(name)
    member.size, member.mode = content.tell(), 0o600
    content.seek(0)
    digest = hashlib.file_digest(content, "sha256").hexdigest()
    content.seek(0)
    packed.addfile(member, content)
    return digest


def _heads_of(server: Path) -> dict[str, str]:
    if not (server / TRANSCRIPT).exists():
        return {}
    branches = verify_transcript(
        server / TRANSCRIPT, roster=read_roster(server / ROSTER), policy=read_policy(server / POLICY)
    )
    return {branch.name: branch.head.hex() for branch in branches}


def seen(node: Path) -> bytes:
    """What the clients and members of a node have answered: by run id, the newest round. Nothing in it is secret.

    Args:
        node: the directory; the node is stopped.

    Returns:
        the content of a file for :class:`Evidence`.

    Raises:
        RecordError: a record cannot be read.
    """
    newest: dict[str, int] = {}
    for pattern, query in _RECORDS.items():
        for path in sorted(node.glob(pattern)):
            try:
                with contextlib.closing(
                    sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=0.0)
                ) as connection:
                    for run_id, number in connection.execute(query):
                        newest[run_id.hex()] = max(newest.get(run_id.hex(), -1), number)
            except sqlite3.Error as error:
                raise RecordError(f"{path} cannot be read ({error}); stop the node first") from error
    return json.dumps({"format": _SEEN, "newest": newest}, indent=1).encode()


def restore(backup: Path, out: Path, *, evidence: Evidence) -> Manifest:
    """Make a server's directory again from a copy, if nobody has seen anything newer.

    Formal guarantees:
        The directory appears whole, or not at all: files are those that were copied, the transcript verifies, the
        ledger agrees with it, and both have come at least as far as the evidence. So a budget that was spent up to what
        the evidence shows stays spent.
    Not guaranteed:
        Anything about rounds that the evidence does not show. Clients' own records count those in any case.

    Args:
        backup: that :func:`back_up` wrote.
        out: the server's directory; may have `keys.bin`, and nothing else.

    Raises:
        StaleBackup: others have seen something newer.
        ArgumentError: the directory has other things in it; evidence is of another federation.
        RecordError: the file is damaged, or no such copy, or of a newer version.
        TranscriptError, LedgerError: what is in it does not hold.
    """
    if out.exists() and any(path.name != KEYS for path in out.iterdir()):
        raise ArgumentError("--out", str(out), f"a folder with nothing but {KEYS}, or none")
    stage = out.with_name(f".{out.name}.restoring")
    shutil.rmtree(stage, ignore_errors=True)
    try:
        stage.mkdir(mode=0o700, parents=True)
        manifest = _unpack(backup, stage)
        _check_holds(stage)
        _check_not_stale(stage, evidence)
        if (out / KEYS).exists():
            shutil.copy2(out / KEYS, stage / KEYS)
            (out / KEYS).unlink()
        if out.exists():
            out.rmdir()
        stage.rename(out)
        sync_folder(out.parent)
    except OSError as error:
        raise RecordError(f"{out} cannot be made of {backup}: {error}") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return manifest


def _unpack(backup: Path, stage: Path) -> Manifest:
    try:
        with tarfile.open(backup, mode="r:") as packed:
            entry = packed.extractfile(_MANIFEST)
            values = json.loads(b"" if entry is None else entry.read())
            if values.pop("format") != _FORMAT:
                raise RecordError(f"{backup} is no copy that this software reads; it reads {_FORMAT!r}")
            manifest = Manifest(**values)
            for name, digest in manifest.files.items():
                _extract(packed, name, digest, stage)
    except (tarfile.TarError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordError(f"{backup} is damaged, or no copy of a server's directory: {error}") from error
    return manifest


def _extract(packed: tarfile.TarFile, name: str, digest: str, stage: Path) -> None:
    place = PurePosixPath(name)
    patterns = [pattern.split("/") for pattern in (*_KEPT, *_SQLITE, KEYS)]
    known = any(
        len(pattern) == len(place.parts) and all(map(fnmatch.fnmatchcase, place.parts, pattern)) for pattern in patterns
    )
    if not known or ".." in place.parts:
        raise RecordError(f"the copy has a file {name!r}, which no server's directory has")
    entry = packed.extractfile(name)
    if entry is None:
        raise RecordError(f"the copy lacks {name}")
    target = stage / place
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "w+b") as file:
        shutil.copyfileobj(entry, file, 1 << 20)
        file.flush()
        os.fsync(file.fileno())
        file.seek(0)
        if hashlib.file_digest(file, "sha256").hexdigest() != digest:
            raise RecordError(f"{name} in the copy is damaged")


def _check_holds(stage: Path) -> None:
    roster, policy = read_roster(stage / ROSTER), read_policy(stage / POLICY)
    policy.check_roster(roster)
    if read_founding(stage / FOUNDING).roster_digest != roster.digest:
        raise RecordError("the files of the copy are of different federations")
    with PrivacyLedger.open(stage / LEDGER) as ledger:
        if (stage / TRANSCRIPT).exists():
            branches = verify_transcript(stage / TRANSCRIPT, roster=roster, policy=policy)
            verify_against_ledger(branches, ledger)


def _check_not_stale(stage: Path, evidence: Evidence) -> None:
    own = {link for path in (stage / TRANSCRIPT, *stage.glob(f"epochs/*/{TRANSCRIPT}")) for link in _links(path)}
    for path in evidence.transcripts:
        if not path.is_file():
            raise ArgumentError("--transcript", str(path), "a transcript.jsonl that others have kept")
        missing = [link for link in _links(path) if link not in own]
        if missing:
            raise StaleBackup(
                f"{path} has {len(missing)} releases that the copy does not have: it is older, or of another "
                "federation. Look for a newer copy; what was released since has been paid for"
            )
    for head in evidence.heads:
        if head not in own and head != bytes(32):
            raise StaleBackup(f"the copy has no release {head.hex()}: it is older, or of another federation")
    if evidence.seen:
        _check_seen(stage, evidence.seen)


def _check_seen(stage: Path, files: Collection[Path]) -> None:
    """Every run that a node knows has to be known to the copy, and as far as the node has come."""
    with PrivacyLedger.open(stage / LEDGER) as ledger:
        reserved = {
            branch: max((event.round_number for event in ledger.events(branch)), default=-1)
            for branch in ledger.branches
        }
    by_run = {
        run_id_of(key, branch, order).hex(): branch
        for key in (read_founding(path).run_key for path in (stage / FOUNDING, *stage.glob(f"epochs/*/{FOUNDING}")))
        for branch in reserved
        for order in {b"", kept_orders(stage, branch).get(key, b"")}
    }
    for path in files:
        try:
            values = json.loads(path.read_bytes())
            if values["format"] != _SEEN:
                raise ValueError(f"it is of format {values['format']!r}")
            newest = {str(run): int(number) for run, number in values["newest"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArgumentError("--seen", str(path), f"a file that `secure-fu seen` wrote ({error})") from None
        for run, number in newest.items():
            if run not in by_run:
                raise StaleBackup(
                    f"{path} knows the run {run}, and the copy does not: it is of before that run, or of another "
                    "federation. Look for a newer copy"
                )
            if number > reserved[by_run[run]]:
                raise StaleBackup(
                    f"{path} has answered round {number} of branch {by_run[run]!r}, and the copy knows of none after "
                    f"{reserved[by_run[run]]}: it is older. Look for a newer copy"
                )


def _links(path: Path) -> list[bytes]:
    try:
        lines = path.read_bytes().splitlines() if path.exists() else []
        return [bytes.fromhex(json.loads(line)["hash"]) for line in lines]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise TranscriptError(f"{path} is no transcript: {error}") from error
