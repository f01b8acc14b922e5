"""Serves all nodes of a folder as `secure_fu.flower.node_host` does, and writes down what each message took.

python timed_nodes.py NODES TIMINGS
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # as in the node's unit in docs/deploy.md, and as the engine does for its actors

from paired.timings import as_training, write_down

import secure_fu.training.tasks as tasks
from secure_fu.deployment.node import Node
from secure_fu.flower.node_host import serve_all


def main() -> None:
    nodes, timings = (Path(argument) for argument in sys.argv[1:])
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    tasks.single_update = as_training(tasks.single_update)
    handle = Node.handle
    Node.handle = lambda self, request: write_down(timings, "secure", lambda: handle(self, request))
    serve_all(sorted(path.parent for path in nodes.glob("*/node.toml")), stop=stop)


if __name__ == "__main__":
    main()
