"""Parties as processes of their own, forked from one that has loaded everything."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from field.faults import plant
from field.founding import WINDOW_SECONDS, Field
from field.places import die_at_places
from field.plain import Mutable, record_plain
from field.trace import Traced
from secure_fu.deletion import RequestQueue, State, WindowState, read_deletion_policy, read_request
from secure_fu.deployment.exchange import SocketExchange, serve
from secure_fu.deployment.node import Node
from secure_fu.deployment.server import FederationServer, Patience, deletion_service
from secure_fu.errors import CohortTooSmall, RoundAborted
from secure_fu.training import OnRound, no_observer

__all__ = [
    "PATIENCE",
    "Life",
    "hand_in",
    "open_server",
    "run_node",
    "run_windows",
    "say",
    "start",
    "train_to",
]

PATIENCE = Patience(hello=3.0, begin=8.0, invite=8.0, opening=4.0, wipe=8.0, attempts=4, pause=0.25)
_DIE_WITH_PARENT = 1


@dataclass(frozen=True, kw_only=True)
class Life:
    """One process of a party."""

    name: str
    kind: str
    pid: int
    log: Path

    @property
    def arm(self) -> Path:
        """Where it is told to die; see :func:`field.places.die_at_places`."""
        return self.log.with_suffix(".arm")

    @property
    def error(self) -> str:
        """Name of the exception that it ended with."""
        said = self.log.with_suffix(".error")
        return said.read_text() if said.exists() else ""


def start(name: str, kind: str, work: Callable[[], object], folder: Path, *, fault: str = "", armed: str = "") -> Life:
    """Fork a process that works and ends.

    Args:
        kind: a key of :data:`field.places.PLACES`.
        folder: of its log.
        fault: to be planted in it, see :mod:`field.faults`.
        armed: where to die, from the beginning.
    """
    folder.mkdir(exist_ok=True)
    log = folder / f"{name}~{time.monotonic_ns()}.log"
    if armed:
        log.with_suffix(".arm").write_text(armed)
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return Life(name=name, kind=kind, pid=pid, log=log)
    code = 1
    try:
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        os.setsid()
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        plant(fault, kind)
        die_at_places(kind, log.with_suffix(".arm"))
        work()
        code = 0
    except BaseException as error:
        traceback.print_exc()
        log.with_suffix(".error").write_text(type(error).__name__)
    finally:
        sys.stderr.flush()
        os._exit(code)


def run_node(field: Field, name: str, *, plain: bool = False, mute: Path | None = None) -> None:
    """What `secure-fu node` does, and a trace of all that passes.

    Args:
        plain: whether its clients write down what they contribute, in place of the trace.
        mute: where a file makes it silent.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if plain:
        record_plain(field.root / "plain")
    with Node.open(field.node(name)) as node:
        traced = node if plain else Traced(node, field.root / "traces", name)
        serve(traced if mute is None else Mutable(traced, mute), field.socket(name), stop=stop)


def open_server(field: Field) -> FederationServer:
    return FederationServer.open(field.server, SocketExchange(field.sockets), patience=PATIENCE)


def train_to(field: Field, rounds: int, on_round: OnRound = no_observer, *, patient: bool = False) -> None:
    """Train until the main line has so many rounds.

    Args:
        patient: whether a round that came to nothing is asked for again, however often.
    """
    with open_server(field) as server:
        while server.state.rounds < rounds:
            try:
                server.train(on_round, rounds=rounds - server.state.rounds)
            except (RoundAborted, CohortTooSmall):
                if not patient:
                    raise
                time.sleep(0.1)


def hand_in(field: Field, name: str) -> None:
    """Hand in the requests of a folder. What the queue has acknowledged is noted, and not handed in again."""
    folder = field.root / name
    for path in sorted(folder.glob("*.request")):
        done = path.with_suffix(".taken")
        if done.exists():
            continue
        request = read_request(path)
        with RequestQueue(field.queue) as queue:
            queue.submit(
                request,
                roster=field.roster,
                policy=read_deletion_policy(field.server / "deletion.toml"),
                now=request.submitted + 30,
            )
        done.write_text("")


def run_windows(field: Field, window: int) -> None:
    """What `secure-fu unlearn` does, again and again until all that was due at a window is certified."""
    now = field.began + window * WINDOW_SECONDS + 5
    with (
        RequestQueue(field.queue) as queue,
        deletion_service(
            field.server, queue, SocketExchange(field.sockets), clock=lambda: now, patience=PATIENCE
        ) as service,
    ):
        for _ in range(100):
            service.run_due()
            waiting = [one for one in queue.entries(State.ACCEPTED) if one.received <= now - 5]
            if not waiting and not queue.windows(WindowState.EXECUTING, WindowState.EXECUTED):
                return
            time.sleep(0.3)
    raise TimeoutError(f"window {window} is not certified")


def say(path: Path, values: object) -> None:
    """Write something down for the supervisor, whole."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(values))
    part.replace(path)
