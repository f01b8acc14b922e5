"""Unlearning runs: each in a branch of its own, tried out beside the main line or executed on it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from secure_fu.deletion import DeletionBatch, DeletionRequest
from secure_fu.errors import AlreadyForgotten, ArgumentError, HistoryError, ProtocolError
from secure_fu.federation.costs import Cost, predicted_epsilon
from secure_fu.federation.main_line import Executed, MainLine
from secure_fu.federation.marks import Marks, count_units, holders
from secure_fu.federation.parties import Parties
from secure_fu.federation.parting import Parting, no_parting
from secure_fu.learning import FlatModel, Records
from secure_fu.planning import Plan
from secure_fu.privacy import Confidentiality, EpsilonEntry, assured_clients, confidentiality
from secure_fu.protocol import InProcessSums, LocalTask, RoundTerms, RoundTraffic, Transcript
from secure_fu.protocol.sums import RandomStream
from secure_fu.training import TRAIN, OnRound, Silo, TrainingState, check_whole_units, training_task
from secure_fu.unlearning import CertifiedModel, Deletion, Guarantee, Requirement, Rerun, Retrain, UnlearningMethod

__all__ = ["Branches", "Marks", "Request", "Unlearned", "holders", "present_training"]

Request = DeletionRequest | DeletionBatch


@dataclass(frozen=True, kw_only=True, eq=False)
class Unlearned:
    """What one unlearning run ended in.

    Attributes:
        method: its name.
        state: the state with the model that has forgotten.
        guarantee: about forgetting.
        epsilon: what forgotten and retained units have paid, by phase.
        confidentiality: how well the run hides whom it forgot.
        cost: as it was predicted.
        traffic: of each round that was run; rounds of an earlier process, read from disk, had none.
        seconds: wall-clock time of the run, in this process.
    """

    method: str
    state: TrainingState
    guarantee: Guarantee
    epsilon: tuple[EpsilonEntry, ...]
    confidentiality: Confidentiality
    cost: Cost
    traffic: tuple[RoundTraffic, ...]
    seconds: float


@dataclass(frozen=True, kw_only=True, eq=False)
class _Run:
    """One run of a method, and what is needed to go on from it."""

    unlearned: Unlearned
    branch: str
    deletion: Deletion
    marks: Marks
    silos: Mapping[str, Silo]
    remembered: int
    sums: InProcessSums
    transcript: Transcript


class _Present:
    """Training on what a client has when the round comes."""

    def __init__(self, silos: Mapping[str, Silo], name: str) -> None:
        self._silos = silos
        self._name = name

    def contribution(self, model: NDArray[np.float32], terms: RoundTerms, stream: RandomStream) -> NDArray[np.float64]:
        """See :class:`~secure_fu.training.TrainingTask`."""
        return training_task(self._silos[self._name]).contribution(model, terms, stream)


class Branches:
    """Runs methods in branches of the main line.

    Args:
        parties: of the federation.
        line: the main line.
        plan: of the federation.
        model: the architecture.
        records: of each client, as they were brought; positions in requests are theirs.
        silos: of each client, as they are now; replaced by those without the data when a deletion is executed.
        methods: declared before training.
        cohort: names of the clients to invite to a given round number.
    """

    def __init__(
        self,
        *,
        parties: Parties,
        line: MainLine,
        plan: Plan,
        model: FlatModel,
        records: Mapping[str, Records],
        silos: dict[str, Silo],
        methods: Collection[UnlearningMethod],
        cohort: Callable[[int], tuple[str, ...]],
    ) -> None:
        self._parties = parties
        self._line = line
        self._plan = plan
        self._model = model
        self._records = records
        self._silos = silos
        self._methods = frozenset(methods)
        self._cohort = cohort
        self._busy = False
        self._earlier = {name for name in parties.ledger.branches if name.startswith("unlearn/")}

    def run(
        self,
        request: Request,
        method: UnlearningMethod,
        *,
        adaptive: bool,
        require: Requirement | None,
        execute: bool,
        on_round: OnRound,
        before_wiping: Callable[[Parting], None] = no_parting,
    ) -> Unlearned:
        """Run a method for a request; arguments and errors as of `Federation.unlearn` and `Federation.delete`."""
        passed: list[TrainingState] = []

        def observe(state: TrainingState) -> None:
            if execute and isinstance(method, Rerun) and state.rounds % self._line.checkpoints.spacing == 0:
                passed.append(state)
            on_round(state)

        if self._busy:
            raise ProtocolError("a deletion is under way; ask for another one when it has ended")
        self._busy = True
        try:
            return self._outcome(request, method, adaptive, require, execute, observe, passed, before_wiping)
        finally:
            self._busy = False

    def _outcome(
        self,
        request: Request,
        method: UnlearningMethod,
        adaptive: bool,
        require: Requirement | None,
        execute: bool,
        observe: OnRound,
        passed: Collection[TrainingState],
        before_wiping: Callable[[Parting], None],
    ) -> Unlearned:
        run = self._run(request, method, adaptive, require, execute, observe)
        if execute:
            try:
                for name, silo in run.silos.items():
                    if silo.forgotten.any():
                        before_wiping(
                            Parting(
                                client=name,
                                forgotten=silo.forgotten_records,
                                before=run.deletion.original,
                                after=run.unlearned.state,
                            )
                        )
            finally:
                # Whatever was seen: an outcome that is published only if the data likes it is no exact one.
                self._execute(request, method, run, passed)
        return run.unlearned

    def _execute(
        self, request: Request, method: UnlearningMethod, run: _Run, passed: Collection[TrainingState]
    ) -> None:
        self._line.adopt(
            executed=Executed(
                request=request,
                method=method.name,
                branch=run.branch,
                forgotten_units=run.deletion.forgotten_units,
                guarantee=run.unlearned.guarantee,
                if_adaptive=_if_adaptive(method, run.deletion, run.unlearned.guarantee),
                chosen_late=run.deletion.adaptive or not run.deletion.declared(method),
            ),
            method=method,
            deletion=run.deletion,
            marks=run.marks,
            state=run.unlearned.state,
            remembered=run.remembered,
            passed=passed,
            sums=run.sums,
            transcript=run.transcript,
        )
        self._wipe(run.silos)

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
        self.forget_releases()
        if failed:
            raise failed[0]

    def wipe_again(self) -> None:
        """Do again what the last deletion has to destroy, for a process that may have ended in the middle of it.

        Raises:
            HistoryError: as of a deletion.
        """
        if not self._line.executed:
            return
        unit, unwiped = self._plan.recipe.unit, self._line.unwiped
        silos: dict[str, Silo] = {}
        for name, silo in self._silos.items():
            mask = self._line.gone.get(name, np.zeros(len(silo.records), dtype=np.bool_))
            stale = silo.history is not None and any(number in unwiped for number in silo.history.rounds)
            if mask.any() or stale:
                silos[name] = silo.forgetting(mask, unit, continues_after=unwiped.start - 1 if stale else None)
        self._wipe(silos)

    def forget_releases(self) -> None:
        """Destroy the logged sums that executed deletions have taken back, and those behind the newest state."""
        if not self._line.executed:
            return
        for branch in self._parties.ledger.branches:
            if branch == self._line.branch:
                self._parties.forget_releases(branch, until=self._line.state.last_round)
                break  # those that came later knew nothing of what was forgotten
            self._parties.forget_releases(branch)
            self._earlier.discard(branch)

    def cost(self, request: Request, method: UnlearningMethod, *, adaptive: bool) -> Cost:
        """What a method would cost and guarantee; nothing is run."""
        marks = self._identify(request)
        deletion = self._deletion(marks, adaptive)
        method.check(deletion)
        return self._cost(method, deletion, marks)

    def deletion(self, request: Request, *, adaptive: bool) -> Deletion:
        """What a method is told of a request."""
        return self._deletion(self._identify(request), adaptive)

    def epsilon(self, branch: str, marks: Marks) -> tuple[EpsilonEntry, ...]:
        """What forgotten and retained units have paid in a branch, by phase."""
        forgotten, retained = holders(self._left(marks))
        return self._parties.ledger.epsilon_entries(branch, forgotten=forgotten, retained=retained)

    def _run(
        self,
        request: Request,
        method: UnlearningMethod,
        adaptive: bool,
        require: Requirement | None,
        execute: bool,
        on_round: OnRound,
    ) -> _Run:
        marks = self._identify(request)
        deletion = self._deletion(marks, adaptive)
        if f"unlearn/{method.name}" not in self._parties.policy.purposes:
            raise ArgumentError("method", method.name, "a method of the package, or one that was declared: methods=")
        method.check(deletion)
        if require is not None:
            require.check(method, deletion, self._methods)
        cost = self._cost(method, deletion, marks)
        line = self._line.begun
        unit = self._plan.recipe.unit
        # What clients remember of rounds that the outcome does not come from goes with them.
        after = self._remembered_until(method, deletion) if execute else None
        silos = {
            name: silo.forgetting(self._present(name, marks[name]), unit, continues_after=after)
            for name, silo in self._silos.items()
        }
        tasks = {
            name: {**present_training(self._silos, name), **method.client_tasks(silo)} for name, silo in silos.items()
        }
        purpose = self._purpose(request, method, adaptive, execute)
        branch = self._interrupted(purpose)
        if branch is None:
            branch = self._name_of(method)
            transcript = self._parties.transcript(branch, line.transcript.head)
            sums = self._parties.sums(
                branch,
                parent=line.branch,
                tasks=tasks,
                transcript=transcript,
                first_round=line.sums.next_round,
                purpose=purpose,
            )
        else:
            transcript = self._parties.transcript(branch, self._parties.head(branch))
            sums = self._parties.reopened_sums(branch, tasks=tasks, transcript=transcript)
        self._earlier.discard(branch)
        started = time.perf_counter()
        outcome = method.run(self._parties.resumed(branch, sums), deletion, on_round)
        forgotten, _ = holders(marks)
        unlearned = Unlearned(
            method=method.name,
            state=outcome.state,
            guarantee=outcome.guarantee,
            epsilon=self.epsilon(branch, marks),
            confidentiality=confidentiality(self._parties.ledger, branch, forgotten=forgotten),
            cost=cost,
            traffic=tuple(sums.traffic),
            seconds=time.perf_counter() - started,
        )
        return _Run(
            unlearned=unlearned,
            branch=branch,
            deletion=deletion,
            marks=marks,
            silos=silos,
            remembered=deletion.original.last_round if after is None else after,
            sums=sums,
            transcript=transcript,
        )

    def _remembered_until(self, method: UnlearningMethod, deletion: Deletion) -> int:
        """The last round of training that clients still remember after a deletion."""
        if isinstance(method.guarantee(deletion), CertifiedModel):
            # What is certified is the published model alone: models that knew the data must not come back through it.
            before = max(rounds for rounds in deletion.checkpoints.rounds if rounds <= deletion.joined_at)
            return deletion.checkpoints.load(before).last_round
        return method.start_state(deletion).last_round

    def _cost(self, method: UnlearningMethod, deletion: Deletion, marks: Marks) -> Cost:
        planned = method.plan(deletion)
        forgotten, retained = holders(self._left(marks))
        return Cost(
            rounds=sum(rounds.count for rounds in planned),
            retraining_rounds=Retrain().rounds(deletion),
            guarantee=method.guarantee(deletion),
            epsilon=predicted_epsilon(
                planned,
                plan=self._plan,
                cohort=deletion.cohort,
                ledger=self._parties.ledger,
                branch=self._line.begun.branch,
                forgotten=forgotten,
                retained=retained,
            ),
        )

    def _identify(self, request: Request) -> dict[str, NDArray[np.bool_]]:
        """What the request covers and is not gone yet; positions are those of the records as they were brought."""
        marks = request.identify_all(self._records)
        for name, mask in marks.items():
            check_whole_units(self._records[name], mask, self._plan.recipe.unit)
        gone = self._line.gone
        left = {name: mask & ~gone[name] if name in gone else mask for name, mask in marks.items()}
        if not any(mask.any() for mask in left.values()):
            raise AlreadyForgotten(f"request is {request.describe()!r}; all of it has been forgotten before")
        return left

    def _present(self, name: str, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """A mark of records as they were brought, as one of those that are left."""
        gone = self._line.gone.get(name)
        return mask if gone is None else mask[~gone]

    def _left(self, marks: Marks) -> Marks:
        """Marks without the clients of which nothing was left before."""
        gone = self._line.gone
        return {
            name: self._present(name, mask) for name, mask in marks.items() if not (name in gone and gone[name].all())
        }

    def _deletion(self, marks: Marks, adaptive: bool) -> Deletion:
        if self._line.state.last_round < 0:
            raise ProtocolError("no training round is done; train first")
        touched, _ = holders(marks)
        units = sum(
            count_units(self._records[name], mask, self._plan.recipe.unit) for name, mask in marks.items() if mask.any()
        )
        return Deletion(
            recipe=self._plan.recipe,
            model=self._model,
            checkpoints=self._line.checkpoints,
            original=self._line.state,
            joined_at=self._line.joined_at(touched),
            forgotten_units=units,
            unit_epsilon=self._line.unit_epsilon(touched, units),
            last_epsilon=self._line.last_epsilon(touched, units),
            untouched=self._line.untouched(touched),
            delta=self._plan.budget.delta,
            assured=assured_clients(self._plan.minimum_cohort, self._plan.colluders),
            cohort=len(self._cohort(self._line.begun.sums.next_round)),
            # Who was deleted before, chosen by what models knew, is a trace of it in all that follows.
            adaptive=adaptive or any(entry.chosen_late for entry in self._line.executed),
            declared=self._methods.__contains__,
            earlier=tuple(entry.guarantee for entry in self._line.executed),
        )

    def _purpose(self, request: Request, method: UnlearningMethod, adaptive: bool, execute: bool) -> str:
        """What a branch is begun for, as a digest: only for the very same it is gone on with after an interruption."""
        line = self._line
        said = (request, method, adaptive, execute, line.branch, line.state.last_round, line.state.model.digest.hex())
        return hashlib.sha256(repr(said).encode()).hexdigest()

    def _interrupted(self, purpose: str) -> str | None:
        """The first branch of an earlier process that was begun for the same, and not gone on with since."""
        for branch in self._parties.ledger.branches:
            if branch in self._earlier and self._parties.purpose(branch) == purpose:
                return branch
        return None

    def _name_of(self, method: UnlearningMethod) -> str:
        taken = sum(name.startswith(method.purpose) for name in self._parties.ledger.branches)
        return method.purpose + (f"#{taken + 1}" if taken else "")


def present_training(silos: Mapping[str, Silo], name: str) -> dict[str, LocalTask]:
    """A client's training code, on what it has when a round comes."""
    return {TRAIN: _Present(silos, name)}


def _if_adaptive(method: UnlearningMethod, deletion: Deletion, reached: Guarantee) -> Guarantee:
    """What is left of a guarantee once a later request may depend on the models in between."""
    return method.guarantee(replace(deletion, adaptive=True)) if isinstance(method, Rerun) else reached
