"""The key-holder's record as a file: one process at a time, on disk, and refused when it is anything else."""

from __future__ import annotations

import sqlite3
import subprocess
import sys

import pytest

from secure_fu.errors import ProtocolError, RecordError
from secure_fu.protocol import ClientRecord, OpeningRecord

OPEN = "import pathlib, sys; from secure_fu.protocol import OpeningRecord; OpeningRecord(pathlib.Path(sys.argv[1]))"


def assert_another_process_is_kept_out(path):
    process = subprocess.run([sys.executable, "-c", OPEN, path], capture_output=True, text=True)
    assert process.returncode != 0
    assert "record.sqlite is open in another process" in process.stderr


def test_one_process_at_a_time_has_a_record_and_the_next_one_goes_on_from_it(tmp_path):
    path = tmp_path / "record.sqlite"
    one = OpeningRecord(path, new=True)
    run = bytes(16)
    one.begin(run, 3, b"a" * 32)
    assert_another_process_is_kept_out(path)
    one.choose(run, 3, b"r" * 32)
    one.close()
    other = OpeningRecord(path)
    for number in (2, 3):
        with pytest.raises(ProtocolError, match=f"round_number is {number}"):
            other.begin(run, number, b"b" * 32)
    with pytest.raises(ProtocolError, match="a roll of round 3 was opened"):
        other.choose(run, 3, b"s" * 32)
    other.begin(run, 4, b"c" * 32)
    with pytest.raises(ProtocolError, match="a roll of round 3"):
        other.choose(run, 3, b"t" * 32)
    other.close()


def test_a_second_opening_in_this_process_is_refused_and_lets_no_other_process_in(tmp_path):
    path = tmp_path / "record.sqlite"
    one = OpeningRecord(path, new=True)
    with pytest.raises(RecordError, match=r"record\.sqlite is open in another process"):
        OpeningRecord(path)
    assert_another_process_is_kept_out(path)
    one.close()
    OpeningRecord(path).close()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [(b"", "is empty"), (b"not a database, but long enough to be looked at" * 40, "cannot be used")],
)
def test_a_record_that_cannot_be_used_says_so_and_stays_as_it_is(tmp_path, damage, reason):
    path = tmp_path / "record.sqlite"
    path.write_bytes(damage)
    with pytest.raises(RecordError, match=rf"record\.sqlite {reason}"):
        OpeningRecord(path)
    assert path.read_bytes() == damage


def test_a_record_of_another_kind_or_in_no_folder_says_so(tmp_path):
    with pytest.raises(RecordError, match="cannot be used"):
        OpeningRecord(tmp_path / "nowhere" / "record.sqlite", new=True)
    path = tmp_path / "other.sqlite"
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE rounds (something TEXT)")
    database.commit()
    database.close()
    clients = tmp_path / "clients.sqlite"
    ClientRecord(clients, new=True).close()
    for other in (path, clients):
        before = other.read_bytes()
        with pytest.raises(RecordError, match=f"{other.name} is another kind of file"):
            OpeningRecord(other)
        assert other.read_bytes() == before
    ClientRecord(clients).close()
