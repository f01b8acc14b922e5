"""Gradients of many models of any module at once: ``torch.func`` over single records and over models."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from secure_fu.errors import ArgumentError
from secure_fu.learning._stacked_batches import StackedBatch
from secure_fu.learning.flat import FlatModel
from secure_fu.learning.records import Records

__all__ = ["StackedModules"]

_SLACK: Final = 1e-6  # under the clip norm: what float32 may round
_LEAST: Final = 1e-30


class StackedModules:
    """Gradient sums and logits of stacked models of any module that ``torch.vmap`` can follow.

    In training every record goes through the module alone, so that no module can mix the records of a batch.

    Raises:
        ArgumentError: the module does not take the records.
    """

    def __init__(self, model: FlatModel, records: Records) -> None:
        self._model = FlatModel(model.module)
        self._model.module.float()
        self._features, self._labels = records.features, records.labels
        with self._explained(), torch.no_grad():
            tensors = self._model.tensors(self._model.vector())
            self.classes = self._model.logits(tensors, self._features[:1]).shape[1]

    def model_bytes(self, batch: float, *, clipped: bool) -> float:
        """Bytes that one model takes while a step with so many records is in work, roughly."""
        # What the layers keep for the backward pass is not known; some four times their inputs is a guess.
        activations = 4 * self._features.shape[1:].numel() + (self._model.dimension if clipped else 0)
        return 4.0 * (3 * self._model.dimension + batch * activations)

    @contextmanager
    def seeded(self, seeds: Sequence[int]) -> Iterator[None]:
        """Inside, dropout's masks come from these seeds; torch's generator is afterwards as it was before."""
        digest = hashlib.sha256(repr([int(seed) for seed in seeds]).encode()).digest()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int.from_bytes(digest[:7], "big"))
            yield

    def gradient_sums(self, weights: Tensor, batch: StackedBatch, *, clip_norm: float | None) -> list[Tensor]:
        """As :meth:`StackedLinear.gradient_sums`."""
        features, labels = self._features[batch.index], self._labels[batch.index]
        with self._explained():
            if clip_norm is None:
                sums = self._plain(weights, features, labels, batch.present)
            else:
                sums = self._clipped(weights, features, labels, batch.present, clip_norm)
        return [sums[:, layer.slice] for layer in self._model.layers]

    def logits(self, weights: Tensor, rows: slice) -> Tensor:
        """As :meth:`StackedLinear.logits`. Model by model, for modules that ``torch.vmap`` cannot follow."""
        with self._explained():
            return torch.stack([self._model.logits(self._named(vector), self._features[rows]) for vector in weights])

    def _plain(self, weights: Tensor, features: Tensor, labels: Tensor, present: Tensor) -> Tensor:
        def loss(vector: Tensor, rows: Tensor, classes: Tensor, kept: Tensor) -> Tensor:
            logits = torch.vmap(self._one, in_dims=(None, 0), randomness="different")(vector, rows)
            return torch.where(kept, functional.cross_entropy(logits, classes, reduction="none"), 0.0).sum()

        gradient = torch.vmap(torch.func.grad(loss), randomness="different")
        sums: Tensor = gradient(weights, features, labels, present)
        return sums

    def _clipped(self, weights: Tensor, features: Tensor, labels: Tensor, present: Tensor, clip_norm: float) -> Tensor:
        def loss(vector: Tensor, record: Tensor, label: Tensor) -> Tensor:
            return functional.cross_entropy(self._one(vector, record), label)

        rows = torch.vmap(torch.func.grad(loss), in_dims=(None, 0, 0), randomness="different")
        gradients: Tensor = torch.vmap(rows, randomness="different")(weights, features, labels)
        norms = torch.linalg.vector_norm(gradients, dim=2)
        # where, not a product: 0 * inf is NaN.
        kept = present & torch.isfinite(norms)
        if not bool(kept.all()):
            gradients = torch.where(kept[..., None], gradients, 0.0)
            norms = torch.where(kept, norms, 0.0)
        factors = (clip_norm * (1.0 - _SLACK) / norms.clamp_(min=_LEAST)).clamp_(max=1.0)
        return torch.bmm(factors[:, None], gradients)[:, 0]

    def _one(self, vector: Tensor, record: Tensor) -> Tensor:
        """Logits of one record in training mode: (d,) and (...) -> (classes,)."""
        return self._model.logits(self._named(vector), record[None], training=True)[0]

    def _named(self, vector: Tensor) -> dict[str, Tensor]:
        return {layer.name: vector[layer.slice].view(layer.shape) for layer in self._model.layers}

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, IndexError) as error:  # torch's own: it names shapes, dtypes and operations
            expected = f"a module that takes float32 features of shape {('n', *self._features.shape[1:])}, and that "
            name = type(self._model.module).__name__
            raise ArgumentError("model", name, f"{expected}torch.vmap can follow: {error}") from error
