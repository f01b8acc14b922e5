"""How well the model still does on what it was to forget, against a model that never saw it.

A model that is better or worse than a retrained one on everything is so on the forgotten records as well, and that is
no memory of them. So the figure that is judged is the *excess*: accuracy on the forgotten less that on target records
that the same run never saw. Which of the two a record is was drawn by lot, so that only memory can tell them apart;
test records are other records, and their difference to the targets would not average out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secure_fu.audit.deletion.figures import Comparison, compared

__all__ = [
    "FORGET_ACCURACY",
    "FORGET_EXCESS",
    "FORGET_LOSS",
    "TEST_ACCURACY",
    "forget_excess",
    "forget_set_mean",
    "forget_set_performance",
]

FORGET_ACCURACY = "forget accuracy"
FORGET_EXCESS = "excess of forget accuracy"
FORGET_LOSS = "forget loss"
TEST_ACCURACY = "test accuracy"


def forget_set_mean(values: NDArray[np.float64], forgotten: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean over the records that are forgotten in each run: (R, t), (R, t) -> (R,)."""
    result: NDArray[np.float64] = np.where(forgotten, values, 0.0).sum(axis=1) / forgotten.sum(axis=1)
    return result


def forget_set_performance(
    name: str,
    method: NDArray[np.float64],
    retrained: NDArray[np.float64],
    forgotten: NDArray[np.bool_],
    *,
    margin: float | None,
    level: float,
) -> Comparison:
    """A measure on the forgotten records of each run, method against retrained, paired by run.

    Args:
        name: of the measure.
        method: the measure of each target record under the method's models, (R, t).
        retrained: the same under the retrained models, (R, t).
        forgotten: which records are forgotten in each run, (R, t).
        margin: gap within which the two count as equivalent; None for no test.
    """
    values = [forget_set_mean(measure, forgotten) for measure in (method, retrained)]
    return compared(name, values[0], values[1], margin=margin, level=level, shares=name != FORGET_LOSS)


def forget_excess(
    method: NDArray[np.float64],
    retrained: NDArray[np.float64],
    forgotten: NDArray[np.bool_],
    never: NDArray[np.bool_],
    *,
    margin: float,
    level: float,
) -> Comparison:
    """Accuracy on the forgotten less that on target records never seen, method against retrained, paired by run.

    Args:
        method: whether each target record is named right, (R, t).
        retrained: the same under the retrained models.
        forgotten: which records are forgotten in each run, (R, t).
        never: which were never there, (R, t).
        margin: gap within which the two count as equivalent.
    """
    values = [forget_set_mean(correct, forgotten) - forget_set_mean(correct, never) for correct in (method, retrained)]
    return compared(FORGET_EXCESS, values[0], values[1], margin=margin, level=level, shares=False)
