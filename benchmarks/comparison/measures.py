"""What is measured of each model of a cell. Like the simulation's evaluator, this looks at data and is not private.

Membership compares the forgotten records with held-out ones that have the same shares of classes, and carry the same
trigger. Relearning counts steps of plain gradient descent over the forgotten records, all in one step, until their mean
loss is half of what the original model's is. Output distance is the Jensen-Shannon distance (the root of the mean
divergence, in bits) of the outputs of two models, half over test and half over forgotten records.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from secure_fu.audit import membership_audit
from secure_fu.learning import FlatModel, Records, Trigger, accuracy, cross_entropy, logits, mean_loss

__all__ = ["MOST_STEPS", "OutputRecorder", "Yardstick", "matched", "output_distance", "steps_to"]

MOST_STEPS = 500
"""Relearning is given up after so many steps."""

_MOST_RELEARNT = 1000  # records
_MOST_OUTPUTS = 2000  # records of each kind

Vector = NDArray[np.float64]


def matched(
    candidates: NDArray[np.int64], wanted: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.int64]:
    """Positions of as many candidates as there can be with the shares of classes that `wanted` has.

    Args:
        candidates: classes, shape (n,).
        wanted: classes, shape (m,).

    Returns:
        sorted. Classes that no candidate has are left out of the shares.
    """
    present = np.isin(wanted, candidates)
    classes, counts = np.unique(wanted[present], return_counts=True)
    available = np.array([np.sum(candidates == label) for label in classes])
    shares = counts / counts.sum()
    total = float(np.min(available / shares))
    chosen = [
        generator.permutation(np.flatnonzero(candidates == label))[: max(1, math.floor(share * total + 1e-9))]
        for label, share in zip(classes, shares, strict=True)
    ]
    return np.sort(np.concatenate(chosen))


def output_distance(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Root of the mean Jensen-Shannon divergence, in bits, of two models' outputs: from 0 to 1.

    Args:
        one, other: probabilities, shape (n, classes).
    """
    middle = (one + other) / 2.0

    def entropy(shares: NDArray[np.float64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = -(shares * np.log2(np.where(shares > 0.0, shares, 1.0))).sum(axis=1)
        return found

    divergence = entropy(middle) - (entropy(one) + entropy(other)) / 2.0
    return math.sqrt(max(0.0, float(divergence.mean())))


def steps_to(
    model: FlatModel, vector: Vector, records: Records, *, loss: float, rate: float, most: int = MOST_STEPS
) -> int:
    """Steps of gradient descent over all of these records until their mean loss is at most `loss`; at most `most`."""
    tensors = {name: tensor.clone().requires_grad_() for name, tensor in model.tensors(vector).items()}
    for step in range(most):
        value = cross_entropy(model.logits(tensors, records.features), records.labels).mean()
        if value.item() <= loss:
            return step
        gradients = torch.autograd.grad(value, list(tensors.values()), allow_unused=True, materialize_grads=True)
        with torch.no_grad():
            for tensor, gradient in zip(tensors.values(), gradients, strict=True):
                tensor -= rate * gradient
    return most


@dataclass(frozen=True, kw_only=True, eq=False)
class OutputRecorder:
    """A model's outputs on test and on forgotten records: probabilities, shape (n, classes) each."""

    test: NDArray[np.float64]
    forgotten: NDArray[np.float64]

    def distance(self, other: OutputRecorder) -> float:
        """The output distance, half of the divergence from each kind of records."""
        squares = output_distance(self.test, other.test) ** 2, output_distance(self.forgotten, other.forgotten) ** 2
        return math.sqrt(sum(squares) / 2.0)


class Yardstick:
    """Measures the models of one cell.

    Args:
        model: architecture.
        test: held out from everybody.
        retained, forgotten: training records; the forgotten ones with the trigger that they carried in training.
        forgotten_classes: true classes of the forgotten records, shape (m,).
        trigger: that they carry; None without.
        original: the model before forgetting; half its loss on the forgotten records is what relearning has to reach.
        relearn_rate: learning rate of relearning.
        seed: of the choices of records.
    """

    def __init__(
        self,
        model: FlatModel,
        *,
        test: Records,
        retained: Records,
        forgotten: Records,
        forgotten_classes: NDArray[np.int64],
        trigger: Trigger | None,
        original: Vector,
        relearn_rate: float,
        seed: int,
    ) -> None:
        generator = np.random.default_rng(seed)
        self._model, self._test, self._retained, self._forgotten = model, test, retained, forgotten
        self._trigger, self._rate = trigger, relearn_rate
        held_out = test.subset(matched(test.labels.numpy(), forgotten_classes, generator))
        self._held_out = held_out if trigger is None else trigger.poison(held_out)
        self._relearnt = _some(forgotten, _MOST_RELEARNT, generator)
        self._outputs = _some(test, _MOST_OUTPUTS, generator), _some(forgotten, _MOST_OUTPUTS, generator)
        self._target = mean_loss(model, original, self._relearnt) / 2.0

    def figures(self, vector: Vector) -> dict[str, float | None]:
        """Every figure of :data:`~comparison.figures.FIGURES` that is of one model alone."""
        audit = membership_audit(self._loaded(vector), members=self._forgotten, non_members=self._held_out)
        trigger = self._trigger
        return {
            "test_accuracy": accuracy(self._model, vector, self._test),
            "retain_accuracy": accuracy(self._model, vector, self._retained),
            "forget_accuracy": accuracy(self._model, vector, self._forgotten),
            "forget_loss": max(1e-6, mean_loss(self._model, vector, self._forgotten)),
            "backdoor_success": None if trigger is None else trigger.success_rate(self._model, vector, self._test),
            "membership_auc": audit.auc.value,
            "relearn_steps": float(
                max(1, steps_to(self._model, vector, self._relearnt, loss=self._target, rate=self._rate))
            ),
        }

    def outputs(self, vector: Vector) -> OutputRecorder:
        """What the model says of test and of forgotten records."""
        test, forgotten = (_probabilities(logits(self._model, vector, records)) for records in self._outputs)
        return OutputRecorder(test=test, forgotten=forgotten)

    def _loaded(self, vector: Vector) -> torch.nn.Module:
        self._model.load(vector)
        return self._model.module


def _probabilities(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = torch.softmax(torch.from_numpy(scores), dim=1).numpy()
    return found


def _some(records: Records, most: int, generator: np.random.Generator) -> Records:
    return records if len(records) <= most else records.subset(np.sort(generator.permutation(len(records))[:most]))
