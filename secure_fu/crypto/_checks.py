"""Checks of arguments that several modules share."""

from __future__ import annotations

import numpy as np

from secure_fu.errors import ArgumentError

__all__ = ["require_int"]


def require_int(argument: str, value: object, *, least: int, most: int | None = None) -> int:
    """Return ``value`` as an ``int`` if it is one (numpy's count, ``bool`` does not) from ``least`` to ``most``.

    Raises:
        ArgumentError: it is not.
    """
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        number = int(value)
        if least <= number and (most is None or number <= most):
            return number
    upper = "" if most is None else f" and at most {most}"
    raise ArgumentError(argument, value, f"an int of at least {least}{upper}")
