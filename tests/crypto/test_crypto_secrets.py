"""Secret objects do not print, pickle or copy themselves, and public objects hold none."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from secure_fu.crypto import (
    Identity,
    InsecureDeterministicRandomness,
    Role,
    SealingKey,
    SecureStream,
    SigningKey,
    scheme,
)
from secure_fu.crypto._secret import Secret

SIGNING_SECRET = bytes(range(64, 96))
SEALING_SECRET = bytes(range(100, 196))
SEED = 123456789123456789


def identity() -> Identity:
    return Identity(
        "anna",
        Role.CLIENT,
        signing_key=SigningKey.from_secret_bytes(SIGNING_SECRET),
        sealing_key=SealingKey.from_secret_bytes(SEALING_SECRET),
    )


SECRETS: dict[str, Callable[[], Secret]] = {
    "SigningKey": lambda: SigningKey.from_secret_bytes(SIGNING_SECRET),
    "SealingKey": lambda: SealingKey.from_secret_bytes(SEALING_SECRET),
    "Identity": identity,
    "SecureStream": SecureStream,
    "InsecureDeterministicRandomness": lambda: InsecureDeterministicRandomness(SEED),
    "_InsecureDeterministicStream": lambda: InsecureDeterministicRandomness(SEED).stream("x"),
    "BfvOpeningKey": lambda: scheme("bfv").generate_key(),
    "PlainOpeningKey": lambda: scheme("plain").generate_key(),
}


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_do_not_print(name: str) -> None:
    secret: Any = SECRETS[name]()
    assert isinstance(secret, Secret)
    for text in (repr(secret), str(secret), f"{secret}", f"{secret!r}", "%s" % secret, repr([secret])):  # noqa: UP031
        assert text.strip("[]") == f"<{name}: redacted>"


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_do_not_pickle_or_copy(name: str) -> None:
    secret: Any = SECRETS[name]()
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="secret"):
            pickle.dumps(secret, protocol)
    for duplicate in (copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="secret"):
            duplicate(secret)
    with pytest.raises(TypeError, match="secret"):
        pickle.dumps({"deep": [secret]})
    with pytest.raises(TypeError, match="secret"):
        secret.__getstate__()
    assert not hasattr(secret, "__dict__")  # nothing for vars() to hand out


def walk(root: object) -> Iterator[object]:
    """Everything that can be reached from ``root`` without passing through modules, types or functions."""
    seen: set[int] = set()
    queue = [root]
    while queue:
        item = queue.pop()
        if id(item) in seen or isinstance(item, type) or type(item).__name__ in ("module", "function", "frame"):
            continue
        seen.add(id(item))
        yield item
        queue.extend(gc.get_referents(item))
        queue.extend(
            getattr(item, slot)
            for kind in type(item).__mro__
            for slot in getattr(kind, "__slots__", ())
            if hasattr(item, slot)
        )


def test_what_a_client_and_a_server_hold_has_no_opening_key() -> None:
    bfv = scheme("bfv")
    key = bfv.generate_key()
    public = bfv.load_public_key(key.public_bytes)
    accumulator = bfv.accumulator(public, 5000)
    accumulator.add(bfv.encrypt(public, np.arange(5000, dtype=np.int64)))
    contexts: list[Any] = []
    for root in (public, accumulator):
        for item in walk(root):
            assert not isinstance(item, Secret)
            if type(item).__name__ == "Context" and hasattr(item, "has_secret_key"):
                contexts.append(item)
    assert contexts  # the walk does get to TenSEAL
    for context in contexts:
        assert not context.has_secret_key()
        assert not context.has_relin_keys()
        assert not context.has_galois_keys()
        with pytest.raises(ValueError, match="decryption"):
            context.decryptor()


def test_the_walk_finds_a_planted_secret() -> None:
    """The oracle of the test above: it does see the key-holder's context."""
    found: list[Any] = [item for item in walk(scheme("bfv").generate_key()) if type(item).__name__ == "Context"]
    assert any(context.has_secret_key() for context in found)


def test_a_used_key_has_forgotten_its_secret() -> None:
    bfv = scheme("bfv")
    key = bfv.generate_key()
    public = bfv.load_public_key(key.public_bytes)
    accumulator = bfv.accumulator(public, 3)
    accumulator.add(bfv.encrypt(public, np.ones(3, dtype=np.int64)))
    bfv.open(key, accumulator.total(), length=3, bound=1)
    assert not [item for item in walk(key) if type(item).__name__ == "Context"]


def test_public_bytes_hold_no_secret_key() -> None:
    """The public bytes are far smaller than they would be with the secret key, and load as public."""
    key = scheme("bfv").generate_key()
    assert len(key.public_bytes) < 110_000
    scheme("bfv").load_public_key(key.public_bytes)
