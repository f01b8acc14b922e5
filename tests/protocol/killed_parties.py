"""Run as a program: members and clients with durable records live in child processes that are killed, and restarted.

Prints one JSON object: what every child said, in order. The keys of the parties stay in memory, so the children are
forked; each opens the record's file itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from committee_machines import CommitteeMachines, announcement_in, make_committee_machines
from machines import AMPLE

import secure_fu.protocol.committee.encryption as encryption
from secure_fu.crypto.kahe import ClientKey
from secure_fu.crypto.wire import decode
from secure_fu.errors import SecureFUError
from secure_fu.privacy import Budget, Phase, Subject
from secure_fu.privacy.accounting import ORDERS, rdp
from secure_fu.protocol import ClientRecord, Header, MemberRecord
from secure_fu.protocol.committee.member_record import RecordedVote
from secure_fu.protocol.header import charges_of

MEMBER = "member-00"
CLIENT = "client-0"
RUN = bytes(range(16))
ROUND = 7
AFFORDABLE = 3
KILLS = 10

Said = list[tuple[str, str]]
Say = Callable[[str, bytes], None]


def die(*_: object, **__: object) -> None:
    """End this process, whatever it is doing."""
    os.kill(os.getpid(), signal.SIGKILL)


def life(notes: Path, do: Callable[[Say], object], *, killed: bool = False) -> Said:
    """A child's life; returns what it said before it ended."""
    notes.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        file = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            do(lambda label, content: os.write(file, f"{label} {content.hex()}\n".encode()) and None)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    assert ended == (signal.SIGKILL if killed else 0), (notes, ended)
    lines = notes.read_text().splitlines() if notes.exists() else []
    return [(line.split()[0], "".join(line.split()[1:])) for line in lines]


def tried(say: Say, label: str, do: Callable[[], bytes]) -> None:
    """Say what came of it: the bytes, or the type of the refusal."""
    try:
        say(label, do())
    except SecureFUError as error:
        say(f"{label}:{type(error).__name__}", b"")


# Members


class Members:
    """Two rolls of one round, and what a member says of them before and after a kill."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        machines = self.machines = make_committee_machines(directory, clients=4, minimum=3)
        invitation = machines.invited(ROUND)
        uploads = machines.uploads(invitation)
        self.ballots: dict[str, bytes] = {}
        self.quorums: dict[str, bytes] = {}
        announcement = announcement_in(invitation)
        for roll, names in (("A", machines.names), ("B", machines.names[:3])):
            chosen = {name: uploads[name] for name in names}
            signed = machines.roll_of(announcement, chosen)
            votes = [machines.corrupt_vote(announcement, signed, member) for member in machines.members]
            self.ballots[roll] = machines.ballot_of(announcement, signed, chosen, MEMBER)
            self.quorums[roll] = machines.quorum_of(announcement, signed, votes)

    def first(self, moment: str, path: Path) -> Callable[[Say], None]:
        """A life that votes for roll A and is killed at some moment."""

        def live(say: Say) -> None:
            record = MemberRecord(path, new=not path.exists())
            member = self.machines.member(MEMBER, record=record)
            bind = record.bind
            if moment == "before-bind":
                record.bind = die  # type: ignore[method-assign]
            elif moment.startswith("statement"):
                left = [int(moment.removeprefix("statement"))]

                def count() -> int:
                    left[0] -= 1
                    return die() or 0 if left[0] == 0 else 0

                def counted(*arguments: object) -> None:
                    record._file._connection.set_progress_handler(count, 1)
                    bind(*arguments)  # type: ignore[arg-type]
                    record._file._connection.set_progress_handler(None, 1)
                    say("steps", abs(left[0]).to_bytes(4, "big"))

                record.bind = counted  # type: ignore[method-assign, assignment]
            elif moment == "after-bind":
                record.bind = lambda *arguments: (bind(*arguments), die())  # type: ignore[method-assign, assignment]
            with record.together() if moment == "transaction" else contextlib.nullcontext():
                vote = member.vote(self.ballots["A"])
                if moment == "transaction":
                    die()
            say("vote-A", vote)
            if moment == "after-answer":
                say("answer-A", member.answer(self.quorums["A"]))
            if moment != "measure" and not moment.startswith("statement0"):
                die()

        return live

    def second(self, order: str, path: Path) -> Callable[[Say], None]:
        """A life after a restart, with a server that asks for both rolls."""

        def live(say: Say) -> None:
            member = self.machines.member(MEMBER, record=MemberRecord(path, new=not path.exists()))
            for roll in order:
                tried(say, f"vote-{roll}", lambda roll=roll: member.vote(self.ballots[roll]))
                tried(say, f"answer-{roll}", lambda roll=roll: member.answer(self.quorums[roll]))

        return live

    def all(self) -> dict[str, list[Said]]:
        """By moment and order: what the two lives said."""
        counting = life(self.directory / "notes", self.first("statement0", self.directory / "counted.sqlite"))
        # SQLite calls a progress handler a few times before the statement commits, and more often when it has.
        inside = (1, 2, 3, 4, int(dict(counting)["steps"], 16))
        moments = ["before-bind", "transaction", *(f"statement{step}" for step in inside), "after-bind"]
        found = {}
        for moment in [*moments, "after-vote", "after-answer"]:
            for order in ("AB", "BA"):
                path = self.directory / f"{moment}-{order}.sqlite"
                found[f"{moment}/{order}"] = [
                    life(self.directory / "notes", self.first(moment, path), killed=True),
                    life(self.directory / "notes", self.second(order, path)),
                ]
        return found


# Clients


def budget_for(header: Header, rounds: float) -> Budget:
    """A budget that training may fill with so many rounds of a header."""
    event = charges_of(header)[Subject.RETAINED]
    assert event is not None
    cost = float(rdp(event, AMPLE.group_size)[ORDERS.index(AMPLE.order)])
    return replace(AMPLE, deletion_reserve=1.0 - rounds * cost / AMPLE.limit(Phase.UNLEARNING))


class Clients:
    """Invitations, and what a client does with them before and after a kill."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.machines: CommitteeMachines = make_committee_machines(directory)
        self.invitation = self.machines.invited(ROUND)
        header = decode(Header, announcement_in(self.invitation).header)
        self.policy = replace(self.machines.policy, budget=budget_for(header, AFFORDABLE + 0.5))

    def first(self, moment: str, path: Path) -> Callable[[Say], None]:
        """A life that answers a round and is killed at some moment."""

        def live(say: Say) -> None:
            record = ClientRecord(path, new=not path.exists())
            client = self.machines.client(CLIENT, policy=self.policy, record=record)
            write, generate, encrypt, seal = record._file.write, ClientKey.generate, ClientKey.encrypt, encryption.seal
            boxes: list[bytes] = []

            def sealed(*arguments: object, **named: object) -> bytes:
                boxes.append(seal(*arguments, **named))  # type: ignore[arg-type]
                return die() or b"" if moment == "sealing" and len(boxes) == 2 else boxes[-1]

            def generated(*arguments: object) -> ClientKey:
                key = generate(*arguments)  # type: ignore[arg-type]
                say("key", hashlib.sha256(key.coefficients.tobytes()).digest())
                return key

            def encrypted(*arguments: object, **named: object) -> bytes:
                body = encrypt(*arguments, **named)  # type: ignore[arg-type]
                return die() or b"" if moment == "encrypting" else body

            if moment == "before-accept":
                record._file.write = die  # type: ignore[method-assign, assignment]
            elif moment == "accepting":
                record._file.write = lambda *arguments: (write(*arguments), die())[0]  # type: ignore[method-assign]
            encryption.seal = sealed  # type: ignore[assignment]
            ClientKey.generate = generated  # type: ignore[method-assign, assignment]
            ClientKey.encrypt = encrypted  # type: ignore[method-assign, assignment]
            with record.together() if moment == "transaction" else contextlib.nullcontext():
                accepted = client.accept(self.invitation)
                if moment == "transaction":
                    die()
            if moment == "accepted":
                die()
            pending = accepted.begin()
            if moment == "begun":
                die()
            upload = pending.finish()
            if moment != "finished":
                say("upload", hashlib.sha256(upload).digest())
            die()

        return live

    def second(self, path: Path) -> Callable[[Say], None]:
        """A life after a restart: the same round again, in every guise, then as many new rounds as the budget holds."""

        def live(say: Say) -> None:
            record = ClientRecord(path, new=not path.exists())
            client = self.machines.client(CLIENT, policy=self.policy, record=record)
            generate = ClientKey.generate

            def generated(*arguments: object) -> ClientKey:
                key = generate(*arguments)  # type: ignore[arg-type]
                say("key", hashlib.sha256(key.coefficients.tobytes()).digest())
                return key

            ClientKey.generate = generated  # type: ignore[method-assign, assignment]
            say("rounds", bytes([record.rounds(CLIENT)]))
            tried(say, "same", lambda: client.respond(self.invitation)[:1])
            forged = self.machines.forged_invitation
            tried(say, "header", lambda: client.respond(forged(settings='{"again":true}'))[:1])
            tried(say, "older", lambda: client.respond(forged(round_number=ROUND - 1))[:1])
            # Half of them in new runs: a run's name is no budget.
            for number in range(AFFORDABLE + 2):
                changes = {"round_number": ROUND + 1 + number} if number % 2 else {"run_id": bytes([number + 1] * 16)}
                tried(say, "new", lambda changes=changes: client.respond(forged(**changes))[:1])
            say("rounds", bytes([record.rounds(CLIENT)]))

        return live

    def all(self) -> dict[str, list[Said]]:
        """By moment: what the two lives said."""
        found = {}
        before = ("before-accept", "transaction")
        for moment in (*before, "accepting", "accepted", "sealing", "encrypting", "begun", "finished", "sent"):
            path = self.directory / f"client-{moment}.sqlite"
            found[moment] = [
                life(self.directory / "notes", self.first(moment, path), killed=True),
                life(self.directory / "notes", self.second(path)),
            ]
        return found


# At any moment


def any_moment(directory: Path) -> list[tuple[int, int, bool]]:
    """Kill a process that binds round after round: the last round it told of, the newest on record, and its bytes."""
    path, found = directory / "any.sqlite", []
    for attempt in range(KILLS):
        told, tell = os.pipe()
        child = os.fork()
        if child == 0:
            record = MemberRecord(path, new=not path.exists())
            newest = record.newest(MEMBER, RUN)
            number = 0 if newest is None else newest.round_number + 1
            while True:
                record.bind(MEMBER, RUN, bound_to(number))
                os.write(tell, number.to_bytes(4, "big"))
                number += 1
        os.close(tell)
        first = os.read(told, 4)
        time.sleep(0.0007 * attempt)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        last = int.from_bytes((first + os.read(told, 1 << 16))[-4:], "big")
        os.close(told)
        record = MemberRecord(path, new=not path.exists())
        newest = record.newest(MEMBER, RUN)
        assert newest is not None
        found.append((last, newest.round_number, newest == bound_to(newest.round_number)))
        record.close()
    return found


def bound_to(number: int) -> RecordedVote:
    """A vote of which every part tells its round."""
    parts = [hashlib.sha256(f"{part} {number}".encode()).digest() for part in ("header", "roll")]
    return RecordedVote(
        header=parts[0] * 40,
        round_number=number,
        header_digest=parts[0],
        roll_digest=parts[1],
        vote=parts[1] * 5,
        answer=parts[0] * 100,
    )


# One process at a time


def one_at_a_time(directory: Path) -> Said:
    """What comes of opening a record that another process has, before and after that one is killed."""
    path = directory / "one.sqlite"
    ready, go = os.pipe()
    holder = os.fork()
    if holder == 0:
        MemberRecord(path, new=not path.exists())
        with contextlib.suppress(SecureFUError):
            MemberRecord(path, new=not path.exists())  # a careless second try must not cost the first its lock
        os.write(go, b"x")
        signal.pause()
    os.read(ready, 1)

    def attempt(say: Say) -> None:
        tried(say, "open", lambda: MemberRecord(path, new=not path.exists()).close() or b"")

    said = life(directory / "notes", attempt)
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    return said + life(directory / "notes", attempt)


def main(root: Path) -> None:
    """Let them live and die."""
    for name in ("members", "clients", "files"):
        (root / name).mkdir()
    print(
        json.dumps(
            {
                "members": Members(root / "members").all(),
                "clients": Clients(root / "clients").all(),
                "any": any_moment(root / "files"),
                "one": one_at_a_time(root / "files"),
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
