"""Flower on this machine: a SuperLink with TLS, authenticated SuperNodes or the simulation engine, and a clean end.

Everything listens on the loopback address alone and keeps its files in one folder. Nothing is fetched: Flower's
installation of an app's dependencies is off, and so are its telemetry and its look for updates.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

import tomli_w

from secure_fu.deployment.local import LocalProcessError, Processes, program
from secure_fu.errors import ArgumentError
from secure_fu.flower.certificates import NodeKey, ServerCertificate, make_node_key, make_server_certificate

__all__ = ["LocalFlower", "RunOutcome"]

_CONNECTION: Final = "local"
_SUPERLINK: Final = "superlink"
_STARTUP_SECONDS: Final = 120.0
_HOST: Final = "127.0.0.1"

Setting = str | int | float | bool


@dataclass(frozen=True, kw_only=True)
class RunOutcome:
    """What became of a run.

    Attributes:
        run_id: of Flower.
        status: as Flower says it, `finished:completed` when all went well.
        log: what the ServerApp wrote.
        seconds: of wall time.
    """

    run_id: int
    status: str
    log: str
    seconds: float


class LocalFlower:
    """SuperLink and SuperNodes as processes of this machine; a context manager that ends what it started.

    Args:
        folder: made if it is not there; holds certificates, keys, logs and Flower's own files.
        nodes: by name, what the ClientApp there finds in `context.node_config`. None at all: runs go to Flower's
            simulation engine, which makes its own.
        poll_seconds: how often Flower's executors look for work. Flower's own default is one second.

    Attributes:
        node_ids: of Flower, by name.
    """

    def __init__(self, folder: Path, nodes: Mapping[str, Mapping[str, Setting]], *, poll_seconds: float = 0.2) -> None:
        if _SUPERLINK in nodes:
            raise ArgumentError("nodes", _SUPERLINK, "another name, for that is the server's")
        if not 0.01 <= poll_seconds <= 60:
            raise ArgumentError("poll_seconds", poll_seconds, "between 0.01 and 60")
        self._folder = folder
        self._nodes = {name: dict(config) for name, config in nodes.items()}
        self._poll_seconds = poll_seconds
        self._processes = Processes(folder / "logs")
        self._port = 0
        self._certificate: ServerCertificate | None = None
        self._keys: dict[str, NodeKey] = {}
        self.node_ids: dict[str, int] = {}

    def __enter__(self) -> LocalFlower:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """Of the SuperLink, as host:port."""
        return f"{_HOST}:{self._port}"

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of what runs, by name; the SuperLink is called `superlink`."""
        return self._processes.pids

    def start(self) -> None:
        """Start the SuperLink, register every node's key, and start the SuperNodes.

        Raises:
            LocalProcessError: something did not start within two minutes.
        """
        if self._processes.pids:
            raise ArgumentError("start", "called twice", "one call")
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self._folder / "tls" / "server.key").unlink(missing_ok=True)  # a new one for each start
        self._certificate = make_server_certificate(self._folder / "tls")
        self._keys = {name: self._key(name) for name in self._nodes}
        self._start_superlink(self._certificate)
        for name in self._nodes:
            self.register(name)
        for name in self._nodes:
            self.start_node(name)

    def register(self, name: str) -> int:
        """Tell the SuperLink the public key of a node; returns the node id that Flower gave it."""
        answer = self._flwr("supernode", "register", str(self._keys[name].public), _CONNECTION, "--format", "json")
        try:
            self.node_ids[name] = int(json.loads(answer)["node-id"])
        except (ValueError, KeyError) as error:
            raise LocalProcessError(f"Flower did not register node {name}: {answer.strip()}") from error
        return self.node_ids[name]

    def start_node(self, name: str, *, key: NodeKey | None = None) -> None:
        """Start the SuperNode of a name, or start it again after it ended; same key, so the same node id.

        Args:
            name: of a node.
            key: another than the registered one; the SuperLink will not have it.
        """
        if name not in self._nodes:
            raise ArgumentError("name", name, f"one of {', '.join(self._nodes)}")
        if self._certificate is None:
            raise ArgumentError("start", "not called yet", "a federation that was started")
        command = [
            program("flower-supernode"),
            *("--superlink", self.address),
            *("--root-certificates", str(self._certificate.authority)),
            *("--auth-supernode-private-key", str((self._keys[name] if key is None else key).secret)),
            *("--host", _HOST, "--port", str(_free_port())),
        ]
        if config := self._nodes[name]:
            command += ["--node-config", _as_config(config)]
        self._processes.start(name, command, self._environment(name))

    def stop_node(self, name: str, *, kill: bool = False) -> None:
        """End a SuperNode, gently or by SIGKILL, with all that it had started."""
        self._processes.end([name], kill=kill)

    def run(
        self,
        app: Path,
        config: Mapping[str, Setting] | None = None,
        *,
        federation_config: Mapping[str, Setting] | None = None,
        timeout: float = 600,
    ) -> RunOutcome:
        """Submit an app and wait for its end.

        Args:
            app: folder with the app's `pyproject.toml`.
            config: overrides of its run configuration.
            federation_config: of the simulation engine, such as `num-supernodes`; not for deployments.
            timeout: seconds after which the wait ends with an error. The run is stopped then.

        Raises:
            LocalProcessError: Flower refused the run, or it did not end in time.
        """
        started = time.monotonic()
        run_id = self.submit(app, config, federation_config=federation_config)
        log = self.wait(run_id, timeout=timeout)
        return RunOutcome(run_id=run_id, status=self.status(run_id), log=log, seconds=time.monotonic() - started)

    def submit(
        self,
        app: Path,
        config: Mapping[str, Setting] | None = None,
        *,
        federation_config: Mapping[str, Setting] | None = None,
    ) -> int:
        """Submit an app as :meth:`run` does, without waiting; returns the run's id.

        Raises:
            LocalProcessError: Flower refused the run.
        """
        command = ["run", str(app), _CONNECTION, "--format", "json"]
        if config:
            command += ["--run-config", _as_config(config)]
        if federation_config:
            command += ["--federation-config", _as_config(federation_config)]
        answer = self._flwr(*command)
        try:
            return int(json.loads(answer)["run-id"])
        except (ValueError, KeyError, TypeError) as error:
            raise LocalProcessError(f"Flower did not start the run: {answer.strip()}") from error

    def wait(self, run_id: int, *, timeout: float = 600) -> str:
        """Wait for a run's end; returns what its ServerApp wrote.

        Raises:
            LocalProcessError: it did not end in time; it is stopped.
        """
        try:
            return self._flwr("log", str(run_id), _CONNECTION, "--stream", timeout=timeout)
        except LocalProcessError:
            self._flwr("stop", str(run_id), _CONNECTION)
            raise

    def status(self, run_id: int) -> str:
        """What Flower says of a run, such as `running` or `finished:completed`."""
        answer = json.loads(self._flwr("ls", _CONNECTION, "--run-id", str(run_id), "--format", "json"))
        return str(answer["runs"][0]["status"])

    def stop(self) -> None:
        """End every process that was started; returns when they are gone."""
        self._processes.end([name for name in self._processes.names if name != _SUPERLINK])
        self._processes.end([_SUPERLINK])

    def _key(self, name: str) -> NodeKey:
        folder = self._folder / "keys"
        there = NodeKey(secret=folder / f"{name}.key", public=folder / f"{name}.pub")
        return there if there.secret.exists() else make_node_key(folder, name)

    def _start_superlink(self, certificate: ServerCertificate) -> None:
        self._port = _free_port()
        connection = {"address": self.address, "root-certificates": str(certificate.authority)}
        settings = {"superlink": {"default": _CONNECTION, _CONNECTION: connection}}
        (self._home(_SUPERLINK) / "config.toml").write_text(tomli_w.dumps(settings), "utf-8")
        command = [
            program("flower-superlink"),
            *("--ssl-ca-certfile", str(certificate.authority)),
            *("--ssl-certfile", str(certificate.certificate)),
            *("--ssl-keyfile", str(certificate.key)),
            "--enable-supernode-auth" if self._nodes else "--simulation",
            "--disable-runtime-dependency-installation",
            *("--host", _HOST, "--port", str(self._port)),
        ]
        self._processes.start(_SUPERLINK, command, self._environment(_SUPERLINK))
        trust = ssl.create_default_context(cafile=str(certificate.authority))
        deadline = time.monotonic() + _STARTUP_SECONDS
        while time.monotonic() < deadline:
            self._processes.check(_SUPERLINK)
            try:
                with urllib.request.urlopen(f"https://{self.address}/health", timeout=2, context=trust):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise LocalProcessError(
            f"the SuperLink did not answer within {_STARTUP_SECONDS:g} s; see {self._processes.log(_SUPERLINK)}"
        )

    def _flwr(self, *arguments: str, timeout: float = _STARTUP_SECONDS) -> str:
        self._processes.check(_SUPERLINK)
        try:
            done = subprocess.run(  # noqa: S603
                [program("flwr"), *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                env=self._environment(_SUPERLINK),
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            log = self._processes.log(_SUPERLINK)
            raise LocalProcessError(f"flwr {arguments[0]} did not end within {timeout:g} s; see {log}") from error
        if done.returncode:
            raise LocalProcessError(f"flwr {arguments[0]} failed: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    def _home(self, name: str) -> Path:
        home = self._folder / "home" / name  # one each: on machines of their own they would not share it either
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        return home

    def _environment(self, name: str) -> dict[str, str]:
        # Flower starts its other programs by their bare names.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        return {
            **os.environ,
            "PATH": path,
            "FLWR_HOME": str(self._home(name)),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": str(self._poll_seconds),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            "PYTHONUNBUFFERED": "1",
        }


def _as_config(config: Mapping[str, Setting]) -> str:
    return " ".join(f"{key}={json.dumps(value)}" for key, value in config.items())


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])
