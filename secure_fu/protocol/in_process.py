"""Drives one round of the state machines inside one process. They exchange bytes, as they would over a network."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from secure_fu.errors import ArgumentError, CohortTooSmall, OpeningError, PolicyRefusal, RoundAborted
from secure_fu.protocol.client import Client, PendingUpload
from secure_fu.protocol.key_holder import KeyHolder
from secure_fu.protocol.release import ReleasedSum
from secure_fu.protocol.server import Server
from secure_fu.protocol.sums import SumRequest

__all__ = ["InProcessSums", "RoundTraffic"]

_LOGGER = logging.getLogger("secure_fu")


@dataclass(frozen=True, kw_only=True)
class RoundTraffic:
    """What travelled in one round.

    Attributes:
        upload_bytes: of the largest upload.
        download_bytes: of the invitation, the same for every client.
        uploads: number of uploads in the sum.
    """

    round_number: int
    purpose: str
    upload_bytes: int
    download_bytes: int
    uploads: int


class InProcessSums:
    """Secure sums by a server, a key-holder and clients in this process.

    Args:
        cohort: names of the clients to invite to a given round number.
        vanishes: whether an invited client fails to answer, by (round number, client name).
        first_round: number of the first round.
        ahead: how many clients compute while the encryptions of those before them are under way.
        attempts: how often a round is asked for anew, under a new number, when too few clients answered. Such a round
            was never opened and costs nothing.
    """

    def __init__(
        self,
        *,
        server: Server,
        key_holder: KeyHolder,
        clients: Mapping[str, Client],
        cohort: Callable[[int], tuple[str, ...]],
        vanishes: Callable[[int, str], bool] = lambda _round, _client: False,
        first_round: int = 0,
        ahead: int = 0,
        attempts: int = 3,
    ) -> None:
        if attempts < 1:
            raise ArgumentError("attempts", attempts, "at least 1")
        self._attempts = attempts
        self._ahead = ahead
        self._server = server
        self._key_holder = key_holder
        self._clients = dict(clients)
        self._cohort = cohort
        self._vanishes = vanishes
        self._next_round = first_round
        self.traffic: list[RoundTraffic] = []

    @property
    def next_round(self) -> int:
        """Number that the next round will have."""
        return self._next_round

    def secure_sum(self, request: SumRequest) -> ReleasedSum:
        """Run one round; see :class:`~secure_fu.protocol.sums.SecureSums`."""
        for _ in range(self._attempts - 1):
            try:
                return self._attempt(request)
            except CohortTooSmall as error:
                _LOGGER.warning("%s; asking again", error)
        return self._attempt(request)

    def _attempt(self, request: SumRequest) -> ReleasedSum:
        number = self._next_round
        cohort = self._cohort(number)
        announcement = self._server.announce(request, cohort, number)
        self._next_round += 1
        try:
            invitation = self._server.invite(self._key_holder.issue_key(announcement))
            sizes = self._collect(number, cohort, invitation)
            released = self._server.release(self._key_holder.open(self._server.close()))
        except BaseException as error:
            self._server.give_up(f"ended early by {type(error).__name__}, before its roll left")
            if isinstance(error, OpeningError):
                raise RoundAborted(f"round {number}: {error}") from error
            raise
        self.traffic.append(
            RoundTraffic(
                round_number=number,
                purpose=request.purpose,
                upload_bytes=max(sizes),
                download_bytes=len(invitation),
                uploads=len(sizes),
            )
        )
        return released

    def _collect(self, number: int, cohort: tuple[str, ...], invitation: bytes) -> list[int]:
        sizes: list[int] = []
        pending: deque[PendingUpload] = deque()

        def receive_oldest() -> None:
            upload = pending.popleft().finish()
            self._server.receive(upload)
            sizes.append(len(upload))

        for name in cohort:
            if self._vanishes(number, name):
                continue
            try:
                pending.append(self._clients[name].begin(invitation))
            except PolicyRefusal as refusal:
                _LOGGER.warning("round %d goes on without client %s: %s", number, name, refusal)
                continue
            if len(pending) > self._ahead:
                receive_oldest()
        while pending:
            receive_oldest()
        return sizes
