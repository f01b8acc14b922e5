"""The two exchanges of the package: bytes to nodes, answers as they come, silence where there is none."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from waiting import wait_until

from secure_fu.deployment.exchange import SocketExchange, serve
from secure_fu.deployment.exchange.exchange import InProcessExchange
from secure_fu.errors import ArgumentError, ProtocolError


class Says:
    """A node that answers with its name and what it was asked, once it may."""

    def __init__(self, name, *, waits_for=None, size=0):
        self.name = name
        self.waits_for = waits_for
        self.size = size
        self.asked = []

    def handle(self, request):
        self.asked.append(request)
        if self.waits_for is not None:
            assert self.waits_for.wait(30.0)
        return f"{self.name}: ".encode() + request + bytes(self.size)


@pytest.fixture
def sockets():
    """Serves nodes at sockets; their paths, by name."""
    stop, threads = threading.Event(), []
    with tempfile.TemporaryDirectory(prefix="sfu-") as folder:

        def make(*nodes):
            paths = {}
            for node in nodes:
                paths[node.name] = Path(folder) / f"{node.name}.sock"
                thread = threading.Thread(target=serve, args=(node, paths[node.name]), kwargs={"stop": stop})
                thread.start()
                threads.append(thread)
            wait_until(lambda: all(path.exists() for path in paths.values()), "every node listens")
            return paths

        yield make
        stop.set()
        for thread in threads:
            thread.join()


def requests_to(paths):
    return {str(path): name.encode() for name, path in paths.items()}


def test_each_node_is_asked_its_own(sockets):
    nodes = [Says(name) for name in "abcd"]
    paths = sockets(*nodes)
    exchange = SocketExchange(paths.values())
    assert exchange.nodes() == tuple(str(path) for path in paths.values())
    for _ in range(2):
        found = dict(exchange.ask(requests_to(paths), timeout=30.0))
        assert found == {str(path): f"{name}: {name}".encode() for name, path in paths.items()}
    assert [node.asked for node in nodes] == [[name.encode()] * 2 for name in "abcd"]
    assert list(exchange.ask({}, timeout=30.0)) == []


def test_who_is_quick_does_not_wait_for_who_is_slow(sockets):
    go = threading.Event()
    paths = sockets(Says("slow", waits_for=go), Says("quick"))
    answers = SocketExchange(paths.values()).ask(requests_to(paths), timeout=30.0)
    assert next(answers)[1] == b"quick: quick"
    go.set()
    assert next(answers)[1] == b"slow: slow"
    assert list(answers) == []


def test_who_is_silent_is_left_out_at_the_timeout(sockets):
    go = threading.Event()
    paths = sockets(Says("slow", waits_for=go), Says("quick"))
    found = list(SocketExchange(paths.values()).ask(requests_to(paths), timeout=1.0))
    go.set()
    assert [answer for _, answer in found] == [b"quick: quick"]


def test_a_path_without_a_node_is_silent_at_once(sockets, tmp_path):
    paths = {**sockets(Says("here")), "away": tmp_path / "away.sock"}
    exchange = SocketExchange(paths.values())
    assert [answer for _, answer in exchange.ask(requests_to(paths), timeout=600.0)] == [b"here: here"]


@pytest.mark.parametrize("workers", [1, 3, 32])
def test_with_few_workers_all_are_asked(sockets, workers):
    paths = sockets(*(Says(f"n{number}", size=100_000) for number in range(8)))
    found = list(SocketExchange(paths.values(), workers=workers).ask(requests_to(paths), timeout=30.0))
    assert {address for address, _ in found} == {str(path) for path in paths.values()}
    assert len(found) == 8


def test_answers_wait_at_their_nodes_until_they_are_taken(sockets):
    nodes = [Says(f"n{number}") for number in range(8)]
    paths = sockets(*nodes)
    answers = SocketExchange(paths.values(), workers=2).ask(requests_to(paths), timeout=30.0)
    next(answers)
    threading.Event().wait(0.5)
    # One was taken, one waits to be, and each of two workers holds one.
    assert sum(len(node.asked) for node in nodes) <= 4
    assert len(list(answers)) == 7


def test_an_exchange_that_is_given_up_ends(sockets):
    paths = sockets(*(Says(f"n{number}") for number in range(8)))
    before = threading.active_count()
    answers = SocketExchange(paths.values(), workers=2).ask(requests_to(paths), timeout=30.0)
    next(answers)
    answers.close()
    for _ in range(100):
        if threading.active_count() == before:
            break
        threading.Event().wait(0.05)
    assert threading.active_count() == before


class Broken(Mapping):
    """Requests that cannot be made."""

    def __init__(self, addresses):
        self._addresses = addresses

    def __getitem__(self, address):
        raise ProtocolError("this request cannot be made")

    def __iter__(self):
        return iter(self._addresses)

    def __len__(self):
        return len(self._addresses)


def test_an_error_of_the_asking_side_is_raised_there(sockets):
    paths = sockets(Says("a"), Says("b"))
    with pytest.raises(ProtocolError, match="cannot be made"):
        list(SocketExchange(paths.values()).ask(Broken(requests_to(paths)), timeout=30.0))
    nodes = {"a": Says("a")}
    with pytest.raises(ProtocolError, match="cannot be made"):
        list(InProcessExchange(nodes).ask(Broken(nodes), timeout=30.0))


def test_sockets_have_a_domain(tmp_path):
    with pytest.raises(ArgumentError, match="each path once"):
        SocketExchange([tmp_path / "a", tmp_path / "a"])
    with pytest.raises(ArgumentError, match="workers"):
        SocketExchange([], workers=0)


# In one process


def test_in_one_process_nodes_are_asked_when_their_answer_is_wanted():
    nodes = {name: Says(name) for name in "abc"}
    answers = InProcessExchange(nodes).ask(dict.fromkeys("abc", b"x"), timeout=30.0)
    assert next(answers) == ("a", b"a: x")
    assert nodes["b"].asked == []
    assert dict(answers) == {"b": b"b: x", "c": b"c: x"}


class Raises:
    def __init__(self, error):
        self.error = error

    def handle(self, request):
        raise self.error


def test_in_one_process_a_lost_connection_is_silence_and_a_mistake_is_none():
    nodes = {"lost": Raises(ConnectionError()), "here": Says("here")}
    asked = {"lost": b"x", "here": b"x", "unknown": b"x"}
    assert dict(InProcessExchange(nodes).ask(asked, timeout=30.0)) == {"here": b"here: x"}
    with pytest.raises(ValueError, match="mistake"):
        list(InProcessExchange({"wrong": Raises(ValueError("mistake"))}).ask({"wrong": b""}, timeout=30.0))
    assert list(InProcessExchange(nodes).ask({"here": b"x"}, timeout=-1.0)) == []
