"""A federation in one process: real keys, real ciphertexts, real noise; messages are bytes between state machines.

This is the library's front door: bring a module and each client's records, train, ask for a deletion, unlearn.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
from torch import nn

from secure_fu.crypto import CommitteeTerms, OsRandomness, Randomness
from secure_fu.errors import ArgumentError
from secure_fu.federation.branches import Branches, Request, Unlearned, present_training
from secure_fu.federation.costs import Cost
from secure_fu.federation.fitting import check_cast, check_fits
from secure_fu.federation.founding import FOUNDING, read_founding
from secure_fu.federation.main_line import ORIGINAL, Executed, MainLine
from secure_fu.federation.marks import Marks
from secure_fu.federation.parties import DEFAULT_COMMITTEE, KAHE, Parties
from secure_fu.federation.parting import Parting, no_parting
from secure_fu.learning import FlatModel, PerRecordGradients, Records
from secure_fu.planning import Plan
from secure_fu.privacy import EpsilonEntry, Unit
from secure_fu.protocol import InProcessSums, ReleasedModel, RoundTraffic, SecureSums, read_policy
from secure_fu.training import (
    TRAIN,
    CheckpointStore,
    ModelArchive,
    OnRound,
    Silo,
    StackedUpdates,
    TrainingState,
    check_size,
    no_observer,
    train,
)
from secure_fu.unlearning import METHODS, Deletion, Requirement, UnlearningMethod

__all__ = ["ORIGINAL", "Federation", "Unlearned"]


class Federation:
    """Clients, a server and a committee; one model; one privacy ledger.

    Training and executed deletions follow one another on the main line; :meth:`unlearn` tries a method in a branch of
    its own and leaves the main line as it is.

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
        directory: where ledger, transcript, roster, policy, checkpoints and the parties' records are kept; None keeps
            them in a temporary one until closed. What clients remember is kept elsewhere until closed, and in it only
            where the federation is resumable.
        keep_history: whether clients keep what the methods `correction` and `eraser` need, from the first round on.
        methods: those that are declared before training with other settings than their own, and methods of your own.
            Those of the package are declared as they are. Certificates of re-runs stand on it.
        encryption_processes: for schemes with a key-holder, worker processes that encrypt while this one computes; 0
            encrypts here. Worth it from some ten thousand parameters on.
        randomness: of sampling and noise; the operating system's unless a test needs otherwise.
        resumable: whether :meth:`open` can go on with it after its process has ended, however it did. Then `directory`
            also has the secret keys of all parties, in a file of mode 600, and the released sums that it takes.
        new: whether to make the federation; otherwise `directory` has it, made with the same arguments. :meth:`open`
            reads them there.

    Raises:
        ArgumentError: an argument is out of its domain, or not what the directory was made with; names it.
        DataError: a client's records do not fit the module; names the client.
        LedgerError, RecordError, CryptoError, CheckpointError, TranscriptError: the directory has a federation already;
            or, opened again, it is incomplete, damaged or in use by another process.
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
        methods: Iterable[UnlearningMethod] = (),
        encryption_processes: int = 0,
        randomness: Randomness | None = None,
        resumable: bool = False,
        new: bool = True,
    ) -> None:
        self.recipe = recipe = plan.recipe
        self.plan = plan
        self.budget = plan.budget
        self.model = FlatModel(module)
        self.scheme_name = scheme_name
        self._methods = frozenset({*(kind() for kind in METHODS.values()), *methods})
        self._joins = dict(joins or {})
        check_cast(plan, clients, self._joins, present=len(self._cohort_of(clients, 0)))
        for name, records in clients.items():
            check_size(name, records)
            check_fits(module, name, records)
        gradients = PerRecordGradients(self.model)
        stacked = StackedUpdates(self.model, clients) if recipe.unit is Unit.CLIENT else None
        self._records = dict(sorted(clients.items()))
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._memories: tempfile.TemporaryDirectory[str] | None = None
        if directory is None and (resumable or not new):
            raise ArgumentError("directory", directory, "a directory that outlives the process, to be opened again")
        if directory is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="secure-fu-")
            directory = Path(self._scratch.name)
        histories = directory / "histories"
        if new and not resumable:
            # Whoever is given the directory must not find the clients' secret samples in it.
            self._memories = tempfile.TemporaryDirectory(prefix="secure-fu-histories-")
            histories = Path(self._memories.name)
        try:
            self._parties = Parties(
                self._records,
                plan=plan,
                scheme_name=scheme_name,
                terms=committee,
                purposes=frozenset({TRAIN, *(method.purpose for method in self._methods)}),
                directory=directory,
                cohort=self._cohort,
                vanishes=vanishes,
                member_vanishes=member_vanishes,
                encryption_processes=encryption_processes,
                randomness=OsRandomness() if randomness is None else randomness,
                facts=_facts(self.model, self._joins, self._methods),
                new=new,
                resumable=resumable,
            )
        except BaseException:
            self._remove_scratch()
            raise
        try:
            archive = ModelArchive(histories / "models", dimension=self.model.dimension)
            self._silos = {
                name: Silo.of(
                    name,
                    records,
                    self.model,
                    gradients,
                    keeps_history=keep_history if new else (histories / "clients").is_dir(),
                    folder=histories / "clients" / name,
                    archive=archive,
                    stacked=stacked,
                )
                for name, records in self._records.items()
            }
            checkpoints = CheckpointStore(
                directory / "checkpoints",
                start=ReleasedModel.public(self.model.vector()),
                every=plan.checkpoint_every,
                limit=plan.checkpoint_limit,
            )
            self.ledger = self._parties.ledger
            self.policy = self._parties.policy
            self.roster = self._parties.roster
            self._line = MainLine(
                ledger=self.ledger,
                checkpoints=checkpoints,
                delta=self.budget.delta,
                directory=directory if resumable or not new else None,
            )
            self._branches = Branches(
                parties=self._parties,
                line=self._line,
                plan=plan,
                model=self.model,
                records=self._records,
                silos=self._silos,
                methods=self._methods,
                cohort=self._cohort,
            )
            if not new:
                self._go_on()
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(
        cls,
        directory: Path,
        module: nn.Module,
        clients: Mapping[str, Records],
        *,
        vanishes: Callable[[int, str], bool] = lambda _round, _client: False,
        member_vanishes: Callable[[int, str], bool] = lambda _round, _member: False,
        methods: Iterable[UnlearningMethod] = (),
        encryption_processes: int = 0,
        randomness: Randomness | None = None,
    ) -> Federation:
        """Go on with a federation that was made `resumable` and whose process has ended, in whatever way.

        Its state is that of the last round of training that was released. An unlearning run that was interrupted is
        gone on with by asking for the same again: rounds that were released are read from disk, and neither asked for
        nor charged again, as are all rounds of one that had ended. The round that was under way stays charged and is
        asked for under a new number: a budget that is planned to the last round may not hold one more.

        Args:
            directory: of the federation.
            module: as it was at first: its parameters are the public starting point.
            clients: as at first, in the same order; of records that have been forgotten only the place counts, so they
                may be blank.
            methods: those that were declared.
            vanishes, member_vanishes, encryption_processes, randomness: as of the class.

        Raises:
            as the class, with `new=False`.
        """
        founding = read_founding(directory / FOUNDING)
        return cls(
            module,
            clients,
            plan=founding.plan,
            scheme_name=founding.scheme_name,
            committee=read_policy(directory / "policy.toml").terms,
            joins=json.loads(founding.facts.get("joins", "{}")),
            vanishes=vanishes,
            member_vanishes=member_vanishes,
            directory=directory,
            methods=methods,
            encryption_processes=encryption_processes,
            randomness=randomness,
            new=False,
        )

    def _go_on(self) -> None:
        """Bring clients and main line to where they were."""
        self._branches.wipe_again()
        if self._line.branch in self.ledger.branches:
            waiting = self._parties.resumed(self._line.branch, self.training_sums(), after=self.state.last_round)
            self._train(waiting, waiting.left, no_observer)

    def close(self) -> None:
        """Close ledger and records, end worker processes."""
        self._parties.close()
        self._remove_scratch()

    def _remove_scratch(self) -> None:
        for temporary in (self._scratch, self._memories):
            if temporary is not None:
                temporary.cleanup()

    def __enter__(self) -> Federation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def clients(self) -> tuple[str, ...]:
        """Names of all clients, sorted."""
        return tuple(self._records)

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
                self._parties.forget_releases(self._line.branch, until=state.last_round)
            on_round(state)

        forgotten_rate = 0.0 if self.executed else None
        return train(sums, self.recipe, self.state, rounds, forgotten_rate=forgotten_rate, on_round=observe)

    def training_sums(self) -> InProcessSums:
        """The secure sums of the main line: for algorithms of your own, and for measuring rounds."""
        if not self._line.has_begun:
            branch = self._line.branch
            tasks = {name: present_training(self._silos, name) for name in self._silos}
            if branch in self.ledger.branches:
                transcript = self._parties.transcript(branch, self._parties.head(branch))
                sums = self._parties.reopened_sums(branch, tasks=tasks, transcript=transcript)
            else:
                transcript = self._parties.transcript(branch)
                sums = self._parties.sums(branch, parent=None, tasks=tasks, transcript=transcript, first_round=0)
            self._line.begin(sums, transcript)
        return self._line.begun.sums

    def unlearn(
        self,
        request: Request,
        method: UnlearningMethod,
        *,
        adaptive: bool = False,
        require: Requirement | None = None,
        on_round: OnRound = no_observer,
    ) -> Unlearned:
        """Try out how a method forgets what a request names, in a branch of its own: the main line stays as it is.

        Each call is a counterfactual; publishing the outcome of several adds up what they cost. What has been deleted
        cannot be tried out any more: compare with retraining first.

        Args:
            request: identified by every client on its own records.
            method: how to forget.
            adaptive: whether the request may have been chosen after seeing models that the data had a part in.
            require: the least that has to be guaranteed.
            on_round: called with the state after each round.

        Raises:
            ArgumentError: the request names an unknown client or record, covers nothing or a part of a unit.
            AlreadyForgotten: all that it names has been forgotten.
            MethodRefused: the method cannot serve it.
            GuaranteeError: it does not guarantee what is required, or did not reach it.
            CheckpointError: the checkpoint that it needs is missing or corrupt.
            ProtocolError: no training round is done.
            BudgetExceededError, RoundAborted: as :meth:`~secure_fu.protocol.SecureSums.secure_sum`.
        """
        return self._branches.run(request, method, adaptive=adaptive, require=require, execute=False, on_round=on_round)

    def delete(
        self,
        request: Request,
        method: UnlearningMethod,
        *,
        adaptive: bool,
        require: Requirement | None = None,
        on_round: OnRound = no_observer,
        before_wiping: Callable[[Parting], None] = no_parting,
    ) -> Unlearned:
        """Execute a deletion: the main line goes on from its outcome, without the data.

        The clients drop the records and what they remember of them; the server destroys the checkpoints that knew
        them. Training, if rounds are left, and further deletions go on from there.

        Args:
            adaptive: whether the request may have been chosen after seeing models that the data had a part in: True for
                most requests in the field, False where it was made independently of them. True weakens
                what was proved of re-runs, of this one and of those executed before; see :attr:`executed`.
            before_wiping: run at each client that has records to wipe, with these records and the models before and
                after, for an audit of its own; see :func:`secure_fu.audit.own_audit`. It looks and decides nothing: the
                deletion is executed whatever it says, and what it raises is raised after that.
            request, method, require, on_round: as :meth:`unlearn`, and so are the errors.
        """
        return self._branches.run(
            request,
            method,
            adaptive=adaptive,
            require=require,
            execute=True,
            on_round=on_round,
            before_wiping=before_wiping,
        )

    def cost(self, request: Request, method: UnlearningMethod, *, adaptive: bool) -> Cost:
        """What a method would cost and guarantee for a request; nothing is run.

        Raises:
            ArgumentError, AlreadyForgotten, MethodRefused, CheckpointError, ProtocolError: as :meth:`unlearn`.
        """
        return self._branches.cost(request, method, adaptive=adaptive)

    def deletion(self, request: Request, *, adaptive: bool = False) -> Deletion:
        """What a method is told of a request.

        Raises:
            ArgumentError, AlreadyForgotten, ProtocolError: as :meth:`unlearn`.
        """
        return self._branches.deletion(request, adaptive=adaptive)

    def epsilon(self, branch: str, marks: Marks) -> tuple[EpsilonEntry, ...]:
        """What forgotten and retained units have paid in a branch, by phase, at the budget's delta."""
        return self._branches.epsilon(branch, marks)

    def _cohort(self, round_number: int) -> tuple[str, ...]:
        return self._cohort_of(self._records, round_number)

    def _cohort_of(self, names: Iterable[str], round_number: int) -> tuple[str, ...]:
        return tuple(name for name in names if self._joins.get(name, 0) <= round_number)


def _facts(model: FlatModel, joins: Mapping[str, int], methods: Iterable[UnlearningMethod]) -> dict[str, str]:
    """What is fixed before the first round beside plan and policy."""
    return {
        "start": ReleasedModel.public(model.vector()).digest.hex(),
        "joins": json.dumps(dict(sorted(joins.items()))),
        "methods": "; ".join(sorted(repr(method) for method in methods)),
    }
