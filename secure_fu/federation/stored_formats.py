"""Stored formats by version: what this software writes, what it can still read, and how an older one becomes today's.

One registry, :data:`FORMATS`. :func:`upgrade` is called before a directory is opened; it changes files one by one, each
in one step, so that a kill leaves some of them new and some old, and the next call goes on. There is no way back: keep
a copy (`secure-fu backup`) until the new software has run.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import re
import sqlite3
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from secure_fu.errors import CheckpointError, RecordError
from secure_fu.file_names import CERTIFICATES, FOUNDING, KEYS, LEDGER, MAIN_LINE, NEXT_KEYS, QUEUE, ROSTER, TRANSCRIPT
from secure_fu.privacy import PrivacyLedger
from secure_fu.protocol.files import write_whole
from secure_fu.training.checkpoints import read_state

__all__ = ["FORMATS", "NewerFormat", "Stored", "StoredFormat", "founding_1_to_2", "stored", "upgrade"]

_LARGEST_HEADER: Final = 1 << 24


Upgrade = Callable[[Path, PrivacyLedger | None], None]


class NewerFormat(RecordError):
    """A file was written by a newer version of this software; the message names both versions."""


@dataclass(frozen=True, kw_only=True)
class StoredFormat:
    """One kind of file.

    Attributes:
        name: in messages.
        patterns: where such files are, in the directory of a server or a node.
        version: that this software writes.
        version_of: what version a file is of; None where it does not say, and whoever opens it has to tell.
        upgrades: for each older version that can be read, what turns it into the next, in one step on disk; it is given
            the directory's ledger too.
    """

    name: str
    patterns: tuple[str, ...]
    version: int
    version_of: Callable[[Path], int | None]
    upgrades: Mapping[int, Upgrade] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Stored:
    """One file, and what it is.

    Attributes:
        path: of the file.
        format: of it.
        version: that it is of; None if it does not say.
    """

    path: Path
    format: StoredFormat
    version: int | None


def stored(directory: Path) -> Iterator[Stored]:
    """The files of a directory that have a format. It locks nothing, and ends no lock of this process."""
    for known in FORMATS:
        for pattern in known.patterns:
            for path in sorted(directory.glob(pattern)):
                yield Stored(path=path, format=known, version=known.version_of(path))


def upgrade(directory: Path) -> tuple[Stored, ...]:
    """Bring the files of a server's or a node's directory to the versions that this software reads.

    Formal guarantees:
        Nothing is changed where one file is of a newer version than this software knows, or of an older one that it
        cannot read. What is changed is whole or as it was. Spent budgets, promises and what is to be destroyed stay.

    Args:
        directory: that no process has open; a server's is locked meanwhile.

    Returns:
        the files that were changed, as they were.

    Raises:
        NewerFormat: a file is of a newer version.
        RecordError: a file is of an older version that cannot be read any more, or damaged, or cannot be written.
        LedgerError: another process has the server's directory.
    """
    old: list[Stored] = []
    for found in stored(directory):
        latest = found.format.version
        if found.version is None or found.version == latest:
            continue
        if found.version > latest:
            raise NewerFormat(
                f"{found.path} is of version {found.version} of the format {found.format.name!r}; this software, "
                f"secure_fu {version('secure-fu')}, knows it up to version {latest}: use the one that wrote it, or a "
                "newer one"
            )
        missing = [number for number in range(found.version, latest) if number not in found.format.upgrades]
        if missing:
            raise RecordError(
                f"{found.path} is of version {found.version} of the format {found.format.name!r}, which secure_fu "
                f"{version('secure-fu')} cannot read; it knows versions {_known(found.format)}"
            )
        old.append(found)
    if not old:
        return ()
    with ExitStack() as locked:
        ledger = directory / LEDGER
        opened = locked.enter_context(PrivacyLedger.open(ledger)) if ledger.exists() else None
        for found in old:
            for number in range(found.version or 0, found.format.version):
                found.format.upgrades[number](found.path, opened)
    return tuple(old)


def _known(known: StoredFormat) -> str:
    return ", ".join(str(number) for number in sorted({*known.upgrades, known.version}))


# What a file says of itself


def _of_json(name: str, key: str = "format") -> Callable[[Path], int | None]:
    """A JSON object with `"format": "secure-fu/NAME/VERSION"`."""

    def version_of(path: Path) -> int | None:
        try:
            return _number(name, json.loads(path.read_bytes())[key])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    return version_of


def _of_safetensors(name: str) -> Callable[[Path], int | None]:
    """The same among a safetensors file's metadata."""

    def version_of(path: Path) -> int | None:
        try:
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                if length > _LARGEST_HEADER:
                    return None
                return _number(name, json.loads(file.read(length))["__metadata__"]["format"])
        except (OSError, struct.error, ValueError, KeyError, TypeError, RecursionError):
            return None

    return version_of


def _number(name: str, text: object) -> int | None:
    said, _, number = str(text).rpartition("/")
    return int(number) if said == f"secure-fu/{name}" and number.isdecimal() else None


def _of_sqlite(application: bytes, kind: int | None = None) -> Callable[[Path], int | None]:
    """Kinds of record are kept where other files keep their version; they have had one version so far."""

    def version_of(path: Path) -> int | None:
        # By SQLite itself, and as a file that nobody changes: an own descriptor on it would end, when it is closed, the
        # locks that another connection of this process has (POSIX).
        try:
            with closing(sqlite3.connect(f"{path.resolve().as_uri()}?immutable=1", uri=True)) as connection:
                ((found,),) = connection.execute("PRAGMA application_id").fetchall()
                ((number,),) = connection.execute("PRAGMA user_version").fetchall()
        except sqlite3.Error:
            return None
        if found != int.from_bytes(application, "big"):
            return None
        return int(number) if kind is None else (1 if number == kind else None)

    return version_of


def _of_wire(skip: int = 0) -> Callable[[Path], int | None]:
    """The version byte of a message of this package's wire format."""

    def version_of(path: Path) -> int | None:
        try:
            with path.open("rb") as file:
                return _wire_version(file.read(skip + 4)[skip:])
        except OSError:
            return None

    return version_of


def _wire_version(head: bytes) -> int | None:
    return head[3] if len(head) == 4 and head.startswith(b"SFU") else None


def _of_transcript(path: Path) -> int | None:
    """The version of the release in its first line."""
    try:
        with path.open("rb") as file:
            return _wire_version(base64.b64decode(json.loads(file.readline())["release"][:8])[:4])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


# Upgrades


def _main_line_1_to_2(path: Path, ledger: PrivacyLedger | None) -> None:
    """Version 2 says which rounds clients have to forget, so that a wiping which a kill has ended is done again.

    Version 1 did not: its process destroyed them right after writing the file, and where it was killed in between,
    nobody knew. So all that is not of the main line's present branch and may have known what was forgotten is named.
    The very first files of version 1 did not say either whether a request was chosen late; it may have been.
    """
    try:
        read: dict[str, Any] = json.loads(path.read_bytes())
        line: dict[str, Any] = read["line"]
        if read["sha256"] != _hash(line):
            raise ValueError("it is not what was written")
        for one in line["executed"]:
            one.setdefault("chosen_late", True)
        last = line["executed"][-1]
        _, lineage = read_state(path.parent / line["state"])
        if last["guarantee"]["type"] == "CertifiedModel" or len(lineage) < 2:
            line["remembered"] = -1  # not even the state that the method started from may be remembered
        else:
            line["remembered"] = lineage[-2][1]
        if ledger is None:
            raise ValueError(f"there is no {LEDGER} beside it")
        line["until"] = min(event.round_number for event in ledger.events(last["branch"])) - 1
        content = {"format": "secure-fu/main-line/2", "sha256": _hash(line), "line": line}
        write_whole(path, json.dumps(content, indent=1).encode())
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError, CheckpointError) as error:
        raise RecordError(f"{path} cannot be brought to version 2: {error}; it is as it was") from error


_CLASSES_1: Final[Mapping[str, str]] = {
    "Ascent": "ascent",
    "Correction": "correction",
    "Eraser": "eraser",
    "FineTune": "finetune",
    "Fisher": "fisher",
    "Negation": "negation",
    "Newton": "newton",
    "Retrain": "retrain",
    "Rollback": "rollback",
    "Scratch": "scratch",
    "Scrub": "scrub",
}
_ENUM_1: Final = re.compile(r"<\w+\.\w+: ('[^']*')>")


def founding_1_to_2(founding: dict[str, Any]) -> dict[str, Any]:
    """What a file of version 1 says, as version 2 does: methods as JSON, by name, and no longer as Python prints them.

    Raises:
        ValueError, KeyError, TypeError: it says something else, or names a class that was not of the package.
    """
    facts = dict(founding["facts"])
    if "methods" in facts:
        said = [_method_of_1(text) for text in facts["methods"].split("; ") if text]
        texts = sorted(json.dumps(one, sort_keys=True, separators=(",", ":"), allow_nan=False) for one in said)
        facts["methods"] = f"[{','.join(texts)}]"
    return {**founding, "facts": facts}


def _method_of_1(text: str) -> tuple[str, dict[str, object]]:
    try:
        call = ast.parse(_ENUM_1.sub(r"\1", text), mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"{text!r} is no method with settings") from error
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
        raise ValueError(f"{text!r} is no method with settings")
    if call.func.id not in _CLASSES_1:
        raise ValueError(f"{text!r} is no method of the package; the version that wrote it can go on")
    settings: dict[str, object] = {}
    for item in call.keywords:
        infinite = isinstance(item.value, ast.Name) and item.value.id == "inf"
        settings[str(item.arg)] = "inf" if infinite else ast.literal_eval(item.value)
    return _CLASSES_1[call.func.id], settings


def _federation_1_to_2(path: Path, ledger: PrivacyLedger | None) -> None:
    """Version 2 names methods and settings in JSON: version 1 could be read by the same classes alone."""
    try:
        read: dict[str, Any] = json.loads(path.read_bytes())
        if read["sha256"] != _hash(read["founding"]):
            raise ValueError("it is not what was written")
        values = founding_1_to_2(read["founding"])
        content = {"format": "secure-fu/federation/2", "sha256": _hash(values), "founding": values}
        write_whole(path, json.dumps(content, indent=1, ensure_ascii=False).encode())
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RecordError(f"{path} cannot be brought to version 2: {error}; it is as it was") from error


def _hash(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


_RECORD: Final = b"SFUR"
FORMATS: Final[tuple[StoredFormat, ...]] = (
    StoredFormat(
        name="main-line",
        patterns=(MAIN_LINE,),
        version=2,
        version_of=_of_json("main-line"),
        upgrades={1: _main_line_1_to_2},
    ),
    StoredFormat(
        name="federation",
        patterns=(FOUNDING, f"epochs/*/{FOUNDING}"),
        version=2,
        version_of=_of_json("federation"),
        upgrades={1: _federation_1_to_2},
    ),
    StoredFormat(
        name="checkpoint",
        patterns=("checkpoints/rounds-*.safetensors", "main_line-*.safetensors"),
        version=1,
        version_of=_of_safetensors("checkpoint"),
    ),
    StoredFormat(
        name="history",
        patterns=("histories/*/round-*.safetensors", "histories/clients/*/round-*.safetensors"),
        version=1,
        version_of=_of_safetensors("history"),
    ),
    StoredFormat(name="ledger", patterns=(LEDGER,), version=1, version_of=_of_sqlite(b"SFUL")),
    StoredFormat(name="queue", patterns=(QUEUE,), version=1, version_of=_of_sqlite(b"SFUQ")),
    StoredFormat(
        name="client-record",
        patterns=("client-*.sqlite", "clients/*.sqlite"),
        version=1,
        version_of=_of_sqlite(_RECORD, kind=1),
    ),
    StoredFormat(
        name="member-record",
        patterns=("member-*.sqlite", "committee.sqlite"),
        version=1,
        version_of=_of_sqlite(_RECORD, kind=2),
    ),
    StoredFormat(
        name="opening-record",
        patterns=("key-holder.sqlite", "key_holder.sqlite"),
        version=1,
        version_of=_of_sqlite(_RECORD, kind=3),
    ),
    StoredFormat(name="node-state", patterns=("state-*.json",), version=1, version_of=_of_json("node-state")),
    StoredFormat(
        name="private-request", patterns=("requests/*.json",), version=1, version_of=_of_json("private-request")
    ),
    StoredFormat(
        name="certificate",
        patterns=(f"{CERTIFICATES}/*.json",),
        version=1,
        version_of=_of_json("certificate", key="schema"),
    ),
    StoredFormat(
        name="wire messages in a transcript",
        patterns=(TRANSCRIPT, f"epochs/*/{TRANSCRIPT}"),
        version=1,
        version_of=_of_transcript,
    ),
    StoredFormat(
        name="wire messages in a roster",
        patterns=(ROSTER, f"epochs/*/{ROSTER}"),
        version=1,
        version_of=_of_wire(),
    ),
    StoredFormat(
        name="wire messages in keys",
        patterns=(KEYS, NEXT_KEYS, "identities.bin"),
        version=1,
        version_of=_of_wire(skip=32),
    ),
)
"""Every file that a server or a node keeps and has to understand later. Patterns name those of simulations too."""
