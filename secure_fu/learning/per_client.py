"""DP-FedAvg for the client unit: train locally, send the clipped change of the model.

McMahan et al. 2018 (arXiv 1710.06963), algorithm 1, without its noise and weights: every client's change counts the
same.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secure_fu.errors import ArgumentError, DataError
from secure_fu.learning.flat import FlatModel
from secure_fu.learning.losses import Loss, checked_losses, cross_entropy
from secure_fu.learning.records import Records

__all__ = ["LocalTraining", "client_update", "stacked_client_updates"]

_CHUNK_BYTES: Final = 2**28
_LEAST_NORM: Final = 1e-140
_LARGEST_NORM: Final = 1e200  # with clip norms from 1e-100, factors stay normal numbers
_LOGGER = logging.getLogger("secure_fu")


@dataclass(frozen=True, kw_only=True)
class LocalTraining:
    """Plain stochastic gradient descent at one client.

    Attributes:
        epochs: passes over the client's records, >= 1.
        learning_rate: > 0.
        batch_size: records a step, >= 1; None for all of them in one step. Each epoch shuffles anew, and its last
            step takes what is left.

    Raises:
        ArgumentError: an attribute is out of range.
    """

    epochs: int
    learning_rate: float
    batch_size: int | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ArgumentError("epochs", self.epochs, "at least 1")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0.0):
            raise ArgumentError("learning_rate", self.learning_rate, "a positive finite number")
        if self.batch_size is not None and self.batch_size < 1:
            raise ArgumentError("batch_size", self.batch_size, "at least 1, or None for all records at once")


def client_update(
    model: FlatModel,
    vector: NDArray[np.float64],
    records: Records,
    *,
    training: LocalTraining,
    clip_norm: float,
    seed: int,
    loss: Loss = cross_entropy,
) -> NDArray[np.float64]:
    """Train from ``vector`` on one client's records and return the clipped change.

    Guarantee:
        The result's L2 norm is at most ``clip_norm``, whatever the records, in float64 with its rounding included.
        That covers training that diverges: its change counts as zero, with a warning in the log of ``secure_fu``. An
        error in its place would show whether it diverged, and whoever chooses the model chooses what that tells.

    Args:
        vector: the model, float64 (d,).
        records: the client's; not empty.
        clip_norm: C > 0.
        seed: of the order of records, >= 0. It carries no privacy: the client unit is never amplified by sampling.
        loss: (logits, labels) -> (n,); a step descends its mean over the batch.

    Returns:
        clip(model after - vector), float64, shape (d,). A server that sums such changes adds them to the model.

    Raises:
        ArgumentError: an argument does not fit.
        DataError: there are no records.
    """
    _check_clip_norm(clip_norm)
    tensors = model.tensors(vector)
    names = list(tensors)
    start = {name: tensor.clone() for name, tensor in tensors.items()}
    current = {name: tensor.clone() for name, tensor in tensors.items()}
    features = records.features.to(current[names[0]].dtype)
    for batch in _batches(len(records), training, seed):
        index = torch.from_numpy(batch)
        leaves = {name: tensor.requires_grad_() for name, tensor in current.items()}
        value = checked_losses(loss, model.logits(leaves, features[index], training=True), records.labels[index]).mean()
        gradients = torch.autograd.grad(
            value, [leaves[name] for name in names], materialize_grads=True, allow_unused=True
        )
        current = {
            name: leaves[name].detach() - training.learning_rate * gradient
            for name, gradient in zip(names, gradients, strict=True)
        }
    change = model.flatten({name: current[name].to(torch.float64) - start[name].to(torch.float64) for name in names})
    clipped, finite = _clip_rows(change[None], clip_norm)
    if not finite:
        _warn()
    return np.asarray(clipped[0])


def stacked_client_updates(
    model: FlatModel,
    vector: NDArray[np.float64],
    records: Sequence[Records],
    *,
    training: LocalTraining,
    clip_norm: float,
    seeds: Sequence[int],
    loss: Loss = cross_entropy,
) -> NDArray[np.float64]:
    """:func:`client_update` for many clients at once, trained as one stacked model (``torch.vmap`` over parameters).

    For simulations: equal to the loop up to the rounding of the module's dtype, and much faster for small models.
    Clients with fewer records are padded, and a mask takes the padding out of every mean. Works through the clients
    in chunks of about 256 MiB.

    Args:
        records: one entry a client; none empty.
        seeds: one a client.
        vector, training, clip_norm, loss: as :func:`client_update`.

    Returns:
        float64, shape (clients, d). The row of a client whose training diverged is zero.

    Raises:
        ArgumentError: an argument does not fit, or the module cannot be stacked (then use :func:`client_update`).
        DataError: a client has no records.
    """
    _check_clip_norm(clip_norm)
    if len(seeds) != len(records):
        raise ArgumentError("seeds", f"of length {len(seeds)}", f"one a client: {len(records)}")
    tensors = model.tensors(vector)
    updates = np.empty((len(records), model.dimension), dtype=np.float64)
    longest = max((len(own) for own in records), default=1)
    each = 4 * (3 * model.dimension + 2 * longest * (records[0].width if records else 1))
    rows = max(1, _CHUNK_BYTES // each)
    all_finite = True
    for first in range(0, len(records), rows):
        chunk = slice(first, first + rows)
        try:
            changes = _train_stack(model, tensors, records[chunk], training, seeds[chunk], loss)
        except RuntimeError as error:
            raise ArgumentError(
                "model", type(model.module).__name__, f"a module that torch.vmap can stack: {error}"
            ) from error
        updates[chunk], finite = _clip_rows(changes, clip_norm)
        all_finite &= finite
    if not all_finite:
        _warn()
    return updates


def _train_stack(
    model: FlatModel,
    tensors: dict[str, Tensor],
    records: Sequence[Records],
    training: LocalTraining,
    seeds: Sequence[int],
    loss: Loss,
) -> NDArray[np.float64]:
    """Unclipped changes of these clients, float64 (clients, d)."""
    names = list(tensors)
    clients = len(records)
    plans = [list(_batches(len(own), training, seed)) for own, seed in zip(records, seeds, strict=True)]
    dtype = tensors[names[0]].dtype
    features, labels, offsets = _concatenated(records, dtype)

    def forward(parameters: dict[str, Tensor], batch: Tensor) -> Tensor:
        return model.logits(parameters, batch, training=True)

    stacked_forward = torch.vmap(forward, randomness="different")
    current = {name: tensor.expand(clients, *tensor.shape).clone() for name, tensor in tensors.items()}
    for step in range(max(len(plan) for plan in plans)):
        batches = [plan[step] if step < len(plan) else np.zeros(0, dtype=np.int64) for plan in plans]
        width = max(len(batch) for batch in batches)
        # Padded with the first record of the client's own batch: what is not in the batch must not reach its gradient,
        # not even as 0 * inf.
        index = np.repeat(np.asarray(offsets, dtype=np.int64)[:, None], width, axis=1)
        mask = np.zeros((clients, width), dtype=np.bool_)
        for client, batch in enumerate(batches):
            index[client] += batch[0] if len(batch) else 0
            index[client, : len(batch)] = batch + offsets[client]
            mask[client, : len(batch)] = True
        chosen, present = torch.from_numpy(index), torch.from_numpy(mask)
        leaves = {name: tensor.requires_grad_() for name, tensor in current.items()}
        logits = stacked_forward(leaves, features[chosen]).flatten(0, 1)
        losses = checked_losses(loss, logits, labels[chosen].flatten()).view(clients, width)
        # where, not a product: the padding's loss can be infinite.
        means = torch.where(present, losses, 0.0).sum(dim=1) / present.sum(dim=1).clamp(min=1)
        gradients = torch.autograd.grad(
            means.sum(), [leaves[name] for name in names], materialize_grads=True, allow_unused=True
        )
        # A client without a batch in this step stays put: its gradient is 0, or NaN where its parameters are huge.
        idle = torch.from_numpy(~mask[:, 0])
        for gradient in gradients:
            gradient[idle] = 0.0
        current = {
            name: leaves[name].detach().sub_(gradient.mul_(training.learning_rate))
            for name, gradient in zip(names, gradients, strict=True)
        }
    parts = [(current[name].double() - tensors[name].double()).reshape(clients, -1) for name in names]
    changes: NDArray[np.float64] = torch.cat(parts, dim=1).numpy()
    return changes


def _concatenated(records: Sequence[Records], dtype: torch.dtype) -> tuple[Tensor, Tensor, NDArray[np.int64]]:
    sizes = [len(own) for own in records]
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    features = torch.cat([own.features for own in records]).to(dtype)
    return features, torch.cat([own.labels for own in records]), offsets


def _batches(count: int, training: LocalTraining, seed: int) -> list[NDArray[np.int64]]:
    """The records of each step, in the order of training."""
    if count == 0:
        raise DataError("a client has no records to train on; expected at least one")
    if seed < 0:
        raise ArgumentError("seed", seed, "an integer >= 0")
    if training.batch_size is None or training.batch_size >= count:
        return [np.arange(count, dtype=np.int64)] * training.epochs
    generator = np.random.default_rng(seed)
    batches: list[NDArray[np.int64]] = []
    for _ in range(training.epochs):
        order = generator.permutation(count)
        batches.extend(order[low : low + training.batch_size] for low in range(0, count, training.batch_size))
    return batches


def _check_clip_norm(clip_norm: float) -> None:
    if not 1e-100 <= clip_norm <= 1e100:
        raise ArgumentError("clip_norm", clip_norm, "a number in [1e-100, 1e100]")


def _clip_rows(changes: NDArray[np.float64], clip_norm: float) -> tuple[NDArray[np.float64], bool]:
    """Rows scaled to L2 at most ``clip_norm``, those of no norm up to 1e200 to zero; and whether there were none."""
    with np.errstate(invalid="ignore", over="ignore"):
        largest = np.abs(changes).max(axis=1, keepdims=True)
        unit = changes / np.where(largest > 0.0, largest, 1.0)
        norms = largest * np.sqrt(np.einsum("ij,ij->i", unit, unit))[:, None]
        # Twice the relative error of the norm is taken off, so that rounding cannot carry a row over the bound.
        bound = clip_norm * (1.0 - (changes.shape[1] + 64) * 2.0**-52)
        clipped = changes * np.minimum(1.0, bound / np.maximum(norms, _LEAST_NORM))
    finite = norms <= _LARGEST_NORM
    return np.where(finite, clipped, 0.0), bool(finite.all())


def _warn() -> None:
    _LOGGER.warning("some updates are not finite and count as zero")
