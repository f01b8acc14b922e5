"""A thousand clients of scheme `kahe` and one server process that reads their uploads one by one: seconds and memory.

The uploads are real ones, of distinct identities and keys. Worker processes write them to a temporary folder
(2.3 MB each for a million parameters; TMPDIR says where), before anything is timed.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from harness import spread, timed
from numpy.typing import NDArray
from secure_sum_parties import TERMS, Federation, header_in, warm_up

from secure_fu.crypto import decode
from secure_fu.protocol import CommitteeServer
from secure_fu.protocol.header import grid_of
from secure_fu.protocol.messages import Invitation

__all__ = ["cohort"]

SUM_BITS = 16
_WORKERS = 2


def cohort(sizes: Sequence[int], *, length: int, minimum: int) -> dict[str, object]:
    """One header for as many clients as the largest size, and for each size a round in which so many upload.

    Returns:
        for each size, what it took server and members, and the server's memory.

    Raises:
        SystemExit: a released sum is not the plain one.
    """
    clients = max(sizes)
    federation = Federation(clients, minimum=minimum)
    with tempfile.TemporaryDirectory(prefix="secure-sum-") as name:
        folder = Path(name)
        invitation = federation.invitation(federation.server(folder, sum_bits=SUM_BITS), length=length)
        (folder / "invitation").write_bytes(invitation)
        taken, _ = timed(_in_processes, clients, minimum, sizes, folder)
        figures: dict[str, object] = {"making the uploads, s": taken}
        for size in sizes:
            figures[f"{size} uploads"] = _round(federation, size, minimum, folder)
        return figures


def _in_processes(clients: int, minimum: int, sizes: Sequence[int], folder: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_write_uploads, args=(clients, minimum, tuple(sizes), worker, folder))
        for worker in range(_WORKERS)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        if worker.exitcode:
            raise SystemExit("a process that makes uploads failed")


def _write_uploads(clients: int, minimum: int, sizes: tuple[int, ...], worker: int, folder: Path) -> None:
    """Write every so many-th upload, and the sums of the first `size` vectors among these."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[worker % len(os.sched_getaffinity(0))]})
    federation = Federation(clients, minimum=minimum)
    invitation = decode(Invitation, (folder / "invitation").read_bytes())
    header = header_in(invitation)
    largest = ((1 << (SUM_BITS - 1)) - 1) // clients
    total = np.zeros(header.length, dtype=np.int64)
    for number in range(clients):
        if number in sizes:
            np.save(_sum_file(folder, worker, number), total)
        if number % _WORKERS == worker:
            values = np.random.default_rng(number).integers(-largest, largest, header.length, endpoint=True)
            total += values
            _upload_file(folder, number).write_bytes(
                federation.upload(federation.clients[number], invitation, header, values)
            )
    np.save(_sum_file(folder, worker, clients), total)


def _round(federation: Federation, size: int, minimum: int, folder: Path) -> dict[str, object]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    server = context.Process(target=_serve, args=(len(federation.clients), size, minimum, folder, there))
    server.start()
    there.close()
    try:
        figures, votes, answers, ballot_bytes = _committee(federation, here)
    except EOFError:
        raise SystemExit("the server's process failed") from None
    finally:
        server.join()
    invitation = decode(Invitation, (folder / "invitation").read_bytes())
    expected = grid_of(header_in(invitation)).decode(
        _plain_sum(folder, size), seed=invitation.announcement.header_digest
    )
    if not np.array_equal(np.load(folder / f"released-{size}.npy"), expected):
        raise SystemExit("the released sum is wrong")
    figures["a member: vote and answer, s"] = spread([a + b for a, b in zip(votes, answers, strict=True)])
    figures["a member: answer, ms"] = spread(answers, scale=1e3)
    figures["ballot to a member, bytes"] = ballot_bytes
    return figures


def _committee(federation: Federation, server: Connection) -> tuple[dict[str, object], list[float], list[float], int]:
    """Play the members; each on its own, as if it were alone."""
    members = federation.committee()
    votes, answers, ballot_bytes = [], [], 0
    for member in members:
        ballot = server.recv_bytes()
        ballot_bytes = len(ballot)
        taken, vote = timed(member.vote, ballot)
        votes.append(taken)
        server.send_bytes(vote)
    quorum = server.recv_bytes()
    for member in members:
        taken, answer = timed(member.answer, quorum)
        answers.append(taken)
        server.send_bytes(answer)
    return server.recv(), votes, answers, ballot_bytes


def _serve(clients: int, size: int, minimum: int, folder: Path, committee: Connection) -> None:
    """The server's process: it has the roster, and of each upload no more than it keeps itself."""
    federation = Federation(clients, minimum=minimum)
    own = folder / f"server-{size}"
    own.mkdir()
    server = federation.server(own, sum_bits=SUM_BITS)
    _announce(federation, server, folder)
    warm_up()
    memory = _Memory()
    started = time.perf_counter()
    receiving = [timed(server.receive, _upload_file(folder, number).read_bytes())[0] for number in range(size)]
    wall = time.perf_counter() - started
    after_uploads = memory.peak_above_start()
    spent = {"close": timed(server.close)[0], "ballots": 0.0, "votes": 0.0, "answers": 0.0}
    for name in federation.members:
        taken, ballot = timed(server.ballot, name)
        spent["ballots"] += taken
        committee.send_bytes(ballot)
        del ballot
        spent["votes"] += timed(server.receive_vote, committee.recv_bytes())[0]
    committee.send_bytes(server.quorum())
    for _ in range(TERMS.members):
        spent["answers"] += timed(server.receive_answer, committee.recv_bytes())[0]
    spent["release"], released = timed(server.release)
    memory_at_all = memory.peak_above_start()
    np.save(folder / f"released-{size}.npy", released.values)
    figures: dict[str, object] = {
        "server: receive one upload (decode, verify, fold), ms": spread(receiving, scale=1e3),
        "server: receive all, s": sum(receiving),
        "server: receive all, with reading the files, s": wall,
        **{f"server: {what}, s": seconds for what, seconds in spent.items()},
        "server: all but reading the files, s": sum(receiving) + sum(spent.values()),
        "server: peak memory above start after the uploads, MB": after_uploads,
        "server: peak memory above start at the end, MB": memory_at_all,
    }
    committee.send(figures)
    committee.close()


def _announce(federation: Federation, server: CommitteeServer, folder: Path) -> None:
    """Announce the round that the clients answered; nothing that was only needed to check this stays in memory."""
    answered = decode(Invitation, (folder / "invitation").read_bytes())
    announced = decode(Invitation, federation.invitation(server, length=header_in(answered).length))
    if announced.announcement != answered.announcement:
        raise SystemExit("the server's header is not the one that the clients answered")


class _Memory:
    """This process's peak of resident memory, from now on. Linux only."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
        self._start = self._field("VmRSS")

    def peak_above_start(self) -> float:
        """In MB."""
        return (self._field("VmHWM") - self._start) / 1e6

    @staticmethod
    def _field(name: str) -> int:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith(name + ":"):
                return 1024 * int(line.split()[1])
        raise SystemExit(f"/proc/self/status has no {name}")


def _upload_file(folder: Path, number: int) -> Path:
    return folder / f"upload-{number:04}"


def _sum_file(folder: Path, worker: int, size: int) -> Path:
    return folder / f"sum-{worker}-{size}.npy"


def _plain_sum(folder: Path, size: int) -> NDArray[np.int64]:
    """The sum of what the first `size` clients encrypted."""
    total: NDArray[np.int64] = np.load(_sum_file(folder, 0, size))
    for worker in range(1, _WORKERS):
        total += np.load(_sum_file(folder, worker, size))
    return total
