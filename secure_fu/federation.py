"""A federation in one process: real keys, real ciphertexts, real noise; messages are bytes between state machines.

This is the library's front door: bring a module and each client's records, train, ask for a deletion, unlearn.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from secure_fu.crypto import CommitteeTerms, OsRandomness, Randomness
from secure_fu.deletion import DeletionRequest
from secure_fu.errors import ArgumentError, DataError, ProtocolError
from secure_fu.learning import FlatModel, PerRecordGradients, Records
from secure_fu.parties import DEFAULT_COMMITTEE, KAHE, Parties
from secure_fu.planning import Plan
from secure_fu.privacy import EpsilonEntry, GaussianSumEvent, LedgerEvent, Subject, Unit, renyi_epsilon
from secure_fu.protocol import InProcessSums, ReleasedModel, RoundTraffic, Transcript
from secure_fu.training import (
    TRAIN,
    OnRound,
    Silo,
    StackedUpdates,
    TrainingState,
    no_observer,
    train,
    training_task,
)
from secure_fu.unlearning import METHODS, Deletion, Guarantee, UnlearningMethod

__all__ = ["Federation", "Unlearned"]

ORIGINAL = "original"


@dataclass(frozen=True, kw_only=True, eq=False)
class Unlearned:
    """What one unlearning run ended in.

    Attributes:
        method: its name.
        state: the state with the model that has forgotten.
        guarantee: about forgetting.
        epsilon: what forgotten and retained units have paid, by phase.
        traffic: of each round.
        seconds: wall-clock time of the run.
    """

    method: str
    state: TrainingState
    guarantee: Guarantee
    epsilon: tuple[EpsilonEntry, ...]
    traffic: tuple[RoundTraffic, ...]
    seconds: float


class Federation:
    """Clients, a server and a committee; one model; one privacy ledger.

    Args:
        module: the model; its present parameters are the public starting point.
        clients: records by client name; names of letters, digits, `.`, `_` and `-`.
        plan: recipe, budget and cohort, from :func:`secure_fu.planning.make_plan`.
        scheme_name: `kahe`, opened by a committee; `bfv`, opened by a key-holder, assumes more honesty; `plain` is for
            comparison only and does not encrypt.
        committee: members, threshold, quorum and corrupt members; for `kahe`.
        joins: rounds done before a client joins, for those that join late.
        vanishes: whether an invited client fails to answer, by (round number, client name): a simulated accident.
        member_vanishes: the same for the committee's members, asked before they vote and before they answer.
        directory: where ledger, transcript, roster, policy and the parties' records are kept; None keeps them in a
            temporary one until closed.
        keep_history: whether clients keep what the method `correction` needs.
        own_methods: methods of your own that :meth:`unlearn` may be asked to run; those of the package always may.
        encryption_processes: for schemes with a key-holder, worker processes that encrypt while this one computes; 0
            encrypts here. Worth it from some ten thousand parameters on.
        randomness: of sampling and noise; the operating system's unless a test needs otherwise.

    Raises:
        ArgumentError: an argument is out of its domain; names it.
        DataError: a client's records do not fit the module; names the client.
    """

    def __init__(
        self,
        module: nn.Module,
        clients: Mapping[str, Records],
        *,
        plan: Plan,
        scheme_name: str = KAHE,
        committee: CommitteeTerms = DEFAULT_COMMITTEE,
        joins: Mapping[str, int] | None = None,
        vanishes: Callable[[int, str], bool] = lambda _round, _client: False,
        member_vanishes: Callable[[int, str], bool] = lambda _round, _member: False,
        directory: Path | None = None,
        keep_history: bool = True,
        own_methods: Iterable[UnlearningMethod] = (),
        encryption_processes: int = 0,
        randomness: Randomness | None = None,
    ) -> None:
        self.recipe = recipe = plan.recipe
        self.plan = plan
        self.budget = plan.budget
        self.model = FlatModel(module)
        self.scheme_name = scheme_name
        self._joins = dict(joins or {})
        for name in self._joins:
            if name not in clients:
                raise ArgumentError("joins", name, f"names among the {len(clients)} clients")
        missing = {"epochs", "batch_size", "learning_rate"} - set(recipe.local)
        if recipe.unit is Unit.CLIENT and missing:
            raise ArgumentError("plan.recipe.local", dict(recipe.local), f"also {', '.join(sorted(missing))}")
        present = len(self._cohort_of(clients, 0))
        if plan.minimum_cohort > present:
            raise ArgumentError(
                "plan.minimum_cohort", plan.minimum_cohort, f"at most {present}, who take part at first"
            )
        for name, records in clients.items():
            _check_fits(module, name, records)
        gradients = PerRecordGradients(self.model)
        stacked = StackedUpdates(self.model, clients) if recipe.unit is Unit.CLIENT else None
        self._silos = {
            name: Silo.of(name, records, self.model, gradients, keeps_history=keep_history, stacked=stacked)
            for name, records in sorted(clients.items())
        }
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        if directory is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="secure-fu-")
            directory = Path(self._scratch.name)
        self._directory = directory
        try:
            self._parties = Parties(
                self._silos,
                plan=plan,
                scheme_name=scheme_name,
                terms=committee,
                purposes=frozenset(
                    {TRAIN, *(f"unlearn/{name}" for name in METHODS), *(method.purpose for method in own_methods)}
                ),
                directory=directory,
                cohort=self._cohort,
                vanishes=vanishes,
                member_vanishes=member_vanishes,
                encryption_processes=encryption_processes,
                randomness=OsRandomness() if randomness is None else randomness,
            )
        except BaseException:
            self._remove_scratch()
            raise
        self.ledger = self._parties.ledger
        self.policy = self._parties.policy
        self.roster = self._parties.roster
        self._training_sums: InProcessSums | None = None
        self._training_transcript: Transcript | None = None
        self.states: list[TrainingState] = [TrainingState.initial(ReleasedModel.public(self.model.vector()))]

    def close(self) -> None:
        """Close ledger and records, end worker processes."""
        self._parties.close()
        self._remove_scratch()

    def _remove_scratch(self) -> None:
        if self._scratch is not None:
            self._scratch.cleanup()

    def __enter__(self) -> Federation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def clients(self) -> tuple[str, ...]:
        """Names of all clients, sorted."""
        return tuple(self._silos)

    @property
    def state(self) -> TrainingState:
        """The newest state of training."""
        return self.states[-1]

    def module_of(self, state: TrainingState) -> nn.Module:
        """A module of your own with a state's released parameters."""
        flat = FlatModel(self.model.module)
        flat.load(state.model.vector.astype(np.float64))
        return flat.module

    @property
    def training_traffic(self) -> tuple[RoundTraffic, ...]:
        """What travelled in each training round so far."""
        return () if self._training_sums is None else tuple(self._training_sums.traffic)

    @property
    def parameter_set(self) -> str:
        """Of the encryption, as the last training round chose it: scheme `kahe` chooses by the vectors' length."""
        traffic = self.training_traffic
        return traffic[-1].parameter_set if traffic else "chosen by the first round"

    def train(self, on_round: OnRound = no_observer) -> TrainingState:
        """Run the recipe's training rounds, or those that are left of them.

        Raises:
            BudgetExceededError, RoundAborted: as :meth:`~secure_fu.protocol.SecureSums.secure_sum`.
        """
        sums = self.training_sums()

        def observe(state: TrainingState) -> None:
            self.states.append(state)
            on_round(state)

        left = self.recipe.rounds - self.state.rounds
        return train(sums, self.recipe, self.state, left, on_round=observe)

    def training_sums(self) -> InProcessSums:
        """The secure sums of the original branch: for algorithms of your own, and for measuring rounds."""
        if self._training_sums is None:
            self._training_transcript = self._parties.transcript(ORIGINAL)
            tasks = {name: {TRAIN: training_task(silo)} for name, silo in self._silos.items()}
            self._training_sums = self._parties.sums(
                ORIGINAL, parent=None, tasks=tasks, transcript=self._training_transcript, first_round=0
            )
        return self._training_sums

    def unlearn(
        self,
        request: DeletionRequest,
        method: UnlearningMethod,
        *,
        on_round: OnRound = no_observer,
    ) -> Unlearned:
        """Forget what a request names, in a branch of its own: the original stays as it is.

        Each call is a counterfactual; publishing the outcome of several adds up what they cost.

        Args:
            request: identified by every client on its own records.
            method: how to forget.
            on_round: called with the state after each round.

        Raises:
            ArgumentError: the request names an unknown client or record, or covers nothing.
            ProtocolError: training is not finished.
            BudgetExceededError, RoundAborted: as :meth:`~secure_fu.protocol.SecureSums.secure_sum`.
        """
        deletion = self.deletion(request)
        if self._training_sums is None or self._training_transcript is None:
            raise ProtocolError("no training round is done; train first")
        marks = self._identify(request)
        silos = {name: silo.forgetting(marks[name]) for name, silo in self._silos.items()}
        branch = self._branch_name(method)
        sums = self._parties.sums(
            branch,
            parent=ORIGINAL,
            tasks={name: method.client_tasks(silo) for name, silo in silos.items()},
            transcript=self._parties.transcript(branch, self._training_transcript.head),
            first_round=self._training_sums.next_round,
        )
        started = time.perf_counter()
        state = method.run(sums, deletion, on_round)
        return Unlearned(
            method=method.name,
            state=state,
            guarantee=method.guarantee(deletion),
            epsilon=self.epsilon(branch, marks),
            traffic=tuple(sums.traffic),
            seconds=time.perf_counter() - started,
        )

    def epsilon(self, branch: str, marks: Mapping[str, NDArray[np.bool_]]) -> tuple[EpsilonEntry, ...]:
        """What forgotten and retained units have paid in a branch, by phase, at the budget's delta."""
        return self.ledger.epsilon_entries(
            branch,
            forgotten=[name for name, mask in marks.items() if mask.any()],
            retained=[name for name, mask in marks.items() if not mask.all()],
        )

    def _identify(self, request: DeletionRequest) -> dict[str, NDArray[np.bool_]]:
        return request.identify_all({name: silo.records for name, silo in self._silos.items()})

    def deletion(self, request: DeletionRequest) -> Deletion:
        """What a method is told of a request.

        Raises:
            ArgumentError: the request names an unknown client or record, or covers nothing.
            ProtocolError: training is not finished.
        """
        if self.state.rounds < self.recipe.rounds:
            raise ProtocolError(f"{self.state.rounds} of {self.recipe.rounds} training rounds are done; train first")
        marks = self._identify(request)
        touched = [name for name, mask in marks.items() if mask.any()]
        self._check_whole_units(request, marks)
        units = self._count_units(marks)

        def unit_epsilon(rounds: int) -> float | None:
            paid = max(self._paid_by(name, self.states[rounds], units) for name in touched)
            return paid if math.isfinite(paid) else None

        first_charged = min(
            (event.round_number for name in touched for event in self._charges(name)), default=self.state.last_round + 1
        )
        return Deletion(
            recipe=self.recipe,
            states=tuple(self.states),
            joined_at=max(index for index, state in enumerate(self.states) if state.last_round < first_charged),
            forgotten_units=units,
            unit_epsilon=unit_epsilon,
            delta=self.budget.delta,
        )

    def _charges(self, client: str) -> Iterator[LedgerEvent]:
        """The training rounds that a client's units were charged for, released or not."""
        for event in self.ledger.events(ORIGINAL):
            if client in event.charged and event.charges[Subject.FORGOTTEN] is not None:
                yield event

    def _paid_by(self, client: str, state: TrainingState, group_size: int) -> float:
        """Epsilon of a group of one client's units up to a state; inf where there is no bound."""
        events: Counter[GaussianSumEvent] = Counter()
        for event in self._charges(client):
            charge = event.charges[Subject.FORGOTTEN]
            if charge is not None and event.round_number <= state.last_round:
                events[charge] += 1
        return renyi_epsilon(events, delta=self.budget.delta, group_size=group_size) if events else 0.0

    def _check_whole_units(self, request: DeletionRequest, marks: Mapping[str, NDArray[np.bool_]]) -> None:
        """Refuse to forget a part of a unit: what stays of it would still be charged, and bounded, as one unit."""
        for name, mask in marks.items():
            groups = self._silos[name].records.groups
            if self.recipe.unit is Unit.CLIENT:
                parted = bool(mask.any() and not mask.all())
            elif self.recipe.unit is Unit.GROUP and groups is not None:
                parted = bool(np.isin(groups[~mask], groups[mask]).any())
            else:
                parted = False
            if parted:
                raise ArgumentError(
                    "request",
                    request.describe(),
                    f"a request for whole units: this federation's privacy unit is the {self.recipe.unit.value}",
                )

    def _count_units(self, marks: Mapping[str, NDArray[np.bool_]]) -> int:
        if self.recipe.unit is Unit.CLIENT:
            return sum(bool(mask.any()) for mask in marks.values())
        if self.recipe.unit is Unit.GROUP:
            groups = [self._silos[name].records.groups for name in marks]
            return sum(
                len(np.unique(column[mask]))
                for column, mask in zip(groups, marks.values(), strict=True)
                if column is not None
            )
        return int(sum(mask.sum() for mask in marks.values()))

    def _branch_name(self, method: UnlearningMethod) -> str:
        taken = sum(name.startswith(f"unlearn/{method.name}") for name in self.ledger.branches)
        return f"unlearn/{method.name}" + (f"#{taken + 1}" if taken else "")

    def _cohort(self, round_number: int) -> tuple[str, ...]:
        return self._cohort_of(self._silos, round_number)

    def _cohort_of(self, names: Iterable[str], round_number: int) -> tuple[str, ...]:
        return tuple(name for name in names if self._joins.get(name, 0) <= round_number)


def _check_fits(module: nn.Module, client: str, records: Records) -> None:
    """Refuse, before anything travels, data that the module cannot take: inside a round it would count as zero.

    Raises:
        DataError: names the client, and shapes or numbers of classes.
    """
    if len(records) == 0:
        return
    parameter = next(module.parameters())
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            logits = module(records.features[:1].to(parameter.dtype))
    except RuntimeError as error:  # torch's own: it names shapes and dtypes, no values
        raise DataError(f"records of client {client!r} have features of shape {records.shape}; {error}") from None
    finally:
        module.train(was_training)
    largest = int(records.labels.max())
    if logits.ndim != 2 or largest >= logits.shape[1]:
        raise DataError(
            f"records of client {client!r} have labels up to {largest}; the module gives outputs of shape "
            f"{tuple(logits.shape)} for one record"
        )
