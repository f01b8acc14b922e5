"""Many models of one architecture trained side by side, each on its own members: for audits and their shadow models.

The law of training is the federation's under the record unit (Abadi et al. 2016, arXiv 1607.00133, algorithm 1): in
each step a Poisson sample of the members, the sum of their clipped gradients, Gaussian noise on the sum, a public
divisor, and the server's step with momentum. Without clipping it is plain stochastic gradient descent on Poisson
batches. All of it is float32, and the noise comes from a seed: it hides nobody. What is trained here is the auditor's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secure_fu.errors import ArgumentError, DataError, NonFiniteError
from secure_fu.learning._stacked_batches import stacked_batches, stream
from secure_fu.learning._stacked_linear import StackedLinear
from secure_fu.learning._stacked_modules import StackedModules
from secure_fu.learning.flat import FlatModel
from secure_fu.learning.records import Records
from secure_fu.learning.threads import one_thread

__all__ = ["StackedTraining", "stacked_logits", "train_stacked"]

_CHUNK_BYTES: Final = 2**22  # that models are trained on together; more does not stay in a core's own cache
_BATCH: Final = 2048  # records at a time where only logits are asked for
_COINS, _NOISE = 0, 1  # streams of one seed


@dataclass(frozen=True, kw_only=True)
class StackedTraining:
    """How each of the models is trained; public.

    Attributes:
        steps: of the whole training, >= 0.
        sampling_rate: probability with which a member is in a step's batch, in (0, 1].
        learning_rate: of the step.
        divisor: public constant that the sum of gradients is divided by: the sampling rate times the nominal number of
            members. It is the same for all models and steps, however many records are in a batch.
        momentum: of the step, in [0, 1).
        weight_decay: lambda of the L2 term lambda / 2 |w|^2, which the step adds; 0 for none.
        clip_norm: L2 bound on one record's gradient; None for no clipping.
        noise: standard deviation of the Gaussian noise on each coordinate of the sum; 0 for none.

    Raises:
        ArgumentError: an attribute is out of its domain.
    """

    steps: int
    sampling_rate: float
    learning_rate: float
    divisor: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float | None = None
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ArgumentError("steps", self.steps, "at least 0")
        if not 0.0 < self.sampling_rate <= 1.0:
            raise ArgumentError("sampling_rate", self.sampling_rate, "a number in (0, 1]")
        # Within these every constant of a step, and products of them, are normal float32 numbers.
        for name in ("learning_rate", "divisor", "clip_norm"):
            value = getattr(self, name)
            if not (value is None and name == "clip_norm") and not 1e-15 <= value <= 1e15:
                raise ArgumentError(name, value, "a number in [1e-15, 1e15]")
        if not 0.0 <= self.momentum < 1.0:
            raise ArgumentError("momentum", self.momentum, "a number in [0, 1)")
        for name in ("weight_decay", "noise"):
            if not 0.0 <= getattr(self, name) <= 1e15:
                raise ArgumentError(name, getattr(self, name), "a number in [0, 1e15]")


def train_stacked(
    model: FlatModel,
    records: Records,
    members: NDArray[np.bool_],
    *,
    training: StackedTraining,
    start: NDArray[np.floating[Any]],
    seeds: Sequence[int],
    joined: NDArray[np.integer[Any]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Train S models under cross entropy, each from its start, with its velocity at zero.

    A model is a function of its start, its seed, the settings and its own members. Of the other records only their
    number enters, and the other models of the stack move its last bits at most. A seed's coins fall on all n records,
    members or not: of two trainings with one seed, what both have as members is sampled alike. Dropout is active.
    Torch runs on one thread meanwhile; for more cores, train parts of the models in processes.

    Modules that are `Flatten`, `Linear`, `ReLU` and `Tanh` in a row are trained by batched matrix products. All others
    go through ``torch.vmap``, record by record, which takes some ten times as long.

    Edge cases:
        ==========================================  ==========================================================
        a model without members, an empty batch     a step with a sum of zero (and noise)
        a gradient that is NaN or infinite, or so   counts as zero where there is a clip norm, as in
        long, from 1e19 on, that float32 overflows  :class:`PerRecordGradients`; else the model diverges
        a label that the model has no logit for     ``ArgumentError``
        ==========================================  ==========================================================

    Args:
        model: the architecture. Its parameters are not used.
        records: the pool, n of them.
        members: shape (S, n), true where a model trains on a record.
        start: (d,) for all models, or (S, d).
        seeds: one a model, >= 0, of any size.
        joined: how many steps are over before a record takes part, shape (n,); None for 0 throughout.
        progress: told (models done, S) now and then.

    Returns:
        float32, shape (S, d).

    Raises:
        ArgumentError: an argument does not fit, or ``torch.vmap`` cannot follow the module.
        DataError: there are no records.
        NonFiniteError: a model diverged.
    """
    count, size = len(seeds), len(records)
    if members.dtype != np.bool_ or members.shape != (count, size):
        raise ArgumentError("members", f"{members.dtype} of shape {members.shape}", f"bools of shape {(count, size)}")
    if joined is not None and (joined.dtype.kind not in "iu" or joined.shape != (size,) or (joined < 0).any()):
        raise ArgumentError("joined", f"{joined.dtype} of shape {joined.shape}", f"steps >= 0, of shape ({size},)")
    if any(seed < 0 for seed in seeds):
        raise ArgumentError("seeds", min(seeds), "integers >= 0")
    vectors = _checked_vectors(model, "start", start, count)
    if size == 0:
        raise DataError("there are no records to train on; expected at least one")
    rule = _rule(model, records)
    if int(records.labels.max()) >= rule.classes:
        raise ArgumentError("records", "with labels out of range", f"labels below the model's {rule.classes} logits")
    if count == 0 or training.steps == 0:
        return vectors
    batch = training.sampling_rate * float(members.sum(axis=1).max())
    each = rule.model_bytes(batch, clipped=training.clip_norm is not None)
    for chunk in _chunks(count, each):
        weights = torch.from_numpy(vectors[chunk])
        with one_thread(), torch.no_grad(), rule.seeded(seeds[chunk]):
            _train(rule, model, members[chunk], weights, training, seeds[chunk], joined)
        diverged = int((~np.isfinite(vectors[chunk]).all(axis=1)).sum())
        if diverged:
            raise NonFiniteError(
                f"{diverged} of {len(seeds[chunk])} models left the finite numbers: training diverged; expected a "
                f"learning rate below {training.learning_rate!r}"
            )
        if progress is not None:
            progress(chunk.stop, count)
    return vectors


def stacked_logits(model: FlatModel, vectors: NDArray[np.floating[Any]], records: Records) -> NDArray[np.float32]:
    """Logits of every record under every model, in evaluation mode.

    Args:
        model: the architecture.
        vectors: of S models, shape (S, d).

    Returns:
        float32, shape (S, n, classes).

    Raises:
        ArgumentError: the vectors or the records do not fit the model.
        DataError: there are no records.
    """
    if len(records) == 0:
        raise DataError("there are no records to evaluate on; expected at least one")
    if vectors.ndim != 2 or len(vectors) == 0:
        raise ArgumentError("vectors", f"of shape {vectors.shape}", f"shape (models, {model.dimension})")
    weights = torch.from_numpy(_checked_vectors(model, "vectors", vectors, len(vectors)))
    rule = _rule(model, records)
    result = np.empty((len(weights), len(records), rule.classes), dtype=np.float32)
    each = rule.model_bytes(min(_BATCH, len(records)), clipped=False)
    with one_thread(), torch.no_grad():
        for chunk in _chunks(len(weights), each):
            for low in range(0, len(records), _BATCH):
                rows = slice(low, low + _BATCH)
                result[chunk, rows] = rule.logits(weights[chunk], rows).numpy()
    return result


def _train(
    rule: StackedLinear | StackedModules,
    model: FlatModel,
    members: NDArray[np.bool_],
    weights: Tensor,
    training: StackedTraining,
    seeds: Sequence[int],
    joined: NDArray[np.integer[Any]] | None,
) -> None:
    """Train these models; writes to ``weights``, (s, d)."""
    velocity = torch.zeros_like(weights)
    sources = [stream(seed, _NOISE) for seed in seeds] if training.noise > 0.0 else []
    noise = np.empty((len(sources), model.dimension), dtype=np.float32)
    batches = stacked_batches(
        members,
        [stream(seed, _COINS) for seed in seeds],
        rate=training.sampling_rate,
        steps=training.steps,
        joined=joined,
    )
    for batch in batches:
        sums = rule.gradient_sums(weights, batch, clip_norm=training.clip_norm)
        velocity *= training.momentum
        for layer, part in zip(model.layers, sums, strict=True):
            if batch.idle is not None:
                part[batch.idle] = 0.0
            velocity[:, layer.slice].add_(part.flatten(1), alpha=1.0 / training.divisor)
        if sources:
            for row, generator in zip(noise, sources, strict=True):
                generator.standard_normal(dtype=np.float32, out=row)
            velocity.add_(torch.from_numpy(noise), alpha=training.noise / training.divisor)
        if training.weight_decay > 0.0:
            velocity.add_(weights, alpha=training.weight_decay)
        weights.sub_(velocity, alpha=training.learning_rate)


def _rule(model: FlatModel, records: Records) -> StackedLinear | StackedModules:
    """The fastest way to gradients that holds for this module."""
    return StackedLinear.of(model, records) or StackedModules(model, records)


def _chunks(count: int, each: float) -> Iterator[slice]:
    """Models to work on together, in runs of nearly equal length."""
    parts = min(count, int(count * each / _CHUNK_BYTES) + 1)
    for part in range(parts):
        yield slice(part * count // parts, (part + 1) * count // parts)


def _checked_vectors(
    model: FlatModel, name: str, vectors: NDArray[np.floating[Any]], count: int
) -> NDArray[np.float32]:
    """A copy of the vectors in float32, shape (count, d)."""
    shapes = ((model.dimension,), (count, model.dimension))
    if vectors.dtype.kind != "f" or vectors.shape not in shapes:
        raise ArgumentError(
            name, f"{vectors.dtype} of shape {vectors.shape}", f"floats of shape {shapes[0]} or {shapes[1]}"
        )
    copy = np.empty(shapes[1], dtype=np.float32)
    with np.errstate(over="ignore"):
        copy[:] = vectors
    if not np.isfinite(copy).all():
        raise ArgumentError(name, "not finite", "vectors without NaN or infinity in float32")
    return copy
