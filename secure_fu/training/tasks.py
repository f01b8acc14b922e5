"""What clients run in a training round: sums of clipped gradients of a secret sample, or one clipped local update."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secure_fu.errors import ArgumentError
from secure_fu.learning import Loss, Records, cross_entropy, poisson_sample, poisson_sample_groups
from secure_fu.privacy import Unit
from secure_fu.protocol import LocalTask, RoundTerms
from secure_fu.protocol.sums import RandomStream
from secure_fu.training.local_updates import single_update
from secure_fu.training.silo import Silo

__all__ = ["TrainingTask", "check_client_rates", "clipped_gradients", "own_update", "sample_units", "training_task"]


def sample_units(records: Records, unit: Unit, rate: float, stream: RandomStream) -> NDArray[np.bool_]:
    """A secret Poisson sample of records, or of whole groups.

    Args:
        rate: of each unit; 0 samples none.

    Returns:
        shape (n,).
    """
    if rate == 0.0 or len(records) == 0:
        return np.zeros(len(records), dtype=np.bool_)
    if unit is Unit.GROUP:
        return poisson_sample_groups(records, rate, stream)
    return poisson_sample(len(records), rate, stream)


def clipped_gradients(
    silo: Silo,
    model: NDArray[np.float32],
    records: Records,
    terms: RoundTerms,
    *,
    loss: Loss = cross_entropy,
    normalise: bool = False,
) -> NDArray[np.float64]:
    """Sum over the units in `records` of their gradients, each with norm at most `terms.clip_norm`; shape (d,).

    A gradient that is not finite counts as zero.

    Raises:
        ArgumentError: the client unit.
        DataError: no group column for the group unit.
    """
    vector = model.astype(np.float64)
    if terms.unit is Unit.RECORD:
        return silo.gradients.clipped_sum(vector, records, clip_norm=terms.clip_norm, loss=loss, normalise=normalise)
    if terms.unit is Unit.GROUP:
        return silo.gradients.clipped_group_sum(
            vector, records, clip_norm=terms.clip_norm, loss=loss, normalise=normalise
        )
    raise ArgumentError("unit", terms.unit.value, "the record or group unit for sums of gradients")


def check_client_rates(terms: RoundTerms) -> None:
    """A client as a unit is in a sum or is not: its participation is public, so that no rate between amplifies.

    Raises:
        ArgumentError: the unit is the client, and a rate is neither 0 nor 1.
    """
    if terms.unit is Unit.CLIENT:
        for name, rate in (("retained_rate", terms.retained_rate), ("forgotten_rate", terms.forgotten_rate)):
            if rate not in (0.0, 1.0):
                raise ArgumentError(name, rate, "0 or 1 for the client unit")


class TrainingTask:
    """One round of training on what the client retains. A client that leaves contributes zero: self-exclusion.

    Sums are gradients, or, for the client unit, the negative of the clipped update, so that the server always descends.
    No unit enters at a retained rate of 0, which costs it nothing.

    Args:
        silo: the client's private side.
    """

    def __init__(self, silo: Silo) -> None:
        self._silo = silo

    def contribution(self, model: NDArray[np.float32], terms: RoundTerms, stream: RandomStream) -> NDArray[np.float64]:
        """See :class:`~secure_fu.protocol.LocalTask`.

        Raises:
            ArgumentError: a rate that the unit cannot have, or a model of another length.
            DataError: no group column for the group unit.
            HistoryError: what the client remembers of the round cannot be written.
        """
        check_client_rates(terms)
        if terms.unit is Unit.CLIENT:
            return self._update(model, terms)
        silo = self._silo
        sampled = sample_units(silo.records, terms.unit, terms.retained_rate, stream) & ~silo.forgotten
        gradients = clipped_gradients(silo, model, silo.records.subset(sampled), terms)
        # Only then: a history with models that gradients cannot be made of would fail later, for some records alone.
        silo.remember_sample(terms.round_number, model, sampled)
        return gradients

    def _update(self, model: NDArray[np.float32], terms: RoundTerms) -> NDArray[np.float64]:
        update = own_update(self._silo, model, terms)
        if update is None:
            return np.zeros(self._silo.model.dimension)
        self._silo.remember_update(terms.round_number, model, update)
        return -update


def own_update(silo: Silo, model: NDArray[np.float32], terms: RoundTerms) -> NDArray[np.float64] | None:
    """A client's clipped update by what it retains, shape (d,); None if it leaves, or at a retained rate of 0.

    Raises:
        ArgumentError: a model of another length; also of who leaves, for it must not show who does.
    """
    if model.shape != (silo.model.dimension,):
        raise ArgumentError("model", f"of shape {model.shape}", f"shape ({silo.model.dimension},)")
    if silo.leaves or terms.retained_rate == 0.0:
        return None
    if silo.stacked is not None:
        return silo.stacked.update(silo.name, model, terms)
    return single_update(silo.name, silo.model, model, silo.retained_records, terms)


def training_task(silo: Silo) -> LocalTask:
    """The client's training code over its silo."""
    return TrainingTask(silo)
