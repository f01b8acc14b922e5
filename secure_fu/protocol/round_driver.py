"""The frame of a round, whoever takes part: prepared, announced, collected, opened; settled when it fails."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from secure_fu.crypto.wire import decode
from secure_fu.errors import ArgumentError, CohortTooSmall, OpeningError, RoundAborted, SecureFUError
from secure_fu.interrupts import interrupts_wait
from secure_fu.protocol.header import Header
from secure_fu.protocol.messages import Announcement
from secure_fu.protocol.opening import Opening
from secure_fu.protocol.release import ReleasedSum
from secure_fu.protocol.sums import SumRequest

__all__ = ["RoundDriver", "RoundTraffic"]

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


class RoundDriver(ABC):
    """Secure sums, one round after the other; subclasses know where the clients are.

    Formal guarantees:
        Whatever ends a round, it is settled in the server's ledger before the exception leaves: void when its roll has
        not left, charged otherwise. The exception that leaves is the one that ended the round.

    Args:
        opening: the server with its committee or its key-holder.
        cohort: names of the clients to invite to a given round number.
        first_round: number of the first round.
        attempts: how often a round is asked for anew, under a new number, when too few clients answered. Such a round
            was never opened and costs nothing.

    Raises:
        ArgumentError: fewer than one attempt.
    """

    _asked_again: ClassVar[tuple[type[RoundAborted], ...]] = (CohortTooSmall,)

    def __init__(
        self, *, opening: Opening, cohort: Callable[[int], tuple[str, ...]], first_round: int, attempts: int
    ) -> None:
        if attempts < 1:
            raise ArgumentError("attempts", attempts, "at least 1")
        self._opening = opening
        self._server = opening.server
        self._cohort = cohort
        self._next_round = first_round
        self._attempts = attempts
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
            except self._asked_again as error:
                _LOGGER.warning("%s; asking again", error)
                self._pause()
        return self._attempt(request)

    @abstractmethod
    def _collect(self, number: int, cohort: tuple[str, ...], invitation: bytes) -> list[int]:
        """Have the clients answer and the server fold what comes; sizes of the uploads in the sum, in bytes."""

    def _prepare(self, cohort: tuple[str, ...]) -> None:  # noqa: B027 - in one process there is nothing to prepare
        """Before anything is charged: see that the parties are there."""

    def _pause(self) -> None:  # noqa: B027
        """Between two attempts."""

    def _attempt(self, request: SumRequest) -> ReleasedSum:
        number = self._next_round
        cohort = self._cohort(number)
        self._prepare(cohort)
        try:
            with interrupts_wait():
                announcement = self._server.announce(request, cohort, number)
                self._next_round += 1
            invitation = self._opening.invite(announcement)
            sizes = self._collect(number, cohort, invitation)
            released = self._opening.open()
        except BaseException as error:
            self._give_up(error)
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

    def _give_up(self, error: BaseException) -> None:
        """Settle the round that an error ended. Where that fails too it stays charged, and the error stays the news."""
        try:
            self._server.give_up(f"ended early by {type(error).__name__}, before its roll left")
        except SecureFUError as failure:
            error.add_note(f"the round stays charged: {failure}")
