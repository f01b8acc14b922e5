"""One story of a federation, told by processes that are killed in it: train, requests, windows, certificates."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from field.founding import Ask, Field, write_requests
from field.places import places_of
from field.processes import Life, hand_in, run_node, run_windows, start, train_to
from secure_fu.deployment.node import REQUESTS, leave_request

__all__ = ["Kill", "Scripted", "Story"]

# Ways to end that a restarted process goes on from: too few others were there.
_PASSING = ("PartiesAway", "RoundAborted", "CohortTooSmall")
# How many kills a step gets at most: windows are where most is written.
_KILLS = {"training": 4, "handing in": 2, "training on": 3}
_KILLS_IN_A_WINDOW = 6


@dataclass(frozen=True, kw_only=True)
class Kill:
    """One process that was killed.

    Attributes:
        kind: of process, as in :data:`field.places.PLACES`.
        name: of the party or job.
        at: by the monotonic clock.
        place: in the code, `before` or `after` it; empty for a kill at a random time.
        step: of the story.
    """

    kind: str
    name: str
    at: float
    place: str
    step: str


@dataclass(frozen=True, kw_only=True)
class Scripted:
    """A kill that a test asks for: the first process of this kind dies at this place."""

    kind: str
    place: str
    side: str
    count: int = 1


@dataclass(kw_only=True, eq=False)
class _Job:
    """What has to be done once, however often its process is killed."""

    name: str
    kind: str
    work: Callable[[], object]
    life: Life | None = None
    lives: int = 0
    again_at: float = 0.0
    done: bool = False


class Story:
    """Runs the processes, kills some, starts them again, and writes down what it did.

    Args:
        field: a new federation.
        draw: of who is killed, when and where.
        kills: how many at most.
        gap: seconds between two kills, on average.
        rounds: of training before the first window, and in all.
        asks: the requests of the first window, and of the second.
        private: requests that clients leave at their own nodes before the first window.
        fault: planted in every process of its kind.
        script: kills that a test asks for, beside drawn ones.
        most_lives: of a process that is to end, before the story is given up.
    """

    def __init__(
        self,
        field: Field,
        draw: random.Random,
        *,
        kills: int,
        gap: float = 0.25,
        rounds: tuple[int, int] = (3, 5),
        asks: Sequence[tuple[Ask, ...]] = (),
        private: Sequence[Ask] = (),
        fault: str = "",
        script: Sequence[Scripted] = (),
        most_lives: int = 30,
    ) -> None:
        self.field, self._draw, self._gap = field, draw, gap
        self._left, self._rounds, self._asks, self._most_lives = kills, rounds, asks, most_lives
        self._fault, self._script = fault, list(script)
        self.kills: list[Kill] = []
        self.failures: list[str] = []
        self.private = {f"private {number}": one for number, one in enumerate(private)}
        self.requests: dict[str, Ask] = {}
        self._nodes: dict[str, Life] = {}
        self._jobs: Sequence[_Job] = ()
        self._down: dict[str, float] = {}
        self._step = ""
        self._quota = 0
        self._next_kill = 0.0

    def run(self) -> None:
        """From the first round to the last certificate; nothing runs any more on return."""
        try:
            for name in self.field.hosted:
                self._start_node(name)
            self._wait_for_nodes()
            self._tell()
        finally:
            self._stop()

    def _tell(self) -> None:
        first, last = self._rounds
        self._do("training", self._train(first))
        for number, asks in enumerate(self._asks, start=1):
            self.requests |= write_requests(self.field, f"outbox-{number}", asks, window=number)
            if number == 1:
                self._do("handing in", self._intake(1))
        for number in range(1, len(self._asks) + 1):
            # Whoever is in time for the next window hands in while this one is executed.
            if number == 1:
                for one in self.private.values():
                    leave_request(self.field.node(self.field.node_of(one.client)) / REQUESTS, one.client, one.request)
            later = [self._intake(number + 1)] if number < len(self._asks) else []
            self._do(f"window {number}", self._windows(number), *later)
            if number == 1:
                self._do("training on", self._train(last))

    def _train(self, rounds: int) -> _Job:
        return _Job(name="server", kind="server", work=lambda: train_to(self.field, rounds))

    def _intake(self, number: int) -> _Job:
        return _Job(name="intake", kind="intake", work=lambda: hand_in(self.field, f"outbox-{number}"))

    def _windows(self, number: int) -> _Job:
        return _Job(name="service", kind="service", work=lambda: run_windows(self.field, number))

    # Processes

    def _kind_of(self, node: str) -> str:
        if node in self.field.client_nodes:
            return "client"
        return "member" if self.field.scheme == "kahe" else "key-holder"

    def _start_node(self, name: str) -> None:
        self._down.pop(name, None)
        self._nodes[name] = self._start(name, self._kind_of(name), lambda: run_node(self.field, name))

    def _start(self, name: str, kind: str, work: Callable[[], object]) -> Life:
        armed = ""
        if self._quota > 0 and kind in ("service", "intake") and self._draw.random() < 0.8:
            armed = self._place(kind)
        for one in self._script:
            if one.kind == kind:
                armed = f"{one.place}|{one.side}|{one.count}"
                self._script.remove(one)
                break
        return start(name, kind, work, self.field.root / "lives", fault=self._fault, armed=armed)

    def _wait_for_nodes(self) -> None:
        ends = time.monotonic() + 60.0
        while not all(self.field.socket(name).exists() for name in self.field.hosted):
            if time.monotonic() > ends:
                raise TimeoutError("the nodes do not listen")
            time.sleep(0.01)

    def _do(self, step: str, *jobs: _Job) -> None:
        """Run jobs until each has ended well, and kill meanwhile."""
        self._step, self._jobs = step, jobs
        self._quota = min(self._left, _KILLS.get(step, _KILLS_IN_A_WINDOW))
        self._next_kill = max(self._next_kill, time.monotonic() + self._pause())
        if self._quota > 2:
            # What a client destroys, and an opener promises, comes up now and then only.
            for nodes in (self.field.client_nodes, self.field.opener_nodes):
                up = [name for name in nodes if name not in self._down]
                if up:
                    self._arm(self._nodes[self._draw.choice(up)])
        while not all(job.done for job in jobs):
            for job in jobs:
                self._look_at(job)
            self._look_at_nodes()
            self._maybe_kill([job.life for job in jobs if job.life is not None])
            time.sleep(0.004)

    def _look_at(self, job: _Job) -> None:
        if job.done:
            return
        if job.life is None:
            if time.monotonic() >= job.again_at:
                if job.lives >= self._most_lives:
                    raise TimeoutError(f"{self._step}: {job.lives} lives of {job.name} did not end it")
                job.life = self._start(job.name, job.kind, job.work)
                job.lives += 1
            return
        status = _ended(job.life.pid)
        if status is None:
            return
        life, job.life = job.life, None
        if status == 0:
            job.done = True
        elif status == -signal.SIGKILL:
            self._note_kill(life)
            job.again_at = time.monotonic() + self._draw.uniform(0.0, 0.3)
        else:
            if life.error not in _PASSING:
                self.failures.append(f"{self._step}: {job.name} ended with {life.error or status}, see {life.log.name}")
            job.again_at = time.monotonic() + 0.3

    def _look_at_nodes(self) -> None:
        for name, life in list(self._nodes.items()):
            if name in self._down:
                if time.monotonic() >= self._down[name]:
                    self._start_node(name)
                continue
            status = _ended(life.pid)
            if status is None:
                continue
            if status == -signal.SIGKILL:
                self._note_kill(life)
            else:
                self.failures.append(f"{self._step}: node {name} ended with {life.error or status}, {life.log.name}")
            # Mostly it is back soon; at times rounds go on without it.
            self._down[name] = time.monotonic() + self._draw.choice((0.0, 0.1, 0.4, 1.5))

    # Kills

    def _pause(self) -> float:
        return self._draw.expovariate(1.0 / self._gap)

    def _maybe_kill(self, jobs: list[Life]) -> None:
        """At a random time: kill a process, or tell one where to die."""
        now = time.monotonic()
        if self._quota <= 0 or now < self._next_kill:
            return
        self._next_kill = now + self._pause()
        up = [life for name, life in self._nodes.items() if name not in self._down]
        clients, openers = [one for one in up if one.kind == "client"], [one for one in up if one.kind != "client"]
        chosen = self._draw.choices((jobs, clients, openers), weights=(5, 2, 2))[0]
        if not chosen:
            return
        life = self._draw.choice(chosen)
        if life.arm.exists() and self._draw.random() < 0.85:
            return  # it has a place to reach
        if life.kind == "intake" or self._draw.random() < 0.4:
            self._arm(life)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(life.pid, signal.SIGKILL)

    def _arm(self, life: Life) -> None:
        if not life.arm.exists():
            part = life.arm.with_suffix(".arming")
            part.write_text(self._place(life.kind))
            part.replace(life.arm)

    def _place(self, kind: str) -> str:
        name, side, most = self._draw.choice(places_of(kind, self.field.scheme))
        return f"{name}|{side}|{self._draw.randint(1, most)}"

    def _disarm(self) -> None:
        for life in (*self._nodes.values(), *(job.life for job in self._jobs if job.life is not None)):
            life.arm.unlink(missing_ok=True)

    def _note_kill(self, life: Life) -> None:
        place = ""
        if life.arm.with_suffix(".died").exists():
            name, side, _ = life.arm.with_suffix(".died").read_text().split("|")
            place = f"{side} {name}"
        life.arm.unlink(missing_ok=True)
        self._left -= 1
        self._quota -= 1
        if self._quota <= 0:
            self._disarm()
        self.kills.append(Kill(kind=life.kind, name=life.name, at=time.monotonic(), place=place, step=self._step))

    def _stop(self) -> None:
        """End the nodes, as an operator would; one that does not end is killed, and that is a failure."""
        for job in self._jobs:
            if job.life is not None:
                os.kill(job.life.pid, signal.SIGKILL)
                os.waitpid(job.life.pid, 0)
        for name, life in self._nodes.items():
            if name not in self._down:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(life.pid, signal.SIGTERM)
        for name, life in self._nodes.items():
            if name in self._down:
                continue
            ends = time.monotonic() + 20.0
            while (status := _ended(life.pid)) is None and time.monotonic() < ends:
                time.sleep(0.01)
            if status != 0:
                self.failures.append(f"the end: node {name} ended with {status}")
                if status is None:
                    os.kill(life.pid, signal.SIGKILL)
                    os.waitpid(life.pid, 0)


def _ended(pid: int) -> int | None:
    """None while a process runs; its exit status, or minus the signal that ended it."""
    found, status = os.waitpid(pid, os.WNOHANG)
    if found == 0:
        return None
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
