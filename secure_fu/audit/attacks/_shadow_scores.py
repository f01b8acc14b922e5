"""Signals of shadow models, checked, and summed up for each record."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from secure_fu.errors import ArgumentError

__all__ = ["Moments", "ShadowScores", "moments"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """Of one side, shadow models with a record or those without, for each of n records.

    Attributes:
        count: models on this side, shape (n,).
        mean: of phi over them; 0 where there is none.
        scatter: sum of squared deviations from the mean.
    """

    count: NDArray[np.float64]
    mean: NDArray[np.float64]
    scatter: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ShadowScores:
    """What an attack works on: phi of the target and of S shadow models on n records, and who trained on what.

    Args:
        target: shape (n,).
        shadows: shape (S, n).
        members: bool, shape (S, n): where a shadow model was trained on a record.

    Raises:
        ArgumentError: shapes do not fit, or a value is NaN or infinite.
    """

    target: NDArray[np.float64]
    shadows: NDArray[np.float64]
    members: NDArray[np.bool_]

    @classmethod
    def checked(cls, target: ArrayLike, shadows: ArrayLike, members: ArrayLike) -> ShadowScores:
        """From anything that is like these arrays."""
        one, many = np.asarray(target, dtype=np.float64), np.asarray(shadows, dtype=np.float64)
        inside = np.asarray(members)
        if one.ndim != 1 or len(one) == 0:
            raise ArgumentError("target", f"an array of shape {one.shape}", "shape (n,), n >= 1")
        if many.ndim != 2 or many.shape[1] != len(one) or len(many) == 0:
            raise ArgumentError("shadows", f"an array of shape {many.shape}", f"shape (S, {len(one)}), S >= 1")
        if inside.dtype != np.bool_ or inside.shape != many.shape:
            raise ArgumentError("members", f"{inside.dtype} of shape {inside.shape}", f"bools of shape {many.shape}")
        for name, values in (("target", one), ("shadows", many)):
            if not np.isfinite(values).all():
                raise ArgumentError(name, "an array with NaN or infinite entries", "finite values only")
        return cls(one, many, inside)

    def need(self, *, inside: int, outside: int, attack: str) -> None:
        """Refuse unless each record is in, and outside of, the training data of so many shadow models."""
        for side, least, counts in (
            ("with", inside, self.members.sum(axis=0)),
            ("without", outside, (~self.members).sum(axis=0)),
        ):
            if int(counts.min()) < least:
                raise ArgumentError(
                    "shadows",
                    f"{len(self.members)} models, and only {int(counts.min())} trained {side} one of the records",
                    f"at least {least} trained {side} each record for {attack}; {inside + outside} in balanced halves "
                    "will do",
                )


def moments(scores: ShadowScores, *, inside: bool) -> Moments:
    """Count, mean and scatter of phi over the shadow models with each record, or over those without it."""
    where = scores.members if inside else ~scores.members
    count = where.sum(axis=0).astype(np.float64)
    mean = np.where(where, scores.shadows, 0.0).sum(axis=0) / np.maximum(count, 1.0)
    scatter = np.where(where, (scores.shadows - mean) ** 2, 0.0).sum(axis=0)
    return Moments(count=count, mean=mean, scatter=scatter)
