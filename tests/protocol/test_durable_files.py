"""Records of members, clients and key-holders as files: modes, locks, and everything that is not such a record."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from committee_machines import make_committee_machines
from killed_parties import MEMBER, RUN, bound_to

from secure_fu.errors import RecordError
from secure_fu.privacy import PrivacyLedger
from secure_fu.protocol import ClientRecord, MemberRecord, OpeningRecord
from secure_fu.protocol.client_record import _checksum
from secure_fu.protocol.durable import DurableFile

Record = Callable[..., Any]
RECORDS: list[Record] = [MemberRecord, ClientRecord, OpeningRecord]


def test_what_is_written_is_synced_and_belongs_to_its_owner_alone(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        record = MemberRecord(tmp_path / "committee.sqlite", new=True)
        record.bind(MEMBER, RUN, bound_to(0))
        client = ClientRecord(tmp_path / "client.sqlite", new=True)
        client.fork(tmp_path / "fork.sqlite").close()
        files = sorted(path for path in tmp_path.iterdir())
        assert {path.name for path in files} >= {"committee.sqlite", "client.sqlite", "fork.sqlite"}
        assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    finally:
        os.umask(umask)
    asked = {
        name: record._file.read(f"PRAGMA {name}")[0][0] for name in ("synchronous", "journal_mode", "locking_mode")
    }
    assert asked == {"synchronous": 3, "journal_mode": "delete", "locking_mode": "exclusive"}
    record.close()
    client.close()


def test_a_second_try_in_the_same_process_is_refused(tmp_path: Path) -> None:
    record = MemberRecord(tmp_path / "committee.sqlite", new=True)
    with pytest.raises(RecordError, match=r"committee\.sqlite is open in another process"):
        MemberRecord(tmp_path / "committee.sqlite")
    record.bind(MEMBER, RUN, bound_to(0))
    record.close()


def foreign(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE vote (member TEXT)")
    connection.commit()
    connection.close()


def overwritten(start: int, length: int) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[start : start + length] = b"\xa5" * len(content[start : start + length])
        path.write_bytes(content)

    return damage


DAMAGES: dict[str, Callable[[Path], object]] = {
    "junk": lambda path: path.write_bytes(os.urandom(5000)),
    "text": lambda path: path.write_text("a record\n"),
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(8192)),
    "magic": overwritten(0, 16),
    "header": overwritten(16, 60),
    "schema": overwritten(100, 3996),
    "rows": overwritten(4096, 200),
    "a count that only a check of the whole file finds": overwritten(4096 + 7, 1),
    "foreign": lambda path: (path.unlink(), foreign(path)),
    "other kind": lambda path: (
        path.unlink(),
        DurableFile(path, new=True, kind=99, schema=["CREATE TABLE a (b)"]).close(),
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("record", RECORDS)
def test_a_file_that_is_not_the_record_is_refused_by_name_and_left_as_it_is(
    tmp_path: Path, record: Record, damage: str
) -> None:
    path = tmp_path / "record.sqlite"
    record(path, new=True).close()
    record(path).close()
    DAMAGES[damage](path)
    before = path.read_bytes()
    for _ in range(2):
        with pytest.raises(RecordError, match=r"record\.sqlite"):
            record(path)
        assert path.read_bytes() == before


def test_what_the_disk_changes_of_a_vote_is_found_when_the_file_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "committee.sqlite"
    record = MemberRecord(path, new=True)
    for member in (MEMBER, "member-01"):
        record.bind(member, RUN, bound_to(5))
    record.close()
    content = path.read_bytes()
    found = unnoticed = 0
    for position in range(4096 - 64, len(content), 7):
        path.write_bytes(content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :])
        try:
            record = MemberRecord(path)
        except RecordError:
            found += 1
        else:  # a byte that nothing stands in
            assert [record.newest(member, RUN) for member in (MEMBER, "member-01")] == [bound_to(5)] * 2
            record.close()
            unnoticed += 1
    assert found > 5 * 150
    assert unnoticed


@pytest.mark.parametrize("record", RECORDS)
def test_a_truncated_record_never_becomes_a_new_one(tmp_path: Path, record: Record) -> None:
    whole = tmp_path / "whole.sqlite"
    record(whole, new=True).close()
    content = whole.read_bytes()
    path = tmp_path / "record.sqlite"
    for cut in {0, 1, 16, 99, 100, *range(512, len(content), 512), len(content) - 1}:
        path.write_bytes(content[:cut])
        with pytest.raises(RecordError, match=r"record\.sqlite"):
            record(path)
        assert len(path.read_bytes()) == cut


def test_an_empty_file_is_not_taken_for_a_new_record(tmp_path: Path) -> None:
    """It may be all that is left of one."""
    path = tmp_path / "committee.sqlite"
    path.touch()
    with pytest.raises(
        RecordError, match=r"committee\.sqlite is empty; delete it if it was never used, else .* new keys"
    ):
        MemberRecord(path)
    path.unlink()
    MemberRecord(path, new=True).close()


@pytest.mark.parametrize("record", RECORDS)
def test_a_record_that_is_gone_is_not_made_anew_unasked(tmp_path: Path, record: Record) -> None:
    """It would vote, answer or spend a second time."""
    path = tmp_path / "record.sqlite"
    record(path, new=True).close()
    with pytest.raises(RecordError, match=r"record\.sqlite exists"):
        record(path, new=True)
    path.unlink()
    with pytest.raises(RecordError, match=r"record\.sqlite does not exist; whoever lost a record needs new keys"):
        record(path)
    assert not path.exists()


def test_a_ledger_is_no_record_and_stays_a_ledger(tmp_path: Path) -> None:
    make_committee_machines(tmp_path).close()
    (ledger,) = tmp_path.glob("ledger-*.sqlite")
    before = ledger.read_bytes()
    for record in RECORDS:
        with pytest.raises(RecordError, match="another kind of file"):
            record(ledger)
    assert ledger.read_bytes() == before
    PrivacyLedger.open(ledger).close()


@pytest.mark.parametrize("record", RECORDS)
def test_a_file_that_cannot_be_written_is_refused(
    tmp_path: Path, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "record.sqlite"
    record(path, new=True).close()
    connect = sqlite3.connect
    with monkeypatch.context() as patched:
        # File modes would not stop a test that runs as root.
        patched.setattr(os, "access", lambda _path, mode: not mode & os.W_OK)
        with pytest.raises(RecordError, match=r"record\.sqlite .* may not be read and written"):
            record(path)
    with monkeypatch.context() as patched:
        # What SQLite falls back to where it may only read.
        patched.setattr(sqlite3, "connect", lambda name, **rest: connect(f"file:{name}?mode=ro", uri=True, **rest))
        with pytest.raises(RecordError, match=r"record\.sqlite"):
            record(path)
    for absent in (tmp_path, tmp_path / "no" / "folder.sqlite", path / "below.sqlite"):
        with pytest.raises(RecordError, match=absent.name):
            record(absent)


@pytest.mark.parametrize(
    "row",
    [
        ("c", RUN, 0, bytes(32), "training", "not JSON"),
        ("c", RUN, 0, bytes(32), "training", "[]"),
        ("c", RUN, 0, bytes(32), "training", '{"retained": 5}'),
        ("c", RUN, 0, bytes(32), "training", '{"nobody": {}}'),
        ("c", RUN, 0, bytes(32), "training", '{"retained": {"noise_multiplier": -1}}'),
        ("c", RUN, 0, bytes(32), "training", "[" * 100_000),
        ("c", RUN, 0, bytes(32), "resting", "{}"),
    ],
)
def test_rows_that_make_no_sense_are_refused(tmp_path: Path, row: tuple[object, ...]) -> None:
    path = tmp_path / "client.sqlite"
    record = ClientRecord(path, new=True)
    checksum = _checksum(*row)  # type: ignore[arg-type]
    record._file.write("INSERT INTO round VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, checksum))  # type: ignore[arg-type]
    record.close()
    with pytest.raises(RecordError, match=r"client\.sqlite cannot be used as a client's record"):
        ClientRecord(path)
