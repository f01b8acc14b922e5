"""What a run does with a federation's server, over whatever exchange: train, run the deletions that are due, look."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from secure_fu.deletion.queue import RequestQueue
from secure_fu.deployment.exchange import Exchange
from secure_fu.deployment.server import QUEUE, FederationServer, Patience, deletion_service
from secure_fu.errors import ConfigError

__all__ = ["JOBS", "open_queue", "run_job", "write_report"]

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
        settle=exchange_timeout,
    )
    done = _run_windows(directory, exchange, patience, at_once=at_once) if job == "unlearn" else {}
    with FederationServer.open(directory, exchange, patience=patience) as server:
        if job == "train":
            server.train(rounds=rounds)
        elif job == "status":
            server.survey()
        return {"job": job, **_standing(server), **done}


def write_report(report: Mapping[str, Any], path: Path) -> None:
    """Write a report as JSON, whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    part.replace(path)


def open_queue(directory: Path) -> RequestQueue:
    """The queue of deletion requests in a server's directory; made if there is none.

    Raises:
        RecordError: it cannot be used.
    """
    path = directory / QUEUE
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return RequestQueue(path) if path.exists() else RequestQueue.create(path)


def _run_windows(directory: Path, exchange: Exchange, patience: Patience, *, at_once: bool) -> dict[str, Any]:
    with open_queue(directory) as queue, deletion_service(directory, queue, exchange, patience=patience) as service:
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
    return {"windows": windows, "held": done.held, "skipped": done.skipped, "next due": done.next_due}


def _standing(server: FederationServer) -> dict[str, Any]:
    return {
        "rounds": server.state.rounds,
        "model": server.state.model.digest.hex(),
        "present": sorted(server.present),
        "left out": [str(left) for left in server.left_out],
        "traffic": [asdict(traffic) for traffic in server.training_traffic],
        "deletions": len(server.executed),
    }
