"""All nodes of a folder in one process, each at its own socket: for simulations with many nodes.

    python -m secure_fu.flower.node_host NODES

In a simulation the relay opens a node's directory for each message. Where a node listens it is asked there instead,
which is faster, and needed for a key-holder, whose keys of a round are in memory alone. A real deployment runs
`secure-fu node` for each node, on its own machine.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from secure_fu.deployment.exchange import serve, socket_path
from secure_fu.deployment.logs import log_to
from secure_fu.deployment.node import Node
from secure_fu.errors import ArgumentError

__all__ = ["main", "serve_all"]


def serve_all(folders: Sequence[Path], *, stop: threading.Event, open_node: Callable[[Path], Node] = Node.open) -> None:
    """Open the nodes of these directories and serve each in a thread of its own, until `stop` is set.

    Args:
        folders: directories of nodes.
        stop: looked at every fifth of a second.
        open_node: for a node with other than the usual arguments.

    Raises:
        ArgumentError: there is no directory.
        SecureFUError: the first that a node raised when it was opened, or its socket made; the others have ended.
    """
    if not folders:
        raise ArgumentError("folders", [], "at least one node's directory")
    failures: list[Exception] = []

    def run(folder: Path) -> None:
        try:
            with open_node(folder) as node:  # in this thread, which alone may use it
                serve(node, socket_path(folder), stop=stop)
        except Exception as error:
            failures.append(error)
            stop.set()

    with ExitStack() as ended:
        for folder in folders:
            thread = threading.Thread(target=run, args=(folder,), name=folder.name)
            thread.start()
            ended.callback(thread.join)
    if failures:
        raise failures[0]


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nodes", type=Path, metavar="NODES", help="folder with the nodes' directories")
    options = parser.parse_args(arguments)
    log_to(sys.stderr)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    serve_all(sorted(path.parent for path in options.nodes.glob("*/node.toml")), stop=stop)


if __name__ == "__main__":
    main()
