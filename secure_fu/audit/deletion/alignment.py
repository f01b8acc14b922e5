"""The white-box feature of a deletion: how much the change of parameters raises a unit's loss, to first order."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secure_fu.audit.deletion.runs import DeletionRuns
from secure_fu.learning import cross_entropy

__all__ = ["alignments"]


def alignments(runs: DeletionRuns, after: NDArray[np.float32]) -> NDArray[np.float64]:
    """Dot product of (after - before) with each target record's gradient at ``before``: float64, (R, t).

    Two backward passes give it for all records of a run: the first is linear in weights u of the losses, and its
    product with the change has the alignments as its gradient with respect to u.

    Args:
        after: one model a run, (R, d).
    """
    model, records = runs.model, runs.targets
    rows = []
    for before, vector in zip(runs.before.astype(np.float64), after.astype(np.float64), strict=True):
        at = {name: tensor.detach().clone().requires_grad_() for name, tensor in model.tensors(before).items()}
        along = model.tensors(vector - before)
        features = records.features.to(next(iter(at.values())).dtype)
        losses = cross_entropy(model.logits(at, features), records.labels)
        weights = torch.zeros_like(losses, requires_grad=True)
        gradients = torch.autograd.grad(losses, list(at.values()), grad_outputs=weights, create_graph=True)
        parts = [(gradient * along[name]).sum() for name, gradient in zip(at, gradients, strict=True)]
        product: Tensor = torch.stack(parts).sum()
        rows.append(torch.autograd.grad(product, weights)[0].to(torch.float64).numpy())
    return np.stack(rows)
