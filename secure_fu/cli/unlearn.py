"""`secure-fu unlearn`: execute the deletion windows that are due, and certify them.

With `--json` it prints one object for each run::

    {"schema": "secure-fu/unlearn/1", "windows": [WINDOW, ...], "held": TEXT or null, "skipped": TEXT or null,
     "unserved": N, "risks": [RISK, ...], "next_due": TIME}

WINDOW and RISK are those of `secure-fu pending --json`; `windows` are those that this run moved on.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console

from secure_fu.cli.common import FAILED, INTERRUPTED, complain
from secure_fu.cli.deletions import (
    print_json,
    read_pinned_deletion_policy,
    read_pinned_roster,
    risk_fields,
    risk_line,
    server_queue,
    show_time,
    window_fields,
)
from secure_fu.cli.pending import given_up_line
from secure_fu.errors import ArgumentError, SecureFUError
from secure_fu.file_names import ROSTER

if TYPE_CHECKING:
    from secure_fu.deletion import RequestQueue, RunReport

__all__ = ["unlearn"]

_SCHEMA: Final = "secure-fu/unlearn/1"
_LONGEST_SLEEP: Final = 60.0
_SHOWN: Final = 20


def unlearn(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="A server's directory; its nodes.toml lists the nodes' sockets.")
    ],
    now: Annotated[
        bool,
        typer.Option(
            "--now",
            help="A window now, not at its time: who watches can tell that somebody asked, and its certificate "
            "does not hold against the deletion policy.",
        ),
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Stay, and run each window when it is due, until Ctrl-C.")
    ] = False,
    confirm_clock: Annotated[
        str | None,
        typer.Option(metavar="WHY", help="Believe this machine's clock, which was held, and write down why."),
    ] = None,
    give_up: Annotated[
        str | None,
        typer.Option(
            metavar="WHY",
            help="Never go on with the windows that were begun and not executed, and write down why: their requests "
            "wait for a later window, what they charged stays charged. Nothing else is done.",
        ),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Go on with windows that were begun, run the one that is due, and certify what was executed.

    Exit codes: 0 also where nothing was due, and with --give-up; 1 where a window could not go on, was given up for the
    budget, or was not opened though requests wait, or the clock is not believed. The same command goes on from there,
    also after a kill.
    """
    from secure_fu.deployment.server import read_node_sockets

    if give_up is not None:
        if now or watch or confirm_clock is not None:
            raise ArgumentError("--give-up", give_up, "neither --now, --watch nor --confirm-clock beside it")
        _tell(_give_up(directory, give_up), json_=json_, watch=False, said="")
        return
    with server_queue(directory, make=True) as queue:
        read_pinned_deletion_policy(directory)
        read_pinned_roster(directory / ROSTER, "DIR")
        read_node_sockets(directory)
        if confirm_clock is not None:
            queue.confirm_clock(int(time.time()), confirm_clock)
        said = ""
        try:
            while True:
                report = _run(directory, queue, at_once=now, watch=watch)
                if report is not None:
                    _tell(report, json_=json_, watch=watch, said=said)
                    said = report.skipped
                if not watch:
                    raise typer.Exit(FAILED if report is None or _failed(report) else 0)
                now = False
                left = _LONGEST_SLEEP if report is None else report.next_due - time.time()
                time.sleep(min(max(left, 1.0), _LONGEST_SLEEP))
        except KeyboardInterrupt as interrupt:
            complain("interrupted; the same command goes on with what was begun", interrupt)
            raise typer.Exit(INTERRUPTED) from None


def _run(directory: Path, queue: RequestQueue, *, at_once: bool, watch: bool) -> RunReport | None:
    """One run; None where it failed and the next one may do better."""
    from secure_fu.deployment.exchange import SocketExchange
    from secure_fu.deployment.server import deletion_service, read_node_sockets

    try:
        exchange = SocketExchange(read_node_sockets(directory))
        with deletion_service(directory, queue, exchange) as service:
            return service.run_due(at_once=at_once)
    except SecureFUError as error:
        if not watch:
            raise
        complain(str(error), error)
        return None


def _give_up(directory: Path, why: str) -> RunReport:
    from secure_fu.deletion import WindowState
    from secure_fu.deployment.exchange import SocketExchange
    from secure_fu.deployment.server import deletion_service

    if not why.strip() or not why.isprintable():
        raise ArgumentError("--give-up", why, "a reason in one line of text, that can be printed")
    with server_queue(directory) as queue:
        read_pinned_deletion_policy(directory)
        read_pinned_roster(directory / ROSTER, "DIR")
        with deletion_service(directory, queue, SocketExchange(())) as service:
            report = service.give_up(why) if queue.windows(WindowState.EXECUTING) else None
    if report is None or not report.windows:
        raise ArgumentError("--give-up", why, "a window that was begun and not executed; there is none")
    return report


def _failed(report: RunReport) -> bool:
    from secure_fu.deletion import WindowState

    given_up = any(window.state is WindowState.GIVEN_UP for window in report.windows)
    return bool(report.held or report.unserved or given_up)


def _tell(report: RunReport, *, json_: bool, watch: bool, said: str) -> None:
    """Tell what a run did; that nothing was executed not twice in the same words, `said` the time before."""
    if json_:
        fields = {
            "schema": _SCHEMA,
            "windows": [window_fields(window) for window in report.windows],
            "held": report.held or None,
            "skipped": report.skipped or None,
            "unserved": report.unserved,
            "risks": [risk_fields(risk) for risk in report.risks],
            "next_due": show_time(report.next_due),
        }
        print_json(fields, indent=None if watch else 2)
        return
    from secure_fu.deletion import WindowState

    lines = []
    for window in report.windows:
        if window.state is WindowState.GIVEN_UP:
            lines.append(given_up_line(window))
            continue
        certificate = f", certificate {window.certificate}" if window.certificate else ""
        what = f"{window.requests} requests" if window.requests else "cover only"
        note = f": {window.note}" if window.note else ""
        lines.append(f"Window {window.window_id.hex()}: {what}, {window.state.value}{certificate}{note}")
    if report.held:
        lines.append(f"CLOCK HELD: {report.held}. No window begins until it is right, or --confirm-clock WHY.")
    if report.skipped and report.skipped != said:
        lines.append(f"Nothing executed: {report.skipped}.")
        if report.unserved:
            waiting = "1 request keeps" if report.unserved == 1 else f"{report.unserved} requests keep"
            lines.append(f"The window was not opened and nothing was charged; {waiting} waiting.")
    lines += [risk_line(risk, int(time.time())) for risk in report.risks[:_SHOWN]]
    if len(report.risks) > _SHOWN:
        lines.append(f"{len(report.risks) - _SHOWN} more deadlines are in danger; see secure-fu pending.")
    if lines or not watch:
        lines.append(f"Next window {show_time(report.next_due)}.")
    console = Console()
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
