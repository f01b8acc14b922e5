"""Correction: take back, in a few rounds, what each forgotten unit has contributed, while the others train on.

After PUF (Nguyen et al. 2025) and FedRecovery (Zhang et al. 2023), with each unit's own history clipped, so that the
release is differentially private in that unit; clipping a client's whole history would not be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from secure_fu.learning import Records
from secure_fu.learning.unit_rows import clipped_rows
from secure_fu.privacy import Unit, clip_l2
from secure_fu.protocol import LocalTask, RoundTerms
from secure_fu.training import Silo
from secure_fu.unlearning.joint import JointRounds, JointTask

__all__ = ["Correction"]


# A unit's clipped history is the same in every round of the same unit and clip norm; so many bytes of histories are
# kept from one such round to the next, and so many are in work at once.
_KEPT_BYTES: Final = 2**28
_WORK_BYTES: Final = 2**26


class _CorrectionTask(JointTask):
    """The training step of retained units, minus the clipped history of each forgotten unit.

    Formal guarantees:
        What a unit adds is a function of its own records, of its own secret samples and of released models, and is no
        longer than the clip norm: its history is clipped as a whole, in float64.
    """

    def __init__(self, silo: Silo) -> None:
        super().__init__(silo)
        self._history = silo.checked_history()
        self._kept: dict[int, NDArray[np.float64]] = {}
        self._kept_for: tuple[Unit, float] | None = None
        self._own: NDArray[np.float64] | None = None

    def _of_units(
        self, sampled: NDArray[np.bool_], model: NDArray[np.float32], terms: RoundTerms
    ) -> NDArray[np.float64]:
        # Clipped to another norm, they may be too long for this round.
        if self._kept_for != (terms.unit, terms.clip_norm):
            self._kept, self._kept_for = {}, (terms.unit, terms.clip_norm)
        total = np.zeros(len(model))
        unit_of = _units(self._silo.records, terms.unit)
        units = np.unique(unit_of[sampled]).tolist()
        rows = max(1, _WORK_BYTES // total.nbytes)
        for start in range(0, len(units), rows):
            chunk = units[start : start + rows]
            missing = [unit for unit in chunk if unit not in self._kept]
            histories = dict(zip(missing, self._clipped_histories(missing, unit_of, terms), strict=True))
            for unit in chunk:
                history = self._kept[unit] if unit in self._kept else histories[unit]
                total -= history
                if (len(self._kept) + 1) * total.nbytes <= _KEPT_BYTES:
                    self._kept.setdefault(unit, history.copy())  # a view would keep the whole chunk
        return total

    def _of_client(self, model: NDArray[np.float32], terms: RoundTerms) -> NDArray[np.float64]:
        # The server descends, so the sum of the client's updates is sent as it is to take it back.
        if self._own is None:
            self._own = self._history.total_update()
        return clip_l2(self._own, terms.clip_norm)

    def _clipped_histories(
        self, units: list[int], unit_of: NDArray[np.int64], terms: RoundTerms
    ) -> NDArray[np.float64]:
        """Sum of what each unit contributed to training, clipped as a whole: shape (units, d), in ascending order.

        One pass over the rounds of then, each with one batch of gradients: of the units that were in its sample.
        """
        records = self._silo.records
        sums = np.zeros((len(units), self._silo.model.dimension))
        theirs = np.isin(unit_of, units)
        for entry in self._history if units else ():
            part = self._silo.sampled_then(entry) & theirs
            if not part.any():
                continue
            model = self._history.archive.get(entry.digest).astype(np.float64)
            places = np.searchsorted(units, np.unique(unit_of[part]))
            sums[places] += clipped_rows(
                self._silo.gradients, model, records.subset(part), unit_of[part], clip_norm=terms.clip_norm
            )
        return clip_l2(sums, terms.clip_norm)


def _units(records: Records, unit: Unit) -> NDArray[np.int64]:
    """For each record the number of the unit that it belongs to, shape (n,)."""
    if unit is Unit.GROUP and records.groups is not None:
        return np.asarray(np.unique(records.groups, return_inverse=True)[1], dtype=np.int64)
    return np.arange(len(records), dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class Correction(JointRounds):
    """Minus each forgotten unit's own clipped history, and the others' training step, in the same rounds.

    Every client runs the same code in every round, and uploads look the same, so that an upload does not show who
    takes something back. All must have kept a history, for a round that fails at some of them would show who does.
    """

    name: ClassVar[str] = "correction"
    title: ClassVar[str] = "Correction"
    needs_history: ClassVar[bool] = True
    what: ClassVar[str] = "take back each forgotten unit's own clipped history while the others train on"

    def client_tasks(self, silo: Silo) -> Mapping[str, LocalTask]:
        """See :meth:`~secure_fu.unlearning.UnlearningMethod.client_tasks`.

        Raises:
            HistoryError: the client kept no history, whether it has something to forget or not; or it is damaged.
        """
        return {self.purpose: _CorrectionTask(silo)}
