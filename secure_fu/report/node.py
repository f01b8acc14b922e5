"""A JSON value that knows its path, so that a wrong one is named exactly."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import NoReturn, TypeVar

from secure_fu.errors import RunDirectoryError

__all__ = ["Node"]

T = TypeVar("T")
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")


class Node:
    """A decoded JSON value and its path. Every reader raises RunDirectoryError if the value is of another kind.

    ``file`` is the name of the file that messages speak of.
    """

    def __init__(self, path: str, value: object, *, file: str = "result.json") -> None:
        self.path = path
        self.value = value
        self.file = file

    def reject(self, expected: str) -> NoReturn:
        """Raise RunDirectoryError: this value is not ``expected``."""
        raise RunDirectoryError(f"{self.file}: {self.path} is {_describe(self.value)}; expected {expected}")

    def __getitem__(self, key: str) -> Node:
        members = self._object()
        if key not in members:
            raise RunDirectoryError(f"{self.file}: {self.path}.{key} is missing")
        return Node(f"{self.path}.{key}", members[key], file=self.file)

    def maybe(self, key: str, read: Callable[[Node], T]) -> T | None:
        """Read a member that may be missing, or null: None for both."""
        return self[key].optional(read) if key in self._object() else None

    def at(self, index: int) -> Node:
        """The item of a list at ``index``."""
        return Node(f"{self.path}[{index}]", self._list()[index], file=self.file)

    def each(self, read: Callable[[Node], T]) -> tuple[T, ...]:
        """Read every item of a list."""
        return tuple(read(self.at(index)) for index in range(len(self._list())))

    def mapping(self, read: Callable[[Node], T], *, keys: Collection[str] | None = None) -> dict[str, T]:
        """Read every member of an object; with ``keys``, no other key may occur."""
        members = self._object()
        for key in members:
            if keys is not None and key not in keys:
                raise RunDirectoryError(f"{self.file}: {self.path}.{key} belongs to no row")
        return {key: read(self[key]) for key in members}

    def optional(self, read: Callable[[Node], T]) -> T | None:
        """Read the value, or None for null."""
        return None if self.value is None else read(self)

    def text(self) -> str:
        """A string."""
        if not isinstance(self.value, str):
            self.reject("a string")
        return self.value

    def name(self) -> str:
        """A short identifier: a lower-case letter, then lower-case letters, digits, "-" and "_"; 32 in all."""
        text = self.text()
        if not _NAME.fullmatch(text):
            self.reject("up to 32 of a-z, 0-9, '-' and '_', a letter first")
        return text

    def choice(self, *options: str) -> str:
        """One of the given strings."""
        if self.value not in options:
            self.reject("one of " + ", ".join(map(repr, options)))
        return self.text()

    def moment(self) -> str:
        """A date and time in ISO 8601 with its offset from UTC, returned as it stands."""
        text = self.text()
        try:
            offset = datetime.fromisoformat(text).utcoffset()
        except ValueError:
            offset = None
        if offset is None:
            self.reject("a date and time with an offset, such as '2026-01-31T12:00:00+00:00'")
        return text

    def boolean(self) -> bool:
        """A truth value."""
        if not isinstance(self.value, bool):
            self.reject("true or false")
        return self.value

    def integer(self, *, low: int = 0) -> int:
        """An integer of at least ``low``."""
        if isinstance(self.value, bool) or not isinstance(self.value, int) or self.value < low:
            self.reject(f"an integer of at least {low}")
        return self.value

    def number(self, *, low: float = -math.inf, high: float = math.inf) -> float:
        """A finite number within [low, high]."""
        if isinstance(self.value, bool) or not isinstance(self.value, int | float) or not low <= self.value <= high:
            limits = [f"at least {low:g}"] * (low > -math.inf) + [f"at most {high:g}"] * (high < math.inf)
            self.reject(" ".join(["a finite number", " and ".join(limits)]).strip())
        return float(self.value)

    def fraction(self) -> float:
        """A number within [0, 1]."""
        return self.number(low=0, high=1)

    def check_json(self) -> None:
        """Check the value and all below it for what JSON cannot hold: NaN, infinities, keys that are not strings."""
        if isinstance(self.value, Mapping):
            for key in self.value:
                if not isinstance(key, str):
                    self.reject(f"an object whose keys are strings (one is {key!r})")
                self[key].check_json()
        elif isinstance(self.value, list | tuple):
            for index in range(len(self.value)):
                self.at(index).check_json()
        elif isinstance(self.value, float):
            if not math.isfinite(self.value):
                self.reject("a finite number, or null")
        elif self.value is not None and not isinstance(self.value, str | int):
            self.reject("a value that JSON can hold")

    def _object(self) -> Mapping[str, object]:
        if not isinstance(self.value, Mapping):
            self.reject("an object")
        return self.value

    def _list(self) -> list[object] | tuple[object, ...]:
        if not isinstance(self.value, list | tuple):
            self.reject("a list")
        return self.value


def _describe(value: object) -> str:
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
