"""The client's state machine: an invitation in, one upload out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from secure_fu.crypto import AdditiveScheme, Encryptor, Identity, InlineEncryptor, Randomness, Role, Roster, seal
from secure_fu.crypto.wire import decode, encode
from secure_fu.errors import ArgumentError, DataError, NonFiniteError, PolicyRefusal, ProtocolError
from secure_fu.privacy import Unit
from secure_fu.protocol.messages import Domain, Header, Invitation, Upload, UploadStatement, digest, parse_settings
from secure_fu.protocol.policy import Policy
from secure_fu.protocol.sums import LocalTask, RoundTerms

__all__ = ["Client", "PendingUpload", "upload_associated_data"]

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
    )


def upload_associated_data(header_digest: bytes, client: str) -> bytes:
    """What a sealed upload is bound to: one round, one client."""
    return b"upload\0" + header_digest + client.encode("ascii")


class Client:
    """One participant: checks a round against its policy, computes, clips to the grid, adds its noise share, encrypts.

    Formal guarantees:
        The upload is an encryption of round(clamp(contribution)) + noise share. With `minimum_cohort - colluders`
        honest clients in the sum, the released sum carries at least the accounted noise.
    Edge cases:
        A client with nothing to say sends zero plus its noise share, an upload like any other. A contribution that is
        not finite is refused here and never encrypted; the refusal names no value of it, but the type of an error. That
        the client sits out is public. An error of its task other than ArgumentError, DataError and NonFiniteError goes
        through. One round of a run is answered once, by one thread; a repeated or older invitation is refused.

    Args:
        identity: secret; its role is CLIENT.
        roster: pinned identities of all parties.
        policy: pinned demands.
        scheme: additive encryption scheme.
        tasks: this client's code by purpose.
        randomness: source of the noise share and of secret sampling.
        encryptor: does the work of encryption; this process unless given.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        roster: Roster,
        policy: Policy,
        scheme: AdditiveScheme,
        tasks: Mapping[str, LocalTask],
        randomness: Randomness,
        encryptor: Encryptor | None = None,
    ) -> None:
        if identity.role is not Role.CLIENT:
            raise ArgumentError("identity", identity.role.value, "an identity in the role of a client")
        self._identity = identity
        self._roster = roster
        self._policy = policy
        self._scheme = scheme
        self._tasks = dict(tasks)
        self._randomness = randomness
        self._encryptor = InlineEncryptor(scheme) if encryptor is None else encryptor
        self._last_round: dict[bytes, int] = {}

    @property
    def name(self) -> str:
        """As in the roster."""
        return self._identity.name

    def respond(self, invitation: bytes) -> bytes:
        """Answer one invitation with one upload; :meth:`begin` and :meth:`PendingUpload.finish` in one."""
        return self.begin(invitation).finish()

    def begin(self, invitation: bytes) -> PendingUpload:
        """Answer one invitation: everything up to the start of the encryption.

        Args:
            invitation: an encoded :class:`~secure_fu.protocol.messages.Invitation`.

        Returns:
            the upload in the making.

        Raises:
            WireError, SignatureError: the message is malformed or not from the pinned server and key-holder.
            PolicyRefusal: the policy forbids the round, or the contribution cannot be computed, has another shape, or
                is not finite.
            ProtocolError: the round is not newer than the last one answered, its parts do not belong together, or its
                settings are malformed.
        """
        message = _decode_invitation(invitation)
        header = self._checked_header(message)
        model = self._checked_model(message, header)
        terms = _terms(header)
        self._scheme.load_public_key(message.round_key.public_key)
        # From here on the round counts as answered, whatever happens: nothing secret is ever drawn twice for it.
        self._last_round[header.run_id] = header.round_number
        noised = self._noised_contribution(header, model, terms)
        encrypting = self._encryptor.submit(message.round_key.public_key, noised)
        return PendingUpload(self, message.announcement.header_digest, encrypting)

    def _checked_header(self, message: Invitation) -> Header:
        announcement, round_key = message.announcement, message.round_key
        self._roster.verify(
            self._policy.server, Role.SERVER, Domain.HEADER, announcement.header, announcement.signature
        )
        if round_key.header_digest != announcement.header_digest:
            raise ProtocolError("the round key belongs to another header than the announcement")
        self._roster.verify(
            self._policy.key_holder, Role.KEY_HOLDER, Domain.ROUND_KEY, round_key.statement, round_key.signature
        )
        header = _decode_header(announcement.header)
        self._policy.check(header)
        if header.parameter_set != self._scheme.parameter_set:
            raise PolicyRefusal(
                f"header field parameter_set is {header.parameter_set!r}; "
                f"this client runs {self._scheme.parameter_set!r}"
            )
        if self.name not in header.cohort:
            raise PolicyRefusal(f"client {self.name!r} is not in the cohort of round {header.round_number}")
        if header.purpose not in self._tasks:
            raise PolicyRefusal(f"purpose is {header.purpose!r}; this client has tasks for {sorted(self._tasks)}")
        last = self._last_round.get(header.run_id, -1)
        if header.round_number <= last:
            raise ProtocolError(f"round_number is {header.round_number}; expected one after {last}, the last answered")
        share = self._policy.noise_share(header)
        self._scheme.check_capacity(
            clients=len(header.cohort),
            magnitude=self._policy.grid(header).max_integer + share.tail_bound(header.length, log2_probability=-64),
        )
        return header

    @staticmethod
    def _checked_model(message: Invitation, header: Header) -> NDArray[np.float32]:
        if digest(message.model) != header.model_digest:
            raise ProtocolError("the model that came with the invitation is not the one that the header names")
        if len(message.model) != 4 * header.length:
            raise ProtocolError(f"the model has {len(message.model)} bytes; expected {4 * header.length}")
        return _model_vector(message.model)

    def _noised_contribution(self, header: Header, model: NDArray[np.float32], terms: RoundTerms) -> NDArray[np.int64]:
        sits_out = f"client {self.name!r} sits round {header.round_number} out: its contribution"
        sampling = self._randomness.stream(f"sampling/{self.name}")
        try:
            contribution = self._tasks[header.purpose].contribution(model, terms, sampling)
        except (ArgumentError, DataError, NonFiniteError) as error:
            # The refusal travels and is logged: the error's own text, which may tell of data, stays with its cause.
            raise PolicyRefusal(f"{sits_out} cannot be computed ({type(error).__name__})") from error
        if contribution.shape != (header.length,):
            raise PolicyRefusal(f"{sits_out} has shape {contribution.shape}; expected ({header.length},)")
        if not np.isfinite(contribution).all():
            raise PolicyRefusal(f"{sits_out} has non-finite coordinates")
        noise = self._policy.noise_share(header).sample(
            header.length, stream=self._randomness.stream(f"noise/{self.name}")
        )
        return self._policy.grid(header).quantise(contribution) + noise

    def _signed_upload(self, header_digest: bytes, ciphertext: bytes) -> bytes:
        box = seal(
            self._roster.party(self._policy.server).sealing_key,
            ciphertext,
            associated_data=upload_associated_data(header_digest, self.name),
        )
        statement = UploadStatement(header_digest=header_digest, client=self.name, ciphertext_digest=digest(ciphertext))
        return encode(
            Upload(
                header_digest=header_digest,
                client=self.name,
                ciphertext_digest=statement.ciphertext_digest,
                box=box,
                signature=self._identity.sign(Domain.UPLOAD, encode(statement)),
            )
        )


class PendingUpload:
    """An upload whose encryption is under way."""

    def __init__(self, client: Client, header_digest: bytes, encrypting: Callable[[], bytes]) -> None:
        self._client = client
        self._header_digest = header_digest
        self._encrypting = encrypting

    def finish(self) -> bytes:
        """Wait for the ciphertext, seal and sign it.

        Returns:
            an encoded :class:`~secure_fu.protocol.messages.Upload`.
        """
        return self._client._signed_upload(self._header_digest, self._encrypting())
