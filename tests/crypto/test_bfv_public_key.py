"""Scheme bfv: what loads as a public key, and what is refused before SEAL gets to see it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tenseal as ts
import zstandard

from secure_fu.crypto._packing import unpack
from secure_fu.crypto._tenseal import _fields
from secure_fu.crypto.bfv import Bfv, BfvOpeningKey, BfvPublicKey, _PublicKeyMessage, _Upload
from secure_fu.crypto.wire import decode, encode
from secure_fu.errors import CiphertextError, SecretKeyExposedError, WireError

N = 4096
T = 1073692673
BFV = Bfv()


def fresh() -> tuple[BfvOpeningKey, BfvPublicKey]:
    key = BFV.generate_key()
    return key, BFV.load_public_key(key.public_bytes)


def context_of(**changes: Any) -> Any:
    parameters: dict[str, Any] = {
        "poly_modulus_degree": N,
        "plain_modulus": T,
        "coeff_mod_bit_sizes": [54, 36],
        "n_threads": 1,
    }
    return ts.context(ts.SCHEME_TYPE.BFV, **{**parameters, **changes})


def wrapped(context: bytes, parameter_set: str = BFV.parameter_set) -> bytes:
    return encode(_PublicKeyMessage(parameter_set=parameter_set, context=context))


def only_public(context: Any) -> bytes:
    data: bytes = context.serialize(True, False, False, False)
    return data


def test_a_context_with_a_public_key_alone_is_accepted() -> None:
    public = BFV.load_public_key(wrapped(only_public(context_of())))
    BFV.encrypt(public, np.ones(3, dtype=np.int64))


@pytest.mark.parametrize("public_key", [True, False])
@pytest.mark.parametrize(("secret", "galois", "relin"), [(1, 0, 0), (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1)])
def test_a_context_that_holds_more_is_refused(secret: int, galois: int, relin: int, public_key: bool) -> None:
    context = context_of()
    if galois:
        context.generate_galois_keys()
    data = context.serialize(public_key, bool(secret), bool(galois), bool(relin))
    with pytest.raises(SecretKeyExposedError):
        BFV.load_public_key(wrapped(data))


def test_a_context_of_this_scheme_has_the_keys_that_are_refused() -> None:
    """Nothing but what we leave out keeps them from travelling."""
    key, _ = fresh()
    context = key._secret
    assert context.has_secret_key()
    assert context.has_relin_keys()
    with pytest.raises(SecretKeyExposedError):
        BFV.load_public_key(wrapped(context.serialize(True, True, False, False)))


@pytest.mark.parametrize(
    "changes",
    [
        {"plain_modulus": 1032193},
        {"coeff_mod_bit_sizes": [54, 37]},
        {"coeff_mod_bit_sizes": [36, 54]},
        {"coeff_mod_bit_sizes": [36, 36, 37]},
        {"poly_modulus_degree": 8192},
    ],
    ids=str,
)
def test_contexts_of_other_parameters_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(CiphertextError):
        BFV.load_public_key(wrapped(only_public(context_of(**changes))))


def test_a_public_key_of_other_parameters_inside_our_container_is_refused() -> None:
    foreign = only_public(context_of(plain_modulus=1032193))
    ours = only_public(context_of())
    parameters = ours[: 2 + ours[1]]
    with pytest.raises(CiphertextError, match="not one of this parameter set"):
        BFV.load_public_key(wrapped(parameters + foreign[2 + foreign[1] :]))


def test_public_keys_that_are_refused() -> None:
    data = only_public(context_of())
    ckks = ts.context(ts.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40, 60], n_threads=1)
    symmetric = context_of(encryption_type=ts.ENCRYPTION_TYPE.SYMMETRIC)
    for bad in (
        b"",
        b"garbage",
        bytes(1000),
        data[:-1],
        data + b"\0",
        data + data,
        context_of().serialize(False, False, False, False),
        only_public(ckks),
        symmetric.serialize(False, False, False, False),
    ):
        with pytest.raises(CiphertextError):
            BFV.load_public_key(wrapped(bad))
    with pytest.raises(CiphertextError, match="bfv-8192"):
        BFV.load_public_key(wrapped(data, "bfv-8192"))
    with pytest.raises(WireError):
        BFV.load_public_key(data)
    with pytest.raises(WireError):
        BFV.load_public_key(context_of().serialize(True, True, False, False))


def public_key_content() -> bytes:
    """What SEAL writes for a public key, behind its header of 16 bytes, decompressed."""
    seal_object = dict(_fields(dict(_fields(only_public(context_of())))[2]))[1]
    return zstandard.decompress(seal_object[16:])


def with_public_key(content: bytes, *, compressed: bool = True) -> bytes:
    tenseal = BFV._tenseal
    seal_object = tenseal._seal_object(zstandard.compress(content) if compressed else content)
    return wrapped(tenseal._container(seal_object))


def test_public_keys_that_seal_must_not_see() -> None:
    """Each of them is of a kind that aborts SEAL, makes it allocate, or is simply wrong."""
    content = public_key_content()
    BFV.load_public_key(with_public_key(content))
    past_the_modulus = content[:97] + b"\xff" * 8 + content[105:]
    bomb = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(10**8))
    declared = b"\x28\xb5\x2f\xfd\xe0" + (2**60).to_bytes(8, "little") + bytes(40)
    altered = [
        *(content[:end] for end in (0, 1, 40, 80, 97, 98, len(content) - 1)),
        *(content[:at] + content[at + 5 :] + bytes(5) for at in (0, 32, 78, 90)),
        *(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :] for at in range(97)),
        content + b"\0",
    ]
    for bad in altered:
        with pytest.raises(CiphertextError, match="not one of this parameter set"):
            BFV.load_public_key(with_public_key(bad))
    for frame, fault in (
        (content, "malformed"),
        (bomb, "declares"),
        (declared, "declares"),
        (zstandard.compress(content) + b"\0", "malformed"),
        (zstandard.compress(content)[:-1], "malformed"),
    ):
        with pytest.raises(CiphertextError, match=fault):
            BFV.load_public_key(with_public_key(frame, compressed=False))
    with pytest.raises(CiphertextError, match="beyond its modulus"):
        BFV.load_public_key(with_public_key(past_the_modulus))


def test_a_refused_public_key_is_refused_again() -> None:
    """The cache of loaded keys holds no refusal, and no key under other bytes."""
    data = wrapped(context_of().serialize(True, True, False, False))
    for _ in range(2):
        with pytest.raises(SecretKeyExposedError):
            BFV.load_public_key(data)
    one, two = fresh()[1], fresh()[1]
    assert one.key_id != two.key_id


def test_keys_are_fresh() -> None:
    assert BFV.generate_key().public_bytes != BFV.generate_key().public_bytes


def test_the_public_key_cannot_decrypt() -> None:
    _, public = fresh()
    words = unpack(decode(_Upload, BFV.encrypt(public, np.ones(3, dtype=np.int64))).blocks[0])
    with pytest.raises(ValueError, match="secret_key"):
        BFV._tenseal.decrypt(public._context, words)
