"""Parties, requests and executors for the tests of the deletion service."""

from __future__ import annotations

import json
import os
import sqlite3
from dataclasses import replace
from functools import cache
from pathlib import Path

from secure_fu.crypto import Identity, Role, Roster, encode
from secure_fu.deletion import (
    DeletionPolicy,
    DeletionRequest,
    Execution,
    SignedRequest,
    WindowGivenUp,
    sign_request,
)

NOW = 1_800_000_000
DAY = 24 * 3600
HOUR = 3600
CLIENTS = ("alder", "birch", "cedar")


@cache
def identities() -> dict[str, Identity]:
    roles = dict.fromkeys(CLIENTS, Role.CLIENT) | {"hub": Role.SERVER, "officer": Role.KEY_HOLDER}
    return {name: Identity.generate(name, role) for name, role in roles.items()}


@cache
def roster() -> Roster:
    return Roster.of(identity.party for identity in identities().values())


def policy(**changes: object) -> DeletionPolicy:
    plain = DeletionPolicy(
        window_start=NOW - 10 * DAY,
        window_seconds=DAY,
        minimum_batch=2,
        maximum_batch=5,
        class_signers=("officer",),
        clock_tolerance_seconds=300,
        longest_pause_seconds=3 * DAY,
    )
    return replace(plain, **changes)


def signed(signer: str = "alder", request: DeletionRequest | None = None, **changes: object) -> SignedRequest:
    settings = {"units": 3, "submitted": NOW - 10 * DAY, "deadline": NOW + 30 * DAY} | changes
    wanted = DeletionRequest.some_records(signer, (4, 1)) if request is None else request
    return sign_request(identities()[signer], wanted, roster=roster(), **settings)


def execution(window_id: bytes, **changes: object) -> Execution:
    plain = Execution(
        window_id=window_id,
        branch="deletion-1",
        run_id="00" * 16,
        method="retrain",
        settings={"rounds": 3, "rate": 0.1},
        guarantee={"kind": "exact", "text": "as if never seen", "epsilon": 0.0, "assumptions": ["none"]},
        confidentiality={"phase": {"value": None, "delta": 1e-5, "group_size": 3}},
        unit="record",
        group_size=3,
        model_before="ab" * 32,
        model_after="cd" * 32,
        ledger_events=7,
        charges=({"subject": "forgotten", "phase": "unlearning", "count": 3, "noise_multiplier": 1 / 3},),
        epsilon=({"subject": "retained", "phase": "training", "value": 0.1 + 0.2},),
        delta=1e-5,
        transcript_before="00" * 32,
        transcript_root="11" * 32,
        rounds=3,
        wiped=(b"\x00\xff",),
        missing=(),
        parameter_sets=("kahe-8192",),
        software={"secure_fu": "0"},
        started=NOW,
        finished=NOW + 5,
    )
    return replace(plain, **changes)


class Killed(BaseException):
    """What stands for the end of the process."""


class RecordingExecutor:
    """Executes a window once, in a file; answers the same afterwards, as an executor has to.

    Args:
        folder: where it writes what it executed, one file a window.
        missing: clients that have not confirmed in the first answers, one tuple an answer.
        trouble: raised by the first calls, before anything is written.
    """

    def __init__(self, folder: Path, *, missing: list[tuple[str, ...]] | None = None, trouble=()) -> None:
        self.folder = folder
        self.asked: list[bytes] = []
        self._missing = list(missing or [])
        self._trouble = list(trouble)
        self.refuses: Exception | None = None
        self.given_up: dict[bytes, str] = {}

    def check_window(self, batch):
        if self.refuses is not None:
            raise self.refuses

    def execute(self, batch):
        self.asked.append(batch.window_id)
        if self._trouble:
            raise self._trouble.pop(0)
        if batch.window_id in self.given_up:
            raise WindowGivenUp(self.given_up[batch.window_id])
        path = self.folder / f"{batch.window_id.hex()}.executed"
        ids = [request.request_id.hex() for request in batch.requests]
        if path.exists():
            assert json.loads(path.read_text()) == [ids, batch.hidden_units]
        else:
            with path.open("x") as file:
                json.dump([ids, batch.hidden_units], file)
                file.flush()
                os.fsync(file.fileno())
        missing = self._missing.pop(0) if self._missing else ()
        return execution(batch.window_id, missing=missing)

    def give_up(self, window_id, why):
        if (self.folder / f"{window_id.hex()}.executed").exists():
            return False
        self.given_up[window_id] = why
        return True

    def executed(self) -> list[list[str]]:
        """The requests of each window that was executed, in no order."""
        return [json.loads(path.read_text())[0] for path in self.folder.glob("*.executed")]


def content(request: SignedRequest) -> bytes:
    return encode(request)


def rows(queue):
    """All that is in the file, but for the clock."""
    with sqlite3.connect(queue.path) as raw:
        tables = [name for (name,) in raw.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        return {name: raw.execute(f"SELECT * FROM {name}").fetchall() for name in tables if name != "clock"}
