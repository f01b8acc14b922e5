"""Checks of scores and coins that the bounds share."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from secure_fu.errors import ArgumentError
from secure_fu.privacy._checks import probability

__all__ = ["finite_values", "game", "one_sided_tail"]


def finite_values(argument: str, values: ArrayLike, *, fewest: int) -> NDArray[np.float64]:
    """Values as a one-dimensional float64 array; ArgumentError unless finite and at least ``fewest``."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) < fewest:
        raise ArgumentError(
            argument, f"an array of shape {array.shape}", f"a one-dimensional array, length >= {fewest}"
        )
    if not np.isfinite(array).all():
        raise ArgumentError(argument, "an array with NaN or infinite entries", "finite values only")
    return array


def game(scores: ArrayLike, inserted: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores and coins, one each a canary; ArgumentError unless they fit."""
    values = finite_values("scores", scores, fewest=1)
    coins = np.asarray(inserted)
    if coins.dtype != np.bool_ or coins.shape != values.shape:
        raise ArgumentError(
            "inserted", f"an array of {coins.dtype}, shape {coins.shape}", f"booleans, one a canary: ({len(values)},)"
        )
    return values, coins


def one_sided_tail(delta: float, level: float) -> float:
    """1 - ``level``, with both arguments checked; a level below 1/2 would be no confidence."""
    probability("delta", delta)
    if probability("level", level) < 0.5:
        raise ArgumentError("level", level, "a confidence level of at least 1/2 and below 1")
    return 1.0 - level
