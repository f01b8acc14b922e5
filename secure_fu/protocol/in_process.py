"""Drives one round of the state machines inside one process. They exchange bytes, as they would over a network."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping

from secure_fu.errors import PolicyRefusal
from secure_fu.protocol.client import AcceptedRound, Client, PendingUpload
from secure_fu.protocol.client_record import ClientRecord
from secure_fu.protocol.opening import Opening
from secure_fu.protocol.round_driver import RoundDriver

__all__ = ["InProcessSums"]

_LOGGER = logging.getLogger("secure_fu")


class InProcessSums(RoundDriver):
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
        super().__init__(opening=opening, cohort=cohort, first_round=first_round, attempts=attempts)
        self._ahead = ahead
        self._clients = dict(clients)
        self._record = record
        self._vanishes = vanishes

    def _collect(self, number: int, cohort: tuple[str, ...], invitation: bytes) -> list[int]:
        return self._fold(self._accept(number, cohort, invitation))

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

    def _fold(self, accepted: list[AcceptedRound]) -> list[int]:
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
