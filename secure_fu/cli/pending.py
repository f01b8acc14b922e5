"""`secure-fu pending`: what waits in a server's queue, and which deadlines are in danger.

With `--json` it prints one object::

    {"schema": "secure-fu/pending/1", "now": TIME, "next_due": TIME, "clock_held": TEXT or null, "minimum_batch": N,
     "skipped": {"opened": TIME, "why": TEXT} or null,
     "states": {STATE: N, ...}, "requests": [REQUEST, ...], "risks": [RISK, ...], "windows": [WINDOW, ...]}

REQUEST: `request_id`, `signer`, `scope` (client, group, records, class), `client` (null: every client), `units`,
`submitted`, `deadline`, `disclose`, `state` (accepted, executing, executed, certified, refused), `received`, `flag`
(null, "at risk" or "overdue"), `window`. RISK: `request_id`, `deadline`, `overdue`, `why`. WINDOW: `window_id`,
`opened`, `state` (executing, executed, certified, refused, given up), `since`, `requests`, `hidden_units`,
`certificate`, `note`.
With `--request` it is REQUEST with `history`, a list of `state`, `at`, `why`, and the schema's name.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from secure_fu.cli.deletions import (
    entry_fields,
    print_json,
    read_pinned_deletion_policy,
    risk_fields,
    risk_line,
    server_queue,
    server_queue_if_any,
    show_time,
    window_fields,
)
from secure_fu.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from secure_fu.deletion import Entry, RequestQueue, Window

__all__ = ["given_up_line", "pending"]

_SCHEMA: Final = "secure-fu/pending/1"
_SHOWN: Final = 50


def pending(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A server's directory.")],
    all_: Annotated[bool, typer.Option("--all", help="Requests that are done or refused, too.")] = False,
    request: Annotated[
        str | None, typer.Option(metavar="ID", help="One request with its history, by its id or first digits.")
    ] = None,
    limit: Annotated[
        int, typer.Option(metavar="N", min=0, help="Most requests in the table; 0 for all. JSON always has all.")
    ] = _SHOWN,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Show which deletion requests wait, when the next window is due, and which deadlines are in danger."""
    from secure_fu.deletion import Reading, State, forecast, last_due, next_due

    if request is not None:
        with server_queue(directory, read_only=True) as queue:
            _one(queue, request, json_=json_)
        return
    now = int(time.time())
    with server_queue_if_any(directory) as there:
        policy = read_pinned_deletion_policy(directory)
        reading = Reading(at=now, held="") if there is None else there.read_clock(now, policy)
        every = [] if there is None else there.entries()
        states = Counter(entry.state.value for entry in every)
        done = (State.CERTIFIED, State.REFUSED)
        shown = every if all_ else [entry for entry in every if entry.state not in done]
        windows = [] if there is None else there.windows()
        if not all_:
            windows = _of_interest(windows)
        due = last_due(policy, reading.at)
        open_now = due is not None and not (there is not None and there.handled(due))
        skip = None if there is None else there.newest_skip()
        if skip is not None and due is not None and skip.opened < due:
            skip = None  # of a window that is over
        first = due if due is not None and open_now else next_due(policy, reading.at)
        waiting = [entry for entry in every if entry.state is State.ACCEPTED]
        risks = forecast(policy, waiting, now=reading.at, first=first, served=None if there is None else there.served())
    if json_:
        print_json(
            {
                "schema": _SCHEMA,
                "now": show_time(reading.at),
                "next_due": show_time(first),
                "clock_held": reading.held or None,
                "skipped": None if skip is None else {"opened": show_time(skip.opened), "why": skip.why},
                "minimum_batch": policy.minimum_batch,
                "states": {state.value: states[state.value] for state in State if states[state.value]},
                "requests": [entry_fields(entry) for entry in shown],
                "risks": [risk_fields(risk) for risk in risks],
                "windows": [window_fields(window) for window in windows],
            }
        )
        return
    console = Console()
    ordered = sorted(shown, key=lambda entry: (entry.deadline, entry.received))
    cut = ordered if limit == 0 else ordered[:limit]
    if cut:
        console.print(_table(cut, reading.at))
    lines = []
    if len(cut) < len(ordered):
        lines.append(f"{len(ordered) - len(cut)} more with later deadlines; --limit 0 or --json shows them.")
    said = ", ".join(f"{count} {state}" for state, count in states.items()) or "no requests"
    when = f"the window of {show_time(first)} is due" if open_now else f"next window {show_time(first)}"
    lines.append(f"Queue: {said}; {when}, at least {policy.minimum_batch} requests in a batch.")
    if skip is not None:
        lines.append(f"Nothing was executed at {show_time(skip.opened)}: {skip.why}.")
    lines += [_window_line(window) for window in windows]
    lines += [risk_line(risk, reading.at) for risk in risks[: limit or None]]
    if limit and len(risks) > limit:
        lines.append(f"{len(risks) - limit} more deadlines are in danger.")
    if reading.held:
        lines.append(f"CLOCK HELD: {reading.held}. No window begins; see secure-fu unlearn --confirm-clock.")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _one(queue: RequestQueue, wanted: str, *, json_: bool) -> None:
    found = [entry for entry in queue.entries() if entry.request_id.hex().startswith(wanted.lower())]
    if len(wanted) < 4 or len(found) != 1:
        expected = f"4 digits or more of the id of one request; {len(found)} begin so"
        raise ArgumentError("--request", wanted, expected)
    entry = found[0]
    history = queue.history(entry.request_id)
    if json_:
        changes: list[dict[str, Any]] = [
            {"state": change.state.value, "at": show_time(change.at), "why": change.why or None} for change in history
        ]
        print_json({"schema": _SCHEMA, **entry_fields(entry), "history": changes})
        return
    console = Console()
    console.print(_table([entry], int(time.time())))
    for change in history:
        why = f"  {change.why}" if change.why else ""
        line = f"{show_time(change.at)}  {change.state.value}{why}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _table(entries: Sequence[Entry], now: int) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    elsewhere = any(entry.client != entry.signer for entry in entries)
    for name in ("request", "from", "scope", *(["client"] if elsewhere else [])):
        table.add_column(name, no_wrap=name in ("request", "scope"), overflow="fold")
    table.add_column("units", justify="right", no_wrap=True)
    for name in ("deadline", "state", "flag"):
        table.add_column(name, no_wrap=True)
    for entry in entries:
        table.add_row(
            entry.request_id.hex()[:8],
            Text(entry.signer),
            entry.scope.value,
            *([Text(entry.client or "every")] if elsewhere else []),
            str(entry.units),
            show_time(entry.deadline)[:16],
            entry.state.value,
            # It says "overdue" of what no window can meet, too.
            "will miss" if entry.flag == "overdue" and entry.deadline > now else entry.flag,
        )
    return table


def _of_interest(windows: Sequence[Window]) -> list[Window]:
    """Those that are under way, and those given up that no executed one came after."""
    from secure_fu.deletion import WindowState

    done = (WindowState.EXECUTED, WindowState.CERTIFIED)
    last = max((window.opened for window in windows if window.state in done), default=-1)
    return [
        window
        for window in windows
        if window.state in (WindowState.EXECUTING, WindowState.EXECUTED)
        or (window.state is WindowState.GIVEN_UP and window.opened > last)
    ]


def given_up_line(window: Window) -> str:
    """What a window that was given up means, and what can be done."""
    return (
        f"GIVEN UP: window {window.window_id.hex()[:8]}, due {show_time(window.opened)}: {window.note}. The rounds "
        "that it had stay charged, its requests wait again, and a later window that the budget holds executes them. If "
        "it holds none, retrain outside of this federation, or found another whose clients know that both are spent."
    )


def _window_line(window: Window) -> str:
    from secure_fu.deletion import WindowState

    if window.state is WindowState.GIVEN_UP:
        return given_up_line(window)
    note = f": {window.note}" if window.note else ""
    return (
        f"Window {window.window_id.hex()[:8]}, due {show_time(window.opened)}, {window.requests} requests: "
        f"{window.state.value} since {show_time(window.at)}{note}"
    )
