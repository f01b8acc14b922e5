"""The client's state machine: an invitation in, one upload out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from secure_fu.crypto import AdditiveScheme, Identity, PublicKey, Randomness, Role, Roster, seal
from secure_fu.crypto.wire import decode, encode
from secure_fu.errors import ArgumentError, DataError, NonFiniteError, PolicyRefusal, ProtocolError
from secure_fu.privacy import Unit
from secure_fu.protocol.messages import Domain, Header, Invitation, Upload, UploadStatement, digest
from secure_fu.protocol.policy import Policy
from secure_fu.protocol.sums import LocalTask, RoundTerms

__all__ = ["Client", "upload_associated_data"]

# An invitation is one and the same for all clients of a process; reading its public parts once serves them all.
_decode_invitation = lru_cache(maxsize=2)(partial(decode, Invitation))
_decode_header = lru_cache(maxsize=2)(partial(decode, Header))


@lru_cache(maxsize=2)
def _load_public_key(scheme: AdditiveScheme, data: bytes) -> PublicKey:
    return scheme.load_public_key(data)


@lru_cache(maxsize=2)
def _model_vector(data: bytes) -> NDArray[np.float32]:
    vector = np.frombuffer(data, dtype="<f4").astype(np.float32)
    vector.setflags(write=False)
    return vector


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
        not finite is refused here and never encrypted. One round is answered once; a repeated or older invitation is
        refused, so no noise or key is used twice.

    Args:
        identity: secret; its role is CLIENT.
        roster: pinned identities of all parties.
        policy: pinned demands.
        scheme: additive encryption scheme.
        tasks: this client's code by purpose.
        randomness: source of the noise share and of secret sampling.
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
    ) -> None:
        if identity.role is not Role.CLIENT:
            raise ArgumentError("identity", identity.role.value, "an identity in the role of a client")
        self._identity = identity
        self._roster = roster
        self._policy = policy
        self._scheme = scheme
        self._tasks = dict(tasks)
        self._randomness = randomness
        self._last_round: dict[bytes, int] = {}

    @property
    def name(self) -> str:
        """As in the roster."""
        return self._identity.name

    def respond(self, invitation: bytes) -> bytes:
        """Answer one invitation with one upload.

        Args:
            invitation: an encoded :class:`~secure_fu.protocol.messages.Invitation`.

        Returns:
            an encoded :class:`~secure_fu.protocol.messages.Upload`.

        Raises:
            WireError, SignatureError: the message is malformed or not from the pinned server and key-holder.
            PolicyRefusal: the policy forbids the round, or the contribution is not finite.
            ProtocolError: the round is not newer than the last one answered, or its parts do not belong together.
        """
        message = _decode_invitation(invitation)
        header = self._checked_header(message)
        model = self._checked_model(message, header)
        public_key = _load_public_key(self._scheme, message.round_key.public_key)
        # From here on the round counts as answered, whatever happens: nothing secret is ever drawn twice for it.
        self._last_round[header.run_id] = header.round_number
        noised = self._noised_contribution(header, model)
        ciphertext = self._scheme.encrypt(public_key, noised)
        return self._signed_upload(message.announcement.header_digest, ciphertext)

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

    def _noised_contribution(self, header: Header, model: NDArray[np.float32]) -> NDArray[np.int64]:
        terms = RoundTerms(
            purpose=header.purpose,
            round_number=header.round_number,
            unit=Unit(header.unit),
            clip_norm=header.clip_norm,
            retained_rate=header.retained_rate,
            forgotten_rate=header.forgotten_rate,
            settings=json.loads(header.settings),
        )
        sampling = self._randomness.stream(f"sampling/{self.name}")
        try:
            contribution = self._tasks[header.purpose].contribution(model, terms, sampling)
        except (ArgumentError, DataError, NonFiniteError) as error:
            raise PolicyRefusal(
                f"client {self.name!r} sits round {header.round_number} out: no contribution could be computed: {error}"
            ) from error
        if contribution.shape != (header.length,):
            raise ArgumentError("contribution", contribution.shape, f"shape ({header.length},)")
        if not np.isfinite(contribution).all():
            raise PolicyRefusal(
                f"client {self.name!r} sits round {header.round_number} out: its contribution is not finite"
            )
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
