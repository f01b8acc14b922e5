"""The privacy ledger: what every release cost every client, checked before it happens, durable before it returns.

Guarantee: no round is admitted that could take a client's units, forgotten or retained, beyond the budget, in its
branch or in one that comes from it; :mod:`secure_fu.privacy.budget` says what the budget then guarantees. A round is
charged to its whole cohort from ``reserve`` on, so a crash at any moment leaves it charged; ``commit`` takes it off
those who are not in the released sum, ``void`` off everybody, and only for a round whose roll the server has not sent
and never will.

Branches: a simulation trains once and then tries several ways of unlearning side by side. Each is a branch that
inherits what its ancestors spent. They are counterfactuals: the figures of one branch assume that the others are not
published; publishing several adds. Where nothing is ever tried out, because other people's parties take part in each
branch, the ledger is opened with ``trials=False``: then no round is admitted either that could take a client beyond the
budget by the rounds of all branches together, as the clients' own records reckon.

Edge cases: a client that joins late has spent nothing before. A deletion must never be blocked by an exhausted
budget: that is what ``Budget.deletion_reserve`` is for; if even that is used up, what remains is publishing a
checkpoint from before the client took part, or withdrawing the model.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from secure_fu.errors import ArgumentError, LedgerError, ReuseError
from secure_fu.interrupts import interrupts_wait
from secure_fu.privacy._checks import positive_integer, probability
from secure_fu.privacy.budget import Budget
from secure_fu.privacy.epsilon import EpsilonEntry, Phase, Subject, View
from secure_fu.privacy.events import GaussianSumEvent
from secure_fu.privacy.ledger_file import LedgerFile
from secure_fu.privacy.ledger_records import EventStatus, LedgerEvent, Reservation
from secure_fu.privacy.renyi_filter import check_round
from secure_fu.privacy.spending import Spending, largest_epsilon
from secure_fu.privacy.units import Unit

__all__ = ["EventStatus", "LedgerEvent", "PrivacyLedger", "Reservation"]

_NO_ROUND = -1
_ALL = "all branches"


def _names(argument: str, names: Collection[str]) -> tuple[str, ...]:
    """Sorted names; ArgumentError unless there is at least one and all are distinct and not empty."""
    if isinstance(names, str) or not all(names):
        raise ArgumentError(argument, names, "a collection of non-empty client names")
    if not names or len(set(names)) != len(names):
        raise ArgumentError(argument, f"{len(names)} names, {len(set(names))} of them distinct", "distinct names")
    return tuple(sorted(names))


def _dearer(charges: Mapping[Subject, GaussianSumEvent | None]) -> dict[Subject, GaussianSumEvent | None]:
    """A round's charge for who is not known to be forgotten or retained."""
    known = [charge for charge in charges.values() if charge is not None]
    return {Subject.RETAINED: max(known, key=lambda one: one.sampling_rate, default=None)}


class PrivacyLedger:
    """The single source of truth about privacy spent; one process at a time, one thread.

    Make one with :meth:`create` or :meth:`open`, use it as a context manager or :meth:`close` it.
    """

    def __init__(self, file: LedgerFile, *, trials: bool = True) -> None:
        self._file = file
        self._everything = None if trials else Spending()
        self._budget = file.budget()
        self._parents: dict[str, str | None] = {}
        for name, parent in file.branches().items():
            if parent is not None and parent not in self._parents:
                raise LedgerError(f"{file.path} is damaged: branch {name!r} comes before its parent {parent!r}")
            self._parents[name] = parent
        self._last_round = dict.fromkeys(self._parents, _NO_ROUND)
        self._open: dict[int, LedgerEvent] = {}
        self._newest = 0
        self._spending = Spending()
        for event in file.events():
            self._newest = event.event_id
            self._last_round[event.branch] = max(self._last_round[event.branch], event.round_number)
            self._spending.rows(event.cohort)
            self._spend(event, event.charged, +1)
            if event.status is EventStatus.RESERVED:
                self._open[event.event_id] = event

    @classmethod
    def create(cls, path: Path, *, budget: Budget) -> PrivacyLedger:
        """Make a new ledger file.

        Raises:
            LedgerError: the file exists or cannot be written.
        """
        return cls(LedgerFile.create(path, budget))

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False, trials: bool = True) -> PrivacyLedger:
        """Open an existing ledger; ``read_only`` for one that nobody is writing, as in a finished run.

        With ``trials=False`` each round is also held against what all branches together have charged, at the dearer of
        each round's charges: a branch that was given up counts in all that comes later, for what it released is known.
        Rounds that were reserved and never settled are charged to their whole cohorts; see :meth:`pending`.

        Raises:
            LedgerError: the file is missing, damaged, of another version, or open for writing in another process.
        """
        file = LedgerFile.open(path, read_only=read_only)
        try:
            return cls(file, trials=trials)
        except BaseException:
            file.close()
            raise

    def close(self) -> None:
        """Release the file; a second call does nothing."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"PrivacyLedger({str(self._file.path)!r})"

    def __contains__(self, client: str) -> bool:
        """Whether a client was in some cohort."""
        return client in self._spending

    # Branches

    @property
    def budget(self) -> Budget:
        """The budget that the ledger was made with."""
        return self._budget

    @property
    def branches(self) -> dict[str, str | None]:
        """Each branch's parent, None for a root, in the order in which they were made."""
        return dict(self._parents)

    def branch(self, name: str, *, parent: str | None = None) -> None:
        """Start a branch that inherits what ``parent`` and its ancestors spent, and still will spend.

        Raises:
            ArgumentError: the name is empty, or the parent unknown.
            LedgerError: the branch exists.
        """
        if not name:
            raise ArgumentError("name", name, "a non-empty branch name")
        if parent is not None:
            self._known_branch("parent", parent)
        if name in self._parents:
            raise LedgerError(f"branch {name!r} exists in {self._file.path}")
        with interrupts_wait():
            self._file.add_branch(name, parent)
            self._parents[name] = parent
            self._last_round[name] = _NO_ROUND

    def _known_branch(self, argument: str, name: str) -> None:
        if name not in self._parents:
            raise ArgumentError(argument, name, f"one of the ledger's branches, {sorted(self._parents)}")

    def _known_client(self, client: str) -> None:
        if client not in self._spending:
            raise ArgumentError("client", client, "a client that was in a cohort of this ledger")

    def _lineage(self, branch: str) -> tuple[str, ...]:
        """The branch and its ancestors."""
        lineage = [branch]
        while (parent := self._parents[lineage[-1]]) is not None:
            lineage.append(parent)
        return tuple(lineage)

    # Rounds

    def reserve(
        self,
        branch: str,
        *,
        round_number: int,
        purpose: str,
        phase: Phase,
        charges: Mapping[Subject, GaussianSumEvent | None],
        cohort: Collection[str],
    ) -> Reservation:
        """Check that the round fits everybody's budget, and charge it to the whole cohort; durable on return.

        Args:
            branch: name of a branch.
            round_number: at least 0 and above every earlier one of the branch.
            purpose: what the round is for, as its header says.
            phase: ``Phase.TRAINING`` or ``Phase.UNLEARNING``.
            charges: for each :class:`Subject` the round as its units see it, None where it touches none of them. The
                same for each client of the cohort, for who is unlearning is not public.
            cohort: names of the clients that may take part.

        Raises:
            ArgumentError: an argument is outside its domain.
            LedgerError: the round number is not above the branch's last one, or the file cannot be written.
            BudgetExceededError: the round does not fit somebody's budget; nothing is written.
        """
        self._known_branch("branch", branch)
        if isinstance(round_number, bool) or round_number < 0:
            raise ArgumentError("round_number", round_number, "an integer of at least 0")
        if not purpose:
            raise ArgumentError("purpose", purpose, "the purpose of the round's header")
        if phase not in (Phase.TRAINING, Phase.UNLEARNING):
            raise ArgumentError("phase", phase, "Phase.TRAINING or Phase.UNLEARNING")
        if set(charges) != set(Subject):
            raise ArgumentError("charges", sorted(s.value for s in charges), "an event or None for each Subject")
        for charge in charges.values():
            if charge is not None and charge.sampling_rate < 1.0 and self._budget.unit is Unit.CLIENT:
                raise ArgumentError(
                    "sampling_rate", charge.sampling_rate, "1.0 for the client unit: who took part is public"
                )
        members = _names("cohort", cohort)
        if round_number <= self._last_round[branch]:
            raise LedgerError(
                f"round {round_number} of branch {branch!r} is out of order: its last was {self._last_round[branch]}"
            )
        lineages = {name: self._lineage(name) for name in self._parents}
        check_round(
            self._budget,
            self._spending,
            lineages={name: lineage for name, lineage in lineages.items() if branch in lineage},
            round_name=f"round {round_number} of branch {branch!r}",
            phase=phase,
            charges=charges,
            cohort=members,
        )
        if self._everything is not None:
            check_round(
                self._budget,
                self._everything,
                lineages={_ALL: (_ALL,)},
                round_name=f"round {round_number} of branch {branch!r}",
                phase=phase,
                charges=_dearer(charges),
                cohort=members,
            )
        event = LedgerEvent(
            event_id=self._newest + 1,
            branch=branch,
            round_number=round_number,
            purpose=purpose,
            phase=phase,
            status=EventStatus.RESERVED,
            charges=dict(charges),
            cohort=members,
            participants=None,
            void_reason=None,
        )
        with interrupts_wait():
            self._file.add_reserved(event)
            self._spend(event, members, +1)
            self._open[event.event_id] = event
            self._newest = event.event_id
            self._last_round[branch] = round_number
        return event.reservation

    def commit(self, reservation: Reservation, participants: Collection[str]) -> None:
        """Record that the round was released with exactly these clients in the sum; durable on return.

        Raises:
            ArgumentError: participants is empty or not inside the cohort.
            ReuseError: the round is already settled.
            LedgerError: the reservation is not this ledger's, or the file cannot be written.
        """
        event = self._unsettled(reservation)
        members = _names("participants", participants)
        strangers = sorted(set(members) - set(event.cohort))
        if strangers:
            raise ArgumentError("participants", strangers, "only clients of the reserved cohort")
        with interrupts_wait():
            self._file.set_committed(event.event_id, members)
            self._spend(event, set(event.cohort) - set(members), -1)
            del self._open[event.event_id]

    def void(self, reservation: Reservation, *, reason: str) -> None:
        """Record that the round was never opened, and give its charge back; durable on return.

        Only for a round whose sum was never sent to whoever holds its opening key. The ledger takes the caller's word:
        the key may still exist, so this is safe with an honest server only. That no answer came is no reason.

        Raises:
            ArgumentError: the reason is empty.
            ReuseError: the round is already settled.
            LedgerError: the reservation is not this ledger's, or the file cannot be written.
        """
        event = self._unsettled(reservation)
        if not reason.strip():
            raise ArgumentError("reason", reason, "why the round is known not to have been opened")
        with interrupts_wait():
            self._file.set_void(event.event_id, reason)
            self._spend(event, event.cohort, -1)
            del self._open[event.event_id]

    def pending(self) -> tuple[Reservation, ...]:
        """The rounds that are reserved and not settled; after a crash, what it interrupted."""
        return tuple(event.reservation for event in self._open.values())

    def _unsettled(self, reservation: Reservation) -> LedgerEvent:
        event = self._open.get(reservation.event_id)
        if event is not None and event.reservation == reservation:
            return event
        if event is None and reservation.event_id <= self._newest:
            raise ReuseError(f"round {reservation.round_number} of branch {reservation.branch!r} is already settled")
        raise LedgerError(f"the reservation of round {reservation.round_number} is not one of {self._file.path}")

    def _spend(self, event: LedgerEvent, clients: Iterable[str], rounds: int) -> None:
        self._spending.add(
            branch=event.branch, phase=event.phase, charges=event.charges, clients=clients, rounds=rounds
        )
        if self._everything is not None:
            own = _dearer(event.charges)
            self._everything.add(branch=_ALL, phase=event.phase, charges=own, clients=clients, rounds=rounds)

    # Questions

    def epsilon(
        self,
        branch: str,
        client: str,
        subject: Subject,
        phase: Phase,
        *,
        group_size: int = 1,
        delta: float | None = None,
    ) -> float:
        """What one client's units have spent, by Renyi divergence at the best order; 0.0 if no round touched them.

        A figure about a run whose rounds did not depend on its releases. It is no odometer: stopping or choosing rounds
        because of it is what the budget's filter is for.

        Args:
            branch: name of a branch; what its ancestors released counts.
            client: name of a client that was in some cohort of the ledger.
            subject: which of its units.
            phase: which releases.
            group_size: number of units hidden together.
            delta: None for the budget's.

        Returns:
            Epsilon, ``inf`` where no finite bound can be shown.

        Raises:
            ArgumentError: an argument is outside its domain.
        """
        self._known_client(client)
        return self._largest_epsilon(branch, (client,), subject, phase, group_size, delta)

    def epsilon_entries(
        self,
        branch: str,
        *,
        forgotten: Collection[str] = (),
        retained: Collection[str] = (),
        group_size: int = 1,
        delta: float | None = None,
    ) -> tuple[EpsilonEntry, ...]:
        """The epsilon list of a branch: one entry for each subject that has clients, and each phase.

        Args:
            branch: name of a branch.
            forgotten: clients that hold forgotten units; the largest of their epsilons counts. Those that were in no
                cohort yet have spent nothing.
            retained: clients that hold retained units; the same.
            group_size: number of units hidden together.
            delta: None for the budget's.

        Raises:
            ArgumentError: an argument is outside its domain.
        """
        entries = []
        for subject, clients in ((Subject.FORGOTTEN, forgotten), (Subject.RETAINED, retained)):
            for phase in Phase if clients else ():
                value = self._largest_epsilon(branch, _names(subject.value, clients), subject, phase, group_size, delta)
                entries.append(
                    EpsilonEntry(
                        subject=subject,
                        phase=phase,
                        view=View.EVERY_RELEASE,
                        value=value if math.isfinite(value) else None,
                        delta=self._budget.delta if delta is None else delta,
                        group_size=group_size,
                    )
                )
        return tuple(entries)

    def event_counts(self, branch: str, client: str, subject: Subject, phase: Phase) -> Counter[GaussianSumEvent]:
        """How often each event touched one client's units; the multiset for :mod:`secure_fu.privacy.accounting`.

        Raises:
            ArgumentError: the branch or the client is unknown.
        """
        self._known_client(client)
        counts = self._counts(branch, (client,), subject, phase)
        return Counter({event: int(times[0]) for event, times in counts.items() if times[0] > 0})

    def _counts(
        self, branch: str, clients: tuple[str, ...], subject: Subject, phase: Phase
    ) -> dict[GaussianSumEvent, NDArray[np.int64]]:
        self._known_branch("branch", branch)
        rows = self._spending.rows(clients)
        return self._spending.counts(branches=self._lineage(branch), subject=subject, phase=phase, rows=rows)

    def _largest_epsilon(
        self,
        branch: str,
        clients: tuple[str, ...],
        subject: Subject,
        phase: Phase,
        group_size: int,
        delta: float | None,
    ) -> float:
        positive_integer("group_size", group_size)
        delta = self._budget.delta if delta is None else probability("delta", delta)
        counts = self._counts(branch, clients, subject, phase)
        return largest_epsilon(counts, delta=delta, group_size=group_size)

    def events(self, branch: str | None = None) -> Iterator[LedgerEvent]:
        """All rounds, or those of one branch, in the order in which they were reserved."""
        if branch is not None:
            self._known_branch("branch", branch)
        return self._file.events(branch)

    def rounds(self, branch: str) -> tuple[int, ...]:
        """The numbers of a branch's own released rounds, ascending."""
        return tuple(event.round_number for event in self.events(branch) if event.status is EventStatus.COMMITTED)

    def participants(self, branch: str, round_number: int) -> tuple[str, ...]:
        """The clients in the sum of one released round, sorted.

        Raises:
            ArgumentError: the branch is unknown, or has no such released round.
        """
        for event in self.events(branch):
            if event.round_number == round_number and event.participants is not None:
                return event.participants
        raise ArgumentError("round_number", round_number, f"a released round of branch {branch!r}")
