"""A federation in one process: real keys, real ciphertexts, real noise; messages are bytes between state machines.

This is the library's front door: bring a module and each client's records, train, ask for a deletion, unlearn.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from torch import nn

from secure_fu.crypto import CommitteeTerms, OsRandomness, Randomness
from secure_fu.errors import ArgumentError, HistoryError
from secure_fu.federation.branches import BeforeSettling, Unlearned, nothing_before_settling
from secure_fu.federation.coordinator import Coordinator
from secure_fu.federation.fitting import check_cast, check_fits
from secure_fu.federation.fleet import Request
from secure_fu.federation.founding import common_facts, declared_methods, read_founding
from secure_fu.federation.local_fleet import LocalFleet
from secure_fu.federation.main_line import MainLine
from secure_fu.federation.marks import Marks
from secure_fu.federation.parties import DEFAULT_COMMITTEE, Parties
from secure_fu.federation.parting import Parting, no_parting
from secure_fu.file_names import FOUNDING, POLICY
from secure_fu.learning import FlatModel, PerRecordGradients, Records
from secure_fu.planning import Plan
from secure_fu.privacy import EpsilonEntry, Unit
from secure_fu.protocol import ReleasedModel, read_policy
from secure_fu.scheme_names import KAHE
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
)
from secure_fu.unlearning import METHODS, Requirement, UnlearningMethod

__all__ = ["Federation"]


class Federation(Coordinator):
    """Clients, a server and a committee; one model; one privacy ledger.

    What it does is :class:`~secure_fu.federation.Coordinator`'s; this brings all parties, in one process.

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
        recipe, model = plan.recipe, FlatModel(module)
        self.scheme_name = scheme_name
        brought = frozenset(methods)
        self._joins = dict(joins or {})
        check_cast(plan, clients, self._joins, present=len(self._cohort_of(clients, 0)))
        for name, records in clients.items():
            check_size(name, records)
            check_fits(module, name, records)
        gradients = PerRecordGradients(model)
        stacked = StackedUpdates(model, clients) if recipe.unit is Unit.CLIENT else None
        self._records = dict(sorted(clients.items()))
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._memories: tempfile.TemporaryDirectory[str] | None = None
        if directory is None and (resumable or not new):
            raise ArgumentError("directory", directory, "a directory that outlives the process, to be opened again")
        if new or directory is None:
            declared = brought.union(kind() for kind in METHODS.values())
            facts = common_facts(ReleasedModel.public(model.vector()), self._joins, declared)
        else:
            founding = read_founding(directory / FOUNDING)
            declared = declared_methods(founding, brought)
            facts = common_facts(ReleasedModel.public(model.vector()), self._joins, declared)
            facts["methods"] = founding.facts["methods"]  # one of version 1 may have written a number otherwise
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
                purposes=frozenset({TRAIN, *(method.purpose for method in declared)}),
                directory=directory,
                cohort=self._cohort,
                vanishes=vanishes,
                member_vanishes=member_vanishes,
                encryption_processes=encryption_processes,
                randomness=OsRandomness() if randomness is None else randomness,
                facts=facts,
                new=new,
                resumable=resumable,
            )
        except BaseException:
            self._remove_scratch()
            raise
        try:
            archive = ModelArchive(histories / "models", dimension=model.dimension)
            self._silos = {
                name: Silo.of(
                    name,
                    records,
                    model,
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
                start=ReleasedModel.public(model.vector()),
                every=plan.checkpoint_every,
                limit=plan.checkpoint_limit,
            )
            line = MainLine(
                ledger=self._parties.ledger,
                checkpoints=checkpoints,
                delta=plan.budget.delta,
                directory=directory if resumable or not new else None,
            )
            self._local = LocalFleet(
                parties=self._parties,
                records=self._records,
                silos=self._silos,
                unit=recipe.unit,
                gone=lambda: line.gone,
            )
            super().__init__(
                model=model,
                plan=plan,
                server=self._parties.server,
                fleet=self._local,
                line=line,
                methods=declared,
                cohort=self._cohort,
            )
            if not new:
                self._wipe_again(line)
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
            methods: those of your own that were declared, where no installed package brings them.
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
            committee=read_policy(directory / POLICY).terms,
            joins=json.loads(founding.facts.get("joins", "{}")),
            vanishes=vanishes,
            member_vanishes=member_vanishes,
            directory=directory,
            methods=methods,
            encryption_processes=encryption_processes,
            randomness=randomness,
            new=False,
        )

    def _wipe_again(self, line: MainLine) -> None:
        try:
            if line.executed:
                self._local.wipe_again(line.unwiped)
        except HistoryError:
            self._branches.forget_releases()
            raise

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

    def unlearn(
        self,
        request: Request,
        method: UnlearningMethod,
        *,
        adaptive: bool,
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
            GuaranteeError: it does not guarantee what is required, did not reach it, or claims what the ledger does
                not bear out.
            CheckpointError: the checkpoint that it needs is missing or corrupt.
            ProtocolError: no training round is done, or the method asks for a round that its plan does not have.
            BudgetExceededError, RoundAborted: as :meth:`~secure_fu.protocol.SecureSums.secure_sum`.
        """
        return self._forget(request, method, adaptive=adaptive, require=require, execute=False, on_round=on_round)

    def delete(
        self,
        request: Request,
        method: UnlearningMethod,
        *,
        adaptive: bool,
        require: Requirement | None = None,
        on_round: OnRound = no_observer,
        before_settling: BeforeSettling = nothing_before_settling,
        before_wiping: Callable[[Parting], None] = no_parting,
    ) -> Unlearned:
        """Execute a deletion: the main line goes on from its outcome, without the data.

        The clients drop the records and what they remember of them; the server destroys the checkpoints that knew
        them. Training, if rounds are left, and further deletions go on from there.

        Args:
            adaptive: whether the request may have been chosen after seeing models that the data had a part in: True for
                most requests in the field, False where it was made independently of them. True weakens
                what was proved of re-runs, of this one and of those executed before; see :attr:`executed`.
            before_settling: told the states before and after. It looks and decides nothing: the deletion is executed
                whatever it says, and what it raises is raised after that.
            before_wiping: run at each client that has records to wipe, with these records and the models before and
                after, for an audit of its own; see :func:`secure_fu.audit.own_audit`. It looks and decides nothing,
                as `before_settling`.
            request, method, require, on_round: as of :meth:`unlearn`, and so are the errors.
        """

        def part(before: TrainingState, after: TrainingState) -> None:
            before_settling(before, after)
            self._local.part(before, after, before_wiping)

        return self._forget(
            request,
            method,
            adaptive=adaptive,
            require=require,
            execute=True,
            on_round=on_round,
            before_settling=part,
        )

    def epsilon(self, branch: str, marks: Marks) -> tuple[EpsilonEntry, ...]:
        """What forgotten and retained units have paid in a branch, by phase, at the budget's delta."""
        return self._branches.epsilon(branch, self._local.concerned(marks))

    def _cohort(self, round_number: int) -> tuple[str, ...]:
        return self._cohort_of(self._records, round_number)

    def _cohort_of(self, names: Iterable[str], round_number: int) -> tuple[str, ...]:
        return tuple(name for name in names if self._joins.get(name, 0) <= round_number)
