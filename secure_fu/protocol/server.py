"""The server's state machine, as far as all schemes share it: announce, collect, release.

Who opens the sum, a committee or a key-holder, makes the difference between :mod:`~secure_fu.protocol.committee.server`
and :mod:`~secure_fu.protocol.key_holder.server`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from secure_fu.crypto import Identity, Role, Roster
from secure_fu.crypto.wire import decode, encode
from secure_fu.errors import ArgumentError, CiphertextError, CohortTooSmall, ProtocolError, SignatureError
from secure_fu.interrupts import interrupts_wait
from secure_fu.privacy import PrivacyLedger, Reservation
from secure_fu.protocol.header import GridKind, Header, canonical_settings, charges_of, grid_of
from secure_fu.protocol.messages import (
    Announcement,
    Approval,
    Domain,
    Invitation,
    Release,
    Roll,
    RollEntry,
    RoundKey,
    Upload,
    digest,
    shares_digest,
)
from secure_fu.protocol.policy import Policy
from secure_fu.protocol.release import ReleasedSum, released_sum
from secure_fu.protocol.sums import SumRequest
from secure_fu.protocol.transcript import Transcript

__all__ = ["FRAME_BYTES", "Announced", "Closed", "Collecting", "Idle", "RoundServer", "Run", "RunningTotal"]


FRAME_BYTES = 1024
"""More than what an upload has beside ciphertext and shares: digests, a name, a signature, lengths."""


class RunningTotal(Protocol):
    """A sum of ciphertexts that grows upload by upload."""

    def add(self, ciphertext: bytes) -> None:
        """Add one; when this raises, the sum is as before."""
        ...

    def total(self) -> bytes:
        """The summed ciphertext."""
        ...


@dataclass(frozen=True, kw_only=True)
class Idle:
    """No round is open."""


@dataclass(frozen=True, kw_only=True)
class Announced:
    """A header is out and its cost reserved."""

    header: Header
    reservation: Reservation
    announcement: Announcement
    model: bytes

    @property
    def header_digest(self) -> bytes:
        """SHA-256 of the encoded header."""
        return self.announcement.header_digest


@dataclass(frozen=True, kw_only=True)
class Collecting(Announced):
    """Uploads are folded as they come."""

    total: RunningTotal
    entries: dict[str, RollEntry]


@dataclass(frozen=True, kw_only=True)
class Closed(Announced):
    """The roll has left; the opening is awaited."""

    roll: Roll

    @cached_property
    def roll_digest(self) -> bytes:
        """SHA-256 of what the server signed of the roll."""
        return digest(self.roll.statement)


_State = Idle | Announced | Collecting | Closed
_S = TypeVar("_S", Idle, Announced, Collecting, Closed)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a federation, or one branch of a simulation, as its server sees it.

    Attributes:
        run_id: 16 bytes that name the run.
        roster: pinned identities.
        policy: what this federation runs under; the same values that clients pin.
        grid: how contributions become integers.
        sum_bits: width of a coordinate of a sum on the rotated grid.
        ledger: the privacy ledger.
        branch: of the ledger, that this run charges.
        transcript: the chain of the run's releases.
        on_release: makes a release and its opened integers durable before the ledger entry is committed, as
            :meth:`~secure_fu.protocol.release_log.ReleaseLog.append` does. What it has written can be settled after a
            kill; without it, a release that a kill interrupts is lost and stays charged.

    Raises:
        ArgumentError: `run_id` has another length, or the roster is not the policy's.
    """

    run_id: bytes
    roster: Roster
    policy: Policy
    grid: GridKind = GridKind.FINE
    sum_bits: int = 16
    ledger: PrivacyLedger
    branch: str
    transcript: Transcript
    on_release: Callable[[Release, NDArray[np.int64]], None] | None = None

    def __post_init__(self) -> None:
        if len(self.run_id) != 16:
            raise ArgumentError("run_id", f"{len(self.run_id)} bytes", "16 bytes")
        self.policy.check_roster(self.roster)


class RoundServer(ABC):
    """Runs one round at a time. It holds one running ciphertext, the names and signatures of who uploaded, no key.

    Formal guarantees:
        Every release is reserved in the ledger before any client is asked, and committed before it is returned. A round
        that closes below its minimum cohort is void; a round whose roll has left counts as spent.
    Edge cases:
        A late, repeated, forged or malformed upload raises and leaves the round as it was.

    Args:
        identity: secret; its role is SERVER.
        run: what it serves.

    Raises:
        ArgumentError: the identity has another role.
    """

    def __init__(self, identity: Identity, run: Run) -> None:
        if identity.role is not Role.SERVER:
            raise ArgumentError("identity", identity.role.value, "an identity in the role of a server")
        self._identity = identity
        self._run = run
        self._roster = run.roster
        self._state: _State = Idle()

    @abstractmethod
    def _encrypted_header(self, draft: Header) -> Header:
        """The header with the parameter set and digits that its sum needs.

        Raises:
            CapacityError: nothing that the policy allows holds the sum.
        """

    @abstractmethod
    def _largest_upload(self, header: Header) -> int:
        """Bytes that no honest upload to this round exceeds; more are refused before anything of them is copied."""

    @abstractmethod
    def _ciphertext_of(self, upload: Upload) -> bytes:
        """The ciphertext that an upload carries.

        Raises:
            CryptoError: it does not open, or the shares are not those of this committee.
        """

    @abstractmethod
    def _forget(self) -> None:
        """Drop what belongs to a round that has ended, however it ended."""

    @abstractmethod
    def _keep_shares(self, upload: Upload) -> None:
        """Keep what those who open will need of an upload that is in the sum."""

    def announce(self, request: SumRequest, cohort: tuple[str, ...], round_number: int) -> bytes:
        """Open a round: fix its header, reserve its cost.

        Args:
            request: what the algorithm asks.
            cohort: clients to invite, in any order.
            round_number: newer than the run's last.

        Returns:
            an encoded :class:`~secure_fu.protocol.messages.Announcement`.

        Raises:
            PolicyRefusal: this federation's own policy forbids the round.
            CapacityError: the modulus cannot hold the sum.
            BudgetExceededError: the ledger refuses.
        """
        self._expect(Idle)
        header = self._encrypted_header(self._draft(request, cohort, round_number))
        self._run.policy.check(header)
        for name in header.cohort:
            self._roster.party(name)
        charges = charges_of(header)
        body = encode(header)
        announcement = Announcement(header=body, signature=self._identity.sign(Domain.HEADER, body))
        model = request.model.encode()
        with interrupts_wait():
            reservation = self._run.ledger.reserve(
                self._run.branch,
                round_number=round_number,
                purpose=request.purpose,
                phase=request.phase,
                charges=charges,
                cohort=header.cohort,
            )
            self._state = Announced(header=header, reservation=reservation, announcement=announcement, model=model)
        return encode(announcement)

    def _draft(self, request: SumRequest, cohort: tuple[str, ...], round_number: int) -> Header:
        policy = self._run.policy
        draft = Header(
            run_id=self._run.run_id,
            round_number=round_number,
            purpose=request.purpose,
            phase=request.phase.value,
            previous_transcript=self._run.transcript.head,
            model_digest=request.model.digest,
            parameter_set="",
            digit_bits=self._run.sum_bits,
            length=request.model.dimension if request.length is None else request.length,
            grid=self._run.grid.value,
            grid_step=1.0,
            saturation=request.saturation,
            clip_norm=request.clip_norm,
            unit=request.unit.value,
            noise_multiplier=request.noise_multiplier,
            retained_rate=request.retained_rate,
            forgotten_rate=request.forgotten_rate,
            settings=canonical_settings(request.settings),
            roster_digest=self._roster.digest,
            cohort=tuple(sorted(cohort)),
            colluders=policy.colluders,
            minimum_cohort=policy.minimum_cohort,
            committee=policy.committee,
            threshold=policy.terms.threshold,
            quorum=policy.terms.quorum,
            corrupt=policy.terms.corrupt,
        )
        return replace(draft, grid_step=grid_of(draft).step)

    def _invite(self, total: RunningTotal, round_key: tuple[RoundKey, ...]) -> bytes:
        """Start the collection; the invitation, one for all clients."""
        current = self._expect(Announced)
        self._state = Collecting(
            header=current.header,
            reservation=current.reservation,
            announcement=current.announcement,
            model=current.model,
            total=total,
            entries={},
        )
        return encode(Invitation(announcement=current.announcement, round_key=round_key, model=current.model))

    def receive(self, upload: bytes) -> None:
        """Fold one upload into the running sum; of its ciphertext nothing is kept but the digest.

        Args:
            upload: an encoded :class:`~secure_fu.protocol.messages.Upload`.

        Raises:
            WireError, SignatureError, RosterError, SealError, CiphertextError: malformed, forged, or not for this
                round.
            ProtocolError: late, repeated, or from outside the cohort.
        """
        current = self._expect(Collecting)
        most = self._largest_upload(current.header)
        if len(upload) > most:
            raise CiphertextError(f"the upload has {len(upload)} bytes; one to this round has at most {most}")
        message = decode(Upload, upload)
        if message.header_digest != current.header_digest:
            raise ProtocolError("the upload belongs to another round")
        if message.client not in current.header.cohort:
            raise ProtocolError(f"client {message.client!r} is not in the cohort of this round")
        if message.client in current.entries:
            raise ProtocolError(f"client {message.client!r} has uploaded to this round already")
        self._roster.verify(message.client, Role.CLIENT, Domain.UPLOAD, message.statement, message.signature)
        ciphertext = self._ciphertext_of(message)
        if digest(ciphertext) != message.ciphertext_digest:
            raise SignatureError(f"the ciphertext of client {message.client!r} is not the one that it signed")
        current.total.add(ciphertext)
        current.entries[message.client] = RollEntry(
            client=message.client,
            ciphertext_digest=message.ciphertext_digest,
            shares_digest=shares_digest(message.share_digests),
            signature=message.signature,
        )
        self._keep_shares(message)

    def _close(self) -> tuple[Closed, bytes]:
        """End the collection.

        Returns:
            the new state, and the summed ciphertext.

        Raises:
            CohortTooSmall: fewer uploads than the minimum cohort; the reservation is void, the server idle again.
        """
        current = self._expect(Collecting)
        if len(current.entries) < current.header.minimum_cohort:
            reason = f"{len(current.entries)} uploads, fewer than the minimum cohort of {current.header.minimum_cohort}"
            self.abort(reason)
            raise CohortTooSmall(f"round {current.header.round_number}: {reason}")
        total = current.total.total()
        unsigned = Roll(
            header_digest=current.header_digest,
            entries=tuple(current.entries[name] for name in sorted(current.entries)),
            total_digest=digest(total),
            signature=bytes(64),
        )
        self._state = Closed(
            header=current.header,
            reservation=current.reservation,
            announcement=current.announcement,
            model=current.model,
            roll=replace(unsigned, signature=self._identity.sign(Domain.ROLL, unsigned.statement)),
        )
        return self._state, total

    def abort(self, reason: str) -> None:
        """Give up a round whose roll has not left; its reservation is void.

        Raises:
            ProtocolError: no round is open, or its roll has left already and may have been opened.
        """
        if isinstance(self._state, (Idle, Closed)):
            raise ProtocolError(
                f"the server is {_name(self._state)}; only a round whose roll has not left can be aborted"
            )
        with interrupts_wait():
            self._run.ledger.void(self._state.reservation, reason=reason)
            self._end()

    def _release(self, current: Closed, integers: NDArray[np.int64], approvals: tuple[Approval, ...]) -> ReleasedSum:
        """Write the release ahead, commit the ledger entry, link the transcript, scale the opened sum back."""
        unsigned = Release(
            announcement=current.announcement,
            roll=current.roll,
            values_digest=digest(integers.astype("<i8").tobytes()),
            approvals=tuple(sorted(approvals, key=lambda approval: approval.name)),
            signature=bytes(64),
        )
        release = replace(unsigned, signature=self._identity.sign(Domain.RELEASE, unsigned.statement))
        with interrupts_wait():
            if self._run.on_release is not None:
                self._run.on_release(release, integers)
            self._run.ledger.commit(current.reservation, current.roll.participants)
            self._end()
            self._run.transcript.append(current.header, release)
        return released_sum(current.header, release, integers)

    def forfeit(self) -> None:
        """Give up a round whose roll has left and that was not opened; all its participants stay charged.

        Raises:
            ProtocolError: no roll has left.
        """
        current = self._expect(Closed)
        with interrupts_wait():
            self._run.ledger.commit(current.reservation, current.roll.participants)
            self._end()

    def give_up(self, reason: str) -> None:
        """End the round that is open, if any: :meth:`abort` it or, when its roll has left, :meth:`forfeit` it."""
        if isinstance(self._state, Closed):
            self.forfeit()
        elif not isinstance(self._state, Idle):
            self.abort(reason)

    def _end(self) -> None:
        self._state = Idle()
        self._forget()

    def _expect(self, state: type[_S]) -> _S:
        # Each state by its own type: Collecting and Closed carry on what Announced has.
        if type(self._state) is not state:
            raise ProtocolError(f"the server is {_name(self._state)}; this message needs it to be {_name(state)}")
        return self._state


def _name(state: _State | type[_State]) -> str:
    kind = state if isinstance(state, type) else type(state)
    return kind.__name__.lower()
