"""What survives kills, and which files are refused."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from secure_fu.errors import LedgerError
from secure_fu.privacy.accounting import GaussianSumEvent, renyi_epsilon
from secure_fu.privacy.budget import Budget
from secure_fu.privacy.epsilon import Phase, Subject
from secure_fu.privacy.ledger import PrivacyLedger
from secure_fu.privacy.units import Unit

BUDGET = Budget(epsilon=8.0, delta=1e-5, order=4.0, deletion_reserve=0.25, unit=Unit.RECORD)
EVENT = GaussianSumEvent(noise_multiplier=3.0, sampling_rate=0.25, grid_ratio=15_000.0, dimension=2410, shares=8)

# Reserves and commits round 0, reserves round 1, says so, and waits to be killed.
SERVER = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from secure_fu.privacy.accounting import GaussianSumEvent
    from secure_fu.privacy.budget import Budget
    from secure_fu.privacy.epsilon import Phase, Subject
    from secure_fu.privacy.ledger import PrivacyLedger
    from secure_fu.privacy.units import Unit

    budget = Budget(epsilon=8.0, delta=1e-5, order=4.0, deletion_reserve=0.25, unit=Unit.RECORD)
    event = GaussianSumEvent(
        noise_multiplier=3.0, sampling_rate=0.25, grid_ratio=15_000.0, dimension=2410, shares=8
    )
    ledger = PrivacyLedger.create(Path(sys.argv[1]), budget=budget)
    ledger.branch("original")
    for number in (0, 1):
        reservation = ledger.reserve(
            "original",
            round_number=number,
            purpose="train",
            phase=Phase.TRAINING,
            charges=dict.fromkeys(Subject, event),
            cohort=["a", "b", "c"],
        )
        if number == 0:
            ledger.commit(reservation, ["a", "b"])
    print("reserved", flush=True)
    time.sleep(60)
    """
)


@contextlib.contextmanager
def server(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A server that has reserved round 1 and hangs."""
    with subprocess.Popen([sys.executable, "-c", SERVER, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "reserved\n"
        yield process
        process.kill()


@pytest.fixture(scope="module")
def wreck(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a server left when it was killed between reserve and commit."""
    folder = tmp_path_factory.mktemp("wreck")
    with server(folder / "ledger.sqlite") as process:
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    return folder


def rounds_of(ledger: PrivacyLedger) -> list[int]:
    return [ledger.event_counts("original", client, Subject.FORGOTTEN, Phase.BOTH).total() for client in "abc"]


@pytest.mark.parametrize("ending", ["left open", "committed", "void"])
def test_a_kill_between_reserve_and_commit_counts_as_spent(wreck, path, ending):
    shutil.copytree(wreck, path.parent, dirs_exist_ok=True)
    with PrivacyLedger.open(path) as ledger:
        assert rounds_of(ledger) == [2, 2, 1]
        spent = ledger.epsilon("original", "a", Subject.RETAINED, Phase.TRAINING)
        assert spent == renyi_epsilon({EVENT: 2}, delta=1e-5)
        (pending,) = ledger.pending()
        assert (pending.round_number, pending.cohort) == (1, ("a", "b", "c"))
        with pytest.raises(LedgerError, match="out of order"):
            ledger.reserve(
                "original",
                round_number=1,
                purpose="train",
                phase=Phase.TRAINING,
                charges=dict.fromkeys(Subject, EVENT),
                cohort=["a"],
            )
        if ending == "committed":
            ledger.commit(pending, ["c"])
        elif ending == "void":
            ledger.void(pending, reason="the key-holder signed that it never opened round 1")
        after = {"left open": [2, 2, 1], "committed": [1, 1, 1], "void": [1, 1, 0]}[ending]
        assert rounds_of(ledger) == after
    with PrivacyLedger.open(path) as ledger:
        assert rounds_of(ledger) == after
        assert len(ledger.pending()) == (ending == "left open")


def test_a_second_server_is_refused_until_the_first_is_gone(path):
    with server(path) as process:
        for read_only in (False, True):
            with pytest.raises(LedgerError, match="another process"):
                PrivacyLedger.open(path, read_only=read_only)
        process.send_signal(signal.SIGKILL)
        process.wait()
    with PrivacyLedger.open(path), pytest.raises(LedgerError, match="another process"):
        PrivacyLedger.open(path)


def make(path: Path) -> None:
    with PrivacyLedger.create(path, budget=BUDGET) as ledger:
        ledger.branch("original")
        for number in range(40):
            reservation = ledger.reserve(
                "original",
                round_number=number,
                purpose="train",
                phase=Phase.TRAINING,
                charges=dict.fromkeys(Subject, EVENT),
                cohort=["a", "b", "c"],
            )
            ledger.commit(reservation, ["a", "b", "c"])


def test_a_clean_close_leaves_one_file_that_can_be_read_where_nothing_can_be_written(path):
    make(path)
    assert [file.name for file in path.parent.iterdir()] == ["ledger.sqlite"]
    path.chmod(0o444)
    path.parent.chmod(0o555)
    try:
        with PrivacyLedger.open(path, read_only=True) as first, PrivacyLedger.open(path, read_only=True) as second:
            assert rounds_of(first) == rounds_of(second) == [40, 40, 40]
            with pytest.raises(LedgerError):
                first.branch("new")
        assert [file.name for file in path.parent.iterdir()] == ["ledger.sqlite"]
    finally:
        path.parent.chmod(0o755)


def test_commits_wait_for_the_disk(path):
    with PrivacyLedger.create(path, budget=BUDGET) as ledger:
        ask = ledger._file._connection.execute
        assert ask("PRAGMA synchronous").fetchone() == (2,)
        assert ask("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_closed_ledger_says_so(path):
    ledger = PrivacyLedger.create(path, budget=BUDGET)
    ledger.close()
    ledger.close()
    with pytest.raises(LedgerError, match="closed"):
        ledger.branch("original")


def test_paths(path, tmp_path):
    with pytest.raises(LedgerError, match="not a file"):
        PrivacyLedger.open(path)
    with pytest.raises(LedgerError, match="not a file"):
        PrivacyLedger.open(tmp_path)
    make(path)
    with pytest.raises(LedgerError, match="exists"):
        PrivacyLedger.create(path, budget=BUDGET)
    with pytest.raises(LedgerError, match="cannot be created"):
        PrivacyLedger.create(tmp_path / "no" / "such" / "folder", budget=BUDGET)
    strange = tmp_path / "a b?c#d%20.sqlite"
    make(strange)
    with PrivacyLedger.open(strange) as ledger:
        assert rounds_of(ledger) == [40, 40, 40]
        assert repr(ledger) == f"PrivacyLedger({str(strange)!r})"


def tamper(path: Path, *statements: str) -> None:
    with sqlite3.connect(path) as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "PRAGMA user_version = 2",
        "PRAGMA application_id = 7",
        "DELETE FROM budget",
        "DROP TABLE charge",
        "UPDATE budget SET epsilon = -1",
        "UPDATE budget SET unit = 'town'",
        "UPDATE charge SET noise_multiplier = 0",
        "UPDATE charge SET sampling_rate = 'often'",
        "UPDATE charge SET subject = 'nobody' WHERE subject = 'retained'",
        "UPDATE event SET cohort = '[1, 2]'",
        "UPDATE event SET participants = '[\"a\"'",
        "UPDATE event SET phase = 'lunch'",
        "UPDATE event SET branch = 'nowhere'",
        "UPDATE branch SET parent = 'original'",
        "DELETE FROM event WHERE id = 3",
    ],
)
def test_other_versions_and_rows_that_make_no_sense_are_refused(path, statement):
    make(path)
    tamper(path, statement)
    for read_only in (False, True):
        with pytest.raises(LedgerError):
            PrivacyLedger.open(path, read_only=read_only)
    # The refusal lets go of the file.
    tamper(path, "PRAGMA user_version = 3")


def test_a_lowered_charge_is_seen_in_the_figures(path):
    make(path)
    tamper(path, "UPDATE charge SET noise_multiplier = 3.03 WHERE event = 7")
    with PrivacyLedger.open(path) as ledger:
        spent = ledger.epsilon("original", "a", Subject.RETAINED, Phase.BOTH)
        assert spent < renyi_epsilon({EVENT: 40}, delta=1e-5)


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "overwritten"])
def test_damaged_files_are_refused(path, damage):
    make(path)
    content = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(
        {
            "empty": b"",
            "text": b"round,epsilon\n" * 500,
            "truncated": content[:half],
            "overwritten": content[:4096] + bytes(half - 4096) + content[half:],
        }[damage]
    )
    before = path.read_bytes()
    for read_only in (True, False):
        with pytest.raises(LedgerError):
            PrivacyLedger.open(path, read_only=read_only)
    assert damage in ("truncated", "overwritten") or path.read_bytes() == before


def test_a_young_ledger_copied_without_its_log_is_refused(wreck, path):
    assert (wreck / "ledger.sqlite-wal").exists()
    shutil.copy(wreck / "ledger.sqlite", path)
    with pytest.raises(LedgerError):
        PrivacyLedger.open(path)
