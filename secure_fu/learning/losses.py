"""What a loss is in this package, and the one that everything starts from."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

from secure_fu.errors import ArgumentError

__all__ = ["Loss", "checked_losses", "cross_entropy"]

Loss = Callable[[Tensor, Tensor], Tensor]
"""(logits (n, classes), targets (n, ...)) -> losses (n,). Each loss may depend on its own record alone."""


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-log softmax(logits)[label], one a record: logits (n, classes), labels int64 (n,) -> (n,).

    Raises:
        ArgumentError: a label is not below the number of logits.
    """
    if len(labels) and int(labels.max()) >= logits.shape[1]:
        raise ArgumentError("labels", "out of range", f"class numbers below the model's {logits.shape[1]} logits")
    return functional.cross_entropy(logits, labels, reduction="none")


def checked_losses(loss: Loss, logits: Tensor, targets: Tensor) -> Tensor:
    """Apply a loss and check that it gives one value a record.

    Raises:
        ArgumentError: the shape of the result is not (n,), for example because the loss takes a mean.
    """
    losses = loss(logits, targets)
    if losses.shape != logits.shape[:1]:
        raise ArgumentError("loss", f"of shape {tuple(losses.shape)}", f"one value a record: ({logits.shape[0]},)")
    return losses
