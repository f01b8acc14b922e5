"""What a run does with a federation's server, over whatever exchange: train, run the deletions that are due, look."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from secure_fu.deployment.exchange import Exchange
from secure_fu.deployment.logs import cleaned, event
from secure_fu.deployment.server.deletion_executor import deletion_service
from secure_fu.deployment.server.federation_server import FederationServer
from secure_fu.deployment.server.remote_sums import Patience
from secure_fu.deployment.server.request_queue import open_queue
from secure_fu.errors import ConfigError
from secure_fu.file_names import CERTIFICATES

__all__ = ["JOBS", "run_job", "write_report"]

_LOGGER = logging.getLogger("secure_fu")
_MOST_NAMES: Final = 16

JOBS: Final = ("train", "unlearn", "status")


def run_job(
    directory: Path,
    exchange: Exchange,
    *,
    job: str,
    rounds: int | None = None,
    at_once: bool = False,
    exchange_timeout: float = 60.0,
    round_timeout: float = 600.0,
) -> dict[str, Any]:
    """Open the server's directory, do one job, close it again.

    Args:
        directory: of the server.
        exchange: with the nodes.
        job: one of :data:`JOBS`.
        rounds: for `train`, how many at most; None for all that are left.
        at_once: for `unlearn`, run a window now, whatever the time.
        exchange_timeout: seconds for each exchange but the rounds' uploads.
        round_timeout: seconds for all uploads of a round.

    Returns:
        what was done, in types that JSON has. Nothing in it is secret.

    Raises:
        ConfigError: there is no such job.
        SecureFUError: as :class:`~secure_fu.deployment.server.FederationServer` and
            :class:`~secure_fu.deletion.service.DeletionService`.
    """
    if job not in JOBS:
        raise ConfigError("job", job, f"one of {', '.join(JOBS)}")
    patience = Patience(
        hello=exchange_timeout,
        begin=exchange_timeout,
        invite=round_timeout,
        opening=exchange_timeout,
        wipe=exchange_timeout,
    )
    done = _run_windows(directory, exchange, patience, at_once=at_once) if job == "unlearn" else {}
    with FederationServer.open(directory, exchange, patience=patience) as server:
        if job == "train":
            server.train(rounds=rounds)
        elif job == "status":
            server.survey()
        report = {"job": job, **_standing(server), **done}
    _log(report, directory)
    return report


def _log(report: Mapping[str, Any], directory: Path) -> None:
    """Tell the log how things stand."""
    for window in report.get("windows", ()):
        name = window["certificate"]
        told = {name: window[name] for name in ("window", "state", "requests")}
        told |= {"certificate": str(directory / CERTIFICATES / name)} if name else {}
        told |= {"reason": cleaned(window["note"])} if window["note"] else {}
        _LOGGER.info("a deletion window", extra=event("window", told))
    for name in ("held", "skipped"):
        if report.get(name):
            _LOGGER.info("no window", extra=event(f"window-{name}", {"reason": cleaned(report[name])}))
    standing = {"kind": report["job"], "rounds": report["rounds"], "deletions": report["deletions"]}
    names = {"present": report["present"], "missing": report["missing"], "left_out": report["left out"]}
    _LOGGER.info("the job is done", extra=event("job-done", {**standing, **{key: _few(names[key]) for key in names}}))


def _few(texts: Sequence[str]) -> list[str]:
    """As many as a line of the log may have."""
    shown = texts if len(texts) <= _MOST_NAMES else [*texts[: _MOST_NAMES - 1], f"and {len(texts) - _MOST_NAMES + 1}"]
    return [cleaned(text) for text in shown]


def write_report(report: Mapping[str, Any], path: Path) -> None:
    """Write a report as JSON, whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    part.replace(path)


def _run_windows(directory: Path, exchange: Exchange, patience: Patience, *, at_once: bool) -> dict[str, Any]:
    with (
        open_queue(directory, make=True) as queue,
        deletion_service(directory, queue, exchange, patience=patience) as service,
    ):
        done = service.run_due(at_once=at_once)
    windows = [
        {
            "window": window.window_id.hex(),
            "requests": window.requests,
            "state": window.state.value,
            "certificate": window.certificate,
            "note": window.note,
        }
        for window in done.windows
    ]
    return {
        "windows": windows,
        "held": done.held,
        "skipped": done.skipped,
        "unserved": done.unserved,
        "next due": done.next_due,
    }


def _standing(server: FederationServer) -> dict[str, Any]:
    return {
        "rounds": server.state.rounds,
        "model": server.state.model.digest.hex(),
        "present": sorted(server.present),
        "missing": sorted({*server.roster.clients, *server.policy.committee} - server.present),
        "left out": [str(left) for left in server.left_out],
        "traffic": [asdict(traffic) for traffic in server.training_traffic],
        "deletions": len(server.executed),
    }
