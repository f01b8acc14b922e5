"""Where a federation stands: its newest model, what the server kept on the way, and which deletions it has executed.

Training and executed deletions follow one another on the main line. What happened on it is told by the ledger alone: a
state comes from the rounds of some branches, each up to some round, and a unit has paid for it what the ledger charged
in those rounds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secure_fu.errors import CheckpointError, ProtocolError
from secure_fu.federation.fleet import RoundSums
from secure_fu.federation.main_line_file import Executed, Standing, read_standing, write_standing
from secure_fu.privacy import GaussianSumEvent, PrivacyLedger, Subject, renyi_epsilon
from secure_fu.protocol import Transcript
from secure_fu.training import CheckpointStore, Lineage, TrainingState
from secure_fu.unlearning import CertifiedModel, Deletion

__all__ = ["ORIGINAL", "Executed", "MainLine"]

ORIGINAL = "original"


@dataclass(frozen=True)
class Begun:
    """The branch that the main line is on, and what its rounds are run and linked with."""

    branch: str
    sums: RoundSums
    transcript: Transcript


class MainLine:
    """The main line of one federation.

    Args:
        ledger: the federation's.
        checkpoints: of the server; holds the public start.
        delta: at which epsilon is stated.
        directory: where it is written down what executed deletions left, and read when there is something; None writes
            nothing down.

    Raises:
        RecordError, CheckpointError: a file is missing or damaged.
    """

    def __init__(
        self, *, ledger: PrivacyLedger, checkpoints: CheckpointStore, delta: float, directory: Path | None
    ) -> None:
        self.checkpoints = checkpoints
        self.gone: dict[str, NDArray[np.bool_]] = {}
        self.executed: tuple[Executed, ...] = ()
        self._directory = directory
        self._ledger = ledger
        self._delta = delta
        self._before: Lineage = ()
        self._begun: Begun | None = None
        self.branch = ORIGINAL
        self.unwiped = range(0)
        standing = None if directory is None else read_standing(directory)
        if standing is not None:
            self.executed = standing.executed
            self.gone = dict(standing.gone)
            self.branch = self.executed[-1].branch
            self._before = standing.lineage[:-1]
            self._destroy_what_knew(standing.kept)
            self.unwiped = range(standing.remembered + 1, standing.until + 1)
        self.state = checkpoints.load(checkpoints.rounds[-1])
        if standing is not None and standing.state.last_round >= self.state.last_round:
            self.state = standing.state

    def _destroy_what_knew(self, kept: int) -> None:
        """Destroy the checkpoints of more than `kept` rounds that are of an earlier branch."""
        newest = self.checkpoints.rounds[-1]
        # All of them go before the first of the present branch is saved.
        if newest > kept and self.checkpoints.lineage(newest)[-1][0] != self.branch:
            self.checkpoints.destroy_after(min(kept, newest))

    @property
    def has_begun(self) -> bool:
        """Whether a round was asked for."""
        return self._begun is not None

    @property
    def begun(self) -> Begun:
        """Its present branch.

        Raises:
            ProtocolError: no round was asked for yet.
        """
        if self._begun is None:
            raise ProtocolError("no training round is done; train first")
        return self._begun

    def begin(self, sums: RoundSums, transcript: Transcript) -> None:
        """Start with training, or go on with it."""
        self._begun = Begun(self.branch, sums, transcript)

    @property
    def lineage(self) -> Lineage:
        """Of the newest state."""
        return self._lineage(self.state)

    def _lineage(self, state: TrainingState) -> Lineage:
        return (*self._before, (self.branch, state.last_round))

    def advance(self, state: TrainingState) -> bool:
        """A round of training is done; whether its state is kept as a checkpoint."""
        self.state = state
        return self.checkpoints.save(state, self.lineage)

    def adopt(
        self,
        *,
        executed: Executed,
        began_at: int | None,
        deletion: Deletion,
        marks: Mapping[str, NDArray[np.bool_]],
        state: TrainingState,
        remembered: int,
        passed: Collection[TrainingState],
        sums: RoundSums,
        transcript: Transcript,
    ) -> None:
        """Go on from the outcome of a deletion; what knew the forgotten data is destroyed.

        Args:
            began_at: rounds behind the checkpoint that the outcome comes from; None if it comes from the newest state.
            marks: what is forgotten, by client.
            state: that the method ended in.
            remembered: last round of before that clients may still remember.
            passed: states of training that it went through.
            sums, transcript: of its branch.
        """
        if began_at is not None:
            kept, start = began_at, self.checkpoints.lineage(began_at)
        else:
            # The outcome takes the place of a checkpoint with as many rounds of training: it has releases that this
            # one has not.
            kept, start = min(deletion.joined_at, deletion.rounds - 1), self.lineage
        self._before, self._begun, self.state = start, Begun(executed.branch, sums, transcript), state
        self.branch = executed.branch
        for name, mask in marks.items():
            if mask.any():
                self.gone[name] = self.gone[name] | mask if name in self.gone else mask
        self.executed = (*(_after(entry, executed) for entry in self.executed), executed)
        # From here on the deletion is executed, whatever comes: what follows is done again when it was interrupted.
        if self._directory is not None:
            write_standing(
                self._directory,
                Standing(
                    executed=self.executed,
                    gone=self.gone,
                    state=state,
                    lineage=self.lineage,
                    kept=kept,
                    remembered=remembered,
                    until=deletion.original.last_round,
                ),
            )
        self.checkpoints.destroy_after(min(kept, max(self.checkpoints.rounds)))
        for earlier in (*passed, state):
            if earlier.rounds > kept:
                self.checkpoints.save(earlier, self._lineage(earlier))

    # What the ledger says of units that have been retained so far

    def unit_epsilon(self, clients: Collection[str], group_size: int) -> Callable[[int], float | None]:
        """Epsilon that a group of one client's units had paid for a checkpoint, the client's that paid most."""

        def paid(rounds: int) -> float | None:
            return self._largest(clients, self.checkpoints.lineage(rounds), group_size)

        return paid

    def last_epsilon(self, clients: Collection[str], group_size: int) -> float | None:
        """The same for everything that was released, models that are no more included."""
        return self._largest(clients, None, group_size)

    def joined_at(self, clients: Collection[str]) -> int:
        """Rounds of training behind the newest state for which none of these clients' units was charged."""
        if not self._touched(clients, self.lineage):
            return self.state.rounds
        return max(rounds for rounds in self.checkpoints.rounds if not self._knew(clients, rounds))

    def _knew(self, clients: Collection[str], rounds: int) -> bool:
        try:
            return self._touched(clients, self.checkpoints.lineage(rounds))
        except CheckpointError:
            return True  # nobody can tell any more; whoever needs this checkpoint is told

    def _largest(self, clients: Collection[str], lineage: Lineage | None, group_size: int) -> float | None:
        paid: dict[str, Counter[GaussianSumEvent]] = {client: Counter() for client in clients}
        for charge, charged in self._charges(lineage):
            for client in charged.intersection(paid):
                paid[client][charge] += 1
        # Clients that were in the same rounds have paid the same.
        distinct = {frozenset(events.items()) for events in paid.values() if events}
        value = max(
            (renyi_epsilon(dict(events), delta=self._delta, group_size=group_size) for events in distinct), default=0.0
        )
        return value if math.isfinite(value) else None

    def untouched(self, clients: Collection[str]) -> bool:
        """Whether nothing that was released has charged any of these clients' units."""
        return not any(not charged.isdisjoint(clients) for _, charged in self._charges(None))

    def _touched(self, clients: Collection[str], lineage: Lineage) -> bool:
        return any(not charged.isdisjoint(clients) for _, charged in self._charges(lineage))

    def _charges(self, lineage: Lineage | None) -> Iterator[tuple[GaussianSumEvent, frozenset[str]]]:
        """What the rounds behind a state charged retained units, and whose.

        Args:
            lineage: of the state; None for all that was released. That is also what was tried out beside the main line,
                where the units may have been forgotten ones: the larger charge counts.
        """
        upto = dict.fromkeys(self._ledger.branches, math.inf) if lineage is None else dict(lineage)
        for branch, last in upto.items():
            if branch not in self._ledger.branches:
                continue  # nothing was asked yet
            for event in self._ledger.events(branch):
                charges = [charge for charge in event.charges.values() if charge is not None]
                own = event.charges[Subject.RETAINED]
                charge = own if lineage is not None else max(charges, key=lambda one: one.sampling_rate, default=None)
                if charge is not None and event.round_number <= last:
                    yield charge, frozenset(event.charged)


def _after(entry: Executed, newest: Executed) -> Executed:
    """A deletion with its guarantee as it stands after a newer one."""
    guarantee = entry.if_adaptive if newest.chosen_late else entry.guarantee
    if isinstance(guarantee, CertifiedModel) and isinstance(newest.guarantee, CertifiedModel):
        # The newest model has a residual as well, and its certificate counts both.
        found, former = newest.guarantee.epsilon, guarantee.epsilon
        guarantee = replace(guarantee, epsilon=None if found is None or former is None else max(found, former))
    return replace(entry, guarantee=guarantee)
