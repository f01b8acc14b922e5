"""The clients, and who opens, in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from secure_fu.deletion import SignedBatch
from secure_fu.errors import AlreadyForgotten, ArgumentError, HistoryError
from secure_fu.federation.fleet import Concerned, Instruction, Request
from secure_fu.federation.marks import Marks, count_units, holders
from secure_fu.federation.parties import Parties
from secure_fu.federation.parting import Parting
from secure_fu.learning import Records
from secure_fu.privacy import Unit
from secure_fu.protocol import InProcessSums, LocalTask, RoundTerms, Transcript
from secure_fu.protocol.sums import RandomStream
from secure_fu.training import TRAIN, Silo, TrainingState, check_whole_units, training_task

__all__ = ["LocalFleet"]


class _Present:
    """Training on what a client has when the round comes."""

    def __init__(self, silos: Mapping[str, Silo], name: str) -> None:
        self._silos = silos
        self._name = name

    def contribution(self, model: NDArray[np.float32], terms: RoundTerms, stream: RandomStream) -> NDArray[np.float64]:
        """See :class:`~secure_fu.training.TrainingTask`."""
        return training_task(self._silos[self._name]).contribution(model, terms, stream)


class LocalFleet:
    """See :class:`~secure_fu.federation.fleet.Fleet`.

    Args:
        parties: their keys, records and machines.
        records: of each client, as they were brought; positions in requests are theirs.
        silos: of each client, as they are now; replaced by those without the data when a deletion is executed.
        unit: privacy unit.
        gone: which records have been forgotten, by client, as they were brought.
    """

    def __init__(
        self,
        *,
        parties: Parties,
        records: Mapping[str, Records],
        silos: dict[str, Silo],
        unit: Unit,
        gone: Callable[[], Marks],
    ) -> None:
        self._parties = parties
        self._records = records
        self._silos = silos
        self._unit = unit
        self._gone = gone
        self._ordered: tuple[str, dict[str, Silo], dict[str, dict[str, LocalTask]]] | None = None

    def identify(self, request: Request) -> Concerned:
        """See :class:`~secure_fu.federation.fleet.Fleet`."""
        if isinstance(request, SignedBatch):
            raise ArgumentError("request", request.describe(), "a DeletionRequest or a DeletionBatch")
        gone = self._gone()
        marks = request.identify_all(self._records)
        for name, mask in marks.items():
            check_whole_units(self._records[name], mask, self._unit)
        marks = {name: mask & ~gone[name] if name in gone else mask for name, mask in marks.items()}
        if not any(mask.any() for mask in marks.values()):
            raise AlreadyForgotten(f"request is {request.describe()!r}; all of it has been forgotten before")
        return self.concerned(marks)

    def concerned(self, marks: Marks) -> Concerned:
        """Whom marks of records, as they were brought, concern; without the clients of which nothing is left."""
        gone = self._gone()
        forgotten, retained = holders(
            {name: self._present(name, mask) for name, mask in marks.items() if not (name in gone and gone[name].all())}
        )
        units = sum(count_units(self._records[name], mask, self._unit) for name, mask in marks.items() if mask.any())
        return Concerned(forgotten=tuple(forgotten), retained=tuple(retained), units=units, marks=marks)

    def _present(self, name: str, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """A mark of records as they were brought, as one of those that are left."""
        gone = self._gone().get(name)
        return mask if gone is None else mask[~gone]

    def prepare(self, instruction: Instruction) -> None:
        """See :class:`~secure_fu.federation.fleet.Fleet`."""
        silos = {
            name: silo.forgetting(
                self._present(name, instruction.concerned.marks[name]),
                self._unit,
                continues_after=instruction.continues_after,
            )
            for name, silo in self._silos.items()
        }
        tasks = {name: dict(instruction.method.client_tasks(silo)) for name, silo in silos.items()}
        self._ordered = (instruction.branch, silos, tasks)

    def part(self, before: TrainingState, after: TrainingState, before_wiping: Callable[[Parting], None]) -> None:
        """Let each client that has records to wipe look at them once more, with the models before and after."""
        for name, silo in self._prepared.items():
            if silo.forgotten.any():
                before_wiping(Parting(client=name, forgotten=silo.forgotten_records, before=before, after=after))

    @property
    def _prepared(self) -> Mapping[str, Silo]:
        return {} if self._ordered is None else self._ordered[1]

    def wipe(self, instruction: Instruction) -> None:
        """See :class:`~secure_fu.federation.fleet.Fleet`."""
        self._wipe(self._prepared)
        self._ordered = None

    def wipe_again(self, unwiped: range) -> None:
        """Do again what the last deletion has to destroy, for a process that may have ended in the middle of it.

        Args:
            unwiped: numbers of the rounds that nobody may remember.

        Raises:
            HistoryError: as of a deletion.
        """
        silos: dict[str, Silo] = {}
        for name, silo in self._silos.items():
            mask = self._gone().get(name, np.zeros(len(silo.records), dtype=np.bool_))
            stale = silo.history is not None and any(number in unwiped for number in silo.history.rounds)
            if mask.any() or stale:
                silos[name] = silo.forgetting(mask, self._unit, continues_after=unwiped.start - 1 if stale else None)
        self._wipe(silos)

    def _wipe(self, silos: Mapping[str, Silo]) -> None:
        """Take away the marked records, and what must not be remembered; every client, whatever fails at one of them.

        Raises:
            HistoryError: a file cannot be destroyed. Its client goes on without a history, and nobody has the records.
        """
        for name, silo in silos.items():
            self._silos[name] = silo.without_records()
        failed: list[HistoryError] = []
        for name, silo in silos.items():
            try:
                self._silos[name] = silo.erased()
            except HistoryError as error:
                failed.append(error)
        histories = [silo.history for silo in self._silos.values() if silo.history is not None]
        for archive in {history.archive for history in histories}:
            archive.keep_only(digest for history in histories for digest in history.digests)
        if failed:
            raise failed[0]

    def begin(
        self, branch: str, *, parent: str | None, transcript: Transcript, first_round: int, purpose: str
    ) -> InProcessSums:
        """See :class:`~secure_fu.federation.fleet.Fleet`."""
        return self._parties.sums(
            branch,
            parent=parent,
            tasks=self._tasks(branch),
            transcript=transcript,
            first_round=first_round,
            purpose=purpose,
        )

    def reopen(self, branch: str, *, transcript: Transcript) -> InProcessSums:
        """See :class:`~secure_fu.federation.fleet.Fleet`."""
        return self._parties.reopened_sums(branch, tasks=self._tasks(branch), transcript=transcript)

    def _tasks(self, branch: str) -> dict[str, dict[str, LocalTask]]:
        ordered = self._ordered[2] if self._ordered is not None and self._ordered[0] == branch else {}
        return {name: {TRAIN: _Present(self._silos, name), **ordered.get(name, {})} for name in self._silos}
