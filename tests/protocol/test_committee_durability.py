"""What members and clients have promised outlives them: kills at chosen and at random moments, and files gone wrong."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from committee_machines import announcement_in, make_committee_machines
from killed_parties import AFFORDABLE, CLIENT, KILLS, MEMBER, RUN, bound_to, budget_for

from secure_fu.crypto.wire import decode
from secure_fu.errors import PolicyRefusal, ProtocolError, RecordError
from secure_fu.protocol import ClientRecord, Header, MemberRecord


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What :mod:`killed_parties` saw; its processes are real ones, and so are their ends."""
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, str(here / "killed_parties.py"), str(tmp_path_factory.mktemp("killed"))],
        check=True,
        timeout=200,
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": f"{here}:{here.parents[1]}", "OMP_NUM_THREADS": "1", "PATH": ""},
    )
    return json.loads(done.stdout)


# Members that are killed


def test_a_member_never_gives_two_votes_or_two_answers_for_a_round(told: dict[str, Any]) -> None:
    assert len(told["members"]) == 20
    for moment, lives in told["members"].items():
        said = [tuple(line) for life in lives for line in life if ":" not in line[0]]
        for kind in ("vote", "answer"):
            assert len({line for line in said if line[0].startswith(kind)}) == 1, moment


def test_what_a_member_sent_before_it_was_killed_it_sends_again_byte_for_byte(told: dict[str, Any]) -> None:
    after = {moment: lives for moment, lives in told["members"].items() if moment.startswith(("after-v", "after-an"))}
    assert len(after) == 4
    for first, second in after.values():
        assert first
        assert [line for line in second if line in first] == first


def test_a_member_is_bound_from_its_record_on_and_not_before(told: dict[str, Any]) -> None:
    """Asked for the other roll first, it votes for that one exactly if nothing was on disk."""
    bound = {
        moment.removesuffix("/BA"): second[0][0] == "vote-B:ProtocolError"
        for moment, (_, second) in told["members"].items()
        if moment.endswith("/BA")
    }
    statement = [bound.pop(moment) for moment in list(bound) if moment.startswith("statement")]
    assert statement == sorted(statement)
    assert set(statement) == {False, True}
    assert bound == {
        "before-bind": False,
        "transaction": False,
        "after-bind": True,
        "after-vote": True,
        "after-answer": True,
    }


def test_at_whatever_moment_the_kill_comes_the_newest_vote_is_whole(told: dict[str, Any]) -> None:
    assert len(told["any"]) == KILLS
    for last_told, newest, whole in told["any"]:
        assert whole
        assert last_told <= newest <= last_told + 1
    assert told["any"][-1][1] > KILLS


def test_one_process_has_a_record_until_it_ends(told: dict[str, Any]) -> None:
    assert told["one"] == [["open:RecordError", ""], ["open", ""]]


# Clients that are killed


def test_a_killed_client_answers_no_round_twice_in_any_guise(told: dict[str, Any]) -> None:
    for moment, (_, second) in told["clients"].items():
        answers = [label.partition(":")[0] for label, _ in second if label.partition(":")[2] == ""]
        charged = moment not in ("before-accept", "transaction")
        assert ("same" in answers) is not charged, moment
        assert not {"header", "older"} & set(answers), moment
        refusals = {label for label, _ in second if label.startswith(("same", "header", "older"))} - {"same"}
        assert refusals == {"header:AnsweredLater", "older:AnsweredLater"} | (
            {"same:AnsweredLater"} if charged else set()
        )


def test_a_killed_client_remembers_what_the_round_cost(told: dict[str, Any]) -> None:
    """Its budget holds three rounds, whenever it was killed, and whatever the server calls its runs."""
    for moment, (_, second) in told["clients"].items():
        rounds = [int(content, 16) for label, content in second if label == "rounds"]
        assert rounds == [0 if moment in ("before-accept", "transaction") else 1, AFFORDABLE], moment
        new = [label for label, _ in second if label.startswith("new")]
        left = AFFORDABLE - max(1, rounds[0])  # where nothing was charged, "same" was the first
        assert new == ["new"] * left + ["new:PolicyRefusal"] * (len(new) - left), moment


def test_no_key_is_made_twice_and_none_for_a_round_that_was_begun_before_the_kill(told: dict[str, Any]) -> None:
    for moment, lives in told["clients"].items():
        keys = [[content for label, content in life if label == "key"] for life in lives]
        assert len({*keys[0], *keys[1]}) == len(keys[0]) + len(keys[1])
        assert len(keys[0]) == (moment in ("sealing", "encrypting", "begun", "finished", "sent")), moment
        answered = [label for label, _ in lives[1] if label in ("same", "new")]
        assert len(keys[1]) == len(answered)


def test_a_record_binds_a_member_to_one_roll_of_a_round_and_to_none_before_it(tmp_path: Path) -> None:
    record = MemberRecord(tmp_path / "committee.sqlite", new=True)
    record.bind(MEMBER, RUN, bound_to(1))
    for late in (bound_to(1), replace(bound_to(2), round_number=1), bound_to(0)):
        with pytest.raises(ProtocolError):
            record.bind(MEMBER, RUN, late)
        assert record.newest(MEMBER, RUN) == bound_to(1)
    record.bind(MEMBER, RUN, bound_to(2))
    record.close()


# Transactions


def test_a_transaction_that_is_rolled_back_leaves_nothing(tmp_path: Path) -> None:
    record = MemberRecord(tmp_path / "committee.sqlite", new=True)
    record.bind("member-01", RUN, bound_to(1))
    with contextlib.suppress(KeyboardInterrupt), record.together():
        record.bind(MEMBER, RUN, bound_to(1))
        record.bind("member-01", RUN, bound_to(2))
        raise KeyboardInterrupt
    assert record.newest(MEMBER, RUN) is None
    assert record.newest("member-01", RUN) == bound_to(1)
    record.bind(MEMBER, RUN, bound_to(0))  # and what comes after it does not wait for it to end
    record.close()
    again = MemberRecord(tmp_path / "committee.sqlite")
    assert again.newest(MEMBER, RUN) == bound_to(0)
    assert again.newest("member-01", RUN) == bound_to(1)
    again.close()


class FailingCommit:
    """A connection whose COMMIT fails, as on a full disk, with the transaction still open."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: str, *arguments: Any) -> sqlite3.Cursor:
        if statement == "COMMIT":
            raise sqlite3.OperationalError("database or disk is full")
        return self._connection.execute(statement, *arguments)


def test_a_commit_that_fails_leaves_no_transaction_that_later_votes_would_wait_in(tmp_path: Path) -> None:
    path = tmp_path / "committee.sqlite"
    record = MemberRecord(path, new=True)
    real = record._file._connection
    record._file._connection = FailingCommit(real)  # type: ignore[assignment]
    with pytest.raises(RecordError, match="disk is full"), record.together():
        record.bind(MEMBER, RUN, bound_to(3))
    record._file._connection = real
    assert not real.in_transaction
    assert record.newest(MEMBER, RUN) is None
    record.bind(MEMBER, RUN, bound_to(4))
    record.close()
    again = MemberRecord(path)
    assert again.newest(MEMBER, RUN) == bound_to(4)
    again.close()


def accepting(directory: Path, rounds: float) -> Callable[..., None]:
    """`accept(record, number, run)`, with a budget of so many rounds."""
    machines = make_committee_machines(directory)
    header = decode(Header, announcement_in(machines.invited(0)).header)
    machines.close()
    budget = budget_for(header, rounds)

    def accept(record: ClientRecord, number: int, *, run: bytes = RUN, client: str = CLIENT) -> None:
        record.accept(client, replace(header, round_number=number, run_id=run), bytes(32), budget=budget)

    return accept


@pytest.mark.parametrize("broken", ["INSERT", "COMMIT"])
def test_a_clients_memory_is_never_behind_its_file(tmp_path: Path, broken: str) -> None:
    """It may be ahead: a round that could not be written down is not answered, and counts until the next start."""
    accept = accepting(tmp_path, 2.5)
    record = ClientRecord(tmp_path / "client.sqlite", new=True)
    real = record._file._connection
    if broken == "COMMIT":
        record._file._connection = FailingCommit(real)  # type: ignore[assignment]
        with pytest.raises(RecordError), record.together():
            accept(record, 5)
        record._file._connection = real
    else:
        real.execute("PRAGMA query_only = ON")
        with pytest.raises(RecordError, match="readonly"):
            accept(record, 5)
        real.execute("PRAGMA query_only = OFF")
    assert record.rounds(CLIENT) == 0
    with pytest.raises(ProtocolError, match="after 5"):
        accept(record, 5)
    accept(record, 6)
    with pytest.raises(PolicyRefusal, match="ledger refuses"):
        accept(record, 7)
    record.close()
    again = ClientRecord(tmp_path / "client.sqlite")
    accept(again, 7)
    with pytest.raises(PolicyRefusal, match="ledger refuses"):
        accept(again, 8)
    again.close()


def test_an_interrupt_after_the_row_is_written_leaves_memory_no_less_than_the_file(tmp_path: Path) -> None:
    accept = accepting(tmp_path, 1.5)
    record = ClientRecord(tmp_path / "client.sqlite", new=True)
    write = record._file.write

    def interrupted(*arguments: Any) -> int:
        write(*arguments)
        raise KeyboardInterrupt

    record._file.write = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        accept(record, 0)
    record._file.write = write  # type: ignore[method-assign]
    assert record.rounds(CLIENT) == 1
    with pytest.raises(PolicyRefusal, match="ledger refuses"):
        accept(record, 1)
    record.close()


@pytest.mark.parametrize(("rounds", "fit"), [(3.0 + 1e-9, 3), (3.0 - 1e-9, 2)])
def test_the_record_refuses_exactly_beyond_the_budget(tmp_path: Path, rounds: float, fit: int) -> None:
    accept = accepting(tmp_path, rounds)
    record = ClientRecord(tmp_path / "client.sqlite", new=True)
    for number in range(fit):
        accept(record, number)
    for attempt in ({"number": fit}, {"number": 0, "run": bytes(16)}):
        with pytest.raises(PolicyRefusal, match=r"own ledger refuses: .*training, deletion_reserve kept, may go up to"):
            accept(record, **attempt)
    accept(record, 0, client="client-1")  # each client has its own budget
    assert record.rounds(CLIENT) == fit
    record.close()


def test_rounds_of_a_run_strictly_increase_and_runs_do_not_hinder_each_other(tmp_path: Path) -> None:
    accept = accepting(tmp_path, 6.5)
    path = tmp_path / "client.sqlite"
    record = ClientRecord(path, new=True)
    accept(record, 4)
    for number in (4, 3, 0):
        with pytest.raises(ProtocolError, match=f"round_number is {number}; expected one after 4"):
            accept(record, number)
    accept(record, 2, run=bytes(16))
    record.close()
    again = ClientRecord(path)
    with pytest.raises(ProtocolError, match="expected one after 4"):
        accept(again, 4)
    with pytest.raises(ProtocolError, match="expected one after 2"):
        accept(again, 2, run=bytes(16))
    accept(again, 5)
    assert again.rounds(CLIENT) == 3
    again.close()


def test_forks_know_what_was_spent_and_then_spend_apart(tmp_path: Path) -> None:
    accept = accepting(tmp_path, 3.5)
    record = ClientRecord(tmp_path / "trunk.sqlite", new=True)
    accept(record, 0)
    forks = [record.fork(tmp_path / f"fork-{number}.sqlite") for number in range(2)]
    for one in (record, *forks):
        with pytest.raises(ProtocolError, match="after 0"):
            accept(one, 0)
        for number in (1, 2):
            accept(one, number)
        with pytest.raises(PolicyRefusal, match="ledger refuses"):
            accept(one, 3)
        assert one.rounds(CLIENT) == 3
    with pytest.raises(RecordError, match="fork-0"):
        record.fork(tmp_path / "fork-0.sqlite")
    for one in (record, *forks):
        one.close()
    reopened = ClientRecord(tmp_path / "fork-0.sqlite")
    assert reopened.rounds(CLIENT) == 3
    reopened.close()
