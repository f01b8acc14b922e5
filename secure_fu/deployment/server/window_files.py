"""What a server keeps of each deletion window: the order, who has confirmed it, and what it came to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from secure_fu.crypto.wire import decode, encode
from secure_fu.deletion.execution import Execution, pack_execution, unpack_execution
from secure_fu.deployment.exchange.messages import Begin
from secure_fu.errors import ArgumentError, RecordError, WireError
from secure_fu.federation.execution_of import Before
from secure_fu.file_names import WINDOWS
from secure_fu.protocol.files import destroy_file, leftovers, write_whole

__all__ = ["Started", "WindowFiles"]

_ORDER: Final = "order.bin"
_STARTED: Final = "started.json"
_WIPED: Final = "wiped.json"
_EXECUTION: Final = "execution.json"
_GIVEN_UP: Final = "given-up.txt"


@dataclass(frozen=True, kw_only=True)
class Started:
    """Where a window set out from.

    Attributes:
        method: by its name.
        settings: of the method, canonical JSON.
        adaptive: whether its requests may have been chosen after seeing models.
        clients: of the federation then, sorted.
        before: where the federation stood.
    """

    method: str
    settings: str
    adaptive: bool
    clients: tuple[str, ...]
    before: Before


class WindowFiles:
    """One folder a window, `deletion/windows/<id>`; each file is whole or not there, and durable when it was written.

    Args:
        directory: of the server.

    Raises:
        RecordError: here and in every method, a file cannot be used; names it.
    """

    def __init__(self, directory: Path) -> None:
        self._folder = directory / WINDOWS
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for folder in self._folder.iterdir():
                for path in leftovers(folder, "*"):
                    destroy_file(path)
        except OSError as error:
            raise RecordError(f"{self._folder} cannot be used: {error.strerror}") from error

    def _path(self, window_id: bytes, name: str) -> Path:
        return self._folder / window_id.hex() / name

    def _read(self, path: Path) -> bytes | None:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RecordError(f"{path} cannot be read: {error.strerror}") from error

    def _write(self, path: Path, content: bytes) -> None:
        try:
            path.parent.mkdir(exist_ok=True, mode=0o700)
            write_whole(path, content)
        except OSError as error:
            raise RecordError(f"{path} cannot be written: {error.strerror}; what was there stands") from error

    def started(self, window_id: bytes) -> Started | None:
        """Where a window set out from; None before it did."""
        path = self._path(window_id, _STARTED)
        content = self._read(path)
        if content is None:
            return None
        try:
            values = json.loads(content)
            return Started(**{**values, "clients": tuple(values["clients"]), "before": Before(**values["before"])})
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise RecordError(f"{path} is damaged: {error}") from error

    def note_started(self, window_id: bytes, started: Started) -> None:
        """Write down where a window sets out from."""
        self._write(self._path(window_id, _STARTED), json.dumps(asdict(started)).encode())

    def told(self, window_id: bytes) -> bool:
        """Whether there is an order of a window."""
        return self._path(window_id, _ORDER).exists()

    def order(self, window_id: bytes) -> Begin:
        """What clients were told of a window."""
        path = self._path(window_id, _ORDER)
        content = self._read(path)
        if content is None:
            raise RecordError(f"{path} is missing; without it no client that was away can be told what to destroy")
        try:
            return decode(Begin, content)
        except WireError as error:
            raise RecordError(f"{path} is damaged: {error}") from error

    def note_order(self, window_id: bytes, begin: Begin) -> None:
        """Write down what clients are told."""
        self._write(self._path(window_id, _ORDER), encode(begin))

    def wiped(self, window_id: bytes) -> dict[str, bytes]:
        """The statements of clients that what a window covers is destroyed there, encoded, by client."""
        path = self._path(window_id, _WIPED)
        content = self._read(path)
        try:
            return {} if content is None else {name: bytes.fromhex(said) for name, said in json.loads(content).items()}
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise RecordError(f"{path} is damaged: {error}; delete it, and the clients will be asked again") from error

    def note_wiped(self, window_id: bytes, statements: Mapping[str, bytes]) -> None:
        """Add statements to those that are there."""
        if statements:
            known = {**self.wiped(window_id), **statements}
            content = json.dumps({name: known[name].hex() for name in sorted(known)}, indent=1)
            self._write(self._path(window_id, _WIPED), content.encode())

    def given_up(self, window_id: bytes) -> str:
        """Why a window was given up; "" for one that was not."""
        content = self._read(self._path(window_id, _GIVEN_UP))
        return "" if content is None else content.decode(errors="replace") or "it was given up"

    def note_given_up(self, window_id: bytes, why: str) -> None:
        """Write down that a window is never gone on with."""
        self._write(self._path(window_id, _GIVEN_UP), why.encode())

    def execution(self, window_id: bytes) -> Execution | None:
        """What a window came to; None before it was executed."""
        path = self._path(window_id, _EXECUTION)
        content = self._read(path)
        try:
            return None if content is None else unpack_execution(content)
        except (RecordError, ArgumentError) as error:
            raise RecordError(f"{path} is damaged: {error}") from error

    def note_execution(self, execution: Execution) -> None:
        """Write down what a window came to."""
        self._write(self._path(execution.window_id, _EXECUTION), pack_execution(execution))
