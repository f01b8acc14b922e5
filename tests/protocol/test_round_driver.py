"""A round driven in one process: who is absent, refuses, fails, is interrupted; and what the ledger says then."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
from machines import Counts, Gives, header_of

from secure_fu.errors import (
    ArgumentError,
    BudgetExceededError,
    CapacityError,
    CohortTooSmall,
    DataError,
    NonFiniteError,
    PolicyRefusal,
    RoundAborted,
)
from secure_fu.privacy import Budget, Phase, Subject, Unit
from secure_fu.protocol import KeyHolderOpening
from secure_fu.protocol.header import grid_of


def counted(machines):
    return {name: Counts(client) for name, client in machines.clients.items()}


def statuses(machines):
    return [event.status.value for event in machines.ledger.events("original")]


def charged(machines, name):
    return machines.ledger.event_counts("original", name, Subject.FORGOTTEN, Phase.TRAINING).total()


def answered(machines):
    return [machines.client_record.rounds(name) for name in machines.names]


def released_by(machines, clients, released):
    """Whether a release is the sum of what its participants gave and drew."""
    header = header_of(clients["client-0"].invitations[-1])
    total = sum(
        grid_of(header).quantise(machines.tasks[name].contribution_given) + machines.noise(name, header)
        for name in released.participants
    )
    return np.array_equal(released.values, total * header.grid_step)


def test_who_drops_out_is_neither_in_the_sum_nor_charged(build):
    machines = build(clients=5, contributions=lambda number: np.full(6, number / 8.0))
    clients = counted(machines)
    absent = {(0, "client-1"), (1, "client-4"), (1, "client-3")}
    sums = machines.sums(clients=clients, vanishes=lambda number, name: (number, name) in absent)
    first, second = sums.secure_sum(machines.request()), sums.secure_sum(machines.request())
    assert first.participants == ("client-0", "client-2", "client-3", "client-4")
    assert second.participants == ("client-0", "client-1", "client-2")
    assert released_by(machines, clients, second)
    assert [charged(machines, name) for name in machines.names] == [2, 1, 2, 1, 1]
    assert answered(machines) == [2, 1, 2, 1, 1]


BAD_CONTRIBUTIONS = {
    "NaN": np.array([0.0, np.nan, 0.0, 0.0, 0.0, 0.0]),
    "infinite": np.array([0.0, 0.0, -np.inf, 0.0, 0.0, 0.0]),
    "short": np.zeros(5),
    "long": np.zeros(7),
    "two-dimensional": np.zeros((6, 1)),
    "scalar": np.array(0.0),
    "argument": ArgumentError("features", 123.456, "something else"),
    "data": DataError("record 123.456 is broken"),
    "not finite": NonFiniteError("123.456 of 17 gradients"),
}


@pytest.mark.parametrize("kind", BAD_CONTRIBUTIONS)
def test_a_bad_contribution_becomes_noise_alone_and_nobody_sees_it(build, kind, caplog):
    """The server chose the model: whether somebody's numbers overflow on it must not show."""
    machines = build(contributions=lambda number: np.full(6, number / 8.0))
    machines.tasks["client-2"].contribution_given = BAD_CONTRIBUTIONS[kind]
    clients = counted(machines)
    with caplog.at_level(logging.DEBUG):
        released = machines.sums(clients=clients).secure_sum(machines.request())
    assert released.participants == machines.names
    machines.tasks["client-2"].contribution_given = np.zeros(6)
    assert released_by(machines, clients, released)
    assert "client client-2 sends noise alone" in caplog.text
    assert "123.456" not in caplog.text
    assert "17 gradients" not in caplog.text
    assert [charged(machines, name) for name in machines.names] == [1, 1, 1, 1]
    machines.tasks["client-2"].contribution_given = BAD_CONTRIBUTIONS[kind]
    invitation = machines.invited(1)
    sizes = {len(machines.clients[name].respond(invitation)) for name in machines.names}
    assert len(sizes) == 1


def test_a_contribution_of_another_dtype_is_summed_as_the_numbers_it_holds(build):
    machines = build()
    for task, dtype in zip(machines.tasks.values(), (np.float32, np.int64, np.float16, bool), strict=True):
        task.contribution_given = np.ones(6, dtype=dtype)
    clients = counted(machines)
    released = machines.sums(clients=clients).secure_sum(machines.request())
    assert released_by(machines, clients, released)


def test_a_round_below_the_minimum_is_void_and_asked_for_again_under_a_new_number(build, caplog):
    machines = build()
    sums = machines.sums(vanishes=lambda number, name: number < 2 and name in ("client-0", "client-3"))
    released = sums.secure_sum(machines.request())
    assert (released.round_number, sums.next_round) == (2, 3)
    assert statuses(machines) == ["void", "void", "committed"]
    assert [charged(machines, name) for name in machines.names] == [1, 1, 1, 1]
    assert answered(machines) == [1, 3, 3, 1], "a client's own record knows of no void round"
    assert caplog.text.count("asking again") == 2
    assert [traffic.round_number for traffic in sums.traffic] == [2]


def test_after_all_attempts_it_gives_up_charges_nothing_and_can_go_on(build):
    machines = build()
    gone = {"client-0", "client-3"}
    sums = machines.sums(vanishes=lambda _number, name: name in gone, attempts=2)
    with pytest.raises(CohortTooSmall, match="round 1: 2 uploads"):
        sums.secure_sum(machines.request())
    assert statuses(machines) == ["void", "void"]
    assert [charged(machines, name) for name in machines.names] == [0, 0, 0, 0]
    assert answered(machines) == [0, 2, 2, 0]
    assert machines.transcript.head == bytes(32)
    gone.clear()
    assert sums.secure_sum(machines.request()).round_number == 2


@pytest.mark.parametrize("attempts", [0, -1])
def test_a_driver_without_an_attempt_cannot_be_made(build, attempts):
    with pytest.raises(ArgumentError, match="attempts"):
        build().sums(attempts=attempts)


class Interrupts(Gives):
    """A client's code that is interrupted once."""

    def __init__(self, contribution, error):
        super().__init__(contribution)
        self.error = error

    def contribution(self, model, terms, stream):
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return super().contribution(model, terms, stream)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), MemoryError(), RuntimeError("of torch")])
def test_an_interrupt_inside_a_clients_code_voids_the_round_and_the_next_one_is_right(build, error):
    machines = build(contributions=lambda number: np.full(6, number / 8.0))
    machines.tasks["client-2"] = Interrupts(np.full(6, 0.25), error)
    machines.clients["client-2"] = machines.client("client-2")
    clients = counted(machines)
    sums = machines.sums(clients=clients)
    with pytest.raises(type(error)):
        sums.secure_sum(machines.request())
    assert statuses(machines) == ["void"]
    assert machines.ledger.pending() == ()
    released = sums.secure_sum(machines.request())
    assert released_by(machines, clients, released)
    assert released.participants == machines.names
    assert [charged(machines, name) for name in machines.names] == [1, 1, 1, 1]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("disk full")])
@pytest.mark.parametrize("before", [True, False], ids=["before opening", "after opening"])
def test_an_interrupt_after_the_roll_left_stays_charged_and_the_next_round_is_right(build, error, before):
    machines = build(contributions=lambda number: np.full(6, number / 8.0))
    clients = counted(machines)

    class Fails:
        failed = False

        def issue_key(self, announcement):
            return machines.key_holder.issue_key(announcement)

        def open(self, roll):
            if before and not self.failed:
                self.failed = True
                raise error
            opening = machines.key_holder.open(roll)
            if not self.failed:
                self.failed = True
                raise error
            return opening

    sums = machines.sums(clients=clients, opening=KeyHolderOpening(machines.server, Fails()))
    with pytest.raises(type(error)):
        sums.secure_sum(machines.request())
    assert statuses(machines) == ["committed"]
    assert [charged(machines, name) for name in machines.names] == [1, 1, 1, 1]
    released = sums.secure_sum(machines.request())
    assert released_by(machines, clients, released)
    assert statuses(machines) == ["committed", "committed"]


@pytest.mark.parametrize("step", ["issue_key", "invite", "receive", "close"])
def test_a_failure_at_any_step_before_the_roll_leaves_nothing_charged(build, step, monkeypatch):
    machines = build()
    party = machines.key_holder if step == "issue_key" else machines.server
    method = getattr(party, step)
    left = [OSError("once")]

    def fails_once(*arguments):
        if left:
            raise left.pop()
        return method(*arguments)

    monkeypatch.setattr(party, step, fails_once)
    sums = machines.sums()
    with pytest.raises(OSError, match="once"):
        sums.secure_sum(machines.request())
    assert statuses(machines) == ["void"]
    assert sums.secure_sum(machines.request()).round_number == 1
    assert statuses(machines) == ["void", "committed"]


def test_an_exceeded_budget_asks_nobody_and_reserves_nothing(build):
    machines = build(budget=Budget(epsilon=3.0, delta=1e-5, order=8.0, deletion_reserve=0.5, unit=Unit.RECORD))
    clients = counted(machines)
    sums = machines.sums(clients=clients)

    def sum_all():
        for _ in range(100):
            sums.secure_sum(machines.request())

    with pytest.raises(BudgetExceededError, match=r"round \d+ of branch 'original'"):
        sum_all()
    rounds = sums.next_round
    assert 0 < rounds < 100
    assert len(clients["client-0"].invitations) == rounds
    assert statuses(machines) == ["committed"] * rounds
    assert machines.ledger.pending() == ()
    spent = machines.ledger.epsilon("original", "client-0", Subject.FORGOTTEN, Phase.BOTH)
    with pytest.raises(BudgetExceededError):
        sums.secure_sum(machines.request())
    assert machines.ledger.epsilon("original", "client-0", Subject.FORGOTTEN, Phase.BOTH) == spent
    # The reserve is for deletions, and they still go through.
    assert sums.secure_sum(machines.request(phase=Phase.UNLEARNING)).participants == machines.names


@pytest.mark.parametrize("changes", [{"saturation": 2.0**19}, {"noise_multiplier": 1e6}])
def test_a_modulus_too_small_for_the_sum_is_refused_before_anything_is_reserved(build, changes):
    machines = build()
    clients = counted(machines)
    sums = machines.sums(clients=clients)
    with pytest.raises(CapacityError):
        sums.secure_sum(machines.request(**changes))
    assert list(machines.ledger.events()) == []
    assert clients["client-0"].invitations == []
    assert sums.secure_sum(machines.request()).round_number == 0


def test_a_client_checks_the_capacity_itself(build):
    machines = build()
    announcement = machines.server.announce(machines.request(), machines.names, 0)
    forged = machines.forged_announcement(announcement, saturation=2.0**19)
    lax = machines.client("client-0", policy=replace(machines.policy, saturation=2.0**19))
    with pytest.raises(CapacityError):
        lax.respond(machines.forged_invitation(forged))
    with pytest.raises(PolicyRefusal, match="field saturation"):
        machines.clients["client-0"].respond(machines.forged_invitation(forged))
    assert machines.tape.streams == []
    assert answered(machines) == [0, 0, 0, 0]


def test_a_key_holder_checks_the_capacity_itself(build):
    machines = build()
    announcement = machines.server.announce(machines.request(), machines.names, 0)
    lax = machines.new_key_holder(policy=replace(machines.policy, saturation=2.0**19))
    with pytest.raises(CapacityError):
        lax.issue_key(machines.forged_announcement(announcement, saturation=2.0**19))
    lax.issue_key(announcement)


def test_more_clients_than_a_ciphertext_can_sum_are_refused(build, monkeypatch):
    machines = build()
    monkeypatch.setattr(machines.scheme, "max_clients", 3)
    with pytest.raises(CapacityError, match="4 clients"):
        machines.server.announce(machines.request(), machines.names, 0)
    assert list(machines.ledger.events()) == []


def test_what_travelled_is_counted(build):
    machines = build(length=5000)
    clients = counted(machines)
    sums = machines.sums(clients=clients, vanishes=lambda _number, name: name == "client-3")
    sums.secure_sum(machines.request())
    (traffic,) = sums.traffic
    assert (traffic.round_number, traffic.purpose, traffic.uploads) == (0, "statistic/sum", 3)
    assert (traffic.parameter_set, traffic.digit_bits) == (machines.scheme.parameter_set, 0)
    assert traffic.download_bytes == len(clients["client-0"].invitations[0])
    assert 2 * 55_000 < traffic.upload_bytes < 2 * 70_000


def test_the_ledger_charges_what_the_header_says(build):
    machines = build()
    sums = machines.sums()
    sums.secure_sum(machines.request(retained_rate=0.25, forgotten_rate=0.5))
    sums.secure_sum(machines.request(phase=Phase.UNLEARNING, retained_rate=0.5, forgotten_rate=0.0))
    first, second = machines.ledger.events("original")
    assert first.charges[Subject.RETAINED].sampling_rate == 0.25
    assert first.charges[Subject.FORGOTTEN].sampling_rate == 0.5
    assert second.charges[Subject.RETAINED].sampling_rate == 0.5
    assert second.charges[Subject.FORGOTTEN] is None
    assert (first.phase, second.phase) == (Phase.TRAINING, Phase.UNLEARNING)
    for event in (first, second):
        charge = event.charges[Subject.RETAINED]
        assert (charge.noise_multiplier, charge.dimension, charge.shares) == (2.0, 6, 2)
        assert event.cohort == event.participants == machines.names


def test_a_request_belongs_to_one_phase(build):
    with pytest.raises(ArgumentError, match="phase"):
        build().request(phase=Phase.BOTH)


def test_all_refuse_and_the_round_is_aborted(build):
    machines = build()
    for name in machines.names:
        machines.clients[name] = machines.client(name, policy=replace(machines.policy, noise_multiplier=99.0))
    with pytest.raises(RoundAborted, match="0 uploads"):
        machines.sums().secure_sum(machines.request())
    assert statuses(machines) == ["void"] * 3
