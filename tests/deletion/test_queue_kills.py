"""The queue, killed: what it took is there, and nothing is there by halves."""

from __future__ import annotations

import os
import signal

import pytest
from queue_cast import NOW, policy, roster, rows, signed

from secure_fu.deletion import RequestQueue


@pytest.fixture
def queue(tmp_path):
    with RequestQueue.create(tmp_path / "queue.sqlite") as made:
        yield made


def submit(queue, request, now=NOW):
    return queue.submit(request, roster=roster(), policy=policy(), now=now)


# Kills: a child adds one request after another and says which it was told are on disk.


def test_what_was_taken_before_a_kill_is_there(queue, tmp_path):
    queue.close()
    requests = [signed() for _ in range(60)]
    for life in range(4):
        said = tmp_path / f"said-{life}"
        child = os.fork()
        if child == 0:
            try:
                with RequestQueue(queue.path) as own, said.open("ab", buffering=0) as notes:
                    for request in requests:
                        submit(own, request)
                        notes.write(request.request_id)
                        if len(own.entries()) >= 12 * (life + 1):
                            os.kill(os.getpid(), signal.SIGKILL)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), status
        with RequestQueue(queue.path) as own:
            there = [entry.request_id for entry in own.entries()]
        assert len(set(there)) == len(there) == 12 * (life + 1)
        notes = said.read_bytes()
        assert {notes[start : start + 16] for start in range(0, len(notes), 16)} <= set(there)
    assert not (set(there) - {request.request_id for request in requests})


class Stopped(BaseException):
    """Stands for the end of the process: whatever was not committed is rolled back, as after a kill."""


class Stopping:
    """A connection that ends at the n-th statement: before it, or, for even numbers, after it."""

    def __init__(self, connection, place):
        self.connection, self.place, self.count = connection, place, 0

    def execute(self, *arguments):
        self.count += 1
        if self.count == self.place // 2 + 1 and self.place % 2 == 0:
            raise Stopped
        result = self.connection.execute(*arguments)
        if self.count == self.place // 2 + 1:
            raise Stopped
        return result

    def __getattr__(self, name):
        return getattr(self.connection, name)


def test_killed_at_every_statement_a_request_is_there_or_not(tmp_path):
    request = signed()
    outcomes = set()
    for place in range(40):
        path = tmp_path / f"{place}.sqlite"
        RequestQueue.create(path).close()
        queue = RequestQueue(path)
        real = queue._file._connection
        queue._file._connection = Stopping(real, place)
        try:
            submit(queue, request)
            finished = True
        except Stopped:
            finished = False
        real.close()
        with RequestQueue(path) as again:
            found = len(again.entries())
            assert found == len(rows(again)["contents"]) == len(rows(again)["history"]) // 2
            assert submit(again, request).new is (found == 0)
            assert len(again.entries()) == 1
        outcomes.add((finished, found))
        if finished:
            break
    assert outcomes == {(False, 0), (False, 1), (True, 1)}
