"""The server's queue of deletion requests: states with history, on disk when a call returns.

States of a request::

    received -> accepted -> scheduled -> executing -> executed -> certified
                    |  ^                     |
                    |  +---------------------+   a window that was refused, or given up, gives it back
                    +-> refused

Guarantee
    A request that :meth:`RequestQueue.submit` returned from is on disk, once, whatever is killed afterwards, and stays
    there. The same bytes again change nothing; other bytes under the same id are refused. A window is written down with
    its exact requests before anybody is asked to execute it.
    The queue keeps the latest time it was ever told, and never goes back behind it. A clock that is set back by more
    than the policy's tolerance, or has moved ahead by more than the longest pause, is not believed: requests are taken
    all the same, their times are not judged, and no window begins, until somebody confirms the clock.
    A deadline that passes in the queue never removes a request: it is executed late, and marked.
Edge cases
    Requests that are forged, expired, from the future or unauthorised are refused with a named error and not kept, so
    that nobody fills the disk with them and a wrong clock loses none that is sent again. So are those that name more
    units than the policy allows, and those of a signer of whom as much waits as the policy allows.
Not guaranteed
    That the rows are what they were after somebody with the server's rights has edited the file. Each request carries
    its signer's signature, and clients check it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from secure_fu.crypto import Roster, encode
from secure_fu.deletion.execution import Execution, pack_execution, unpack_execution
from secure_fu.deletion.policy import DeletionPolicy
from secure_fu.deletion.queue.entries import (
    SCHEMA,
    Change,
    Entry,
    Reading,
    Skip,
    State,
    Submission,
    Window,
    WindowState,
    read_entry,
    write_entry,
)
from secure_fu.deletion.queue.file import QueueFile
from secure_fu.deletion.requests import (
    RequestRefused,
    RequestTooLarge,
    SignedBatch,
    SignedRequest,
    TooManyWaiting,
    check_request,
    check_signature,
    decode_request,
)
from secure_fu.deletion.times import time_text
from secure_fu.errors import ArgumentError, RecordError

__all__ = ["RequestQueue"]


class RequestQueue:
    """The queue; closes its file as a context manager.

    Several processes may hand requests in and look; only the one that holds the service's lock moves windows on (see
    :class:`~secure_fu.deletion.service.DeletionService`).

    Args:
        path: of the file, which has to exist; :meth:`create` makes one.
        read_only: for looking only.

    Raises:
        RecordError: here and in every method, the file is missing, damaged, busy, or the disk is full; what was there
            stays.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self._file = QueueFile(path, read_only=read_only)

    @classmethod
    def create(cls, path: Path) -> RequestQueue:
        """A new queue; whole or not there after a kill.

        Raises:
            RecordError: the file exists, or cannot be made.
        """
        QueueFile.create(path, SCHEMA).close()
        return cls(path)

    @property
    def path(self) -> Path:
        """Of the file."""
        return self._file.path

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def copy_to(self, path: Path) -> None:
        """Write a copy, as the queue is at one moment, to a new file; for backups."""
        self._file.copy_to(path)

    # Taking requests

    def submit(self, request: SignedRequest, *, roster: Roster, policy: DeletionPolicy, now: int) -> Submission:
        """Take one request; see :meth:`submit_all`."""
        return self.submit_all([request], roster=roster, policy=policy, now=now)[0]

    def submit_all(
        self, requests: Sequence[SignedRequest], *, roster: Roster, policy: DeletionPolicy, now: int
    ) -> list[Submission]:
        """Take requests: all of them, or none where one is refused. On disk on return.

        Args:
            requests: any that the queue has already, with the same bytes, are left as they are.
            roster: the pinned parties.
            policy: who may ask for what.
            now: seconds since 1970 (UTC), by this machine's clock.

        Raises:
            RequestRefused: one of them is forged, expired, from the future, unauthorised, has a deadline further off
                or covers more units than the policy allows, has the id of another request, or is one more than its
                signer may have waiting. The message names which one.
        """
        contents = [encode(request) for request in requests]
        with self._file.together():
            reading = self._look_at_clock(now, policy)
            return [
                self._take(request, content, roster=roster, policy=policy, reading=reading)
                for request, content in zip(requests, contents, strict=True)
            ]

    def _take(
        self, request: SignedRequest, content: bytes, *, roster: Roster, policy: DeletionPolicy, reading: Reading
    ) -> Submission:
        name = request.request_id.hex()
        known = self._file.read("SELECT * FROM requests WHERE id = ?", (request.request_id,))
        if known:
            ((held,),) = self._file.read("SELECT content FROM contents WHERE number = ?", (known[0][0],))
            if held != content:
                raise RequestRefused(f"request {name} is in the queue with other content; nothing was changed")
            return Submission(entry=read_entry(known[0]), new=False)
        try:
            if reading.held:
                check_signature(request, roster=roster, policy=policy)
            else:
                check_request(request, roster=roster, policy=policy, now=reading.at)
                if request.deadline > reading.at + policy.largest_wait_seconds + policy.clock_tolerance_seconds:
                    raise RequestRefused(
                        f"its deadline, {time_text(request.deadline)}, is over {policy.largest_wait_seconds} s off"
                    )
            self._check_room(request, len(content), policy)
        except RequestRefused as error:
            raise type(error)(f"request {name}: {error}") from None
        entry = Entry(
            request_id=request.request_id,
            signer=request.signer,
            scope=request.scope,
            client=request.client,
            units=request.units,
            submitted=request.submitted,
            deadline=request.deadline,
            disclose=request.disclose,
            state=State.ACCEPTED,
            received=reading.at,
            flag="",
            window=None,
        )
        self._file.write(
            "INSERT INTO requests VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            write_entry(entry, len(content)),
        )
        self._file.write("INSERT INTO contents VALUES (last_insert_rowid(), ?)", (content,))
        self._note(entry.request_id, State.RECEIVED, reading.at, "")
        why = f"its times were not judged: {reading.held}" if reading.held else "signature, authority and times hold"
        self._note(entry.request_id, State.ACCEPTED, reading.at, why)
        return Submission(entry=entry, new=True)

    def _check_room(self, request: SignedRequest, size: int, policy: DeletionPolicy) -> None:
        if request.units > policy.maximum_units:
            raise RequestTooLarge(
                f"the request covers {request.units} units; the policy allows {policy.maximum_units}: ask in parts"
            )
        ((count, length),) = self._file.read(
            "SELECT COUNT(*), COALESCE(SUM(size), 0) FROM requests WHERE state = ? AND signer = ?",
            (State.ACCEPTED.value, request.signer),
        )
        if count + 1 > policy.maximum_waiting or length + size > policy.maximum_waiting_bytes:
            raise TooManyWaiting(
                f"{count} requests of {request.signer!r} with {length} bytes wait already, and this one has {size}; "
                f"the policy allows {policy.maximum_waiting} with {policy.maximum_waiting_bytes} bytes"
            )

    # Looking

    def entries(self, *states: State) -> list[Entry]:
        """All requests, or those in some states, in the order of their coming."""
        rows = self._file.read(
            "SELECT * FROM requests WHERE state IN (SELECT value FROM json_each(?)) ORDER BY number",
            (json.dumps([state.value for state in states or State]),),
        )
        return [read_entry(row) for row in rows]

    def request(self, request_id: bytes) -> SignedRequest:
        """A request as it came.

        Raises:
            ArgumentError: the queue has none of that id.
        """
        rows = self._file.read("SELECT content FROM contents JOIN requests USING (number) WHERE id = ?", (request_id,))
        if not rows:
            raise ArgumentError("request_id", request_id.hex(), f"the id of a request in {self.path}")
        return _intact(rows[0][0])

    def history(self, request_id: bytes) -> list[Change]:
        """What happened to a request, in order; empty for an unknown id."""
        rows = self._file.read("SELECT state, at, why FROM history WHERE id = ? ORDER BY number", (request_id,))
        return [Change(state=State(state), at=at, why=why) for state, at, why in rows]

    def windows(self, *states: WindowState) -> list[Window]:
        """All windows that were begun, or those in some states, by when they were due."""
        rows = self._file.read(
            "SELECT windows.id, opened, hidden_units, COUNT(requests.id), windows.state, at, note, certificate "
            "FROM windows LEFT JOIN requests ON requests.window = windows.id "
            "WHERE windows.state IN (SELECT value FROM json_each(?)) GROUP BY windows.id ORDER BY opened, at",
            (json.dumps([state.value for state in states or WindowState]),),
        )
        return [
            Window(
                window_id=window,
                opened=opened,
                hidden_units=hidden,
                requests=count,
                state=WindowState(state),
                at=at,
                note=note,
                certificate=certificate,
            )
            for window, opened, hidden, count, state, at, note, certificate in rows
        ]

    def batch(self, window: Window) -> SignedBatch:
        """The exact batch of a window.

        Raises:
            RecordError: the rows do not give the batch that the window's id names.
        """
        rows = self._file.read(
            "SELECT content FROM contents JOIN requests USING (number) WHERE window = ?", (window.window_id,)
        )
        batch = SignedBatch.of(window.opened, [_intact(content) for (content,) in rows], window.hidden_units)
        if batch.window_id != window.window_id:
            raise RecordError(f"{self.path} is damaged: window {window.window_id.hex()} has lost or gained requests")
        return batch

    def execution(self, window: Window) -> Execution:
        """What a window's execution was.

        Raises:
            RecordError: it has none yet, or it is damaged.
        """
        rows = self._file.read(
            "SELECT execution FROM windows WHERE id = ? AND execution IS NOT NULL", (window.window_id,)
        )
        if not rows:
            raise RecordError(f"window {window.window_id.hex()} has not been executed")
        return unpack_execution(rows[0][0])

    def served(self) -> dict[str, int]:
        """When the last window was due that had a request of a signer, by signer; without those that had none."""
        rows = self._file.read(
            "SELECT signer, MAX(opened) FROM requests JOIN windows ON requests.window = windows.id GROUP BY signer"
        )
        return dict(rows)

    def handled(self, opened: int) -> bool:
        """Whether what was due at a time has been begun or skipped; a window that was refused leaves it open."""
        return bool(
            self._file.read(
                "SELECT 1 FROM windows WHERE opened = ? AND state != ? UNION SELECT 1 FROM skipped WHERE opened = ?",
                (opened, WindowState.REFUSED.value, opened),
            )
        )

    def newest_skip(self) -> Skip | None:
        """The latest due time at which nothing was executed, with why; None before the first."""
        rows = self._file.read("SELECT opened, at, why FROM skipped ORDER BY opened DESC LIMIT 1")
        return Skip(opened=rows[0][0], at=rows[0][1], why=rows[0][2]) if rows else None

    # The clock

    def read_clock(self, now: int, policy: DeletionPolicy) -> Reading:
        """What the queue makes of `now`; a time that it believes is written down."""
        if self._file.read_only:
            return self._judge(now, policy)
        with self._file.together():
            return self._look_at_clock(now, policy)

    def confirm_clock(self, now: int, why: str) -> None:
        """Believe a clock that was held, on somebody's word; kept with the reason."""
        with self._file.together():
            ((latest,),) = self._file.read("SELECT latest FROM clock")
            self._file.write("INSERT INTO clock_history (before, after, why) VALUES (?, ?, ?)", (latest, now, why))
            self._file.write("UPDATE clock SET latest = ?", (now,))

    def _look_at_clock(self, now: int, policy: DeletionPolicy) -> Reading:
        reading = self._judge(now, policy)
        if not reading.held and reading.at == now:
            self._file.write("UPDATE clock SET latest = ?", (now,))
        return reading

    def _judge(self, now: int, policy: DeletionPolicy) -> Reading:
        ((latest,),) = self._file.read("SELECT latest FROM clock")
        held = ""
        if now < latest - policy.clock_tolerance_seconds:
            held = f"the clock says {time_text(now)}, {latest - now} s before a time that it has shown already"
        elif latest and now > latest + max(policy.longest_pause_seconds, 2 * policy.window_seconds):
            held = f"the clock says {time_text(now)}, {now - latest} s after it was last looked at"
        return Reading(at=latest if held else max(now, latest), held=held)

    # Moving on; for the service alone

    def begin(self, batch: SignedBatch, at: int) -> None:
        """Write a window down with its requests, which are all accepted; nobody may be asked to execute it before.

        Raises:
            RecordError: a request is not waiting, or the window is known.
        """
        window = batch.window_id
        with self._file.together():
            self._file.write(
                "INSERT INTO windows VALUES (?, ?, ?, ?, ?, '', NULL, '')",
                (window, batch.opened, batch.hidden_units, WindowState.EXECUTING.value, at),
            )
            for request in batch.requests:
                changed = self._file.write(
                    "UPDATE requests SET state = ?, window = ? WHERE id = ? AND state = ?",
                    (State.EXECUTING.value, window, request.request_id, State.ACCEPTED.value),
                )
                if changed != 1:
                    raise RecordError(f"request {request.request_id.hex()} is not waiting in {self.path}")
                self._note(request.request_id, State.SCHEDULED, at, f"window {window.hex()}, due {batch.opened}")
                self._note(request.request_id, State.EXECUTING, at, f"window {window.hex()}")

    def skip(self, opened: int, at: int, why: str) -> None:
        """Write down that nothing is executed at a due time, as things stand; it may be begun all the same later."""
        with self._file.together():
            self._file.write("INSERT OR REPLACE INTO skipped VALUES (?, ?, ?)", (opened, at, why))

    def note_failure(self, window_id: bytes, why: str) -> None:
        """Write down what kept a window from going on; "" once it does."""
        with self._file.together():
            self._file.write("UPDATE windows SET note = ? WHERE id = ?", (why, window_id))

    def finish(self, execution: Execution, at: int) -> None:
        """Write down that a window was executed; again, with what clients have confirmed since."""
        window = execution.window_id
        content = pack_execution(execution)
        with self._file.together():
            before = self._window_state(window)
            if before not in (WindowState.EXECUTING, WindowState.EXECUTED):
                raise RecordError(f"window {window.hex()} is {before.value}; expected one that is being executed")
            self._file.write("UPDATE windows SET execution = ?, note = '' WHERE id = ?", (content, window))
            if before is WindowState.EXECUTING:
                self._move(window, WindowState.EXECUTED, State.EXECUTED, at, f"branch {execution.branch}")

    def certify(self, window_id: bytes, certificate: str, at: int) -> None:
        """Write down that an executed window has its certificate."""
        with self._file.together():
            before = self._window_state(window_id)
            if before is not WindowState.EXECUTED:
                raise RecordError(f"window {window_id.hex()} is {before.value}; expected an executed one")
            self._file.write("UPDATE windows SET certificate = ?, note = '' WHERE id = ?", (certificate, window_id))
            self._move(window_id, WindowState.CERTIFIED, State.CERTIFIED, at, f"certificate {certificate}")

    def give_back(
        self, window_id: bytes, refused: Iterable[bytes], why: str, at: int, *, ended: WindowState = WindowState.REFUSED
    ) -> None:
        """End a window that was not executed: some of its requests are refused, the others wait again."""
        early = " before anything was released" if ended is WindowState.REFUSED else f": {why}"
        with self._file.together():
            before = self._window_state(window_id)
            if before is not WindowState.EXECUTING:
                raise RecordError(f"window {window_id.hex()} is {before.value}; expected one that is being executed")
            named = set(refused)
            for (request_id,) in self._file.read("SELECT id FROM requests WHERE window = ?", (window_id,)):
                state = State.REFUSED if request_id in named else State.ACCEPTED
                reason = why if request_id in named else f"window {window_id.hex()} was given up{early}"
                self._file.write("UPDATE requests SET state = ?, window = NULL WHERE id = ?", (state.value, request_id))
                self._note(request_id, state, at, reason)
            row = (ended.value, at, why, window_id)
            self._file.write("UPDATE windows SET state = ?, at = ?, note = ? WHERE id = ?", row)

    def refuse(self, request_id: bytes, why: str, at: int) -> None:
        """Refuse a request that waits."""
        with self._file.together():
            changed = self._file.write(
                "UPDATE requests SET state = ? WHERE id = ? AND state = ?",
                (State.REFUSED.value, request_id, State.ACCEPTED.value),
            )
            if changed:
                self._note(request_id, State.REFUSED, at, why)

    def flag(self, flags: Iterable[tuple[bytes, str, str]], at: int) -> None:
        """Mark requests: their ids, flags and why. What is marked so already is left alone."""
        with self._file.together():
            for request_id, flag, why in flags:
                rows = self._file.read("SELECT state, flag FROM requests WHERE id = ?", (request_id,))
                if rows and rows[0][1] != flag:
                    self._file.write("UPDATE requests SET flag = ? WHERE id = ?", (flag, request_id))
                    self._note(request_id, State(rows[0][0]), at, f"{flag or 'no longer at risk'}: {why}")

    def _window_state(self, window_id: bytes) -> WindowState:
        rows = self._file.read("SELECT state FROM windows WHERE id = ?", (window_id,))
        if not rows:
            raise RecordError(f"{self.path} has no window {window_id.hex()}")
        return WindowState(rows[0][0])

    def _move(self, window_id: bytes, to: WindowState, state: State, at: int, why: str) -> None:
        self._file.write("UPDATE windows SET state = ?, at = ? WHERE id = ?", (to.value, at, window_id))
        for (request_id,) in self._file.read("SELECT id FROM requests WHERE window = ?", (window_id,)):
            self._file.write("UPDATE requests SET state = ? WHERE id = ?", (state.value, request_id))
            self._note(request_id, state, at, why)

    def _note(self, request_id: bytes, state: State, at: int, why: str) -> None:
        self._file.write(
            "INSERT INTO history (id, state, at, why) VALUES (?, ?, ?, ?)", (request_id, state.value, at, why)
        )


def _intact(content: bytes) -> SignedRequest:
    try:
        return decode_request(content)
    except RequestRefused as error:
        raise RecordError(f"a request in the queue is damaged: {error}; restore the queue from a backup") from None
