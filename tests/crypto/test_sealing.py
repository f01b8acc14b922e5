"""Sealed boxes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secure_fu.crypto import SealingKey, seal
from secure_fu.errors import SealError

KEY = SealingKey.generate()
OTHER = SealingKey.generate()
OVERHEAD = 1155


@given(st.binary(max_size=2000), st.binary(max_size=100))
def test_round_trip(plaintext: bytes, associated_data: bytes) -> None:
    box = seal(KEY.public_bytes, plaintext, associated_data=associated_data)
    assert len(box) == len(plaintext) + OVERHEAD
    assert KEY.unseal(box, associated_data=associated_data) == plaintext
    with pytest.raises(SealError):
        KEY.unseal(box, associated_data=associated_data + b"\0")
    with pytest.raises(SealError):
        OTHER.unseal(box, associated_data=associated_data)


def test_boxes_of_the_same_text_differ() -> None:
    boxes = {seal(KEY.public_bytes, b"same", associated_data=b"") for _ in range(20)}
    assert len(boxes) == 20


def test_every_changed_byte_is_refused() -> None:
    box = seal(KEY.public_bytes, b"text", associated_data=b"ad")
    for position in range(len(box)):
        altered = bytearray(box)
        altered[position] ^= 0x80
        with pytest.raises(SealError):
            KEY.unseal(bytes(altered), associated_data=b"ad")


@given(st.binary(max_size=1300))
def test_garbage_is_refused_with_a_seal_error(box: bytes) -> None:
    with pytest.raises(SealError):
        KEY.unseal(box, associated_data=b"")


def test_parts_of_two_boxes_do_not_mix() -> None:
    one = seal(KEY.public_bytes, b"text", associated_data=b"ad")
    two = seal(KEY.public_bytes, b"text", associated_data=b"ad")
    for cut in (15 + 32, 15 + 32 + 1088):  # behind the ephemeral key; behind the KEM ciphertext
        with pytest.raises(SealError):
            KEY.unseal(one[:cut] + two[cut:], associated_data=b"ad")


@pytest.mark.parametrize(
    "recipient",
    [
        b"",
        bytes(1215),
        KEY.public_bytes + b"\0",
        b"\xff" * 1216,
        bytes(32) + KEY.public_bytes[32:],  # an X25519 point of small order
        KEY.public_bytes[:32] + b"\xff" * 1184,
    ],
    ids=["empty", "short", "long", "ones", "small order", "coefficients above q"],
)
def test_recipients_that_are_refused(recipient: bytes) -> None:
    with pytest.raises(SealError):
        seal(recipient, b"text", associated_data=b"")
