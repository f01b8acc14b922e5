"""Scrub: pull the forgotten records towards what the model would say had it no idea of their class.

The loss is that of FedQUIT (Mora, Valerio, Bellavista, Passarella 2024, arXiv 2408.07587) with the current model as
its own teacher: the Kullback-Leibler divergence from the model's output with the true class removed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from secure_fu.errors import ArgumentError
from secure_fu.learning import Loss
from secure_fu.privacy import Unit
from secure_fu.protocol import LocalTask, RoundTerms
from secure_fu.training import Recipe, Silo, clipped_gradients
from secure_fu.unlearning.joint import JointRounds, JointTask

__all__ = ["Scrub", "true_class_removed"]

_LARGEST_SHARPNESS: Final = 1e6  # gradients stay within float64


def true_class_removed(logits: Tensor, labels: Tensor) -> Tensor:
    """-log(1 - p_y) per record: minus the log of the weight that the model gives to all but the true class y.

    Equal to KL(t || p), p the model's output and t = p / (1 - p_y) outside y, in value and in gradient p - t, whether
    or not t is held fixed. Bounded below, so that descending it comes to rest; ascending the training loss does not.

    Args:
        logits: shape (n, classes), classes >= 2.
        labels: true classes, int64, shape (n,).

    Returns:
        shape (n,), at least 0; tends to 0, and its gradient with it, where the model gives y no weight. Value and
        gradient are finite for all finite logits.
    """
    others = logits.scatter(1, labels[:, None], -torch.inf)
    log_odds = logits.gather(1, labels[:, None])[:, 0] - torch.logsumexp(others, dim=1)
    return -functional.logsigmoid(-log_odds)


class _ScrubTask(JointTask):
    """The training step of retained units, and that of forgotten ones on the other loss.

    Formal guarantees:
        A forgotten unit adds one gradient, multiplied by a public constant or scaled to one length, then clipped: its
        norm is at most the clip norm, whatever the sharpness.
    """

    def __init__(self, silo: Silo, sharpness: float) -> None:
        super().__init__(silo)
        self._normalise = math.isinf(sharpness)

        def sharpened(logits: Tensor, labels: Tensor) -> Tensor:
            return sharpness * true_class_removed(logits, labels)

        self._loss: Loss = true_class_removed if self._normalise else sharpened

    def _of_units(
        self, sampled: NDArray[np.bool_], model: NDArray[np.float32], terms: RoundTerms
    ) -> NDArray[np.float64]:
        chosen = self._silo.records.subset(sampled)
        return clipped_gradients(self._silo, model, chosen, terms, loss=self._loss, normalise=self._normalise)

    def _of_client(self, model: NDArray[np.float32], terms: RoundTerms) -> NDArray[np.float64]:
        return self._descent(true_class_removed, model, terms)


@dataclass(frozen=True, kw_only=True)
class Scrub(JointRounds):
    """Descend, in the same rounds, the training loss of what is retained and :func:`true_class_removed` of the rest.

    The gradient of :func:`true_class_removed` fades as a record is forgotten. Sharpened before it is clipped, it keeps
    its full length until little is left to forget, and fades then: few records are forgotten in few rounds, and many
    are not pushed too far. The defaults are from `benchmarks/search_scrub.py`.

    Attributes:
        length: rounds.
        rate_factor: the learning rate over that of training.
        forgotten_factor: the sampling rate of forgotten records or groups over that of training. They are charged for
            it, so above 1 the rate is held to what costs them no more than retraining costs those that stay, in the
            measure of rounds times the square of the rate, and to every unit in every round. Clients refuse a rate
            above the largest in their policy.
        sharpness: what gradients of forgotten records or groups are multiplied by before they are clipped; infinite for
            each scaled to the clip norm. The client unit, which clips a whole update, goes without.

    Raises:
        ArgumentError: a setting is out of its domain.
    """

    rate_factor: float = 1.5
    forgotten_factor: float = 1.75
    sharpness: float = 10.0

    name: ClassVar[str] = "scrub"
    title: ClassVar[str] = "Scrub"
    what: ClassVar[str] = (
        "pull the forgotten records towards the model's own output without their class, while the others train on"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.forgotten_factor < math.inf:
            raise ArgumentError("forgotten_factor", self.forgotten_factor, "a positive finite number")
        if not (0.0 < self.sharpness <= _LARGEST_SHARPNESS or self.sharpness == math.inf):
            raise ArgumentError(
                "sharpness", self.sharpness, f"a number in (0, {_LARGEST_SHARPNESS:g}], or inf for one length"
            )

    def forgotten_rate(self, recipe: Recipe) -> float:
        """See :meth:`JointRounds.forgotten_rate`."""
        if recipe.unit is Unit.CLIENT:
            return recipe.sampling_rate
        affordable = max(1.0, math.sqrt(recipe.rounds / self.length))
        return min(1.0, min(self.forgotten_factor, affordable) * recipe.sampling_rate)

    def client_tasks(self, silo: Silo) -> Mapping[str, LocalTask]:
        """See :meth:`~secure_fu.unlearning.UnlearningMethod.client_tasks`."""
        return {self.purpose: _ScrubTask(silo, self.sharpness)}
