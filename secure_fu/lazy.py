"""Packages whose names are looked up when they are first used: who needs one does not load what all of them need."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping

__all__ = ["lazily"]


def lazily(
    package: str, homes: Mapping[str, tuple[str, ...]]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """What a package takes for its `__getattr__` and `__dir__`.

    Args:
        package: its name.
        homes: the names that it exports, by the module below it that has them.

    Returns:
        the two functions. The first raises AttributeError for any other name.
    """
    known = {name: home for home, names in homes.items() for name in names}

    def get(name: str) -> object:
        if name not in known:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{known[name]}"), name)

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *known})

    return get, names
