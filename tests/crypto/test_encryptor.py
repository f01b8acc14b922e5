"""Encryption in worker processes: the same sums, refusals that name what is wrong, no worker left behind."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from secure_fu.crypto import EncryptionPool, InlineEncryptor, scheme
from secure_fu.errors import ArgumentError, CapacityError, CryptoError


def test_uploads_of_workers_and_of_this_process_add_up() -> None:
    bfv = scheme("bfv")
    key = bfv.generate_key()
    vectors = [np.random.default_rng(seed).integers(-(10**6), 10**6, 5000) for seed in range(5)]
    pool = EncryptionPool("bfv", 2)
    try:
        waiting = [pool.submit(key.public_bytes, vector) for vector in vectors[:4]]
        waiting.append(InlineEncryptor(bfv).submit(key.public_bytes, vectors[4]))
        accumulator = bfv.accumulator(bfv.load_public_key(key.public_bytes), 5000)
        for ciphertext in waiting:
            accumulator.add(ciphertext())
    finally:
        pool.close()
    opened = bfv.open(key, accumulator.total(), length=5000, bound=5 * 10**6)
    np.testing.assert_array_equal(opened, np.sum(vectors, axis=0))


def test_a_refusal_of_the_worker_reaches_the_caller_and_the_worker_goes_on() -> None:
    bfv = scheme("bfv")
    key = bfv.generate_key()
    pool = EncryptionPool("bfv", 1)
    try:
        with pytest.raises(CryptoError):
            pool.submit(b"no key", np.ones(3, dtype=np.int64))()
        with pytest.raises(CryptoError, match="capacity"):
            pool.submit(key.public_bytes, np.full(3, bfv.capacity + 1))()
        assert pool.submit(key.public_bytes, np.ones(3, dtype=np.int64))()
    finally:
        pool.close()


def test_a_worker_that_dies_is_an_error_and_not_a_hang() -> None:
    key = scheme("bfv").generate_key()
    pool = EncryptionPool("bfv", 1)
    try:
        assert pool.submit(key.public_bytes, np.ones(3, dtype=np.int64))()
        (worker,) = pool._workers
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
        with pytest.raises(CryptoError, match="ended early"):
            pool.submit(key.public_bytes, np.ones(3, dtype=np.int64))()
        assert pool.submit(key.public_bytes, np.ones(3, dtype=np.int64))()  # by a new one
    finally:
        pool.close()


def test_close_ends_the_workers_and_can_be_repeated() -> None:
    key = scheme("bfv").generate_key()
    pool = EncryptionPool("bfv", 1)
    pool.submit(key.public_bytes, np.ones(3, dtype=np.int64))()
    (worker,) = pool._workers
    pool.close()
    pool.close()
    assert worker.returncode == 0


def test_at_least_one_process() -> None:
    with pytest.raises(ArgumentError, match="processes"):
        EncryptionPool("bfv", 0)


def test_the_inline_encryptor_refuses_at_once() -> None:
    bfv = scheme("bfv")
    with pytest.raises(CapacityError):
        InlineEncryptor(bfv).submit(bfv.generate_key().public_bytes, np.full(3, bfv.capacity + 1))
