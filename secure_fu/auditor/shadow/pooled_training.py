"""The training sums of all clients of a shadow run in one pass over all that they sampled: a matter of speed alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secure_fu.learning import FlatModel, PerRecordGradients, cross_entropy
from secure_fu.learning._linear import LARGEST_NORM, LinearGradients, row_norms
from secure_fu.learning.losses import checked_losses
from secure_fu.privacy import Unit
from secure_fu.protocol import RoundTerms
from secure_fu.protocol.sums import RandomStream
from secure_fu.training import Silo, clipped_gradients, sample_units

__all__ = ["PooledTraining"]

_CHUNK_BYTES: Final = 2**26
_TOLERANCE: Final = 1e-9


class PooledTraining:
    """What :class:`~secure_fu.training.TrainingTask` gives at each of several clients, for the record unit.

    One forward and one backward pass over the records that all clients sampled, then a sum of clipped gradients for
    each client. Samples come from the clients' own streams as in the task, and clients remember them: the result is the
    task's up to rounding, which the first round tests on one client, and goes on without pooling where it is not.

    Args:
        silos: of the clients.
        model: of the federation; :meth:`covers` it.
        gradients: the federation's own, which takes over where pooling does not hold.
    """

    def __init__(self, silos: Mapping[str, Silo], model: FlatModel, gradients: PerRecordGradients) -> None:
        self._silos = dict(silos)
        self._sums = _SumsOfParts(model)
        self._gradients = gradients
        self._holds: bool | None = None

    @staticmethod
    def covers(model: FlatModel, unit: Unit) -> bool:
        """Whether there is anything to gain: the record unit, and trainable layers that are all linear."""
        return unit is Unit.RECORD and LinearGradients.covers(model)

    def contributions(
        self,
        clients: tuple[str, ...],
        model: NDArray[np.float32],
        terms: RoundTerms,
        streams: Mapping[str, RandomStream],
    ) -> NDArray[np.float64]:
        """Each client's sum of clipped gradients of its sample: shape (clients, d). A client without a silo adds zero.

        Raises:
            as :meth:`~secure_fu.training.TrainingTask.contribution`.
        """
        sampled: dict[str, NDArray[np.bool_]] = {}
        for name in clients:
            if name in self._silos:
                silo = self._silos[name]
                drawn = sample_units(silo.records, terms.unit, terms.retained_rate, streams[name])
                sampled[name] = drawn & ~silo.forgotten
        rows = np.zeros((len(clients), len(model)))
        places = [place for place, name in enumerate(clients) if name in sampled and sampled[name].any()]
        if self._holds is None and places:
            self._holds = self._test(clients[places[0]], sampled[clients[places[0]]], model, terms)
        self._fill(rows, places, clients, sampled, model, terms)
        for name, marks in sampled.items():
            self._silos[name].remember_sample(terms.round_number, model, marks)
        return rows

    def _fill(
        self,
        rows: NDArray[np.float64],
        places: list[int],
        clients: tuple[str, ...],
        sampled: Mapping[str, NDArray[np.bool_]],
        model: NDArray[np.float32],
        terms: RoundTerms,
    ) -> None:
        if not self._holds:
            for place in places:
                rows[place] = self._lone(clients[place], sampled[clients[place]], model, terms)
            return
        self._sums.copy.load(model.astype(np.float64))
        chunk: list[int] = []
        count = 0
        largest = (
            _CHUNK_BYTES // self._sums.row_bytes(self._silos[clients[places[0]]].records.features) if places else 0
        )
        for place in places:
            chunk.append(place)
            count += int(sampled[clients[place]].sum())
            if count >= largest or place == places[-1]:
                rows[chunk] = self._together([(clients[one], sampled[clients[one]]) for one in chunk], terms.clip_norm)
                chunk, count = [], 0

    def _together(self, parts: list[tuple[str, NDArray[np.bool_]]], clip_norm: float) -> NDArray[np.float64]:
        features, labels = [], []
        for name, marks in parts:
            records, index = self._silos[name].records, torch.from_numpy(np.flatnonzero(marks))
            features.append(records.features.index_select(0, index))
            labels.append(records.labels.index_select(0, index))
        counts = [len(own) for own in labels]
        found: NDArray[np.float64] = self._sums.of(torch.cat(features).double(), torch.cat(labels), counts, clip_norm)
        return found

    def _lone(
        self, name: str, marks: NDArray[np.bool_], model: NDArray[np.float32], terms: RoundTerms
    ) -> NDArray[np.float64]:
        silo = self._silos[name]
        return clipped_gradients(silo, model, silo.records.subset(marks), terms)

    def _test(self, name: str, marks: NDArray[np.bool_], model: NDArray[np.float32], terms: RoundTerms) -> bool:
        """Whether the sum of one client is that of its task."""
        expected = self._lone(name, marks, model, terms)
        self._sums.copy.load(model.astype(np.float64))
        try:
            (found,) = self._together([(name, marks)], terms.clip_norm)
        except _NotPlain:
            return False
        allowed = _TOLERANCE * (terms.clip_norm + float(np.abs(expected).max()))
        return bool((np.abs(found - expected) <= allowed).all())


class _NotPlain(Exception):
    """A layer did not run once on (n, inputs)."""


class _SumsOfParts(LinearGradients):
    """Sums of clipped gradients of consecutive parts of a batch."""

    def of(self, features: Tensor, labels: Tensor, counts: list[int], clip_norm: float) -> NDArray[np.float64]:
        """Row k is the sum over the k-th part, `counts[k]` records long: float64, (parts, d)."""
        self._runs = {}
        losses = checked_losses(cross_entropy, self.copy.module(features), labels)
        collected, self._runs = self._runs, {}
        runs = [collected.get(layer, []) for layer, _, _ in self._parts]
        if any(len(run) != 1 or run[0][0].shape[:-1] != (len(features),) for run in runs):
            raise _NotPlain
        backward = torch.autograd.grad(losses.sum(), [run[0][1] for run in runs])
        norms = torch.zeros(len(features), dtype=torch.float64)
        for (_, weight, bias), run, g in zip(self._parts, runs, backward, strict=True):
            width = torch.zeros_like(norms) if weight is None else row_norms(run[0][0])
            if bias is not None:
                width = torch.hypot(width, torch.ones_like(norms[:1]))
            norms = torch.hypot(norms, width * row_norms(g))
        kept = norms <= LARGEST_NORM
        factors = torch.where(kept, (clip_norm / norms.clamp(min=1e-140)).clamp(max=1.0), torch.zeros_like(norms))
        totals = torch.zeros(len(counts), self.copy.dimension, dtype=torch.float64)
        for (_, weight, bias), run, g in zip(self._parts, runs, backward, strict=True):
            inputs = torch.where(kept[:, None], run[0][0], 0.0) if not bool(kept.all()) else run[0][0]
            slopes = torch.where(kept[:, None], g, 0.0) if not bool(kept.all()) else g
            scaled = slopes * factors[:, None]
            for total, own, a in zip(totals, torch.split(scaled, counts), torch.split(inputs, counts), strict=True):
                if weight is not None:
                    torch.mm(own.T, a, out=total[weight.slice].view(weight.shape))
                if bias is not None:
                    torch.sum(own, dim=0, out=total[bias.slice])
        return np.asarray(totals.numpy())
