"""The relay: bytes to the node's socket and back; of what goes wrong the server hears only that there is no answer."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("flwr")

from flower_harness import context, request
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from waiting import wait_until

from secure_fu.deployment.exchange import serve, socket_path
from secure_fu.errors import ConfigError, WireError
from secure_fu.flower.carrier import pack, unpack
from secure_fu.flower.client_app import NODES_KEY, RETURN_KEY, SOCKET_KEY, client_app, node_folder, relay

SECRET = "the third record is 0.25"


class Turning:
    """A node that turns requests around."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []

    def handle(self, body: bytes) -> bytes:
        self.asked.append(body)
        return body[::-1]


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(prefix="fu") as short:  # sockets have short paths
        yield Path(short)


@contextmanager
def served(node, path, *, after=0.0):
    stop = threading.Event()

    def run():
        time.sleep(after)
        serve(node, path, stop=stop)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        wait_until(lambda: after or path.exists(), "the node listens")
        yield
    finally:
        stop.set()
        thread.join()


def at(path, seconds=0.0):
    return context(node={SOCKET_KEY: str(path), RETURN_KEY: seconds})


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_bytes_go_to_the_socket_and_back_as_they_are(folder, size):
    node, body = Turning(), np.random.default_rng(0).bytes(size)
    with served(node, folder / "a.sock"):
        reply = relay(request(pack(body)), at(folder / "a.sock"))
    assert node.asked == [body]
    assert unpack(reply.content) == body[::-1]


def test_the_app_answers_its_own_message_type_alone(folder):
    app = client_app()
    with served(Turning(), folder / "a.sock"):
        assert unpack(app(request(pack(b"abc")), at(folder / "a.sock")).content) == b"cba"
    other = request(pack(b"abc"))
    other.metadata.message_type = "train"
    with pytest.raises(ValueError, match="train"):
        app(other, at(folder / "a.sock"))


class Telling(Exception):
    """What a broken node or library could raise."""


@pytest.mark.parametrize(
    "broken",
    [
        lambda message, folder: (message, context()),
        lambda message, folder: (message, at(folder / "nobody.sock")),
        lambda message, folder: (message, context(run={NODES_KEY: str(folder)}, node={"partition-id": 0})),
        lambda message, folder: (request(RecordDict()), at(folder / "nobody.sock")),
        lambda message, folder: (message, context(node={SOCKET_KEY: str(folder), RETURN_KEY: SECRET})),
    ],
    ids=["no socket", "nobody listens", "no such node", "no message", "a setting that is none"],
)
def test_what_goes_wrong_is_an_error_without_a_reason(folder, broken, caplog):
    with caplog.at_level("CRITICAL"):
        reply = relay(*broken(request(pack(b"abc")), folder))
    assert reply.has_error()
    assert (reply.error.code, reply.error.reason) == (0, "the node gave no answer")


def test_the_text_of_an_exception_stays_on_its_machine(folder, monkeypatch):
    def tell(*_arguments):
        raise Telling(SECRET)

    monkeypatch.setattr("secure_fu.flower.client_app.ask", tell)
    reply = relay(request(pack(b"abc")), at(folder / "a.sock"))
    assert reply.has_error()
    assert SECRET not in str(reply)


def test_a_node_that_is_being_started_again_is_waited_for(folder):
    node = Turning()
    with served(node, folder / "a.sock", after=0.5):
        assert relay(request(pack(b"abc")), at(folder / "a.sock")).has_error()
        assert unpack(relay(request(pack(b"abc")), at(folder / "a.sock", 30.0)).content) == b"cba"
    assert node.asked == [b"abc"]


def test_a_request_that_may_have_been_taken_in_is_not_sent_again(folder):
    class Dropping(Turning):
        def handle(self, body):
            super().handle(body)
            raise OSError("the connection is lost")

    node = Dropping()
    with served(node, folder / "a.sock"):
        assert relay(request(pack(b"abc")), at(folder / "a.sock", 30.0)).has_error()
    assert node.asked == [b"abc"]


def test_in_a_simulation_a_node_that_runs_is_asked_at_its_socket(folder):
    for name in ("b", "a", "no-node"):
        (folder / name).mkdir()
    for name in ("b", "a"):
        (folder / name / "node.toml").touch()
    node = Turning()
    with served(node, socket_path(folder / "b")):
        there = context(run={NODES_KEY: str(folder)}, node={"partition-id": 1, "num-partitions": 2})
        assert unpack(relay(request(pack(b"abc")), there).content) == b"cba"
    with pytest.raises(ConfigError):
        node_folder(folder, 2)
    with pytest.raises(ConfigError):
        node_folder(folder / "none", 0)


def test_a_directory_that_comes_later_is_found(folder):
    for name in ("a", "b", "0"):
        (folder / name).mkdir()
        (folder / name / "node.toml").touch()
        assert node_folder(folder, 0) == min(folder.iterdir())


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"secure-fu": ConfigRecord({"body": b"abc"})}),
        RecordDict({"secure-fu": ArrayRecord({"body": Array(np.zeros(3, dtype=np.uint8))})}),
        RecordDict({**pack(b"abc"), "metrics": ConfigRecord({"examples": 240})}),
        RecordDict({"secure-fu": ArrayRecord({**pack(b"abc")["secure-fu"], "more": Array(np.zeros(1))})}),
    ],
    ids=["nothing", "another record", "an array of numpy", "a record beside it", "an array beside it"],
)
def test_nothing_travels_beside_the_bytes(content):
    with pytest.raises(WireError):
        unpack(content)


def test_the_relay_has_neither_torch_nor_keys_within_reach():
    """It is started for each message, with code that the server sends."""
    script = "import sys, secure_fu.flower.client_app; print(*sorted(sys.modules), sep='\\n')"
    modules = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    for heavy in ("torch", "secure_fu.crypto", "secure_fu.protocol", "secure_fu.deployment.node"):
        assert heavy not in modules
