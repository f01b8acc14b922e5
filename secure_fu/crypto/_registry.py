"""The schemes by name. A scheme's module, and the library behind it, is imported when it is first asked for."""

from __future__ import annotations

import functools

from secure_fu.crypto.scheme import KeyHolderScheme
from secure_fu.errors import ArgumentError

__all__ = ["scheme"]


def _bfv() -> KeyHolderScheme:
    from secure_fu.crypto.bfv import Bfv

    return Bfv()


def _plain() -> KeyHolderScheme:
    from secure_fu.crypto.plain import Plain

    return Plain()


_SCHEMES = {"bfv": _bfv, "plain": _plain}


@functools.cache
def _instance(name: str) -> KeyHolderScheme:
    return _SCHEMES[name]()


def scheme(name: str) -> KeyHolderScheme:
    """Return the scheme of that name; schemes are stateless, so everybody gets the same instance.

    Raises:
        ArgumentError: there is none of that name.
    """
    if name not in _SCHEMES:
        raise ArgumentError("name", name, f"one of {sorted(_SCHEMES)}")
    return _instance(name)
