"""The queue: durable, idempotent, shared by several processes, never misled by a clock."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from queue_cast import DAY, NOW, content, execution, policy, roster, rows, signed

from secure_fu.crypto import Identity, Role
from secure_fu.deletion import (
    DeletionRequest,
    RequestExpired,
    RequestForged,
    RequestFromTheFuture,
    RequestQueue,
    RequestRefused,
    RequestTooLarge,
    RequestUnauthorised,
    SignedBatch,
    State,
    TooManyWaiting,
    WindowState,
)
from secure_fu.deletion.queue import ServiceLock
from secure_fu.deletion.times import time_text
from secure_fu.errors import ArgumentError, RecordError


@pytest.fixture
def queue(tmp_path):
    with RequestQueue.create(tmp_path / "queue.sqlite") as made:
        yield made


def submit(queue, request, now=NOW, **changes):
    return queue.submit(request, roster=roster(), policy=policy(**changes), now=now)


def test_what_is_taken_stays(queue):
    request = signed(disclose=True)
    taken = submit(queue, request)
    assert taken.new
    assert taken.entry.state is State.ACCEPTED
    queue.close()
    with RequestQueue(queue.path) as again:
        (entry,) = again.entries()
        assert entry == taken.entry
        assert (entry.signer, entry.scope, entry.client) == (request.signer, request.scope, request.client)
        assert (entry.units, entry.submitted, entry.deadline) == (request.units, request.submitted, request.deadline)
        assert (entry.received, entry.disclose, entry.window, entry.flag) == (NOW, True, None, "")
        assert again.request(request.request_id) == request
        history = [(change.state, change.at) for change in again.history(request.request_id)]
        assert history == [(State.RECEIVED, NOW), (State.ACCEPTED, NOW)]


def test_the_file_is_its_owners_alone(queue):
    submit(queue, signed())
    for path in queue.path.parent.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_the_same_again_changes_nothing(queue):
    request = signed()
    submit(queue, request)
    before = rows(queue)
    again = submit(queue, request, NOW + 5)
    assert not again.new
    assert again.entry.received == NOW
    assert rows(queue) == before
    # Also after it has expired: whoever sends it again learns that it is there.
    assert not submit(queue, request, NOW + 2 * DAY, longest_pause_seconds=90 * DAY).new


def test_other_bytes_under_the_same_id_are_refused(queue):
    request = signed()
    submit(queue, request)
    before = rows(queue)
    with pytest.raises(RequestRefused, match=f"{request.request_id.hex()}.*other content"):
        submit(queue, replace(request, units=9))
    assert rows(queue) == before


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (lambda: replace(signed(), units=9), RequestForged),
        (lambda: signed(submitted=NOW - 2 * DAY, deadline=NOW - DAY), RequestExpired),
        (lambda: signed(submitted=NOW + 301), RequestFromTheFuture),
        (lambda: signed("alder", DeletionRequest.whole_client("birch")), RequestUnauthorised),
        (lambda: signed(deadline=NOW + 400 * DAY), RequestRefused),
    ],
)
def test_what_may_not_be_served_leaves_no_trace(queue, request_, error):
    before = rows(queue)
    request = request_()
    with pytest.raises(error, match=request.request_id.hex()):
        submit(queue, request)
    assert rows(queue) == before


def test_several_at_once_or_none(queue):
    good, bad = signed(), replace(signed(), units=9)
    with pytest.raises(RequestForged):
        queue.submit_all([good, bad], roster=roster(), policy=policy(), now=NOW)
    assert queue.entries() == []
    taken = queue.submit_all([good, signed("birch"), good], roster=roster(), policy=policy(), now=NOW)
    assert [one.new for one in taken] == [True, True, False]
    assert len(queue.entries()) == 2


def test_more_units_than_the_policy_allows(queue):
    before = rows(queue)
    with pytest.raises(RequestTooLarge, match="covers 9 units; the policy allows 8"):
        submit(queue, signed(units=9), maximum_units=8)
    submit(queue, signed(), NOW)
    queue.confirm_clock(NOW, "as it is")
    with pytest.raises(RequestTooLarge):  # a clock that is not believed opens no door
        submit(queue, signed(units=9), NOW - DAY, maximum_units=8)
    assert queue.read_clock(NOW - DAY, policy()).held
    assert len(rows(queue)["requests"]) == len(before["requests"]) + 1
    assert submit(queue, signed(units=8), maximum_units=8).new


def test_one_signer_fills_no_queue(queue):
    mine = [signed() for _ in range(4)]
    for request in mine[:3]:
        submit(queue, request, maximum_waiting=3)
    with pytest.raises(TooManyWaiting, match=r"3 requests of 'alder' .*the policy allows 3"):
        submit(queue, mine[3], maximum_waiting=3)
    # In one call as well, and none of it stays.
    with pytest.raises(TooManyWaiting):
        queue.submit_all(
            [signed("birch") for _ in range(4)], roster=roster(), policy=policy(maximum_waiting=3), now=NOW
        )
    assert [entry.signer for entry in queue.entries()] == ["alder"] * 3
    # Others are not concerned, nor is what is there already.
    assert submit(queue, signed("birch"), maximum_waiting=3).new
    assert not submit(queue, mine[0], maximum_waiting=3).new
    queue.begin(SignedBatch.of(NOW, mine[:1], 0), NOW)  # it waits no more
    assert submit(queue, mine[3], maximum_waiting=3).new


def test_one_signer_fills_no_disk(queue):
    size = len(content(signed()))
    allowed = {"maximum_waiting_bytes": 2 * size + size // 2}
    submit(queue, signed(), **allowed)
    submit(queue, signed(), **allowed)
    with pytest.raises(TooManyWaiting, match=f"with {2 * size} bytes wait already, and this one has {size}"):
        submit(queue, signed(), **allowed)
    assert submit(queue, signed("birch"), **allowed).new


def test_who_was_served_when(queue):
    mine = [signed(), signed(), signed("birch"), signed("cedar")]
    for request in mine:
        submit(queue, request)
    assert queue.served() == {}
    for opened, batch in ((NOW, mine[:1]), (NOW + DAY, mine[1:3])):
        queue.begin(SignedBatch.of(opened, batch, 0), NOW)
    assert queue.served() == {"alder": NOW + DAY, "birch": NOW + DAY}
    (_, given_up) = queue.windows()
    queue.give_back(given_up.window_id, [], "trouble", NOW)
    assert queue.served() == {"alder": NOW}


def test_unknown_ids(queue):
    with pytest.raises(ArgumentError, match="request_id"):
        queue.request(bytes(16))
    assert queue.history(bytes(16)) == []


# A window's life


def two(queue):
    requests = [signed(), signed("birch")]
    queue.submit_all(requests, roster=roster(), policy=policy(), now=NOW)
    return SignedBatch.of(NOW, requests, 1)


def test_states_with_history(queue):
    batch = two(queue)
    queue.begin(batch, NOW + 1)
    (window,) = queue.windows()
    assert (window.state, window.requests, queue.batch(window)) == (WindowState.EXECUTING, 2, batch)
    assert queue.handled(NOW)
    assert not queue.handled(NOW + 1)
    with pytest.raises(RecordError, match="not been executed"):
        queue.execution(window)
    done = execution(batch.window_id, missing=("birch",))
    queue.finish(done, NOW + 2)
    assert queue.execution(window) == done
    confirmed = replace(done, missing=(), wiped=(b"1", b"2"))
    queue.finish(confirmed, NOW + 3)
    assert queue.execution(window) == confirmed
    queue.certify(batch.window_id, "c.json", NOW + 4)
    (window,) = queue.windows(WindowState.CERTIFIED)
    assert (window.certificate, window.at) == ("c.json", NOW + 4)
    history = [(change.state.value, change.at - NOW) for change in queue.history(batch.requests[0].request_id)]
    assert history == [
        *(("received", 0), ("accepted", 0), ("scheduled", 1), ("executing", 1), ("executed", 2), ("certified", 4))
    ]


def test_no_step_is_taken_out_of_turn(queue):
    batch = two(queue)
    with pytest.raises(RecordError, match="no window"):
        queue.finish(execution(batch.window_id), NOW)
    queue.begin(batch, NOW)
    with pytest.raises(RecordError, match="executing; expected an executed one"):
        queue.certify(batch.window_id, "c", NOW)
    overlapping = SignedBatch.of(NOW + 1, batch.requests[:1], 0)
    before = rows(queue)
    with pytest.raises(RecordError, match="is not waiting"):
        queue.begin(overlapping, NOW)
    assert rows(queue) == before
    queue.finish(execution(batch.window_id), NOW)
    with pytest.raises(RecordError, match="executed; expected one that is being executed"):
        queue.give_back(batch.window_id, [], "why", NOW)
    queue.certify(batch.window_id, "c", NOW)
    with pytest.raises(RecordError, match="certified"):
        queue.finish(execution(batch.window_id), NOW)


def test_a_window_that_is_given_up(queue):
    batch = two(queue)
    queue.begin(batch, NOW)
    bad, good = (request.request_id for request in batch.requests)
    queue.give_back(batch.window_id, [bad], "covers part of a unit", NOW + 1)
    assert {entry.request_id: (entry.state, entry.window) for entry in queue.entries()} == {
        bad: (State.REFUSED, None),
        good: (State.ACCEPTED, None),
    }
    assert queue.history(bad)[-1].why == "covers part of a unit"
    assert not queue.handled(NOW)


def test_a_batch_that_lost_a_request_is_noticed(queue):
    batch = two(queue)
    queue.begin(batch, NOW)
    with sqlite3.connect(queue.path) as raw:
        raw.execute("UPDATE requests SET window = NULL WHERE number = 1")
    with pytest.raises(RecordError, match="lost or gained"):
        queue.batch(queue.windows()[0])


# The clock


def test_time_never_goes_back(queue):
    assert queue.read_clock(NOW, policy()).at == NOW
    back = queue.read_clock(NOW - 300, policy())
    assert (back.at, back.held) == (NOW, "")
    assert submit(queue, signed(), NOW - 200).entry.received == NOW


@pytest.mark.parametrize("jump", [-301, -10 * 365 * DAY, 3 * DAY + 1, 50 * 365 * DAY])
def test_a_clock_that_jumps_is_not_believed_and_loses_nothing(queue, jump):
    queue.read_clock(NOW, policy())
    held = queue.read_clock(NOW + jump, policy())
    assert held.at == NOW
    assert time_text(NOW + jump) in held.held
    # Requests whose times look impossible on that clock are taken all the same, but for forgeries.
    taken = submit(queue, signed(), NOW + jump)
    assert taken.entry.received == NOW
    assert "not judged" in queue.history(taken.entry.request_id)[-1].why
    with pytest.raises(RequestForged):
        submit(queue, replace(signed(), units=9), NOW + jump)
    # The right clock is believed at once.
    assert queue.read_clock(NOW + 5, policy()) == replace(held, at=NOW + 5, held="")


def test_a_clock_that_stopped_judges_nobody(queue):
    """The server's clock was set back by days: what is signed meanwhile is neither from the future nor too far off."""
    queue.read_clock(NOW, policy())
    assert submit(queue, signed(submitted=NOW + 5 * DAY, deadline=NOW + 400 * DAY), NOW - 9 * DAY).new


def test_a_clock_can_be_confirmed(queue):
    queue.read_clock(NOW, policy())
    later = NOW + 100 * DAY
    assert queue.read_clock(later, policy()).held
    queue.confirm_clock(later, "the server stood still for three months")
    assert queue.read_clock(later, policy()).held == ""
    assert rows(queue)["clock_history"] == [(1, NOW, later, "the server stood still for three months")]
    queue.confirm_clock(NOW, "no, it was wrong")
    assert queue.read_clock(NOW, policy()).at == NOW


def test_long_windows_allow_long_pauses(queue):
    monthly = policy(window_seconds=30 * DAY, largest_wait_seconds=90 * DAY)
    queue.read_clock(NOW, monthly)
    assert queue.read_clock(NOW + 60 * DAY, monthly).held == ""


# Files


def test_files_that_are_no_queue(tmp_path):
    with pytest.raises(RecordError, match="does not exist"):
        RequestQueue(tmp_path / "none")
    for name, data in (("empty", b""), ("text", b"hello" * 1000)):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(RecordError, match=name):
            RequestQueue(tmp_path / name)
        assert (tmp_path / name).read_bytes() == data
    with sqlite3.connect(tmp_path / "other") as raw:
        raw.execute("CREATE TABLE t (x)")
    with pytest.raises(RecordError, match="another kind of file"):
        RequestQueue(tmp_path / "other")


def test_another_version_is_named(queue):
    queue.close()
    with sqlite3.connect(queue.path) as raw:
        raw.execute("PRAGMA user_version = 9")
    with pytest.raises(RecordError, match="version 9; this software reads 1"):
        RequestQueue(queue.path)


def test_a_damaged_file_is_refused(queue):
    for _ in range(20):
        submit(queue, signed())
    queue.close()
    data = bytearray(queue.path.read_bytes())
    data[4096 * 2 : 4096 * 2 + 200] = os.urandom(200)
    queue.path.write_bytes(data)
    with pytest.raises(RecordError, match=r"damaged|cannot be used"):
        RequestQueue(queue.path)


def test_a_queue_is_made_once(queue):
    submit(queue, signed())
    with pytest.raises(RecordError, match="exists"):
        RequestQueue.create(queue.path)
    assert len(queue.entries()) == 1
    with pytest.raises(RecordError, match="cannot be made"):
        RequestQueue.create(queue.path.parent / "nowhere" / "queue.sqlite")


def test_a_creation_that_was_killed_is_begun_anew(tmp_path):
    (tmp_path / ".queue.sqlite.part").write_bytes(b"half")
    (tmp_path / ".queue.sqlite.part-journal").write_bytes(b"half")
    with RequestQueue.create(tmp_path / "queue.sqlite") as made:
        assert made.entries() == []
    assert not list(tmp_path.glob(".*.part*"))


def test_looking_and_adding_beside_a_process_that_writes(queue):
    submit(queue, signed())
    with (
        ServiceLock(queue.path),
        RequestQueue(queue.path) as other,
        RequestQueue(queue.path, read_only=True) as looking,
    ):
        submit(other, signed("birch"))
        assert len(queue.entries()) == len(looking.entries()) == 2
        with pytest.raises(RecordError, match="readonly"):
            looking.confirm_clock(NOW, "")
        assert looking.read_clock(NOW - DAY, policy()).held
        with pytest.raises(RecordError, match="served by another process"):
            ServiceLock(queue.path)
    ServiceLock(queue.path).close()


LOCKED = (
    "import sys; from pathlib import Path; from secure_fu.deletion.queue.file import ServiceLock\n"
    "ServiceLock(Path(sys.argv[1]))"
)


def test_a_second_process_may_not_serve(queue):
    with ServiceLock(queue.path):
        second = subprocess.run([sys.executable, "-c", LOCKED, queue.path], capture_output=True, text=True, check=False)
    assert second.returncode == 1
    assert "served by another process" in second.stderr
    third = subprocess.run([sys.executable, "-c", LOCKED, queue.path], capture_output=True, text=True, check=False)
    assert third.returncode == 0, third.stderr


def test_a_full_disk_loses_nothing(queue):
    """SQLite's own limit on pages stands for the disk: the error is the same."""
    kept = [signed() for _ in range(3)]
    for request in kept:
        submit(queue, request)
    connection = queue._file._connection
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    refused = signed()

    def until_full():
        nonlocal refused
        while len(kept) < 30:
            refused = signed()
            submit(queue, refused)
            kept.append(refused)

    with pytest.raises(RecordError, match="no room on its disk"):
        until_full()
    assert [entry.request_id for entry in queue.entries()] == [request.request_id for request in kept]
    connection.execute("PRAGMA max_page_count = 100000")
    assert submit(queue, refused).new
    queue.close()
    with RequestQueue(queue.path) as again:
        assert len(again.entries()) == len(kept) + 1


def test_a_copy_is_whole(queue, tmp_path):
    submit(queue, signed())
    queue.copy_to(tmp_path / "copy.sqlite")
    with RequestQueue(tmp_path / "copy.sqlite") as copy:
        assert copy.entries() == queue.entries()
    with pytest.raises(RecordError):
        queue.copy_to(tmp_path / "copy.sqlite")


def test_stranger(queue):
    stranger = Identity.generate("stranger", Role.CLIENT)
    forged = replace(signed(), signer="stranger", signature=stranger.sign("deletion-request", content(signed())))
    with pytest.raises(RequestUnauthorised, match="stranger"):
        submit(queue, forged)


def test_paths_with_odd_names(tmp_path):
    odd = Path(tmp_path / "a ?#% é")
    odd.mkdir()
    with RequestQueue.create(odd / "queue.sqlite") as made:
        submit(made, signed())
    with RequestQueue(odd / "queue.sqlite", read_only=True) as again:
        assert len(again.entries()) == 1
