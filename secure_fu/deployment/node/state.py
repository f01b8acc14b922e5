"""What a client at a node must not forget: what is gone, what it was ordered, and what it asked for in private."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from secure_fu.deletion import DeletionRequest
from secure_fu.deletion.wiping import SALT_BYTES
from secure_fu.errors import ArgumentError, RecordError
from secure_fu.federation.founding import from_plain, to_plain
from secure_fu.protocol.files import destroy_file, leftovers, write_whole

__all__ = [
    "ClientState",
    "KnownRun",
    "LeftRequest",
    "Pending",
    "PreparedOrder",
    "PrivateRequest",
    "Settled",
    "StateFile",
    "leave_request",
    "left_requests",
    "records_noted",
    "state_path",
]

_STATE: Final = "secure-fu/node-state/1"
_REQUEST: Final = "secure-fu/private-request/1"


@dataclass(frozen=True, kw_only=True, repr=False)
class PrivateRequest:
    """A request that the client's own operator queued here, and nobody else sees.

    Attributes:
        request_id: 16 random bytes.
        request: of this client.
        wiped: whether a window of which this client answered no round has destroyed what it covers. Nothing was
            unlearnt then, as far as this client can tell, and the request waits for a window that does.
    """

    request_id: bytes
    request: DeletionRequest
    wiped: bool = False


@dataclass(frozen=True, kw_only=True)
class KnownRun:
    """A run that the server has begun.

    Attributes:
        run_id: as in its rounds' headers.
        window: the deletion window that it is for; empty for training.
    """

    run_id: bytes
    window: bytes


@dataclass(frozen=True, kw_only=True, repr=False)
class PreparedOrder:
    """An order that is under way: what it marks at this client, and how its rounds are computed.

    Attributes:
        window: its id.
        run_id: of the run that it is executed in, the latest that the server has begun for it.
        requests_digest: of what may not change, see :func:`~secure_fu.deployment.node.orders.requests_digest`.
        order_digest: of all of it, see :func:`~secure_fu.deletion.wiping.order_digest`.
        request_digests: of all requests of the window, those that the client was not shown among them.
        method, settings, continues_after: as in the order.
        marks: positions of the records that it covers here, as they were brought.
        private: ids of the private requests that it covers.
        given: ids of its requests that this client was shown.
        undone: ids of those that this client could not do, see :class:`~secure_fu.deployment.node.client`.
        rounds: how many rounds of its method this client has answered in the run.
    """

    window: bytes
    run_id: bytes
    requests_digest: bytes
    order_digest: bytes
    request_digests: tuple[bytes, ...]
    method: str
    settings: str
    continues_after: int
    marks: tuple[int, ...]
    private: tuple[bytes, ...]
    given: tuple[bytes, ...]
    undone: tuple[bytes, ...]
    rounds: int = 0


@dataclass(frozen=True, kw_only=True, repr=False)
class Settled:
    """A window that was executed.

    Attributes:
        window: its id.
        order: digest of the order that it was executed by.
        request_digests: of its requests.
        rounds: how many of its rounds this client has answered.
        salt: of the commitment, 32 bytes.
        opening: what is committed to: requests that were asked for in private, ids of those that the order showed, and
            ids of those that could not be done; see :func:`~secure_fu.deletion.wiping.wipe_commitment`.
    """

    window: bytes
    order: bytes
    request_digests: tuple[bytes, ...]
    rounds: int
    salt: bytes
    opening: str

    @classmethod
    def of(cls, order: PreparedOrder, served: Iterable[PrivateRequest]) -> Settled:
        """What is written down of an order that is executed, and of the private requests that it covered."""
        opening = {
            "private": [to_plain(one) for one in served],
            "requests": [one.hex() for one in order.given],
            "undone": [one.hex() for one in order.undone],
        }
        return cls(
            window=order.window,
            order=order.order_digest,
            request_digests=order.request_digests,
            rounds=order.rounds,
            salt=os.urandom(SALT_BYTES),
            opening=json.dumps(opening, sort_keys=True),
        )


@dataclass(frozen=True, kw_only=True)
class Pending:
    """A wiping that was begun, and has to be done again until it is known to have ended.

    Attributes:
        remembered: the last round of before that may be remembered, -1 for none.
        until: the last round of before.
    """

    remembered: int
    until: int


@dataclass(frozen=True, kw_only=True, repr=False)
class ClientState:
    """All of it, for one client.

    Attributes:
        client: by name.
        records: how many it was made with.
        gone: positions of those that were forgotten, as they were brought.
        runs: that the server has begun.
        order: under way.
        settled: windows that were executed.
        parked: orders that another one took the place of before they were settled. No round is served for them; the
            server may still say that they were executed.
        private: requests that wait for a window, in the order in which they came.
        pending: a wiping that may not have ended.
    """

    client: str
    records: int
    gone: tuple[int, ...] = ()
    runs: tuple[KnownRun, ...] = ()
    order: PreparedOrder | None = None
    settled: tuple[Settled, ...] = ()
    parked: tuple[PreparedOrder, ...] = ()
    private: tuple[PrivateRequest, ...] = ()
    pending: Pending | None = None

    def window_of(self, run_id: bytes) -> bytes | None:
        """The window that a run is for, empty for training; None for a run that is not known."""
        return next((run.window for run in self.runs if run.run_id == run_id), None)

    def parked_order(self, window: bytes) -> PreparedOrder | None:
        """An order that another one took the place of, by its window."""
        return next((one for one in self.parked if one.window == window), None)

    def settled_window(self, window: bytes) -> Settled | None:
        """A window that was executed, by its id."""
        return next((one for one in self.settled if one.window == window), None)


class StateFile:
    """A :class:`ClientState` on disk: whole, durable when :meth:`write` returns, and for its owner only.

    Not guaranteed:
        That it is the newest. Whoever restores an older copy makes the client serve a dropped order again, or sign
        another commitment for a window; the records' own promises (:class:`~secure_fu.protocol.ClientRecord`) stand.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def make(self, state: ClientState) -> None:
        """Write the first state.

        Raises:
            RecordError: there is one.
        """
        if self._path.exists():
            raise RecordError(f"{self._path} exists; expected no file where a new node is to be made")
        self.write(state)

    def write(self, state: ClientState) -> None:
        """Write it.

        Raises:
            RecordError: it cannot be written; what was there stands.
        """
        _write(self._path, _STATE, to_plain(state))

    def read(self) -> ClientState:
        """What was written last.

        Raises:
            RecordError: the file is missing or damaged.
        """
        for left in leftovers(self._path.parent, self._path.name):
            destroy_file(left)
        if not self._path.exists():
            raise RecordError(
                f"{self._path} is missing: a node that was never made is made with `secure-fu node DIR --new`; one "
                "that has lost its state needs new keys"
            )
        state: ClientState = _read(self._path, _STATE, ClientState)
        return state


def state_path(folder: Path, client: str) -> Path:
    """Where a node keeps a client's state."""
    return folder / f"state-{client}.json"


def records_noted(folder: Path, client: str) -> int | None:
    """How many records a client had when its node was made; None where that is not known here. Touches no file.

    Args:
        folder: of the node.
    """
    try:
        state: ClientState = _read(state_path(folder, client), _STATE, ClientState)
    except RecordError:
        return None
    return state.records


@dataclass(frozen=True, kw_only=True, repr=False)
class LeftRequest:
    """A private request that was left in a folder for the node to find."""

    client: str
    private: PrivateRequest


def leave_request(folder: Path, client: str, request: DeletionRequest) -> Path:
    """Leave a private request for a node that may be running; it takes it up with the next order, or when it starts.

    Args:
        folder: `requests` of the node's directory.

    Raises:
        ArgumentError: it is not about this client.
        RecordError: it cannot be written.
    """
    _require_own(client, request)
    made = PrivateRequest(request_id=os.urandom(16), request=request)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise RecordError(f"{folder} cannot be made: {error.strerror}") from error
    path = folder / f"{made.request_id.hex()}.request"
    _write(path, _REQUEST, to_plain(LeftRequest(client=client, private=made)))
    return path


def left_requests(folder: Path) -> Iterator[tuple[Path, LeftRequest | RecordError]]:
    """The requests that were left, each with its file; a file that is none with what is wrong."""
    for path in sorted(folder.glob("*.request")) if folder.is_dir() else ():
        try:
            left: LeftRequest = _read(path, _REQUEST, LeftRequest)
            _require_own(left.client, left.private.request)
            yield path, left
        except (RecordError, ArgumentError):
            # No cause: it would quote the request.
            yield path, RecordError(f"{path} is no private request that `secure-fu node` wrote")


def _require_own(client: str, request: DeletionRequest) -> None:
    if request.client not in (None, client):
        raise ArgumentError("request.client", request.client, f"{client!r}: a client asks in private about itself")


def _write(path: Path, kind: str, values: Any) -> None:
    text = json.dumps({"format": kind, "sha256": _hash(values), "values": values}, ensure_ascii=False)
    try:
        write_whole(path, text.encode())
    except OSError as error:
        raise RecordError(f"{path} cannot be written: {error.strerror}") from error


def _read(path: Path, kind: str, of: type) -> Any:
    try:
        read = json.loads(path.read_bytes())
        if read["format"] != kind or read["sha256"] != _hash(read["values"]):
            raise ValueError("it is not what was written, or of another version")
        return from_plain(of, read["values"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        # The error's text could quote what is private.
        raise RecordError(f"{path} is damaged or of another version ({type(error).__name__})") from None


def _hash(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
