"""A visible trace of one client's influence: a trigger on its records that the model learns to obey.

Used in simulations only, to show whether unlearning took the influence away (Gu et al. 2017, "BadNets"; as a measure of
unlearning, Sommer et al. 2022).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secure_fu.errors import ArgumentError, DataError
from secure_fu.learning.evaluate import predictions
from secure_fu.learning.flat import FlatModel
from secure_fu.learning.records import Records

__all__ = ["Trigger"]


@dataclass(frozen=True, kw_only=True)
class Trigger:
    """Set some features of a record to one value, and label it ``target``.

    Attributes:
        positions: which features, as indices into the flattened features of one record; distinct, at least one.
        value: what they are set to.
        target: the label that the trigger stands for.
        description: a phrase for reports.

    Raises:
        ArgumentError: an attribute is out of range.
    """

    positions: tuple[int, ...]
    value: float
    target: int
    description: str

    def __post_init__(self) -> None:
        if not self.positions or min(self.positions) < 0 or len(set(self.positions)) != len(self.positions):
            raise ArgumentError("positions", self.positions, "distinct feature indices >= 0, at least one")
        if not math.isfinite(self.value):
            raise ArgumentError("value", self.value, "a finite number")
        if self.target < 0:
            raise ArgumentError("target", self.target, "a class number >= 0")

    @classmethod
    def top_row(cls, shape: tuple[int, ...], *, target: int, value: float = 1.0) -> Trigger:
        """The top row of pixels, in every channel.

        Args:
            shape: of one record: (channels, height, width) or (height, width).

        Raises:
            ArgumentError: the shape is not that of an image.
        """
        if len(shape) not in (2, 3) or min(shape) < 1:
            raise ArgumentError("shape", shape, "(channels, height, width) or (height, width)")
        grid = np.arange(math.prod(shape)).reshape(shape)
        return cls(
            positions=tuple(int(position) for position in grid[..., 0, :].ravel()),
            value=value,
            target=target,
            description=f"top row of pixels set to {value:g}",
        )

    def stamp(self, records: Records) -> Records:
        """The records with the trigger on their features, labels as they were. Copies."""
        return Records(self._stamped(records), records.labels, records.groups)

    def poison(self, records: Records) -> Records:
        """The records with the trigger on their features and every label set to ``target``. Copies."""
        return Records(self._stamped(records), torch.full_like(records.labels, self.target), records.groups)

    def success_rate(self, model: FlatModel, vector: NDArray[np.float64], records: Records) -> float:
        """Share of the records of other classes that, with the trigger on, are classified as ``target``; in [0, 1].

        Raises:
            DataError: every record is of the target class.
            ArgumentError: the vector does not fit the model, or the trigger the records.
        """
        others = records.subset((records.labels != self.target).numpy())
        if len(others) == 0:
            raise DataError(f"every record has the target label {self.target}; expected records of other classes")
        return float(np.mean(predictions(model, vector, self.stamp(others)) == self.target))

    def _stamped(self, records: Records) -> Tensor:
        if max(self.positions) >= records.width:
            raise ArgumentError("positions", max(self.positions), f"indices below the {records.width} features")
        features = records.features.clone(memory_format=torch.contiguous_format)
        features.view(len(records), records.width)[:, list(self.positions)] = self.value
        return features
