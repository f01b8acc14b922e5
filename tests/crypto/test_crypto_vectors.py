"""Known answers, good and bad, from files that were made without secure_fu (see vectors/generate.py)."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest

from secure_fu.crypto import (
    F64,
    U32,
    U64,
    Blob,
    Choice,
    Fixed,
    Identity,
    Nested,
    Role,
    Roster,
    SealingKey,
    Sequence,
    SigningKey,
    Text,
    decode,
    encode,
    message,
)
from secure_fu.errors import RosterError, SealError, SignatureError, WireError

VECTORS = Path(__file__).parent / "vectors"


def load(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((VECTORS / f"{name}.json").read_text())
    return content


WIRE, SEALING, IDENTITY = load("wire"), load("sealing"), load("identity")


class KatRole(enum.Enum):
    CLIENT = "client"
    KEY_HOLDER = "key-holder"


@message("kat/inner")
@dataclass(frozen=True, kw_only=True)
class Inner:
    name: Annotated[str, Text(16)]
    number: Annotated[int, U32]


@message("kat/all")
@dataclass(frozen=True, kw_only=True)
class AllKinds:
    small: Annotated[int, U32]
    large: Annotated[int, U64]
    real: Annotated[float, F64]
    text: Annotated[str, Text(16)]
    blob: Annotated[bytes, Blob(8)]
    fixed: Annotated[bytes, Fixed(8)]
    role: Annotated[KatRole, Choice(KatRole)]
    inner: Annotated[Inner, Nested(Inner)]
    names: Annotated[tuple[str, ...], Sequence(Text(4), 3)]
    inners: Annotated[tuple[Inner, ...], Sequence(Nested(Inner), 2)]


def test_wire_known_answer() -> None:
    inner = Inner(name="in", number=7)
    expected = AllKinds(
        small=4294967295,
        large=2**63 + 1,
        real=-0.1,
        text="Zürich",
        blob=b"\x00\x01\xff",
        fixed=bytes(range(8)),
        role=KatRole.KEY_HOLDER,
        inner=inner,
        names=("a", ""),
        inners=(inner,),
    )
    (good,) = WIRE["good"]
    assert decode(AllKinds, bytes.fromhex(good["hex"])) == expected
    assert encode(expected).hex() == good["hex"]


@pytest.mark.parametrize("case", WIRE["bad"], ids=lambda case: case["name"])
def test_wire_bad_vectors_are_refused(case: dict[str, str]) -> None:
    with pytest.raises(WireError):
        decode(AllKinds, bytes.fromhex(case["hex"]))


def test_sealed_box_known_answer() -> None:
    (good,) = SEALING["good"]
    key = SealingKey.from_secret_bytes(bytes.fromhex(good["secret"]))
    assert key.public_bytes.hex() == SEALING["public"]
    opened = key.unseal(bytes.fromhex(good["box"]), associated_data=bytes.fromhex(good["associated_data"]))
    assert opened.hex() == good["plaintext"]


@pytest.mark.parametrize("case", SEALING["bad"], ids=lambda case: case["name"])
def test_sealed_box_bad_vectors_are_refused(case: dict[str, str]) -> None:
    key = SealingKey.from_secret_bytes(bytes.fromhex(case["secret"]))
    with pytest.raises(SealError):
        key.unseal(bytes.fromhex(case["box"]), associated_data=bytes.fromhex(case["associated_data"]))


def identities() -> list[Identity]:
    return [
        Identity(
            party["name"],
            Role(party["role"]),
            signing_key=SigningKey.from_secret_bytes(bytes.fromhex(signing)),
            sealing_key=SealingKey.from_secret_bytes(bytes.fromhex(sealing)),
        )
        for party, signing, sealing in zip(
            IDENTITY["parties"], IDENTITY["signing_secrets"], IDENTITY["sealing_secrets"], strict=True
        )
    ]


def roster() -> Roster:
    return Roster.decode(bytes.fromhex(IDENTITY["roster"]))


def test_published_keys() -> None:
    # RFC 8032, section 7.1, tests 1 to 3; RFC 7748, section 6.1, Bob.
    known = [identity.party.verify_key.hex() for identity in identities()]
    assert known == [
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
    ]
    bob = identities()[0].party.sealing_key[:32]
    assert bob.hex() == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"


def test_roster_known_answer() -> None:
    made = Roster.of(identity.party for identity in reversed(identities()))
    assert made == roster()
    assert made.encode().hex() == IDENTITY["roster"]
    assert made.digest.hex() == IDENTITY["digest"]


@pytest.mark.parametrize("case", IDENTITY["bad_rosters"], ids=lambda case: case["name"])
def test_bad_rosters_are_refused(case: dict[str, str]) -> None:
    with pytest.raises(WireError):
        Roster.decode(bytes.fromhex(case["hex"]))


def verify(case: dict[str, str]) -> None:
    roster().verify(
        case["name"],
        Role(case["role"]),
        case["domain"],
        bytes.fromhex(case["message"]),
        bytes.fromhex(case["signature"]),
    )


def test_signature_known_answer() -> None:
    case = IDENTITY["signature"]
    verify(case)
    made = identities()[1].sign(case["domain"], bytes.fromhex(case["message"]))
    assert made.hex() == case["signature"]


@pytest.mark.parametrize("case", IDENTITY["bad_signatures"], ids=lambda case: case["case"])
def test_bad_signatures_are_refused(case: dict[str, str]) -> None:
    expected = RosterError if case["case"] in ("other role", "unknown party") else SignatureError
    with pytest.raises(expected):
        verify(case)
