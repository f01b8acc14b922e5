"""Distributed DP-SGD for the record and the group unit: one sum of clipped gradients a round, no local steps.

Abadi et al. 2016 (arXiv 1607.00133), algorithm 1, without its noise and its division: the noise comes as shares
inside the secure sum, and the divisor is a public constant that the server applies afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secure_fu.errors import ArgumentError, DataError, NonFiniteError
from secure_fu.learning._explicit import ExplicitGradients, combine
from secure_fu.learning._linear import LinearGradients
from secure_fu.learning._private import PrivateCopy
from secure_fu.learning.flat import FlatModel
from secure_fu.learning.losses import Loss, cross_entropy
from secure_fu.learning.records import Records

__all__ = ["PerRecordGradients"]

_CHUNK_BYTES: Final = 2**28
_LEAST_NORM: Final = 1e-140  # with clip norms up to 1e100, factors stay finite
_PROBE: Final = torch.tensor([1.0, -0.5, 0.25], dtype=torch.float64)
_PROBE_TOLERANCE: Final = 1e-8


class PerRecordGradients:
    """Sums of clipped per-record (or per-group) gradients of one model. Build it once, use it every round.

    Guarantee:
        Adding or removing one record (one group) moves the result of :meth:`clipped_sum`
        (:meth:`clipped_group_sum`) by at most ``clip_norm`` in L2, up to the float64 rounding of the sum itself.

    Why it holds:
        Forward, backward, norms and sum are float64. A norm is right to relative (d + 64) 2**-53, and the bound aimed
        at is lower than ``clip_norm`` by twice that, so rounding does not carry a gradient over it. A gradient that
        is NaN or infinite is refused, never clipped.

    Assumes:
        A record's gradient depends on that record alone. On the first use of each loss this is tested on up to three
        records, against automatic differentiation of each alone: a module or loss that mixes the records of its
        batch, or a module that uses a parameter outside its own layer, is refused. What remains is that float64
        products of other sizes may round differently, by relative 1e-16 or so.

    Edge cases:
        ====================================  ==================================================
        no records                            the zero vector
        a gradient of zero                    stays zero, also with ``normalise``
        ``normalise``, a norm under 1e-140    is scaled up by ``clip_norm`` * 1e140 and no more
        a NaN or infinite gradient            ``NonFiniteError``, with the number of such records
        ====================================  ==================================================

    Models whose trainable layers are all ``nn.Linear`` on flat inputs never form single gradients; all others go
    through Opacus' ``GradSampleModule``, in chunks of at most 256 MiB. Dropout is active; its masks come from torch's
    global generator. Not to be shared between threads.

    Args:
        model: the model; its module is copied in float64.

    Raises:
        ArgumentError: Opacus cannot follow a layer; the message names what to use instead.
    """

    def __init__(self, model: FlatModel) -> None:
        self._model = model
        self._linear = LinearGradients(model) if LinearGradients.covers(model) else None
        self._explicit = ExplicitGradients(model) if self._linear is None else None
        self._tested: WeakKeyDictionary[Loss, set[LinearGradients | ExplicitGradients]] = WeakKeyDictionary()

    def __repr__(self) -> str:
        return f"PerRecordGradients({self._model!r})"

    def clipped_sum(
        self,
        vector: NDArray[np.float64],
        records: Records,
        *,
        clip_norm: float,
        loss: Loss = cross_entropy,
        normalise: bool = False,
    ) -> NDArray[np.float64]:
        """Sum over records of clip(gradient of the record's loss).

        Args:
            vector: the model, float64 (d,).
            records: n of them, n = 0 allowed.
            clip_norm: C, the L2 bound of one record's contribution.
            loss: (logits (n, classes), labels (n,)) -> (n,), in float64.
            normalise: scale shorter gradients up to C as well.

        Returns:
            float64, shape (d,).

        Raises:
            ArgumentError: an argument does not fit, or the module mixes records.
            NonFiniteError: some record's gradient is NaN or infinite.
        """
        clip = _Clip(clip_norm, self._model.dimension, normalise)
        rule = self._rule(vector, records, loss)
        total = torch.zeros(self._model.dimension, dtype=torch.float64)
        rows = max(1, _CHUNK_BYTES // rule.row_bytes(records.features))
        for start in range(0, len(records), rows):
            chunk = slice(start, start + rows)
            features = records.features[chunk].to(torch.float64)
            with self._explained(records):
                part = rule.scaled_sum(features, records.labels[chunk], loss, clip.scales)
            if part is None:
                raise ArgumentError("records", f"of shape {records.shape}", "the shape of the first records seen")
            total += part
        return _finite(total)

    def clipped_group_sum(
        self,
        vector: NDArray[np.float64],
        records: Records,
        *,
        clip_norm: float,
        loss: Loss = cross_entropy,
        normalise: bool = False,
    ) -> NDArray[np.float64]:
        """Sum over groups of clip(sum of the gradients of the group's records). Otherwise as :meth:`clipped_sum`.

        Raises:
            DataError: the records have no groups.
            ArgumentError, NonFiniteError: as :meth:`clipped_sum`.
        """
        clip = _Clip(clip_norm, self._model.dimension, normalise)
        if records.groups is None:
            raise DataError("the records have no groups; expected records with a group column for the group unit")
        rule = self._explicit_rule(vector, records, loss)
        total = torch.zeros(self._model.dimension, dtype=torch.float64)
        group_of = np.unique(records.groups, return_inverse=True)[1]
        order = np.argsort(group_of, kind="stable")
        starts = np.append(np.flatnonzero(np.diff(group_of[order], prepend=-1)), len(order))
        # Half the memory for one row a group, half for the records that are added to them.
        rows = max(1, _CHUNK_BYTES // 2 // rule.row_bytes(records.features))
        for first in range(0, len(starts) - 1, rows):
            last = min(first + rows, len(starts) - 1)
            sums = [torch.zeros(last - first, p.numel(), dtype=torch.float64) for p in rule.copy.parameters]
            for low in range(starts[first], starts[last], rows):
                chosen = order[low : min(low + rows, starts[last])]
                index, row = torch.from_numpy(chosen), torch.from_numpy(group_of[chosen] - first)
                with self._explained(records):
                    parts = rule.gradients(records.features[index].to(torch.float64), records.labels[index], loss)
                for block, part in zip(sums, parts, strict=True):
                    block.index_add_(0, row, part)
            total += combine(sums, clip.scales)
        return _finite(total)

    def _rule(self, vector: NDArray[np.float64], records: Records, loss: Loss) -> LinearGradients | ExplicitGradients:
        """The fastest way to gradients that holds for this module, with the model loaded."""
        vector = self._model.check_vector(vector)
        if self._linear is not None:
            self._linear.copy.load(vector)
            if self._passes(self._linear, vector, records, loss):
                return self._linear
            self._linear = None
        return self._explicit_rule(vector, records, loss)

    def _explicit_rule(self, vector: NDArray[np.float64], records: Records, loss: Loss) -> ExplicitGradients:
        vector = self._model.check_vector(vector)
        if self._explicit is None:
            self._explicit = ExplicitGradients(self._model)
        self._explicit.copy.load(vector)
        if not self._passes(self._explicit, vector, records, loss):
            raise ArgumentError(
                "module",
                type(self._model.module).__name__,
                "a module and a loss under which a record's gradient does not depend on the other records of its "
                "batch, every parameter being used by the forward pass of its own layer",
            )
        return self._explicit

    def _passes(
        self,
        rule: LinearGradients | ExplicitGradients,
        vector: NDArray[np.float64],
        records: Records,
        loss: Loss,
    ) -> bool:
        tested = self._tested.setdefault(loss, set())
        if rule in tested or len(records) == 0:
            return True
        count = min(len(records), len(_PROBE))
        features, labels = records.features[:count].to(torch.float64), records.labels[:count]
        weights = _PROBE[:count]
        alone = PrivateCopy(self._model)
        alone.load(vector)
        alone.set_dropout(False)
        with self._explained(records):
            expected = alone.lone_gradients(features, labels, loss)
        norms = torch.linalg.vector_norm(expected, dim=1)
        _refuse_non_finite(norms)
        found_norms = torch.zeros_like(norms)

        def probe(measured: Tensor) -> Tensor:
            found_norms.copy_(measured)
            return weights

        rule.copy.set_dropout(False)
        try:
            found = rule.scaled_sum(features, labels, loss, probe)
        finally:
            rule.copy.set_dropout(True)
        if found is None:
            return False
        allowed = _PROBE_TOLERANCE * float(norms.sum()) + _LEAST_NORM
        if float(torch.linalg.vector_norm(found - weights @ expected)) > allowed:
            return False
        if float((found_norms - norms).abs().max()) > allowed:
            return False
        # One record alone, or a gradient of zero, cannot show whether records are mixed: test again next time.
        if count > 1 and bool((norms > 0).all()):
            tested.add(rule)
        return True

    @contextmanager
    def _explained(self, records: Records) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # torch's own: it names shapes and dtypes, no values
            expected = f"a module that takes float64 features of shape {('n', *records.shape)}: {error}"
            raise ArgumentError("module", type(self._model.module).__name__, expected) from None


class _Clip:
    """From the norms of gradients to the factors that bring them to at most ``clip_norm``."""

    def __init__(self, clip_norm: float, dimension: int, normalise: bool) -> None:
        if not 1e-100 <= clip_norm <= 1e100:
            raise ArgumentError("clip_norm", clip_norm, "a number in [1e-100, 1e100]")
        self._bound = clip_norm * (1.0 - (dimension + 64) * 2.0**-52)
        self._normalise = normalise

    def scales(self, norms: Tensor) -> Tensor:
        _refuse_non_finite(norms)
        scales = self._bound / norms.clamp(min=_LEAST_NORM)
        return scales if self._normalise else scales.clamp(max=1.0)


def _refuse_non_finite(norms: Tensor) -> None:
    broken = int((~torch.isfinite(norms)).sum())
    if broken:
        raise NonFiniteError(f"{broken} of {len(norms)} gradients are NaN or infinite; expected finite ones")


def _finite(total: Tensor) -> NDArray[np.float64]:
    result: NDArray[np.float64] = total.numpy()
    if not np.isfinite(result).all():
        raise NonFiniteError("the sum of clipped gradients is NaN or infinite; expected a finite one")
    return result
