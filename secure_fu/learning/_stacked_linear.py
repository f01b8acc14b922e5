"""Gradients of many multi-layer perceptrons at once, written out: batched matrix products in float32.

A record's gradient in a layer is the outer product of the slope at its output and of its input (and 1), so that the
norms that clipping needs are products of norms, and no single gradient is formed (Goodfellow 2015, arXiv 1510.01799).
Records lie along the last axis: sums over a layer's units then run over long rows, which is what makes them fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor, nn

from secure_fu.learning._stacked_batches import StackedBatch
from secure_fu.learning.flat import FlatModel, Layer
from secure_fu.learning.records import Records

__all__ = ["StackedLinear"]

_ACTIVATIONS: Final = (nn.ReLU, nn.Tanh)
_SLACK: Final = 1e-6  # under the clip norm: what float32 may round
_LEAST: Final = 1e-30
_MINUS_ONE: Final = torch.tensor(-1.0)


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A linear layer, where its parameters lie, and the type of the activation that follows it."""

    weight: Layer
    bias: Layer | None
    after: type[nn.Module] | None = None


class StackedLinear:
    """Gradient sums and logits of stacked models that are ``Flatten``, ``Linear``, ``ReLU`` and ``Tanh`` in a row."""

    def __init__(self, model: FlatModel, records: Records, parts: list[_Part]) -> None:
        self._dimension, self._parts = model.dimension, parts
        self.classes = parts[-1].weight.shape[0]
        self._features, self._labels = records.features.flatten(1), records.labels
        self._squares = self._features.square().sum(dim=1)

    @classmethod
    def of(cls, model: FlatModel, records: Records) -> StackedLinear | None:
        """For these records; None where the module is anything else, or does not take them."""
        parts = _parts(model, records)
        return None if parts is None else cls(model, records, parts)

    def model_bytes(self, batch: float, *, clipped: bool) -> float:
        """Bytes that one model takes while a step with so many records is in work, roughly."""
        width = self._parts[0].weight.shape[1] + 2 * sum(part.weight.shape[0] for part in self._parts)
        return 4.0 * (3 * self._dimension + batch * width)

    def seeded(self, seeds: Sequence[int]) -> nullcontext[None]:
        """Nothing here is random."""
        return nullcontext()

    def gradient_sums(self, weights: Tensor, batch: StackedBatch, *, clip_norm: float | None) -> list[Tensor]:
        """The sums over each model's batch of its records' (clipped) gradients.

        Args:
            weights: float32 (s, d).
            batch: of the s models.
            clip_norm: the L2 bound on each record's gradient, or None. A gradient that is not finite, or longer than
                1e19, is then left out.

        Returns:
            For each parameter tensor, in flat order, float32 (s, its shape).
        """
        chosen, (models, width) = batch.index.flatten(), batch.index.shape
        rows = self._features.index_select(0, chosen).view(models, width, -1)
        labels = self._labels.index_select(0, chosen).view(models, 1, width)
        inputs, output = self._forward(weights, rows.transpose(1, 2))
        slope = torch.softmax(output, dim=1)
        slope.scatter_add_(1, labels, _MINUS_ONE.expand(labels.shape))
        slope = torch.where(batch.present[:, None], slope, 0.0)
        slopes = [slope]
        for part, before, a in zip(self._parts[:0:-1], self._parts[-2::-1], inputs[:0:-1], strict=True):
            slope = _through(torch.bmm(self._weight(weights, part).transpose(1, 2), slope), a, before.after)
            slopes.append(slope)
        slopes.reverse()
        if clip_norm is not None:
            self._clip(self._squares.index_select(0, chosen).view(models, width), inputs, slopes, clip_norm)
        sums = []
        for part, a, slope in zip(self._parts, inputs, slopes, strict=True):
            sums.append(torch.bmm(slope, a.transpose(1, 2)))
            if part.bias is not None:
                sums.append(slope.sum(dim=2))
        return sums

    def logits(self, weights: Tensor, rows: slice) -> Tensor:
        """Of these records under models (s, d): (s, n, classes)."""
        features = self._features[rows].T.expand(len(weights), -1, -1)
        return self._forward(weights, features)[1].transpose(1, 2)

    def _weight(self, weights: Tensor, part: _Part) -> Tensor:
        return weights[:, part.weight.slice].view(-1, *part.weight.shape)

    def _forward(self, weights: Tensor, features: Tensor) -> tuple[list[Tensor], Tensor]:
        """The input of each layer, (s, units, b), and the last output."""
        inputs, current = [], features
        for part in self._parts:
            inputs.append(current)
            current = torch.bmm(self._weight(weights, part), current)
            if part.bias is not None:
                current += weights[:, part.bias.slice, None]
            if part.after is nn.ReLU:
                current.relu_()
            elif part.after is nn.Tanh:
                current.tanh_()
        return inputs, current

    def _clip(self, squares: Tensor, inputs: list[Tensor], slopes: list[Tensor], clip_norm: float) -> None:
        """Scale the slopes of each record so that its gradient's norm is at most ``clip_norm``. In place.

        Args:
            squares: squared norms of the records' features, (s, b).
        """
        total = torch.zeros_like(squares)
        for index, (part, slope) in enumerate(zip(self._parts, slopes, strict=True)):
            width = squares if index == 0 else inputs[index].square().sum(dim=1)
            total += (width + (part.bias is not None)) * slope.square().sum(dim=1)
        lost = ~torch.isfinite(total)
        factors = (clip_norm * (1.0 - _SLACK) / total.sqrt_().clamp_(min=_LEAST)).clamp_(max=1.0)
        for slope in slopes:
            slope *= factors[:, None]
        if bool(lost.any()):
            # In both factors of the product, for 0 * inf is NaN.
            for factor in (*slopes, *inputs[1:]):
                factor.masked_fill_(lost[:, None], 0.0)


def _through(slope: Tensor, output: Tensor, after: type[nn.Module] | None) -> Tensor:
    """From the slope at an activation's output to that at its input."""
    # Not through comparisons and products, which are many times as slow.
    through = slope
    if after is nn.ReLU:
        through = torch.ops.aten.threshold_backward(slope, output, 0.0)
    elif after is nn.Tanh:
        through = torch.ops.aten.tanh_backward(slope, output)
    return through


def _parts(model: FlatModel, records: Records) -> list[_Part] | None:
    left = {layer.name: layer for layer in model.layers}
    parts: list[_Part] = []
    flat = len(records.shape) == 1
    for name, layer in _leaves(model.module, ""):
        if _hooked(layer):
            return None
        if type(layer) is nn.Flatten and (layer.start_dim, layer.end_dim) == (1, -1):
            flat = True
        elif type(layer) is nn.Linear and flat:
            weight, bias = left.pop(f"{name}weight", None), left.pop(f"{name}bias", None)
            if weight is None or (bias is None) != (layer.bias is None):
                return None  # frozen, or shared with a layer before
            parts.append(_Part(weight=weight, bias=bias))
        elif type(layer) in _ACTIVATIONS and parts and parts[-1].after is None:
            parts[-1] = replace(parts[-1], after=type(layer))
        elif type(layer) is not nn.Identity:
            return None
    widths = [records.width, *(part.weight.shape[0] for part in parts)]
    fitting = all(part.weight.shape[1] == width for part, width in zip(parts, widths, strict=False))
    return parts if parts and not left and fitting else None


def _leaves(module: nn.Module, prefix: str) -> list[tuple[str, nn.Module]]:
    """The layers of nested ``Sequential`` in the order in which they run."""
    if type(module) is not nn.Sequential or _hooked(module):
        return [(prefix, module)]
    # Not named_children, which leaves out a layer that comes a second time.
    return [leaf for name, child in module._modules.items() for leaf in _leaves(child, f"{prefix}{name}.")]


def _hooked(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks)
