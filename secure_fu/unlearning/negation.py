"""Negation: turn the sign of one layer and train on without the data; whoever leaves has nothing to send.

NoT (Khalil, Brunswic, Lamghari, Li, Beitollahi, Chen 2025, arXiv 2503.05657): a negated layer undoes what the layers
around it have adapted to, so that training has to find the way back, and finds it without what is gone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from secure_fu.errors import ArgumentError, MethodRefused
from secure_fu.learning import FlatModel, Layer
from secure_fu.training import TrainingState
from secure_fu.unlearning.guarantee import Heuristic
from secure_fu.unlearning.method import Deletion
from secure_fu.unlearning.rerun import TrainingRounds

__all__ = ["Negation"]


@dataclass(frozen=True, kw_only=True)
class Negation(TrainingRounds):
    """The original with all parameters of one layer negated, trained on without the forgotten data.

    No round has a sum that a forgotten unit enters, so the phase costs forgotten units nothing.

    Under the noise of differential privacy the way back is long: thirty rounds forget the backdoor of `digits-silos`
    and leave accuracy 16 to 21 points short of retraining; as many rounds from scratch come closer.

    Attributes:
        length: training rounds.
        layer: which layer, counting from 0 those with weights of two or more dimensions.

    Raises:
        ArgumentError: a setting is out of its domain.
    """

    length: int = 30
    layer: int = 0

    name: ClassVar[str] = "negation"
    title: ClassVar[str] = "Negation"

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ArgumentError("length", self.length, "at least 1 round")
        if self.layer < 0:
            raise ArgumentError("layer", self.layer, "the index of a layer, at least 0")

    def check(self, deletion: Deletion) -> None:
        """See :meth:`~secure_fu.unlearning.UnlearningMethod.check`.

        Raises:
            MethodRefused: the model has no such layer.
        """
        count = len(_weights(deletion.model))
        if self.layer >= count:
            raise MethodRefused(
                f"negation of layer {self.layer} needs a model with that many layers of two or more dimensions; "
                f"this one has {count}"
            )

    def training_rounds(self, deletion: Deletion) -> int:
        """The `length` set."""
        return self.length

    def most_rounds(self, trained: int) -> int:
        """The `length` set."""
        return self.length

    def start_state(self, deletion: Deletion) -> TrainingState:
        """The original with the layer negated, its optimiser at rest.

        Raises:
            MethodRefused: the model has no such layer.
        """
        self.check(deletion)
        original = deletion.original.at_rest()
        chosen = _module_of(_weights(deletion.model)[self.layer])
        vector = original.model.vector.astype(np.float64)
        for layer in deletion.model.layers:
            if _module_of(layer) == chosen:
                vector[layer.slice] *= -1.0
        return replace(original, model=original.model.derived(vector))

    def guarantee(self, deletion: Deletion) -> Heuristic:
        """No more than what it does, in words."""
        return Heuristic(
            f"layer {self.layer} of the original model is negated, and {self.length} rounds train on without the data"
        )


def _weights(model: FlatModel) -> list[Layer]:
    """The parameter tensors of two or more dimensions, one a layer."""
    return [layer for layer in model.layers if len(layer.shape) >= 2]


def _module_of(layer: Layer) -> str:
    return layer.name.rpartition(".")[0]
