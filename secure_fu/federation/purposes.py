"""What a branch was begun for, as one line: only for the very same it is gone on with after an interruption.

The line is a digest of canonical JSON, in which what has its default does not stand. So a field that a later version
adds to a request or a method, with a default, does not make an interrupted run another one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, Final, cast

from secure_fu.crypto.wire import encode
from secure_fu.deletion import DeletionBatch, SignedBatch
from secure_fu.federation.fleet import Request
from secure_fu.federation.founding import to_plain
from secure_fu.unlearning import UnlearningMethod
from secure_fu.unlearning.registry import settings_of

__all__ = ["Purpose"]

_FORMAT: Final = "secure-fu/purpose/2"


@dataclass(frozen=True, kw_only=True)
class Purpose:
    """What a run is for, and what it goes on from.

    Attributes:
        request: what is to be forgotten.
        method: how.
        adaptive: whether the request may have been chosen late.
        execute: whether it is for good.
        branch: of the main line.
        last_round: behind the main line's state.
        model: digest of that state's model, 32 bytes.
    """

    request: Request
    method: UnlearningMethod
    adaptive: bool
    execute: bool
    branch: str
    last_round: int
    model: bytes

    @property
    def line(self) -> str:
        """As it is written down: the format's version and a SHA-256."""
        said = {
            "request": _request(self.request),
            "method": self.method.name,
            "settings": _settings(self.method),
            "adaptive": self.adaptive,
            "execute": self.execute,
            "branch": self.branch,
            "last_round": self.last_round,
            "model": self.model.hex(),
        }
        text = json.dumps(said, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return f"{_FORMAT} {hashlib.sha256(text.encode()).hexdigest()}"

    def is_written_as(self, line: str) -> bool:
        """Whether a branch of this line was begun for the same.

        Version 1 was the SHA-256 of a `repr`: it is told as long as that is the same, and else it is another purpose.
        """
        return line in (self.line, self._line_of_version_1)

    @property
    def _line_of_version_1(self) -> str:
        said = (
            self.request,
            self.method,
            self.adaptive,
            self.execute,
            self.branch,
            self.last_round,
            self.model.hex(),
        )
        return hashlib.sha256(repr(said).encode()).hexdigest()


def _request(request: Request) -> Any:
    if isinstance(request, SignedBatch):
        own = [hashlib.sha256(encode(one)).hexdigest() for one in request.requests]
        return {"window": request.window_id.hex(), "requests": own}
    if isinstance(request, DeletionBatch):
        return [_set(one) for one in request.requests]
    return _set(request)


def _settings(method: UnlearningMethod) -> Mapping[str, Any]:
    plain, own = settings_of(method), cast(Any, method)
    chosen = _set(own) if is_dataclass(own) else plain
    return {name: value for name, value in plain.items() if name in chosen}


def _set(value: Any) -> Mapping[str, Any]:
    """The fields of a dataclass that have not their default, as plain values."""
    found = {}
    for item in fields(value):
        usual = item.default if item.default_factory is MISSING else item.default_factory()
        own = getattr(value, item.name)
        if usual is MISSING or own != usual:
            found[item.name] = to_plain(own)
    return found
