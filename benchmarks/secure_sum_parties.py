"""The parties of a federation with a committee of ten, as the benchmarks of scheme `kahe` build them in each process.

Keys are derived from names, so that no process has to send any to another. They protect nothing.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secure_fu.crypto import CommitteeTerms, Identity, Role, Roster, SealingKey, SigningKey, decode, encode
from secure_fu.crypto.kahe import CiphertextSum, ClientKey, Layout, choose_layout, open_sum
from secure_fu.privacy import Budget, Phase, PrivacyLedger, Unit
from secure_fu.protocol import (
    CommitteeEncryption,
    CommitteeServer,
    GridKind,
    Header,
    Member,
    MemberRecord,
    Policy,
    ReleasedModel,
    Run,
    SumRequest,
    Transcript,
    kahe_parameter_sets,
)
from secure_fu.protocol.messages import Domain, Invitation, Upload

__all__ = ["PURPOSE", "TERMS", "Federation", "header_in", "warm_up"]

PURPOSE = "statistic/sum"
TERMS = CommitteeTerms(members=10, threshold=7, quorum=7, corrupt=3)
# So little noise that sums of 16 bits hold 1e7 coordinates and, of a thousand invited, fifty uploads are enough.
_NOISE_MULTIPLIER = 0.3
_BUDGET = Budget(epsilon=12.0, delta=0.5, order=1.5, deletion_reserve=0.1, unit=Unit.CLIENT)


class Federation:
    """Everybody's identities, the roster and the policy.

    Args:
        clients: how many there are.
        minimum: the smallest number of uploads that opens.
    """

    def __init__(self, clients: int, *, minimum: int) -> None:
        self.clients = tuple(f"client-{number:04}" for number in range(clients))
        self.members = tuple(f"member-{number:02}" for number in range(TERMS.members))
        self.identities = {name: _identity(name, Role.CLIENT) for name in self.clients}
        self.identities |= {name: _identity(name, Role.MEMBER) for name in self.members}
        self.identities["server"] = _identity("server", Role.SERVER)
        self.roster = Roster.of(identity.party for identity in self.identities.values())
        self.policy = Policy(
            server="server",
            committee=self.members,
            terms=TERMS,
            roster_digest=self.roster.digest,
            unit=Unit.CLIENT,
            budget=_BUDGET,
            clip_norm=1.0,
            saturation=1.0,
            noise_multiplier=_NOISE_MULTIPLIER,
            sampling_rate=1.0,
            minimum_cohort=minimum,
            colluders=1,
            purposes=frozenset({PURPOSE}),
            parameter_sets=kahe_parameter_sets(),
            grids=frozenset({GridKind.ROTATED.value}),
        )

    def server(self, directory: Path, *, sum_bits: int) -> CommitteeServer:
        """A server for one run; every process that asks for one with the same arguments gets the same headers."""
        ledger = PrivacyLedger.create(directory / f"ledger-{sum_bits}.sqlite", budget=_BUDGET)
        ledger.branch("original")
        run = Run(
            run_id=bytes(16),
            roster=self.roster,
            policy=self.policy,
            grid=GridKind.ROTATED,
            sum_bits=sum_bits,
            ledger=ledger,
            branch="original",
            transcript=Transcript(path=directory / f"transcript-{sum_bits}.jsonl"),
        )
        return CommitteeServer(self.identities["server"], run)

    def invitation(self, server: CommitteeServer, *, length: int, number: int = 1) -> bytes:
        """Announce a round to all clients."""
        request = SumRequest(
            purpose=PURPOSE,
            phase=Phase.TRAINING,
            model=ReleasedModel.public(np.zeros(length)),
            unit=Unit.CLIENT,
            clip_norm=1.0,
            saturation=1.0,
            noise_multiplier=_NOISE_MULTIPLIER,
            retained_rate=1.0,
            forgotten_rate=1.0,
        )
        server.announce(request, self.clients, number)
        return server.invite()

    def committee(self) -> list[Member]:
        """All members, with records in memory."""
        record = MemberRecord(None)
        return [
            Member(self.identities[name], roster=self.roster, policy=self.policy, record=record)
            for name in self.members
        ]

    def upload(self, client: str, invitation: Invitation, header: Header, values: NDArray[np.int64]) -> bytes:
        """What a client sends whose integers, noise included, are `values`: fresh key, shares, boxes, signature."""
        vector = CommitteeEncryption(roster=self.roster).begin(invitation, header, client, values)()
        unsigned = Upload(
            header_digest=invitation.announcement.header_digest,
            client=client,
            ciphertext_digest=vector.ciphertext_digest,
            body=vector.body,
            shares=vector.shares,
            signature=bytes(64),
        )
        signature = self.identities[client].sign(Domain.UPLOAD, unsigned.statement)
        return encode(replace(unsigned, signature=signature))


def header_in(invitation: Invitation) -> Header:
    """The header that an invitation carries."""
    return decode(Header, invitation.announcement.header)


def warm_up() -> None:
    """Compile or load all kernels, and fail if they do not add up."""
    layout = choose_layout(
        length=1000, clients=2, magnitude=1000, share_bytes=TERMS.share_bytes, allowed=["kahe-8192-196"]
    )
    values, seed = np.arange(-500, 500), bytes(32)
    keys = [ClientKey.generate(layout), ClientKey.generate(layout)]
    total = _summed(layout, [key.encrypt(values, seed=seed) for key in keys])
    opened = open_sum(layout, total, keys[0].coefficients + keys[1].coefficients, seed=seed, uploads=2)
    if not np.array_equal(opened, 2 * values):
        raise SystemExit("the opened sum is wrong")


def _summed(layout: Layout, ciphertexts: list[bytes]) -> bytes:
    total = CiphertextSum(layout)
    for ciphertext in ciphertexts:
        total.add(ciphertext)
    return total.total()


def _identity(name: str, role: Role) -> Identity:
    secret = hashlib.shake_256(f"secure_sum benchmark {name}".encode()).digest(
        SigningKey.SECRET_BYTES + SealingKey.SECRET_BYTES
    )
    return Identity(
        name,
        role,
        signing_key=SigningKey.from_secret_bytes(secret[: SigningKey.SECRET_BYTES]),
        sealing_key=SealingKey.from_secret_bytes(secret[SigningKey.SECRET_BYTES :]),
    )
