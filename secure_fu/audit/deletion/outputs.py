"""What the models of all runs say of the target records and of the test records: all that attacks on outputs need."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from secure_fu.audit.attacks.signals import confidence, log_probability
from secure_fu.audit.deletion.likelihood import Parted
from secure_fu.audit.deletion.runs import DeletionRuns, Part

__all__ = ["Outputs", "outputs_of", "parted"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Outputs:
    """Outputs of one model a run.

    Attributes:
        confidence: phi of each target record, float64 (R, t).
        losses: cross entropy of each target record, float64 (R, t).
        correct: whether the target record's class is the first guess, bool (R, t).
        posteriors: class probabilities of each target record, float64 (R, t, classes).
        test_accuracy: share of test records whose class is the first guess, float64 (R,).
    """

    confidence: NDArray[np.float64]
    losses: NDArray[np.float64]
    correct: NDArray[np.bool_]
    posteriors: NDArray[np.float64]
    test_accuracy: NDArray[np.float64]


def outputs_of(runs: DeletionRuns, vectors: NDArray[np.float32]) -> Outputs:
    """Evaluate one model a run, shape (R, d), in evaluation mode."""
    logits = runs.target_logits(vectors)
    labels = runs.targets.labels.numpy()
    phi = confidence(logits, labels)
    guesses = runs.test_logits(vectors).argmax(axis=2)
    return Outputs(
        confidence=phi,
        losses=-log_probability(phi),
        correct=logits.argmax(axis=2) == labels,
        posteriors=special.softmax(logits, axis=2),
        test_accuracy=(guesses == runs.test.labels.numpy()).mean(axis=1),
    )


def parted(runs: DeletionRuns, inside: Part, outside: Part) -> Parted:
    """Two parts of the runs as an attack takes them."""
    return Parted(inside=runs.parts == inside, outside=runs.parts == outside, units=runs.units)
