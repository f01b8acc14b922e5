"""Distributed DP-SGD for the record and the group unit: one sum of clipped gradients a round, no local steps.

Abadi et al. 2016 (arXiv 1607.00133), algorithm 1, without its noise and its division: the noise comes as shares
inside the secure sum, and the divisor is a public constant that the server applies afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secure_fu.errors import ArgumentError, DataError
from secure_fu.learning._clip import LEAST_NORM, Clip, finite
from secure_fu.learning._explicit import ExplicitGradients, combine
from secure_fu.learning._linear import LARGEST_NORM, LinearGradients, row_norms
from secure_fu.learning._private import PrivateCopy
from secure_fu.learning.flat import FlatModel
from secure_fu.learning.losses import Loss, cross_entropy
from secure_fu.learning.records import Records

__all__ = ["PerRecordGradients"]

_CHUNK_BYTES: Final = 2**25
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
        is NaN, infinite or longer than 1e200 adds exactly zero. An error, or a sum that is not finite, would give one
        record away: whoever chooses the model can make a record overflow if and only if it has some property. So no
        gradient decides whether there is an error.

    Assumes:
        A record's gradient depends on that record alone. On the first use of each loss this is tested on three made-up
        records and the parameters that the model had when this was built, against automatic differentiation of each
        record alone: a module or loss that mixes the records of its batch, or a module that uses a parameter outside
        its own layer, is refused. Real records have no part in the test, so that its outcome tells nothing of them.
        It finds nothing where the made-up gradients are zero or not finite. What remains is that float64 products of
        other sizes may round differently, by relative 1e-16 or so: nothing for a model that was trained, but one chosen
        for it can amplify the rounding until another record's gradient changes as well.

    Edge cases:
        ====================================  =====================================================
        no records                            the zero vector
        a gradient of zero                    stays zero, also with ``normalise``
        ``normalise``, a norm under 1e-140    is scaled up by ``clip_norm`` * 1e140 and no more
        a norm that is NaN or above 1e200     counts as zero, as if the record were not there
        a group whose sum has such a norm     counts as zero, the whole group
        a record whose layers' inputs or      counts as zero
        scaled slopes are beyond such numbers
        the sum overflows                     ``NonFiniteError``; clip norms in range cannot do that
        ====================================  =====================================================

    Gradients that count as zero are warned of in the log of ``secure_fu``, without their number.

    Models whose trainable layers are all ``nn.Linear`` on flat inputs never form single gradients; all others go
    through Opacus' ``GradSampleModule``, in chunks of at most 32 MiB. Dropout is active; its masks come from torch's
    global generator. Not to be shared between threads.

    Args:
        model: the model; its module is copied in float64.

    Raises:
        ArgumentError: Opacus cannot follow a layer; the message names what to use instead.
    """

    def __init__(self, model: FlatModel) -> None:
        self._model = model
        self._first_vector = model.vector()
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
            NonFiniteError: the sum overflows float64.
        """
        clip = Clip(clip_norm, self._model.dimension, normalise)
        total = self.scaled_sum(vector, records, lambda _, norms: clip.scales(norms), loss=loss)
        clip.warn()
        return total

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
        clip = Clip(clip_norm, self._model.dimension, normalise)
        if records.groups is None:
            raise DataError("the records have no groups; expected records with a group column for the group unit")
        total = self.scaled_sum(vector, records, lambda _, norms: clip.scales(norms), units=records.groups, loss=loss)
        clip.warn()
        return total

    def scaled_sum(
        self,
        vector: NDArray[np.float64],
        records: Records,
        scales: Callable[[slice, Tensor], Tensor],
        *,
        units: NDArray[Any] | None = None,
        loss: Loss = cross_entropy,
    ) -> NDArray[np.float64]:
        """Sum over records of a scale times the gradient of the record's loss; its bound is up to the scales.

        Args:
            scales: from the places of some records and the norms of their gradients, float64 (k,), to k scales.
                Whatever these are, a gradient whose norm is NaN or above 1e200 adds exactly zero.
            units: whose each record is, shape (n,): scales then go with units, in the order of :func:`numpy.unique`,
                and with the norms of the sums of their records' gradients.
            vector, records, loss: as of :meth:`clipped_sum`, and so are the errors.

        Returns:
            float64, shape (d,).
        """
        total = torch.zeros(self._model.dimension, dtype=torch.float64)
        if units is not None:
            for places, sums in self.unit_sums(vector, records, units, loss=loss):
                total += combine(sums, partial(scales, places))
            return finite(total)
        rule = self._rule(vector, records, loss)
        rows = max(1, _CHUNK_BYTES // rule.row_bytes(records.features))
        for start in range(0, len(records), rows):
            chunk = slice(start, start + rows)
            features = records.features[chunk].to(torch.float64)
            with self._explained(records):
                part = rule.scaled_sum(features, records.labels[chunk], loss, partial(scales, chunk))
            if part is None:
                raise ArgumentError("records", f"of shape {records.shape}", "the shape of the first records seen")
            total += part
        return finite(total)

    def unit_sums(
        self,
        vector: NDArray[np.float64],
        records: Records,
        units: NDArray[Any],
        *,
        loss: Loss = cross_entropy,
    ) -> Iterator[tuple[slice, list[Tensor]]]:
        """The sum of the gradients of each unit's records, as they are, for some units at a time.

        Args:
            units: whose each record is, shape (n,).
            vector, records, loss: as of :meth:`clipped_sum`, and so are the errors.

        Yields:
            the places of k units in the order of :func:`numpy.unique`, and for each parameter in flat order their sums,
            float64 (k, size).
        """
        rule = self._explicit_rule(vector, records, loss)
        unit_of = np.unique(units, return_inverse=True)[1]
        order = np.argsort(unit_of, kind="stable")
        starts = np.append(np.flatnonzero(np.diff(unit_of[order], prepend=-1)), len(order))
        # Half the memory for one row a unit, half for the records that are added to them.
        rows = max(1, _CHUNK_BYTES // 2 // rule.row_bytes(records.features))
        for first in range(0, len(starts) - 1, rows):
            last = min(first + rows, len(starts) - 1)
            sums = [torch.zeros(last - first, p.numel(), dtype=torch.float64) for p in rule.copy.parameters]
            for low in range(starts[first], starts[last], rows):
                chosen = order[low : min(low + rows, starts[last])]
                index, row = torch.from_numpy(chosen), torch.from_numpy(unit_of[chosen] - first)
                with self._explained(records):
                    parts = rule.gradients(records.features[index].to(torch.float64), records.labels[index], loss)
                for block, part in zip(sums, parts, strict=True):
                    block.index_add_(0, row, part)
            yield slice(first, last), sums

    def clip_factors(
        self, norms: NDArray[np.float64], *, clip_norm: float, normalise: bool = False
    ) -> NDArray[np.float64]:
        """What the sums multiply gradients of these norms with, by the very code that they use.

        For gradients that come from no record: an audit's canaries go through the same clip as records do.

        Args:
            norms: L2 norms, float64, shape (n,).
            clip_norm, normalise: as of :meth:`clipped_sum`.

        Returns:
            float64, shape (n,); 0 where a norm is NaN or above 1e200.

        Raises:
            ArgumentError: an argument does not fit.
        """
        if norms.ndim != 1 or norms.dtype != np.float64:
            raise ArgumentError("norms", f"{norms.dtype} of shape {norms.shape}", "float64 of shape (n,)")
        clip = Clip(clip_norm, self._model.dimension, normalise)
        factors = clip.scales(torch.tensor(norms)).numpy()
        clip.warn()
        return np.where(norms <= LARGEST_NORM, factors, 0.0)

    def _rule(self, vector: NDArray[np.float64], records: Records, loss: Loss) -> LinearGradients | ExplicitGradients:
        """The fastest way to gradients that holds for this module, with the model loaded."""
        vector = self._model.check_vector(vector)
        if self._linear is not None:
            if self._passes(self._linear, records, loss):
                self._linear.copy.load(vector)
                return self._linear
            self._linear = None
        return self._explicit_rule(vector, records, loss)

    def _explicit_rule(self, vector: NDArray[np.float64], records: Records, loss: Loss) -> ExplicitGradients:
        vector = self._model.check_vector(vector)
        if self._explicit is None:
            self._explicit = ExplicitGradients(self._model)
        if not self._passes(self._explicit, records, loss):
            raise ArgumentError(
                "module",
                type(self._model.module).__name__,
                "a module and a loss under which a record's gradient does not depend on the other records of its "
                "batch, every parameter being used by the forward pass of its own layer",
            )
        self._explicit.copy.load(vector)
        return self._explicit

    def _passes(self, rule: LinearGradients | ExplicitGradients, records: Records, loss: Loss) -> bool:
        """Whether the rule gives the gradients of lone records. Of `records` only the shape matters, see the class."""
        tested = self._tested.setdefault(loss, set())
        if rule in tested:
            return True
        # Within [0, 1): modules that take a root or a logarithm, or look up an index, can make something of it.
        made_up = torch.Generator().manual_seed(0)
        features = torch.rand(len(_PROBE), *records.shape, dtype=torch.float64, generator=made_up)
        labels = torch.zeros(len(_PROBE), dtype=torch.int64)
        alone = PrivateCopy(self._model)
        for copy in (alone, rule.copy):
            copy.load(self._first_vector)
            copy.set_dropout(False)
        found_norms = torch.zeros_like(_PROBE)

        def probe(measured: Tensor) -> Tensor:
            found_norms.copy_(measured)
            return _PROBE

        try:
            with self._explained(records):
                expected = alone.lone_gradients(features, labels, loss)
                found = rule.scaled_sum(features, labels, loss, probe)
        finally:
            rule.copy.set_dropout(True)
        if found is None:
            return False
        norms = row_norms(expected)
        usable = norms <= LARGEST_NORM
        norms, found_norms, expected = norms[usable], found_norms[usable], expected[usable]
        allowed = _PROBE_TOLERANCE * float(norms.sum()) + LEAST_NORM
        # A NaN among the found ones fails this, as it should.
        if not bool(row_norms((found - _PROBE[usable] @ expected)[None]) <= allowed):
            return False
        if not bool(((found_norms - norms).abs() <= allowed).all()):
            return False
        tested.add(rule)
        return True

    @contextmanager
    def _explained(self, records: Records) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # torch's own: it names shapes and dtypes, no values
            expected = f"a module that takes float64 features of shape {('n', *records.shape)}: {error}"
            raise ArgumentError("module", type(self._model.module).__name__, expected) from None
