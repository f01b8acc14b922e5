"""A model in float64, whatever its module's dtype: gradients of records learned by heart vanish in float32."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secure_fu.learning import FlatModel

__all__ = ["fixed_tensors", "trained_tensors"]


def trained_tensors(model: FlatModel, vector: NDArray[np.float64]) -> dict[str, Tensor]:
    """The vector as named float64 tensors of their own, in the model's order."""
    flat = torch.from_numpy(np.array(vector, dtype=np.float64))
    return {layer.name: flat[layer.slice].view(layer.shape) for layer in model.layers}


def fixed_tensors(model: FlatModel) -> dict[str, Tensor]:
    """What the module holds beside the vector, in float64 where it is floating point: frozen parameters and buffers."""
    trained = {layer.name for layer in model.layers}
    held = {**dict(model.module.named_parameters()), **dict(model.module.named_buffers())}
    return {
        name: tensor.detach().to(torch.float64) if tensor.is_floating_point() else tensor.detach()
        for name, tensor in held.items()
        if name not in trained
    }
