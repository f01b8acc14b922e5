"""Sums of scaled per-record gradients of linear layers, without ever forming one record's gradient.

For a linear layer y = W a + b the gradient of one record's loss is the outer product of g = dloss/dy and (a, 1). Its
norm is |g| |(a, 1)|, and a sum of scaled gradients is one matrix product (Goodfellow 2015, arXiv 1510.01799; Li et
al. 2021, arXiv 2110.05679, "ghost clipping"). A record whose gradient cannot be scaled is left out of that product.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn

from secure_fu.learning._private import PrivateCopy
from secure_fu.learning.flat import FlatModel, Layer
from secure_fu.learning.losses import Loss, checked_losses

__all__ = ["LARGEST_NORM", "LinearGradients", "row_norms"]

LARGEST_NORM: Final = 1e200
"""A gradient with a larger norm, or none, counts as zero: clip norms over it need be no normal numbers."""

# Outside these the squares of float64 numbers, or sums of them, leave the range of normal numbers.
_LEAST, _LARGEST = 1e-140, 1e140


class LinearGradients:
    """For models whose trainable parameters all belong to ``nn.Linear`` layers that each run once, on (n, inputs)."""

    def __init__(self, model: FlatModel) -> None:
        self.copy: Final = PrivateCopy(model)
        self._parts: Final = _linear_parts(self.copy)
        self._runs: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}
        for layer, _, _ in self._parts:
            layer.register_forward_hook(self._keep)

    @staticmethod
    def covers(model: FlatModel) -> bool:
        """Whether every trainable parameter is the weight or bias of exactly one plain ``nn.Linear``."""
        own = PrivateCopy(model)
        covered = sum((weight is not None) + (bias is not None) for _, weight, bias in _linear_parts(own))
        # A parameter shared by two layers is listed here once for each.
        listed = sum(p.requires_grad for _, p in own.module.named_parameters(remove_duplicate=False))
        return covered == listed

    def row_bytes(self, features: Tensor) -> int:
        """Bytes that one record takes while its gradient is in work, roughly."""
        widths = sum(layer.in_features + layer.out_features for layer, _, _ in self._parts)
        return 8 * 3 * (widths + features.shape[1:].numel())

    def scaled_sum(
        self, features: Tensor, targets: Tensor, loss: Loss, scales: Callable[[Tensor], Tensor]
    ) -> Tensor | None:
        """Sum over records of scale * gradient. A record with a norm above LARGEST_NORM adds nothing.

        Args:
            features: float64, (n, ...).
            targets: what the loss takes, (n, ...).
            scales: maps the norms of the per-record gradients (n,) to their scales (n,).

        Returns:
            float64, (d,); None if a layer did not run exactly once on (n, inputs), so that this class does not apply.
        """
        self._runs = {}
        losses = checked_losses(loss, self.copy.module(features), targets)
        collected, self._runs = self._runs, {}
        count = len(features)
        runs = [collected.get(layer, []) for layer, _, _ in self._parts]
        if any(len(run) != 1 or run[0][0].shape[:-1] != (count,) for run in runs):
            return None
        activations = [run[0][0] for run in runs]
        backward = torch.autograd.grad(losses.sum(), [run[0][1] for run in runs])
        norms = torch.zeros(count, dtype=torch.float64)
        widest, steepest = torch.zeros_like(norms), torch.zeros_like(norms)
        one = torch.ones(1, dtype=torch.float64)
        for (_, weight, bias), a, g in zip(self._parts, activations, backward, strict=True):
            width = torch.zeros(count, dtype=torch.float64) if weight is None else row_norms(a)
            if bias is not None:
                width = torch.hypot(width, one)
            slope = row_norms(g)
            norms = torch.hypot(norms, width * slope)
            widest, steepest = torch.maximum(widest, width), torch.maximum(steepest, slope)
        factors = scales(norms)
        # Left out of both factors of the products, for 0 * inf is NaN. With a being long, scaled g would be imprecise;
        # a scale above 1 may overflow it.
        kept = (norms <= LARGEST_NORM) & (widest <= LARGEST_NORM) & torch.isfinite(factors * steepest)
        all_kept = bool(kept.all())
        total = torch.empty(self.copy.dimension, dtype=torch.float64)
        for (_, weight, bias), a, g in zip(self._parts, activations, backward, strict=True):
            scaled = g * factors[:, None] if all_kept else g[kept] * factors[kept, None]
            if weight is not None:
                inputs = a if all_kept else a[kept]
                torch.mm(scaled.T, inputs, out=total[weight.slice].view(weight.shape))
            if bias is not None:
                torch.sum(scaled, dim=0, out=total[bias.slice])
        return total

    def _keep(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._runs.setdefault(layer, []).append((inputs[0].detach(), output))


def row_norms(matrix: Tensor) -> Tensor:
    """L2 norms of the rows of a float64 matrix (n, k), at any scale; NaN where a row has one.

    Relative error at most (k + 8) 2**-53, however the sum is ordered (Higham 2002, section 3.1).
    """
    norms: Tensor = torch.linalg.vector_norm(matrix, dim=1)
    unsure = ~((norms > _LEAST) & (norms < _LARGEST))
    if bool(unsure.any()):
        rows = matrix[unsure]
        largest = rows.abs().amax(dim=1)
        divisor = torch.where(largest > 0, largest, torch.ones_like(largest))
        norms[unsure] = largest * torch.linalg.vector_norm(rows / divisor[:, None], dim=1)
    return norms


def _linear_parts(own: PrivateCopy) -> list[tuple[nn.Linear, Layer | None, Layer | None]]:
    """Each plain linear layer with the places of its trainable weight and bias."""
    by_name = {layer.name: layer for layer in own.layers}
    parts = []
    for name, module in own.module.named_modules():
        if type(module) is nn.Linear:
            prefix = f"{name}." if name else ""
            weight, bias = by_name.get(prefix + "weight"), by_name.get(prefix + "bias")
            if weight is not None or bias is not None:
                parts.append((module, weight, bias))
    return parts
