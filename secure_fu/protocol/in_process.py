"""Drives one round of the state machines inside one process. They exchange bytes, as they would over a network."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from secure_fu.crypto.wire import decode
from secure_fu.errors import ArgumentError, CohortTooSmall, OpeningError, PolicyRefusal, RoundAborted
from secure_fu.protocol.client import AcceptedRound, Client, PendingUpload
from secure_fu.protocol.client_record import ClientRecord
from secure_fu.protocol.header import Header
from secure_fu.protocol.messages import Announcement
from secure_fu.protocol.opening import Opening
from secure_fu.protocol.release import ReleasedSum
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
        parameter_set: of the encryption.
        digit_bits: width of a coordinate of the sum in the ciphertext; 0 for schemes with a key-holder.
    """

    round_number: int
    purpose: str
    upload_bytes: int
    download_bytes: int
    uploads: int
    parameter_set: str
    digit_bits: int


class InProcessSums:
    """Secure sums by a server, clients and whoever opens, in this process.

    Args:
        opening: the server with its committee or its key-holder.
        clients: by name.
        record: of all these clients, synced once a round.
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
        opening: Opening,
        clients: Mapping[str, Client],
        record: ClientRecord,
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
        self._opening = opening
        self._server = opening.server
        self._clients = dict(clients)
        self._record = record
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
            invitation = self._opening.invite(announcement)
            sizes = self._collect(self._accept(number, cohort, invitation))
            released = self._opening.open()
        except BaseException as error:
            self._server.give_up(f"ended early by {type(error).__name__}, before its roll left")
            if isinstance(error, OpeningError):
                raise RoundAborted(f"round {number}: {error}") from error
            raise
        header = decode(Header, decode(Announcement, announcement).header)
        self.traffic.append(
            RoundTraffic(
                round_number=number,
                purpose=request.purpose,
                upload_bytes=max(sizes),
                download_bytes=len(invitation),
                uploads=len(sizes),
                parameter_set=header.parameter_set,
                digit_bits=header.digit_bits,
            )
        )
        return released

    def _accept(self, number: int, cohort: tuple[str, ...], invitation: bytes) -> list[AcceptedRound]:
        accepted: list[AcceptedRound] = []
        with self._record.together():
            for name in cohort:
                if self._vanishes(number, name):
                    continue
                try:
                    accepted.append(self._clients[name].accept(invitation))
                except PolicyRefusal as refusal:
                    _LOGGER.warning("round %d goes on without client %s: %s", number, name, refusal)
        return accepted

    def _collect(self, accepted: list[AcceptedRound]) -> list[int]:
        sizes: list[int] = []
        pending: deque[PendingUpload] = deque()

        def receive_oldest() -> None:
            upload = pending.popleft().finish()
            self._server.receive(upload)
            sizes.append(len(upload))

        for round_ in accepted:
            upload = round_.begin()
            if upload.failure is not None:
                raise upload.failure
            pending.append(upload)
            if len(pending) > self._ahead:
                receive_oldest()
        while pending:
            receive_oldest()
        return sizes
