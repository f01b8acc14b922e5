"""A node's Unix socket: one request and one reply a connection, each with its length before it."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Protocol

from secure_fu.deployment.logs import event
from secure_fu.errors import ArgumentError, ProtocolError

__all__ = ["MAX_MESSAGE_BYTES", "SOCKET", "Handler", "ask", "check_socket", "serve", "socket_path"]

SOCKET: Final = "node.sock"
MAX_MESSAGE_BYTES: Final = 1 << 31
_LENGTH_BYTES: Final = 4
_BLOCK: Final = 1 << 20
_TICK: Final = 0.2
_LONGEST_PATH: Final = 97  # of 103 that every system takes; a trial's name is longer by six
_CREDENTIALS: Final = struct.Struct("3i")  # process, user, group
_MASK = threading.Lock()  # a process has one umask
_LOGGER = logging.getLogger("secure_fu")


class Handler(Protocol):
    """A node, as its socket sees it."""

    def handle(self, request: bytes) -> bytes:
        """Answer a request; raises nothing."""
        ...


def socket_path(directory: Path) -> Path:
    """Where the node of a directory listens unless it is told otherwise."""
    return directory / SOCKET


def check_socket(path: Path, *, group: int | None = None) -> None:
    """Return only if :func:`serve` can listen at a path, as things are; what is there is left as it is.

    Raises:
        ArgumentError: as :func:`serve`.
    """
    _check_path(path)
    trial = path.with_name(f".{path.name}.try")
    try:
        _check_kind(trial)
        listening, _ = _listening(trial, group)
        with contextlib.closing(listening):
            trial.unlink(missing_ok=True)
    except ArgumentError as error:
        shown = str(path) if error.value == str(trial) else error.value
        raise ArgumentError(error.argument, shown, error.expected) from None


def serve(
    node: Handler,
    path: Path,
    *,
    stop: threading.Event,
    group: int | None = None,
    patience: float = 60.0,
    most_bytes: int = MAX_MESSAGE_BYTES,
    on_listening: Callable[[], None] = lambda: None,
) -> None:
    """Answer requests, one at a time, until `stop` is set.

    Formal guarantees:
        Only processes of the same user, or of `group` if one is given, and the superuser reach the socket: it has mode
        600, or 660 for the group, from its first moment, and nobody is let in before it is the group's. Where the path
        is, the node listens, but for what a kill has left there. No link is followed, and no mode but the socket's own
        is changed: the folder must be one that nobody but this user and the superuser can write. A peer that sends
        something else than one message of at most `most_bytes` gets no answer, and nothing is allocated before its
        bytes come. A peer that stalls holds up the others for `patience` at most.
    Not guaranteed:
        That a peer of the node's own user, or the superuser, stays away from its keys: whatever the modes of files say,
        it may read them, through `/proc` as well. Where the system tells (Linux), the log warns of the first such peer.
    Assumes:
        The caller has the node's records open, which one process at a time has: a socket that is found here is stale.
        Who can write the folders above the socket's own is trusted.

    Args:
        node: used in this thread alone.
        path: of the socket; what a killed node has left there is removed, and anything but a socket is not.
        group: id of a group that may ask too. A relay whose code comes from elsewhere, as a Flower app's does, should
            be another user's than the keys are, and in this group.
        stop: looked at every fifth of a second, and between requests.
        patience: seconds for a peer to send all of its request, or to take all of the reply.
        most_bytes: longest request.
        on_listening: called once the socket can be asked.

    Raises:
        ArgumentError: the path is too long for a socket, others can write its folder, something else than a socket is
            there, or it cannot be made, or given to the group.
    """
    warned = False
    _check_path(path)
    listening, made = _listening(path, group)
    with contextlib.closing(listening):
        try:
            on_listening()
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    peer, _ = listening.accept()
                    with peer:
                        if not warned and _has_our_rights(peer):
                            warned = True
                            _warn()
                        _answer(node, peer, patience, most_bytes)
        finally:
            with contextlib.suppress(OSError):
                if path.lstat().st_ino == made:  # another node may have taken the place since
                    path.unlink()


def ask(path: Path, request: bytes, timeout: float, *, most_bytes: int = MAX_MESSAGE_BYTES) -> bytes:
    """Send one request to the node that listens at a path, and wait for its reply.

    Args:
        timeout: seconds for all of it.

    Raises:
        ProtocolError: nobody listens, or no whole reply came in time; the node may have taken the request in.
    """
    ends = time.monotonic() + timeout
    try:
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as peer:
            _limit(peer, ends)
            peer.connect(str(path))
            _send(peer, request, ends)
            reply = _receive(peer, ends, most_bytes)
    except OSError as error:
        raise ProtocolError(f"no node answers at {path}: {error.strerror or type(error).__name__}") from error
    if reply is None:
        raise ProtocolError(f"the node at {path} closed the connection without a reply; its own log may say why")
    return reply


def _check_path(path: Path) -> None:
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise ArgumentError("--socket", str(path), f"a path of at most {_LONGEST_PATH} bytes")
    _check_kind(path)


def _check_kind(path: Path) -> None:
    with contextlib.suppress(OSError):  # what cannot be looked at cannot be made either
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ArgumentError("--socket", str(path), "a path where nothing but a stale socket is")


def _listening(path: Path, group: int | None) -> tuple[socket.socket, int]:
    """A socket that listens at a path, and its file's number."""
    mode = 0o600 if group is None else 0o660
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    unready, bound = path.with_name(f".{path.name}"), False
    try:
        _check_folder(path.parent)
        _check_kind(unready)
        unready.unlink(missing_ok=True)
        # The mode comes with the name: a chmod afterwards would be of whatever the name leads to by then.
        with _only(mode):
            made.bind(str(unready))
        bound = True
        if group is not None:
            os.chown(unready, -1, group, follow_symlinks=False)
        found = unready.lstat()
        if not stat.S_ISSOCK(found.st_mode) or stat.S_IMODE(found.st_mode) != mode:
            raise ArgumentError("--socket", str(path), f"a folder where a socket of mode {mode:o} stays as it is made")
        made.listen(64)  # nobody gets in before this
        made.settimeout(_TICK)
        unready.replace(path)  # so whoever finds the path can ask
        return made, found.st_ino
    except BaseException as error:
        made.close()
        if bound:
            unready.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise ArgumentError("--socket", str(path), f"a path where a socket can be made ({error.strerror})") from None


def _check_folder(folder: Path) -> None:
    """Whoever can write it could put a link, or a socket of their own, in the socket's place."""
    found = folder.stat()
    if found.st_uid not in (0, os.geteuid()) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ArgumentError(
            "--socket",
            str(folder),
            f"a folder that is this user's or the superuser's, and that nobody else can write; it has mode "
            f"{stat.S_IMODE(found.st_mode):o}",
        )


@contextlib.contextmanager
def _only(mode: int) -> Iterator[None]:
    """What is made has these rights."""
    with _MASK:
        before = os.umask(0o777 & ~mode)
        try:
            yield
        finally:
            os.umask(before)


def _has_our_rights(peer: socket.socket) -> bool:
    """Whether a peer runs as this process's own user or as the superuser; False where the system does not tell."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return False
    _, user, _ = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size))
    return user in (0, os.geteuid())


def _warn() -> None:
    _LOGGER.warning(
        "a peer at the socket runs as the node's own user, or as the superuser, and may read its keys and data; a "
        "relay of the server's code should run as another user, see --socket-group",
        extra=event("peer-may-read-the-keys", {"reason": "a relay should run as another user, see --socket-group"}),
    )


def _answer(node: Handler, peer: socket.socket, patience: float, most_bytes: int) -> None:
    try:
        request = _receive(peer, time.monotonic() + patience, most_bytes)
        if request is not None:
            reply = node.handle(request)
            del request
            _send(peer, reply, time.monotonic() + patience)
    except (OSError, ProtocolError) as error:
        _LOGGER.warning("a connection ended early: %s", str(error) or type(error).__name__)


def _limit(peer: socket.socket, ends: float) -> None:
    left = ends - time.monotonic()
    if left <= 0.0:
        raise TimeoutError("the time is over")
    peer.settimeout(left)


def _send(peer: socket.socket, message: bytes, ends: float) -> None:
    if len(message) >= 1 << (8 * _LENGTH_BYTES):
        raise ProtocolError(f"a message has {len(message)} bytes; expected fewer than 2^32")
    _limit(peer, ends)
    peer.sendall(len(message).to_bytes(_LENGTH_BYTES, "big"))
    view = memoryview(message)
    for start in range(0, len(view), _BLOCK):
        _limit(peer, ends)
        peer.sendall(view[start : start + _BLOCK])


def _receive(peer: socket.socket, ends: float, most_bytes: int) -> bytes | None:
    """One message; None where the peer closed without a byte."""
    head = _read(peer, _LENGTH_BYTES, ends)
    if not head:
        return None
    length = int.from_bytes(head, "big")
    if len(head) < _LENGTH_BYTES or length > most_bytes:
        raise ProtocolError(f"a message claims {length} bytes; expected at most {most_bytes}")
    message = _read(peer, length, ends)
    if len(message) < length:
        raise ProtocolError(f"a message ends after {len(message)} of {length} bytes")
    return message


def _read(peer: socket.socket, length: int, ends: float) -> bytes:
    parts: list[bytes] = []
    while length > 0:
        _limit(peer, ends)
        part = peer.recv(min(length, _BLOCK))
        if not part:
            break
        parts.append(part)
        length -= len(part)
    return b"".join(parts)
