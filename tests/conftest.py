"""What holds for all tests: one thread a worker, hypothesis without a clock, streams for parts that know no crypto."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch and numpy are imported: workers share the cores

import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import NDArray

# A slow machine must not fail a test, and CI must not fail by the luck of a draw that nobody can repeat.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

# Nodes refuse to listen in folders that a group can write, which is what some systems make of any folder.
os.umask(0o022)


class OsStream:
    """Fresh words from the operating system."""

    def words(self, count: int) -> NDArray[np.uint64]:
        return np.frombuffer(os.urandom(8 * count), dtype=np.uint64)


class SeededStream:
    """Words that depend on the seed only; keeps what it handed out."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.tape: list[NDArray[np.uint64]] = []

    def words(self, count: int) -> NDArray[np.uint64]:
        digest = hashlib.shake_256(f"{self._seed}/{len(self.tape)}".encode()).digest(8 * count)
        self.tape.append(np.frombuffer(digest, dtype="<u8").astype(np.uint64))
        return self.tape[-1]


class ScriptedStream:
    """Hands out given words in given portions, and fails on any other request."""

    def __init__(self, *portions: object) -> None:
        self._portions = [np.atleast_1d(np.array(portion, dtype=np.uint64)) for portion in portions]

    def words(self, count: int) -> NDArray[np.uint64]:
        assert self._portions, f"{count} more words wanted than scripted"
        portion = self._portions.pop(0)
        assert len(portion) == count
        return portion

    @property
    def exhausted(self) -> bool:
        return not self._portions


@pytest.fixture
def os_stream() -> OsStream:
    return OsStream()


@pytest.fixture
def seeded_stream() -> Callable[[int], SeededStream]:
    return SeededStream


@pytest.fixture
def scripted_stream() -> Callable[..., ScriptedStream]:
    return ScriptedStream
