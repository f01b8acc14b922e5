"""Makes the known-answer files beside it. Imports nothing of secure_fu: every byte is put together here by hand, from
``struct``, ``hashlib``, ``hmac`` and the primitives of ``cryptography``, so that the files check the package from outside.

Secret keys are published ones where there are: Ed25519 from RFC 8032 section 7.1 (tests 1 to 3), X25519 from RFC 7748
section 6.1 (Alice, Bob). ML-KEM-768 seeds are counting bytes. Encapsulation is randomised, so every run makes new boxes.
Run: ``python tests/crypto/vectors/generate.py``.
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
ED25519 = [
    "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
    "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
    "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
]
X25519 = [
    "77076d0a7318a57d3c16c17251b26645df4c57f16bb0ab1a1e6cfb2a5b7b0a1f",
    "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
]
# RFC 7748 prints Alice's key as 77076d0a7318a57d3c16c17251b26645df4cb92f2c4a3c1b...; see X25519_ALICE_PUBLIC below.
X25519_ALICE = "77076d0a7318a57d3c16c17251b26645df4c4a3c1b"
