"""The deletion service: executes the windows of a queue, each once, and goes on where it was killed.

What is written, in this order, each on disk before the next begins:

1. the window, with the exact requests of its batch;
2. whatever the executor writes; it is idempotent for a window's id;
3. the Execution, with the requests as executed;
4. the certificate's file; whoever makes it does so once for a window;
5. the requests as certified.

Guarantee
    Killed at any moment, and run again, it asks for the same batch of the same window until it has its Execution, and
    then never again but for confirmations of clients. No request is in two windows that were executed, none is lost, no
    batch has fewer requests than the policy's minimum.
Assumes
    An executor as :class:`~secure_fu.deletion.execution.DeletionExecutor` says.
Edge cases
    A window that the budget does not hold, or the method cannot serve, is not begun: its requests wait, nothing is
    charged, and every later call tries it again. One for cover alone is left out already where it would take what a
    deletion that somebody asks for will need.
    A window that was begun and that its executor can never execute, for the budget ended on the way, is given up: its
    requests wait for a later window, which has an id and an order of its own. Its own due time is over. So is one that
    somebody ends by hand.
    Windows that were due while no service ran are not made up for, one by one: the latest is run, at once, with all
    that waited then. What a window's clients have not confirmed is asked for again, until the next window is due; then
    the certificate names who is missing.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from secure_fu.crypto import Roster
from secure_fu.deletion.execution import BatchRefused, DeletionExecutor, Execution, WindowGivenUp
from secure_fu.deletion.policy import DeletionPolicy
from secure_fu.deletion.queue import (
    Entry,
    RequestQueue,
    Risk,
    ServiceLock,
    State,
    Window,
    WindowPlan,
    WindowState,
    forecast,
    last_due,
    next_due,
    plan_window,
)
from secure_fu.deletion.requests import RequestRefused, SignedBatch, check_signature
from secure_fu.errors import BudgetExceededError, MethodRefused, RecordError, SecureFUError

__all__ = ["Certify", "DeletionService", "RunReport", "unix_time"]

_log = logging.getLogger("secure_fu")

Certify = Callable[[SignedBatch, Execution], str]
"""Makes a window's certificate and returns its file's name; for a window that has one, the same name and file again."""


def unix_time() -> int:
    """Seconds since 1970 (UTC) by this machine's clock."""
    return int(time.time())


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """What a run of the service did.

    Attributes:
        windows: that it moved on, in that order, as they stand now.
        held: why no window was begun; "" if the clock is believed.
        skipped: why the window that was due executed nothing; "" if it did, or none was due.
        unserved: how many requests were in time for it and could have been served, but for the budget or the method;
            `skipped` says why.
        risks: deadlines in danger, the nearest first.
        next_due: when the next window is due, in seconds since 1970 (UTC).
    """

    windows: tuple[Window, ...]
    held: str
    skipped: str
    unserved: int
    risks: tuple[Risk, ...]
    next_due: int


class DeletionService:
    """Executes a queue's windows; one service at a time has a queue. Closes as a context manager; the queue stays open.

    Args:
        queue: of requests.
        executor: executes batches.
        policy: when, and how many together.
        roster: the parties as they are now. A request whose signer's keys are no longer in it is refused.
        clock: seconds since 1970 (UTC).
        certify: makes certificates; without it windows stay executed.

    Raises:
        RecordError: another service has this queue.
    """

    def __init__(
        self,
        queue: RequestQueue,
        executor: DeletionExecutor,
        policy: DeletionPolicy,
        *,
        roster: Roster,
        clock: Callable[[], int] = unix_time,
        certify: Certify | None = None,
    ) -> None:
        self._lock = ServiceLock(queue.path)
        self._queue = queue
        self._executor = executor
        self._policy = policy
        self._roster = roster
        self._clock = clock
        self._certify = certify

    def close(self) -> None:
        """Let another service have the queue."""
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run_due(self, *, at_once: bool = False) -> RunReport:
        """Go on with what was begun, then run the window that is due, if any.

        Args:
            at_once: run a window now, whatever the time. Batches stay as large as the policy wants; but who watches
                when windows run can then tell that somebody asked.

        Raises:
            SecureFUError, OSError: a window could not be executed or certified. It stays as it is, with a note of why,
                and the next call goes on with it. Nothing is begun before a window that could not be executed; what
                could not be certified holds no deletion up, and is raised at the end.
        """
        moved: dict[bytes, None] = {}
        for window in self._queue.windows(WindowState.EXECUTING):
            self._execute(window)
            moved[window.window_id] = None
        failed = self._settle_all(moved)
        reading = self._queue.read_clock(self._clock(), self._policy)
        if reading.held:
            _log.warning("no window is begun: %s", reading.held)
            if failed is not None:
                raise failed
            return self._report(moved, held=reading.held, skipped="", unserved=0, at=reading.at)
        self._flag(reading.at)
        due = reading.at if at_once else last_due(self._policy, reading.at)
        skipped, unserved = "", 0
        while due is not None and not self._begun(due):
            plan = self._plan(due, reading.at)
            if plan.skipped:
                skipped = plan.skipped
                if not at_once:
                    self._queue.skip(due, reading.at, skipped)
                break
            if not plan.requests and self._queue.handled(due):
                break  # cover that was too dear does not become cheaper
            batch = self._batch(plan)
            try:
                self._executor.check_window(batch)
            except (BudgetExceededError, MethodRefused) as error:
                skipped, unserved = str(error), len(plan.requests)
                self._queue.skip(due, reading.at, skipped)
                _log.info("the window due at %d was not begun: %s", due, skipped)
                break
            self._queue.begin(batch, reading.at)
            window = self._window(batch.window_id)
            moved[window.window_id] = None
            if self._execute(window):
                self._settle(window, ask_again=False)
        at = self._queue.read_clock(self._clock(), self._policy).at
        self._flag(at)
        if failed is not None:
            raise failed
        return self._report(moved, held="", skipped=skipped, unserved=unserved, at=at)

    def give_up(self, why: str) -> RunReport:
        """Give up every window that was begun and was not executed, and begin none; their requests wait again.

        It is for people, where a window can never come to its end and nothing here can tell: all clients refuse it by
        records of their own, say. What it charged stays charged.

        Args:
            why: kept with the window and with its requests.

        Returns:
            What was given up. A window that its executor had executed stays for :meth:`run_due`.

        Raises:
            SecureFUError: it cannot be written down. It stays as it is.
        """
        moved: dict[bytes, None] = {}
        for window in self._queue.windows(WindowState.EXECUTING):
            if self._executor.give_up(window.window_id, why):
                self._end(window, why)
                moved[window.window_id] = None
        reading = self._queue.read_clock(self._clock(), self._policy)
        return self._report(moved, held=reading.held, skipped="", unserved=0, at=reading.at)

    def _end(self, window: Window, why: str) -> None:
        _log.warning("window %s is given up, and its requests wait: %s", window.window_id.hex(), why)
        self._queue.give_back(window.window_id, (), why, self._now(), ended=WindowState.GIVEN_UP)

    def _settle_all(self, moved: dict[bytes, None]) -> Exception | None:
        """Settle what is executed. What fails here is for later: no data waits to be deleted for it."""
        failed: Exception | None = None
        for window in self._queue.windows(WindowState.EXECUTED):
            try:
                if self._settle(window, ask_again=window.window_id not in moved):
                    moved[window.window_id] = None
            except (SecureFUError, OSError) as error:
                failed = failed or error
        return failed

    def _plan(self, due: int, at: int) -> WindowPlan:
        """What to execute; requests that the present roster or policy does not allow are refused first."""
        while True:
            plan = plan_window(self._policy, self._queue.entries(State.ACCEPTED), due, served=self._queue.served())
            refused = False
            for request_id in plan.requests:
                try:
                    check_signature(self._queue.request(request_id), roster=self._roster, policy=self._policy)
                except RequestRefused as error:
                    self._queue.refuse(request_id, str(error), at)
                    refused = True
            if not refused:
                return plan

    def _begun(self, due: int) -> bool:
        """Whether a window was begun for a due time; one that was refused leaves it open."""
        refused = WindowState.REFUSED
        return any(window.opened == due and window.state is not refused for window in self._queue.windows())

    def _batch(self, plan: WindowPlan) -> SignedBatch:
        requests = [self._queue.request(request_id) for request_id in plan.requests]
        return SignedBatch.of(plan.opened, requests, self._policy.hidden_units)

    def _execute(self, window: Window) -> bool:
        """Whether the window is executed now; if not, its batch was given up."""
        batch = self._queue.batch(window)
        try:
            execution = self._ask(batch)
        except BatchRefused as error:
            self._queue.give_back(window.window_id, error.requests, str(error), self._now())
            return False
        except WindowGivenUp as error:
            self._end(window, str(error))
            return False
        except (SecureFUError, OSError) as error:
            self._note(window, error)
            raise
        self._queue.finish(execution, self._now())
        return True

    def _settle(self, window: Window, *, ask_again: bool) -> bool:
        """Collect confirmations and certify, once there is nothing to wait for; whether the window is certified now."""
        execution = self._queue.execution(window)
        try:
            if execution.missing and ask_again:
                batch = self._queue.batch(window)
                asked = self._ask(batch)
                if asked != execution:
                    self._queue.finish(asked, self._now())
                execution = asked
            patient = self._now() < execution.finished + self._policy.window_seconds
            if self._certify is None or (execution.missing and patient):
                return False
            name = self._certify(self._queue.batch(window), execution)
        except (SecureFUError, OSError) as error:
            self._note(window, error)
            raise
        self._queue.certify(window.window_id, name, self._now())
        return True

    def _ask(self, batch: SignedBatch) -> Execution:
        execution = self._executor.execute(batch)
        if execution.window_id != batch.window_id:
            raise RecordError(
                f"the executor answered for window {execution.window_id.hex()}, not for {batch.window_id.hex()}"
            )
        return execution

    def _note(self, window: Window, error: Exception) -> None:
        said = str(error) if isinstance(error, SecureFUError) else f"{type(error).__name__}: {error}"
        # It is raised as well, and told to people there: a command line shows warnings of the log too.
        _log.info("window %s could not go on: %s", window.window_id.hex(), said)
        with contextlib.suppress(RecordError):  # a full disk must not hide what was wrong first
            self._queue.note_failure(window.window_id, said)

    def _flag(self, at: int) -> None:
        """Mark the deadlines in danger, and unmark those that no longer are."""
        waiting = self._queue.entries(State.ACCEPTED)
        marks = {
            risk.request_id: ("overdue" if risk.overdue else "at risk", risk.why) for risk in self._risks(waiting, at)
        }
        new = [
            (entry.request_id, *marks.get(entry.request_id, ("", "a window can meet the deadline again")))
            for entry in waiting
            if marks.get(entry.request_id, ("",))[0] != entry.flag
        ]
        if new:
            _log.warning("%d deadlines of deletion requests are in danger or out of it", len(new))
            self._queue.flag(new, at)

    def _risks(self, waiting: list[Entry], at: int) -> tuple[Risk, ...]:
        due = last_due(self._policy, at)
        first = next_due(self._policy, at) if due is None or self._queue.handled(due) else due
        return forecast(self._policy, waiting, now=at, first=first, served=self._queue.served())

    def _report(self, moved: dict[bytes, None], *, held: str, skipped: str, unserved: int, at: int) -> RunReport:
        return RunReport(
            windows=tuple(self._window(window_id) for window_id in moved),
            held=held,
            skipped=skipped,
            unserved=unserved,
            risks=self._risks(self._queue.entries(State.ACCEPTED), at),
            next_due=next_due(self._policy, at),
        )

    def _now(self) -> int:
        return self._queue.read_clock(self._clock(), self._policy).at

    def _window(self, window_id: bytes) -> Window:
        (found,) = [window for window in self._queue.windows() if window.window_id == window_id]
        return found
