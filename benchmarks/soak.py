"""300 rounds in which every node drops out of every fifth round or is restarted: memory, and every sum exact.

Six clients and a committee of three, each a process of its own, and a server train under scheme kahe. In each round
each node drops out with probability 0.2, at a random moment: most stop answering for a while, some are killed, some are
ended by SIGTERM, and started again. One client and one member are never restarted, so that their memory can be watched
over all rounds, as the server's is. Instrumented node processes write down the plain integers that each client
contributes, noise included; each released sum must be their sum over those who took part, bit for bit.

    python benchmarks/soak.py [--rounds N] [--seed N] [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: the processes share few cores

import torch
from field.facts import Facts
from field.founding import Field, found_field
from field.memory import resident_kib, trend
from field.plain import differing_sums, read_plain
from field.processes import Life, run_node, start, train_to
from harness import report

_DROPS_OUT = 0.2
_WARM_UP = 0.2
"""Share of the rounds whose memory does not count: caches fill."""
_LONGEST_SILENCE = 1.0
_STARTUP_SECONDS = 120.0
_ANCHORS = ("site-0", "member-0")
_FLAT_KIB = 4.0
"""A round's entries in lists of what was done may cost this much; more is called growth."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20 rounds; what memory does then means little")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--rounds", type=int, help="300, or 20 with --quick")
    parser.add_argument("--seed", type=int, default=0, help="of who drops out and how")
    options = parser.parse_args()
    rounds = options.rounds or (20 if options.quick else 300)
    torch.set_num_threads(1)
    root = Path(tempfile.mkdtemp(prefix="fu-"))
    try:
        soak = Soak(
            found_field(root / "s", sites=6, rounds=rounds, branch_rounds=3 * rounds, inputs=64, keep_history=True),
            random.Random(options.seed),
            rounds,
        )
        soak.run()
        figures = soak.figures()
    finally:
        shutil.rmtree(root, ignore_errors=True)
    report(options, figures)
    grows = any(found["low"] > _FLAT_KIB for found in figures["memory"].values() if found)
    return 1 if figures["sums that are not exact"] or grows else 0


class Soak:
    """The server and its nodes, and who drops out."""

    def __init__(self, field: Field, draw: random.Random, rounds: int) -> None:
        self._field, self._draw, self._rounds = field, draw, rounds
        self._nodes: dict[str, Life] = {}
        self._due: list[tuple[float, str, str]] = []
        self._silent: dict[str, float] = {}
        self._dead: set[str] = set()
        self.dropouts: Counter[str] = Counter()
        self.readings: dict[str, list[tuple[int, int]]] = {name: [] for name in ("server", *_ANCHORS)}
        self._most: dict[str, int] = {}
        self._seconds = 0.0

    def run(self) -> None:
        started = time.monotonic()
        for name in self._field.hosted:
            self._start(name)
        while silent := [name for name in self._field.hosted if not self._field.socket(name).exists()]:
            if time.monotonic() > started + _STARTUP_SECONDS:
                raise TimeoutError(f"{silent[0]} does not listen; {self._nodes[silent[0]].log.read_text()[-2000:]}")
            time.sleep(0.02)
        reading, writing = os.pipe()
        server = start("server", "server", lambda: self._train(writing), self._field.root / "lives")
        os.close(writing)
        try:
            self._watch(server, reading)
        finally:
            os.close(reading)
            for life in (server, *self._nodes.values()):
                _end(life, signal.SIGTERM)
        self._seconds = time.monotonic() - started

    def _train(self, pipe: int) -> None:
        train_to(self._field, self._rounds, lambda _: os.write(pipe, b"."), patient=True)

    def _start(self, name: str) -> None:
        self._dead.discard(name)
        self._nodes[name] = start(
            name,
            "client" if name.startswith("site") else "member",
            lambda: run_node(self._field, name, plain=True, mute=self._mute(name)),
            self._field.root / "lives",
        )

    def _mute(self, name: str) -> Path:
        return self._field.root / f"{name}.mute"

    def _watch(self, server: Life, pipe: int) -> None:
        done, last, length = 0, time.monotonic(), 0.5
        self._draw_dropouts(length)
        while done < self._rounds:
            now = time.monotonic()
            self._act(now)
            if select.select([pipe], [], [], 0.01)[0]:
                got = len(os.read(pipe, 64))
                if not got:
                    raise RuntimeError(f"the server ended after {done} rounds; {server.log.read_text()[-2000:]}")
                done += got
                if done > got:  # the first round loads and compiles
                    length = 0.7 * length + 0.3 * (now - last)
                last = now
                self._restore()
                self._draw_dropouts(length)
                self._read_memory(done, server)

    def _draw_dropouts(self, length: float) -> None:
        """Who drops out of the coming round, when, and how."""
        now = time.monotonic()
        for name in self._field.hosted:
            if self._draw.random() < _DROPS_OUT:
                hows = ("silent",) if name in _ANCHORS else ("silent", "silent", "killed", "ended")
                delay = max(0.0, self._draw.uniform(-0.5, 1.0) * length)  # a third are away from the start
                self._due.append((now + delay, name, self._draw.choice(hows)))

    def _act(self, now: float) -> None:
        for entry in [one for one in self._due if one[0] <= now]:
            self._due.remove(entry)
            _, name, how = entry
            if name in self._dead:
                continue
            self.dropouts[how] += 1
            if how == "silent":
                self._mute(name).touch()
                self._silent[name] = now + _LONGEST_SILENCE
            else:
                _end(self._nodes[name], signal.SIGKILL if how == "killed" else signal.SIGTERM)
                self._dead.add(name)
                self._silent[name] = now + self._draw.uniform(0.0, _LONGEST_SILENCE)
        for name in [name for name, until in self._silent.items() if until <= now]:
            self._bring_back(name)

    def _bring_back(self, name: str) -> None:
        del self._silent[name]
        self._mute(name).unlink(missing_ok=True)
        if name in self._dead:
            self._start(name)

    def _restore(self) -> None:
        """A round has ended: who dropped out of it is back for the next."""
        for name in list(self._silent):
            self._bring_back(name)

    def _read_memory(self, done: int, server: Life) -> None:
        for name, life in {**self._nodes, "server": server}.items():
            kib = resident_kib(life.pid) if name not in self._dead else None
            if kib is not None:
                kind = "server" if name == "server" else "client" if name.startswith("site") else "member"
                self._most[kind] = max(kib, self._most.get(kind, 0))
                if name in self.readings:
                    self.readings[name].append((done, kib))

    def figures(self) -> dict[str, Any]:
        facts = Facts(self._field)
        plain = read_plain(self._field.root / "plain")
        released = {
            release.announcement.header_digest: (release.roll.participants, release.values_digest)
            for _, _, release in facts.releases
        }
        # The check itself: with one client's integers changed by one, its rounds are found.
        changed = dict(plain)
        (first, (participants, _)), *_ = released.items()
        changed[participants[0], first] = changed[participants[0], first] + 1
        if differing_sums({first: released[first]}, changed) != [first]:
            raise RuntimeError("a sum that is off by one was not found")
        statuses = Counter(row.status for row in facts.ledger)
        warm = int(_WARM_UP * self._rounds)
        return {
            "rounds": self._rounds,
            "released sums": len(released),
            "sums that are not exact": len(differing_sums(released, plain)),
            "clients in a sum": dict(sorted(Counter(len(names) for names, _ in released.values()).items())),
            "rounds announced": sum(statuses.values()),
            "rounds lost and charged": sum(statuses.values()) - statuses["void"] - len(released),
            "rounds given up unopened": statuses["void"],
            "dropouts": dict(self.dropouts),
            "memory": {name: trend([one for one in found if one[0] > warm]) for name, found in self.readings.items()},
            "most KiB of any process": self._most,
            "seconds": self._seconds,
        }


def _end(life: Life, how: int) -> None:
    """End a process and wait; one that does not heed SIGTERM is killed."""
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        if os.waitpid(life.pid, os.WNOHANG)[0]:
            return
        os.kill(life.pid, how)
        ends = time.monotonic() + 10.0
        while time.monotonic() < ends:
            if os.waitpid(life.pid, os.WNOHANG)[0]:
                return
            time.sleep(0.005)
        os.kill(life.pid, signal.SIGKILL)
        os.waitpid(life.pid, 0)


if __name__ == "__main__":
    sys.exit(main())
