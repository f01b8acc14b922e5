"""A client at a node: which runs it serves, what it was ordered to forget, and the forgetting."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from secure_fu.crypto import Identity, Randomness
from secure_fu.crypto.wire import decode, encode
from secure_fu.deletion import DeletionRequest
from secure_fu.deployment.exchange.messages import Begin, Order, Wipe, WipeStatement, method_of, wipe_commitment
from secure_fu.deployment.node.data import DataFile
from secure_fu.deployment.node.directory import NodeDirectory
from secure_fu.deployment.node.holdings import Holdings
from secure_fu.deployment.node.orders import Marked, check_order, mark_order, requests_digest
from secure_fu.deployment.node.state import (
    ClientState,
    KnownRun,
    LeftRequest,
    Pending,
    PreparedOrder,
    PrivateRequest,
    Settled,
    StateFile,
)
from secure_fu.errors import AlreadyForgotten, AnsweredLater, DataError, HistoryError, PolicyRefusal, RecordError
from secure_fu.learning import FlatModel, Records
from secure_fu.protocol import Client, ClientRecord, Header, LocalTask, RoundTerms, UploadEncryption
from secure_fu.protocol.messages import Invitation
from secure_fu.protocol.run_id import run_id_of
from secure_fu.protocol.sums import RandomStream
from secure_fu.training import TRAIN, ModelArchive, Silo, training_task

__all__ = ["NodeClient", "UnknownRun"]

_LOGGER = logging.getLogger("secure_fu")


class UnknownRun(PolicyRefusal):
    """The run's Begin has not come yet."""


class _Unable:
    """The task of a client that cannot take part in a method: it raises, so that the upload is noise alone."""

    def contribution(self, model: NDArray[np.float32], terms: RoundTerms, stream: RandomStream) -> NDArray[np.float64]:
        """Never returns."""
        del model, terms, stream
        raise HistoryError("the client has not what the method needs")


class NodeClient:
    """One client's side of a deployment, above the rounds themselves.

    Formal guarantees:
        A round is answered only in a run that the pinned server has begun, for `train` and for the purposes of the
        order that the run is for. The run's id commits to that order: clients that were told different ones answer in
        different runs. Once an order is accepted, no round of its run computes on the records that it marks
        but the method's own; once it is settled, none of any run does, for they are gone: from memory, from the data
        file, from the history and from the archive of models. Every step is on disk before anything that relies on it
        leaves; after a kill at any moment the client has the old state or the new one, and ends a wiping that was
        begun. What it answers to an order, refused or done, is a function of the order, of the public policies and of
        which orders came before: not of its data, nor of what was asked in private.
    Edge cases:
        An order that another one takes the place of, before it is settled, is parked: no round is served for it, and
        what it marks is in no round of any run, for it may have been executed without this client's knowing. The
        server can still have it wiped.
        A request of an order that cannot be done here is left undone, and the node's log says so: a position that does
        not exist, a person without a group column, a part of a unit, or more units than the request declares. The
        order goes on, for a refusal would tell the server about the data. What is undone is in what the commitment of
        the :class:`~secure_fu.deletion.wiping.WipeStatement` commits to.
        Private requests join an order in the order in which they came, while they fit in its hidden units; one that
        does not fit waits, and holds back none behind it.
        A client that has answered no round of a window destroys what the window covers all the same. Its private
        requests then stay in the queue, as wiped and not unlearnt, for a window that unlearns; the node's log says so.
        A client whose history is lost answers a method that needs it with noise alone.
    Not guaranteed:
        That a window has all the requests that concern this client: the server may keep one back and give others its
        digest. The commitment also commits to which requests the client was given.

    Args:
        identity: secret; of a client.
        files: of the node.
        record: of rounds; also what keeps a second process out.
        state_file: of this client.
        records: as they were brought; those that are gone may be blank.
        data_file: where they came from, to be wiped; None where they were handed in.
        model: of the federation.
        archive: of models, shared by the clients of the node.
        prune: destroys the models in the archive that no client of the node refers to.
        take_up: queues the private requests that were left for clients of the node.
        encryption: of the federation's scheme.
        randomness: of sampling, rounding and noise.

    Raises:
        RecordError, DataError, HistoryError: a file is missing, damaged, or of something else.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        files: NodeDirectory,
        record: ClientRecord,
        state_file: StateFile,
        records: Records,
        data_file: DataFile | None,
        model: FlatModel,
        archive: ModelArchive,
        prune: Callable[[], None],
        take_up: Callable[[], None],
        encryption: UploadEncryption,
        randomness: Randomness,
    ) -> None:
        self._identity, self._files, self._record = identity, files, record
        self._state_file, self._take_up = state_file, take_up
        self._encryption, self._randomness = encryption, randomness
        self._unit = files.policy.unit
        self._state = state_file.read()
        if (self._state.client, self._state.records) != (self.name, len(records)):
            raise DataError(
                f"client {self.name!r} has {len(records)} records; expected {self._state.records}, as when the node "
                "was made: requests name them by their places"
            )
        self._holdings = Holdings(
            self.name,
            records,
            self._state.gone,
            data_file=data_file,
            folder=files.path / "histories" / self.name,
            keeps_history=files.keeps_history.get(self.name, True),
            model=model,
            archive=archive,
            prune=prune,
        )
        self._ordered: Silo | None = None
        self._tasks: Mapping[str, LocalTask] = {}
        self._prepared: bytes | None = None  # digest of the order that these two are of

    @property
    def name(self) -> str:
        """As in the roster."""
        return self._identity.name

    @property
    def state(self) -> ClientState:
        """What it has written down. Private to the client."""
        return self._state

    @property
    def silo(self) -> Silo:
        """Its private side, as it is now."""
        return self._holdings.silo

    def resume(self) -> None:
        """Go on after a restart: end a wiping that was begun, prepare the order that was under way."""
        if self._state.pending is not None:
            try:
                self._destroy(None)
            except (HistoryError, DataError, RecordError, OSError) as error:
                _LOGGER.error("client %s cannot destroy what was forgotten, and will try again: %s", self.name, error)
        elif self._state.order is not None:
            self._prepare(self._state.order)

    def models(self) -> frozenset[bytes]:
        """Digests of the models that its memory refers to."""
        kept = [self.silo.history]
        if self._ordered is not None:
            kept += [self._ordered.history, self._ordered.line]
        return frozenset(digest for history in kept if history is not None for digest in history.digests)

    # Runs

    def begin(self, body: bytes) -> bytes:
        """Take in a run; see :class:`~secure_fu.deployment.exchange.messages.Begin`.

        Raises:
            WireError, SignatureError, RosterError: malformed, or not from the pinned server.
            PolicyRefusal, RequestRefused, ConfigError: the order is one that this client does not serve, or the run's
                id is not that of the branch and the order.
            RecordError: it cannot be written down.
        """
        begin = decode(Begin, body)
        begin.check(self._files.roster, self._files.policy.server)
        if begin.run_id != run_id_of(self._files.founding.run_key, begin.branch, begin.order_digest):
            raise PolicyRefusal(f"run {begin.run_id.hex()} is none of this federation's for this branch and order")
        self._take_up()
        order = begin.order[0] if begin.order else None
        known = self._state.window_of(begin.run_id)
        window = b"" if order is None else order.window_id
        state = self._state if order is None else self._taken(order, begin.run_id, new_run=known is None)
        if known is None:
            state = replace(state, runs=(*state.runs, KnownRun(run_id=begin.run_id, window=window)))
        if state is not self._state:
            self._write(state)
        if state.order is not None and state.order.window == window:
            self._require_prepared(state.order)
        return b""

    def _taken(self, order: Order, run_id: bytes, *, new_run: bool) -> ClientState:
        """The state after an order; the present one where it is known."""
        state, window = self._state, order.window_id
        done = state.settled_window(window)
        if done is not None:
            if done.order != order.digest:
                raise AnsweredLater(f"window {window.hex()} was executed by another order; a window has one")
            return state
        if state.parked_order(window) is not None:
            raise PolicyRefusal(f"window {window.hex()} was given up for another one; it is not served again")
        requests_of_it, before = requests_digest(order), state.order
        if before is not None and before.window == window:
            if before.requests_digest != requests_of_it:
                raise PolicyRefusal(f"window {window.hex()} is known with other requests; a window has one order")
            if before.run_id == run_id:
                return state
            if not new_run:
                raise AnsweredLater(f"window {window.hex()} goes on in another run; this order is an older one")
        settled = {digest for one in state.settled for digest in one.request_digests}
        requests = check_order(order, self._files, int(time.time()), settled=settled)
        if before is not None and before.window == window:
            # Another attempt at the same: what it covers here stays what it was.
            marked = Marked(
                marks=np.array(before.marks, dtype=np.int64),
                private=before.private,
                given=before.given,
                undone=before.undone,
            )
        else:
            marked = mark_order(
                requests,
                self._identity,
                private=state.private,
                hidden_units=order.hidden_units,
                brought=self._holdings.brought,
                gone=self._holdings.gone,
                unit=self._unit,
            )
        prepared = PreparedOrder(
            window=window,
            run_id=run_id,
            requests_digest=requests_of_it,
            order_digest=order.digest,
            request_digests=order.request_digests,
            method=order.method,
            settings=order.settings,
            continues_after=order.continues_after,
            marks=tuple(int(place) for place in marked.marks),
            private=marked.private,
            given=marked.given,
            undone=marked.undone,
        )
        parked = state.parked
        if before is not None and before.window != window:
            parked = (*parked, before)
        return replace(state, order=prepared, parked=parked)

    def _require_prepared(self, order: PreparedOrder) -> None:
        if self._prepared != order.order_digest:
            self._prepare(order)

    def _unprepare(self) -> None:
        self._ordered, self._tasks, self._prepared = None, {}, None

    def _prepare(self, order: PreparedOrder) -> None:
        # Whatever fails here must not leave the marks of another order.
        self._unprepare()
        # What both orders cover the method has to see, to work on it.
        without = self._left_out().difference(order.marks)
        self._ordered = self._holdings.marked(order.marks, without=without, continues_after=order.continues_after - 1)
        method = method_of(order.method, order.settings)
        own: Mapping[str, LocalTask]
        try:
            own = method.client_tasks(self._ordered)
        except Exception as error:
            # Whether it can be done may depend on the data, and the server waits for an answer.
            reason = str(error) if isinstance(error, HistoryError) else type(error).__name__
            _LOGGER.error("client %s answers %s with noise alone: %s", self.name, method.purpose, reason)
            own = {method.purpose: _Unable()}
        # Training in the same run, should it come before the order is settled, leaves the marked records out.
        self._tasks = {TRAIN: training_task(self._ordered), **own}
        self._prepared = order.order_digest

    def invite(self, body: bytes) -> bytes:
        """Answer a round; see :meth:`secure_fu.protocol.Client.respond`.

        Raises:
            UnknownRun: send its Begin first.
            SecureFUError: as of :meth:`~secure_fu.protocol.Client.accept`.
        """
        header = decode(Header, decode(Invitation, body).announcement.header)
        window = self._window(header.run_id)
        if self._state.parked_order(window) is not None:
            raise PolicyRefusal(f"run {header.run_id.hex()} is for window {window.hex()}, which was given up")
        order = self._state.order
        under_way = order is not None and order.window == window
        if order is not None and under_way:
            if order.run_id != header.run_id:
                raise PolicyRefusal(f"window {window.hex()} goes on in another run than {header.run_id.hex()}")
            self._require_prepared(order)
        client = Client(
            self._identity,
            roster=self._files.roster,
            policy=self._files.policy,
            encryption=self._encryption,
            tasks=self._tasks if under_way else {TRAIN: training_task(self._holdings.without(self._left_out()))},
            randomness=self._randomness,
            record=self._record,
        )
        upload = client.accept(body).begin()
        if upload.failure is not None:
            _LOGGER.error("client %s: its code failed with %s", self.name, type(upload.failure).__name__)
        answer = upload.finish()
        if order is not None and under_way and header.purpose != TRAIN:
            self._write(replace(self._state, order=replace(order, rounds=order.rounds + 1)))
        return answer

    def _left_out(self) -> set[int]:
        """What orders cover that another one took the place of: they may have been executed, and nobody said so yet."""
        return {place for order in self._state.parked for place in order.marks}

    def _window(self, run_id: bytes) -> bytes:
        window = self._state.window_of(run_id)
        if window is None:
            raise UnknownRun(f"run {run_id.hex()} has not begun for client {self.name!r}")
        return window

    # Forgetting

    def wipe(self, body: bytes) -> bytes:
        """Destroy what a window covers, and say so; the same bytes at every retry.

        Returns:
            an encoded :class:`~secure_fu.deployment.exchange.messages.WipeStatement`.

        Raises:
            WireError, SignatureError, RosterError: malformed, or not from the pinned server.
            UnknownRun, PolicyRefusal: the run is not known, or is for another window.
            HistoryError, DataError, RecordError, OSError: a file cannot be destroyed. The data are in no round any
                more; asking again tries again.
        """
        wipe = decode(Wipe, body)
        wipe.check(self._files.roster, self._files.policy.server)
        if self._window(wipe.run_id) != wipe.window_id:
            raise PolicyRefusal(f"run {wipe.run_id.hex()} is for another window than {wipe.window_id.hex()}")
        if self._state.settled_window(wipe.window_id) is None:
            self._execute(wipe.window_id)
        elif self._state.pending is not None:
            self._destroy(None)
        done = self._state.settled_window(wipe.window_id)
        if done is None:  # unreachable: _execute has added it
            raise PolicyRefusal(f"window {wipe.window_id.hex()} was not executed")
        return encode(
            WipeStatement.signed(
                self._identity,
                window_id=done.window,
                order=done.order,
                rounds=done.rounds,
                commitment=wipe_commitment(done.salt, done.opening.encode()),
            )
        )

    def _execute(self, window: bytes) -> None:
        state, under_way = self._state, self._state.order
        ordered: Silo | None = None
        if under_way is not None and under_way.window == window:
            order, under_way = under_way, None
            # Of another order, or half made, it would destroy what that one covers.
            ordered = self._ordered if self._prepared == order.order_digest else None
        else:
            # The server went on with another order before it said this.
            parked = state.parked_order(window)
            if parked is None:
                raise PolicyRefusal(f"window {window.hex()} is not under way")
            order = parked
        history = self.silo.history
        rounds = () if history is None else history.rounds
        served = [one for one in state.private if one.request_id in order.private]
        left = [one for one in state.private if one.request_id not in order.private]
        if served and not order.rounds:
            left = [replace(one, wiped=True) if one in served else one for one in state.private]
            _LOGGER.warning(
                "client %s has answered no round of window %s: what was asked in private is wiped, not unlearnt, and "
                "waits for the next window",
                self.name,
                window.hex(),
            )
        self._write(
            replace(
                state,
                gone=tuple(sorted({*state.gone, *order.marks})),
                order=under_way,
                parked=tuple(one for one in state.parked if one.window != window),
                settled=(*state.settled, Settled.of(order, served)),
                private=tuple(left),
                pending=Pending(remembered=order.continues_after - 1, until=rounds[-1] if rounds else -1),
            )
        )
        # From here on the window is executed, whatever comes: what follows is done again when it was interrupted.
        self._unprepare()
        self._destroy(ordered)

    def _destroy(self, ordered: Silo | None) -> None:
        if self._state.pending is not None:
            try:
                self._holdings.destroy(self._state.gone, ordered, self._state.pending)
            finally:
                if self._state.order is not None:
                    self._prepare(self._state.order)
            self._write(replace(self._state, pending=None))

    def request_privately(self, request: DeletionRequest) -> None:
        """Queue a request that nobody else sees; it joins the next order that has hidden units for it.

        Raises:
            ArgumentError: it is not about this client, or names what is not there.
            AlreadyForgotten: all that it covers has been forgotten.
            RecordError: it cannot be written down.
        """
        mask = request.identify(self.name, self._holdings.brought) & ~self._holdings.gone
        if not mask.any():
            raise AlreadyForgotten("request is private; all that it covers has been forgotten, or is not here")
        self.take_left(
            LeftRequest(client=self.name, private=PrivateRequest(request_id=os.urandom(16), request=request))
        )

    def take_left(self, left: LeftRequest) -> None:
        """Queue a request that was left in the folder; one that is queued already is no second one."""
        known = {one.request_id for one in self._state.private}
        if left.private.request_id not in known:
            self._write(replace(self._state, private=(*self._state.private, left.private)))

    def _write(self, state: ClientState) -> None:
        self._state_file.write(state)
        self._state = state
