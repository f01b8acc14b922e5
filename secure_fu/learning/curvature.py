"""Sums over records of second derivatives of the cross entropy: whole Hessians of small heads, products for any model.

For a linear head the Hessian of one record is closed: see :class:`~secure_fu.learning.heads.LinearHead`. For other
models the Gauss-Newton matrix J' A J takes its place, J the Jacobian of the logits and A their Hessian (Schraudolph
2002, "Fast curvature matrix-vector products"). It is positive semidefinite, which iterations on a known interval need,
and the same as the Hessian where the logits are linear in the parameters.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secure_fu.errors import ArgumentError, DataError
from secure_fu.learning._linear import LARGEST_NORM, row_norms
from secure_fu.learning._private import PrivateCopy
from secure_fu.learning.flat import FlatModel
from secure_fu.learning.heads import LinearHead
from secure_fu.learning.records import Records

__all__ = ["CurvatureSums", "symmetric_of", "triangle_length", "triangle_of"]

_CHUNK_BYTES: Final = 2**27
_LOGGER = logging.getLogger("secure_fu")


def triangle_length(dimension: int) -> int:
    """Coordinates of the upper triangle of a symmetric matrix, d (d + 1) / 2."""
    return dimension * (dimension + 1) // 2


def triangle_of(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The upper triangle of a symmetric matrix, row by row, entries off the diagonal times sqrt(2).

    So the L2 norm of the result is the Frobenius norm of the matrix.

    Args:
        matrix: shape (d, d), symmetric; what is below the diagonal is not read.

    Returns:
        shape (d (d + 1) / 2,).
    """
    rows, columns = np.triu_indices(len(matrix))
    return matrix[rows, columns] * np.where(rows == columns, 1.0, math.sqrt(2.0))


def symmetric_of(triangle: NDArray[np.float64], dimension: int) -> NDArray[np.float64]:
    """Inverse of :func:`triangle_of`: shape (d, d).

    Raises:
        ArgumentError: the length is not d (d + 1) / 2.
    """
    if triangle.shape != (triangle_length(dimension),):
        raise ArgumentError("triangle", triangle.shape, f"shape ({triangle_length(dimension)},)")
    rows, columns = np.triu_indices(dimension)
    matrix = np.empty((dimension, dimension))
    matrix[rows, columns] = triangle / np.where(rows == columns, 1.0, math.sqrt(2.0))
    matrix[columns, rows] = matrix[rows, columns]
    return matrix


class CurvatureSums:
    """Sums of clipped curvature of one model. Build it once, use it every round.

    Guarantee:
        Adding or removing one record (with ``by_group``, one group) moves each sum by at most ``clip_norm`` in L2, up
        to the float64 rounding of the sum itself. What is not finite counts as zero, and no error depends on the value
        of a record: see :class:`~secure_fu.learning.per_record.PerRecordGradients` for why.

    Assumes:
        A record's logits depend on that record alone; ``PerRecordGradients`` tests that. Dropout is off.

    Edge cases:
        ================================  ===============================
        no records                        the zero vector
        curvature that is not finite      counts as zero (the whole group)
        ================================  ===============================

    Args:
        model: the model; its module is copied in float64.
    """

    def __init__(self, model: FlatModel) -> None:
        self._model: Final = model
        self._copy: Final = PrivateCopy(model)
        self._copy.module.train(False)

    @property
    def head(self) -> LinearHead | None:
        """The model's module if it is a linear head."""
        module = self._copy.module
        return module if isinstance(module, LinearHead) else None

    def hessian_sum(
        self, vector: NDArray[np.float64], records: Records, *, clip_norm: float, by_group: bool = False
    ) -> NDArray[np.float64]:
        """Sum over records (groups) of their Hessians, each with Frobenius norm at most ``clip_norm``.

        Args:
            vector: the head's parameters, float64 (d,).
            records: n of them, n = 0 allowed.

        Returns:
            :func:`triangle_of` the sum: float64, shape (d (d + 1) / 2,).

        Raises:
            ArgumentError: the module is no :class:`LinearHead`, or an argument does not fit.
            DataError: ``by_group``, and the records have no groups.
        """
        head = self.head
        if head is None:
            name = type(self._model.module).__name__
            raise ArgumentError("module", name, "a LinearHead; products serve any other module")
        self._copy.load(self._model.check_vector(vector))

        def blocks(chosen: Records, clip: float | None) -> Tensor:
            return _head_hessian(head, chosen, clip)

        width = head.inputs + 1
        total = self._total(
            blocks,
            (head.classes, head.classes, width, width),
            records,
            clip_norm=clip_norm,
            by_group=by_group,
            row_values=4 * width + 3 * width**2 + 4 * head.classes**2,
        )
        return triangle_of(total.permute(0, 2, 1, 3).reshape(self._model.dimension, -1).numpy())

    def product_sum(
        self,
        vector: NDArray[np.float64],
        direction: NDArray[np.float64],
        records: Records,
        *,
        clip_norm: float,
        by_group: bool = False,
    ) -> NDArray[np.float64]:
        """Sum over records (groups) of their curvature times a direction, each with norm at most ``clip_norm``.

        Args:
            vector: the parameters, float64 (d,).
            direction: float64 (d,).
            records: n of them, n = 0 allowed.

        Returns:
            float64, shape (d,).

        Raises:
            ArgumentError: an argument does not fit, or the module does something that ``torch.func`` cannot follow.
            DataError: ``by_group``, and the records have no groups.
        """
        self._copy.load(self._model.check_vector(vector))
        along = torch.from_numpy(self._model.check_vector(direction))
        head = self.head
        if head is not None:
            shape: tuple[int, ...] = (head.classes, head.inputs + 1)
            slopes = along.view(shape)

            def products(chosen: Records, clip: float | None) -> Tensor:
                return _head_products(head, slopes, chosen, clip)

            row_values = 4 * (head.inputs + 1 + head.classes)
        else:
            shape = (self._model.dimension,)
            row_values = 4 * self._model.dimension

            def products(chosen: Records, clip: float | None) -> Tensor:
                return self._gauss_newton(along, chosen, clip)

        total = self._total(products, shape, records, clip_norm=clip_norm, by_group=by_group, row_values=row_values)
        result: NDArray[np.float64] = total.reshape(-1).numpy()
        return result

    def _total(
        self,
        summed: Callable[[Records, float | None], Tensor],
        shape: tuple[int, ...],
        records: Records,
        *,
        clip_norm: float,
        by_group: bool,
        row_values: int,
    ) -> Tensor:
        """Sum of clipped records, or of clipped groups of records that are not; float64, of the shape given."""
        if not 1e-100 <= clip_norm <= 1e100:
            raise ArgumentError("clip_norm", clip_norm, "a number in [1e-100, 1e100]")
        total = torch.zeros(shape, dtype=torch.float64)
        # Aimed at from below, so that the rounding of norms and products carries nothing over the bound.
        bound = clip_norm * (1.0 - (total.numel() + 64) * 2.0**-52)
        rows = max(1, _CHUNK_BYTES // (8 * (row_values + 3 * records.width)))
        try:
            if not by_group:
                for start in range(0, len(records), rows):
                    total += summed(records.subset(slice(start, start + rows)), bound)
                return total
            for group in _groups(records):
                own = torch.zeros(shape, dtype=torch.float64)
                for start in range(0, len(group), rows):
                    own += summed(group.subset(slice(start, start + rows)), None)
                norm = float(row_norms(own.reshape(1, -1)))
                if norm <= LARGEST_NORM:
                    total += own * min(1.0, bound / max(norm, 1e-140))
                else:
                    _LOGGER.warning("some curvature is not finite and counts as zero")
        except RuntimeError as error:  # torch's own: it names shapes and dtypes, no values
            name = type(self._model.module).__name__
            expected = f"a module that takes float64 features of shape {('n', *records.shape)}: {error}"
            raise ArgumentError("module", name, expected) from None
        return total

    def _gauss_newton(self, direction: Tensor, records: Records, clip: float | None) -> Tensor:
        """Products of any module, one row a record, clipped and summed: shape (d,)."""
        module, layers = self._copy.module, self._copy.layers
        named = dict(module.named_parameters())
        parameters = {layer.name: named[layer.name].detach() for layer in layers}
        along = {layer.name: direction[layer.slice].view(layer.shape) for layer in layers}

        def one(features: Tensor) -> dict[str, Tensor]:
            def logits(chosen: dict[str, Tensor]) -> Tensor:
                output: Tensor = torch.func.functional_call(module, chosen, (features[None],))
                return output[0]

            scores, pull = torch.func.vjp(logits, parameters)  # type: ignore[misc]

            def pulled(cotangent: Tensor) -> dict[str, Tensor]:
                result: dict[str, Tensor] = pull(cotangent)[0]
                return result

            # J v by reverse mode alone, as the transpose of the linear map u -> J' u: torch's forward mode warns.
            _, transposed = torch.func.vjp(pulled, torch.zeros_like(scores))  # type: ignore[misc]
            moved: Tensor = transposed(along)[0]
            return pulled(_logit_hessian(scores[None], moved[None])[0])

        rows = torch.func.vmap(one)(records.features.to(torch.float64))
        matrix = torch.cat([rows[layer.name].reshape(len(records), -1) for layer in layers], dim=1).detach()
        if clip is None:
            return matrix.sum(dim=0)
        scales, kept = _scales(row_norms(matrix), clip)
        return scales @ matrix[kept]


def _head_hessian(head: LinearHead, records: Records, clip: float | None) -> Tensor:
    """Blocks [k, l] = sum of A_kl x' x'^T: shape (classes, classes, inputs + 1, inputs + 1)."""
    inputs, logits = _head_parts(head, records)
    odds = torch.softmax(logits, dim=1)
    weights = torch.diag_embed(odds) - odds[:, :, None] * odds[:, None, :]
    if clip is not None:
        size = row_norms(weights.flatten(1)) * row_norms(inputs) ** 2
        scales, kept = _scales(size, clip)
        inputs, weights = inputs[kept], weights[kept] * scales[:, None, None]
    width = inputs.shape[1]
    # One product of matrices for all pairs of classes; A and x' x'^T are symmetric, so a half of each will do.
    left, right = torch.triu_indices(head.classes, head.classes)
    rows, columns = torch.triu_indices(width, width)
    halves = weights[:, left, right].T @ (inputs[:, rows] * inputs[:, columns])
    blocks = torch.empty(head.classes, head.classes, width, width, dtype=torch.float64)
    for first, second in ((left, right), (right, left)):
        blocks[first[:, None], second[:, None], rows, columns] = halves
        blocks[first[:, None], second[:, None], columns, rows] = halves
    return blocks


def _head_products(head: LinearHead, direction: Tensor, records: Records, clip: float | None) -> Tensor:
    """Sum of (A V x') x'^T: shape (classes, inputs + 1)."""
    inputs, logits = _head_parts(head, records)
    slopes = _logit_hessian(logits, inputs @ direction.T)
    if clip is not None:
        scales, kept = _scales(row_norms(slopes) * row_norms(inputs), clip)
        inputs, slopes = inputs[kept], slopes[kept] * scales[:, None]
    return slopes.T @ inputs


def _head_parts(head: LinearHead, records: Records) -> tuple[Tensor, Tensor]:
    """The x' of each record, and W x'."""
    with torch.no_grad():
        inputs = head.bounded(records.features.to(torch.float64))
        return inputs, head.linear(inputs)


def _logit_hessian(logits: Tensor, moved: Tensor) -> Tensor:
    """(diag(p) - p p^T) times each row of `moved`: shape (n, classes)."""
    odds = torch.softmax(logits, dim=1)
    return odds * (moved - (odds * moved).sum(dim=1, keepdim=True))


def _scales(norms: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """Factors that bring norms to at most `clip`, of those that are finite, and which these are."""
    kept = norms <= LARGEST_NORM
    if not bool(kept.all()):
        _LOGGER.warning("some curvature is not finite and counts as zero")
    return (clip / norms[kept].clamp(min=1e-140)).clamp(max=1.0), kept


def _groups(records: Records) -> Iterator[Records]:
    if records.groups is None:
        raise DataError("the records have no groups; expected records with a group column for the group unit")
    for name in np.unique(records.groups):
        yield records.subset(records.groups == name)
