"""Run as a program: a node that is killed at every call that changes its directory, and goes on.

Prints one JSON object: for each phase, what was found after each kill. A life is a forked child; it is killed at the
n-th call, for every n until it comes to its end.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from node_cast import (
    CLIENTS,
    HIDING,
    KEEPER,
    OTHER_RUN,
    RUN,
    WINDOW,
    Cast,
    ServerSide,
    ask,
    make_cast,
    save_records,
)
from small_federations import silos

from secure_fu.crypto import InsecureDeterministicRandomness
from secure_fu.crypto.wire import decode
from secure_fu.deletion import DeletionRequest
from secure_fu.deployment.exchange.messages import Kind, Outcome, WipeStatement
from secure_fu.deployment.node import Node
from secure_fu.deployment.node.client import NodeClient
from secure_fu.protocol import ClientRecord, KeyHolderEncryption

CLIENT = CLIENTS[1]
PLACES = (0, 3, 7)
PRIVATE = (5,)
CALLS = ((os, "fsync"), (os, "open"), (Path, "replace"), (Path, "unlink"), (Path, "rename"), (Path, "rmdir"))
MOST = 400


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at(call: int) -> None:
    """Kill before the odd and after the even ones: 2n - 1 and 2n are the same call."""
    left = [call]

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                die()
            left[0] -= 1
            try:
                return real(*arguments, **named)
            finally:
                if left[0] == 0:
                    die()

        return wrapper

    for owner, name in (*CALLS, (ClientRecord, "accept")):
        setattr(owner, name, counted(getattr(owner, name)))


def killed(do: Callable[[], object], call: int) -> bool:
    """Whether a life that does this was killed before its end."""
    child = os.fork()
    if child == 0:
        try:
            kill_at(call)
            do()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


class Story:
    """A client that trains a round, is given an order, answers a round of it, and settles it."""

    def __init__(self, root: Path) -> None:
        self.cast: Cast = make_cast(root / "nodes", deletion=HIDING)
        self.root = root
        side = ServerSide(self.cast, root / "server")
        with Node.create(self.cast.folder(KEEPER)) as keeper:
            self.trained = side.invitation(keeper, 0)
            side.drop()
            self.after = side.invitation(keeper, 1)
        side.drop()
        side.close()
        self.order = self.cast.order(
            self.cast.asks(DeletionRequest.some_records(CLIENT, PLACES)), hidden_units=1, remembered=0
        )
        self.cast.begin(OTHER_RUN, self.order)
        other = ServerSide(self.cast, root / "other-server", OTHER_RUN)
        with self.cast.open(KEEPER) as keeper:
            self.unlearnt = other.invitation(keeper, 0, "unlearn/retrain")
        other.drop()
        other.close()
        self.values: list[list[int]] = []
        real = KeyHolderEncryption.begin

        def begin(encryption, invitation, header, client, values):
            self.values.append(values.tolist())
            return real(encryption, invitation, header, client, values)

        KeyHolderEncryption.begin = begin  # type: ignore[method-assign]

    def opened(self, folder: Path) -> Node:
        return Node.open(folder, randomness=InsecureDeterministicRandomness(1))

    # Phases, each from where the one before it ended

    def create(self, folder: Path) -> None:
        with Node.create(folder) as node:
            node.request_privately(CLIENT, DeletionRequest.some_records(CLIENT, PRIVATE))
            ask(node, Kind.BEGIN, self.cast.begin())
            ask(node, Kind.INVITE, self.trained)

    def begin(self, folder: Path) -> None:
        with self.opened(folder) as node:
            ask(node, Kind.BEGIN, self.cast.begin(OTHER_RUN, self.order))

    def invite(self, folder: Path) -> None:
        with self.opened(folder) as node:
            ask(node, Kind.INVITE, self.unlearnt)

    def wipe(self, folder: Path) -> None:
        with self.opened(folder) as node:
            ask(node, Kind.WIPE, self.cast.wipe(OTHER_RUN))

    def end(self, folder: Path) -> dict[str, Any]:
        """Go on as a server would that has heard nothing, and look at what is there."""
        with self.opened(folder) as node:
            client = node.client(CLIENT)
            before = (list(client.state.gone), client.state.pending is not None)
            begun = ask(node, Kind.BEGIN, self.cast.begin(OTHER_RUN, self.order)).outcome
            settled = ask(node, Kind.WIPE, self.cast.wipe(OTHER_RUN))
            assert settled.outcome is Outcome.DONE
            statement = decode(WipeStatement, settled.body)
            statement.check(self.cast.roster)
            assert client.state.settled_window(WINDOW) is not None
            ask(node, Kind.INVITE, self.after)
            found = {
                "before": before,
                "begun": begun.value,
                "confirmed": statement.rounds,
                "gone": list(client.state.gone),
                "rounds": list(client.silo.history.rounds),
                "samples": sum(int(entry.sampled[[*PLACES, *PRIVATE]].sum()) for entry in client.silo.history),
                "answered": client._record.rounds(CLIENT),
                "private": len(client.state.private),
                "values": self.values[-1],
            }
        with self.opened(folder) as node:
            again = ask(node, Kind.WIPE, self.cast.wipe(OTHER_RUN))
            found["same statement"] = again.body == settled.body
        models = {path.stem for path in (folder / "models").iterdir()}
        return {**found, "traces": sorted(self.traces(folder)), "models": len(models)}

    @staticmethod
    def traces(folder: Path) -> set[str]:
        records = silos()[CLIENT].features.numpy()
        rows = [records[place].tobytes() for place in (*PLACES, *PRIVATE)]
        return {
            path.name
            for path in folder.rglob("*")
            if path.is_file() and any(row in content for content in [path.read_bytes()] for row in rows)
        }

    def never(self) -> list[int]:
        """What a client contributes that never had the records."""
        keep = np.ones(10, dtype=np.bool_)
        keep[[*PLACES, *PRIVATE]] = False
        folder = self.root / "never"
        shutil.copytree(self.cast.folder(CLIENT), folder)
        save_records(folder / "records.npz", silos()[CLIENT].subset(keep))
        with Node.create(folder, randomness=InsecureDeterministicRandomness(1)) as node:
            ask(node, Kind.BEGIN, self.cast.begin(RUN))
            ask(node, Kind.INVITE, self.after)
        return self.values[-1]


def forgetful(self: NodeClient, ordered: Any) -> None:
    """A wiping that is taken for ended before it is: what the tests have to find."""
    pending = self._state.pending
    if pending is not None:
        self._write(replace(self._state, pending=None))
        self._holdings.destroy(self._state.gone, ordered, pending)


def main(root: Path) -> None:
    os.fsync = lambda _descriptor: None  # type: ignore[assignment]  # a kill leaves what the system has been given
    story = Story(root)
    found: dict[str, Any] = {"never": story.never()}
    stage = root / "stage"
    shutil.copytree(story.cast.folder(CLIENT), stage)
    story.create(stage)
    for phase in ("begin", "invite", "wipe", "forgetful"):
        do = getattr(story, "wipe" if phase == "forgetful" else phase)
        if phase == "forgetful":
            NodeClient._destroy = forgetful  # type: ignore[method-assign]
        found[phase] = []
        for call in range(1, MOST, 5 if phase == "forgetful" else 1):
            folder = root / f"{phase}-{call}"
            shutil.copytree(stage, folder)
            was_killed = killed(lambda do=do, folder=folder: do(folder), call)  # type: ignore[misc]
            found[phase].append({"killed": was_killed, **story.end(folder)})
            shutil.rmtree(folder)
            if not was_killed:
                break
        if phase in ("begin", "invite"):
            do(stage)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
