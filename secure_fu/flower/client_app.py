"""The ClientApp: a relay between Flower and the node on its machine, which alone has keys and data.

Flower starts a process for each message and takes the app's code from the server, so nothing secret may be within its
reach: it hands bytes to the node's socket and carries the answer back. Run the SuperNode as another user than the node.
It imports neither torch nor the protocol.

In the simulation engine there are no nodes of their own. There the node's directory is opened for each message.
"""

from __future__ import annotations

import logging
import time
from functools import lru_cache
from pathlib import Path
from typing import Final

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from secure_fu.deployment.exchange import ask, socket_path
from secure_fu.errors import ConfigError, ProtocolError
from secure_fu.flower.carrier import ACTION, pack, unpack

__all__ = ["NODES_KEY", "RETURN_KEY", "SOCKET_KEY", "client_app", "node_folder", "relay"]

SOCKET_KEY: Final = "secure-fu-socket"
RETURN_KEY: Final = "secure-fu-return-seconds"
NODES_KEY: Final = "nodes-directory"

_PARTITION_KEY: Final = "partition-id"
_RETURN_SECONDS: Final = 10.0
_PAUSE: Final = 0.2
_NO_ANSWER: Final = Error(code=0, reason="the node gave no answer")  # why is for the node's own machine to know
_LOGGER = logging.getLogger("secure_fu")


def client_app() -> ClientApp:
    """The ClientApp of an app's `pyproject.toml`. It answers messages of one type, `query.secure_fu`."""
    app = ClientApp()

    @app.query(ACTION)
    def secure_fu(message: Message, context: Context) -> Message:
        return relay(message, context)

    return app


def relay(message: Message, context: Context) -> Message:
    """Carry one message to the node and its answer back, as long as the message lives.

    The node is found by `secure-fu-socket` in the node's own configuration; one that is being started again is waited
    for, `secure-fu-return-seconds` there say how long. Where no socket is named, as in the simulation engine,
    `nodes-directory` of the run's configuration holds the nodes' directories, and the one at place `partition-id` of
    their sorted names is opened; or, if a node runs there, asked at its socket.

    Returns:
        the answer; or, whatever went wrong, an error that says no more than that there is none.
    """
    try:
        return Message(pack(_answer(unpack(message.content), message, context)), reply_to=message)
    except Exception as error:  # Flower would send the exception's text to the server
        _LOGGER.error("no answer from the node: %s: %s", type(error).__name__, error)
        return Message(_NO_ANSWER, reply_to=message)


def node_folder(nodes: Path, place: int) -> Path:
    """The directory at a place of the sorted names of those that hold a node.

    Raises:
        ConfigError: there are none, or not that many.
    """
    folders = _folders(nodes, nodes.stat().st_mtime_ns) if nodes.is_dir() else ()
    if not 0 <= place < len(folders):
        raise ConfigError(_PARTITION_KEY, place, f"a place among the {len(folders)} nodes of {nodes}")
    return folders[place]


@lru_cache(maxsize=1)
def _folders(nodes: Path, changed: int) -> tuple[Path, ...]:
    del changed  # when a directory came or went
    return tuple(sorted(path.parent for path in nodes.glob("*/node.toml")))


def _answer(request: bytes, message: Message, context: Context) -> bytes:
    seconds = message.metadata.ttl
    path = context.node_config.get(SOCKET_KEY)
    if path is not None:
        return _ask(Path(str(path)), request, seconds, float(context.node_config.get(RETURN_KEY, _RETURN_SECONDS)))
    nodes = str(context.run_config.get(NODES_KEY, ""))
    place = context.node_config.get(_PARTITION_KEY)
    if not nodes or not isinstance(place, int):
        raise ConfigError(SOCKET_KEY, None, f"the path of the node's socket, or {NODES_KEY} and {_PARTITION_KEY}")
    folder = node_folder(Path(nodes), place)
    if socket_path(folder).exists():
        return ask(socket_path(folder), request, seconds)
    from secure_fu.deployment.node import Node  # with torch and all

    with Node.open(folder) as node:
        return node.handle(request)


def _ask(path: Path, request: bytes, seconds: float, returns: float) -> bytes:
    """Ask; and again only where nobody listened, so that no node gets a message twice."""
    started = time.monotonic()
    while True:
        left = seconds - (time.monotonic() - started)
        try:
            return ask(path, request, left)
        except ProtocolError as error:
            absent = isinstance(error.__cause__, (FileNotFoundError, ConnectionRefusedError))
            if not absent or time.monotonic() - started > min(returns, seconds):
                raise
            time.sleep(_PAUSE)
