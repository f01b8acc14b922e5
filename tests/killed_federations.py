"""Run as a program: federations that are killed in the middle of training, a method or a deletion, and opened again.

Prints one JSON object: by moment, what each life said. Lives are forked after the imports.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from small_federations import plan_for, silos

from secure_fu.crypto import CommitteeTerms
from secure_fu.deletion import DeletionRequest
from secure_fu.errors import AlreadyForgotten
from secure_fu.federation import Federation
from secure_fu.learning import mlp
from secure_fu.privacy import PrivacyLedger
from secure_fu.protocol import (
    Client,
    ClientRecord,
    Member,
    ReleaseLog,
    Transcript,
    verify_against_ledger,
    verify_transcript,
)
from secure_fu.training import CheckpointStore
from secure_fu.unlearning import Retrain, Rollback

ROUNDS = 3
REQUEST = DeletionRequest.some_records("silo-1", (0, 3, 7))
LOOKED_AT = ("unlearn/voting/18", "unlearn/logged/5", "delete/logged/5", "delete/destroying/1")
SMALL = CommitteeTerms(members=4, threshold=3, quorum=3, corrupt=1)


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def module():
    return mlp(5, (), 3, 0)


@cache
def plan():
    # The budget has room for rounds that are asked for again.
    return plan_for(module(), rounds=ROUNDS, branch_rounds=2 * ROUNDS, checkpoint_every=2)


def made(directory: Path) -> Federation:
    return Federation(module(), silos(), plan=plan(), committee=SMALL, directory=directory, resumable=True)


def opened(directory: Path) -> Federation:
    return Federation.open(directory, module(), silos())


def shown(state) -> str:
    return hashlib.sha256(state.model.encode() + state.velocity.tobytes()).hexdigest()[:16]


Say = Callable[[str, Any], None]

# What is interrupted: (owner, name, whether before or after the call). Counted over all calls of a life.
PLACES: dict[str, tuple[Any, str, bool]] = {
    "reserving": (PrivacyLedger, "reserve", False),
    "accepting": (ClientRecord, "accept", True),
    "uploading": (Client, "_signed_upload", True),
    "voting": (Member, "vote", True),
    "answering": (Member, "answer", False),
    "logging": (ReleaseLog, "append", True),
    "logged": (ReleaseLog, "append", False),
    "committed": (PrivacyLedger, "commit", False),
    "linked": (Transcript, "append", False),
    "saving": (CheckpointStore, "save", True),
    "saved": (CheckpointStore, "save", False),
    "destroying": (CheckpointStore, "destroy_after", True),
    "destroyed": (CheckpointStore, "destroy_after", False),
    "beginning a branch": (PrivacyLedger, "branch", True),
    "begun a branch": (PrivacyLedger, "branch", False),
}


def kill_at(place: str, call: int) -> None:
    owner, name, before = PLACES[place]
    real, left = getattr(owner, name), [call]

    def counted(*arguments: object, **named: object) -> object:
        left[0] -= 1
        if before and left[0] == 0:
            die()
        result = real(*arguments, **named)
        if left[0] == 0:
            die()
        return result

    setattr(owner, name, counted)


def life(directory: Path, do: Callable[[Say], object], *, killed: bool) -> list[list[Any]]:
    notes = directory.parent / f"{directory.name}.notes"
    notes.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        file = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            do(lambda label, said: os.write(file, (json.dumps([label, said]) + "\n").encode()) and None)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    assert ended == (signal.SIGKILL if killed else 0), (directory, ended)
    return [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []


def whole(federation: Federation, say: Say, *, execute: bool) -> None:
    """Train, and forget; says each model."""
    say("found", [federation.state.rounds, shown(federation.state)])
    federation.train(lambda state: say("trained", [state.rounds, shown(state)]))
    forget, method = (federation.delete, Rollback()) if execute else (federation.unlearn, Retrain())
    with contextlib.suppress(AlreadyForgotten):
        outcome = forget(REQUEST, method, adaptive=False, on_round=lambda state: say("forgot", shown(state)))
        say("outcome", shown(outcome.state))


def facts(federation: Federation, directory: Path, say: Say) -> None:
    """What ledger, transcript and folders say in the end."""
    events = [[event.branch, event.round_number, event.status.value] for event in federation.ledger.events()]
    say("ledger", events)
    branches = verify_transcript(directory / "transcript.jsonl", roster=federation.roster, policy=federation.policy)
    say("unreleased", verify_against_ledger(branches, federation.ledger))
    say("transcript", [[branch.name, [one.round_number for one in branch.releases]] for branch in branches])
    say("checkpoints", list(federation.checkpoints.rounds))
    say("lineages", [federation.checkpoints.lineage(rounds) for rounds in federation.checkpoints.rounds])
    say("executed", [[one.branch, one.guarantee.describe()] for one in federation.executed])
    say("logs", {path.name: len(list(path.glob("*.release"))) for path in sorted((directory / "releases").iterdir())})
    say("end", [federation.state.rounds, shown(federation.state)])


def story(directory: Path, place: str, call: int, *, execute: bool, looked_at: bool) -> list[list[list[Any]]]:
    """A life that is killed, one that goes on and ends, and for some stories one that looks."""
    directory.mkdir()

    def first(say: Say) -> None:
        kill_at(place, call)
        whole(made(directory), say, execute=execute)

    def second(say: Say) -> None:
        with opened(directory) as federation:
            whole(federation, say, execute=execute)
            facts(federation, directory, say)

    def third(say: Say) -> None:
        with opened(directory) as federation:
            facts(federation, directory, say)

    lives = [life(directory, first, killed=True), life(directory, second, killed=False)]
    return [*lives, life(directory, third, killed=False)] if looked_at else lives


def main(root: Path) -> None:
    os.fsync = lambda _descriptor: None  # type: ignore[assignment]  # a kill leaves what the system has been given
    with made(root) as federation:  # so that the lives do not load and compile everything anew
        whole(federation, lambda *_: None, execute=False)
    found = {}
    for name in sys.argv[2:]:
        what, place, call = name.split("/")
        found[name] = story(
            root / name.replace("/", "-"), place, int(call), execute=what == "delete", looked_at=name in LOOKED_AT
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
