"""The ServerApp: drives a federation's server over Flower's grid, one job a run.

The run's configuration says what to do (`[tool.flwr.app.config]`, overridden by `flwr run --run-config`):

====================== ==============================================================================================
key                    meaning
====================== ==============================================================================================
`server-directory`     of the federation's server, an absolute path on the machine that runs the ServerApp
`job`                  `train`, `unlearn` (run the deletion windows that are due) or `status`
`rounds`               for `train`: how many at most; 0 for all that are left
`now`                  for `unlearn`: run a window now, whatever the time
`nodes-directory`      for the simulation engine: where the nodes' directories are; see
                       :mod:`~secure_fu.flower.client_app`
`wait-for-nodes`       begin when so many nodes are connected; 0 does not wait
`wait-seconds`         and give up after so long
`exchange-timeout`     seconds for each exchange but the rounds' uploads
`round-timeout`        seconds for all uploads of a round
`poll-seconds`         how often answers are asked for
`report`               a file for what was done, as JSON; empty for none
`capture-directory`    a folder for a copy of all that travels; empty for none
====================== ==============================================================================================
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from secure_fu.deployment.logs import cleaned, event, log_to
from secure_fu.deployment.server.jobs import JOBS, run_job, write_report
from secure_fu.errors import ConfigError, RoundAborted, SecureFUError
from secure_fu.flower.grid_exchange import GridExchange

__all__ = ["RunSettings", "server_app"]

_LOGGER = logging.getLogger("secure_fu")


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """A run's configuration, checked; see the module for what each key means.

    Raises:
        ConfigError: a value is outside its domain; names the key.
    """

    server_directory: Path
    job: str = "status"
    rounds: int = 0
    now: bool = False
    wait_for_nodes: int = 0
    wait_seconds: float = 120.0
    exchange_timeout: float = 60.0
    round_timeout: float = 600.0
    poll_seconds: float = 0.2
    report: Path | None = None
    capture_directory: Path | None = None

    def __post_init__(self) -> None:
        for name in ("server_directory", "report", "capture_directory"):
            path = getattr(self, name)
            if path is not None and not path.is_absolute():
                raise ConfigError(
                    _key(name), str(path), "an absolute path: the ServerApp runs wherever Flower starts it"
                )
        if self.job not in JOBS:
            raise ConfigError("job", self.job, f"one of {', '.join(JOBS)}")
        for name in ("rounds", "wait_for_nodes"):
            if getattr(self, name) < 0:
                raise ConfigError(_key(name), getattr(self, name), "at least 0")
        for name in ("wait_seconds", "exchange_timeout", "round_timeout", "poll_seconds"):
            if not getattr(self, name) > 0:
                raise ConfigError(_key(name), getattr(self, name), "above 0")

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """From a run's configuration; other keys are for the ClientApp."""
        given: dict[str, Any] = {}
        for name, kind in cls.__annotations__.items():
            value = config.get(_key(name))
            if value is None or (value == "" and "Path" in kind):
                continue
            given[name] = _converted(_key(name), kind, value)
        if "server_directory" not in given:
            raise ConfigError("server-directory", None, "the path of the federation's server directory")
        return cls(**given)


def server_app() -> ServerApp:
    """The ServerApp of an app's `pyproject.toml`."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        log_to(sys.stderr)  # which Flower keeps
        logging.getLogger("flwr").addFilter(_without_trace)
        try:
            _run(grid, RunSettings.of(context.run_config))
        except SecureFUError as error:
            refused = {"error": type(error).__name__, "reason": cleaned(error)}
            _LOGGER.error("the job is refused: %s", error, extra=event("job-refused", refused))
            raise  # Flower marks the run as failed, with this message

    return app


def _without_trace(record: logging.LogRecord) -> bool:
    """For Flower's log: of an error that this package raises on purpose the message is enough."""
    if record.exc_info and isinstance(record.exc_info[1], SecureFUError):
        record.exc_info, record.exc_text = None, None
    return True


def _run(grid: Grid, settings: RunSettings) -> None:
    exchange = GridExchange(grid, poll_seconds=settings.poll_seconds, capture=settings.capture_directory)
    _wait_for_nodes(exchange, settings)
    report = run_job(
        settings.server_directory,
        exchange,
        job=settings.job,
        rounds=settings.rounds or None,
        at_once=settings.now,
        exchange_timeout=settings.exchange_timeout,
        round_timeout=settings.round_timeout,
    )
    if settings.report is not None:
        write_report(report, settings.report)


def _wait_for_nodes(exchange: GridExchange, settings: RunSettings) -> None:
    ends = time.monotonic() + settings.wait_seconds
    while (there := len(exchange.nodes())) < settings.wait_for_nodes:
        if time.monotonic() > ends:
            raise RoundAborted(
                f"{there} nodes are connected after {settings.wait_seconds:g} s, and {settings.wait_for_nodes} were "
                "to be waited for; nothing was asked and nothing is charged"
            )
        time.sleep(settings.poll_seconds)
    _LOGGER.info("%d nodes are connected", there)


def _key(name: str) -> str:
    return name.replace("_", "-")


_KINDS: Final[Mapping[str, tuple[type | tuple[type, ...], str]]] = {
    "str": (str, "a text"),
    "int": (int, "a whole number"),
    "float": ((int, float), "a number"),
    "bool": (bool, "true or false"),
}


def _converted(key: str, kind: str, value: object) -> object:
    if "Path" in kind:
        if not isinstance(value, str):
            raise ConfigError(key, value, "a path")
        return Path(value)
    accepted, expected = _KINDS[kind]
    if not isinstance(value, accepted) or isinstance(value, bool) is not (kind == "bool"):
        raise ConfigError(key, value, expected)
    return float(value) if kind == "float" and isinstance(value, int) else value
