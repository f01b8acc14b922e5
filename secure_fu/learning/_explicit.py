"""Per-record gradients of any module that Opacus can follow, formed one by one and then summed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn

from secure_fu.errors import ArgumentError
from secure_fu.learning._linear import LARGEST_NORM, row_norms
from secure_fu.learning._private import PrivateCopy
from secure_fu.learning.flat import FlatModel
from secure_fu.learning.losses import Loss, checked_losses

__all__ = ["ExplicitGradients", "combine"]


class ExplicitGradients:
    """Opacus' ``GradSampleModule`` around a private copy; layers that it has no rule for go through ``torch.func``.

    Raises:
        ArgumentError: Opacus' ``ModuleValidator`` or ``GradSampleModule`` refuses a layer.
    """

    def __init__(self, model: FlatModel) -> None:
        # Here and not above: opacus takes two seconds to import, and models of linear layers do without it.
        from opacus import GradSampleModule
        from opacus.validators import ModuleValidator

        self.copy: Final = PrivateCopy(model)
        name = type(self.copy.module).__name__
        faults = ModuleValidator.validate(self.copy.module)
        if faults:
            raise ArgumentError("module", name, f"layers that Opacus can follow: {faults[0]}")
        try:
            self._hooked: nn.Module = GradSampleModule(self.copy.module, loss_reduction="sum")
        except NotImplementedError as error:
            raise ArgumentError("module", name, f"layers that Opacus can follow: {error}") from error

    def row_bytes(self, features: Tensor) -> int:
        """Bytes that one record takes while its gradient is in work, roughly: the gradient and its work space."""
        return 8 * 2 * (self.copy.dimension + features.shape[1:].numel())

    def gradients(self, features: Tensor, targets: Tensor, loss: Loss) -> list[Tensor]:
        """The gradient of every record: for each parameter in flat order a float64 matrix (n, size).

        Args:
            features: float64, (n, ...).
            targets: what the loss takes, (n, ...).

        Raises:
            ArgumentError: the loss gives no value a record.
        """
        self._clear()
        with warnings.catch_warnings():
            # The first layer's input needs no gradient; its hook says so at every call.
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            losses = checked_losses(loss, self._hooked(features), targets)
            losses.sum().backward()  # type: ignore[no-untyped-call]
        count = len(features)
        blocks = []
        for parameter in self.copy.parameters:
            sample: Tensor | None = parameter.grad_sample  # type: ignore[attr-defined]
            if sample is None:  # the forward pass did not use this parameter
                sample = torch.zeros(count, parameter.numel(), dtype=torch.float64)
            blocks.append(sample.reshape(count, -1))
        self._clear()
        return blocks

    def scaled_sum(self, features: Tensor, targets: Tensor, loss: Loss, scales: Callable[[Tensor], Tensor]) -> Tensor:
        """Sum over records of scale * gradient, as ``LinearGradients.scaled_sum``: float64, (d,)."""
        return combine(self.gradients(features, targets, loss), scales)

    def _clear(self) -> None:
        for parameter in self.copy.parameters:
            parameter.grad = None
            parameter.grad_sample = None  # type: ignore[attr-defined]


def combine(blocks: list[Tensor], scales: Callable[[Tensor], Tensor]) -> Tensor:
    """Sum of the rows (n, d), given in blocks of columns, each times the scale that its norm maps to: float64, (d,).

    Rows with a norm above LARGEST_NORM, or none, are left out: a scale of 0 would make NaN of an infinity.
    """
    norms = torch.zeros(len(blocks[0]), dtype=torch.float64)
    for block in blocks:
        norms = torch.hypot(norms, row_norms(block))
    factors = scales(norms)
    kept = norms <= LARGEST_NORM
    if not bool(kept.all()):
        factors, blocks = factors[kept], [block[kept] for block in blocks]
    return torch.cat([factors @ block for block in blocks])
