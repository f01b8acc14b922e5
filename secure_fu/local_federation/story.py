"""The story of a local federation: founded, trained, asked to forget, killed in the middle, certified, verified."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from secure_fu.deletion import Window, WindowState
from secure_fu.deployment.exchange import SocketExchange
from secure_fu.deployment.founding.setup import digest_lines
from secure_fu.deployment.local import LocalNodes, LocalProcessError, program
from secure_fu.deployment.logs import LOGGER, log_to
from secure_fu.deployment.server import FederationServer, open_queue
from secure_fu.errors import ArgumentError, SecureFUError
from secure_fu.file_names import CERTIFICATES, KEYS, LEDGER, POLICY, ROSTER, TRANSCRIPT
from secure_fu.local_federation.commands import Said, run_command
from secure_fu.local_federation.founding import (
    TERMS,
    Folders,
    found_federation,
    make_all_keys,
    make_the_roster,
    pin_everywhere,
)
from secure_fu.local_federation.interrupts import Interrupts
from secure_fu.local_federation.kinds import TransportKind
from secure_fu.local_federation.parties import Cast, digits
from secure_fu.local_federation.transports import FlowerTransport, Job, SocketTransport, Transport

__all__ = ["Story", "Teller"]

CERTIFICATE: Final = "certificate.json"
PAGE: Final = "certificate.html"
REQUEST: Final = "request.bin"
_MARK: Final = "started.txt"
_RECORD: Final = "17"
_DAYS: Final = 14
_PAUSE: Final = 0.05
_SETTLING_RUNS: Final = 5


class Teller(Protocol):
    """Who tells the story."""

    def step(self, title: str) -> None:
        """The next step begins."""
        ...

    def say(self, line: str) -> None:
        """One plain line about it."""
        ...

    def ran(self, said: Said, *, since: str = "") -> None:
        """A command was run, and this is what it printed; of its output, what begins with a line `since`."""
        ...

    def waiting(self, what: str) -> AbstractContextManager[Callable[[str], None]]:
        """A block that takes a while; what is entered takes news of how far it is."""
        ...


class Story:
    """Tells itself once, in a folder of its own.

    Args:
        out: the folder; new or empty.
        kind: of transport.
        teller: who tells it.
        interrupts: entered by the caller, around :meth:`tell`.

    Raises:
        ArgumentError: the folder is in use, or cannot be used.
    """

    def __init__(
        self,
        out: Path,
        kind: TransportKind,
        *,
        teller: Teller,
        interrupts: Interrupts,
    ) -> None:
        self._folders = Folders(out=_taken(out), cast=Cast.hospitals())
        self._kind = kind
        self._teller = teller
        self._interrupts = interrupts
        self._rounds = 0  # of training, as founded

    def tell(self) -> Path:
        """Tell the story; returns the certificate's file, a copy in the folder.

        Raises:
            LocalProcessError, CommandFailed: a process or command did not do its work; the message names its log.
            SecureFUError: as what it calls.
            KeyboardInterrupt: an interrupt came; what was started is ended.
        """
        cast = self._folders.cast
        self._found()
        with ExitStack() as running:
            folders = self._folders
            folders.logs.mkdir(mode=0o700)
            handler = log_to(running.enter_context((folders.logs / "local.log").open("w", encoding="utf-8")))
            running.callback(logging.getLogger(LOGGER).removeHandler, handler)
            short = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="secure-fu-")))  # as sockets need it
            sockets = {name: short / f"{name}.sock" for name in cast.nodes}
            nodes = self._start_nodes(running, sockets)
            transport = self._start_transport(running, sockets)
            self._train(transport)
            before = self._accuracy("before")
            self._ask()
            window = self._unlearn(transport, nodes)
            self._settle(transport, window)
            after = self._accuracy("after")
            count = len(nodes.pids) + transport.processes
        certificate = self._certificate()
        self._verify()
        self._teller.step("The end")
        self._teller.say(f"Accuracy on public test data: {before:.1%} before the deletion, {after:.1%} after it.")
        self._teller.say(f"All {count} processes are ended. {CERTIFICATE} and {PAGE} are in the folder.")
        return certificate

    # The federation is founded

    def _found(self) -> None:
        tell, folders, cast = self._teller, self._folders, self._folders.cast
        tell.step("Every machine makes its own keys")
        public = make_all_keys(folders)
        hosting = sum(len(parties) > 1 for parties in cast.nodes.values())
        tell.say(
            f"{len(public)} parties on {len(cast.nodes) + 1} machines: a server, {len(cast.nodes)} hospitals, and "
            f"{hosting} members of the committee that opens sums."
        )
        tell.say(f"Each {KEYS} stays in its own folder, for its owner alone; public .party files travel.")
        tell.step("Roster, terms, founding")
        roster = make_the_roster(folders, public)
        founding, digest = found_federation(folders, roster)
        plan = founding.plan
        self._rounds = plan.recipe.rounds
        tell.say(
            f"{TERMS}: scheme {founding.scheme_name}, {plan.recipe.rounds} rounds, noise multiplier "
            f"{plan.recipe.noise_multiplier:g}; a record's budget is epsilon {plan.budget.epsilon:g} at delta "
            f"{plan.budget.delta:g}."
        )
        records = pin_everywhere(folders, digest)
        tell.say(f"Each operator compares the bundle's digest and pins it: {digest_lines(digest)[0][3:]} ...")
        tell.say(f"{sum(records.values())} of scikit-learn's digits: {_range(records.values())} at each hospital.")

    # Processes

    def _start_nodes(self, running: ExitStack, sockets: dict[str, Path]) -> LocalNodes:
        folders, cast = self._folders, self._folders.cast
        self._teller.step("A process for each node")
        new = set(cast.nodes)

        def command(folder: Path, socket: Path) -> Sequence[str]:
            first = ["--new"] * (folder.name in new)  # its records are made once
            new.discard(folder.name)
            return [program("secure-fu"), "node", str(folder), "--socket", str(socket), *first]

        nodes = LocalNodes(
            {name: folders.node(name) for name in cast.nodes}, sockets, logs=folders.logs, command=command
        )
        running.callback(self._held, nodes.stop)
        with self._teller.waiting("the nodes start"):
            nodes.start(*cast.nodes)
        self._teller.say("secure-fu node nodes/NAME --new, for each; it alone has the keys and records of its machine:")
        hosts = (f"{name} ({nodes.pids[name]}) {' and '.join(parties)}" for name, parties in cast.nodes.items())
        for line in _rows(list(hosts), 2):
            self._teller.say(line)
        return nodes

    def _start_transport(self, running: ExitStack, sockets: dict[str, Path]) -> Transport:
        folders = self._folders
        transport: Transport
        if self._kind is TransportKind.FLOWER:
            transport = FlowerTransport(folders.out / "flower", folders.server, sockets)
        else:
            transport = SocketTransport(folders.server, sockets, logs=folders.logs)
        running.callback(self._held, transport.stop)
        with self._teller.waiting("the transport starts"):
            transport.start()
        self._teller.say(transport.describe())
        return transport

    def _held(self, stop: Callable[[], None]) -> None:
        with self._interrupts.held():
            stop()

    # Training

    def _train(self, transport: Transport) -> None:
        self._teller.step("Training")
        with self._follow("training", transport.begin("train")) as job:
            pass
        traffic = job.report()["traffic"]
        uploads = sum(one["uploads"] for one in traffic)
        size = max(one["upload_bytes"] for one in traffic)
        self._teller.say(
            f"{len(traffic)} rounds, {uploads} uploads of {size:,} bytes each, encrypted and noised by the hospitals; "
            "the server saw their sums."
        )

    @contextmanager
    def _follow(self, what: str, job: Job, until: int | None = None) -> Iterator[Job]:
        """Wait for a job, or until so many sums are released since it began; the block is run then."""
        began = self._released()
        with self._teller.waiting(what) as news:
            while not (done := job.ended()):
                count = self._released() - began
                news(f"{count} sums released")
                if until is not None and count >= until:
                    break
                time.sleep(_PAUSE)
            yield job
            while not done and not job.ended():
                news(f"{self._released() - began} sums released")
                time.sleep(_PAUSE)

    def _released(self) -> int:
        try:
            return (self._folders.server / TRANSCRIPT).read_bytes().count(b"\n")
        except FileNotFoundError:
            return 0

    def _accuracy(self, when: str) -> float:
        """On public test data; the released model is left in the folder, as whoever takes part has it."""
        import torch

        _, (features, labels) = digits(len(self._folders.cast.nodes))
        with FederationServer.open(self._folders.server, SocketExchange(())) as server:
            np.save(self._folders.out / f"model-{when}.npy", server.state.model.vector)
            module = server.module_of(server.state).eval()
        with torch.no_grad():
            said = module(torch.from_numpy(features).to(next(module.parameters()).dtype)).argmax(dim=1).numpy()
        return float((said == labels).mean())

    # A request

    def _ask(self) -> None:
        cast, node = self._folders.cast, f"nodes/{self._folders.cast.asks}"
        self._teller.step(f"{cast.requester} asks for a patient's record to be forgotten")
        deadline = (datetime.now(UTC) + timedelta(days=_DAYS)).date().isoformat()
        self._run(
            *("request", "--identity", f"{node}/{KEYS}", "--as", cast.requester, "--roster", f"{node}/{ROSTER}"),
            *("--records", _RECORD, "--deadline", deadline, "--disclose", "--out", REQUEST),
        )
        self._run("request", "server", REQUEST)
        self._run("pending", "server")

    def _run(self, *arguments: str, expected: int = 0, since: str = "") -> None:
        with self._teller.waiting(arguments[0]):
            said = run_command(arguments, folder=self._folders.out, expected=expected)
        self._teller.ran(said, since=since)

    # The window

    def _unlearn(self, transport: Transport, nodes: LocalNodes) -> Window:
        killed = self._folders.cast.asks
        self._teller.step("The deletion window runs, and a node is killed in the middle")
        began = self._released()
        with self._follow("rollback", transport.begin("unlearn"), until=1):
            pid, then = nodes.pids[killed], self._released() - began
            with self._interrupts.held():
                nodes.kill(killed)
            at = time.monotonic()
            nodes.start(killed)
            away = time.monotonic() - at
        self._teller.say(
            f"After sum {then} of the window, {killed} (process {pid}) got SIGKILL. Started again, it listened after "
            f"{away:.1f} s (process {nodes.pids[killed]}), and read from its disk what it was to forget."
        )
        window = self._window()
        again = self._released() - began
        self._teller.say(
            f"Rollback went back to round {self._rounds - again} of {self._rounds} and ran {again} rounds again, "
            f"without the record and with fresh noise. The window is {window.state.value}."
        )
        return window

    def _window(self) -> Window:
        with open_queue(self._folders.server, read_only=True) as queue:
            windows = queue.windows()
        if len(windows) != 1:
            raise LocalProcessError(f"{len(windows)} windows were begun, and one was to be; see {self._folders.logs}")
        return windows[0]

    def _settle(self, transport: Transport, window: Window) -> None:
        self._teller.step("Every hospital signs that what the window covers is destroyed")
        for _ in range(_SETTLING_RUNS):
            if window.state is WindowState.CERTIFIED:
                break
            self._teller.say("Who was away has not signed yet; the service asks again.")
            with self._follow("settling", transport.begin("unlearn")):
                pass
            window = self._window()
        body = self._read_certificate()
        self._teller.say(
            f"{len(body['wiped'])} of {len(self._folders.cast.nodes)} signed statements: "
            f"{', '.join(one['client'] for one in body['wiped'])}."
        )

    def _read_certificate(self) -> dict[str, Any]:
        files = sorted((self._folders.server / CERTIFICATES).glob("*.json"))
        if len(files) != 1:
            raise LocalProcessError(f"there are {len(files)} certificates, and one was to be; see {self._folders.logs}")
        body = json.loads(files[0].read_bytes())["certificate"]
        if not isinstance(body, dict):
            raise SecureFUError(f"{files[0]} is no certificate")
        return body

    # The certificate

    def _certificate(self) -> Path:
        self._teller.step("The certificate")
        self._run("certificate", "server", "--out", CERTIFICATE, "--html", PAGE)
        return self._folders.out / CERTIFICATE

    def _verify(self) -> None:
        verifier = self._folders.cast.verifies
        self._teller.step(f"{self._folders.cast.nodes[verifier][0]} verifies it, offline, with what it has pinned")
        pinned = f"nodes/{verifier}"
        against = ("--roster", f"{pinned}/{ROSTER}", "--policy", f"{pinned}/{POLICY}")
        self._run(
            *("verify", CERTIFICATE, *against, "--request", REQUEST),
            *("--transcript", f"server/{TRANSCRIPT}", "--ledger", f"server/{LEDGER}"),
            *("--model-before", "model-before.npy", "--model-after", "model-after.npy"),
            since="PROVED",
        )
        content = (self._folders.out / CERTIFICATE).read_bytes()
        place = content.index(b'"hospital-')
        changed = content[: place + 1] + b"H" + content[place + 2 :]
        edited = self._folders.out / "edited.json"
        edited.write_bytes(changed)
        self._teller.say("The same with one letter changed:")
        self._run("verify", edited.name, *against, expected=1)


def _taken(out: Path) -> Path:
    """The folder, made and marked as in use by this run alone."""
    try:
        out.mkdir(parents=True, exist_ok=True, mode=0o700)
        if any(out.iterdir()):
            raise ArgumentError("--out", str(out), "a new or empty folder; this one has files, as of an earlier run")
        with (out / _MARK).open("x", encoding="utf-8") as file:
            file.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}\n")
    except (FileExistsError, NotADirectoryError):
        raise ArgumentError("--out", str(out), "a new or empty folder that nobody else uses") from None
    except OSError as error:
        raise ArgumentError("--out", str(out), f"a folder that can be written ({error.strerror})") from None
    return out.resolve()


def _range(numbers: Any) -> str:
    least, most = min(numbers), max(numbers)
    return f"{least}" if least == most else f"{least} or {most}" if most == least + 1 else f"{least} to {most}"


def _rows(words: list[str], count: int) -> list[str]:
    return ["; ".join(words[start : start + count]) for start in range(0, len(words), count)]
