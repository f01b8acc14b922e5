"""When deletions are executed, how many together, and who may ask for what: a file that server and clients pin."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import tomli_w

from secure_fu.crypto import Role, Roster
from secure_fu.errors import ArgumentError, RecordError

__all__ = ["DeletionPolicy", "read_deletion_policy", "write_deletion_policy"]

_MAX_POLICY_BYTES: Final = 1 << 20
_LATEST: Final = 200_000_000_000  # within what calendars hold
_YEAR: Final = 366 * 24 * 3600

Setting = float | int | str | bool


@dataclass(frozen=True, kw_only=True)
class DeletionPolicy:
    """When deletions are executed, and how many together.

    Windows are due at `window_start`, and every `window_seconds` after it, for ever: times that nobody chooses after
    seeing a request. What is executed at a due time is the requests that wait then, if they and the hidden units make
    the smallest batch; with `cover`, rounds run at every due time, whether or not there are requests.

    Attributes:
        window_start: when the first window is due, in seconds since 1970 (UTC).
        window_seconds: from one window to the next, at least 60.
        minimum_batch: no window executes fewer requests than this, at least 1. Fewer wait for the next window.
        maximum_batch: no window executes more, at least `minimum_batch`; the others wait. Signers take turns, and of
            one signer's requests those with the nearest deadlines go first.
        maximum_units: a request that says it covers more privacy units than this is refused.
        maximum_waiting: so many requests of one signer wait at most; further ones are refused until some were executed.
        maximum_waiting_bytes: the same for their length together.
        hidden_units: so many units, at most, each client may forget in each window on requests that the server does not
            see. They count in every guarantee, at every client.
        cover: whether a window without enough requests runs all the same, for the hidden units alone; then
            `hidden_units` is at least 1. Requests that wait stay waiting.
        method: name of the unlearning method.
        settings: of the method.
        largest_wait_seconds: a deadline further off than this is refused, and one that a window cannot meet is flagged;
            at least `window_seconds`.
        execution_seconds: so long a window takes, at most, as far as one knows; a deadline has to leave that time.
        class_signers: who may ask for persons or classes at clients other than itself, sorted. Never the server: it
            could have any class destroyed; see :meth:`check_roster`.
        clock_tolerance_seconds: so far clocks of parties may differ, and so far the server's own may be set back.
        longest_pause_seconds: a clock that has moved ahead by more than this, and by more than two windows, since it
            was last looked at is taken for one that jumped, and no window begins until somebody confirms it.

    Raises:
        ArgumentError: a value is outside its domain.
    """

    window_start: int
    window_seconds: int
    minimum_batch: int = 1
    maximum_batch: int = 1000
    maximum_units: int = 100_000
    maximum_waiting: int = 1000
    maximum_waiting_bytes: int = 64 << 20
    hidden_units: int = 0
    cover: bool = False
    method: str = "retrain"
    settings: Mapping[str, Setting] = field(default_factory=dict)
    largest_wait_seconds: int = _YEAR
    execution_seconds: int = 0
    class_signers: tuple[str, ...] = ()
    clock_tolerance_seconds: int = 300
    longest_pause_seconds: int = 30 * 24 * 3600

    def __post_init__(self) -> None:
        for name, least, most in (
            ("window_start", 0, _LATEST),
            ("window_seconds", 60, _YEAR),
            ("minimum_batch", 1, 100_000),
            ("maximum_batch", 1, 100_000),
            ("maximum_units", 1, (1 << 32) - 1),
            ("maximum_waiting", 1, 1_000_000),
            ("maximum_waiting_bytes", 1024, 1 << 40),
            ("hidden_units", 0, (1 << 32) - 1),
            ("largest_wait_seconds", 60, 100 * _YEAR),
            ("execution_seconds", 0, _YEAR),
            ("clock_tolerance_seconds", 0, _YEAR),
            ("longest_pause_seconds", 60, 100 * _YEAR),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise ArgumentError(name, value, f"a whole number from {least} to {most}")
        if self.maximum_batch < self.minimum_batch:
            raise ArgumentError("maximum_batch", self.maximum_batch, f"at least minimum_batch, {self.minimum_batch}")
        if self.largest_wait_seconds < self.window_seconds:
            expected = f"at least window_seconds, {self.window_seconds}"
            raise ArgumentError("largest_wait_seconds", self.largest_wait_seconds, expected)
        if not isinstance(self.cover, bool):
            raise ArgumentError("cover", self.cover, "true or false")
        if self.cover and not self.hidden_units:
            raise ArgumentError("hidden_units", 0, "at least 1 with cover: a round for nobody covers nobody")
        method: object = self.method
        if not isinstance(method, str) or not method:
            raise ArgumentError("method", self.method, "the name of an unlearning method")
        settings: object = self.settings
        if not isinstance(settings, Mapping) or not all(isinstance(key, str) for key in settings):
            raise ArgumentError("settings", type(settings).__name__, "settings of the method by name")
        for key, value in self.settings.items():
            if not isinstance(value, (bool, int, float, str)):
                raise ArgumentError(f"settings.{key}", type(value).__name__, "a number, a text, true or false")
        signers: object = self.class_signers
        if not isinstance(signers, tuple) or not all(isinstance(name, str) and name for name in signers):
            raise ArgumentError("class_signers", signers, "names of parties")
        if list(self.class_signers) != sorted(set(self.class_signers)):
            raise ArgumentError("class_signers", self.class_signers, "sorted, each once")

    def check_roster(self, roster: Roster) -> None:
        """Return only if the policy can be pinned with a roster.

        Raises:
            ArgumentError: a server is among the class signers.
        """
        for name in roster.names(Role.SERVER):
            if name in self.class_signers:
                raise ArgumentError("class_signers", name, "none that is a server: it could have any class destroyed")

    @property
    def digest(self) -> bytes:
        """SHA-256 of the policy in one canonical form, 32 bytes: what parties compare."""
        said = json.dumps(_plain(self), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(b"secure-fu/1/deletion-policy\0" + said.encode()).digest()


def write_deletion_policy(policy: DeletionPolicy, path: Path) -> None:
    """Write a policy as TOML; :func:`read_deletion_policy` gives an equal one.

    Raises:
        RecordError: the file cannot be written.
    """
    try:
        path.write_text(tomli_w.dumps(_plain(policy)), encoding="utf-8")
    except OSError as error:
        raise RecordError(f"{path} cannot be written: {error.strerror}") from error


def read_deletion_policy(path: Path) -> DeletionPolicy:
    """Read a policy. Every key has to be there but `settings`: a policy with a hole is weaker than it looks.

    Raises:
        RecordError: the file is missing, is not TOML, or is not such a policy; names the key, its value and what would
            be right.
    """
    known = [item.name for item in fields(DeletionPolicy)]
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_POLICY_BYTES + 1)
        if len(content) > _MAX_POLICY_BYTES:
            raise RecordError(f"{path} has more than {_MAX_POLICY_BYTES} bytes; expected a deletion policy")
        values: dict[str, Any] = tomllib.loads(content.decode())
        for name in values:
            if name not in known:
                raise ArgumentError(name, values[name], f"no such key, but {', '.join(known)}")
        for name in known:
            if name not in values and name != "settings":
                raise ArgumentError(name, None, "a value: a deletion policy has every key")
        if isinstance(values["class_signers"], list):
            values["class_signers"] = tuple(values["class_signers"])
        return DeletionPolicy(**values)
    except ArgumentError as error:
        raise RecordError(f"{path} is not a deletion policy: {error}") from error
    except (OSError, ValueError, ArithmeticError, RecursionError) as error:
        raise RecordError(f"{path} is not a readable deletion policy: {error}") from error


def _plain(policy: DeletionPolicy) -> dict[str, Any]:
    values = {item.name: getattr(policy, item.name) for item in fields(policy)}
    return values | {"class_signers": list(policy.class_signers), "settings": dict(policy.settings)}
