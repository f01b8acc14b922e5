"""Any ``torch.nn.Module`` as one flat float64 vector, and back.

The protocol, the noise and the unlearning methods know vectors only. This file is the border: the trainable
parameters of a module, in ``state_dict`` order, row-major, one after the other.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import UninitializedParameter

from secure_fu.errors import ArgumentError

__all__ = ["FlatModel", "Layer"]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Where one parameter tensor lies in the flat vector.

    Attributes:
        name: its name in ``state_dict``.
        slice: its coordinates in the flat vector.
        shape: the shape of the tensor that these coordinates fill, row-major.
    """

    name: str
    slice: slice
    shape: tuple[int, ...]


class FlatModel:
    """A copy of a module whose trainable parameters are read and written as one vector.

    The module is copied: neither training nor :meth:`load` changes the caller's own. Parameters with
    ``requires_grad=False`` and buffers are public constants, not part of the vector. A parameter shared by several
    layers appears once.

    Args:
        module: maps features (n, ...) to logits (n, classes).

    Raises:
        ArgumentError: the module has no trainable parameters, parameters that are not real floating point numbers or
            not finite or not yet initialised, or a layer that keeps statistics of batches (BatchNorm, or InstanceNorm
            with running statistics): those mix the records of a batch and carry data past the secure sum.
    """

    def __init__(self, module: nn.Module) -> None:
        _refuse_batch_statistics(module)
        self._module = copy.deepcopy(module)
        self._module.eval()
        layers: list[Layer] = []
        start = 0
        for name, parameter in self._module.named_parameters():
            if not parameter.requires_grad:
                continue
            if isinstance(parameter, UninitializedParameter):
                raise ArgumentError("module", f"parameter {name}: not initialised", "a module that has seen its input")
            if not parameter.is_floating_point():
                raise ArgumentError("module", f"parameter {name}: {parameter.dtype}", "real floating point parameters")
            if not bool(torch.isfinite(parameter).all()):
                raise ArgumentError("module", f"parameter {name}: not finite", "parameters without NaN or infinity")
            layers.append(Layer(name=name, slice=slice(start, start + parameter.numel()), shape=tuple(parameter.shape)))
            start += parameter.numel()
        if start == 0:
            raise ArgumentError("module", f"{type(module).__name__} without trainable parameters", "a trainable module")
        self._layers = tuple(layers)
        self._dimension = start

    def __repr__(self) -> str:
        return f"FlatModel({type(self._module).__name__}, dimension={self._dimension})"

    @property
    def dimension(self) -> int:
        """Length d of the flat vector."""
        return self._dimension

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The parameter tensors in the order in which they fill the vector; their slices cover it without gaps."""
        return self._layers

    @property
    def module(self) -> nn.Module:
        """This object's own module, with the parameters last loaded. Not a copy."""
        return self._module

    def vector(self) -> NDArray[np.float64]:
        """The parameters now in the module: a new float64 array of shape (d,)."""
        named = dict(self._module.named_parameters())
        return self.flatten({layer.name: named[layer.name].detach() for layer in self._layers})

    def load(self, vector: NDArray[np.float64]) -> None:
        """Write a vector into the module, rounded to the dtype of its parameters.

        Args:
            vector: float64, shape (d,), finite.

        Raises:
            ArgumentError: the vector has another shape or dtype, or NaN or infinity; the module is then unchanged.
        """
        tensors = self.tensors(vector)
        named = dict(self._module.named_parameters())
        with torch.no_grad():
            for name, tensor in tensors.items():
                named[name].copy_(tensor)

    def tensors(self, vector: NDArray[np.float64]) -> dict[str, Tensor]:
        """The vector as named tensors in the shapes and dtypes of the module's parameters.

        They may share memory with ``vector``: read them, do not write to them.

        Raises:
            ArgumentError: as :meth:`load`.
        """
        flat = torch.from_numpy(self.check_vector(vector))
        named = dict(self._module.named_parameters())
        return {layer.name: flat[layer.slice].view(layer.shape).to(named[layer.name].dtype) for layer in self._layers}

    def flatten(self, tensors: Mapping[str, Tensor]) -> NDArray[np.float64]:
        """Inverse of :meth:`tensors`: named tensors as a new float64 array of shape (d,)."""
        vector = np.empty(self._dimension, dtype=np.float64)
        for layer in self._layers:
            vector[layer.slice] = tensors[layer.name].detach().to(torch.float64).reshape(math.prod(layer.shape)).numpy()
        return vector

    def check_vector(self, vector: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return ``vector`` (contiguous and writable) if it is a float64 array of shape (d,) without NaN or infinity.

        Raises:
            ArgumentError: it is not.
        """
        if vector.dtype != np.float64 or vector.shape != (self._dimension,):
            raise ArgumentError(
                "vector", f"{vector.dtype} of shape {vector.shape}", f"a float64 array of shape ({self._dimension},)"
            )
        if not np.isfinite(vector).all():
            raise ArgumentError("vector", "not finite", "a vector without NaN or infinity")
        # torch warns about memory that it may not write to.
        return vector if vector.flags.c_contiguous and vector.flags.writeable else vector.copy()

    def logits(self, tensors: Mapping[str, Tensor], features: Tensor, *, training: bool = False) -> Tensor:
        """Run the module with the given parameters instead of its own, which stay as they are.

        Args:
            tensors: what :meth:`tensors` gives, or tensors of the same shapes that require gradients.
            features: shape (n, ...), in the module's dtype.
            training: whether layers such as dropout are active.

        Returns:
            Logits of shape (n, classes).
        """
        if self._module.training != training:
            self._module.train(training)
        output: Tensor = torch.func.functional_call(self._module, dict(tensors), (features,))
        return output


def _refuse_batch_statistics(module: nn.Module) -> None:
    for name, layer in module.named_modules():
        if isinstance(layer, _BatchNorm) and not isinstance(layer, _InstanceNorm):
            raise ArgumentError(
                "module",
                f"{type(layer).__name__} at {name or 'the top'}",
                "layers that treat each record alone: use torch.nn.GroupNorm, torch.nn.LayerNorm or "
                "torch.nn.InstanceNorm without running statistics in its place "
                "(opacus.validators.ModuleValidator.fix replaces them)",
            )
        if isinstance(layer, _InstanceNorm) and layer.track_running_stats:
            raise ArgumentError(
                "module",
                f"{type(layer).__name__} with running statistics at {name or 'the top'}",
                "the same layer with track_running_stats=False",
            )
