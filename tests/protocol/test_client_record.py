"""A client's own record: restarts, kills and new run ids give a server no second answer and no unpaid round."""

from __future__ import annotations

import logging
import sqlite3
from dataclasses import replace

import numpy as np
import pytest
from machines import AMPLE, header_of

from secure_fu.errors import BudgetExceededError, PolicyRefusal, ProtocolError, RecordError
from secure_fu.privacy import Phase
from secure_fu.protocol import ClientRecord, OpeningRecord

# Of the rounds that these machines run, the first holds one and not two, the second holds two and not three.
FOR_ONE = replace(AMPLE, epsilon=3.5)
FOR_TWO = replace(AMPLE, epsilon=3.9)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "clients.sqlite"


def restarted(machines, path, name="client-0", **changes):
    """The client in a new process: the file is all that is left of the old one."""
    machines.client_record.close()
    machines.client_record = ClientRecord(path)
    return machines.client(name, **changes)


def test_a_client_that_restarts_answers_no_round_again_and_none_before_it(build, path):
    machines = build(client_record=path)
    older = machines.invited(2)
    machines.server.abort("test")
    answered = machines.invited(3)
    upload = machines.clients["client-0"].respond(answered)
    drawn, asked = len(machines.tape.streams), len(machines.tasks["client-0"].terms)
    for _ in range(2):
        client = restarted(machines, path)
        for invitation, number in ((answered, 3), (older, 2)):
            with pytest.raises(ProtocolError, match=f"round_number is {number}; expected one after 3"):
                client.respond(invitation)
    assert len(machines.tape.streams) == drawn, "nothing secret is drawn again"
    assert len(machines.tasks["client-0"].terms) == asked
    machines.server.receive(upload)
    machines.server.abort("test")
    newer = machines.invited(4)
    machines.server.receive(client.respond(newer))
    assert machines.client_record.rounds("client-0") == 2


def test_a_client_that_is_killed_while_it_computes_has_paid_and_is_not_asked_again(build, path):
    machines = build(client_record=path)
    invitation = machines.invited(0)
    machines.tasks["client-0"].contribution_given = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        machines.clients["client-0"].respond(invitation)
    machines.tasks["client-0"].contribution_given = np.zeros(6)
    client = restarted(machines, path)
    assert machines.client_record.rounds("client-0") == 1
    with pytest.raises(ProtocolError, match="round_number is 0"):
        client.respond(invitation)


def test_what_is_accepted_is_on_disk_before_anything_is_computed(build, path):
    machines = build(client_record=path)
    accepted = machines.clients["client-0"].accept(machines.invited(0))
    assert machines.tape.streams == []
    assert machines.tasks["client-0"].terms == []
    copy = path.with_name("as a kill leaves it.sqlite")
    copy.write_bytes(path.read_bytes())
    record = ClientRecord(copy)
    assert record.rounds("client-0") == 1
    record.close()
    accepted.begin().finish()


@pytest.mark.parametrize(("budget", "rounds"), [(FOR_ONE, 1), (FOR_TWO, 2)])
def test_a_clients_own_ledger_ends_at_its_budget_whatever_runs_and_restarts_there_are(build, path, budget, rounds):
    machines, others = build(client_record=path), build()  # the same parties, two runs
    policy = replace(machines.policy, budget=budget)
    client = restarted(machines, path, policy=policy)
    for number in range(rounds):
        client.respond(machines.invited(number))
        machines.server.abort("the server says that it came to nothing")
    drawn = len(machines.tape.streams)
    same_run, new_run = machines.invited(rounds), others.invited(0)
    for _ in range(2):
        for invitation in (same_run, new_run):
            with pytest.raises(PolicyRefusal, match="the client's own ledger refuses: round") as refusal:
                client.respond(invitation)
            assert isinstance(refusal.value.__cause__, BudgetExceededError)
        client = restarted(machines, path, policy=policy)
    assert len(machines.tape.streams) == drawn
    assert machines.client_record.rounds("client-0") == rounds
    # Another client has its own account; and a round that was refused is not answered: who may spend more still can.
    machines.client("client-1", policy=policy).accept(new_run)
    machines.client("client-0").accept(new_run)


def test_the_reserve_for_deletions_is_kept_from_training_and_open_to_unlearning(build):
    machines = build()
    client = machines.client("client-0", policy=replace(machines.policy, budget=FOR_ONE))
    client.respond(machines.invited(0))
    machines.server.abort("test")
    announcement = machines.server.announce(machines.request(), machines.names, 1)
    with pytest.raises(PolicyRefusal, match="own ledger"):
        client.respond(machines.forged_invitation(announcement, model=machines.request().model.encode()))
    unlearning = machines.forged_announcement(announcement, phase=Phase.UNLEARNING.value)
    client.respond(machines.forged_invitation(unlearning, model=machines.request().model.encode()))


def test_the_driver_goes_on_without_a_client_whose_own_budget_is_spent(build, caplog):
    machines = build()
    machines.clients["client-2"] = machines.client("client-2", policy=replace(machines.policy, budget=FOR_ONE))
    sums = machines.sums()
    assert sums.secure_sum(machines.request()).participants == machines.names
    with caplog.at_level(logging.WARNING):
        released = sums.secure_sum(machines.request())
    assert released.participants == ("client-0", "client-1", "client-3")
    assert "round 1 goes on without client client-2" in caplog.text
    assert [machines.client_record.rounds(name) for name in machines.names] == [2, 2, 1, 2]


def test_what_is_accepted_together_is_on_disk_together_or_not_at_all(build, path):
    machines = build(client_record=path)
    first, second = machines.clients["client-0"], machines.clients["client-1"]
    invitation = machines.invited(0)

    def interrupted():
        with machines.client_record.together():
            first.accept(invitation)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert machines.client_record.rounds("client-0") == 0
    with pytest.raises(ProtocolError, match="round_number is 0"):
        first.accept(invitation)  # this process does not forget what it has begun
    with machines.client_record.together():
        second.accept(invitation)
    client = restarted(machines, path)
    assert [machines.client_record.rounds(name) for name in machines.names] == [0, 1, 0, 0]
    client.respond(invitation)  # nothing had left


def test_a_fork_goes_on_from_a_record_and_does_not_change_it(build, path, tmp_path):
    machines = build(client_record=path)
    invitation = machines.invited(5)
    machines.clients["client-0"].respond(invitation)
    fork = machines.client_record.fork(tmp_path / "fork.sqlite")
    client = machines.client("client-0", record=fork)
    with pytest.raises(ProtocolError, match="expected one after 5"):
        client.respond(invitation)
    machines.server.abort("test")
    client.respond(machines.invited(6))
    assert (fork.rounds("client-0"), machines.client_record.rounds("client-0")) == (2, 1)
    with pytest.raises(RecordError, match=r"fork\.sqlite"):
        machines.client_record.fork(tmp_path / "fork.sqlite")
    fork.close()


def test_a_file_that_is_no_clients_record_is_refused(tmp_path, path):
    for damage, reason in (
        (b"", "is empty"),
        (b"not a database, but long enough to be looked at" * 40, "cannot be used"),
    ):
        path.write_bytes(damage)
        with pytest.raises(RecordError, match=rf"clients\.sqlite {reason}"):
            ClientRecord(path)
    with pytest.raises(RecordError, match="cannot be used"):
        ClientRecord(tmp_path / "nowhere" / "clients.sqlite", new=True)
    other = tmp_path / "keeper.sqlite"
    OpeningRecord(other, new=True).close()
    with pytest.raises(RecordError, match=r"keeper\.sqlite is another kind of file"):
        ClientRecord(other)


@pytest.mark.parametrize(
    "change",
    [
        "charge = '{'",
        "charge = '[]'",
        "charge = '3'",
        "charge = '{\"stranger\": {}}'",
        "charge = '{\"noise_multiplier\": 2.0}'",
        "phase = 'neither'",
    ],
)
def test_a_record_whose_rows_make_no_sense_is_refused(build, path, change):
    machines = build(client_record=path)
    machines.clients["client-0"].accept(machines.invited(0))
    machines.client_record.close()
    database = sqlite3.connect(path)
    database.execute(f"UPDATE round SET {change}")
    database.commit()
    database.close()
    with pytest.raises(RecordError, match=r"clients\.sqlite is damaged: a round of client 'client-0'"):
        ClientRecord(path)


def test_after_any_restart_the_account_is_what_it_would_be_without(build, path):
    machines = build()
    header = header_of(machines.invited(0))
    headers = [
        replace(header, round_number=number, retained_rate=retained, forgotten_rate=forgotten, phase=phase)
        for number, (retained, forgotten, phase) in enumerate(
            [
                (0.1, 0.0, "training"),
                (0.0, 0.2, "unlearning"),
                (0.5, 0.5, "training"),
                *[(0.25, 0.5, "unlearning")] * 20,
            ]
        )
    ]

    def accepted(record_of):
        for answered, header in enumerate(headers):
            try:
                record_of().accept("client-0", header, bytes(32), budget=FOR_TWO)
            except PolicyRefusal as refusal:
                return answered, str(refusal)
        return len(headers), ""

    without = ClientRecord()
    answered, refusal = accepted(lambda: without)
    assert 3 < answered < len(headers)
    assert "epsilon" in refusal
    without.close()
    records = [ClientRecord(path, new=True)]

    def reopened():
        records.pop().close()
        records.append(ClientRecord(path))
        return records[0]

    assert accepted(reopened) == (answered, refusal)
    records[0].close()
