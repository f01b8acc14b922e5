"""The cast of these tests: a small silo, seeded words for its samples, and gradients written out."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional

from secure_fu.learning import FlatModel, PerRecordGradients, Records, mlp
from secure_fu.privacy import Unit
from secure_fu.protocol import RoundTerms
from secure_fu.training import Silo

MODEL = FlatModel(mlp(4, (5,), 3, 0))
GRADIENTS = PerRecordGradients(MODEL)
LOCAL = {"epochs": 2, "batch_size": 4, "learning_rate": 0.2}


class Words:
    """Hands out seeded words, and keeps them."""

    def __init__(self, seed=0):
        self._draw = np.random.default_rng(seed)
        self.handed_out = []

    def words(self, count):
        words = self._draw.integers(0, 2**64, count, dtype=np.uint64)
        self.handed_out.extend(words.tolist())
        return words


def records(count=12, seed=1, groups=None):
    draw = np.random.default_rng(seed)
    return Records.from_arrays(draw.normal(size=(count, 4)) * 2.0, draw.integers(0, 3, count), groups)


def silo(own=None, forgotten=None, *, name="silo", **arguments):
    made = Silo.of(name, records() if own is None else own, MODEL, GRADIENTS, **arguments)
    return made if forgotten is None else made.forgetting(forgotten)


def terms(unit=Unit.RECORD, retained_rate=None, clip_norm=0.7, number=0, **changes):
    if retained_rate is None:
        retained_rate = 1.0 if unit is Unit.CLIENT else 0.5
    return RoundTerms(
        **{
            "purpose": "train",
            "round_number": number,
            "unit": unit,
            "clip_norm": clip_norm,
            "retained_rate": retained_rate,
            "forgotten_rate": 0.0,
            "settings": LOCAL,
            "length": MODEL.dimension,
        }
        | changes
    )


def vector(seed=3):
    return np.random.default_rng(seed).normal(0.0, 0.5, MODEL.dimension).astype(np.float32)


def gradient(weights, features, label):
    """The oracle: one record's gradient by automatic differentiation of the model written out, float64."""
    flat = torch.tensor(weights.astype(np.float64), requires_grad=True)
    parts = torch.split(flat, [20, 5, 15, 3])
    hidden = torch.relu(parts[0].view(5, 4) @ features.double() + parts[1])
    logits = parts[2].view(3, 5) @ hidden + parts[3]
    functional.cross_entropy(logits[None], label[None]).backward()
    return flat.grad.numpy()


def clipped(sums, clip_norm):
    return sum((g * min(1.0, clip_norm / np.linalg.norm(g)) for g in sums), start=np.zeros(MODEL.dimension))


def drawn_again(seed, count=12, rate=0.5):
    """The sample that `Words(seed)` gives."""
    stream = Words(seed)
    stream.words(count)
    return drawn(stream, count, rate)


def drawn(stream, count, rate):
    """The secret sample, from the words that were handed out."""
    assert len(stream.handed_out) == count
    return np.array([word < math.floor(rate * 2**64) for word in stream.handed_out], dtype=bool)
