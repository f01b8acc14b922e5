"""The deletion service, killed at every step and asked anew: nothing lost, nothing twice."""

from __future__ import annotations

import os
import signal

import pytest
from queue_cast import DAY, Killed, identities, signed
from service_cast import DUE, LATER, WHOLE_LIFE, World

from secure_fu.deletion import DeletionService, RequestQueue, State, WindowGivenUp, WindowState
from secure_fu.deletion.queue.file import QueueFile


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


class Mortal:
    """A connection on which the process ends at the n-th statement, before it or after it."""

    def __init__(self, connection, life):
        self._connection, self._life = connection, life

    def execute(self, *arguments):
        self._life.step()
        result = self._connection.execute(*arguments)
        self._life.step()
        return result

    def __getattr__(self, name):
        return getattr(self._connection, name)


class Life:
    """Ends at the n-th step."""

    def __init__(self, steps):
        self.left = steps

    def step(self):
        self.left -= 1
        if self.left < 0:
            raise Killed


def live(world, life, at, act=DeletionService.run_due):
    """One life of the service, in which everything that writes may be the last; whether it came to its end."""
    world.clock.now = at
    queue = RequestQueue(world.path)
    connection = queue._file._connection
    queue._file._connection = Mortal(connection, life)
    service = world.service(queue)
    executor, certifier = world.executor, world.certifier

    class Steps:
        def check_window(self, batch):
            life.step()

        def execute(self, batch):
            life.step()
            done = executor.execute(batch)
            life.step()
            return done

        def give_up(self, window_id, why):
            life.step()
            done = executor.give_up(window_id, why)
            life.step()
            return done

    def certify(batch, done):
        life.step()
        name = certifier(batch, done)
        life.step()
        return name

    service._executor, service._certify = Steps(), certify
    try:
        act(service)
        return True
    except Killed:
        return False
    finally:
        service.close()
        connection.close()  # rolls back what was not committed, as after a kill


def check_nothing_lost_or_twice(world, requests):
    executed = [request_id for window in world.executor.executed() for request_id in window]
    assert len(executed) == len(set(executed))
    assert all(len(window) >= world.policy.minimum_batch for window in world.executor.executed())
    entries, windows = world.look()
    assert set(entries) == {request.request_id for request in requests}
    for request_id, entry in entries.items():
        done = entry.state in (State.EXECUTED, State.CERTIFIED)
        assert not done or request_id.hex() in executed
        assert (entry.window is None) is (entry.state in (State.ACCEPTED, State.REFUSED))
    return executed, windows


def asked(folder, requests):
    folder.mkdir()
    world = World(folder)
    world.ask(*requests)
    return world


@pytest.fixture
def no_waiting_for_the_disk(monkeypatch):
    """What a life leaves is the same, for its machine stays up; and there are many lives."""
    real = QueueFile.__init__

    def hasty(self, path, *, read_only=False):
        real(self, path, read_only=read_only)
        self._connection.execute("PRAGMA synchronous = OFF")

    monkeypatch.setattr(QueueFile, "__init__", hasty)


@pytest.mark.usefixtures("no_waiting_for_the_disk")
def test_killed_at_every_step(tmp_path):
    """Every statement of the queue and every call of executor and certifier is the last one of a life, once."""
    lives = 0
    requests = [signed(), signed("birch")]
    for steps in range(10_000):
        world = asked(tmp_path / str(steps), requests)
        ended = live(world, Life(steps), LATER)
        check_nothing_lost_or_twice(world, requests)
        assert live(world, Life(10**9), LATER + 1)
        executed, windows = check_nothing_lost_or_twice(world, requests)
        assert len(executed) == 2
        assert [window.state for window in windows] == [WindowState.CERTIFIED]
        assert all(world.history(request) == WHOLE_LIFE for request in requests)
        assert len(list(world.folder.glob("*.executed"))) == len(list(world.folder.glob("*.json"))) == 1
        lives += 1
        if ended:
            break
    assert lives > 60


@pytest.mark.usefixtures("no_waiting_for_the_disk")
def test_killed_at_every_step_of_giving_up(tmp_path):
    """The first window is given up, whenever it is asked for; its requests are in one that is executed, once."""
    requests = [signed(), signed("birch")]
    gave_up_before = set()
    for steps in range(10_000):
        world = asked(tmp_path / str(steps), requests)
        executes = world.executor.execute

        def execute(batch, executes=executes):
            if batch.opened == DUE:
                raise WindowGivenUp("the budget ended")
            return executes(batch)

        world.executor.execute = execute
        ended = live(world, Life(steps), LATER)
        check_nothing_lost_or_twice(world, requests)
        gave_up_before.add(tuple(window.state for window in world.look()[1]))
        assert live(world, Life(10**9), LATER + 1)
        executed, windows = check_nothing_lost_or_twice(world, requests)
        assert (executed, [window.state for window in windows]) == ([], [WindowState.GIVEN_UP])
        assert live(world, Life(10**9), LATER + DAY)
        executed, windows = check_nothing_lost_or_twice(world, requests)
        assert len(executed) == 2
        assert [window.state for window in windows] == [WindowState.GIVEN_UP, WindowState.CERTIFIED]
        if ended:
            break
    assert gave_up_before == {(), (WindowState.EXECUTING,), (WindowState.GIVEN_UP,)}


@pytest.mark.usefixtures("no_waiting_for_the_disk")
def test_killed_at_every_step_of_giving_up_by_hand(tmp_path):
    """Whatever is written by then, the window is either given up or gone on with; its requests are executed once."""
    requests = [signed(), signed("birch")]
    outcomes = set()
    for steps in range(10_000):
        world = asked(tmp_path / str(steps), requests)
        executes = world.executor.execute

        def execute(batch, world=world, executes=executes):
            if world.clock.now == LATER:
                raise Killed
            return executes(batch)

        world.executor.execute = execute
        assert not live(world, Life(10**9), LATER)
        ended = live(world, Life(steps), LATER + 1, lambda service: service.give_up("it hangs"))
        check_nothing_lost_or_twice(world, requests)
        assert live(world, Life(10**9), LATER + 2)
        assert live(world, Life(10**9), LATER + DAY)
        executed, windows = check_nothing_lost_or_twice(world, requests)
        assert len(executed) == 2
        outcomes.add(tuple(window.state for window in windows))
        if ended:
            break
    assert outcomes == {(WindowState.CERTIFIED,), (WindowState.GIVEN_UP, WindowState.CERTIFIED)}
    assert steps > 6


def test_killed_again_and_again(tmp_path):
    """Lives of a few steps, one after another: it gets there all the same."""
    world = World(tmp_path)
    requests = [signed(), signed("birch")]
    world.ask(*requests)
    lives = 0
    for steps in (3, 9, 21, 33, 45, 60, 90, 10**9):
        lives += 1
        if live(world, Life(steps), LATER + lives):
            break
        check_nothing_lost_or_twice(world, requests)
    executed, _ = check_nothing_lost_or_twice(world, requests)
    assert sorted(executed) == sorted(request.request_id.hex() for request in requests)
    assert lives > 4


def test_the_window_is_on_disk_before_anybody_is_asked(world):
    world.ask(signed(), signed("birch"))
    seen = []
    real = world.executor.execute

    def execute(batch):
        _, windows = world.look()
        seen.extend(window.state for window in windows if window.window_id == batch.window_id)
        return real(batch)

    world.executor.execute = execute
    world.run()
    assert seen == [WindowState.EXECUTING]


@pytest.mark.parametrize("broken", [False, True])
def test_asking_before_writing_would_be_caught(world, monkeypatch, broken):
    """The kill that tells the two orders apart: after the executor was asked, with another window at the next start."""
    requests = [signed(), signed("birch")]
    world.ask(*requests)
    real = world.executor.execute

    def execute(batch):
        real(batch)
        raise Killed

    if broken:
        monkeypatch.setattr(RequestQueue, "begin", lambda self, batch, at: world.executor.execute(batch))
    world.executor.execute = execute
    with pytest.raises(Killed):
        world.run()
    monkeypatch.undo()
    world.executor.execute = real
    world.run(LATER + 5, at_once=True)
    if broken:
        with pytest.raises(AssertionError):
            check_nothing_lost_or_twice(world, requests)
    else:
        check_nothing_lost_or_twice(world, requests)


@pytest.mark.parametrize("moment", ["before", "executed", "certified"])
def test_a_real_kill(tmp_path, moment):
    world = World(tmp_path)
    requests = [signed(), signed("birch")]
    world.ask(*requests)
    child = os.fork()
    if child == 0:
        try:

            def die(*_):
                os.kill(os.getpid(), signal.SIGKILL)

            execute, certify = world.executor.execute, world.certifier
            if moment == "before":
                world.executor.execute = die
            elif moment == "executed":
                world.executor.execute = lambda batch: die(execute(batch))
            else:
                world.certifier = lambda batch, done: die(certify(batch, done))
            world.run()
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL
    (window,) = world.run(LATER + 1).windows
    assert window.state is WindowState.CERTIFIED
    executed, _ = check_nothing_lost_or_twice(world, requests)
    assert len(executed) == 2
    assert all(world.history(request) == WHOLE_LIFE for request in requests)


def test_identities_stay_out_of_the_queue(world):
    """The server's queue needs no secret key of a client."""
    world.ask(signed(), signed("birch"))
    kept = world.path.read_bytes()
    assert identities()["alder"].party.verify_key not in kept
