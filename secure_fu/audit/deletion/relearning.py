"""How fast does the model relearn what it forgot? Steps on the forgotten records until the original's loss is back.

A model that only hides the data finds it again sooner than a model that never saw it (Tarun et al. 2023, arXiv
2111.08947). Relearning is full-batch gradient descent without momentum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secure_fu.audit.deletion.figures import compared
from secure_fu.audit.deletion.runs import DeletionRuns, Part
from secure_fu.errors import ArgumentError
from secure_fu.learning import cross_entropy
from secure_fu.privacy import Interval

__all__ = ["Relearning", "relearning", "steps_to_relearn"]

_ROUNDING: Final = 1e-4  # relative; a model that is unchanged has relearned already


@dataclass(frozen=True, kw_only=True)
class Relearning:
    """Steps until the mean loss of the forgotten is what it was under the model before.

    Attributes:
        steps, retrained: mean over runs for the method and for the retrained models.
        gap: mean of the difference in each run; below 0, the method's models relearn sooner.
        longest: the number of steps at which it is given up; such runs count as ``longest``.
        given_up, retrained_given_up: share of such runs.
        runs: how many runs.
    """

    steps: Interval
    retrained: Interval
    gap: Interval
    longest: int
    given_up: float
    retrained_given_up: float
    runs: int

    def to_json(self) -> dict[str, object]:
        """Every number of it."""
        return {
            "steps": self.steps.to_json(),
            "retrained": self.retrained.to_json(),
            "gap": self.gap.to_json(),
            "longest": self.longest,
            "given_up": self.given_up,
            "retrained_given_up": self.retrained_given_up,
            "runs": self.runs,
        }


def relearning(
    method: NDArray[np.float64], retrained: NDArray[np.float64], *, longest: int, level: float
) -> Relearning:
    """Compare what :func:`steps_to_relearn` gives for a method and for the retrained models, paired by run."""
    found = compared("relearning", method, retrained, margin=None, level=level, shares=False)
    return Relearning(
        steps=found.value,
        retrained=found.retrained,
        gap=found.gap,
        longest=longest,
        given_up=float((method >= longest).mean()),
        retrained_given_up=float((retrained >= longest).mean()),
        runs=found.runs,
    )


def steps_to_relearn(
    runs: DeletionRuns,
    vectors: NDArray[np.float32],
    targets: NDArray[np.float64],
    *,
    longest: int,
    learning_rate: float,
) -> NDArray[np.float64]:
    """Steps of each run until its forgotten records' mean loss is at most its target, at most ``longest``: (R,).

    Args:
        vectors: one model a run, (R, d).
        targets: the loss to reach, (R,).
        longest: steps after which a run is given up, >= 1.
        learning_rate: of the steps, > 0.

    Raises:
        ArgumentError: an argument is out of its domain.
    """
    if longest < 1:
        raise ArgumentError("longest", longest, "at least 1")
    if not learning_rate > 0.0:
        raise ArgumentError("learning_rate", learning_rate, "a number above 0")
    model, records = runs.model, runs.targets
    forgotten = runs.record_parts == Part.FORGOTTEN
    steps = np.empty(runs.runs)
    for run, vector in enumerate(vectors.astype(np.float64)):
        own = records.subset(forgotten[run])
        tensors = {name: tensor.clone().requires_grad_() for name, tensor in model.tensors(vector).items()}
        features = own.features.to(next(iter(tensors.values())).dtype)
        steps[run] = longest
        for step in range(longest):
            loss: Tensor = cross_entropy(model.logits(tensors, features), own.labels).mean()
            if float(loss.detach()) <= targets[run] * (1.0 + _ROUNDING):
                steps[run] = step
                break
            gradients = torch.autograd.grad(loss, list(tensors.values()))
            with torch.no_grad():
                for tensor, gradient in zip(tensors.values(), gradients, strict=True):
                    tensor -= learning_rate * gradient
    return steps
