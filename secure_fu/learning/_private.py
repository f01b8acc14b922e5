"""A float64 copy of a model's module for gradients, and the slow, obvious gradient of one record at a time."""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.modules.dropout import _DropoutNd

from secure_fu.learning.flat import FlatModel
from secure_fu.learning.losses import Loss, checked_losses

__all__ = ["PrivateCopy"]


class PrivateCopy:
    """The module of a model in float64 and training mode, which whoever owns this may hook.

    Attributes:
        module: the copy.
        layers: the flat layout of its trainable parameters.
        parameters: these parameters, in the same order.
        dimension: their total size d.
    """

    def __init__(self, model: FlatModel) -> None:
        self.module = copy.deepcopy(model.module).to(torch.float64).train()
        for layer in self.module.modules():
            # In place, an activation would overwrite the output whose gradient is asked for.
            if getattr(layer, "inplace", False) is True:
                layer.inplace = False  # type: ignore[assignment]
        named = dict(self.module.named_parameters())
        self.layers = model.layers
        self.parameters = [named[layer.name] for layer in model.layers]
        self.dimension = model.dimension

    def load(self, vector: NDArray[np.float64]) -> None:
        """Write a checked flat vector into the parameters."""
        flat = torch.from_numpy(vector)
        with torch.no_grad():
            for layer, parameter in zip(self.layers, self.parameters, strict=True):
                parameter.copy_(flat[layer.slice].view(layer.shape))

    def set_dropout(self, active: bool) -> None:
        """Switch all dropout layers on or off."""
        for layer in self.module.modules():
            if isinstance(layer, _DropoutNd):
                layer.train(active)

    def lone_gradients(self, features: Tensor, targets: Tensor, loss: Loss) -> Tensor:
        """The gradient of each record's loss, each from a batch of one: float64, (n, d)."""
        rows = []
        for index in range(len(features)):
            one = slice(index, index + 1)
            value = checked_losses(loss, self.module(features[one]), targets[one]).sum()
            parts = torch.autograd.grad(value, self.parameters, allow_unused=True, materialize_grads=True)
            rows.append(torch.cat([part.reshape(-1) for part in parts]))
        return torch.stack(rows)
