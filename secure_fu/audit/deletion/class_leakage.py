"""Which classes were deleted? Read from the change of the last layer alone, without any record.

A model that trains on a class pulls that class's row of the last layer up; taken away, the row comes down again. Rows
and counts of a run are taken against their means over all runs, so that what any deletion does to a class, such as to a
large one, does not count as knowledge of this deletion.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secure_fu.audit.deletion.runs import DeletionRuns, Part
from secure_fu.learning import FlatModel
from secure_fu.privacy import Interval, clopper_pearson, mean_interval

__all__ = ["ClassLeakage", "class_leakage", "last_layer_change"]


@dataclass(frozen=True, kw_only=True)
class ClassLeakage:
    """How much the change of the last layer tells of the classes of the forgotten.

    Attributes:
        accuracy: share of runs in which the row that fell most is the class with most forgotten records (any of them,
            where several share that place), with Clopper and Pearson's interval.
        chance: the same for the best guess without the models: the one class that is right in most runs.
        correlation: mean over runs of the correlation, over classes, between how far a row fell and how many of its
            records were forgotten; 0 is chance. None where some run forgets equally many of every class.
        runs: how many runs.
    """

    accuracy: Interval
    chance: float
    correlation: Interval | None
    runs: int

    @property
    def found(self) -> bool:
        """Whether the change of the last layer tells the class or the mix of classes, at the level of the intervals."""
        return self.accuracy.low > self.chance or (self.correlation is not None and self.correlation.low > 0.0)

    def to_json(self) -> dict[str, object]:
        """Every number of it."""
        return {
            "accuracy": self.accuracy.to_json(),
            "chance": self.chance,
            "correlation": None if self.correlation is None else self.correlation.to_json(),
            "runs": self.runs,
        }


def last_layer_change(model: FlatModel, change: NDArray[np.float64], classes: int) -> NDArray[np.float64] | None:
    """Sum of each row of the last layer, weights and bias: (R, d) -> (R, classes); None without such a layer."""
    weights = [layer for layer in model.layers if len(layer.shape) == 2 and layer.shape[0] == classes]
    if not weights:
        return None
    layer = weights[-1]
    rows = change[:, layer.slice].reshape(len(change), *layer.shape).sum(axis=2)
    # A bias follows its weights, in state_dict's order.
    biases = [other for other in model.layers if other.slice.start == layer.slice.stop and other.shape == (classes,)]
    for bias in biases:
        rows = rows + change[:, bias.slice]
    return np.asarray(rows, dtype=np.float64)


def class_leakage(runs: DeletionRuns, after: NDArray[np.float32], *, classes: int, level: float) -> ClassLeakage | None:
    """Guess the deleted class of every run.

    Args:
        after: one model a run, (R, d).
        classes: number of logits.

    Returns:
        None where the model has no last linear layer with a row for each class.
    """
    rows = last_layer_change(runs.model, after.astype(np.float64) - runs.before, classes)
    if rows is None:
        return None
    own = np.eye(classes)[runs.targets.labels.numpy()]
    counts = (runs.record_parts == Part.FORGOTTEN).astype(np.float64) @ own
    most = counts == counts.max(axis=1, keepdims=True)
    # A model that has not changed gives no guess, not the first class.
    moved = np.ptp(rows, axis=1) > 0.0
    rows = rows - rows.mean(axis=0)
    right = most[np.arange(len(rows)), rows.argmin(axis=1)] & moved
    spread = np.ptp(counts, axis=1) > 0.0
    counts = counts - counts.mean(axis=0)
    return ClassLeakage(
        accuracy=clopper_pearson(int(right.sum()), len(right), level=level),
        chance=float(most.mean(axis=0).max()),
        correlation=mean_interval(_correlations(-rows, counts), level=level) if spread.all() else None,
        runs=len(right),
    )


def _correlations(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pearson's, row by row; 0 for a row without spread."""
    one, other = (values - values.mean(axis=1, keepdims=True) for values in (first, second))
    norms = np.sqrt((one**2).sum(axis=1) * (other**2).sum(axis=1))
    result: NDArray[np.float64] = np.where(norms > 0.0, (one * other).sum(axis=1) / norms.clip(min=1e-300), 0.0)
    return result
