"""What an enrolled client can send in place of its upload: nothing here is an upload that a server may accept.

A mutation takes what the attacker has and a source of choices, and returns the bytes of a message.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from upload_forge import Frame, residue_at, with_residue

from secure_fu.crypto import Identity
from secure_fu.crypto.kahe import Layout
from secure_fu.protocol.messages import MAX_CIPHERTEXT_BYTES, MAX_SHARE_BYTES, Domain

__all__ = ["MUTATIONS", "Attacker"]

GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493  # of Ed25519
LARGEST_LENGTH = 2**32 - 1


@dataclass(frozen=True, kw_only=True)
class Attacker:
    """What an enrolled client has.

    Attributes:
        frame: its own honest upload to the round.
        identity: its key.
        layout: the round's.
        others: honest uploads of other clients to the round.
        old: its own upload to an earlier round.
        strangers: names that are not in the cohort: members, the server, nobody.
        messages: encoded messages of other kinds.
    """

    frame: Frame
    identity: Identity
    layout: Layout
    others: tuple[Frame, ...]
    old: Frame
    strangers: tuple[str, ...]
    messages: tuple[bytes, ...]

    def send(self, frame: Frame) -> bytes:
        """The frame's bytes under the attacker's true signature."""
        return frame.signed(self.identity).encode()


Mutation = Callable[[Attacker, Random], bytes]


def _flipped(data: bytes, rng: Random) -> bytes:
    position = rng.randrange(len(data))
    return data[:position] + bytes([data[position] ^ 1 << rng.randrange(8)]) + data[position + 1 :]


def _other_digest(true: bytes, attacker: Attacker, rng: Random) -> bytes:
    frame, other = attacker.frame, rng.choice(attacker.others)
    choices = [
        rng.randbytes(32),
        bytes(32),
        bytes([255] * 32),
        _flipped(true, rng),
        true[::-1],
        hashlib.sha256(true).digest(),
        hashlib.sha256(b"").digest(),
        hashlib.sha256(frame.encode()).digest(),
        hashlib.sha256(frame.shares[0]).digest(),
        other.ciphertext_digest,
        attacker.old.header_digest,
        attacker.old.ciphertext_digest,
        frame.ciphertext_digest,
        frame.header_digest,
    ]
    return rng.choice([choice for choice in choices if choice != true])


def header_digests(attacker: Attacker, rng: Random) -> bytes:
    frame = attacker.frame
    return attacker.send(replace(frame, header_digest=_other_digest(frame.header_digest, attacker, rng)))


def ciphertext_digests(attacker: Attacker, rng: Random) -> bytes:
    frame = attacker.frame
    return attacker.send(replace(frame, ciphertext_digest=_other_digest(frame.ciphertext_digest, attacker, rng)))


def bodies_without_their_digest(attacker: Attacker, rng: Random) -> bytes:
    body = rng.choice([attacker.others[0].body, attacker.old.body, _flipped(attacker.frame.body, rng)])
    return attacker.send(replace(attacker.frame, body=body))


def names(attacker: Attacker, rng: Random) -> bytes:
    own = attacker.frame.client
    forged = [
        *(other.client for other in attacker.others),
        *(name.encode() for name in attacker.strangers),
        b"",
        own + b"\0",
        own + b" ",
        own.upper(),
        own[:-1],
        own + own,
        "сlient-4".encode(),  # its first letter is Cyrillic
        b"\xef\xbb\xbf" + own,
        b"x" * rng.randint(1, 64),
        "\U0001f511".encode() * 16,
        rng.randbytes(rng.randint(1, 64)),
        b"\xed\xa0\x80",  # a surrogate
        b"\xc0\xaf",  # overlong
        b"x" * rng.randint(65, 70_000),
    ]
    return attacker.send(replace(attacker.frame, client=rng.choice(forged)))


def bodies_cut_or_lengthened(attacker: Attacker, rng: Random) -> bytes:
    body = attacker.frame.body
    return attacker.send(
        attacker.frame.with_body(
            rng.choice(
                [
                    body[: rng.randrange(len(body))],
                    body[rng.randint(1, len(body)) :],
                    body + rng.randbytes(rng.randint(1, 64)),
                    body + bytes(rng.randint(1, 100_000)),
                    bytes(rng.randint(1, 64)) + body,
                    body * rng.randint(2, 50),
                    b"",
                ]
            )
        )
    )


def residues_at_and_above_the_primes(attacker: Attacker, rng: Random) -> bytes:
    layout, body = attacker.layout, attacker.frame.body
    primes, bits = layout.parameter_set.primes, layout.parameter_set.residue_bits
    row = rng.randrange(len(primes))
    above = [primes[row], primes[row] + 1, (1 << bits) - 1, rng.randrange(primes[row], 1 << bits)]
    for _ in range(rng.choice([1, 1, 1, 2, 30])):
        column = rng.choice([0, 1, layout.coefficients - 1, rng.randrange(layout.coefficients)])
        value = rng.choice(above)
        body = with_residue(layout, body, row, column, value)
        if residue_at(layout, body, row, column) != value:
            raise ValueError("the forged residue does not stand where it should")
    return attacker.send(attacker.frame.with_body(body))


def planes_filled_with_ones(attacker: Attacker, rng: Random) -> bytes:
    """All bits of some bytes at the end of each prime's planes: residues of all ones among them."""
    layout, body = attacker.layout, attacker.frame.body
    row = rng.randrange(len(layout.parameter_set.primes))
    for column in range(layout.coefficients):
        body = with_residue(layout, body, row, column, (1 << layout.parameter_set.residue_bits) - 1)
    return attacker.send(attacker.frame.with_body(body))


def share_counts(attacker: Attacker, rng: Random) -> bytes:
    shares = attacker.frame.shares
    count = rng.choice([number for number in range(1026) if number != len(shares)])
    piece = rng.choice([b"", b"\0", shares[0] if count < 40 else b"\1"])
    kept = tuple(shares[position] if position < len(shares) else piece for position in range(count))
    return attacker.send(replace(attacker.frame, shares=kept))


def shares_above_the_maximum(attacker: Attacker, rng: Random) -> bytes:
    position = rng.randrange(len(attacker.frame.shares))
    return attacker.send(attacker.frame.with_share(position, bytes(MAX_SHARE_BYTES + rng.choice([1, 2, 1000]))))


def shares_of_others_without_a_signature(attacker: Attacker, rng: Random) -> bytes:
    frame, other = attacker.frame, rng.choice(attacker.others)
    position = rng.randrange(len(frame.shares))
    changed = rng.choice([other.shares[position], frame.shares[position - 1], _flipped(frame.shares[position], rng)])
    return frame.with_share(position, changed).encode()


def signatures(attacker: Attacker, rng: Random) -> bytes:
    frame, identity = attacker.frame, attacker.identity
    r, s = frame.signature[:32], int.from_bytes(frame.signature[32:], "little")
    return replace(
        frame,
        signature=rng.choice(
            [
                bytes(64),
                bytes([255] * 64),
                rng.randbytes(64),
                _flipped(frame.signature, rng),
                frame.signature[32:] + frame.signature[:32],
                r + (s + GROUP_ORDER).to_bytes(32, "little"),
                b"\1" + bytes(63),  # the neutral element and zero
                attacker.old.signature,
                rng.choice(attacker.others).signature,
                frame.signed(identity, rng.choice([domain for domain in Domain if domain != Domain.UPLOAD])).signature,
                frame.with_body(b"").signed(identity).signature,
                identity.sign(Domain.UPLOAD, frame.encode()),
                identity.sign(Domain.UPLOAD, frame.body),
            ]
        ),
    ).encode()


def uploads_of_others(attacker: Attacker, rng: Random) -> bytes:
    """In another's name, under the attacker's signature; or the attacker's ciphertext in another's upload."""
    other, frame = rng.choice(attacker.others), attacker.frame
    mixed = rng.choice(
        [
            other,
            replace(frame, client=other.client),
            replace(other, body=frame.body, ciphertext_digest=frame.ciphertext_digest),
            replace(other, shares=frame.shares),
        ]
    )
    return attacker.send(mixed) if rng.random() < 0.5 else _never_true(mixed, other).encode()


def _never_true(mixed: Frame, other: Frame) -> Frame:
    return replace(other, body=mixed.body[::-1]) if mixed == other else mixed


def uploads_of_other_rounds(attacker: Attacker, rng: Random) -> bytes:
    old, frame = attacker.old, attacker.frame
    return rng.choice(
        [
            old.encode(),
            replace(old, header_digest=frame.header_digest).encode(),
            attacker.send(replace(frame, header_digest=old.header_digest)),
            replace(frame, signature=old.signature).encode(),
        ]
    )


def versions_and_tags(attacker: Attacker, rng: Random) -> bytes:
    own = b"upload"
    tag = rng.choice([b"uploae", b"Upload", b"roll", b"ballot", b"upload-statement", b"", b"x" * 255, rng.randbytes(6)])
    return attacker.send(
        rng.choice(
            [
                replace(attacker.frame, version=rng.choice([0, 2, 255, rng.randrange(2, 256)])),
                replace(attacker.frame, magic=rng.choice([b"sfu", b"", b"SF", b"SFUU", rng.randbytes(3)])),
                replace(attacker.frame, tag=bytes([len(tag)]) + tag),
                replace(attacker.frame, tag=bytes([rng.choice([0, 5, 7, 255])]) + own),
                replace(attacker.frame, tag=b"\x06" + own + own),
            ]
        )
    )


def declared_lengths(attacker: Attacker, rng: Random) -> bytes:
    frame = attacker.frame
    position = rng.randrange(len(frame.shares))
    true = {"client": len(frame.client), "body": len(frame.body), "shares": len(frame.shares)}
    true[f"share {position}"] = len(frame.shares[position])
    what = rng.choice(list(true))
    length = true[what]
    claims = [
        *(0, 1, 64, 65, 1024, 1025, MAX_SHARE_BYTES, MAX_SHARE_BYTES + 1, MAX_CIPHERTEXT_BYTES, 2**31, 2**31 - 1),
        *(LARGEST_LENGTH, LARGEST_LENGTH - 1, length - 1, length + 1, 2 * length, rng.getrandbits(32)),
    ]
    claim = rng.choice([claim for claim in claims if claim != length])
    more = {"shares": LARGEST_LENGTH} if rng.random() < 0.2 else {}
    return attacker.send(replace(frame, declared={what: claim} | ({} if what == "shares" else more)))


def nothing_behind_a_count(attacker: Attacker, rng: Random) -> bytes:
    """The message ends behind a length or a count that claims up to 4 GiB."""
    frame = replace(
        attacker.frame, shares=(), signature=b"", declared={"shares": rng.choice([1, 1024, 1025, 2**32 - 1])}
    )
    if rng.random() < 0.5:
        frame = replace(frame, body=b"", declared={"body": rng.choice([1, 2**31, 2**32 - 1])})
    return frame.encode()


def leftovers(attacker: Attacker, rng: Random) -> bytes:
    tail = rng.choice([b"\0", bytes(64), rng.randbytes(rng.randint(1, 100)), attacker.frame.encode(), bytes(50_000)])
    return attacker.send(replace(attacker.frame, tail=tail))


def cuts_and_splices(attacker: Attacker, rng: Random) -> bytes:
    message = attacker.frame.encode()
    start, piece = rng.randrange(len(message)), rng.randbytes(rng.randint(1, 40))
    changed = rng.choice(
        [
            message[:start],
            message[:start] + message[start + len(piece) :],
            message[:start] + piece + message[start:],
            message[:start] + piece + message[start + len(piece) :],
            message[start:] + message[:start],
            _flipped(message, rng),
            _flipped(message[:200], rng) + message[200:],
        ]
    )
    return changed if changed != message else message + b"\0"


def messages_of_other_kinds(attacker: Attacker, rng: Random) -> bytes:
    message = rng.choice(attacker.messages)
    return rng.choice(
        [
            message,
            b"SFU\x01\x06upload" + message,
            attacker.send(attacker.frame.with_body(message)),
            attacker.send(replace(attacker.frame, tail=message)),
            b"",
            rng.randbytes(rng.randint(0, 3000)),
            b"SFU\x01\x06upload" + rng.randbytes(rng.randint(0, 3000)),
        ]
    )


MUTATIONS: tuple[Mutation, ...] = (
    header_digests,
    ciphertext_digests,
    bodies_without_their_digest,
    names,
    bodies_cut_or_lengthened,
    residues_at_and_above_the_primes,
    planes_filled_with_ones,
    share_counts,
    shares_above_the_maximum,
    shares_of_others_without_a_signature,
    signatures,
    uploads_of_others,
    uploads_of_other_rounds,
    versions_and_tags,
    declared_lengths,
    nothing_behind_a_count,
    leftovers,
    cuts_and_splices,
    messages_of_other_kinds,
)
