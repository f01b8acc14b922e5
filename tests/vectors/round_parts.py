"""The parties and the messages of the one round that the known answers are about; see make_vectors.py."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from secure_fu.crypto import CommitteeTerms, Identity, Role, Roster, SealingKey, SigningKey, seal
from secure_fu.crypto.kahe import PARAMETER_SETS
from secure_fu.crypto.sharing import encode_share
from secure_fu.crypto.wire import encode
from secure_fu.privacy import Budget, Unit
from secure_fu.protocol import Header, Member, MemberRecord, Policy
from secure_fu.protocol.committee.messages import (
    Ballot,
    Delivery,
    ShareBinding,
)
from secure_fu.protocol.header import grid_of
from secure_fu.protocol.messages import (
    Announcement,
    Domain,
    Roll,
    RollEntry,
    Upload,
    digest,
    shares_digest,
)

__all__ = [
    "CLIENTS",
    "COMMITTEE",
    "IN_ROLL",
    "MEMBER",
    "announced",
    "ballot",
    "binding_of",
    "boxes",
    "entry",
    "header",
    "header_digest",
    "identities",
    "member",
    "policy",
    "recorded",
    "rolled",
    "roster",
    "secrets",
    "share_of",
    "uploaded",
]

FOLDER = Path(__file__).parent
CLIENTS = ("client-a", "client-b", "client-c", "client-d")
COMMITTEE = ("member-a", "member-b", "member-c", "member-d")
TERMS = CommitteeTerms(members=4, threshold=4, quorum=3, corrupt=1)
IN_ROLL = CLIENTS[:3]
MEMBER = COMMITTEE[0]


@functools.cache
def identities() -> Mapping[str, Identity]:
    """Everybody's keys: secret bytes that count on from 10 times the position in this list, modulo 256."""
    roles = dict.fromkeys((*CLIENTS, "client-e"), Role.CLIENT) | dict.fromkeys(COMMITTEE, Role.MEMBER)
    found = {}
    for position, (name, role) in enumerate((roles | {"server": Role.SERVER}).items()):
        signing, sealing = secrets(position)
        found[name] = Identity(
            name,
            role,
            signing_key=SigningKey.from_secret_bytes(signing),
            sealing_key=SealingKey.from_secret_bytes(sealing),
        )
    return found


def secrets(position: int) -> tuple[bytes, bytes]:
    """The secret bytes of a signing key and of a sealing key."""
    counting = bytes((10 * position + i) % 256 for i in range(128))
    return counting[:32], counting[32:]


@functools.cache
def roster() -> Roster:
    """Of all of them; client-e is enrolled and not in the cohort."""
    return Roster.of(identity.party for identity in identities().values())


def policy() -> Policy:
    """What the member pins."""
    return Policy(
        server="server",
        committee=COMMITTEE,
        terms=TERMS,
        roster_digest=roster().digest,
        unit=Unit.RECORD,
        budget=Budget(epsilon=8.0, delta=1e-5, order=4.0, deletion_reserve=0.5, unit=Unit.RECORD),
        clip_norm=1.0,
        saturation=2.0,
        noise_multiplier=2.0,
        sampling_rate=0.5,
        minimum_cohort=3,
        colluders=1,
        purposes=frozenset({"train"}),
        parameter_sets=frozenset(PARAMETER_SETS),
    )


@functools.cache
def header() -> Header:
    """Of the round."""
    draft = Header(
        run_id=bytes(range(16)),
        round_number=7,
        purpose="train",
        phase="training",
        previous_transcript=digest(b"previous"),
        model_digest=digest(bytes(24)),
        parameter_set="kahe-1024-25",
        digit_bits=15,
        length=6,
        grid="fine",
        grid_step=1.0,
        saturation=2.0,
        clip_norm=1.0,
        unit="record",
        noise_multiplier=2.0,
        retained_rate=0.5,
        forgotten_rate=0.25,
        settings='{"learning_rate":0.1}',
        roster_digest=roster().digest,
        cohort=CLIENTS,
        colluders=1,
        minimum_cohort=3,
        committee=COMMITTEE,
        threshold=TERMS.threshold,
        quorum=TERMS.quorum,
        corrupt=TERMS.corrupt,
    )
    return replace(draft, grid_step=grid_of(draft).step)


def announced(changed: Header, *, by: str = "server", domain: str = Domain.HEADER) -> Announcement:
    """The header with a signature."""
    body = encode(changed)
    return Announcement(header=body, signature=identities()[by].sign(domain, body))


def header_digest() -> bytes:
    """SHA-256 of the encoded header."""
    return digest(encode(header()))


def share_of(client: str) -> bytes:
    """The member's share of a client's key: element i is (977 i + 13 c) mod 65521, c the client's position."""
    i = np.arange(TERMS.share_length(1024))
    return encode_share(((977 * i + 13 * CLIENTS.index(client)) % 65521).astype(np.uint16))


def binding_of(client: str, to: str = MEMBER, of: bytes | None = None) -> bytes:
    """What a share is sealed under."""
    return encode(ShareBinding(header_digest=header_digest() if of is None else of, client=client, member=to))


def recorded() -> dict[str, Any]:
    """Fresh boxes to the member: a share of each client in the roll, and some of client-c that do not fit."""
    good = share_of("client-c")
    plain = {name: (share_of(name), binding_of(name)) for name in IN_ROLL} | {
        "an element that is p": (good[:-2] + (65521).to_bytes(2, "little"), binding_of("client-c")),
        "one element too few": (good[:-2], binding_of("client-c")),
        "bound to another header": (good, binding_of("client-c", of=digest(b"another header"))),
        "bound to another client": (good, binding_of("client-d")),
        "bound to another member": (good, binding_of("client-c", to="member-b")),
    }
    party = roster().party(MEMBER)
    return {
        "comment": "sealed once by secure_fu to member-a; encapsulation is randomised, so these cannot be made again",
        "boxes": {
            name: seal(party.sealing_key, share, associated_data=bound).hex() for name, (share, bound) in plain.items()
        },
    }


@functools.cache
def boxes() -> Mapping[str, bytes]:
    """What was recorded."""
    content = json.loads((FOLDER / "recorded_boxes.json").read_text(encoding="utf-8"))
    return {name: bytes.fromhex(box) for name, box in content["boxes"].items()}


def uploaded(client: str, box: bytes | None = None, of: bytes | None = None) -> Upload:
    """A client's upload. The member's box is a true one, those to others and the ciphertext are stand-ins."""
    body = f"the ciphertext of {client}".encode()
    own = boxes()[client] if box is None and client in boxes() else box or b"no box"
    unsigned = Upload(
        header_digest=header_digest() if of is None else of,
        client=client,
        ciphertext_digest=digest(body),
        body=body,
        shares=(own, *(f"the box of {client} to {other}".encode() for other in COMMITTEE[1:])),
        signature=bytes(64),
    )
    return replace(unsigned, signature=identities()[client].sign(Domain.UPLOAD, unsigned.statement))


def entry(upload: Upload) -> RollEntry:
    """As a roll lists it."""
    return RollEntry(
        client=upload.client,
        ciphertext_digest=upload.ciphertext_digest,
        shares_digest=shares_digest(upload.share_digests),
        signature=upload.signature,
    )


def rolled(
    entries: Sequence[RollEntry], *, of: bytes | None = None, by: str = "server", domain: str = Domain.ROLL
) -> Roll:
    """A signed roll."""
    unsigned = Roll(
        header_digest=header_digest() if of is None else of,
        entries=tuple(entries),
        total_digest=digest(b"the total"),
        signature=bytes(64),
    )
    return replace(unsigned, signature=identities()[by].sign(domain, unsigned.statement))


def ballot(
    announcement: Announcement | None = None, roll: Roll | None = None, uploads: Sequence[Upload] | None = None
) -> Ballot:
    """What the server sends the member; the honest one if nothing is given."""
    taken = [uploaded(client) for client in IN_ROLL] if uploads is None else uploads
    return Ballot(
        announcement=announced(header()) if announcement is None else announcement,
        roll=rolled([entry(upload) for upload in taken]) if roll is None else roll,
        deliveries=tuple(Delivery(share_digests=upload.share_digests, box=upload.shares[0]) for upload in taken),
    )


@contextmanager
def member() -> Iterator[Member]:
    """The member, with an empty record in memory."""
    record = MemberRecord()
    try:
        yield Member(identities()[MEMBER], roster=roster(), policy=policy(), record=record)
    finally:
        record.close()
