"""A federation from its server's side: the main line of models, tries beside it, deletions on it."""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
from torch import nn

from secure_fu.errors import ArgumentError
from secure_fu.federation.branches import BeforeSettling, Branches, Unlearned, nothing_before_settling
from secure_fu.federation.costs import Cost
from secure_fu.federation.fleet import Fleet, Request, RoundSums
from secure_fu.federation.main_line import Executed, MainLine
from secure_fu.federation.server_directory import ServerDirectory
from secure_fu.learning import FlatModel
from secure_fu.planning import Plan
from secure_fu.protocol import RoundTraffic, SecureSums
from secure_fu.training import CheckpointStore, Lineage, OnRound, TrainingState, no_observer, train
from secure_fu.unlearning import Deletion, Requirement, UnlearningMethod

__all__ = ["Coordinator"]


class Coordinator:
    """What a server does of training and unlearning, whoever the other parties are and wherever they run.

    Training and executed deletions follow one another on the main line. How a deletion is asked for depends on who asks
    and on what is durable of it: :class:`~secure_fu.federation.Federation`, with all parties in one process, and
    :class:`~secure_fu.deployment.server.federation_server.FederationServer` say it in their own ways.

    Args:
        model: the federation's; its parameters are the public starting point.
        plan: recipe, budget and cohort.
        server: what the server keeps.
        fleet: all other parties.
        line: the main line.
        methods: declared before training.
        cohort: names of the clients to invite to a given round number.
    """

    def __init__(
        self,
        *,
        model: FlatModel,
        plan: Plan,
        server: ServerDirectory,
        fleet: Fleet,
        line: MainLine,
        methods: Collection[UnlearningMethod],
        cohort: Callable[[int], tuple[str, ...]],
    ) -> None:
        self.model, self.plan = model, plan
        self.recipe, self.budget = plan.recipe, plan.budget
        self.ledger, self.policy, self.roster = server.ledger, server.policy, server.roster
        self._server = server
        self._fleet = fleet
        self._line = line
        self._branches = Branches(
            server=server, fleet=fleet, line=line, plan=plan, model=model, methods=methods, cohort=cohort
        )

    def _go_on(self) -> None:
        """Bring the main line to where it was when the process before this one ended."""
        self._branches.forget_releases()
        if self._line.branch in self.ledger.branches:
            waiting = self._server.resumed(self._line.branch, self.training_sums(), after=self.state.last_round)
            self._train(waiting, waiting.left, no_observer)

    @property
    def state(self) -> TrainingState:
        """The newest state of the main line."""
        return self._line.state

    @property
    def checkpoints(self) -> CheckpointStore:
        """States of training that the server keeps, on the plan's public grid."""
        return self._line.checkpoints

    @property
    def executed(self) -> tuple[Executed, ...]:
        """The deletions that were executed, each with its guarantee as it stands."""
        return self._line.executed

    @property
    def lineage(self) -> Lineage:
        """Branches, and the last round in each, that the newest state comes from; the last is the present one."""
        return self._line.lineage

    def module_of(self, state: TrainingState) -> nn.Module:
        """A module of your own with a state's released parameters."""
        flat = FlatModel(self.model.module)
        flat.load(state.model.vector.astype(np.float64))
        return flat.module

    @property
    def training_traffic(self) -> tuple[RoundTraffic, ...]:
        """What travelled in each round of the main line's present branch so far."""
        return tuple(self._line.begun.sums.traffic) if self._line.has_begun else ()

    @property
    def parameter_set(self) -> str:
        """Of the encryption, as the last training round chose it: scheme `kahe` chooses by the vectors' length."""
        traffic = self.training_traffic
        return traffic[-1].parameter_set if traffic else "chosen by the first round"

    def train(self, on_round: OnRound = no_observer, *, rounds: int | None = None) -> TrainingState:
        """Run the recipe's training rounds, or those that are left of them, without what has been forgotten.

        Args:
            on_round: called with the state after each round.
            rounds: how many at most; None for all that are left.

        Raises:
            ArgumentError: a negative number of rounds.
            BudgetExceededError, RoundAborted: as :meth:`~secure_fu.protocol.SecureSums.secure_sum`.
        """
        if rounds is not None and rounds < 0:
            raise ArgumentError("rounds", rounds, "at least 0, or None")
        left = max(0, self.recipe.rounds - self.state.rounds)
        return self._train(self.training_sums(), left if rounds is None else min(left, rounds), on_round)

    def _train(self, sums: SecureSums, rounds: int, on_round: OnRound) -> TrainingState:
        def observe(state: TrainingState) -> None:
            if self._line.advance(state):
                self._server.forget_releases(self._line.branch, until=state.last_round)
            on_round(state)

        forgotten_rate = 0.0 if self.executed else None
        return train(sums, self.recipe, self.state, rounds, forgotten_rate=forgotten_rate, on_round=observe)

    def training_sums(self) -> RoundSums:
        """The secure sums of the main line: for algorithms of your own, and for measuring rounds."""
        if not self._line.has_begun:
            branch = self._line.branch
            if branch in self.ledger.branches:
                transcript = self._server.transcript(branch, self._server.head(branch))
                sums = self._fleet.reopen(branch, transcript=transcript)
            else:
                transcript = self._server.transcript(branch)
                sums = self._fleet.begin(branch, parent=None, transcript=transcript, first_round=0, purpose="")
            self._line.begin(sums, transcript)
        return self._line.begun.sums

    def _forget(
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
        """Run a method for a request: in a branch beside the main line, or for good.

        Args:
            request: identified by every client on its own records.
            method: how to forget.
            adaptive: whether the request may have been chosen after seeing models that the data had a part in.
            require: the least that has to be guaranteed.
            execute: whether the main line goes on from the outcome, without the data.
            on_round: called with the state after each round.
            before_settling: told the states before and after, where it is for good. It looks and decides nothing.

        Raises:
            ArgumentError: the request names an unknown client or record, covers nothing or a part of a unit.
            AlreadyForgotten: all that it names has been forgotten.
            MethodRefused: the method cannot serve it.
            GuaranteeError: it does not guarantee what is required, did not reach it, or claims what the ledger does
                not bear out.
            CheckpointError: the checkpoint that it needs is missing or corrupt.
            ProtocolError: no training round is done, or the method asks for a round that its plan does not have.
            BudgetExceededError, RoundAborted: as :meth:`~secure_fu.protocol.SecureSums.secure_sum`.
        """
        return self._branches.run(
            request,
            method,
            adaptive=adaptive,
            require=require,
            execute=execute,
            on_round=on_round,
            before_settling=before_settling,
        )

    def cost(self, request: Request, method: UnlearningMethod, *, adaptive: bool) -> Cost:
        """What a method would cost and guarantee for a request; nothing is run.

        Args:
            request: identified by every client on its own records.
            method: how to forget.
            adaptive: whether the request may have been chosen after seeing models that the data had a part in: True for
                most requests in the field, False where it was made independently of them. True weakens what was
                proved of re-runs, of this one and, if it is executed, of those before; see :attr:`executed`.

        Raises:
            ArgumentError: the request names an unknown client or record, covers nothing or a part of a unit.
            AlreadyForgotten: all that it names has been forgotten.
            MethodRefused: the method cannot serve it.
            GuaranteeError: it claims what the ledger does not bear out.
            CheckpointError: the checkpoint that it needs is missing or corrupt.
            ProtocolError: no training round is done.
        """
        return self._branches.cost(request, method, adaptive=adaptive)

    def deletion(self, request: Request, *, adaptive: bool) -> Deletion:
        """What a method is told of a request.

        Args:
            request, adaptive: as of :meth:`cost`.

        Raises:
            ArgumentError, AlreadyForgotten, ProtocolError: as :meth:`cost`.
        """
        return self._branches.deletion(request, adaptive=adaptive)
