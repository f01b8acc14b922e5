"""The worker process of :class:`secure_fu.crypto.EncryptionPool`; its argument is the name of a scheme."""

from __future__ import annotations

import sys

from secure_fu.crypto.encryptor import serve_encryption

__all__: list[str] = []

if __name__ == "__main__":
    serve_encryption(sys.argv[1], sys.stdin.buffer, sys.stdout.buffer)
