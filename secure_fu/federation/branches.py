"""Unlearning runs: each in a branch of its own, tried out beside the main line or executed on it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from secure_fu.errors import ArgumentError, GuaranteeError, HistoryError, ProtocolError
from secure_fu.federation.costs import Cost, predicted_epsilon
from secure_fu.federation.fleet import Concerned, Fleet, Instruction, Request, RoundSums
from secure_fu.federation.main_line import Executed, MainLine
from secure_fu.federation.planned_sums import PlannedSums
from secure_fu.federation.purposes import Purpose
from secure_fu.federation.server_directory import ServerDirectory
from secure_fu.learning import FlatModel
from secure_fu.planning import Plan
from secure_fu.privacy import Confidentiality, EpsilonEntry, Subject, assured_clients, confidentiality
from secure_fu.protocol import RoundTraffic, Transcript
from secure_fu.training import OnRound, TrainingState
from secure_fu.unlearning import (
    CertifiedModel,
    Deletion,
    Guarantee,
    Outcome,
    PlannedRounds,
    Requirement,
    Rerun,
    Retrain,
    UnlearningMethod,
)
from secure_fu.unlearning.claims import check_claim, claimed_start, enters, if_adaptive, keeps, kept_start

__all__ = ["BeforeSettling", "Branches", "Unlearned", "nothing_before_settling"]

BeforeSettling = Callable[[TrainingState, TrainingState], None]
"""Told of a deletion that is about to be executed: the states before and after."""


def nothing_before_settling(_before: TrainingState, _after: TrainingState) -> None:
    """Do nothing."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Unlearned:
    """What one unlearning run ended in.

    Attributes:
        method: its name.
        state: the state with the model that has forgotten.
        guarantee: about forgetting.
        epsilon: what forgotten and retained units have paid, by phase.
        confidentiality: how well the run hides whom it forgot.
        cost: as it was predicted; of the rounds that were run, where the method stopped before the last of its plan.
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
    instruction: Instruction
    deletion: Deletion
    remembered: int
    sums: RoundSums
    transcript: Transcript


class Branches:
    """Runs methods in branches of the main line.

    Args:
        server: what the server keeps.
        fleet: all other parties.
        line: the main line.
        plan: of the federation.
        model: the architecture.
        methods: declared before training.
        cohort: names of the clients to invite to a given round number.
    """

    def __init__(
        self,
        *,
        server: ServerDirectory,
        fleet: Fleet,
        line: MainLine,
        plan: Plan,
        model: FlatModel,
        methods: Collection[UnlearningMethod],
        cohort: Callable[[int], tuple[str, ...]],
    ) -> None:
        self._server = server
        self._fleet = fleet
        self._line = line
        self._plan = plan
        self._model = model
        self._methods = frozenset(methods)
        self._cohort = cohort
        self._busy = False
        self._earlier = {name for name in server.ledger.branches if name.startswith("unlearn/")}

    def run(
        self,
        request: Request,
        method: UnlearningMethod,
        *,
        adaptive: bool,
        require: Requirement | None,
        execute: bool,
        on_round: OnRound,
        before_settling: BeforeSettling = nothing_before_settling,
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
            return self._outcome(request, method, adaptive, require, execute, observe, passed, before_settling)
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
        before_settling: BeforeSettling,
    ) -> Unlearned:
        run = self._run(request, method, adaptive, require, execute, observe)
        if execute:
            try:
                before_settling(run.deletion.original, run.unlearned.state)
            finally:
                # Whatever was seen: an outcome that is published only if the data likes it is no exact one.
                self._execute(run, passed)
        return run.unlearned

    def _execute(self, run: _Run, passed: Collection[TrainingState]) -> None:
        instruction = run.instruction
        self._line.adopt(
            executed=Executed(
                request=instruction.request,
                method=instruction.method.name,
                branch=instruction.branch,
                forgotten_units=run.deletion.forgotten_units,
                guarantee=run.unlearned.guarantee,
                if_adaptive=if_adaptive(run.unlearned.guarantee, run.deletion),
                chosen_late=run.deletion.adaptive or not run.deletion.declared(instruction.method),
            ),
            began_at=_began_at(run),
            deletion=run.deletion,
            marks=instruction.concerned.marks,
            state=run.unlearned.state,
            remembered=run.remembered,
            passed=passed,
            sums=run.sums,
            transcript=run.transcript,
        )
        try:
            self._fleet.wipe(instruction)
        except HistoryError:
            self.forget_releases()  # what one client cannot destroy is no reason to keep anything here
            raise
        self.forget_releases()

    def forget_releases(self) -> None:
        """Destroy the logged sums that executed deletions have taken back, and those behind the newest state."""
        if not self._line.executed:
            return
        for branch in self._server.ledger.branches:
            if branch == self._line.branch:
                self._server.forget_releases(branch, until=self._line.state.last_round)
                break  # those that came later knew nothing of what was forgotten
            self._server.forget_releases(branch)
            self._earlier.discard(branch)

    def cost(self, request: Request, method: UnlearningMethod, *, adaptive: bool) -> Cost:
        """What a method would cost and guarantee; nothing is run."""
        concerned = self._fleet.identify(request)
        deletion = self._deletion(concerned, adaptive)
        method.check(deletion)
        planned = method.plan(deletion)
        check_claim(method, method.guarantee(deletion), deletion, entered=enters(planned))
        return self._cost(method, deletion, concerned, planned)

    def deletion(self, request: Request, *, adaptive: bool) -> Deletion:
        """What a method is told of a request."""
        return self._deletion(self._fleet.identify(request), adaptive)

    def epsilon(self, branch: str, concerned: Concerned) -> tuple[EpsilonEntry, ...]:
        """What forgotten and retained units have paid in a branch, by phase."""
        return self._server.ledger.epsilon_entries(branch, forgotten=concerned.forgotten, retained=concerned.retained)

    def _run(
        self,
        request: Request,
        method: UnlearningMethod,
        adaptive: bool,
        require: Requirement | None,
        execute: bool,
        on_round: OnRound,
    ) -> _Run:
        concerned = self._fleet.identify(request)
        deletion = self._deletion(concerned, adaptive)
        if method.purpose not in self._server.policy.purposes:
            raise ArgumentError("method", method.name, "a method of the package, or one that was declared: methods=")
        method.check(deletion)
        planned, promised = method.plan(deletion), method.guarantee(deletion)
        check_claim(method, promised, deletion, entered=enters(planned))
        if require is not None:
            require.check(method, deletion, self._methods)
        cost = self._cost(method, deletion, concerned, planned)
        line = self._line.begun
        # What clients remember of rounds that the outcome does not come from goes with them.
        after = self._remembered_until(method, deletion) if execute else None
        purpose = Purpose(
            request=request,
            method=method,
            adaptive=adaptive,
            execute=execute,
            branch=self._line.branch,
            last_round=self._line.state.last_round,
            model=self._line.state.model.digest,
        )
        interrupted = self._interrupted(purpose)
        instruction = Instruction(
            branch=self._name_of(method) if interrupted is None else interrupted,
            request=request,
            concerned=concerned,
            method=method,
            continues_after=after,
        )
        self._fleet.prepare(instruction)
        if interrupted is None:
            transcript = self._server.transcript(instruction.branch, line.transcript.head)
            sums = self._fleet.begin(
                instruction.branch,
                parent=line.branch,
                transcript=transcript,
                first_round=line.sums.next_round,
                purpose=purpose.line,
            )
        else:
            transcript = self._server.transcript(instruction.branch, self._server.head(instruction.branch))
            sums = self._fleet.reopen(instruction.branch, transcript=transcript)
        self._earlier.discard(instruction.branch)
        started = time.perf_counter()
        asked = PlannedSums(
            self._server.resumed(instruction.branch, sums),
            planned,
            method=method.name,
            start=claimed_start(method, promised, deletion),
        )
        try:
            outcome = method.run(asked, deletion, on_round)
            self._check_outcome(outcome, promised, instruction, deletion, asked)
            if require is not None:
                require.check_reached(method, outcome.guarantee)
        except BaseException:
            if self._server.log(instruction.branch) is not None:
                self._earlier.add(instruction.branch)  # the same call goes on with it
            raise
        unlearned = Unlearned(
            method=method.name,
            state=outcome.state,
            guarantee=outcome.guarantee,
            epsilon=self.epsilon(instruction.branch, concerned),
            confidentiality=confidentiality(self._server.ledger, instruction.branch, forgotten=concerned.forgotten),
            cost=self._cost(method, deletion, concerned, asked.ran) if asked.stopped_early else cost,
            traffic=tuple(sums.traffic),
            seconds=time.perf_counter() - started,
        )
        return _Run(
            unlearned=unlearned,
            instruction=instruction,
            deletion=deletion,
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

    def _check_outcome(
        self, outcome: Outcome, promised: Guarantee, instruction: Instruction, deletion: Deletion, asked: PlannedSums
    ) -> None:
        """Refuse an outcome whose guarantee is weaker than was promised, or not borne out by what was run.

        Raises:
            GuaranteeError: it is so.
        """
        method, reached = instruction.method, outcome.guarantee
        forgotten = set(instruction.concerned.forgotten)
        entered = any(
            event.charges[Subject.FORGOTTEN] is not None and not forgotten.isdisjoint(event.charged)
            for event in self._server.ledger.events(instruction.branch)
        )
        check_claim(method, reached, deletion, entered=entered)
        start = claimed_start(method, reached, deletion)
        began_with = outcome.state.model if asked.began_with is None else asked.began_with
        if start is not None and began_with.digest != start.digest:
            raise GuaranteeError(
                f"method {method.name!r} claims: {reached.describe()} But it did not begin with its start_state; "
                "expected an outcome that comes from that one"
            )
        if not keeps(promised, reached):
            raise GuaranteeError(
                f"method {method.name!r} promised: {promised.describe()} It reached: {reached.describe()} Nothing of "
                "it may be published"
            )

    def _cost(
        self, method: UnlearningMethod, deletion: Deletion, concerned: Concerned, planned: Sequence[PlannedRounds]
    ) -> Cost:
        return Cost(
            rounds=sum(rounds.count for rounds in planned),
            retraining_rounds=Retrain().rounds(deletion),
            guarantee=method.guarantee(deletion),
            epsilon=predicted_epsilon(
                planned,
                plan=self._plan,
                cohort=deletion.cohort,
                ledger=self._server.ledger,
                branch=self._line.begun.branch,
                forgotten=concerned.forgotten,
                retained=concerned.retained,
            ),
        )

    def _deletion(self, concerned: Concerned, adaptive: bool) -> Deletion:
        if self._line.state.last_round < 0:
            raise ProtocolError("no training round is done; train first")
        touched, units = concerned.forgotten, concerned.units
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

    def _interrupted(self, purpose: Purpose) -> str | None:
        """The first branch that was begun for the same, did not come to its end, and was not gone on with since."""
        for branch in self._server.ledger.branches:
            if branch in self._earlier and purpose.is_written_as(self._server.purpose(branch)):
                return branch
        return None

    def _name_of(self, method: UnlearningMethod) -> str:
        taken = sum(name.startswith(method.purpose) for name in self._server.ledger.branches)
        return method.purpose + (f"#{taken + 1}" if taken else "")


def _began_at(run: _Run) -> int | None:
    """Rounds behind the checkpoint that the outcome comes from; None if it comes from the newest model, or may."""
    method, state = run.instruction.method, run.unlearned.state
    if isinstance(method, Rerun):
        return method.checkpoint(run.deletion)
    if claimed_start(method, run.unlearned.guarantee, run.deletion) is None:
        return None
    kept = kept_start(method, run.deletion)
    return kept if kept is not None and kept < state.rounds and kept in run.deletion.checkpoints.rounds else None
