"""The deletion service of a real server over sockets: requests in the queue, windows executed, certificates written."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
import tomli_w
from operations_cast import CLIENTS, MEMBERS, Operated
from waiting import wait_until

from secure_fu.cli import unlearn
from secure_fu.crypto import Identity, Role, Roster
from secure_fu.crypto.identity_file import read_identities
from secure_fu.deletion import (
    BatchRefused,
    DeletionRequest,
    RequestQueue,
    RequestTooLarge,
    SignedBatch,
    State,
    WindowState,
    read_deletion_policy,
    sign_request,
)
from secure_fu.deletion.certificates import read_certificate
from secure_fu.deployment.exchange import SocketExchange, serve
from secure_fu.deployment.exchange.messages import Kind
from secure_fu.deployment.node import Node
from secure_fu.deployment.server import (
    FederationServer,
    Patience,
    deletion_service,
    read_node_sockets,
)
from secure_fu.deployment.server.deletion_executor import ServerExecutor
from secure_fu.errors import ArgumentError, ConfigError
from secure_fu.file_names import AUDIT, CERTIFICATES, QUEUE

NOW = (int(time.time()) - 1800) // 3600 * 3600 + 1800  # windows are due at full hours, whenever the tests run
DAY = 24 * 3600
PATIENCE = Patience(hello=30.0, begin=30.0, invite=60.0, opening=30.0, wipe=30.0, attempts=2, pause=0.1)
WANTED = DeletionRequest.some_records("silo-1", (0, 3, 7))
OTHER = DeletionRequest.some_records("silo-2", (1, 4))
LEAVES = DeletionRequest.whole_client("silo-3")


class Nodes:
    """Every party's node in a thread of its own, each at a socket."""

    def __init__(self, operated: Operated, sockets: Path) -> None:
        self.operated = operated
        self.paths = {name: sockets / name for name in (*CLIENTS, *MEMBERS)}
        self.running: dict[str, tuple[threading.Event, threading.Thread]] = {}
        self.new = set(self.paths)
        (operated.server / "nodes.toml").write_text(
            tomli_w.dumps({"sockets": [os.path.relpath(path, operated.server) for path in self.paths.values()]})
        )

    def start(self, *names: str) -> None:
        for name in names or self.paths:
            stop = threading.Event()
            make = Node.create if name in self.new else Node.open

            def work(name=name, make=make, stop=stop):
                with make(self.operated.root / name) as node:  # its records belong to this thread
                    serve(node, self.paths[name], stop=stop)

            self.new.discard(name)
            thread = threading.Thread(target=work, daemon=True)
            thread.start()
            self.running[name] = (stop, thread)
        wait_until(lambda: all(self.paths[name].exists() for name in names or self.paths), "the nodes' sockets")

    def stop(self, *names: str) -> None:
        for name in names or tuple(self.running):
            stop, thread = self.running.pop(name)
            stop.set()
            thread.join(timeout=30)
            assert not thread.is_alive()


@pytest.fixture
def field(tmp_path):
    """A federation that has been trained for two rounds, with all its nodes up."""
    operated = Operated(tmp_path)
    sockets = Path(tempfile.mkdtemp(prefix="sfu-"))  # paths of sockets have to be short
    nodes = Nodes(operated, sockets)
    nodes.start()
    exchange = SocketExchange(read_node_sockets(operated.server))
    with FederationServer.open(operated.server, exchange, patience=PATIENCE) as server:
        server.train(rounds=2)
    yield operated, nodes
    nodes.stop()
    shutil.rmtree(sockets)


def signed(operated, wanted, units=3, **named):
    identity = read_identities(operated.root / wanted.client / "keys.bin")[wanted.client]
    times = {"submitted": NOW - DAY, "deadline": NOW + 30 * DAY, **named}
    return sign_request(identity, wanted, roster=operated.roster, units=units, **times)


def run_service(operated, queue, now, **options):
    exchange = SocketExchange(read_node_sockets(operated.server))
    with deletion_service(operated.server, queue, exchange, clock=lambda: now, patience=PATIENCE) as service:
        return service.run_due(**options)


def hand_in(operated, *requests, now=NOW - 2 * 3600):
    path = operated.server / QUEUE
    path.parent.mkdir(exist_ok=True)
    queue = RequestQueue(path) if path.exists() else RequestQueue.create(path)
    policy = read_deletion_policy(operated.server / "deletion.toml")
    queue.submit_all(requests, roster=operated.roster, policy=policy, now=now)
    return queue


def certificates(operated):
    return [read_certificate(path).body for path in sorted((operated.server / CERTIFICATES).glob("*.json"))]


def test_requests_become_certificates(field, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "report")
    from audit_examples import quick

    operated, nodes = field
    first, second = signed(operated, WANTED, disclose=True), signed(operated, OTHER, 2)
    (operated.server / AUDIT).write_text("{}")
    with hand_in(operated, first, second) as queue:
        with pytest.raises(ConfigError, match=r"audit\.json"):
            run_service(operated, queue, NOW)
        assert {entry.state for entry in queue.entries()} == {State.EXECUTED}, "deleted, and not certified yet"
    (operated.server / AUDIT).write_text(json.dumps(quick()))
    with hand_in(operated, first, second) as queue:
        (window,) = run_service(operated, queue, NOW).windows
        assert (window.state, window.requests, window.hidden_units) == (WindowState.CERTIFIED, 2, 2)
        assert {entry.state for entry in queue.entries()} == {State.CERTIFIED}
        # An hour later nobody has asked: a round for cover, over the same nodes, with a certificate of its own.
        nodes.stop("silo-0")
        nodes.start("silo-0")
        (cover,) = run_service(operated, queue, NOW + 3600).windows
        assert (cover.state, cover.requests) == (WindowState.CERTIFIED, 0)
        assert run_service(operated, queue, NOW + 3601).windows == ()
    one, two = certificates(operated)
    assert (one["window"], two["window"]) == (window.window_id.hex(), cover.window_id.hex())
    assert [entry["requester"]["name"] for entry in one["asked"]["requests"]].count("silo-1") == 1
    assert two["asked"]["requests"] == []
    assert one["unconfirmed"] == two["unconfirmed"] == []
    assert one["audit"]["quick"] is True
    assert one["audit"]["sha256"] == hashlib.sha256((operated.server / AUDIT).read_bytes()).hexdigest()
    assert len(one["wiped"]) == len(CLIENTS)


def test_a_client_that_was_away_confirms_later(field):
    operated, nodes = field
    # The client's node ends when it has uploaded, before it is told to wipe.
    with hand_in(operated, signed(operated, WANTED)) as queue:
        ended = threading.Event()
        exchange = SocketExchange(read_node_sockets(operated.server))
        ask = exchange.ask

        def without(requests, *, timeout):
            from secure_fu.crypto.wire import decode
            from secure_fu.deployment.exchange.messages import NodeRequest

            content = dict(requests)
            if any(decode(NodeRequest, one).kind is Kind.WIPE for one in content.values()) and not ended.is_set():
                ended.set()
                nodes.stop("silo-2")
            yield from ask(content, timeout=timeout)

        exchange.ask = without
        with deletion_service(operated.server, queue, exchange, clock=lambda: NOW, patience=PATIENCE) as service:
            (window,) = service.run_due().windows
        assert (window.state, ended.is_set()) == (WindowState.EXECUTED, True)
        assert queue.execution(window).missing == ("silo-2",)
        assert run_service(operated, queue, NOW + 1).windows == ()
        nodes.start("silo-2")
        (window,) = run_service(operated, queue, NOW + 2).windows
        assert window.state is WindowState.CERTIFIED
    (certificate,) = certificates(operated)
    assert certificate["unconfirmed"] == []


class Ended(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("kind", [Kind.BEGIN, Kind.INVITE, Kind.WIPE])
def test_an_interrupted_window_is_gone_on_with(field, kind):
    operated, _ = field
    exchange = SocketExchange(read_node_sockets(operated.server))
    ask = exchange.ask

    def ends(requests, *, timeout):
        from secure_fu.crypto.wire import decode
        from secure_fu.deployment.exchange.messages import NodeRequest

        content = dict(requests)
        if any(decode(NodeRequest, one).kind is kind for one in content.values()):
            raise Ended
        yield from ask(content, timeout=timeout)

    exchange.ask = ends
    with hand_in(operated, signed(operated, WANTED)) as queue:
        with (
            deletion_service(operated.server, queue, exchange, clock=lambda: NOW, patience=PATIENCE) as service,
            pytest.raises(Ended),
        ):
            service.run_due()
        assert {entry.state for entry in queue.entries()} == {State.EXECUTING}
        (window,) = run_service(operated, queue, NOW + 1).windows
        assert window.state is WindowState.CERTIFIED
    assert len(certificates(operated)) == 1
    with FederationServer.open(operated.server, exchange, patience=PATIENCE) as server:
        assert len(server.executed) == 1


def test_who_has_left_can_ask_again_and_what_was_executed_is_refused(field):
    """The server cannot know whether a client could do what it was asked; that a request was executed it knows."""
    operated, _ = field
    (operated.server / "deletion.toml").write_text(
        (operated.server / "deletion.toml")
        .read_text()
        .replace("cover = true", "cover = false")
        .replace("hidden_units = 2", "hidden_units = 0")
    )
    executor = ServerExecutor(lambda: pytest.fail("nothing is to be opened before it is needed"))
    executor.close()
    with hand_in(operated, signed(operated, LEAVES, 10)) as queue:
        (window,) = run_service(operated, queue, NOW).windows
        assert window.state in (WindowState.CERTIFIED, WindowState.EXECUTED)
        late = signed(operated, DeletionRequest.some_records("silo-3", (1,)))
        hand_in(operated, late, now=NOW + 60).close()
        report = run_service(operated, queue, NOW + 3600)
        assert [one.state for one in report.windows] == [window.state]
        assert queue.history(late.request_id)[-1].state is not State.REFUSED
    executor = ServerExecutor(
        lambda: FederationServer.open(
            operated.server, SocketExchange(read_node_sockets(operated.server)), patience=PATIENCE
        )
    )
    with closing(executor), pytest.raises(BatchRefused, match="has been forgotten before") as refused:
        executor.execute(SignedBatch.of(NOW + 7200, (late,), 0))
    assert refused.value.requests == (late.request_id,)


class Planner:
    """A server that can plan for so many units of a request, and for so many of a batch."""

    def __init__(self, request: int, batch: int, *, error: Exception, always: bool = False) -> None:
        self.limits, self.error, self.always = (request, batch), error, always
        self.ran: list[bytes] = []
        self.roster = self

    clients = frozenset(CLIENTS)

    def execution(self, _window):
        return None

    def deletion(self, batch, *, adaptive):
        assert adaptive
        largest, together = self.limits
        if self.always or batch.units > together or any(one.units > largest for one in batch.requests):
            raise self.error

    def execute(self, batch):
        self.ran.append(batch.window_id)
        return "done"


@pytest.mark.parametrize("error", [MemoryError(), OverflowError("too large"), ArgumentError("units", 9, "fewer")])
def test_a_request_that_nothing_can_be_planned_for_goes_alone(error):
    keys = {name: Identity.generate(name, Role.CLIENT) for name in CLIENTS}
    roster = Roster.of([Identity.generate("server", Role.SERVER).party, *(one.party for one in keys.values())])
    one, two, large = (
        sign_request(
            keys[name],
            DeletionRequest.some_records(name, (0,)),
            roster=roster,
            units=units,
            submitted=NOW - 1,
            deadline=NOW + DAY,
        )
        for name, units in (("silo-0", 1), ("silo-1", 5), ("silo-2", 100))
    )

    def execute(planner, requests, begun=False):
        batch = SignedBatch.of(NOW, requests, 0)
        return ServerExecutor(lambda: planner, begun=lambda _: begun).execute(batch)

    with pytest.raises(BatchRefused, match=f"no deletion can be planned for it: {type(error).__name__}") as caught:
        execute(Planner(99, 1000, error=error), [one, large, two])
    assert caught.value.requests == (large.request_id,)
    with pytest.raises(BatchRefused) as caught:  # each alone would do
        execute(Planner(99, 5, error=error), [one, two])
    assert caught.value.requests == (two.request_id,)
    assert execute(Planner(99, 1000, error=error), [one, two]) == "done"
    # What is so without any request is nobody's fault, and what has set out is not given back.
    with pytest.raises(type(error)):
        execute(Planner(99, 1000, error=error, always=True), [one, two])
    assert execute(Planner(99, 1000, error=error), [one, large, two], begun=True) == "done"


def test_as_many_units_as_a_request_can_name_hold_up_nobody(field):
    """Also where the policy allows them: nothing that is computed grows with the number."""
    operated, _ = field
    path = operated.server / "deletion.toml"
    whole, other = signed(operated, WANTED, (1 << 32) - 1), signed(operated, OTHER)
    with pytest.raises(RequestTooLarge, match="the policy allows 100000"):
        hand_in(operated, whole)
    path.write_text(path.read_text().replace("maximum_units = 100000", f"maximum_units = {(1 << 32) - 1}"))
    with hand_in(operated, whole, other) as queue:
        (window,) = run_service(operated, queue, NOW).windows
        assert (window.state, window.requests) == (WindowState.CERTIFIED, 2)
        assert queue.execution(window).group_size >= (1 << 32) - 1


def test_clients_that_are_not_there(field):
    operated, _ = field
    exchange = SocketExchange(read_node_sockets(operated.server))
    executor = ServerExecutor(lambda: FederationServer.open(operated.server, exchange, patience=PATIENCE))
    lost = signed(operated, WANTED)
    stranger = type(lost.boxes[0])(client="elsewhere", box=lost.boxes[0].box)
    batch = SignedBatch.of(NOW, [replace_boxes(lost, (stranger,))], 0)
    with pytest.raises(BatchRefused, match="no longer in the roster") as caught:
        executor.execute(batch)
    executor.close()
    assert caught.value.requests == (lost.request_id,)


def replace_boxes(one, boxes):
    from dataclasses import replace

    return replace(one, client="elsewhere", boxes=boxes)


# The command


def test_the_command_line_from_request_to_certificate(field, command):
    operated, _ = field
    keys = operated.root / "silo-1" / "keys.bin"
    asked = ("request", operated.server, "--identity", keys, "--records", "0,3,7", "--deadline", "2999-12-31")
    code, _, err = command(*asked)
    assert (code, "at the latest" in err) == (2, True)
    deadline = time.strftime("%Y-%m-%d", time.gmtime(NOW + 40 * DAY))
    assert command(*asked[:-1], deadline)[0] == 0
    code, out, err = command("unlearn", operated.server, "--now", "--json")
    said = json.loads(out)
    assert (code, said["schema"], said["held"], said["skipped"]) == (0, "secure-fu/unlearn/1", None, None)
    (window,) = said["windows"]
    assert (window["state"], window["requests"]) == ("certified", 1)
    assert (operated.server / CERTIFICATES / window["certificate"]).is_file()
    code, out, _ = command("pending", operated.server, "--all", "--json")
    assert [entry["state"] for entry in json.loads(out)["requests"]] == ["certified"]


def test_ctrl_c_while_it_watches(field, command):
    operated, _ = field
    real = time.sleep

    def interrupted(seconds):
        if seconds >= 1:
            raise KeyboardInterrupt
        real(seconds)

    unlearn.time.sleep = interrupted
    try:
        code, out, err = command("unlearn", operated.server, "--watch", "--json")
    finally:
        unlearn.time.sleep = real
    assert (code, "interrupted" in err, "Traceback" in err) == (130, True, False)
    assert json.loads(out.splitlines()[0])["windows"][0]["state"] == "certified"


def test_nodes_that_are_all_away(field, command):
    """Nobody can be reached: the window stays, with a note, and the exit code says so."""
    operated, nodes = field
    nodes.stop()
    code, out, err = command("unlearn", operated.server, "--now")
    assert (code, out, "Traceback" in err) == (1, "", False)
    assert "clients can be reached" in err
    code, out, _ = command("pending", operated.server, "--json")
    (window,) = json.loads(out)["windows"]
    assert (window["state"], "can be reached" in window["note"]) == ("executing", True)
    nodes.start()
    assert command("unlearn", operated.server)[0] == 0
