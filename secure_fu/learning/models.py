"""Small models to start from. Initial values come from a generator of their own; torch's global one is not touched."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from secure_fu.errors import ArgumentError

__all__ = ["cnn", "logistic", "mlp"]


def mlp(inputs: int, hidden: Sequence[int], classes: int, seed: int) -> nn.Sequential:
    """A multi-layer perceptron with ReLU between its layers.

    Weights and biases of a layer with k inputs are uniform in +-1/sqrt(k), as ``torch.nn.Linear`` starts by default.
    The initial model is public, so its seed need not be secret.

    Args:
        inputs: features of one record after flattening.
        hidden: width of each hidden layer; empty for a linear model.
        classes: number of logits.
        seed: any integer in [0, 2**63).

    Returns:
        A float32 module from features (n, ...) with ``inputs`` values a record to logits (n, classes).

    Raises:
        ArgumentError: a width is below one, ``classes`` below two, or the seed out of range.
    """
    widths = [inputs, *hidden, classes]
    _check_widths({"inputs": inputs, **{f"hidden[{i}]": width for i, width in enumerate(hidden)}})
    generator = _generator(classes, seed)
    layers: list[nn.Module] = [nn.Flatten()]
    for index, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
        if index > 0:
            layers.append(nn.ReLU())
        layers.append(_drawn(nn.Linear(fan_in, fan_out, device="meta"), fan_in, generator))
    return nn.Sequential(*layers)


def logistic(inputs: int, classes: int, seed: int) -> nn.Sequential:
    """Multinomial logistic regression: :func:`mlp` without hidden layers, convex under cross entropy."""
    return mlp(inputs, (), classes, seed)


def cnn(shape: Sequence[int], channels: Sequence[int], classes: int, seed: int) -> nn.Sequential:
    """A small convolutional network: 3x3 convolutions of stride 2, each with ReLU, then one linear layer.

    Each convolution halves height and width, rounded up; a border of zeros lets it take images of any size. Initial
    values as in :func:`mlp`, with 9 times its input channels for k. It has no layer that mixes the records of a batch.

    Args:
        shape: of one image: (height, width), or (colours, height, width).
        channels: outputs of each convolution; at least one.
        classes, seed: as :func:`mlp`.

    Returns:
        A float32 module from images (n, *shape), or from any (n, ...) with as many values a record, to logits
        (n, classes).

    Raises:
        ArgumentError: the shape is no image's, a number is below one, ``classes`` below two, or the seed out of range.
    """
    if len(shape) not in (2, 3):
        raise ArgumentError("shape", tuple(shape), "(height, width) or (colours, height, width)")
    if not channels:
        raise ArgumentError("channels", tuple(channels), "at least one convolution")
    sizes = {f"shape[{i}]": size for i, size in enumerate(shape)}
    _check_widths({**sizes, **{f"channels[{i}]": width for i, width in enumerate(channels)}})
    generator = _generator(classes, seed)
    colours, height, width = (1, *shape)[-3:]
    layers: list[nn.Module] = [nn.Flatten(), nn.Unflatten(1, (colours, height, width))]
    for before, after in itertools.pairwise((colours, *channels)):
        layer = nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1, device="meta")
        layers += [_drawn(layer, 9 * before, generator), nn.ReLU()]
        height, width = -(-height // 2), -(-width // 2)
    inputs = channels[-1] * height * width
    layers += [nn.Flatten(), _drawn(nn.Linear(inputs, classes, device="meta"), inputs, generator)]
    return nn.Sequential(*layers)


def _check_widths(widths: Mapping[str, int]) -> None:
    for name, value in widths.items():
        if value < 1:
            raise ArgumentError(name, value, "a width of at least 1")


def _generator(classes: int, seed: int) -> torch.Generator:
    if classes < 2:
        raise ArgumentError("classes", classes, "at least 2 classes")
    if not 0 <= seed < 2**63:
        raise ArgumentError("seed", seed, "an integer in [0, 2**63)")
    return torch.Generator().manual_seed(seed)


def _drawn(layer: nn.Module, fan_in: int, generator: torch.Generator) -> nn.Module:
    # It comes from the meta device: otherwise torch would draw its own start from the global generator.
    layer = layer.to_empty(device="cpu")
    limit = 1.0 / math.sqrt(fan_in)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-limit, limit, generator=generator)
    return layer
