"""Guesses that were fixed before the scores were seen: how many, and how much each counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from secure_fu.errors import ArgumentError
from secure_fu.privacy._checks import positive_integer

__all__ = ["Guesses"]

_HEAVIEST = 1000
_GOLDEN = 0.6180339887498949


@dataclass(frozen=True, kw_only=True)
class Guesses:
    """Which canaries of a run are guessed, by the rank of their scores, and with what weight.

    The canary with the k-th highest score is guessed to have been inserted, with weight ``inserted[k]``; the one with
    the k-th lowest to have been left out, with weight ``left_out[k]``; nothing is guessed of the others. As ranks know
    nothing of the coins, these are guesses from what was released alone.

    Equal scores are put in an order that depends on their place only. So the order in which canaries are listed must
    not follow the coins; a listing of all inserted ones first is scrambled, so that it gives nothing away in practice.

    Args:
        inserted: weights of the guesses "inserted", highest score first; integers from 1 to 1000.
        left_out: weights of the guesses "left out", lowest score first.

    Raises:
        ArgumentError: a weight out of range, or no guess at all.
    """

    inserted: tuple[int, ...]
    left_out: tuple[int, ...]

    def __post_init__(self) -> None:
        for argument in ("inserted", "left_out"):
            weights = tuple(positive_integer(argument, weight) for weight in getattr(self, argument))
            if any(weight > _HEAVIEST for weight in weights):
                raise ArgumentError(argument, max(weights), f"weights of at most {_HEAVIEST}")
            object.__setattr__(self, argument, weights)
        if not self.weights:
            raise ArgumentError("inserted", self.inserted, "at least one guess, here or in left_out")

    @classmethod
    def equal(cls, inserted: int, left_out: int) -> Guesses:
        """So many guesses of either kind, each counted once."""
        return cls(inserted=(1,) * inserted, left_out=(1,) * left_out)

    @property
    def weights(self) -> tuple[int, ...]:
        """Weights of all guesses."""
        return self.inserted + self.left_out

    @cached_property
    def total(self) -> int:
        """What a perfect attack scores."""
        return sum(self.weights)

    @cached_property
    def by_weight(self) -> tuple[tuple[int, int], ...]:
        """(weight, number of guesses that have it), ascending: all that a bound needs to know."""
        return tuple(sorted(Counter(self.weights).items()))

    def __len__(self) -> int:
        return len(self.inserted) + len(self.left_out)

    def right(self, scores: NDArray[np.float64], inserted: NDArray[np.bool_]) -> int:
        """Sum of the weights of the guesses that are right.

        Args:
            scores: shape (m,), m at least the number of guesses.
            inserted: the coins, shape (m,).

        Raises:
            ArgumentError: more guesses than canaries.
        """
        if len(self) > len(scores):
            raise ArgumentError("guesses", f"{len(self)} guesses", f"at most one a canary, {len(scores)}")
        scramble = np.arange(1, len(scores) + 1) * _GOLDEN % 1.0
        coins = inserted[np.lexsort((scramble, scores))]
        lowest, highest = coins[: len(self.left_out)], coins[::-1][: len(self.inserted)]
        return int(highest @ np.array(self.inserted, dtype=np.int64)) + int(
            ~lowest @ np.array(self.left_out, dtype=np.int64)
        )
