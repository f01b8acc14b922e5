"""The client's state machine: an invitation in, one upload out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from secure_fu.crypto import Identity, Randomness, Role, Roster, Secret
from secure_fu.crypto.wire import decode, encode
from secure_fu.errors import ArgumentError, NonFiniteError, PolicyRefusal, ProtocolError, ReuseError, SecureFUError
from secure_fu.privacy import Unit, clip_l2
from secure_fu.protocol.client_record import ClientRecord
from secure_fu.protocol.encryption import EncryptedVector, UploadEncryption
from secure_fu.protocol.header import Header, grid_of, noise_share_of, parse_settings
from secure_fu.protocol.messages import Domain, Invitation, Upload, digest
from secure_fu.protocol.policy import Policy
from secure_fu.protocol.sums import LocalTask, RoundTerms

__all__ = ["AcceptedRound", "Client", "PendingUpload"]

_LOGGER = logging.getLogger("secure_fu")

# An invitation is one and the same for all clients of a process; reading its public parts once serves them all.
_decode_invitation = lru_cache(maxsize=2)(partial(decode, Invitation))
_decode_header = lru_cache(maxsize=2)(partial(decode, Header))


@lru_cache(maxsize=2)
def _model_vector(data: bytes) -> NDArray[np.float32]:
    vector = np.frombuffer(data, dtype="<f4").astype(np.float32)
    vector.setflags(write=False)
    return vector


def _terms(header: Header) -> RoundTerms:
    return RoundTerms(
        purpose=header.purpose,
        round_number=header.round_number,
        unit=Unit(header.unit),
        clip_norm=header.clip_norm,
        retained_rate=header.retained_rate,
        forgotten_rate=header.forgotten_rate,
        settings=parse_settings(header.settings),
        length=header.length,
    )


class Client:
    """One participant: checks a round against its policy, computes, clips to the grid, adds its noise share, encrypts.

    Formal guarantees:
        The upload is an encryption of round(clamp(contribution)) + noise share. With `minimum_cohort - colluders`
        honest clients in the sum, the released sum carries at least the accounted noise. A round is answered at most
        once, and charged to the client's own record before anything is computed for it, whatever happens afterwards, a
        kill included.
    Edge cases:
        A client with nothing to say sends zero plus its noise share, an upload like any other; so does one whose task
        raises any exception, or returns another shape or a number that is not finite. Its own log names the type of the
        error and no more. For the client unit, what a task returns is clipped once more.

    Args:
        identity: secret; its role is CLIENT.
        roster: pinned identities of all parties.
        policy: pinned demands.
        encryption: of the scheme that this client runs.
        tasks: this client's code by purpose.
        randomness: source of the noise share and of secret sampling.
        record: durable memory of rounds and of what they cost.

    Raises:
        ArgumentError: the identity has another role, or the roster is not the policy's.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        roster: Roster,
        policy: Policy,
        encryption: UploadEncryption,
        tasks: Mapping[str, LocalTask],
        randomness: Randomness,
        record: ClientRecord,
    ) -> None:
        if identity.role is not Role.CLIENT:
            raise ArgumentError("identity", identity.role.value, "an identity in the role of a client")
        policy.check_roster(roster)
        self._identity = identity
        self._roster = roster
        self._policy = policy
        self._encryption = encryption
        self._tasks = dict(tasks)
        self._randomness = randomness
        self._record = record

    @property
    def name(self) -> str:
        """As in the roster."""
        return self._identity.name

    def respond(self, invitation: bytes) -> bytes:
        """Answer one invitation with one upload: :meth:`accept`, then the rest."""
        return self.accept(invitation).begin().finish()

    def accept(self, invitation: bytes) -> AcceptedRound:
        """Check a round, and write down that it is answered and what it costs.

        Args:
            invitation: an encoded :class:`~secure_fu.protocol.messages.Invitation`.

        Returns:
            what goes on from here. Nothing may leave before the record is durable, which it is on return unless the
            record gathers several clients (:meth:`ClientRecord.together`).

        Raises:
            WireError, SignatureError, RosterError: the message is malformed or not from the pinned parties.
            PolicyRefusal: the policy or the client's own ledger forbids the round.
            CapacityError: the sum might not fit.
            ProtocolError: the round is not newer than the last one answered, its parts do not belong together, or its
                settings are malformed.
        """
        message = _decode_invitation(invitation)
        header = self._checked_header(message)
        model = self._checked_model(message, header)
        terms = _terms(header)
        header_digest = message.announcement.header_digest
        # From here on the round counts as answered, whatever happens: nothing secret is ever drawn twice for it.
        self._record.accept(self.name, header, header_digest, budget=self._policy.budget)
        return AcceptedRound(
            compute=lambda: self._noised_contribution(header, header_digest, model, terms),
            encrypt=lambda values: self._encryption.begin(message, header, self.name, values),
            sign=lambda vector: self._signed_upload(header_digest, vector),
        )

    def _checked_header(self, message: Invitation) -> Header:
        announcement = message.announcement
        self._roster.verify(
            self._policy.server, Role.SERVER, Domain.HEADER, announcement.header, announcement.signature
        )
        header = _decode_header(announcement.header)
        self._policy.check(header)
        self._policy.check_cohort(header, self._roster)
        if self.name not in header.cohort:
            raise PolicyRefusal(f"client {self.name!r} is not in the cohort of round {header.round_number}")
        if header.purpose not in self._tasks:
            raise PolicyRefusal(f"purpose is {header.purpose!r}; this client has tasks for {sorted(self._tasks)}")
        self._encryption.check(message, header)
        return header

    @staticmethod
    def _checked_model(message: Invitation, header: Header) -> NDArray[np.float32]:
        if digest(message.model) != header.model_digest:
            raise ProtocolError("the model that came with the invitation is not the one that the header names")
        # Unlearning may sum something else, Hessians for one; the task checks that it is what it was made for.
        free = header.purpose.startswith("unlearn/") and bool(message.model) and len(message.model) % 4 == 0
        if not free and len(message.model) != 4 * header.length:
            expected = "a positive multiple of 4" if header.purpose.startswith("unlearn/") else f"{4 * header.length}"
            raise ProtocolError(f"the model has {len(message.model)} bytes; expected {expected}")
        model = _model_vector(message.model)
        if not np.isfinite(model).all():
            raise ProtocolError("the model has coordinates that are not finite")
        return model

    def _noised_contribution(
        self, header: Header, header_digest: bytes, model: NDArray[np.float32], terms: RoundTerms
    ) -> tuple[NDArray[np.int64], Exception | None]:
        grid = grid_of(header)
        failure: Exception | None
        rounding = self._randomness.stream(self._label("rounding", header))
        try:
            contribution = self._bounded_contribution(header, model, terms)
            encoded = grid.encode(contribution, seed=header_digest, stream=rounding)
            failure = None
        except Exception as error:
            # Whether it can be computed may depend on a single record, or on whether this client leaves, and the server
            # chose model and settings: to sit out, or to say why, would tell. So the upload is one like any other.
            _LOGGER.warning(
                "round %d: client %s sends noise alone (%s)", header.round_number, self.name, type(error).__name__
            )
            failure = None if isinstance(error, SecureFUError) else error
            encoded = np.zeros(grid.encoded_dimension, dtype=np.int64)
        noise = self._randomness.stream(self._label("noise", header))
        return encoded + noise_share_of(header).sample(grid.encoded_dimension, stream=noise), failure

    def _bounded_contribution(
        self, header: Header, model: NDArray[np.float32], terms: RoundTerms
    ) -> NDArray[np.float64]:
        sampling = self._randomness.stream(self._label("sampling", header))
        contribution = self._tasks[header.purpose].contribution(model, terms, sampling)
        if contribution.shape != (header.length,):
            raise ArgumentError("contribution", f"of shape {contribution.shape}", f"shape ({header.length},)")
        if not np.isfinite(contribution).all():
            raise NonFiniteError("the contribution has coordinates that are not finite")
        # Records and groups are clipped one by one, in the task; a client as a whole can be held to its bound here.
        return clip_l2(contribution, terms.clip_norm) if terms.unit is Unit.CLIENT else contribution

    def _label(self, use: str, header: Header) -> str:
        # For the randomness of tests: the same round gets the same words, whatever its client was asked before.
        return f"{use}/{self.name}/{header.purpose}/{header.round_number}"

    def _signed_upload(self, header_digest: bytes, vector: EncryptedVector) -> bytes:
        unsigned = Upload(
            header_digest=header_digest,
            client=self.name,
            ciphertext_digest=vector.ciphertext_digest,
            body=vector.body,
            shares=vector.shares,
            signature=bytes(64),
        )
        return encode(replace(unsigned, signature=self._identity.sign(Domain.UPLOAD, unsigned.statement)))


class AcceptedRound(Secret):
    """A round that a client has accepted and been charged for; it computes once."""

    def __init__(
        self,
        *,
        compute: Callable[[], tuple[NDArray[np.int64], Exception | None]],
        encrypt: Callable[[NDArray[np.int64]], Callable[[], EncryptedVector]],
        sign: Callable[[EncryptedVector], bytes],
    ) -> None:
        self._compute = compute
        self._encrypt = encrypt
        self._sign = sign
        self._begun = False

    def begin(self) -> PendingUpload:
        """Compute the contribution, add noise, start to encrypt.

        Raises:
            ReuseError: this was called before.
        """
        if self._begun:
            raise ReuseError("a round is answered once")
        self._begun = True
        values, failure = self._compute()
        return PendingUpload(encrypting=self._encrypt(values), sign=self._sign, failure=failure)


class PendingUpload(Secret):
    """An upload whose encryption is under way."""

    def __init__(
        self,
        *,
        encrypting: Callable[[], EncryptedVector],
        sign: Callable[[EncryptedVector], bytes],
        failure: Exception | None,
    ) -> None:
        self._encrypting = encrypting
        self._sign = sign
        self._failure = failure

    @property
    def failure(self) -> Exception | None:
        """An exception of the task that is none of this package's own. It never leaves the client.

        A simulation looks, so that a bug in somebody's task is not taken for silence.
        """
        return self._failure

    def finish(self) -> bytes:
        """Wait for the ciphertext and sign it.

        Returns:
            an encoded :class:`~secure_fu.protocol.messages.Upload`.
        """
        return self._sign(self._encrypting())
