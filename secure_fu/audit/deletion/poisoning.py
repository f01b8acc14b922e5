"""The Gaussian poisoning score: does noise that was added to the forgotten records still show in the model?

Pawelczyk et al. 2024 (arXiv 2406.17216). Training on x + noise lowers the loss at x + noise, so at the clean x the
loss falls in the direction of the noise. A model that never saw the record has no reason to: there the noise and the
gradient with respect to the input are independent, and their normalised product is standard normal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from secure_fu.audit.deletion.areas import unit_means
from secure_fu.audit.deletion.figures import Comparison, compared
from secure_fu.audit.deletion.precise import fixed_tensors, trained_tensors
from secure_fu.audit.deletion.runs import DeletionRuns, Part
from secure_fu.errors import ArgumentError
from secure_fu.learning import FlatModel, Records, cross_entropy

__all__ = ["Poisoned", "poison_products", "poisoned", "poisoning_score"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Poisoned:
    """Records with noise on their features.

    Attributes:
        clean: the records as they were.
        records: the same with the noise added; these are the targets of the runs.
        noise: float32, of the features' shape.
    """

    clean: Records
    records: Records
    noise: NDArray[np.float32]


def poisoned(records: Records, *, deviation: float, seed: int) -> Poisoned:
    """Add Gaussian noise of this standard deviation to every feature of every record.

    Raises:
        ArgumentError: the deviation is not above 0.
    """
    if not deviation > 0.0:
        raise ArgumentError("deviation", deviation, "a number above 0")
    clean = records.features.numpy()
    noise = (np.random.default_rng(seed).normal(size=clean.shape) * deviation).astype(np.float32)
    return Poisoned(
        clean=records,
        records=Records.from_arrays(clean + noise, records.labels, records.groups),  # type: ignore[arg-type]
        noise=noise,
    )


def poison_products(model: FlatModel, vectors: NDArray[np.float32], poison: Poisoned) -> NDArray[np.float64]:
    """Minus the product of each record's noise and its input gradient, over both norms times sqrt(width): (R, t).

    Standard normal, approximately, for a model that is independent of the noise; above 0 for one that learned it. 0
    where the gradient is 0.
    """
    noise = poison.noise.reshape(len(poison.noise), -1).astype(np.float64)
    noise = noise / np.linalg.norm(noise, axis=1, keepdims=True) * np.sqrt(noise.shape[1])
    fixed = fixed_tensors(model)
    rows = []
    for vector in vectors.astype(np.float64):
        tensors = {**fixed, **trained_tensors(model, vector)}
        features = poison.clean.features.to(torch.float64).requires_grad_()
        loss = cross_entropy(model.logits(tensors, features), poison.clean.labels).sum()
        gradient = torch.autograd.grad(loss, features)[0].reshape(len(noise), -1).numpy()
        norms = np.linalg.norm(gradient, axis=1)
        rows.append(-(noise * gradient).sum(axis=1) / np.where(norms > 0.0, norms, 1.0))
    return np.stack(rows)


def poisoning_score(runs: DeletionRuns, method: str, poison: Poisoned, *, level: float = 0.95) -> Comparison:
    """Mean product over the forgotten units of each run, for a method against retraining, paired by run.

    Args:
        runs: whose targets are the poisoned records.
        method: one of ``runs.after``.
        poison: the targets with their noise.
        level: of the intervals.

    Returns:
        Its gap is 0 where the method forgot as retraining does, above 0 where the poison still works.

    Raises:
        ArgumentError: the runs' targets are not the poisoned records, or there is no such method.
    """
    if not torch.equal(runs.targets.features, poison.records.features):
        raise ArgumentError("poison", "of other records", "the targets of the runs")
    if method not in runs.after:
        raise ArgumentError("method", method, f"one of {', '.join(runs.after)}")
    forgotten = runs.parts == Part.FORGOTTEN
    means = []
    for vectors in (runs.after[method], runs.retrained):
        products = unit_means(poison_products(runs.model, vectors, poison), runs.units)
        means.append(np.where(forgotten, products, 0.0).sum(axis=1) / runs.forgotten)
    return compared("poisoning score", means[0], means[1], margin=None, level=level, shares=False)
