"""The clients, and who opens, on machines of their own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from secure_fu.crypto import Identity, scheme
from secure_fu.crypto.wire import decode, encode
from secure_fu.deletion import Scope
from secure_fu.deletion.requests import SignedBatch, SignedRequest
from secure_fu.deployment.exchange.messages import (
    Begin,
    Kind,
    Order,
    Outcome,
    PartyAnswer,
    Wipe,
    WipeStatement,
    addressed,
)
from secure_fu.deployment.server.hosts import Hosts
from secure_fu.deployment.server.remote_sums import Patience, RemoteCommittee, RemoteKeyHolder, RemoteSums
from secure_fu.deployment.server.window_files import WindowFiles
from secure_fu.errors import AlreadyForgotten, ArgumentError, CryptoError, RecordError
from secure_fu.federation.fleet import Concerned, Instruction, Request
from secure_fu.federation.main_line import Executed
from secure_fu.federation.server_directory import ServerDirectory
from secure_fu.protocol import CommitteeServer, KeyHolderServer, Transcript
from secure_fu.scheme_names import KAHE

__all__ = ["RemoteFleet", "batch_of"]

_LOGGER = logging.getLogger("secure_fu")


class RemoteFleet:
    """See :class:`~secure_fu.federation.fleet.Fleet`.

    Formal guarantees:
        It holds no marks, records or keys but the server's identity. What a deletion covers is known to it as far as
        the open parts of the signed requests tell. A client is sent the requests that concern it, and digests of the
        others.
    Edge cases:
        Clients that are away when a deletion is executed are told later, before a round at which they are back: first
        what the window was, if they do not know, then to destroy. Whoever asked to leave in an earlier window holds
        back no later one of its own, but counts as missing until it has confirmed.

    Args:
        identity: of the server.
        server: what it keeps of the rounds.
        files: what it keeps of the windows.
        hosts: where the parties are.
        scheme_name: of the encryption.
        cohort: names of the clients to invite to a given round number.
        executed: the deletions that were executed, the oldest first.
        patience: how long to wait.
    """

    def __init__(
        self,
        *,
        identity: Identity,
        server: ServerDirectory,
        files: WindowFiles,
        hosts: Hosts,
        scheme_name: str,
        cohort: Callable[[int], tuple[str, ...]],
        executed: Callable[[], tuple[Executed, ...]],
        patience: Patience,
    ) -> None:
        self._identity = identity
        self._server = server
        self._files = files
        self._hosts = hosts
        self._scheme_name = scheme_name
        self._cohort = cohort
        self._executed = executed
        self._patience = patience
        self._ordered: tuple[str, Begin] | None = None
        self._waiting: dict[bytes, frozenset[str]] | None = None

    # What a request concerns, as far as the server may know

    def identify(self, request: Request) -> Concerned:
        """See :class:`~secure_fu.federation.fleet.Fleet`.

        Clients that hold, or may hold, what is to be forgotten are those that a request was sealed to; all of them
        where hidden units may be among it. Units are counted as the requests declare them, hidden ones at each client.

        Raises:
            ArgumentError: not a batch of signed requests, or one names a client that there is not.
            AlreadyForgotten: all that it names has been forgotten.
        """
        batch, clients = batch_of(request), self._server.roster.clients
        for one in batch.requests:
            unknown = sorted({box.client for box in one.boxes} - clients)
            if unknown:
                raise ArgumentError("request.client", unknown[0], "a client of the roster")
        known = {one.request_id for entry in self._executed() for one in batch_of(entry.request).requests}
        new = [one for one in batch.requests if one.request_id not in known]
        if not new and not batch.hidden_units:
            raise AlreadyForgotten(f"the batch is {batch.describe()!r}; all of it has been forgotten before")
        return self.concerned(batch)

    def concerned(self, batch: SignedBatch) -> Concerned:
        """Whom a batch concerns, whether it has been executed or not."""
        clients = self._server.roster.clients
        named = {box.client for one in batch.requests for box in one.boxes} & clients
        # Who asks again after it left may have something left.
        there = clients - (self._left(until=batch.window_id) - named)
        leaving = frozenset[str]().union(*(_whole_client(one) for one in batch.requests))
        forgotten = there if batch.hidden_units else named
        return Concerned(
            forgotten=tuple(sorted(forgotten)),
            retained=tuple(sorted(there - leaving)),
            units=sum(one.units for one in batch.requests) + batch.hidden_units * len(there),
        )

    def _left(self, *, until: bytes = b"") -> frozenset[str]:
        """Clients that left as a whole in the windows executed so far, or before one of them."""
        left: frozenset[str] = frozenset()
        for entry in self._executed():
            batch = batch_of(entry.request)
            if batch.window_id == until:
                break
            left = left.union(*(_whole_client(one) for one in batch.requests))
        return left

    # What clients are told

    def prepare(self, instruction: Instruction) -> None:
        """See :class:`~secure_fu.federation.fleet.Fleet`.

        Each client is told before the first round of the branch at which it is there.
        """
        batch = batch_of(instruction.request)
        if instruction.continues_after is None:
            raise ArgumentError("execute", False, "True: clients on other machines try nothing out")
        told = Order.of(
            window_id=batch.window_id,
            opened=batch.opened,
            method=instruction.method,
            requests=batch.requests,
            hidden_units=batch.hidden_units,
            continues_after=instruction.continues_after + 1,
        )
        begin = Begin.signed(
            self._identity,
            run_id=self._server.run_id(instruction.branch, told.digest),
            branch=instruction.branch,
            order=told,
        )
        self._files.note_order(batch.window_id, begin)
        self._ordered = (instruction.branch, begin)
        self._hosts.survey(anew=True)

    def wipe(self, instruction: Instruction) -> None:
        """See :class:`~secure_fu.federation.fleet.Fleet`. Who does not confirm is asked again later."""
        self._waiting = None  # there is one window more
        self.redeliver()

    def redeliver(self) -> None:
        """Have the clients that can be reached destroy what executed deletions cover, where they have not said so."""
        behind: set[str] = set()
        for window_id in tuple(self._missing()):
            there = (self._missing().get(window_id, frozenset()) & self._hosts.present) - behind
            if there:
                self._wipe(window_id, there)
            # Windows are told in their order: a later one would take the place of this one at the client.
            behind |= self._missing().get(window_id, frozenset()) - self._left(until=window_id)

    def _wipe(self, window_id: bytes, clients: Collection[str]) -> None:
        begin = self._files.order(window_id)
        digest = begin.order_digest
        wipe = encode(Wipe.signed(self._identity, run_id=begin.run_id, window_id=window_id))
        said: dict[str, bytes] = {}

        def ask(names: Collection[str]) -> list[str]:
            lost: list[str] = []
            for answer in self._hosts.ask(Kind.WIPE, sorted(names), wipe, timeout=self._patience.wipe):
                if answer.outcome is Outcome.UNKNOWN_RUN:
                    lost.append(answer.party)
                elif answer.outcome is Outcome.DONE and self._confirms(answer, window_id, digest):
                    said[answer.party] = answer.body
                else:
                    _LOGGER.warning("client %s does not confirm window %s", answer.party, window_id.hex())
            return lost

        lost = ask(clients)
        if lost:
            ask(self._tell(begin, lost))
        self._files.note_wiped(window_id, said)
        waiting = self._missing()
        waiting[window_id] = waiting[window_id] - said.keys()
        if not waiting[window_id]:
            del waiting[window_id]

    def _confirms(self, answer: PartyAnswer, window_id: bytes, order: bytes) -> bool:
        try:
            statement = decode(WipeStatement, answer.body)
            statement.check(self._server.roster)
        except CryptoError as error:
            _LOGGER.warning("client %s confirms with no statement of its own: %s", answer.party, error)
            return False
        return (statement.client, statement.window_id, statement.order) == (answer.party, window_id, order)

    def _tell(self, begin: Begin, clients: Collection[str]) -> list[str]:
        """Tell clients of a run, but for those that have an earlier window before them; who took it."""
        own = begin.order[0].window_id if begin.order else b""
        behind: set[str] = set()
        for window_id, missing in self._missing().items():
            if window_id == own:
                break
            behind |= missing - self._left(until=window_id)
        took: list[str] = []
        waiting = sorted(set(clients) - behind)
        body = addressed(begin) if begin.order else encode(begin)
        for answer in self._hosts.ask(Kind.BEGIN, waiting, body, timeout=self._patience.begin):
            if answer.outcome is Outcome.DONE:
                took.append(answer.party)
            else:
                _LOGGER.warning("client %s does not take run %s: %s", answer.party, begin.branch, answer.outcome.value)
        return took

    def missing(self, window_id: bytes) -> tuple[str, ...]:
        """Clients of the roster that have not confirmed an executed window yet, sorted."""
        return tuple(sorted(self._missing().get(window_id, ())))

    def _missing(self) -> dict[bytes, frozenset[str]]:
        """By executed window, the oldest first; without those of which none is missing."""
        if self._waiting is None:
            self._waiting = {}
            for entry in self._executed():
                window_id = batch_of(entry.request).window_id
                missing = self._told(window_id) - self._files.wiped(window_id).keys()
                if missing:
                    self._waiting[window_id] = frozenset(missing)
        return self._waiting

    def _told(self, window_id: bytes) -> frozenset[str]:
        """Clients of today's roster that were clients when a window set out."""
        started = self._files.started(window_id)
        return self._server.roster.clients & set(() if started is None else started.clients)

    # Rounds

    def begin(
        self, branch: str, *, parent: str | None, transcript: Transcript, first_round: int, purpose: str
    ) -> RemoteSums:
        """See :class:`~secure_fu.federation.fleet.Fleet`."""
        begin = None if self._ordered is None or self._ordered[0] != branch else self._ordered[1]
        order = b"" if begin is None else begin.order_digest
        self._server.begin(branch, parent=parent, purpose=purpose, order=order)
        return self._sums(branch, transcript, first_round)

    def reopen(self, branch: str, *, transcript: Transcript) -> RemoteSums:
        """See :class:`~secure_fu.federation.fleet.Fleet`."""
        if transcript.head != self._server.head(branch):
            raise ArgumentError("transcript", transcript.head.hex(), f"one from {self._server.head(branch).hex()} on")
        return self._sums(branch, transcript, self._server.next_round(branch))

    def _sums(self, branch: str, transcript: Transcript, first_round: int) -> RemoteSums:
        run, begin = self._server.run(branch, transcript), self._begin(branch)
        opening: RemoteCommittee | RemoteKeyHolder
        if self._scheme_name == KAHE:
            opening = RemoteCommittee(CommitteeServer(self._identity, run), self._hosts, self._patience)
        else:
            opening = RemoteKeyHolder(
                KeyHolderServer(self._identity, run, scheme=scheme(self._scheme_name)), self._hosts, self._patience
            )
        return RemoteSums(
            opening=opening,
            hosts=self._hosts,
            begin=lambda clients: self._tell(begin, clients),
            cohort=self._cohort,
            first_round=first_round,
            before_round=self.redeliver,
            patience=self._patience,
        )

    def _begin(self, branch: str) -> Begin:
        """What clients are told of a branch: the order that it is for, or that it is for training."""
        digest, order = self._server.order(branch), None
        if self._ordered is not None and self._ordered[0] == branch:
            order = self._ordered[1].order[0]
        elif digest:
            for entry in self._executed():
                if entry.branch == branch:
                    order = self._files.order(batch_of(entry.request).window_id).order[0]
        if (b"" if order is None else order.digest) != digest:
            raise RecordError(f"branch {branch!r} was begun for another order than the one that is written down")
        return Begin.signed(self._identity, run_id=self._server.run_id(branch), branch=branch, order=order)


def batch_of(request: object) -> SignedBatch:
    """The request as the batch of a window that it has to be.

    Raises:
        ArgumentError: it is something else.
    """
    if not isinstance(request, SignedBatch):
        raise ArgumentError(
            "request", type(request).__name__, "a SignedBatch: clients take orders with signatures only"
        )
    return request


def _whole_client(request: SignedRequest) -> frozenset[str]:
    return frozenset({request.client} if request.scope is Scope.CLIENT else ())
