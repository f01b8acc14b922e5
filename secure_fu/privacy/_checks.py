"""Checks of arguments that several modules of this package share. Each returns the value or raises ArgumentError."""

from __future__ import annotations

import math
from numbers import Real
from operator import index

from secure_fu.errors import ArgumentError

__all__ = ["fraction", "positive", "positive_integer", "probability"]


def _finite(value: object) -> float | None:
    """Return ``value`` as a float if it is a finite real number other than a bool."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def positive(argument: str, value: object) -> float:
    """Return ``value`` as a float; it must be a finite number above 0."""
    number = _finite(value)
    if number is None or number <= 0.0:
        raise ArgumentError(argument, value, "a finite number above 0")
    return number


def probability(argument: str, value: object) -> float:
    """Return ``value`` as a float; it must lie strictly between 0 and 1."""
    number = _finite(value)
    if number is None or not 0.0 < number < 1.0:
        raise ArgumentError(argument, value, "a number strictly between 0 and 1")
    return number


def fraction(argument: str, value: object) -> float:
    """Return ``value`` as a float; it must be at least 0 and below 1."""
    number = _finite(value)
    if number is None or not 0.0 <= number < 1.0:
        raise ArgumentError(argument, value, "a number from 0 up to, but not including, 1")
    return number


def positive_integer(argument: str, value: object) -> int:
    """Return ``value`` as an int; it must be an integer (not a bool) of at least 1."""
    if not isinstance(value, bool) and hasattr(value, "__index__"):
        number = index(value)
        if number >= 1:
            return number
    raise ArgumentError(argument, value, "an integer of at least 1")
