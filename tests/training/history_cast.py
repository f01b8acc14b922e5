"""The cast of the tests of what a client keeps: seeded models and samples, and histories that hold them."""

from __future__ import annotations

import numpy as np

from secure_fu.training import ClientHistory

RECORDS, DIMENSION = 21, 8


def model(seed):
    return np.random.default_rng(seed).normal(size=DIMENSION).astype(np.float32)


def sample(seed, count=RECORDS):
    return np.random.default_rng(100 + seed).random(count) < 0.5


def history(folder=None, rounds=4, *, updates=False, **arguments):
    made = ClientHistory(records=RECORDS, dimension=DIMENSION, folder=folder, **arguments)
    for number in range(rounds):
        if updates:
            made.remember_update(number, model(number), model(50 + number).astype(np.float64))
        else:
            made.remember_sample(number, model(number), sample(number))
    return made


def content(of):
    """All that a history says."""
    return [
        (entry.round_number, of.archive.get(entry.digest).tolist(), as_list(entry.sampled), as_list(entry.update))
        for entry in of
    ]


def as_list(values):
    return None if values is None else values.tolist()
