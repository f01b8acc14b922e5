"""Shadow runs in processes of their own, which are told what to run over a pipe and answer with models."""

from __future__ import annotations

import json
import os
import queue
import struct
import subprocess
import sys
import threading
import traceback
from collections.abc import Generator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from secure_fu import errors
from secure_fu.auditor.shadow.cast import ShadowCast, Targets
from secure_fu.auditor.shadow.one_run import OneRun, Runner
from secure_fu.config_file import from_dict
from secure_fu.errors import ArgumentError, SecureFUError

__all__ = ["run_in_processes", "serve_runs"]

_LENGTH: Final = struct.Struct("<Q")
_OF_RUN: Final = ("before", "retrained")
_AFTER: Final = "after/"


def run_in_processes(
    cast: ShadowCast, targets: Targets, parts: NDArray[np.int8], *, seed: int, processes: int
) -> Generator[tuple[int, OneRun]]:
    """Runs as they end, with their numbers. When the iterator is closed, or fails, the processes are ended.

    Should this process be killed, each of them ends after the run that it is at.

    Args:
        cast: made of a configuration.
        parts: shape (runs, u).
        processes: at least 1.

    Raises:
        ArgumentError: the cast is not as a configuration made it.
        SecureFUError: what a run raised, or a process ended early.
    """
    setup = _setup(cast, targets, seed)
    left = iter(enumerate(parts.tolist()))
    lock = threading.Lock()
    ended: queue.Queue[tuple[dict[str, Any], bytes] | None] = queue.Queue()
    workers = [_start() for _ in range(processes)]

    def drive(worker: subprocess.Popen[bytes]) -> None:
        try:
            requests, answers = worker.stdin, worker.stdout
            if requests is None or answers is None:
                raise EOFError
            _write(requests, setup)
            while True:
                with lock:
                    job = next(left, None)
                if job is None:
                    return
                _write(requests, json.dumps(job).encode())
                head = json.loads(_read(answers))
                ended.put((head, _read(answers)))
        except BaseException:  # whatever it was, somebody waits for an answer
            ended.put(None)

    threads = [threading.Thread(target=drive, args=(worker,), daemon=True) for worker in workers]
    try:
        for thread in threads:
            thread.start()
        for _ in range(len(parts)):
            answer = ended.get()
            if answer is None:
                raise SecureFUError("a process of shadow runs ended early; there may be too little memory for so many")
            head, body = answer
            if "error" in head:
                raise _error(head["error"], head["message"])
            yield head["number"], _unpacked(head, body)
    finally:
        for worker in workers:
            worker.kill()
        for thread in threads:
            if thread.is_alive():
                thread.join()
        for worker in workers:
            worker.wait()
            for pipe in (worker.stdin, worker.stdout):
                if pipe is not None:
                    pipe.close()


def serve_runs(requests: IO[bytes], answers: IO[bytes]) -> None:
    """The life of a worker: a setup, then runs, until the pipe closes."""
    runner: Runner | None = None
    try:
        setup = json.loads(_read(requests))
        while True:
            number, row = json.loads(_read(requests))
            head: dict[str, Any] = {"number": number}
            body = b""
            try:
                if runner is None:
                    runner = Runner(*_cast_of(setup), seed=setup["seed"])
                run = runner.run(number, np.array(row, dtype=np.int8))
                head |= {"refused": dict(run.refused), "fullest": run.fullest}
                tensors = {"before": run.before, "retrained": run.retrained}
                tensors |= {f"{_AFTER}{name}": vector for name, vector in run.after.items()}
                body = save({name: np.ascontiguousarray(vector) for name, vector in tensors.items()})
            except SecureFUError as error:
                head |= {"error": type(error).__name__, "message": str(error)}
            except Exception:
                head |= {"error": "", "message": traceback.format_exc()}
            _write(answers, json.dumps(head).encode())
            _write(answers, body)
    except (EOFError, BrokenPipeError):
        return


def _setup(cast: ShadowCast, targets: Targets, seed: int) -> bytes:
    if cast.config is None:
        raise ArgumentError("processes", "above 0", "0, for this cast is not as a configuration made it")
    return json.dumps(
        {
            "config": asdict(cast.config),
            "data_dir": None if cast.data_dir is None else str(cast.data_dir),
            "backdoor": cast.backdoor,
            "seed": seed,
            "clients": targets.clients,
            "positions": [own.tolist() for own in targets.positions],
            "strata": targets.strata.tolist(),
        }
    ).encode()


def _cast_of(setup: dict[str, Any]) -> tuple[ShadowCast, Targets]:
    data_dir = None if setup["data_dir"] is None else Path(setup["data_dir"])
    targets = Targets(
        clients=tuple(setup["clients"]),
        positions=tuple(np.array(own, dtype=np.int64) for own in setup["positions"]),
        strata=np.array(setup["strata"], dtype=np.int64),
    )
    return ShadowCast.of(from_dict(setup["config"]), data_dir=data_dir, backdoor=setup["backdoor"]), targets


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "secure_fu.auditor.shadow.run_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # An interrupt at the terminal is for the process that started these, which then ends them.
        start_new_session=True,
    )


def _unpacked(head: dict[str, Any], body: bytes) -> OneRun:
    tensors = load(body)
    before, retrained = (tensors.pop(name) for name in _OF_RUN)
    return OneRun(
        before=before,
        retrained=retrained,
        after={name.removeprefix(_AFTER): tensors[name] for name in sorted(tensors)},
        refused=head["refused"],
        fullest=head["fullest"],
    )


def _error(name: str, message: str) -> Exception:
    """The same error again, where it is one of this package's that a message alone makes."""
    kind = getattr(errors, name, None) if name else None
    if isinstance(kind, type) and issubclass(kind, SecureFUError) and not issubclass(kind, ArgumentError):
        return kind(message)
    return SecureFUError(message) if kind is not None else RuntimeError(message)


def _write(pipe: IO[bytes], part: bytes) -> None:
    pipe.write(_LENGTH.pack(len(part)))
    pipe.write(part)
    pipe.flush()


def _read(pipe: IO[bytes]) -> bytes:
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(head)
    body = pipe.read(length)
    if len(body) < length:
        raise EOFError
    return body
