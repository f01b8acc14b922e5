"""What executes a batch of deletion requests, and what is known when it is done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Protocol

from secure_fu.deletion.requests import SignedBatch
from secure_fu.errors import ArgumentError, RecordError, UnlearningError

__all__ = ["BatchRefused", "DeletionExecutor", "Execution", "WindowGivenUp", "pack_execution", "unpack_execution"]

_ID_BYTES: Final = 16
_HASH_DIGITS: Final = 64
_HEX: Final = frozenset("0123456789abcdef")


class BatchRefused(UnlearningError):
    """A batch cannot be executed because of some of its requests; nothing was released for it.

    The service refuses those, and lets the others wait for another batch.

    Args:
        requests: ids of the requests at fault, at least one.
        why: in plain words, without data.
    """

    def __init__(self, requests: tuple[bytes, ...], why: str) -> None:
        if not requests:
            raise ArgumentError("requests", (), "at least one request at fault")
        super().__init__(why)
        self.requests = requests


class WindowGivenUp(UnlearningError):
    """A window that was begun can never be executed, and its executor will never go on with it.

    Rounds may have been released for it: they stay charged. The service lets its requests wait for another window.
    """


@dataclass(frozen=True, kw_only=True)
class Execution:
    """What one window's deletion did, as the server knows it; all of it public or released.

    Attributes:
        window_id: of the batch, 16 bytes.
        branch: of the ledger, that its rounds are in.
        run_id: of its rounds, as text.
        method: by its name.
        settings: of the method.
        guarantee: about forgetting: kind, text, epsilon, delta, group_size, assumptions, view.
        confidentiality: of the deletion: for each of `phase`, `pair` and `who_asked` its value (None: infinite), delta
            and group_size.
        unit: the privacy unit.
        group_size: at most so many units were forgotten.
        model_before: SHA-256 of the released parameters before, 64 hexadecimal digits.
        model_after: the same of those after.
        ledger_events: number of the ledger's events up to now.
        charges: what the window's rounds charged: for each subject, phase and count, and the event's fields.
        epsilon: for each subject and phase its value (None: infinite), delta and group size.
        delta: at which epsilon is stated.
        transcript_before: root of the branch that it came from, 64 hexadecimal digits.
        transcript_root: root of its own branch when it was done.
        rounds: how many there were.
        wiped: encoded statements of clients that what the window covers is destroyed there.
        missing: clients that have not confirmed that yet, sorted.
        parameter_sets: of the encryption, sorted.
        software: versions by package.
        started: in seconds since 1970 (UTC).
        finished: the same, not before `started`.
        opened: when the window was due, in the same seconds; 0 where the requests were not signed.
        order: :func:`~secure_fu.deletion.wiping.order_digest` of what clients were told, 64 hexadecimal digits; ""
            where the requests were not signed: then there is no order.
        run_key: of the federation's founding, 64 hexadecimal digits; run ids follow from it, the branch and the order.
            "" where there is no order.
        continues_after: as in the order, 0 where there is none.

    Raises:
        ArgumentError: a field is not of this form.
    """

    window_id: bytes
    branch: str
    run_id: str
    method: str
    settings: Mapping[str, float | int | str | bool]
    guarantee: Mapping[str, object]
    confidentiality: Mapping[str, Mapping[str, float | int | None]]
    unit: str
    group_size: int
    model_before: str
    model_after: str
    ledger_events: int
    charges: tuple[Mapping[str, Any], ...]
    epsilon: tuple[Mapping[str, Any], ...]
    delta: float
    transcript_before: str
    transcript_root: str
    rounds: int
    wiped: tuple[bytes, ...]
    missing: tuple[str, ...]
    parameter_sets: tuple[str, ...]
    software: Mapping[str, str]
    started: int
    finished: int
    opened: int = 0
    order: str = ""
    run_key: str = ""
    continues_after: int = 0

    def __post_init__(self) -> None:
        if len(self.window_id) != _ID_BYTES:
            raise ArgumentError("window_id", f"{len(self.window_id)} bytes", f"{_ID_BYTES} bytes")
        for name in ("model_before", "model_after", "transcript_before", "transcript_root"):
            value = getattr(self, name)
            if not isinstance(value, str) or len(value) != _HASH_DIGITS or set(value) - _HEX:
                raise ArgumentError(name, value, f"{_HASH_DIGITS} hexadecimal digits")
        for name in ("order", "run_key"):
            value = getattr(self, name)
            if not isinstance(value, str) or len(value) not in (0, _HASH_DIGITS) or set(value) - _HEX:
                raise ArgumentError(name, value, f"{_HASH_DIGITS} hexadecimal digits, or none")
        if bool(self.order) is not bool(self.run_key):
            raise ArgumentError("run_key", self.run_key, "one exactly where there is an order")
        for name in ("group_size", "ledger_events", "rounds", "started", "opened", "continues_after"):
            if getattr(self, name) < 0:
                raise ArgumentError(name, getattr(self, name), "at least 0")
        if self.finished < self.started:
            raise ArgumentError("finished", self.finished, f"not before started, {self.started}")


class DeletionExecutor(Protocol):
    """Executes batches on a federation, each once."""

    def check_window(self, batch: SignedBatch) -> None:
        """Return only if a batch may be begun as a window; asked before it is written down. Changes and asks nothing.

        What is wrong with single requests is for :meth:`execute` to say.

        Raises:
            BudgetExceededError: the budget does not hold it, or it has no requests and would take what a deletion will
                need.
            MethodRefused: the method cannot serve it.
            SecureFUError: nothing can be executed now, for another process has the federation, say.
        """

    def execute(self, batch: SignedBatch) -> Execution:
        """Execute a batch.

        For a window that was executed before, nothing is done again, and the same Execution comes back, but for clients
        that have confirmed since. A window that was interrupted is gone on with.

        Raises:
            BatchRefused: some of its requests can never be executed, and nothing was released for the batch.
            WindowGivenUp: the window was not executed and never will be; said again whenever it is asked for.
            SecureFUError: it cannot be executed now; what was done so far is kept, and the same call goes on from it.
        """

    def give_up(self, window_id: bytes, why: str) -> bool:
        """Never go on with a window; durable on return, and what :meth:`execute` says from then on.

        Returns:
            False for a window that was executed before: it stays so, and :meth:`execute` answers with it.

        Raises:
            SecureFUError: it cannot be written down now.
        """


def pack_execution(execution: Execution) -> bytes:
    """An execution as canonical JSON; floats come back bit for bit.

    Raises:
        ArgumentError: it holds what JSON does not have.
    """
    values = {item.name: getattr(execution, item.name) for item in fields(execution)}
    values["window_id"] = execution.window_id.hex()
    values["wiped"] = [statement.hex() for statement in execution.wiped]
    try:
        return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_plain).encode()
    except (TypeError, ValueError) as error:
        raise ArgumentError("execution", type(error).__name__, f"values that JSON has ({error})") from None


def unpack_execution(content: bytes) -> Execution:
    """What :func:`pack_execution` was given.

    Raises:
        RecordError: it is damaged.
    """
    try:
        values = json.loads(content)
        values["window_id"] = bytes.fromhex(values["window_id"])
        values["wiped"] = [bytes.fromhex(statement) for statement in values["wiped"]]
        for name in ("charges", "epsilon", "wiped", "missing", "parameter_sets"):
            values[name] = tuple(values[name])
        return Execution(**values)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RecordError(f"an execution in the queue is damaged: {error}") from None


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not of JSON")
