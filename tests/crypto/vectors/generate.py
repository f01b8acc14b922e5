"""Make the known-answer files that lie beside this one.

Imports nothing of secure_fu: every byte is put together by hand from ``struct``, ``hashlib``, ``hmac`` and the
primitives of ``cryptography``, so that the files check the package from outside. Secret keys are published ones where
that is possible: Ed25519 from RFC 8032, section 7.1 (tests 1 to 3), X25519 from RFC 7748, section 6.1 (Bob). All else
is counting bytes. ML-KEM encapsulation is randomised, so a new run makes new boxes; the rest comes out the same.

    python tests/crypto/vectors/generate.py
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

FOLDER = Path(__file__).parent

ED25519_SECRETS = [
    "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
    "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
    "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
]
BOB = "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"
X25519_SECRETS = [BOB, bytes(range(1, 33)).hex(), bytes(range(33, 65)).hex()]
KEM_SEEDS = [bytes((start + index) % 256 for index in range(64)) for start in (0, 64, 128)]


def prefixed(content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + content


def header(tag: str, version: int = 1) -> bytes:
    return b"SFU" + bytes([version, len(tag)]) + tag.encode()


def sealing_key(index: int) -> tuple[bytes, bytes]:
    """The secret bytes and the public bytes of a sealing key."""
    x25519 = bytes.fromhex(X25519_SECRETS[index])
    public = X25519PrivateKey.from_private_bytes(x25519).public_key().public_bytes_raw()
    kem = MLKEM768PrivateKey.from_seed_bytes(KEM_SEEDS[index])
    return x25519 + KEM_SEEDS[index], public + kem.public_key().public_bytes_raw()


def wire() -> dict[str, Any]:
    tag = header("kat/all")
    inner = prefixed(b"in") + struct.pack(">I", 7)
    fields = [
        struct.pack(">I", 4294967295),
        struct.pack(">Q", 2**63 + 1),
        struct.pack(">d", -0.1),
        prefixed("Zürich".encode()),
        prefixed(b"\x00\x01\xff"),
        bytes(range(8)),
        prefixed(b"key-holder"),
        inner,
        struct.pack(">I", 2) + prefixed(b"a") + prefixed(b""),
        struct.pack(">I", 1) + inner,
    ]
    good = tag + b"".join(fields)

    def changed(index: int, content: bytes) -> str:
        return (tag + b"".join([*fields[:index], content, *fields[index + 1 :]])).hex()

    bad = [
        ("no magic", (b"XFU" + good[3:]).hex()),
        ("version 0", (header("kat/all", 0) + good[len(tag) :]).hex()),
        ("version 2", (header("kat/all", 2) + good[len(tag) :]).hex()),
        ("another tag", (header("kat/alk") + good[len(tag) :]).hex()),
        ("a longer tag", (header("kat/all2") + good[len(tag) :]).hex()),
        ("empty", ""),
        ("header only", tag.hex()),
        ("one byte short", good[:-1].hex()),
        ("one byte left over", (good + b"\0").hex()),
        ("infinite float", changed(2, struct.pack(">d", float("inf")))),
        ("not a number", changed(2, struct.pack(">d", float("nan")))),
        ("negative zero", changed(2, struct.pack(">d", -0.0))),
        ("overlong UTF-8", changed(3, prefixed(b"\xc0\xaf"))),
        ("UTF-8 surrogate", changed(3, prefixed(b"\xed\xa0\x80"))),
        ("text above its maximum", changed(3, prefixed(b"x" * 17))),
        ("text of declared length 2^32 - 1", changed(3, b"\xff\xff\xff\xff" + b"x")),
        ("blob above its maximum", changed(4, prefixed(bytes(9)))),
        ("unknown choice", changed(6, prefixed(b"KEY-HOLDER"))),
        ("more items than allowed", changed(8, struct.pack(">I", 4) + prefixed(b"a") * 4)),
        ("more items than there are bytes", changed(8, struct.pack(">I", 3) + prefixed(b"a"))),
    ]
    return {
        "good": [{"name": "all kinds of field", "hex": good.hex()}],
        "bad": [{"name": name, "hex": data} for name, data in bad],
    }


def sealing() -> dict[str, Any]:
    secret, public = sealing_key(0)
    other_secret, _ = sealing_key(1)
    ephemeral = X25519PrivateKey.from_private_bytes(bytes(range(100, 132)))
    ephemeral_public = ephemeral.public_key().public_bytes_raw()
    x25519_public = X25519PrivateKey.from_private_bytes(secret[:32]).public_key()
    kem_key = MLKEM768PrivateKey.from_seed_bytes(secret[32:]).public_key()
    plaintext, associated_data = b"a share of the sum", b"round 7"

    def box(nonce: bytes = bytes(12), info_prefix: bytes = b"secure-fu/1/seal\0", swap: bool = False) -> bytes:
        kem_secret, kem_ciphertext = kem_key.encapsulate()
        secrets = [ephemeral.exchange(x25519_public), kem_secret]
        # HKDF-SHA256 of RFC 5869 with a salt of zeros, one block of output.
        extracted = hmac.digest(bytes(32), b"".join(reversed(secrets) if swap else secrets), "sha256")
        info = info_prefix + ephemeral_public + kem_ciphertext + public
        key = hmac.digest(extracted, info + b"\x01", "sha256")
        ciphertext = AESGCM(key).encrypt(nonce, plaintext, associated_data)
        return header("sealed-box") + ephemeral_public + kem_ciphertext + prefixed(ciphertext)

    good = box()
    start = len(header("sealed-box"))
    bad = [
        ("last byte of the tag flipped", good[:-1] + bytes([good[-1] ^ 1]), associated_data, secret),
        ("ephemeral key changed", good[:start] + bytes([good[start] ^ 1]) + good[start + 1 :], associated_data, secret),
        ("ephemeral key of small order", good[:start] + bytes(32) + good[start + 32 :], associated_data, secret),
        (
            "KEM ciphertext changed",
            good[: start + 40] + bytes([good[start + 40] ^ 1]) + good[start + 41 :],
            associated_data,
            secret,
        ),
        ("truncated", good[:-1], associated_data, secret),
        ("byte left over", good + b"\0", associated_data, secret),
        ("empty", b"", associated_data, secret),
        ("other associated data", good, b"round 8", secret),
        ("other recipient", good, associated_data, other_secret),
        ("other nonce", box(nonce=bytes(11) + b"\1"), associated_data, secret),
        ("other purpose", box(info_prefix=b"secure-fu/2/seal\0"), associated_data, secret),
        ("secrets swapped", box(swap=True), associated_data, secret),
    ]

    def entry(name: str, data: bytes, bound: bytes, opener: bytes) -> dict[str, str]:
        return {"name": name, "box": data.hex(), "associated_data": bound.hex(), "secret": opener.hex()}

    return {
        "public": public.hex(),
        "good": [{**entry("sealed", good, associated_data, secret), "plaintext": plaintext.hex()}],
        "bad": [entry(*case) for case in bad],
    }


def identity() -> dict[str, Any]:
    keys = [Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret)) for secret in ED25519_SECRETS]
    names = [("bank.A", "client"), ("server_1", "server"), ("vault-0", "key-holder")]

    def party(index: int, name: str | None = None, role: str | None = None, verify: int | None = None) -> bytes:
        verify_key = keys[index if verify is None else verify].public_key().public_bytes_raw()
        return (
            prefixed((names[index][0] if name is None else name).encode())
            + prefixed((role or names[index][1]).encode())
            + verify_key
            + sealing_key(index)[1]
        )

    def roster(*parties: bytes) -> bytes:
        return header("roster") + struct.pack(">I", len(parties)) + b"".join(parties)

    good = roster(party(0), party(1), party(2))
    message = b"header of round 3"
    signed = b"secure-fu/1/" + b"header" + b"\0" + message
    signature = keys[1].sign(signed)
    signatures = [
        ("other message", "server_1", "server", "header", message + b"!", signature),
        ("other domain", "server_1", "server", "roll", message, signature),
        ("no domain separation", "server_1", "server", "header", message, keys[1].sign(message)),
        ("other version", "server_1", "server", "header", message, keys[1].sign(b"secure-fu/2/header\0" + message)),
        ("other signer", "server_1", "server", "header", message, keys[2].sign(signed)),
        ("other role", "server_1", "client", "header", message, signature),
        ("unknown party", "server_2", "server", "header", message, signature),
        ("signature cut", "server_1", "server", "header", message, signature[:-1]),
        ("signature empty", "server_1", "server", "header", message, b""),
    ]
    rosters = [
        ("not sorted", roster(party(1), party(0), party(2))),
        ("name twice", roster(party(0), party(1, name="bank.A"))),
        ("verification key twice", roster(party(0), party(1, verify=0))),
        ("no parties", roster()),
        ("unknown role", roster(party(0, role="clients"))),
        ("empty name", roster(party(0, name=""))),
        ("name with a space", roster(party(0, name="bank A"))),
        ("name that is not ASCII", roster(party(0, name="bänk"))),
        ("name of 65 characters", roster(party(0, name="a" * 65))),
        ("sealing key with a coefficient above q", roster(party(0)[:-1184] + b"\xff" * 1184)),
        ("byte left over", good + b"\0"),
    ]
    return {
        "signing_secrets": ED25519_SECRETS,
        "sealing_secrets": [sealing_key(index)[0].hex() for index in range(3)],
        "parties": [{"name": name, "role": role} for name, role in names],
        "roster": good.hex(),
        "digest": hashlib.sha256(good).hexdigest(),
        "signature": {
            "name": "server_1",
            "role": "server",
            "domain": "header",
            "message": message.hex(),
            "signature": signature.hex(),
        },
        "bad_signatures": [
            {
                "case": case,
                "name": name,
                "role": role,
                "domain": domain,
                "message": signed_message.hex(),
                "signature": value.hex(),
            }
            for case, name, role, domain, signed_message, value in signatures
        ],
        "bad_rosters": [{"name": name, "hex": data.hex()} for name, data in rosters],
    }


def main() -> None:
    provenance = "made by generate.py in this folder, which does not import secure_fu; see its docstring"
    for name, content in {"wire": wire(), "sealing": sealing(), "identity": identity()}.items():
        text = json.dumps({"provenance": provenance, **content}, indent=1)
        (FOLDER / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
