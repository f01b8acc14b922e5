"""Identities and the roster."""

from __future__ import annotations

from typing import Any

import pytest

from secure_fu.crypto import Identity, Party, Role, Roster, SealingKey, SigningKey, seal
from secure_fu.errors import ArgumentError, RosterError, SealError, SignatureError, WireError

ANNA = Identity.generate("anna", Role.CLIENT)
BERT = Identity.generate("bert", Role.CLIENT)
HUB = Identity.generate("hub", Role.SERVER)
VAULT = Identity.generate("vault", Role.KEY_HOLDER)
ROSTER = Roster.of([HUB.party, BERT.party, VAULT.party, ANNA.party])


def test_a_signature_verifies_for_its_signer_role_domain_and_message_only() -> None:
    signature = ANNA.sign("upload", b"bytes")
    assert len(signature) == 64
    ROSTER.verify("anna", Role.CLIENT, "upload", b"bytes", signature)
    with pytest.raises(SignatureError):
        ROSTER.verify("bert", Role.CLIENT, "upload", b"bytes", signature)
    with pytest.raises(SignatureError):
        ROSTER.verify("anna", Role.CLIENT, "roll", b"bytes", signature)
    with pytest.raises(SignatureError):
        ROSTER.verify("anna", Role.CLIENT, "upload", b"byte", signature)
    with pytest.raises(RosterError, match="as client, not as server"):
        ROSTER.verify("anna", Role.SERVER, "upload", b"bytes", signature)
    with pytest.raises(RosterError, match="not in the roster"):
        ROSTER.verify("carl", Role.CLIENT, "upload", b"bytes", signature)


def test_domain_and_message_cannot_be_shifted_into_each_other() -> None:
    signature = ANNA.sign("a", b"b\0c")
    with pytest.raises(SignatureError):
        ROSTER.verify("anna", Role.CLIENT, "ab", b"\0c", signature)


@pytest.mark.parametrize("domain", ["", "a\0b", "ä"])
def test_domains_that_are_refused(domain: str) -> None:
    with pytest.raises(ArgumentError, match="domain"):
        ANNA.sign(domain, b"")
    with pytest.raises(ArgumentError, match="domain"):
        ROSTER.verify("anna", Role.CLIENT, domain, b"", bytes(64))


def test_every_changed_bit_of_a_signature_is_refused() -> None:
    signature = ANNA.sign("upload", b"bytes")
    for position in range(0, 512, 7):
        changed = bytearray(signature)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(SignatureError):
            ROSTER.verify("anna", Role.CLIENT, "upload", b"bytes", bytes(changed))


def test_roster_looks_up_and_lists() -> None:
    assert ROSTER.party("hub") == HUB.party
    assert ROSTER.names(Role.CLIENT) == ("anna", "bert")
    assert ROSTER.names(Role.KEY_HOLDER) == ("vault",)
    assert Roster.of([HUB.party]).names(Role.CLIENT) == ()
    with pytest.raises(RosterError):
        ROSTER.party("ANNA")


def test_roster_digest_names_its_parties() -> None:
    again = Roster.decode(ROSTER.encode())
    assert again == ROSTER
    assert again.digest == ROSTER.digest
    assert len(ROSTER.digest) == 32
    assert Roster.of([ANNA.party, BERT.party, HUB.party]).digest != ROSTER.digest
    renamed = Party(
        name="anna2", role=Role.CLIENT, verify_key=ANNA.party.verify_key, sealing_key=ANNA.party.sealing_key
    )
    assert Roster.of([renamed, BERT.party, HUB.party, VAULT.party]).digest != ROSTER.digest


def changed(party: Party, **changes: Any) -> Party:
    return Party(**{**vars(party), **changes})


def test_rosters_that_are_refused() -> None:
    with pytest.raises(ArgumentError, match="sorted by name"):
        Roster((BERT.party, ANNA.party))
    with pytest.raises(ArgumentError, match="at least one"):
        Roster(())
    with pytest.raises(ArgumentError, match="tuple of Party"):
        Roster([ANNA.party])  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="two parties with name anna"):
        Roster.of([ANNA.party, changed(BERT.party, name="anna")])
    with pytest.raises(ArgumentError, match="two parties with verify_key"):
        Roster.of([ANNA.party, changed(BERT.party, verify_key=ANNA.party.verify_key)])
    with pytest.raises(ArgumentError, match="two parties with sealing_key"):
        Roster.of([ANNA.party, changed(BERT.party, sealing_key=ANNA.party.sealing_key)])
    with pytest.raises(WireError):
        Roster.decode(ROSTER.encode() + b"\0")


@pytest.mark.parametrize("name", ["", "a" * 65, "a b", "ä", "a/b", "a\n", "a\0"])
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(ArgumentError, match="name"):
        Identity.generate(name, Role.CLIENT)


@pytest.mark.parametrize(
    "changes",
    [
        {"role": "client"},
        {"verify_key": bytes(31)},
        {"sealing_key": bytes(1215)},
        {"sealing_key": b"\xff" * 1216},  # coefficients that are not below ML-KEM's q
    ],
    ids=str,
)
def test_parties_that_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=next(iter(changes))):
        changed(ANNA.party, **changes)


def test_names_of_the_full_length_and_alphabet_are_accepted() -> None:
    assert Identity.generate("Az09._-" + "x" * 57, Role.CLIENT).name == "Az09._-" + "x" * 57


def test_secret_bytes_give_the_same_key_and_must_have_the_right_length() -> None:
    assert SigningKey.from_secret_bytes(bytes(32)).public_bytes == SigningKey.from_secret_bytes(bytes(32)).public_bytes
    assert SigningKey.generate().public_bytes != SigningKey.generate().public_bytes
    assert SealingKey.generate().public_bytes != SealingKey.generate().public_bytes
    with pytest.raises(ArgumentError, match="secret is '31 bytes'"):
        SigningKey.from_secret_bytes(bytes(31))
    with pytest.raises(ArgumentError, match="secret is '95 bytes'"):
        SealingKey.from_secret_bytes(bytes(95))


def test_an_identity_opens_what_is_sealed_to_it() -> None:
    box = seal(ANNA.party.sealing_key, b"for anna", associated_data=b"round 1")
    assert ANNA.unseal(box, associated_data=b"round 1") == b"for anna"
    with pytest.raises(SealError):
        BERT.unseal(box, associated_data=b"round 1")
    with pytest.raises(SealError):
        ANNA.unseal(box, associated_data=b"round 2")
