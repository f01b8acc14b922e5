"""Secure sums by a server here, and clients and whoever opens on other machines."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from secure_fu.deployment.exchange.messages import Kind, Outcome, PartyAnswer
from secure_fu.deployment.logs import cleaned, event
from secure_fu.deployment.server.hosts import Hosts, PartiesAway
from secure_fu.errors import (
    ArgumentError,
    CohortTooSmall,
    CryptoError,
    ProtocolError,
    RecordError,
    RoundAborted,
)
from secure_fu.protocol import CommitteeServer, KeyHolderServer, ReleasedSum, RoundDriver
from secure_fu.protocol.opening import Opening
from secure_fu.protocol.server import RoundServer
from secure_fu.protocol.sums import SumRequest

__all__ = ["Patience", "RemoteCommittee", "RemoteKeyHolder", "RemoteSums"]

_LOGGER = logging.getLogger("secure_fu")
_T = TypeVar("_T")
_ServerT = TypeVar("_ServerT", bound=RoundServer)


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a server waits for others, in seconds. Changes speed and who is left out, and no guarantee.

    Attributes:
        hello: for a greeting.
        begin: for the clients to take in what a run is for.
        invite: for all uploads of a round: the time that the slowest client may take to compute and encrypt.
        opening: for each exchange with those who open.
        wipe: for the clients to destroy what a deletion covers.
        attempts: how often a round is asked for anew when too few clients answered or can be reached, and how often
            those who open are asked for what they answer in the same words again.
        pause: between these attempts.

    Raises:
        ArgumentError: a value is not above 0 (`pause`: below 0).
    """

    hello: float = 20.0
    begin: float = 120.0
    invite: float = 600.0
    opening: float = 120.0
    wipe: float = 120.0
    attempts: int = 3
    pause: float = 2.0

    def __post_init__(self) -> None:
        for name in ("hello", "begin", "invite", "opening", "wipe", "attempts"):
            if not getattr(self, name) > 0:
                raise ArgumentError(name, getattr(self, name), "above 0")
        if not self.pause >= 0.0:
            raise ArgumentError("pause", self.pause, "at least 0")


class _RemoteOpening(Generic[_ServerT]):
    """A server here, and elsewhere those who open its sums.

    Args:
        server: of the round.
        hosts: where those who open are.
        patience: how long to wait.
    """

    def __init__(self, server: _ServerT, hosts: Hosts, patience: Patience) -> None:
        self.server: Final[_ServerT] = server
        self._hosts = hosts
        self._patience = patience

    def _attempts(self, most: int) -> Iterator[None]:
        """At most so many; before each but the first a pause, and a new look at who is there."""
        for attempt in range(most):
            if attempt:
                time.sleep(self._patience.pause)
                self._hosts.survey()
            yield


class RemoteCommittee(_RemoteOpening[CommitteeServer]):
    """A committee opens. Its members write vote and answer down before they vote, so that both can be asked for again.

    Args:
        server: of the round.
        hosts: where the members are.
        patience: how long to wait.
    """

    def invite(self, announcement: bytes) -> bytes:
        """See :class:`~secure_fu.protocol.opening.Opening`."""
        return self.server.invite()

    def open(self) -> ReleasedSum:
        """See :class:`~secure_fu.protocol.opening.Opening`."""
        server, policy = self.server, self._hosts.policy
        server.close()
        voted = self._gather(
            Kind.BALLOT, policy.committee, server.ballot, least=policy.terms.quorum, receive=server.receive_vote
        )
        quorum = server.quorum()
        self._gather(Kind.QUORUM, voted, quorum, least=policy.terms.threshold, receive=server.receive_answer)
        return server.release()

    def _gather(
        self,
        kind: Kind,
        members: Collection[str],
        body: bytes | Callable[[str], bytes],
        *,
        least: int,
        receive: Callable[[bytes], None],
    ) -> list[str]:
        """Ask members, and again those that were silent, until at least so many have answered; who has."""
        got: list[str] = []
        heard: set[str] = set()
        for _ in self._attempts(self._patience.attempts):
            waiting = [name for name in members if name not in heard]
            for answer in self._hosts.ask(kind, waiting, body, timeout=self._patience.opening):
                heard.add(answer.party)
                if _taken(answer, kind, receive):
                    got.append(answer.party)
            if len(got) >= least or heard.issuperset(members):
                break
        return got


class RemoteKeyHolder(_RemoteOpening[KeyHolderServer]):
    """One key-holder opens.

    Edge cases:
        A key-holder that was started anew between key and opening has lost the round's key: the round stays charged.

    Args:
        server: of the round.
        hosts: where the key-holder is.
        patience: how long to wait.
    """

    def invite(self, announcement: bytes) -> bytes:
        """See :class:`~secure_fu.protocol.opening.Opening`."""
        invitation = self._ask(Kind.ISSUE_KEY, announcement, self.server.invite, attempts=1)
        if invitation is None:
            raise PartiesAway("the key-holder issued no key for the round")
        return invitation

    def open(self) -> ReleasedSum:
        """See :class:`~secure_fu.protocol.opening.Opening`."""
        request = self.server.close()
        released = self._ask(Kind.OPEN, request, self.server.release, attempts=self._patience.attempts)
        if released is None:
            raise RoundAborted("the key-holder did not open the round, which stays charged")
        return released

    def _ask(self, kind: Kind, body: bytes, take: Callable[[bytes], _T], *, attempts: int) -> _T | None:
        """What becomes of the key-holder's answer; None where none comes that can be used."""
        for _ in self._attempts(attempts):
            taken: list[_T] = []
            for answer in self._hosts.ask(kind, self._hosts.policy.committee, body, timeout=self._patience.opening):
                _taken(answer, kind, lambda message, taken=taken: taken.append(take(message)))  # type: ignore[misc]
                return taken[0] if taken else None
        return None


class RemoteSums(RoundDriver):
    """Secure sums over hosts: what :class:`~secure_fu.protocol.InProcessSums` is in one process.

    Formal guarantees:
        Nothing is charged for a round that too few parties can be reached for. Each upload is folded when it comes;
        no two of different nodes are held at a time. A client that answers late, twice, or with what is not its own
        upload to this round is left out of it, and so is one that is silent.

    Args:
        opening: the server with its committee or its key-holder.
        hosts: where all of them are.
        begin: tells clients what the run is for; returns who took it. Called before the first round at which a client
            is there, and again for one that does not know the run any more.
        cohort: names of the clients to invite to a given round number.
        first_round: number of the first round.
        before_round: called before each round; for what others still have to be told.
        patience: how long to wait.
    """

    _asked_again = (CohortTooSmall, PartiesAway)

    def __init__(
        self,
        *,
        opening: Opening,
        hosts: Hosts,
        begin: Callable[[Collection[str]], Collection[str]],
        cohort: Callable[[int], tuple[str, ...]],
        first_round: int = 0,
        before_round: Callable[[], None] = lambda: None,
        patience: Patience,
    ) -> None:
        super().__init__(opening=opening, cohort=cohort, first_round=first_round, attempts=patience.attempts)
        self._hosts = hosts
        self._begin = begin
        self._told: set[str] = set()
        self._before_round = before_round
        self._patience = patience

    def _attempt(self, request: SumRequest) -> ReleasedSum:
        began = time.monotonic()
        released = super()._attempt(request)
        told = {"round": released.round_number, "purpose": request.purpose, "clients": self.traffic[-1].uploads}
        seconds = round(time.monotonic() - began, 2)
        _LOGGER.info("a round is released", extra=event("round-released", {**told, "seconds": seconds}))
        return released

    def _prepare(self, cohort: tuple[str, ...]) -> None:
        """See who is there, and tell those that are new what the run is for.

        Raises:
            PartiesAway: too few can be reached.
        """
        self._hosts.survey()
        self._hosts.require(clients=cohort)
        self._before_round()
        self._told.update(self._begin([name for name in cohort if name not in self._told]))

    def _pause(self) -> None:
        time.sleep(self._patience.pause)

    def _collect(self, number: int, cohort: tuple[str, ...], invitation: bytes) -> list[int]:
        """Invite, and fold what comes."""
        sizes: list[int] = []
        lost = self._invite(cohort, invitation, sizes)
        if lost:
            told = self._begin(lost)
            for party in self._invite(told, invitation, sizes):
                lost_again = {"party": party, "kind": Kind.INVITE.value, "outcome": Outcome.UNKNOWN_RUN.value}
                _LOGGER.warning(
                    "the round goes on without client %s: it does not know the run",
                    party,
                    extra=event("goes-on-without", lost_again),
                )
        return sizes

    def _invite(self, clients: Collection[str], invitation: bytes, sizes: list[int]) -> list[str]:
        """Those that do not know the run."""
        lost: list[str] = []
        for answer in self._hosts.ask(Kind.INVITE, clients, invitation, timeout=self._patience.invite):
            if answer.outcome is Outcome.UNKNOWN_RUN:
                lost.append(answer.party)
            elif _taken(answer, Kind.INVITE, self._server.receive):
                sizes.append(len(answer.body))
            del answer  # folded: it need not be held while the next one comes
        return lost


def _taken(answer: PartyAnswer, kind: Kind, receive: Callable[[bytes], None]) -> bool:
    """Whether an answer could be used. One that cannot costs the round one party and no more."""
    if answer.outcome is not Outcome.DONE:
        lost = {"party": answer.party, "kind": kind.value, "outcome": answer.outcome.value}
        _LOGGER.warning(
            "the round goes on without %s: %s to %s",
            answer.party,
            answer.outcome.value,
            kind.value,
            extra=event("goes-on-without", lost),
        )
        return False
    try:
        receive(answer.body)
    except RecordError:
        raise  # of this machine
    except (ProtocolError, CryptoError) as error:
        lost = {"party": answer.party, "kind": kind.value, "reason": cleaned(error)}
        _LOGGER.warning(
            "the round goes on without %s's answer to %s: %s",
            answer.party,
            kind.value,
            error,
            extra=event("goes-on-without", lost),
        )
        return False
    return True
