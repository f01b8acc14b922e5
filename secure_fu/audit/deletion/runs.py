"""Many runs of one deletion procedure: what every audit of a deletion is made from.

In each run every target unit was given one of three parts in secret: retained, forgotten or never seen. One model was
trained with the first two, models were unlearned from it, and one was trained anew without the forgotten. All figures
are statistics over runs, because the units of one run share a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from secure_fu.errors import ArgumentError
from secure_fu.learning import FlatModel, Records, logits

__all__ = ["NOTHING", "DeletionRuns", "Part", "secret_parts"]

NOTHING: Final = "nothing"
"""Name of the control that leaves the model as it is: it must be told from retraining, or the audit sees nothing."""


class Part(IntEnum):
    """What a target unit was in one run."""

    RETAINED = 0
    FORGOTTEN = 1
    NEVER = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class DeletionRuns:
    """R runs of one procedure on u target units with t records and models of d parameters.

    Attributes:
        model: the architecture.
        targets: the t records of the target units.
        units: which unit each record belongs to, int64 (t,), every number of 0..u-1 at least once. For the record unit
            it is ``arange(t)``.
        parts: a :class:`Part` for each run and unit, int8 (R, u), drawn at random in each run on its own. Every part
            occurs in every run, and equally many units are forgotten in all of them, so that the two worlds of a game
            hold deletions of equal size.
        others: records that were retained in every run, or None.
        test: records that were in no run.
        before: models trained with the retained and the forgotten, float32 (R, d).
        retrained: models trained anew without the forgotten, with fresh randomness, float32 (R, d).
        after: models that each method made of ``before``, float32 (R, d) by name. The control ``nothing`` is added
            where it is missing.

    Raises:
        ArgumentError: an attribute does not fit the others, fewer than three runs, or a model is not finite.
    """

    model: FlatModel
    targets: Records
    units: NDArray[np.int64]
    parts: NDArray[np.int8]
    others: Records | None
    test: Records
    before: NDArray[np.float32]
    retrained: NDArray[np.float32]
    after: Mapping[str, NDArray[np.float32]]

    def __post_init__(self) -> None:
        if self.parts.ndim != 2 or self.parts.shape[0] < 3:
            raise ArgumentError("parts", f"of shape {self.parts.shape}", "shape (runs, units) with at least 3 runs")
        if not np.isin(self.parts, [int(part) for part in Part]).all():
            raise ArgumentError("parts", "with other values", "values of Part only: 0, 1 or 2")
        runs, units = self.parts.shape
        for part in Part:
            counts = (self.parts == part).sum(axis=1)
            if counts.min() < 1:
                raise ArgumentError("parts", f"without a unit that is {part.name.lower()} in some run", "at least one")
            if part is Part.FORGOTTEN and counts.min() != counts.max():
                found = f"with {counts.min()} to {counts.max()} units forgotten"
                raise ArgumentError("parts", found, "the same number in every run")
        owners = np.unique(self.units) if self.units.ndim == 1 else np.empty(0)
        if self.units.shape != (len(self.targets),) or not np.array_equal(owners, np.arange(units)):
            expected = f"the unit of each of {len(self.targets)} records, every number of 0..{units - 1} at least once"
            raise ArgumentError("units", f"of shape {self.units.shape} with {len(owners)} units", expected)
        if len(self.test) == 0:
            raise ArgumentError("test", "0 records", "at least one")
        for name, vectors in (("before", self.before), ("retrained", self.retrained), *self.after.items()):
            if vectors.shape != (runs, self.model.dimension):
                raise ArgumentError(name, f"of shape {vectors.shape}", f"shape {(runs, self.model.dimension)}")
            if not np.isfinite(vectors).all():
                raise ArgumentError(name, "a model with NaN or infinite entries", "finite models only")
        if NOTHING in self.after and not np.array_equal(self.after[NOTHING], self.before):
            raise ArgumentError("after['nothing']", "another model than before", "the models before, unchanged")
        complete = {NOTHING: self.before} | dict(self.after)
        object.__setattr__(self, "after", MappingProxyType(complete))

    @property
    def runs(self) -> int:
        """R."""
        return int(self.parts.shape[0])

    @property
    def unit_count(self) -> int:
        """u, the number of target units."""
        return int(self.parts.shape[1])

    @property
    def forgotten(self) -> int:
        """How many units are forgotten in each run."""
        return int((self.parts[0] == Part.FORGOTTEN).sum())

    @property
    def record_parts(self) -> NDArray[np.int8]:
        """The part of each target record in each run: (R, t)."""
        return self.parts[:, self.units]

    def target_logits(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """Logits of every target record under each run's model: (R, t, classes), evaluation mode."""
        return self._logits(vectors, self.targets)

    def test_logits(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """Logits of the test records under each run's model: (R, records, classes), evaluation mode."""
        return self._logits(vectors, self.test)

    def _logits(self, vectors: NDArray[np.float32], records: Records) -> NDArray[np.float64]:
        return np.stack([logits(self.model, vector.astype(np.float64), records) for vector in vectors])


def secret_parts(runs: int, units: int, *, seed: int, forgotten: int | None = None) -> NDArray[np.int8]:
    """Draw who is retained, forgotten and never seen, for each run on its own: a :class:`Part` each, int8 (R, u).

    Args:
        forgotten: units that are forgotten in each run; a third where None. As many are never seen, as far as there
            are units left over; one at least is retained.

    Raises:
        ArgumentError: fewer than three units, or no unit is left for one of the parts.
    """
    if units < 3:
        raise ArgumentError("units", units, "at least 3, one for each part")
    count = max(1, units // 3) if forgotten is None else forgotten
    if not 1 <= count <= units - 2:
        raise ArgumentError("forgotten", count, f"1 to {units - 2} of {units} units")
    never = min(max(count, units // 3), units - count - 1)
    row = np.full(units, Part.RETAINED, dtype=np.int8)
    row[:count] = Part.FORGOTTEN
    row[count : count + never] = Part.NEVER
    return np.random.default_rng(seed).permuted(np.tile(row, (runs, 1)), axis=1)
