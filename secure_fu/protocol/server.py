"""The server's state machine: announces a round, folds uploads into one ciphertext, publishes the opened sum."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from secure_fu.crypto import Accumulator, AdditiveScheme, Identity, Role, Roster
from secure_fu.crypto.wire import decode, encode
from secure_fu.errors import ArgumentError, CohortTooSmall, ProtocolError, SignatureError
from secure_fu.privacy import GaussianSumEvent, PrivacyLedger, Reservation, Subject
from secure_fu.protocol.client import upload_associated_data
from secure_fu.protocol.messages import (
    Announcement,
    Domain,
    Header,
    Invitation,
    Opening,
    Release,
    Roll,
    RollEntry,
    RoundKey,
    Upload,
    canonical_settings,
    digest,
)
from secure_fu.protocol.policy import Policy
from secure_fu.protocol.release import ReleasedSum
from secure_fu.protocol.sums import SumRequest
from secure_fu.protocol.transcript import Transcript

__all__ = ["Server"]


@dataclass(frozen=True, kw_only=True)
class _Idle:
    """No round is open."""


@dataclass(frozen=True, kw_only=True)
class _Announced:
    """A header is out and its cost reserved; the key-holder's public key is awaited."""

    header: Header
    header_digest: bytes
    reservation: Reservation
    announcement: Announcement
    model: bytes


@dataclass(frozen=True, kw_only=True)
class _Collecting:
    """Uploads are folded as they come."""

    header: Header
    header_digest: bytes
    reservation: Reservation
    accumulator: Accumulator
    entries: dict[str, RollEntry]


@dataclass(frozen=True, kw_only=True)
class _Closed:
    """The roll has left; the opening is awaited."""

    header: Header
    header_digest: bytes
    reservation: Reservation
    participants: tuple[str, ...]
    roll_digest: bytes


_State = _Idle | _Announced | _Collecting | _Closed
_S = TypeVar("_S", _Idle, _Announced, _Collecting, _Closed)


class Server:
    """Runs one round at a time. It holds one running ciphertext, the names and signatures of who uploaded, no key.

    Formal guarantees:
        Every release is reserved in the ledger before any client is asked, and committed before it is returned. A round
        that closes below its minimum cohort is void; a round whose roll left for the key-holder counts as spent.
    Edge cases:
        A late, repeated, forged or malformed upload raises and leaves the round as it was.

    Args:
        identity: secret; its role is SERVER.
        roster: pinned identities.
        policy: what this federation runs under; the same values that clients pin.
        scheme: additive encryption scheme.
        ledger: the privacy ledger.
        branch: of the ledger, that this server charges.
        transcript: the chain of releases of this run.
        run_id: 16 bytes that name the run.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        roster: Roster,
        policy: Policy,
        scheme: AdditiveScheme,
        ledger: PrivacyLedger,
        branch: str,
        transcript: Transcript,
        run_id: bytes,
    ) -> None:
        if identity.role is not Role.SERVER:
            raise ArgumentError("identity", identity.role.value, "an identity in the role of a server")
        if len(run_id) != 16:
            raise ArgumentError("run_id", f"{len(run_id)} bytes", "16 bytes")
        self._identity = identity
        self._roster = roster
        self._policy = policy
        self._scheme = scheme
        self._ledger = ledger
        self._branch = branch
        self._transcript = transcript
        self._run_id = run_id
        self._state: _State = _Idle()

    def announce(self, request: SumRequest, cohort: tuple[str, ...], round_number: int) -> bytes:
        """Open a round: fix its header, reserve its cost.

        Args:
            request: what the algorithm asks.
            cohort: clients to invite, in any order.
            round_number: newer than the run's last.

        Returns:
            an encoded :class:`~secure_fu.protocol.messages.Announcement`, for the key-holder.

        Raises:
            PolicyRefusal: this federation's own policy forbids the round.
            CapacityError: the modulus cannot hold the sum.
            BudgetExceededError: the ledger refuses.
        """
        self._expect(_Idle)
        header = self._header(request, cohort, round_number)
        self._policy.check(header)
        for name in header.cohort:
            self._roster.party(name)
        share = self._policy.noise_share(header)
        grid = self._policy.grid(header)
        self._scheme.check_capacity(
            clients=len(cohort), magnitude=grid.max_integer + share.tail_bound(header.length, log2_probability=-64)
        )
        charges = {
            subject: GaussianSumEvent(
                noise_multiplier=header.noise_multiplier,
                sampling_rate=rate,
                grid_ratio=share.total_grid_ratio,
                dimension=header.length,
                shares=share.assured,
            )
            if rate > 0.0
            else None
            for subject, rate in (
                (Subject.RETAINED, header.retained_rate),
                (Subject.FORGOTTEN, header.forgotten_rate),
            )
        }
        body = encode(header)
        announcement = Announcement(header=body, signature=self._identity.sign(Domain.HEADER, body))
        reservation = self._ledger.reserve(
            self._branch,
            round_number=round_number,
            purpose=request.purpose,
            phase=request.phase,
            charges=charges,
            cohort=header.cohort,
        )
        self._state = _Announced(
            header=header,
            header_digest=announcement.header_digest,
            reservation=reservation,
            announcement=announcement,
            model=request.model.encode(),
        )
        return encode(announcement)

    def _header(self, request: SumRequest, cohort: tuple[str, ...], round_number: int) -> Header:
        policy = self._policy
        draft = Header(
            run_id=self._run_id,
            round_number=round_number,
            purpose=request.purpose,
            previous_transcript=self._transcript.head,
            model_digest=request.model.digest,
            parameter_set=self._scheme.parameter_set,
            length=request.model.dimension,
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
            committee=(policy.key_holder,),
            minimum_cohort=policy.minimum_cohort,
        )
        return replace(draft, grid_step=policy.grid(draft).step)

    def invite(self, round_key: bytes) -> bytes:
        """Take the key-holder's public key and make the invitation, one for all clients.

        Args:
            round_key: an encoded :class:`~secure_fu.protocol.messages.RoundKey`.

        Returns:
            an encoded :class:`~secure_fu.protocol.messages.Invitation`.

        Raises:
            SignatureError: not from the pinned key-holder.
            SecretKeyExposedError: the context holds a secret, relinearisation or Galois key.
        """
        current = self._expect(_Announced)
        message = decode(RoundKey, round_key)
        if message.header_digest != current.header_digest:
            raise ProtocolError("the round key belongs to another header")
        self._roster.verify(
            self._policy.key_holder, Role.KEY_HOLDER, Domain.ROUND_KEY, message.statement, message.signature
        )
        public_key = self._scheme.load_public_key(message.public_key)
        self._state = _Collecting(
            header=current.header,
            header_digest=current.header_digest,
            reservation=current.reservation,
            accumulator=self._scheme.accumulator(public_key, current.header.length),
            entries={},
        )
        return encode(Invitation(announcement=current.announcement, round_key=message, model=current.model))

    def receive(self, upload: bytes) -> None:
        """Fold one upload into the running sum; nothing of it is kept but name, digest and signature.

        Args:
            upload: an encoded :class:`~secure_fu.protocol.messages.Upload`.

        Raises:
            WireError, SignatureError, RosterError, SealError, CiphertextError: malformed, forged, or not for this
                round.
            ProtocolError: late, repeated, or from outside the cohort.
        """
        current = self._expect(_Collecting)
        message = decode(Upload, upload)
        if message.header_digest != current.header_digest:
            raise ProtocolError("the upload belongs to another round")
        if message.client not in current.header.cohort:
            raise ProtocolError(f"client {message.client!r} is not in the cohort of this round")
        if message.client in current.entries:
            raise ProtocolError(f"client {message.client!r} has uploaded to this round already")
        self._roster.verify(message.client, Role.CLIENT, Domain.UPLOAD, message.statement, message.signature)
        ciphertext = self._identity.unseal(
            message.box, associated_data=upload_associated_data(message.header_digest, message.client)
        )
        if digest(ciphertext) != message.ciphertext_digest:
            raise SignatureError(f"the ciphertext of client {message.client!r} is not the one that it signed")
        current.accumulator.add(ciphertext)
        current.entries[message.client] = RollEntry(
            client=message.client, ciphertext_digest=message.ciphertext_digest, signature=message.signature
        )

    def close(self) -> bytes:
        """End the collection and ask for the opening.

        Returns:
            an encoded :class:`~secure_fu.protocol.messages.Roll`, for the key-holder.

        Raises:
            CohortTooSmall: fewer uploads than the minimum cohort; the reservation is void, the server idle again.
        """
        current = self._expect(_Collecting)
        if len(current.entries) < current.header.minimum_cohort:
            reason = f"{len(current.entries)} uploads, fewer than the minimum cohort of {current.header.minimum_cohort}"
            self.abort(reason)
            raise CohortTooSmall(f"round {current.header.round_number}: {reason}")
        unsigned = Roll(
            header_digest=current.header_digest,
            entries=tuple(current.entries[name] for name in sorted(current.entries)),
            total=current.accumulator.total(),
            signature=bytes(64),
        )
        roll = replace(unsigned, signature=self._identity.sign(Domain.ROLL, unsigned.statement))
        self._state = _Closed(
            header=current.header,
            header_digest=current.header_digest,
            reservation=current.reservation,
            participants=tuple(entry.client for entry in roll.entries),
            roll_digest=digest(roll.statement),
        )
        return encode(roll)

    def abort(self, reason: str) -> None:
        """Give up a round whose roll has not left; its reservation is void.

        Raises:
            ProtocolError: no round is open, or its roll has left already and may have been opened.
        """
        if not isinstance(self._state, (_Announced, _Collecting)):
            raise ProtocolError(
                f"the server is {_name(self._state)}; only a round whose roll has not left can be aborted"
            )
        self._ledger.void(self._state.reservation, reason=reason)
        self._state = _Idle()

    def release(self, opening: bytes) -> ReleasedSum:
        """Check the opening, commit the ledger entry, publish the sum.

        Args:
            opening: an encoded :class:`~secure_fu.protocol.messages.Opening`.

        Returns:
            the released sum, scaled back to the contribution's units.

        Raises:
            SignatureError: not from the pinned key-holder.
            ProtocolError: for another roll, or of the wrong length.
        """
        current = self._expect(_Closed)
        message = decode(Opening, opening)
        self._roster.verify(
            self._policy.key_holder, Role.KEY_HOLDER, Domain.OPENING, message.statement, message.signature
        )
        if (message.header_digest, message.roll_digest) != (current.header_digest, current.roll_digest):
            raise ProtocolError("the opening belongs to another roll")
        if len(message.values) != 8 * current.header.length:
            raise ProtocolError(f"the opening has {len(message.values)} bytes; expected {8 * current.header.length}")
        self._ledger.commit(current.reservation, current.participants)
        self._state = _Idle()
        release = Release(
            header_digest=current.header_digest,
            previous_transcript=current.header.previous_transcript,
            roll_digest=current.roll_digest,
            values_digest=digest(message.values),
            participants=current.participants,
            opening_signature=message.signature,
        )
        self._transcript.append(current.header, release)
        integers = np.frombuffer(message.values, dtype="<i8").astype(np.int64)
        return ReleasedSum(
            values=self._policy.grid(current.header).dequantise(integers),
            purpose=current.header.purpose,
            round_number=current.header.round_number,
            participants=current.participants,
            transcript=self._transcript.head,
        )

    def forfeit(self) -> None:
        """Give up a round whose roll has left and that was not opened; all its participants stay charged.

        Raises:
            ProtocolError: no roll has left.
        """
        current = self._expect(_Closed)
        self._ledger.commit(current.reservation, current.participants)
        self._state = _Idle()

    def give_up(self, reason: str) -> None:
        """End the round that is open, if any: :meth:`abort` it or, when its roll has left, :meth:`forfeit` it.

        The key-holder may hold the key of an aborted round until the run's next one. Its charge is given back on this
        server's word that it never sends the roll.
        """
        if isinstance(self._state, _Closed):
            self.forfeit()
        elif not isinstance(self._state, _Idle):
            self.abort(reason)

    def _expect(self, state: type[_S]) -> _S:
        if not isinstance(self._state, state):
            raise ProtocolError(f"the server is {_name(self._state)}; this message needs it to be {_name(state)}")
        return self._state


def _name(state: _State | type[_State]) -> str:
    kind = state if isinstance(state, type) else type(state)
    return kind.__name__.strip("_").lower()
