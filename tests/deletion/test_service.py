"""The deletion service: nothing lost, nothing twice, no batch too small, wherever it is killed."""

from __future__ import annotations

import errno
import json
import logging

import pytest
from queue_cast import DAY, HOUR, NOW, Killed, RecordingExecutor, execution, roster, signed
from service_cast import DUE, LATER, WHOLE_LIFE, Certifier, World

from secure_fu.crypto import Identity, Role, Roster
from secure_fu.deletion import (
    BatchRefused,
    RequestQueue,
    State,
    WindowGivenUp,
    WindowState,
)
from secure_fu.deletion.times import time_text
from secure_fu.errors import BudgetExceededError, RecordError, UnlearningError


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_a_window_from_beginning_to_end(world):
    requests = [signed(), signed("birch")]
    world.ask(*requests)
    assert world.run(DUE - 1).windows == ()
    report = world.run()
    (window,) = report.windows
    assert (window.state, window.opened, window.requests) == (WindowState.CERTIFIED, DUE, 2)
    assert (report.held, report.skipped, report.risks, report.next_due) == ("", "", (), DUE + DAY)
    assert sorted(world.executor.executed()[0]) == sorted(request.request_id.hex() for request in requests)
    assert world.history(requests[0]) == WHOLE_LIFE
    again = world.run(LATER + 5)
    assert again.windows == ()
    assert len(world.executor.asked) == world.certifier.calls == 1


def test_too_few_wait_and_the_window_is_over(world):
    """A request that comes after the due time waits for the next: its coming must not show in when rounds run."""
    first = signed()
    world.ask(first)
    report = world.run()
    assert report.skipped == "1 request came in time for the window of 2027-01-15T08:00:00Z, fewer than 2"
    assert [risk.request_id for risk in report.risks] == [first.request_id]
    world.ask(signed("birch"), at=LATER + 1)
    assert world.run(LATER + 2).windows == ()
    (window,) = world.run(DUE + DAY).windows
    assert window.requests == 2


def test_what_comes_after_the_due_time_waits_even_if_the_window_runs_late(world):
    world.ask(signed(), signed("birch"))
    late = signed("cedar")
    world.ask(late, at=DUE + 1)
    (window,) = world.run(DUE + 2).windows
    assert window.requests == 2
    entries, _ = world.look()
    assert entries[late.request_id].state is State.ACCEPTED


def test_cover_runs_with_and_without_requests(tmp_path):
    world = World(tmp_path, cover=True, hidden_units=3)
    (window,) = world.run().windows
    assert (window.requests, window.hidden_units, window.state) == (0, 3, WindowState.CERTIFIED)
    world.ask(signed(), at=DUE + 2 * HOUR)
    (window,) = world.run(DUE + DAY).windows
    assert window.requests == 0  # one request is too few, and waits
    world.ask(signed("birch"), at=DUE + DAY + HOUR)
    (window,) = world.run(DUE + 2 * DAY).windows
    assert (window.requests, window.hidden_units) == (2, 3)
    assert len(world.executor.executed()) == 3


def test_windows_that_were_missed_are_not_made_up_for(tmp_path):
    world = World(tmp_path, cover=True, hidden_units=1)
    world.ask(signed(), signed("birch"), at=DUE - 3 * DAY + HOUR)
    (window,) = world.run(DUE + HOUR).windows
    assert (window.opened, window.requests) == (DUE, 2)


def test_at_once_keeps_to_the_minimum(world):
    world.ask(signed())
    report = world.run(LATER, at_once=True)
    assert report.windows == ()
    assert "fewer than 2" in report.skipped
    world.ask(signed("birch"), at=LATER + 1)
    (window,) = world.run(LATER + 2, at_once=True).windows
    assert (window.opened, window.requests) == (LATER + 2, 2)


def test_the_rest_goes_next_nearest_deadlines_first(world):
    requests = [signed(deadline=NOW + (20 - n) * DAY) for n in range(7)]
    world.ask(*requests)
    world.run()
    entries, _ = world.look()
    done = [entries[request.request_id].state is State.CERTIFIED for request in requests]
    assert done == [False, False, True, True, True, True, True]
    (window,) = world.run(DUE + DAY).windows
    assert window.requests == 2


# Deadlines


def test_deadlines_in_danger_are_flagged_early_and_named(world, caplog):
    tight = signed(deadline=NOW + 5 * DAY)
    world.ask(tight)
    with caplog.at_level(logging.WARNING, logger="secure_fu"):
        world.run()
    entries, _ = world.look()
    assert entries[tight.request_id].flag == "at risk"
    assert "1 deadlines" in caplog.text
    world.ask(signed("birch"), at=LATER + 1)
    world.run(LATER + 2)
    entries, _ = world.look()
    assert entries[tight.request_id].flag == ""


def test_what_is_overdue_is_executed_all_the_same(world):
    late = signed(deadline=NOW + HOUR)
    world.ask(late)
    report = world.run()
    assert [risk.overdue for risk in report.risks] == [True]
    entries, _ = world.look()
    assert (entries[late.request_id].flag, entries[late.request_id].state) == ("overdue", State.ACCEPTED)
    world.ask(signed("birch"), at=LATER + 1)
    world.run(DUE + DAY)
    entries, _ = world.look()
    assert (entries[late.request_id].flag, entries[late.request_id].state) == ("overdue", State.CERTIFIED)


def test_what_is_late_is_marked_also_where_it_goes_at_once(world):
    late = signed(deadline=NOW + 60)
    world.ask(late, signed("birch"))
    world.run()
    entries, _ = world.look()
    assert (entries[late.request_id].flag, entries[late.request_id].state) == ("overdue", State.CERTIFIED)


# The clock


@pytest.mark.parametrize("jump", [-DAY, 60 * DAY, 20 * 365 * DAY])
def test_a_clock_that_jumps_begins_nothing_and_loses_nothing(world, jump, caplog):
    world.ask(signed(), signed("birch"))
    report = world.run(LATER + jump)
    assert report.windows == ()
    assert time_text(LATER + jump) in report.held
    assert "no window is begun" in caplog.text
    entries, windows = world.look()
    assert windows == []
    assert {entry.state for entry in entries.values()} == {State.ACCEPTED}
    assert {entry.flag for entry in entries.values()} == {""}
    (window,) = world.run(LATER).windows
    assert window.requests == 2


def test_what_was_begun_is_finished_whatever_the_clock_says(world):
    world.ask(signed(), signed("birch"))
    world.executor = RecordingExecutor(world.folder, trouble=[Killed()])
    with pytest.raises(Killed):
        world.run()
    report = world.run(LATER - 30 * DAY)
    assert [window.state for window in report.windows] == [WindowState.CERTIFIED]
    assert report.held


# Failures


def test_a_failure_is_noted_and_gone_on_from(world):
    requests = [signed(), signed("birch")]
    world.ask(*requests)
    world.executor = RecordingExecutor(world.folder, trouble=[BudgetExceededError("nothing is left")])
    with pytest.raises(BudgetExceededError):
        world.run()
    _, (window,) = world.look()
    assert (window.state, window.note) == (WindowState.EXECUTING, "nothing is left")
    # A day later the same window goes on, with the same batch, before anything else begins.
    world.ask(signed("cedar"), signed("cedar"), at=LATER + 1)
    first, second = world.run(LATER + DAY).windows
    assert first.window_id == window.window_id == world.executor.asked[0] == world.executor.asked[1]
    assert (first.requests, first.note, second.requests) == (2, "", 2)


def test_a_full_disk_at_the_certificate(world):
    world.ask(signed(), signed("birch"))

    class Full(Certifier):
        def __call__(self, batch, done):
            raise OSError(errno.ENOSPC, "No space left on device")

    world.certifier = Full(world.folder)
    with pytest.raises(OSError, match="No space"):
        world.run()
    entries, (window,) = world.look()
    assert (window.state, "No space" in window.note) == (WindowState.EXECUTED, True)
    assert {entry.state for entry in entries.values()} == {State.EXECUTED}
    world.certifier = Certifier(world.folder)
    (window,) = world.run(LATER + 5).windows
    assert (window.state, window.note) == (WindowState.CERTIFIED, "")
    assert len(world.executor.executed()) == len(world.executor.asked) == 1


def test_a_certificate_that_fails_holds_no_deletion_up(world):
    world.ask(signed(), signed("birch"))

    class Picky(Certifier):
        def __call__(self, batch, done):
            if batch.opened == DUE:
                raise RecordError("this one cannot be certified")
            return super().__call__(batch, done)

    world.certifier = Picky(world.folder)
    with pytest.raises(RecordError, match="cannot be certified"):
        world.run()
    world.ask(signed(), signed("birch"), at=LATER + 1)
    with pytest.raises(RecordError, match="cannot be certified"):
        world.run(DUE + DAY)
    _, (first, second) = world.look()
    assert (first.state, second.state) == (WindowState.EXECUTED, WindowState.CERTIFIED)
    assert len(world.executor.executed()) == 2


def test_a_disk_that_is_full_when_the_outcome_is_written(world):
    """The executor has executed; the queue cannot write it down. Nothing is done twice."""
    world.ask(signed(), signed("birch"))
    world.clock.now = LATER
    with RequestQueue(world.path) as queue, world.service(queue) as service:
        connection = queue._file._connection
        real = world.executor.execute

        def fill_up(batch):
            done = real(batch)
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            connection.execute(f"PRAGMA max_page_count = {pages}")
            connection.execute("BEGIN")
            return execution(done.window_id, settings={f"s{n}": "x" * 100 for n in range(1000)})

        connection.isolation_level = None
        world.executor.execute = lambda batch: (fill_up(batch), connection.execute("ROLLBACK"))[0]
        with pytest.raises(RecordError, match="no room"):
            service.run_due()
    del world.executor.execute
    (window,) = world.run(LATER + 5).windows
    assert window.state is WindowState.CERTIFIED
    assert len(world.executor.executed()) == 1


def test_a_request_that_clients_refuse_does_not_hold_up_the_others(world):
    requests = [signed(), signed("birch"), signed("cedar")]
    world.ask(*requests)
    bad = requests[1]
    world.executor = RecordingExecutor(world.folder, trouble=[BatchRefused((bad.request_id,), "covers half a person")])
    given_up, window = world.run().windows
    assert (given_up.state, given_up.note) == (WindowState.REFUSED, "covers half a person")
    assert (window.state, window.requests, window.opened) == (WindowState.CERTIFIED, 2, DUE)
    assert world.history(bad)[-1] == "refused"
    assert world.history(requests[0]) == ["received", "accepted", "scheduled", "executing", "accepted", *WHOLE_LIFE[2:]]


def test_a_window_that_is_given_up_loses_no_request_and_holds_up_no_later_one(world):
    requests = [signed(), signed("birch")]
    world.ask(*requests)
    world.executor = RecordingExecutor(
        world.folder, trouble=[UnlearningError("nobody answers"), WindowGivenUp("the budget ended")]
    )
    with pytest.raises(UnlearningError, match="nobody answers"):
        world.run()
    world.ask(signed("cedar"), at=LATER)
    (given_up,) = world.run(LATER + 1).windows
    assert (given_up.state, given_up.note) == (WindowState.GIVEN_UP, "the budget ended")
    # Its due time is over: the same requests with the same time would be the same window.
    for at in (LATER + 2, LATER + 3):
        assert world.run(at).windows == ()
    assert world.executor.executed() == []
    entries, _ = world.look()
    assert {(entry.state.value, entry.window) for entry in entries.values()} == {("accepted", None)}
    (window,) = world.run(LATER + DAY).windows
    assert (window.state, window.requests, window.opened) == (WindowState.CERTIFIED, 3, DUE + DAY)
    assert window.window_id != given_up.window_id
    assert world.history(requests[0]) == ["received", "accepted", "scheduled", "executing", "accepted", *WHOLE_LIFE[2:]]
    with RequestQueue(world.path, read_only=True) as queue:
        why = [change.why for change in queue.history(requests[0].request_id)][4]
    assert why == f"window {given_up.window_id.hex()} was given up: the budget ended"
    assert [one.state for one in world.look()[1]] == [WindowState.GIVEN_UP, WindowState.CERTIFIED]


def give_up(world, at, why):
    world.clock.now = at
    with RequestQueue(world.path) as queue, world.service(queue) as service:
        return service.give_up(why)


def test_a_window_that_people_give_up_loses_no_request_and_holds_up_no_later_one(world):
    requests = [signed(), signed("birch")]
    world.ask(*requests)
    assert give_up(world, LATER, "for no reason").windows == ()
    world.executor = RecordingExecutor(world.folder, trouble=[UnlearningError("all refuse")] * 2)
    for at in (LATER, LATER + 1):
        with pytest.raises(UnlearningError, match="all refuse"):
            world.run(at)
    (given_up,) = give_up(world, LATER + 2, "their records are of another ledger").windows
    assert (given_up.state, given_up.note) == (WindowState.GIVEN_UP, "their records are of another ledger")
    assert world.executor.given_up == {given_up.window_id: given_up.note}
    assert len(world.executor.asked) == 2, "nobody was asked"
    assert world.run(LATER + 3).windows == ()
    (window,) = world.run(LATER + DAY).windows
    assert (window.state, window.requests) == (WindowState.CERTIFIED, 2)
    assert world.history(requests[0]) == ["received", "accepted", "scheduled", "executing", "accepted", *WHOLE_LIFE[2:]]
    assert give_up(world, LATER + DAY + 1, "too late").windows == ()


def test_a_window_that_was_executed_is_not_given_up_though_the_queue_does_not_know(world):
    world.ask(signed(), signed("birch"))
    executes = world.executor.execute

    def dies(batch):
        executes(batch)
        raise UnlearningError("the process ended")

    world.executor.execute = dies
    with pytest.raises(UnlearningError, match="ended"):
        world.run()
    assert give_up(world, LATER + 1, "it hangs").windows == ()
    del world.executor.execute
    (window,) = world.run(LATER + 2).windows
    assert window.state is WindowState.CERTIFIED
    assert len(world.executor.executed()) == 1


def test_a_batch_that_shrinks_below_the_minimum_waits(world):
    requests = [signed(), signed("birch")]
    world.ask(*requests)
    world.executor = RecordingExecutor(
        world.folder, trouble=[BatchRefused((requests[0].request_id,), "no such record")]
    )
    report = world.run()
    assert [window.state for window in report.windows] == [WindowState.REFUSED]
    assert "fewer than 2" in report.skipped
    assert world.executor.executed() == []


def test_a_signer_who_is_gone_is_refused_before_the_batch(world):
    requests = [signed(), signed("birch"), signed("cedar")]
    world.ask(*requests)
    others = [party for party in roster().parties if party.name != "birch"]
    world.roster = Roster.of([*others, Identity.generate("birch", Role.CLIENT).party])
    (window,) = world.run().windows
    assert window.requests == 2
    assert world.history(requests[1]) == ["received", "accepted", "refused"]


def test_an_answer_for_another_window_is_not_taken(world):
    world.ask(signed(), signed("birch"))
    world.executor.execute = lambda batch: execution(bytes(16))
    with pytest.raises(RecordError, match="answered for window"):
        world.run()
    _, (window,) = world.look()
    assert window.state is WindowState.EXECUTING


# Confirmations of clients


def test_the_certificate_waits_for_confirmations_until_the_next_window(world):
    world.ask(signed(), signed("birch"))
    world.executor = RecordingExecutor(world.folder, missing=[("cedar",), ("cedar",)])
    (window,) = world.run().windows
    assert window.state is WindowState.EXECUTED
    assert world.run(LATER + 1).windows == ()
    (window,) = world.run(LATER + 2).windows
    assert window.state is WindowState.CERTIFIED
    assert json.loads((world.folder / window.certificate).read_text()) == []
    assert len(world.executor.executed()) == 1


def test_who_stays_silent_is_named(world):
    world.ask(signed(), signed("birch"))
    world.executor = RecordingExecutor(world.folder, missing=[("cedar",)] * 9)
    world.run()
    assert world.run(NOW + 5 + DAY - 1).windows == ()
    (window,) = world.run(NOW + 5 + DAY).windows
    assert json.loads((world.folder / window.certificate).read_text()) == ["cedar"]


def test_without_a_certifier_windows_stay_executed(world):
    world.certifier = None
    world.ask(signed(), signed("birch"))
    (window,) = world.run().windows
    assert window.state is WindowState.EXECUTED


def test_two_services_on_one_queue(world):
    with (
        RequestQueue(world.path) as one,
        world.service(one),
        RequestQueue(world.path) as two,
        pytest.raises(RecordError, match="served by another process"),
    ):
        world.service(two)


def test_a_flood_of_one_signer_holds_up_nobody(tmp_path):
    """Requests that are due at once, again and again: each window still has the other's."""
    world = World(tmp_path, minimum_batch=1, maximum_batch=2)
    for day in range(3):
        now = DUE + day * DAY
        calm = signed("birch", submitted=now - DAY, deadline=now + 30 * DAY)
        world.ask(*(signed(submitted=now - DAY, deadline=now + 1) for _ in range(5)), calm, at=now - HOUR)
        (window,) = world.run(now + 60).windows
        assert window.requests == 2
        assert world.history(calm) == WHOLE_LIFE


def test_more_signers_than_a_window_takes(tmp_path):
    """Who was served last is behind the others, whatever the deadlines."""
    world = World(tmp_path, minimum_batch=1, maximum_batch=1)
    calm = signed("birch")
    world.ask(*(signed(deadline=DUE + 1) for _ in range(5)), calm)
    world.run(DUE + 60)
    assert world.history(calm) == ["received", "accepted"]
    world.run(DUE + DAY)
    assert world.history(calm) == WHOLE_LIFE
