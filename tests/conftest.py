"""What holds for all tests: one thread a worker, hypothesis without a clock, streams for parts that know no crypto.

Here noise is fresh in each run; in CI it is another for each test, and the same in each run.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterator

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


class Repeated:
    """In the place of ``os.urandom``: bytes that depend on a name and on how many were drawn under it.

    Drawn by this process alone; one that it forks draws from the system, for it would repeat them.
    """

    def __init__(self) -> None:
        self._system = os.urandom
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._drawn = {"": 0}
        self._name = ""

    def __call__(self, size: int, /) -> bytes:
        if os.getpid() != self._process:
            return self._system(size)
        with self._lock:
            name, count = self._name, self._drawn[self._name]
            self._drawn[name] += 1
        return hashlib.shake_256(f"{name}/{count}".encode()).digest(size)

    @contextlib.contextmanager
    def under(self, name: str) -> Iterator[None]:
        before = self._name
        with self._lock:
            self._drawn.setdefault(name, 0)
            self._name = name
        try:
            yield
        finally:
            self._name = before


if os.environ.get("CI"):
    os.urandom = repeated = Repeated()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(item):
        with repeated.under(item.nodeid):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(fixturedef, request):
        # What several tests share must not depend on which of them comes first.
        if fixturedef.scope == "function":
            return (yield)
        with repeated.under(f"{fixturedef.baseid}/{fixturedef.argname}/{getattr(request, 'param_index', 0)}"):
            return (yield)


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
