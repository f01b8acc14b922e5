"""Many copies of one module at once, each with parameters of its own, for modules that are a chain of plain layers.

A linear layer of all copies is one batched matrix product, a convolution one grouped convolution. ``torch.vmap`` comes
to the same sums on slower ways.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from secure_fu.learning.flat import FlatModel

__all__ = ["StackedLayers"]

_Parameters = Mapping[str, Tensor]
_Step = Callable[[_Parameters, Tensor], Tensor]

# Functions and not the modules' own forward: in place, an activation would overwrite the records.
_ACTIVATIONS: Final[Mapping[type[nn.Module], Callable[[Tensor], Tensor]]] = {
    nn.ReLU: torch.relu,
    nn.Tanh: torch.tanh,
    nn.Sigmoid: torch.sigmoid,
}


class StackedLayers:
    """The forward pass of ``copies`` of a model: parameters (copies, *shape) and features (copies, n, ...) to logits.

    No layer of it mixes copies or records. Made by :meth:`of`.
    """

    def __init__(self, steps: tuple[_Step, ...]) -> None:
        self._steps = steps

    @classmethod
    def of(cls, model: FlatModel) -> StackedLayers | None:
        """None unless the module is a chain of Flatten, Unflatten, Linear, Conv2d, ReLU, Tanh and Sigmoid, unhooked."""
        named = dict(model.module.named_parameters())
        names = {id(named[layer.name]): layer.name for layer in model.layers}
        steps = []
        for layer in _chain(model.module):
            step = None if layer is None else _step(layer, names)
            if step is None:
                return None
            steps.append(step)
        return cls(tuple(steps))

    def __call__(self, parameters: _Parameters, features: Tensor) -> Tensor:
        """Logits, (copies, n, classes), in the dtype of both arguments.

        Raises:
            RuntimeError: a layer does not take what the one before it gives.
        """
        for step in self._steps:
            features = step(parameters, features)
        return features

    def activations(self, parameters: _Parameters, shape: tuple[int, ...]) -> int:
        """How many values all layers together give for one record of this shape. Computes none of them.

        Args:
            parameters: of one model, without the leading dimension.

        Raises:
            RuntimeError: as when called.
        """
        hollow = {name: tensor[None].to("meta") for name, tensor in parameters.items()}
        features = torch.empty((1, 1, *shape), dtype=next(iter(hollow.values())).dtype, device="meta")
        count = 0
        for step in self._steps:
            features = step(hollow, features)
            count += features.numel()
        return count


def _chain(module: nn.Module) -> Iterator[nn.Module | None]:
    """The layers in the order in which they run; None where that cannot be told."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    if any(hooks) or "forward" in vars(module):
        yield None
    elif type(module) is nn.Sequential:
        for layer in module:
            yield from _chain(layer)
    else:
        yield module


def _step(layer: nn.Module, names: Mapping[int, str]) -> _Step | None:
    """What a layer does, or None if it is of no kind known here. ``names``: by the id of the trainable parameters."""
    if type(layer) is nn.Linear:
        return _linear(layer, names)
    if type(layer) is nn.Conv2d and layer.groups == 1 and layer.padding_mode == "zeros":
        return _convolution(layer, names)
    if type(layer) is nn.Flatten and (layer.start_dim, layer.end_dim) == (1, -1):
        return lambda parameters, features: features.flatten(2)
    if type(layer) is nn.Unflatten and layer.dim == 1 and isinstance(layer.unflattened_size[0], int):
        size = layer.unflattened_size
        return lambda parameters, features: features.reshape(*features.shape[:2], *size)
    activation = _ACTIVATIONS.get(type(layer))
    return None if activation is None else lambda parameters, features: activation(features)


def _linear(layer: nn.Linear, names: Mapping[int, str]) -> _Step:
    def step(parameters: _Parameters, features: Tensor) -> Tensor:
        copies = len(features)
        weight = _of_copies(layer.weight, names, parameters, copies).transpose(1, 2)
        rows = features.flatten(1, -2)
        bias = _bias_of_copies(layer.bias, names, parameters, copies)
        out = torch.bmm(rows, weight) if bias is None else torch.baddbmm(bias[:, None], rows, weight)
        return out.view(*features.shape[:-1], -1)

    return step


def _convolution(layer: nn.Conv2d, names: Mapping[int, str]) -> _Step:
    def step(parameters: _Parameters, features: Tensor) -> Tensor:
        if features.dim() != 5:  # without the channels torch would take the records for them
            raise RuntimeError(f"Conv2d takes (n, channels, height, width), not {('n', *features.shape[2:])}")
        copies = len(features)
        weight = _of_copies(layer.weight, names, parameters, copies).flatten(0, 1)
        bias = _bias_of_copies(layer.bias, names, parameters, copies)
        images = features.transpose(0, 1).flatten(1, 2)
        flat = None if bias is None else bias.flatten()
        out = functional.conv2d(images, weight, flat, layer.stride, layer.padding, layer.dilation, groups=copies)
        return out.view(len(out), copies, -1, *out.shape[2:]).transpose(0, 1)

    return step


def _of_copies(own: Tensor, names: Mapping[int, str], parameters: _Parameters, copies: int) -> Tensor:
    """This parameter of each copy, (copies, *shape); a frozen one is the same in all."""
    name = names.get(id(own))
    if name is not None:
        return parameters[name]
    return own.detach().to(next(iter(parameters.values())).device).expand(copies, *own.shape)


def _bias_of_copies(
    own: Tensor | None, names: Mapping[int, str], parameters: _Parameters, copies: int
) -> Tensor | None:
    return None if own is None else _of_copies(own, names, parameters, copies)
