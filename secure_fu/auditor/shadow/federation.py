"""A federation that an auditor runs on data of its own, many times: real code of clients and methods, sums in floats.

Nothing here is private: see :mod:`secure_fu.auditor.shadow.sums`. There is no ledger either, so a method is told that
the forgotten units have paid an infinite epsilon, and no certificate follows from a shadow run.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from secure_fu.auditor.shadow.pooled_training import PooledTraining
from secure_fu.auditor.shadow.sums import ShadowSums, SharedTask
from secure_fu.errors import ArgumentError, CheckpointError, ProtocolError
from secure_fu.learning import FlatModel, PerRecordGradients, Records
from secure_fu.planning import Plan
from secure_fu.privacy import Unit, assured_clients
from secure_fu.protocol import LocalTask, ReleasedModel, RoundTerms
from secure_fu.protocol.sums import RandomStream
from secure_fu.training import (
    TRAIN,
    ModelArchive,
    OnRound,
    Silo,
    StackedUpdates,
    TrainingState,
    TrainingTask,
    check_whole_units,
    no_observer,
    train,
    training_task,
)
from secure_fu.unlearning import Deletion, UnlearningMethod

__all__ = ["ShadowCheckpoints", "ShadowFederation"]


class ShadowCheckpoints:
    """States of training in memory, on the grid of :class:`~secure_fu.training.CheckpointStore`.

    Args:
        start: the state at round 0.
        every: spacing at first, in rounds.
        limit: most states to keep.
    """

    def __init__(self, start: TrainingState, *, every: int, limit: int) -> None:
        self._spacing = every
        self._limit = limit
        self._kept = {0: start}

    @property
    def rounds(self) -> tuple[int, ...]:
        """The rounds of training behind each state that is kept, ascending, from 0 on."""
        return tuple(sorted(self._kept))

    def save(self, state: TrainingState) -> None:
        """Keep a state if its rounds are on the grid."""
        while state.rounds // self._spacing + 1 > self._limit:
            self._spacing *= 2
        self._kept[state.rounds] = state
        self._kept = {rounds: kept for rounds, kept in self._kept.items() if rounds % self._spacing == 0}

    def load(self, rounds: int) -> TrainingState:
        """The state at a round.

        Raises:
            CheckpointError: none is kept.
        """
        if rounds not in self._kept:
            raise CheckpointError(f"there is no checkpoint at round {rounds}, but at {self.rounds}")
        return self._kept[rounds]


class _NoData:
    """The code of a client that takes part with its share of the noise alone."""

    def contribution(self, model: NDArray[np.float32], terms: RoundTerms, stream: RandomStream) -> NDArray[np.float64]:
        """Zeros."""
        return np.zeros(terms.length)


class ShadowFederation:
    """One shadow run: train, then unlearn in branches beside the main line, each with fresh noise and sampling.

    The counterpart of :class:`~secure_fu.federation.Federation`, with the same round numbers, cohorts, checkpoints and
    tasks. Branches do not depend on each other: what a branch gives is a function of data, plan, seed and the branch's
    name. Dropout layers draw from torch's global generator, which whoever wants to repeat a run seeds.

    Args:
        model: the architecture, at its public starting point.
        clients: records by client name. One without records takes part with noise alone: the neighbour of the
            accounting that sends zero.
        plan: recipe and cohort.
        seed: of sampling and noise. Not secret, and nothing here is.
        joins: rounds done before a client joins, for those that join late.
        vanishes: whether an invited client fails to answer, by (round number, client name).
        methods: declared before training; None declares all.
        gradients: of the model, if there are some already: making them takes time.
        keep_history: whether clients keep what the methods `correction` and `eraser` need.
        pooled: whether the training sums of all clients are computed in one pass where they can be; changes the speed,
            and results by rounding.

    Raises:
        ArgumentError: a late client that there is not.
    """

    def __init__(
        self,
        model: FlatModel,
        clients: Mapping[str, Records],
        *,
        plan: Plan,
        seed: int,
        joins: Mapping[str, int] | None = None,
        vanishes: Callable[[int, str], bool] = lambda _round, _client: False,
        methods: Collection[UnlearningMethod] | None = None,
        gradients: PerRecordGradients | None = None,
        keep_history: bool = True,
        pooled: bool = True,
    ) -> None:
        self.model = model
        self.plan = plan
        self._seed = seed
        self._joins = dict(joins or {})
        for name in self._joins:
            if name not in clients:
                raise ArgumentError("joins", name, f"names among the {len(clients)} clients")
        self._records = dict(sorted(clients.items()))
        self._vanishes = vanishes
        self._methods = None if methods is None else frozenset(methods)
        self._pooled = pooled
        self._gradients = PerRecordGradients(model) if gradients is None else gradients
        present = {name: records for name, records in self._records.items() if len(records)}
        stacked = StackedUpdates(model, present) if plan.recipe.unit is Unit.CLIENT else None
        archive = ModelArchive(dimension=model.dimension)
        self._silos = {
            name: Silo.of(
                name, records, model, self._gradients, keeps_history=keep_history, archive=archive, stacked=stacked
            )
            for name, records in present.items()
        }
        self.state = TrainingState.initial(ReleasedModel.public(model.vector()))
        self.checkpoints = ShadowCheckpoints(self.state, every=plan.checkpoint_every, limit=plan.checkpoint_limit)
        self._branches: Counter[str] = Counter()
        self._sums: ShadowSums | None = None
        self._fullest = 0.0

    @property
    def clients(self) -> tuple[str, ...]:
        """Names of all clients, sorted."""
        return tuple(self._records)

    @property
    def fullest(self) -> float:
        """Largest coordinate of any client's contribution over the saturation, in all rounds so far."""
        return max(self._fullest, 0.0 if self._sums is None else self._sums.fullest)

    def train(self, on_round: OnRound = no_observer, *, rounds: int | None = None) -> TrainingState:
        """Run the recipe's training rounds, or those that are left of them.

        Args:
            on_round: called with the state after each round.
            rounds: how many at most; None for all that are left.

        Raises:
            NonFiniteError: training diverged.
            CohortTooSmall: too few clients answered.
        """
        recipe = self.plan.recipe
        if self._sums is None:
            tasks = {name: {TRAIN: self._training_task(name)} for name in self._records}
            self._sums = self._begin("train", tasks, {TRAIN: self._silos}, first_round=0)

        def observe(state: TrainingState) -> None:
            self.state = state
            self.checkpoints.save(state)
            on_round(state)

        left = max(0, recipe.rounds - self.state.rounds)
        return train(self._sums, recipe, self.state, left if rounds is None else min(left, rounds), on_round=observe)

    def deletion(self, marks: Mapping[str, NDArray[np.bool_]]) -> Deletion:
        """What a method is told of a deletion. Without a ledger every epsilon is infinite, which None stands for.

        Args:
            marks: which of its records a client is to forget, shape (n,), for those that are to forget some.

        Raises:
            ArgumentError: marks that do not fit a client, cover nothing or part a unit.
            ProtocolError: no training round is done.
        """
        if self._sums is None or self.state.last_round < 0:
            raise ProtocolError("no training round is done; train first")
        unit = self.plan.recipe.unit
        for name, mask in marks.items():
            if name not in self._records or mask.shape != (len(self._records[name]),):
                raise ArgumentError("marks", name, "one of the clients, and a mark for each of its records")
            check_whole_units(self._records[name], mask, unit)
        touched = [name for name, mask in marks.items() if mask.any()]
        if not touched:
            raise ArgumentError("marks", f"{len(marks)} clients", "at least one record to forget")
        # Nothing is charged to a client before the round that it joins in.
        first = min(self._joins.get(name, 0) for name in touched)
        known = self.state.last_round >= first
        return Deletion(
            recipe=self.plan.recipe,
            model=self.model,
            checkpoints=self.checkpoints,
            original=self.state,
            joined_at=max(
                rounds for rounds in self.checkpoints.rounds if self.checkpoints.load(rounds).last_round < first
            )
            if known
            else self.state.rounds,
            forgotten_units=sum(_units(self._records[name], marks[name], unit) for name in touched),
            unit_epsilon=lambda _rounds: None,
            last_epsilon=None,
            untouched=not known,
            delta=self.plan.budget.delta,
            assured=assured_clients(self.plan.minimum_cohort, self.plan.colluders),
            cohort=len(self._cohort(self._sums.next_round)),
            adaptive=False,
            declared=lambda method: self._methods is None or method in self._methods,
        )

    def unlearn(
        self, marks: Mapping[str, NDArray[np.bool_]], method: UnlearningMethod, on_round: OnRound = no_observer
    ) -> TrainingState:
        """Try out how a method forgets, in a branch of its own; the main line stays as it is.

        A method that is called again runs again, with fresh noise and sampling. Certified `newton` adds noise of the
        operating system to what it publishes, which no seed repeats.

        Args:
            marks: as of :meth:`deletion`.

        Returns:
            the state that has forgotten; what the method guarantees where there is a ledger is nobody's guarantee here.

        Raises:
            MethodRefused: the method cannot serve it.
            GuaranteeError: it did not reach what it promised.
            ArgumentError, ProtocolError: as :meth:`deletion`.
            NonFiniteError: the model diverged.
            CohortTooSmall, PolicyRefusal: as :meth:`ShadowSums.secure_sum`.
        """
        deletion = self.deletion(marks)
        first_round = 0 if self._sums is None else self._sums.next_round
        method.check(deletion)
        silos = {
            name: silo.forgetting(marks[name] if name in marks else np.zeros(len(silo.records), dtype=np.bool_))
            for name, silo in self._silos.items()
        }
        tasks: dict[str, Mapping[str, LocalTask]] = {name: {method.purpose: _NoData()} for name in self._records}
        tasks |= {name: method.client_tasks(silo) for name, silo in silos.items()}
        purposes = {purpose for name in silos for purpose in tasks[name]}
        plain = {
            purpose: silos
            for purpose in purposes
            if all(type(tasks[name].get(purpose)) is TrainingTask for name in silos)
        }
        self._branches[method.purpose] += 1
        label = f"{method.purpose}#{self._branches[method.purpose]}"
        sums = self._begin(label, tasks, plain, first_round=first_round)
        outcome = method.run(sums, deletion, on_round)
        self._fullest = max(self._fullest, sums.fullest)
        return outcome.state

    def _begin(
        self,
        label: str,
        tasks: Mapping[str, Mapping[str, LocalTask]],
        plain: Mapping[str, Mapping[str, Silo]],
        *,
        first_round: int,
    ) -> ShadowSums:
        shared: dict[str, SharedTask] = {}
        if self._pooled and PooledTraining.covers(self.model, self.plan.recipe.unit):
            shared = {purpose: PooledTraining(silos, self.model, self._gradients) for purpose, silos in plain.items()}
        return ShadowSums(
            tasks,
            plan=self.plan,
            cohort=self._cohort,
            generator=_generator(self._seed, label),
            first_round=first_round,
            shared=shared,
            vanishes=self._vanishes,
        )

    def _training_task(self, name: str) -> LocalTask:
        return training_task(self._silos[name]) if name in self._silos else _NoData()

    def _cohort(self, round_number: int) -> tuple[str, ...]:
        return tuple(name for name in self._records if self._joins.get(name, 0) <= round_number)


def _units(records: Records, mask: NDArray[np.bool_], unit: Unit) -> int:
    """How many units a mark covers, of whole ones."""
    if unit is Unit.CLIENT:
        return 1
    if unit is Unit.GROUP and records.groups is not None:
        return len(np.unique(records.groups[mask]))
    return int(mask.sum())


def _generator(seed: int, label: str) -> np.random.Generator:
    """A generator of its own for each branch of each run; none that anything else in this project is seeded with."""
    text = f"secure-fu/shadow-federation/{seed}/{label}"
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest(), "big"))
