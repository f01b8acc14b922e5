"""Which window is due, what goes into it, and which deadlines it will not meet: pure functions of policy and time.

Windows are due at times that the policy fixes, whoever asks for what. What goes into one is what the queue had at that
time; what comes later waits, so that nobody reads the time of a request off the time of a deletion. Where more waits
than one window takes, signers take turns: the first request of each, then the second of each, and so on. Of one
signer's requests those with the nearest deadlines go first; in a turn those of signers who were served longest ago, and
among these the nearest deadlines.

Guarantee
    However much somebody else asks for, and with whatever deadlines, a signer's most urgent request is in one of the
    next N windows that take `maximum_batch` requests each, where N is the number of signers over that maximum, rounded
    up.
    No window has fewer requests than the policy's minimum, except those with none, which run for cover.
Not guaranteed
    That a batch of the minimum size hides a request among others' requests: somebody who hands in all the others knows
    which one is left. Hidden units help against that, for nobody but the client concerned counts them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from secure_fu.deletion.policy import DeletionPolicy
from secure_fu.deletion.queue.entries import Entry
from secure_fu.deletion.times import time_text

__all__ = ["Risk", "WindowPlan", "forecast", "last_due", "next_due", "plan_window"]


@dataclass(frozen=True, kw_only=True)
class WindowPlan:
    """What to do at a due time.

    Attributes:
        opened: the due time.
        requests: ids of the requests to execute; empty with no `skipped`: a round for cover.
        skipped: why nothing is executed; "" if something is.
    """

    opened: int
    requests: tuple[bytes, ...]
    skipped: str


@dataclass(frozen=True, kw_only=True)
class Risk:
    """A deadline that will not be met, or may not be.

    Attributes:
        request_id: of the request.
        deadline: in seconds since 1970 (UTC).
        overdue: whether it has passed already, or no window can meet it any more.
        why: in plain words.
    """

    request_id: bytes
    deadline: int
    overdue: bool
    why: str


def last_due(policy: DeletionPolicy, now: int) -> int | None:
    """The latest due time up to now; None before the first."""
    if now < policy.window_start:
        return None
    return now - (now - policy.window_start) % policy.window_seconds


def next_due(policy: DeletionPolicy, now: int) -> int:
    """The first due time after now."""
    last = last_due(policy, now)
    return policy.window_start if last is None else last + policy.window_seconds


def plan_window(
    policy: DeletionPolicy, waiting: Iterable[Entry], opened: int, *, served: Mapping[str, int] | None = None
) -> WindowPlan:
    """What to execute at a due time.

    Args:
        policy: minimum, maximum, cover.
        waiting: all accepted requests.
        opened: the due time; what was received after it is left for the next.
        served: when the last window was due that had a request of a signer, by signer; None where there was none.
    """
    every = list(waiting)
    in_time = _line((entry for entry in every if entry.received <= opened), served)
    chosen = tuple(entry.request_id for entry in in_time[: policy.maximum_batch])
    if len(chosen) >= policy.minimum_batch:
        return WindowPlan(opened=opened, requests=chosen, skipped="")
    if policy.cover:
        return WindowPlan(opened=opened, requests=(), skipped="")
    few = f"{_requests(len(chosen))} came in time for the window of {time_text(opened)}"
    few += f", fewer than {policy.minimum_batch}"
    late, following = len(every) - len(in_time), opened + policy.window_seconds
    if late:
        few += f"; {_requests(late)} came later, for the next one, due {time_text(following)}"
    return WindowPlan(opened=opened, requests=(), skipped=few)


def _requests(count: int) -> str:
    return "1 request" if count == 1 else f"{count} requests"


def forecast(
    policy: DeletionPolicy,
    waiting: Iterable[Entry],
    *,
    now: int,
    first: int,
    served: Mapping[str, int] | None = None,
) -> tuple[Risk, ...]:
    """Deadlines that are in danger, the nearest first.

    By the line as it is now, which each window and each new request may change.

    Args:
        policy: as for :func:`plan_window`.
        waiting: all accepted requests.
        now: seconds since 1970 (UTC).
        first: due time of the next window that will be begun.
        served: as for :func:`plan_window`.
    """
    line = _line(waiting, served)
    # What came after a due time waits for the next, also where that window has not run yet.
    going = set(plan_window(policy, line, first, served=served).requests) if first <= now else set()
    later = [entry for entry in line if entry.request_id not in going]
    following = first if first > now else first + policy.window_seconds
    risks = [_risk(policy, entry, now=now, first=first) for entry in line if entry.request_id in going]
    for place, entry in enumerate(later):
        turn = place // policy.maximum_batch
        together = min(policy.maximum_batch, len(later) - turn * policy.maximum_batch)
        risks.append(_risk(policy, entry, now=now, first=following, place=place, together=together))
    return tuple(
        sorted((risk for risk in risks if risk is not None), key=lambda risk: (risk.deadline, risk.request_id))
    )


def _risk(
    policy: DeletionPolicy, entry: Entry, *, now: int, first: int, place: int = 0, together: int | None = None
) -> Risk | None:
    """What endangers one deadline, for a request at a place in the line for the windows from `first` on."""
    due = first + place // policy.maximum_batch * policy.window_seconds
    last = last_due(policy, entry.deadline - policy.execution_seconds)
    overdue = entry.deadline <= now or last is None or last < first
    if entry.deadline <= now:
        why = "the deadline has passed"
    elif last is None or last < first:
        why = f"the next window is due at {time_text(first)} and takes {policy.execution_seconds} s: too late"
    elif due > last:
        why = f"{place} requests go first, {policy.maximum_batch} in a window"
    elif together is not None and together < policy.minimum_batch:
        why = f"{policy.minimum_batch - together} more requests are needed for a batch by {time_text(last)}"
    else:
        return None
    return Risk(request_id=entry.request_id, deadline=entry.deadline, overdue=overdue, why=why)


def _line(waiting: Iterable[Entry], served: Mapping[str, int] | None) -> list[Entry]:
    """In the order in which requests are taken."""
    before = served or {}
    had: Counter[str] = Counter()
    places: dict[bytes, tuple[int, int]] = {}
    urgent = sorted(waiting, key=_urgency)
    for entry in urgent:
        places[entry.request_id] = (had[entry.signer], before.get(entry.signer, -1))
        had[entry.signer] += 1
    return sorted(urgent, key=lambda entry: places[entry.request_id])  # stable: of equal places the more urgent first


def _urgency(entry: Entry) -> tuple[int, int, bytes]:
    return entry.deadline, entry.received, entry.request_id
