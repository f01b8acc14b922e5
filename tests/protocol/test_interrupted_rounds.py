"""Ctrl-C at every line of a round's records: it is never hidden by another error, and the same objects go on."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

from secure_fu.errors import ProtocolError
from secure_fu.privacy import Phase, Subject
from secure_fu.privacy.ledger import EventStatus

PLACES = (
    "privacy/ledger.py",
    "privacy/ledger_file.py",
    "protocol/server.py",
    "protocol/committee/server.py",
    "protocol/committee/member_record.py",
    "protocol/key_holder/opening_record.py",
    "protocol/client_record.py",
    "protocol/durable.py",
    "protocol/round_driver.py",
    "protocol/in_process.py",
    "protocol/opening.py",
    "protocol/transcript.py",
    "interrupts.py",
)


@contextmanager
def interrupted_at(line: int) -> Iterator[list[int]]:
    """Raise SIGINT at the line-th line that is run in the files of PLACES; gives the number of lines that were run."""
    run = [0]

    def count(frame: FrameType, event: str, argument: Any) -> Any:
        if event == "call":
            return count if frame.f_code.co_filename.endswith(PLACES) else None
        if event == "line":
            run[0] += 1
            if run[0] == line:
                sys.settrace(None)
                signal.raise_signal(signal.SIGINT)
        return count

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.settrace(count)
    try:
        yield run
    finally:
        sys.settrace(None)
        signal.signal(signal.SIGINT, before)


class Interrupted:
    """A federation whose rounds are interrupted one line later each time, until one runs to its end."""

    def __init__(self, machines: Any, path: Path) -> None:
        machines.server._run.transcript._path = path  # so that its lines can be counted
        self.machines = machines
        self.sums = machines.sums()
        self.path = path
        self.forfeited = 0
        forfeit = machines.server.forfeit

        def counted() -> None:
            self.forfeited += 1
            forfeit()

        machines.server.forfeit = counted

    def run(self, first: int, step: int) -> int:
        """The number of interrupts."""
        line = first
        while self._interrupted(line):
            line += step
        return (line - first) // step

    def _interrupted(self, line: int) -> bool:
        """One round; whether an interrupt ended it. Anything else that comes out of it, comes out of here."""
        try:
            with interrupted_at(line) as run:
                self.sums.secure_sum(self.machines.request())
        except KeyboardInterrupt:
            return True
        assert run[0] < line, "an interrupt was lost"
        return False

    def check(self) -> None:
        """Memory says what the file says, and no release is missing from the transcript."""
        ledger = self.machines.ledger
        events = list(ledger.events("original"))
        assert ledger.pending() == ()
        for name in self.machines.names:
            charged = sum(1 for event in events if name in (event.participants or ()))
            assert ledger.event_counts("original", name, Subject.FORGOTTEN, Phase.TRAINING).total() == charged > 0
        committed = sum(1 for event in events if event.status is EventStatus.COMMITTED)
        lines = len(self.path.read_text(encoding="utf-8").splitlines())
        assert lines + self.forfeited == committed
        assert lines > 1 < self.forfeited


def federation(opener: str, build: Any, federate: Any, path: Path) -> Interrupted:
    build_it = federate if opener == "committee" else build
    return Interrupted(
        build_it(clients=3, noise_multiplier=60.0, contributions=lambda number: np.full(6, number / 8.0)), path
    )


# A step of 1 holds too, and takes a minute.
@pytest.mark.parametrize(("opener", "step"), [("committee", 11), ("key-holder", 7)])
def test_an_interrupt_at_any_line_ends_the_round_alone(
    opener: str, step: int, build: Any, federate: Any, tmp_path: Path
) -> None:
    rounds = federation(opener, build, federate, tmp_path / "transcript.jsonl")
    assert rounds.run(first=1, step=step) > 80
    rounds.check()


def test_an_interrupt_between_a_file_and_its_memory_would_be_found(
    build: Any, federate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secure_fu.protocol.server.interrupts_wait", contextlib.nullcontext)
    rounds = federation("key-holder", build, federate, tmp_path / "transcript.jsonl")
    with pytest.raises(ProtocolError, match="the server is closed"):  # it holds a round that the ledger has settled
        rounds.run(first=500, step=1)
