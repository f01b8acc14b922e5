"""Small models to start from. Initial values come from a generator of their own; torch's global one is not touched."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import nn

from secure_fu.errors import ArgumentError

__all__ = ["logistic", "mlp"]


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
    for name, value in (("inputs", inputs), *((f"hidden[{i}]", width) for i, width in enumerate(hidden))):
        if value < 1:
            raise ArgumentError(name, value, "a width of at least 1")
    if classes < 2:
        raise ArgumentError("classes", classes, "at least 2 classes")
    if not 0 <= seed < 2**63:
        raise ArgumentError("seed", seed, "an integer in [0, 2**63)")
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = [nn.Flatten()]
    for index, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
        if index > 0:
            layers.append(nn.ReLU())
        layers.append(_linear(fan_in, fan_out, generator))
    return nn.Sequential(*layers)


def logistic(inputs: int, classes: int, seed: int) -> nn.Sequential:
    """Multinomial logistic regression: :func:`mlp` without hidden layers, convex under cross entropy."""
    return mlp(inputs, (), classes, seed)


def _linear(fan_in: int, fan_out: int, generator: torch.Generator) -> nn.Linear:
    # Made on the meta device first: torch.nn.Linear would draw its own start from the global generator.
    layer = nn.Linear(fan_in, fan_out, device="meta").to_empty(device="cpu")
    limit = 1.0 / math.sqrt(fan_in)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-limit, limit, generator=generator)
    return layer
