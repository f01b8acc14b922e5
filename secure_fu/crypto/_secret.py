"""What every secret object has in common: it does not print, pickle or copy itself."""

from __future__ import annotations

from typing import NoReturn, SupportsIndex

__all__ = ["Secret"]


class Secret:
    """Base of objects that hold key material or unreleased randomness.

    ``repr`` shows the type only. Pickling and copying raise ``TypeError``: both would make a second instance of
    something that exists once, and a pickle would put it on a disk or a socket.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: redacted>"

    def __reduce_ex__(self, protocol: SupportsIndex, /) -> NoReturn:
        raise TypeError(f"{type(self).__name__} is secret and cannot be pickled or copied")

    def __getstate__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} is secret and has no state to hand out")
