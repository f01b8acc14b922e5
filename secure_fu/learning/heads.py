"""A linear head on frozen features: logistic regression in float64, convex, with a public bound for every record."""

from __future__ import annotations

import copy
import math
from typing import Final, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from secure_fu.errors import ArgumentError

__all__ = ["LinearHead"]

# Norms of float64 inputs and their products are right to far less than this.
_SLACK: Final = 1.0 + 2.0**-30


class LinearHead(nn.Module):
    """Logits W x', where x' is the frozen features of a record with a 1 appended, scaled down to norm at most `bound`.

    Formal guarantees:
        For a record with label y let p = softmax(W x'). Under cross entropy, for every W and every record:

        1. The loss is convex in W, so with an L2 term lambda / 2 |W|^2 the sum is lambda-strongly convex.
        2. The gradient (p - e_y) x'^T has norm |p - e_y| |x'| <= sqrt(2) bound: `gradient_bound`. Each coordinate is at
           most `bound`.
        3. The Hessian is A kron x' x'^T with A = diag(p) - p p^T. With s_k = sum p^k, |A|_F^2 = s_2 - 2 s_3 + s_2^2,
           and s_2^2 <= s_3 (Cauchy-Schwarz over the weights p), so |A|_F^2 <= s_2 - s_2^2 <= 1/4. Hence its Frobenius
           norm is at most bound^2 / 2: `hessian_bound`; the largest eigenvalue is no larger: `smoothness`. Two classes
           at even odds reach both.

    Features that are not finite give logits that are none: such a record counts as zero in every sum, for every W.

    Assumes:
        The features depend on the record alone and on nothing that a federation's data had a part in: they are public.

    Args:
        features: any module from records (n, ...) to (n, inputs), after flattening; None takes the records themselves.
            It is copied, its parameters are frozen, and it stays in evaluation mode: dropout is taken out, and batch
            normalisation becomes the fixed affine map that its running statistics make of it.
        inputs: number of features.
        classes: number of logits.
        bound: on the norm of x'; the appended 1 is scaled with the rest.

    Raises:
        ArgumentError: an argument is out of its domain.
    """

    def __init__(self, features: nn.Module | None, *, inputs: int, classes: int, bound: float = 1.0) -> None:
        super().__init__()
        if inputs < 1:
            raise ArgumentError("inputs", inputs, "at least 1 feature")
        if classes < 2:
            raise ArgumentError("classes", classes, "at least 2 classes")
        if not 1e-6 <= bound <= 1e6:
            raise ArgumentError("bound", bound, "a number in [1e-6, 1e6]")
        self.inputs: Final = inputs
        self.classes: Final = classes
        self.bound: Final = float(bound)
        self.features = nn.Identity() if features is None else _frozen(features)
        # Made on the meta device first: torch.nn.Linear would draw from the global generator. Zero is the start that
        # favours no class, and the centre of the L2 term.
        self.linear = nn.Linear(inputs + 1, classes, bias=False, device="meta").to_empty(device="cpu")
        with torch.no_grad():
            self.linear.weight.zero_()
        self.train(False)

    @property
    def gradient_bound(self) -> float:
        """Bound on the norm of one record's gradient: a clip norm of this size never acts."""
        return math.sqrt(2.0) * self.bound * _SLACK

    @property
    def coordinate_bound(self) -> float:
        """Bound on each coordinate of one record's gradient."""
        return self.bound * _SLACK

    @property
    def hessian_bound(self) -> float:
        """Bound on the Frobenius norm of one record's Hessian."""
        return 0.5 * self.bound**2 * _SLACK

    @property
    def smoothness(self) -> float:
        """Bound on the largest eigenvalue of one record's Hessian."""
        return self.hessian_bound

    def bounded(self, records: Tensor) -> Tensor:
        """The x' of each record: shape (n, inputs + 1), rows of norm at most `bound`.

        Raises:
            ArgumentError: the features are not (n, inputs).
        """
        with torch.no_grad():
            found = self.features(records).flatten(1)
            if found.shape[1] != self.inputs:
                raise ArgumentError("inputs", self.inputs, f"the {found.shape[1]} features that the module gives")
            # The head computes in its own dtype, whatever the features do.
            extended = nn.functional.pad(found.to(self.linear.weight.dtype), (0, 1), value=1.0)
            norms = torch.linalg.vector_norm(extended, dim=1, keepdim=True)
            scaled: Tensor = extended * (self.bound / norms).clamp(max=1.0)
            return scaled

    def forward(self, records: Tensor) -> Tensor:
        """Logits of records (n, ...): shape (n, classes).

        Raises:
            ArgumentError: the features are not (n, inputs).
        """
        logits: Tensor = self.linear(self.bounded(records))
        return logits

    def train(self, mode: bool = True) -> Self:
        """Set the head's mode; the features stay in evaluation mode."""
        super().train(mode)
        self.features.train(False)
        return self


class _FixedNorm(nn.Module):
    """Batch or instance normalisation with the statistics that it had: x -> scale x + shift, channel by channel."""

    scale: Tensor
    shift: Tensor

    def __init__(self, layer: _NormBase, mean: Tensor, variance: Tensor) -> None:
        super().__init__()
        scale = torch.rsqrt(variance.double() + layer.eps)
        if layer.weight is not None:
            scale = scale * layer.weight.detach().double()
        shift = -mean.double() * scale
        if layer.bias is not None:
            shift = shift + layer.bias.detach().double()
        self.register_buffer("scale", scale.to(mean.dtype))
        self.register_buffer("shift", shift.to(mean.dtype))

    def forward(self, values: Tensor) -> Tensor:
        shape = (-1, *(1 for _ in values.shape[2:]))
        return values * self.scale.view(shape) + self.shift.view(shape)


def _frozen(features: nn.Module) -> nn.Module:
    """A copy that computes what the module computes in evaluation mode, and cannot be made to do anything else."""
    frozen = _fixed(copy.deepcopy(features))
    for parameter in frozen.parameters():
        parameter.requires_grad_(False)
    return frozen.train(False)


def _fixed(module: nn.Module) -> nn.Module:
    if isinstance(module, _DropoutNd):
        return nn.Identity()
    # Without running statistics it takes those of its batch even in evaluation mode; FlatModel refuses that.
    if isinstance(module, _NormBase) and module.running_mean is not None and module.running_var is not None:
        return _FixedNorm(module, module.running_mean, module.running_var)
    for name, child in module.named_children():
        setattr(module, name, _fixed(child))
    return module
