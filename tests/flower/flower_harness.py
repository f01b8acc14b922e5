"""Helpers for tests of the Flower layer: a grid without Flower's network, tasks to make messages in, a tiny app."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flwr.app import Context, Error, Message, Metadata, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from secure_fu.flower.carrier import MESSAGE_TYPE, pack, unpack

RUN = 7
SERVER = 1

APP = """
[project]
name = "echo"
version = "1.0.0"
description = "Carries bytes there and back"
license = "Apache-2.0"
dependencies = []

[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[tool.flwr.app]
publisher = "secure-fu"

[tool.flwr.app.components]
serverapp = "echo.server:app"
clientapp = "echo.client:app"

[tool.flwr.app.config]
out = ""
nodes = 1
size = 1000
secret = ""
"""

CLIENT = """
from flwr.app import Message
from flwr.clientapp import ClientApp

from secure_fu.flower.carrier import ACTION, pack, unpack

app = ClientApp()


@app.query(ACTION)
def answer(message, context):
    body = unpack(message.content)
    return Message(pack(body[::-1] + context.node_config["name"].encode()), reply_to=message)
"""

SERVER_APP = """
import json
import os
import time
import time
from pathlib import Path

from flwr.serverapp import ServerApp

from secure_fu.flower.grid_exchange import GridExchange

app = ServerApp()


@app.main()
def main(grid, context):
    exchange = GridExchange(grid)
    while len(exchange.nodes()) < context.run_config["nodes"]:
        time.sleep(0.1)
    bodies = {node: os.urandom(context.run_config["size"]) for node in exchange.nodes()}
    answers = dict(exchange.ask(bodies, timeout=60))
    names = {node: answers[node].removeprefix(body[::-1]).decode() for node, body in bodies.items()}
    Path(context.run_config["out"]).write_text(json.dumps(names))
"""


def write_echo_app(folder: Path) -> Path:
    """An app whose nodes turn bytes around and add their name, and whose server writes down the names."""
    package = folder / "echo"
    package.mkdir(parents=True)
    (folder / "pyproject.toml").write_text(APP)
    (package / "__init__.py").touch()
    (package / "client.py").write_text(CLIENT)
    (package / "server.py").write_text(SERVER_APP)
    return folder


@contextmanager
def running_task() -> Iterator[None]:
    """Flower makes messages only in a task; this thread's process pretends to be the server's."""
    before = (TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id)
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 3, RUN, SERVER
    try:
        yield
    finally:
        TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = before


def request(content: RecordDict, *, node: int = 11) -> Message:
    """A message as it comes to a ClientApp."""
    metadata = Metadata(
        run_id=RUN,
        message_id="asked",
        src_node_id=SERVER,
        dst_node_id=node,
        reply_to_message_id="",
        group_id="",
        created_at=time.time(),
        ttl=60.0,
        message_type=MESSAGE_TYPE,
    )
    return Message(content, metadata=metadata)


def context(*, node: dict[str, object] | None = None, run: dict[str, object] | None = None) -> Context:
    """What a ClientApp knows of its node and of the run."""
    return Context(run_id=RUN, node_id=11, node_config=node or {}, state=RecordDict(), run_config=run or {})


class ScriptedGrid(Grid):
    """A grid whose nodes answer as told.

    Args:
        nodes: what each makes of a request: bytes, an Error, any content, or None for silence.
        late: how many times a node's answer is asked for before it is there.
    """

    def __init__(
        self, nodes: dict[int, Callable[[bytes], bytes | Error | RecordDict | None]], late: dict[int, int] | None = None
    ) -> None:
        self.nodes = nodes
        self.late = dict(late or {})
        self.sent: list[tuple[int, bytes]] = []
        self.lives: list[float] = []
        self.most_at_once = 0
        self._replies: dict[str, tuple[int, Message | None]] = {}

    def set_run(self, run) -> None:
        raise AssertionError("not for the exchange")

    @property
    def run(self):
        raise AssertionError("not for the exchange")

    def create_message(self, *arguments, **named):
        raise AssertionError("Flower has deprecated it")

    def send_and_receive(self, messages, *, timeout=None):
        raise AssertionError("waits three seconds between two looks")

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            node = message.metadata.dst_node_id
            if node not in self.nodes:
                ids.append(None)
                continue
            message_id = os.urandom(8).hex()
            message.metadata.__dict__["_message_id"] = message_id
            body = unpack(message.content)
            self.sent.append((node, body))
            self.lives.append(message.metadata.ttl)
            answer = self.nodes[node](body)
            reply = None
            if isinstance(answer, bytes):
                reply = Message(pack(answer), reply_to=message)
            elif answer is not None:
                reply = Message(answer, reply_to=message)
            self._replies[message_id] = (node, reply)
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        there = []
        for message_id in message_ids:
            node, reply = self._replies[message_id]
            if reply is None:
                continue
            if self.late.get(node, 0) > 0:
                self.late[node] -= 1
                continue
            there.append(reply)
        self.most_at_once = max(self.most_at_once, len(there))
        return there
