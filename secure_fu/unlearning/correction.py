"""Correction: take back, in a few rounds, what each forgotten unit has contributed, while the others train on.

After PUF (Nguyen et al. 2025) and FedRecovery (Zhang et al. 2023), with each unit's own history clipped, so that the
release is differentially private in that unit; clipping a client's whole history would not be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from secure_fu.errors import ArgumentError
from secure_fu.learning import Records
from secure_fu.privacy import Unit, clip_l2
from secure_fu.protocol import LocalTask, RoundTerms
from secure_fu.training import Silo, clipped_gradients
from secure_fu.unlearning.joint import JointRounds, JointTask

__all__ = ["Correction"]


# A unit's clipped history is the same in every round of the same unit and clip norm; so many bytes of histories are
# kept from one such round to the next.
_KEPT_BYTES: Final = 2**28


class _CorrectionTask(JointTask):
    def __init__(self, silo: Silo) -> None:
        super().__init__(silo)
        self._kept: dict[int, NDArray[np.float64]] = {}
        self._kept_for: tuple[Unit, float] | None = None

    def _of_units(
        self, sampled: NDArray[np.bool_], model: NDArray[np.float32], terms: RoundTerms
    ) -> NDArray[np.float64]:
        total = np.zeros(len(model))
        for unit in _units(self._silo.records, sampled, terms.unit):
            total -= self._clipped_history(unit, terms)
        return total

    def _of_client(self, model: NDArray[np.float32], terms: RoundTerms) -> NDArray[np.float64]:
        # The server descends, so the sum of the client's updates is sent as it is to take it back.
        own = self._silo.own_updates
        return np.zeros(len(model)) if own is None else clip_l2(own, terms.clip_norm)

    def _clipped_history(self, unit: NDArray[np.bool_], terms: RoundTerms) -> NDArray[np.float64]:
        """Sum of what one unit contributed to training, recomputed from the models of then, clipped as a whole."""
        silo = self._silo
        # Clipped to another norm, they may be too long for this round.
        if self._kept_for != (terms.unit, terms.clip_norm):
            self._kept, self._kept_for = {}, (terms.unit, terms.clip_norm)
        first = int(np.argmax(unit))
        if first in self._kept:
            return self._kept[first]
        total = np.zeros(silo.model.dimension)
        for entry in silo.history:
            part = entry.sampled & unit
            if part.any():
                total += clipped_gradients(silo, entry.model, silo.records.subset(part), terms)
        clipped = clip_l2(total, terms.clip_norm)
        if (len(self._kept) + 1) * clipped.nbytes <= _KEPT_BYTES:
            self._kept[first] = clipped
        return clipped


def _units(records: Records, sampled: NDArray[np.bool_], unit: Unit) -> Iterator[NDArray[np.bool_]]:
    """One mask for each sampled unit."""
    if unit is Unit.GROUP and records.groups is not None:
        for group in np.unique(records.groups[sampled]):
            yield sampled & (records.groups == group)
        return
    for position in np.flatnonzero(sampled):
        yield np.arange(len(records)) == position


@dataclass(frozen=True, kw_only=True)
class Correction(JointRounds):
    """Minus each forgotten unit's own clipped history, and the others' training step, in the same rounds."""

    name: ClassVar[str] = "correction"
    title: ClassVar[str] = "Correction"
    what: ClassVar[str] = "take back each forgotten unit's own clipped history while the others train on"

    def client_tasks(self, silo: Silo) -> Mapping[str, LocalTask]:
        """See :meth:`~secure_fu.unlearning.UnlearningMethod.client_tasks`.

        Raises:
            ArgumentError: the client has something to forget and kept no history of it.
        """
        if silo.forgotten.any() and not silo.history and silo.own_updates is None:
            raise ArgumentError("keep_history", False, f"True, so that client {silo.name!r} has a history to take back")
        return {self.purpose: _CorrectionTask(silo)}
