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
from secure_fu.learning._linear import LARGEST_NORM, row_norms
from secure_fu.learning.flat import FlatModel
from secure_fu.learning.losses import Loss, checked_losses, cross_entropy
from secure_fu.learning.records import Records

__all__ = ["LocalTraining", "client_update", "clipped_change", "stacked_client_updates"]

_CHUNK_BYTES: Final = 2**24  # small enough for the cache; with 2**28 a stack took up to twice the time
_LEAST_NORM: Final = 1e-140
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
    return clipped_change(change, clip_norm=clip_norm)


def clipped_change(change: NDArray[np.float64], *, clip_norm: float) -> NDArray[np.float64]:
    """One client's change of the model, scaled to an L2 norm of at most ``clip_norm``.

    Guarantee, and what becomes of changes that are not finite: as of :func:`client_update`, whose last step this is. An
    audit's canary clients clip their made-up changes by it.

    Args:
        change: float64, shape (d,); left as it is.
        clip_norm: C > 0.

    Returns:
        float64, shape (d,).

    Raises:
        ArgumentError: an argument does not fit.
    """
    _check_clip_norm(clip_norm)
    if change.ndim != 1 or change.dtype != np.float64:
        raise ArgumentError("change", f"{change.dtype} of shape {change.shape}", "float64 of shape (d,)")
    rows = torch.tensor(change)[None]
    factors, finite = _clip_factors(rows, clip_norm)
    if not finite:
        _warn()
    clipped: NDArray[np.float64] = (rows[0] * factors).numpy()
    return clipped


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
    by size, in chunks of about 16 MiB, without what the module keeps for its backward pass.

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
    updates = torch.empty((len(records), model.dimension), dtype=torch.float64)
    if not records:
        return np.asarray(updates.numpy())
    order = np.argsort([-len(own) for own in records], kind="stable")
    first, all_finite = 0, True
    try:
        while first < len(order):
            longest = records[order[first]]
            each = 4 * (3 * model.dimension + 2 * len(longest) * longest.width)
            chosen = order[first : first + max(1, _CHUNK_BYTES // each)]
            own, own_seeds = [records[client] for client in chosen], [seeds[client] for client in chosen]
            changes = _train_stack(model, tensors, own, training, own_seeds, loss)
            factors, finite = _clip_factors(changes, clip_norm)
            for row, client in enumerate(chosen):
                torch.mul(changes[row], factors[row], out=updates[client])
            all_finite &= finite
            first += len(chosen)
    except RuntimeError as error:
        expected = f"a module that torch.vmap can stack: {error}"
        raise ArgumentError("model", type(model.module).__name__, expected) from error
    if not all_finite:
        _warn()
    return np.asarray(updates.numpy())


def _train_stack(
    model: FlatModel,
    tensors: dict[str, Tensor],
    records: Sequence[Records],
    training: LocalTraining,
    seeds: Sequence[int],
    loss: Loss,
) -> Tensor:
    """Unclipped changes of these clients, float64 (clients, d)."""

    def forward(parameters: dict[str, Tensor], batch: Tensor) -> Tensor:
        return model.logits(parameters, batch, training=True)

    stacked_forward = torch.vmap(forward, randomness="different")
    names = list(tensors)
    clients = len(records)
    features = torch.cat([own.features for own in records]).to(tensors[names[0]].dtype)
    labels = torch.cat([own.labels for own in records])
    index, sizes = _stacked_batches(records, training, seeds)
    current = {name: tensor.expand(clients, *tensor.shape).clone() for name, tensor in tensors.items()}
    for step in range(index.shape[1]):
        width = int(sizes[:, step].max())
        chosen = index[:, step, :width].flatten()
        present = torch.arange(width) < sizes[:, step, None]
        leaves = {name: tensor.requires_grad_() for name, tensor in current.items()}
        batch = features.index_select(0, chosen).view(clients, width, *features.shape[1:])
        logits = stacked_forward(leaves, batch).flatten(0, 1)
        losses = checked_losses(loss, logits, labels.index_select(0, chosen)).view(clients, width)
        # where, not a product: the padding's loss can be infinite.
        means = torch.where(present, losses, 0.0).sum(dim=1) / sizes[:, step].clamp(min=1)
        gradients = torch.autograd.grad(
            means.sum(), [leaves[name] for name in names], materialize_grads=True, allow_unused=True
        )
        # A client without a batch in this step stays put: its gradient is 0, or NaN where its parameters are huge.
        idle = sizes[:, step] == 0
        if bool(idle.any()):
            for gradient in gradients:
                gradient[idle] = 0.0
        current = {
            name: _stepped(leaves[name].detach(), gradient, training.learning_rate)
            for name, gradient in zip(names, gradients, strict=True)
        }
    changes = torch.empty((clients, model.dimension), dtype=torch.float64)
    start = {name: tensor.double() for name, tensor in tensors.items()}
    for layer in model.layers:
        part = changes[:, layer.slice].view(clients, *layer.shape)
        part.copy_(current[layer.name]).sub_(start[layer.name])
    return changes


def _stepped(parameter: Tensor, gradient: Tensor, rate: float) -> Tensor:
    """One step down the gradient. Writes to both."""
    if rate <= torch.finfo(parameter.dtype).max:
        return parameter.sub_(gradient, alpha=rate)
    return parameter.sub_(gradient.mul_(rate))  # torch refuses such a factor as alpha


def _stacked_batches(
    records: Sequence[Records], training: LocalTraining, seeds: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Rows of the concatenated records in each step, (clients, steps, width), and how many count, (clients, steps).

    Padded with the first record of the client's own batch: what is not in the batch must not reach its gradient, not
    even as 0 * inf.
    """
    plans = [_batches(len(own), training, seed) for own, seed in zip(records, seeds, strict=True)]
    steps, width = max(len(plan) for plan in plans), max(len(plan[0]) for plan in plans)
    index = np.empty((len(plans), steps, width), dtype=np.int64)
    sizes = np.zeros((len(plans), steps), dtype=np.int64)
    offset = 0
    for client, plan in enumerate(plans):
        for step, batch in enumerate(plan):
            index[client, step, : len(batch)] = batch
            index[client, step, len(batch) :] = batch[0]
            sizes[client, step] = len(batch)
        index[client, len(plan) :] = 0
        index[client] += offset
        offset += len(records[client])
    return torch.from_numpy(index), torch.from_numpy(sizes)


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


def _clip_factors(changes: Tensor, clip_norm: float) -> tuple[Tensor, bool]:
    """What brings each row (n, d) to L2 at most ``clip_norm``, (n,). Writes zeros to rows of no norm up to 1e200.

    Returns:
        The factors, and whether all rows had such a norm.
    """
    norms = row_norms(changes)
    finite = norms <= LARGEST_NORM  # with clip norms from 1e-100, factors stay normal numbers
    all_finite = bool(finite.all())
    if not all_finite:
        changes[~finite] = 0.0
        norms[~finite] = 0.0
    # Twice the relative error of the norm is taken off, so that rounding cannot carry a row over the bound.
    bound = clip_norm * (1.0 - (changes.shape[1] + 64) * 2.0**-52)
    return (bound / norms.clamp(min=_LEAST_NORM)).clamp(max=1.0), all_finite


def _warn() -> None:
    _LOGGER.warning("some updates are not finite and count as zero")
