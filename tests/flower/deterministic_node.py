"""INSECURE, for tests: serves a node's directory as `secure-fu node` does, with noise and samples from a seed.

python deterministic_node.py DIR SOCKET SEED
"""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

from secure_fu.crypto import InsecureDeterministicRandomness
from secure_fu.deployment.exchange import serve
from secure_fu.deployment.node import Node


def main() -> None:
    directory, socket, seed = sys.argv[1:]
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with Node.open(Path(directory), randomness=InsecureDeterministicRandomness(int(seed))) as node:
        serve(node, Path(socket), stop=stop)


if __name__ == "__main__":
    main()
