"""Who does the work of encryption: this process at once, or worker processes while this one goes on computing.

SEAL's bindings hold the interpreter's lock, so threads gain nothing; a worker is a process of its own. It is told the
public key and the vector over a pipe, holds no other secret, and belongs to the same party as this process.
"""

from __future__ import annotations

import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from secure_fu.crypto._checks import require_int
from secure_fu.crypto._registry import scheme
from secure_fu.crypto.scheme import KeyHolderScheme
from secure_fu.errors import CryptoError

__all__ = ["EncryptionPool", "Encryptor", "InlineEncryptor", "serve_encryption"]

_LENGTH: Final = struct.Struct("<Q")
_DONE: Final = b"\x00"
_REFUSED: Final = b"\x01"


class Encryptor(Protocol):
    """Encrypts vectors under a public key."""

    def submit(self, public_key: bytes, values: NDArray[np.int64]) -> Callable[[], bytes]:
        """Start an encryption.

        Args:
            public_key: as :attr:`OpeningKey.public_bytes`.
            values: shape (d,), int64.

        Returns:
            a function that waits for the ciphertext and returns it; it raises as :meth:`KeyHolderScheme.encrypt`.
        """
        ...


class InlineEncryptor:
    """Encrypts at once, in this process."""

    def __init__(self, scheme: KeyHolderScheme) -> None:
        self._scheme = scheme

    def submit(self, public_key: bytes, values: NDArray[np.int64]) -> Callable[[], bytes]:
        """See :class:`Encryptor`."""
        ciphertext = self._scheme.encrypt(self._scheme.load_public_key(public_key), values)
        return lambda: ciphertext


class EncryptionPool:
    """Encrypts in `processes` worker processes, which end with :meth:`close` or with this process.

    Args:
        scheme_name: of the scheme, as for :func:`secure_fu.crypto.scheme`.
        processes: at least 1; more than there are cores gains nothing.
    """

    def __init__(self, scheme_name: str, processes: int) -> None:
        self._scheme_name = scheme_name
        self._processes = require_int("processes", processes, least=1, most=1024)
        self._own = threading.local()
        self._workers: list[subprocess.Popen[bytes]] = []
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="encryption")

    def __repr__(self) -> str:
        return f"EncryptionPool({self._scheme_name!r}, {self._processes})"

    @property
    def processes(self) -> int:
        """How many encryptions run at the same time."""
        return self._processes

    def submit(self, public_key: bytes, values: NDArray[np.int64]) -> Callable[[], bytes]:
        """See :class:`Encryptor`.

        The returned function raises CryptoError when the worker refuses the key or the vector, or has died.
        """
        return self._threads.submit(self._ask, public_key, values.astype("<i8").tobytes()).result

    def close(self) -> None:
        """End the workers; a second call does nothing."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        while self._workers:
            worker = self._workers.pop()
            worker.communicate()

    def _ask(self, public_key: bytes, values: bytes) -> bytes:
        worker = self._worker()
        if worker.stdin is None or worker.stdout is None:
            raise CryptoError("the encryption worker has no pipes")
        try:
            for part in (public_key, values):
                worker.stdin.write(_LENGTH.pack(len(part)))
                worker.stdin.write(part)
            worker.stdin.flush()
            status = worker.stdout.read(1)
            answer = _read_part(worker.stdout)
        except (BrokenPipeError, EOFError):
            self._own.worker = None  # the next encryption gets a new one
            values = b""  # an error keeps its frames alive, and those hold no contribution
            raise CryptoError("an encryption worker ended early") from None
        if status != _DONE:
            raise CryptoError(answer.decode())
        return answer

    def _worker(self) -> subprocess.Popen[bytes]:
        worker: subprocess.Popen[bytes] | None = getattr(self._own, "worker", None)
        if worker is None:
            worker = subprocess.Popen(  # noqa: S603 - our own interpreter, no shell, no outside input
                [sys.executable, "-P", "-m", "secure_fu.crypto.encryption_worker", self._scheme_name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # An interrupt at the terminal is for this process, which then closes the workers.
                start_new_session=True,
            )
            self._own.worker = worker
            self._workers.append(worker)
        return worker


def serve_encryption(scheme_name: str, requests: IO[bytes], answers: IO[bytes]) -> None:
    """The worker's loop: (public key, vector) in, ciphertext out, until the pipe closes."""
    own = scheme(scheme_name)
    while True:
        try:
            public_key, values = _read_part(requests), _read_part(requests)
        except EOFError:
            return
        try:
            status, answer = _DONE, own.encrypt(own.load_public_key(public_key), np.frombuffer(values, dtype="<i8"))
        except CryptoError as error:
            status, answer = _REFUSED, str(error).encode()
        answers.write(status + _LENGTH.pack(len(answer)))
        answers.write(answer)
        answers.flush()
        # The next request may be a round away.
        del public_key, values, answer


def _read_part(pipe: IO[bytes]) -> bytes:
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(head)
    body = pipe.read(length)
    if len(body) < length:
        raise EOFError
    return body
