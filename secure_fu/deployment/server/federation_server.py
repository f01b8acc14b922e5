"""A federation's server, whose clients and openers are on other machines."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Self

from torch import nn

from secure_fu.crypto import Identity, Roster
from secure_fu.deletion.certificates import concerned_clients
from secure_fu.deletion.execution import Execution, WindowGivenUp
from secure_fu.deletion.policy import read_deletion_policy
from secure_fu.deletion.requests import SignedBatch
from secure_fu.deployment.exchange import Exchange
from secure_fu.deployment.exchange.messages import order_settings
from secure_fu.deployment.founding.founded import founded_module, pinned_files, server_identity
from secure_fu.deployment.server.hosts import Hosts, LeftOut
from secure_fu.deployment.server.remote_fleet import RemoteFleet, batch_of
from secure_fu.deployment.server.remote_sums import Patience
from secure_fu.deployment.server.window_files import Started, WindowFiles
from secure_fu.deployment.server.window_price import check_price, check_rest
from secure_fu.errors import ArgumentError, RecordError
from secure_fu.federation.coordinator import Coordinator
from secure_fu.federation.execution_of import before_deletion, execution_of
from secure_fu.federation.fleet import Request
from secure_fu.federation.founding import Founding, common_facts, declared_methods, read_founding, write_founding
from secure_fu.federation.main_line import MainLine
from secure_fu.federation.server_directory import ServerDirectory, write_public_files
from secure_fu.federation.stored_formats import upgrade
from secure_fu.file_names import DELETION, FOUNDING, LEDGER
from secure_fu.learning import FlatModel
from secure_fu.planning import Plan
from secure_fu.privacy import EpsilonEntry, PrivacyLedger
from secure_fu.protocol import Policy, ReleasedModel
from secure_fu.protocol.header import parse_settings
from secure_fu.training import CheckpointStore, OnRound, TrainingState, no_observer
from secure_fu.unlearning import METHODS, Requirement, UnlearningMethod, method_from_settings

__all__ = ["FederationServer"]


class FederationServer(Coordinator):
    """Trains and deletes with parties that an exchange reaches.

    Formal guarantees:
        The directory has no key but the server's, no record and no mark of anybody. One process at a time has it. After
        any end of the process it goes on as a resumable :class:`~secure_fu.federation.Federation` does: what was
        released is released and charged once, a round that was under way stays charged, no round number is used twice.
        A deletion window is executed once: asked for again, it is told what it came to. One that was given up is never
        executed, and what it charged counts against all that comes later, in whatever branch.
    Edge cases:
        What is opened is the state of the last round of training that was released. A window that was interrupted, by
        an end of the process or by a round that came to nothing, is gone on with by asking for the same again: its
        released rounds are read from disk. If training has gone on in between, it begins anew and is charged anew.

    Args:
        directory: of the server, made by :meth:`create` or by :func:`~secure_fu.deployment.founding.bundle.found`.
        exchange: with the nodes.
        identity: of the server; read from `keys.bin` unless given.
        module: the model, at its public starting point; made from what was founded unless given.
        methods: of those that were declared, the ones of your own that no installed package brings.
        patience: how long to wait for others.

    Raises:
        ArgumentError: an argument is not what the directory was made with, or a declared method is missing here; names
            it.
        LedgerError, RecordError, CryptoError, CheckpointError, TranscriptError: the directory is incomplete, damaged or
            in use by another process.
    """

    def __init__(
        self,
        directory: Path,
        exchange: Exchange,
        *,
        identity: Identity | None = None,
        module: nn.Module | None = None,
        methods: Iterable[UnlearningMethod] = (),
        patience: Patience | None = None,
    ) -> None:
        upgrade(directory)
        founding = read_founding(directory / FOUNDING)
        patience = Patience() if patience is None else patience
        model = FlatModel(founded_module(founding) if module is None else module)
        start = ReleasedModel.public(model.vector())
        if start.digest.hex() != founding.facts.get("start"):
            raise ArgumentError("module", start.digest.hex(), f"the start that {directory / FOUNDING} names")
        declared = declared_methods(founding, methods)
        joins: Mapping[str, int] = json.loads(founding.facts.get("joins", "{}"))

        def cohort(round_number: int) -> tuple[str, ...]:
            return tuple(name for name in founding.clients if joins.get(name, 0) <= round_number)

        with ExitStack() as opened:
            # First: it refuses a directory that is in use.
            # Nothing is tried out here: each branch was run with the parties themselves.
            ledger = opened.enter_context(PrivacyLedger.open(directory / LEDGER, trials=False))
            roster, policy = pinned_files(directory, founding)
            own = server_identity(directory, policy, roster) if identity is None else identity
            if own.party != roster.party(policy.server):
                raise ArgumentError("identity", own.name, f"the identity of {policy.server!r} with the roster's keys")
            server = ServerDirectory(
                directory,
                ledger=ledger,
                roster=roster,
                policy=policy,
                founding=founding,
                goes_on=True,
                keeps_releases=True,
            )
            line = MainLine(
                ledger=ledger,
                checkpoints=CheckpointStore(
                    directory / "checkpoints",
                    start=start,
                    every=founding.plan.checkpoint_every,
                    limit=founding.plan.checkpoint_limit,
                ),
                delta=founding.plan.budget.delta,
                directory=directory,
            )
            self._directory = directory
            self._invited = cohort
            self._files = WindowFiles(directory)
            self._hosts = Hosts(exchange, roster=roster, policy=policy, timeout=patience.hello)
            self._remote = RemoteFleet(
                identity=own,
                server=server,
                files=self._files,
                hosts=self._hosts,
                scheme_name=founding.scheme_name,
                cohort=cohort,
                executed=lambda: line.executed,
                patience=patience,
            )
            super().__init__(
                model=model,
                plan=founding.plan,
                server=server,
                fleet=self._remote,
                line=line,
                methods=declared,
                cohort=cohort,
            )
            self._note_execution()  # before the main line goes on from it
            self._go_on()
            self._opened = opened.pop_all()

    @classmethod
    def create(
        cls,
        directory: Path,
        exchange: Exchange,
        *,
        identity: Identity,
        roster: Roster,
        policy: Policy,
        plan: Plan,
        module: nn.Module,
        scheme_name: str,
        methods: Iterable[UnlearningMethod] = tuple(kind() for kind in METHODS.values()),
        joins: Mapping[str, int] | None = None,
        run_key: bytes | None = None,
        patience: Patience | None = None,
    ) -> Self:
        """Make a new server's directory and open it. The identity is not written there.

        Args:
            directory: has no federation; made if it is missing.
            identity: of the server.
            roster, policy, plan: of the federation.
            module: the model, at its public starting point.
            scheme_name: of the encryption.
            methods: to declare before training.
            joins: rounds done before a client joins, for those that join late.
            run_key: 32 bytes that the ids of runs are derived from, public; random unless a test needs otherwise.
            exchange, patience: as of the class.

        Raises:
            ArgumentError, LedgerError, RecordError: as of the class, or there is a federation already.
        """
        policy.check_roster(roster)
        methods = tuple(methods)
        founding = Founding(
            clients=tuple(sorted(roster.clients)),
            scheme_name=scheme_name,
            plan=plan,
            roster_digest=roster.digest,
            run_key=os.urandom(32) if run_key is None else run_key,
            facts=common_facts(ReleasedModel.public(FlatModel(module).vector()), joins or {}, methods),
        )
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        PrivacyLedger.create(directory / LEDGER, budget=plan.budget).close()
        write_public_files(directory, roster=roster, policy=policy)
        write_founding(directory / FOUNDING, founding)  # last: it says that the others are there
        return cls(directory, exchange, identity=identity, module=module, methods=methods, patience=patience)

    @classmethod
    def open(
        cls,
        directory: Path,
        exchange: Exchange,
        *,
        identity: Identity | None = None,
        module: nn.Module | None = None,
        methods: Iterable[UnlearningMethod] = (),
        patience: Patience | None = None,
    ) -> Self:
        """Go on with a directory; arguments and errors as of the class."""
        return cls(directory, exchange, identity=identity, module=module, methods=methods, patience=patience)

    def close(self) -> None:
        """Close the ledger; another process can have the directory then."""
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """Nodes, and parties at nodes, that answered and are not listened to, each with the reason."""
        return self._hosts.left_out

    @property
    def present(self) -> frozenset[str]:
        """Names of the parties that could be reached when they were last asked."""
        return self._hosts.present

    def survey(self) -> None:
        """Greet all nodes; no round is run. Clients that are back are told of the windows that they have missed."""
        self._hosts.survey(anew=True)
        self._remote.redeliver()

    def train(self, on_round: OnRound = no_observer, *, rounds: int | None = None) -> TrainingState:
        """Run rounds of training that are left; see :meth:`Coordinator.train`.

        Raises:
            PartiesAway: too few parties can be reached; nothing was asked or charged.
        """
        self._hosts.survey(anew=True)
        return super().train(on_round, rounds=rounds)

    def delete(
        self,
        request: Request,
        method: UnlearningMethod,
        *,
        adaptive: bool,
        require: Requirement | None = None,
        on_round: OnRound = no_observer,
    ) -> Execution:
        """Execute a window, once: one that was executed before is told of, and nothing is run.

        Args:
            request: a :class:`~secure_fu.deletion.requests.SignedBatch`.
            method, adaptive, require, on_round: as of :meth:`~secure_fu.federation.Federation.delete`, and so are the
                errors.

        Returns:
            what it came to, with the clients that have confirmed up to now.

        Raises:
            PartiesAway: too few parties can be reached; the same call goes on with the window.
            WindowGivenUp: it was; see :meth:`give_up`.
        """
        window_id = batch_of(request).window_id
        done = self.execution(window_id)
        if done is not None:
            return self._with_latecomers(done)
        why = self._files.given_up(window_id)
        if why:
            raise WindowGivenUp(why)
        self.deletion(request, adaptive=adaptive)  # refuses what cannot be served, before anything is written
        self._note_started(window_id, method, adaptive)
        self._forget(request, method, adaptive=adaptive, require=require, execute=True, on_round=on_round)
        self._note_execution()
        done = self.execution(window_id)
        if done is None:
            raise RecordError(f"window {window_id.hex()} was executed, and there is no record of it")
        return done

    def give_up(self, window_id: bytes, why: str) -> None:
        """Never go on with a window that was not executed; durable on return.

        What it released or reserved stays charged, and nothing is taken back at clients: what it marked there is in no
        round of training from the next window's order on, and is still there for the method of a window that covers it.

        Raises:
            RecordError: it was executed, or it cannot be written down.
        """
        if any(batch_of(entry.request).window_id == window_id for entry in self.executed):
            raise RecordError(f"window {window_id.hex()} was executed; expected one that was not")
        self._files.note_given_up(window_id, why)

    def _with_latecomers(self, done: Execution) -> Execution:
        """An execution, after asking the clients that have not confirmed it."""
        if done.missing:
            self.survey()
        return self.execution(done.window_id) or done

    def execute(self, batch: SignedBatch) -> Execution:
        """Execute a window by the deletion policy that was founded; see :class:`DeletionExecutor`.

        Requests are taken to be made by people who have seen models.

        Raises:
            RecordError: there is no `deletion.toml`.
            BudgetExceededError: the budget does not hold what is left of it, by its plan; nobody was asked. Or as
                :meth:`delete`, as all other errors.
        """
        policy = read_deletion_policy(self._directory / DELETION)
        method = method_from_settings(policy.method, policy.settings)
        if self.execution(batch.window_id) is None and not self._files.given_up(batch.window_id):
            deletion = self.deletion(batch, adaptive=True)
            method.check(deletion)
            check_rest(
                method.plan(deletion),
                released=self._released(batch.window_id),
                plan=self.plan,
                ledger=self.ledger,
                cohort=self._invited(self._line.begun.sums.next_round),
            )
        return self.delete(batch, method, adaptive=True)

    def _released(self, window_id: bytes) -> int:
        """How many rounds of a window that is under way need not be asked for again; rather too many than too few."""
        if not self._files.told(window_id):
            return 0
        digest = self._files.order(window_id).order_digest
        logs = [self._server.log(name) for name in self.ledger.branches if self._server.order(name) == digest]
        return max((len(log.rounds) for log in logs if log is not None), default=0)

    def check_window(self, batch: SignedBatch) -> None:
        """Return only if the budget holds a window that has not set out; nobody is asked and nothing is changed.

        Raises:
            BudgetExceededError: it does not, or it is for cover alone and would take what a deletion will need; see
                :func:`~secure_fu.deployment.server.window_price.check_price`.
            MethodRefused: the method cannot serve it.
            RecordError, ProtocolError: as :meth:`execute`.
        """
        policy = read_deletion_policy(self._directory / DELETION)
        method = method_from_settings(policy.method, policy.settings)
        deletion = self.deletion(batch, adaptive=True)
        method.check(deletion)
        check_price(
            deletion,
            method,
            plan=self.plan,
            ledger=self.ledger,
            cohort=self._invited(self._line.begun.sums.next_round),
            for_nobody=not batch.requests,
        )

    def execution(self, window_id: bytes) -> Execution | None:
        """What a window came to, with the clients that have confirmed up to now; None if it was not executed."""
        if all(batch_of(entry.request).window_id != window_id for entry in self.executed):
            return None
        execution = self._files.execution(window_id)
        if execution is None:
            return None
        wiped = self.wiped(window_id)
        return replace(execution, wiped=tuple(wiped[name] for name in sorted(wiped)), missing=self.missing(window_id))

    def wiped(self, window_id: bytes) -> dict[str, bytes]:
        """Encoded statements of clients that what an executed window covers is destroyed there, by client."""
        return self._files.wiped(window_id)

    def missing(self, window_id: bytes) -> tuple[str, ...]:
        """Clients that have not confirmed an executed window yet, sorted."""
        return self._remote.missing(window_id)

    def epsilon(self, batch: SignedBatch) -> tuple[EpsilonEntry, ...]:
        """What units that an executed window may cover, and others, have paid on the main line, by phase."""
        return self._branches.epsilon(self._line.branch, self._remote.concerned(batch))

    def _note_started(self, window_id: bytes, method: UnlearningMethod, adaptive: bool) -> None:
        started = Started(
            method=method.name,
            settings=order_settings(method),
            adaptive=adaptive,
            clients=tuple(sorted(self.roster.clients)),
            before=before_deletion(self),
        )
        known = self._files.started(window_id)
        if known is not None:
            # What is gone on with began when it began.
            started = replace(started, before=replace(started.before, started=known.before.started))
        if known != started:
            self._files.note_started(window_id, started)

    def _note_execution(self) -> None:
        """Write down what the newest window came to, unless that is written; before anything else is run."""
        if not self.executed:
            return
        entry = self.executed[-1]
        batch = batch_of(entry.request)
        window_id = batch.window_id
        started = self._files.started(window_id)
        if started is None:
            raise RecordError(f"window {window_id.hex()} was executed, and its folder in {self._directory} is missing")
        if self._files.execution(window_id) is None:
            order = self._files.order(window_id).order[0]
            self._files.note_execution(
                execution_of(
                    self,
                    started.before,
                    transcript=self._server.transcript_file,
                    settings=parse_settings(order.settings),  # as they were told to clients
                    window_id=window_id,
                    concerned=concerned_clients(batch),
                    opened=batch.opened,
                    order=order.digest,
                    run_key=self._server.run_key,
                    continues_after=order.continues_after,
                )
            )
