"""The cast of these tests: small silos, a server's view with a ledger made up, and sums that follow a script."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from torch.nn import functional

from secure_fu.learning import FlatModel, PerRecordGradients, Records, Trigger, digits, mlp
from secure_fu.privacy import Unit
from secure_fu.protocol import ReleasedModel, ReleasedSum, RoundTerms
from secure_fu.training import Recipe, Silo, TrainingState
from secure_fu.unlearning import METHODS, Deletion

INPUTS, HIDDEN, CLASSES = 4, 5, 3
MODEL = FlatModel(mlp(INPUTS, (HIDDEN,), CLASSES, 0))
GRADIENTS = PerRecordGradients(MODEL)
LOCAL = {"epochs": 2, "batch_size": 4, "learning_rate": 0.2}
CLIP = 0.7
FORGOTTEN = np.arange(12) % 3 == 0
GROUPS = ["a", "b", "a", "c", "c", "d", "a", "b", "d", "e", "e", "e"]
"""Of twelve records: which are forgotten, and whose they are."""


class Words:
    """Seeded words in the place of a client's secret stream."""

    def __init__(self, seed=0):
        self._draw = np.random.default_rng(seed)

    def words(self, count):
        return self._draw.integers(0, 2**64, count, dtype=np.uint64)


def sampled(seed, rate, *counts):
    """What consecutive Poisson samples of so many units draw from `Words(seed)`."""
    stream = Words(seed)
    return [np.array([word < math.floor(rate * 2**64) for word in stream.words(n).tolist()], bool) for n in counts]


def records(count=12, seed=1, groups=None):
    draw = np.random.default_rng(seed)
    return Records.from_arrays(draw.normal(size=(count, INPUTS)) * 2.0, draw.integers(0, CLASSES, count), groups)


def extreme(groups=None):
    """Records whose gradients differ by many orders of magnitude."""
    own = records(groups=groups)
    return Records(own.features * torch.logspace(-6, 6, 12)[:, None], own.labels, own.groups)


def silo(own=None, forgotten=None, name="silo", **arguments):
    made = Silo.of(name, records() if own is None else own, MODEL, GRADIENTS, **arguments)
    return made if forgotten is None else made.forgetting(np.asarray(forgotten, dtype=bool))


def terms(unit=Unit.RECORD, *, retained=1.0, forgotten=1.0, clip_norm=CLIP, number=0, length=None, settings=None):
    return RoundTerms(
        purpose="unlearn/test",
        round_number=number,
        unit=unit,
        clip_norm=clip_norm,
        retained_rate=retained,
        forgotten_rate=forgotten,
        settings=LOCAL | (settings or {}),
        length=MODEL.dimension if length is None else length,
    )


def weights(seed=3):
    return np.random.default_rng(seed).normal(0.0, 0.5, MODEL.dimension).astype(np.float32)


def gradient(vector, features, label, loss=functional.cross_entropy):
    """The oracle: one record's gradient by automatic differentiation of the model written out, float64."""
    flat = torch.tensor(vector.astype(np.float64), requires_grad=True)
    parts = torch.split(flat, [INPUTS * HIDDEN, HIDDEN, HIDDEN * CLASSES, CLASSES])
    hidden = torch.relu(parts[0].view(HIDDEN, INPUTS) @ features.double() + parts[1])
    logits = parts[2].view(CLASSES, HIDDEN) @ hidden + parts[3]
    loss(logits[None], label[None]).sum().backward()
    return flat.grad.numpy()


def overflowing(count):
    """A model, parameters of it that overflow where features are positive, and records of which the third has such."""
    deep = FlatModel(mlp(INPUTS, (2,) * 9, CLASSES, 0))
    bad = np.zeros(deep.dimension)
    for layer in deep.layers:
        if len(layer.shape) > 1:
            bad[layer.slice] = 3e38
    features = -np.abs(np.random.default_rng(0).normal(size=(count, INPUTS)))
    features[2] *= -1.0
    return deep, bad, Records.from_arrays(features, np.arange(count) % CLASSES, list("abcdef"[:count]))


def person(own, vector, name, *loss):
    """The sum of the gradients of one person's records."""
    return sum(gradient(vector, own.features[i], own.labels[i], *loss) for i in range(12) if own.groups[i] == name)


def moved(contribution, own, forgotten, out, *arguments, **settings):
    """How far what a client sends is from what it would send without some records, in L2."""
    whole = contribution(silo(own, forgotten), *arguments, **settings)
    return np.linalg.norm(whole - contribution(silo(own.subset(~out), forgotten[~out]), *arguments, **settings))


def clipped(vector, clip_norm=CLIP):
    return vector * min(1.0, clip_norm / np.linalg.norm(vector))


def clipped_sum(vectors, clip_norm=CLIP):
    return sum((clipped(vector, clip_norm) for vector in vectors), start=np.zeros(MODEL.dimension))


# The server's side


def recipe(unit=Unit.RECORD, rounds=20, **changes):
    return Recipe(
        **{
            "unit": unit,
            "rounds": rounds,
            "learning_rate": 0.5,
            "momentum": 0.8,
            "clip_norm": CLIP,
            "noise_multiplier": 1.0,
            "sampling_rate": 1.0 if unit is Unit.CLIENT else 0.25,
            "nominal_units": 40,
            "saturation": 5.0,
        }
        | changes
    )


def states(rounds, seed=0):
    draw = np.random.default_rng(seed)
    return tuple(
        TrainingState(
            model=ReleasedModel.public(draw.normal(size=MODEL.dimension)),
            velocity=draw.normal(size=MODEL.dimension) if done else np.zeros(MODEL.dimension),
            rounds=done,
        )
        for done in range(rounds + 1)
    )


class KeptStates:
    """Checkpoints in memory, on a grid of their own."""

    def __init__(self, kept, every=1):
        self.kept = {state.rounds: state for state in kept if state.rounds % every == 0}

    @property
    def rounds(self):
        return tuple(sorted(self.kept))

    def load(self, rounds):
        return self.kept[rounds]


def deletion(
    paid=lambda rounds: 0.1 * max(0, rounds - 12),
    *,
    joined_at=12,
    units=3,
    every=1,
    adaptive=False,
    declared=lambda method: method in {kind() for kind in METHODS.values()},
    last=None,
    **changes,
):
    """A deletion of units that joined after 12 of 20 rounds, and that the ledger has charged `paid(rounds)` since."""
    own = recipe(**changes)
    done = states(own.rounds)
    return Deletion(
        recipe=own,
        model=MODEL,
        checkpoints=KeptStates(done, every),
        original=done[-1],
        joined_at=joined_at,
        forgotten_units=units,
        unit_epsilon=paid,
        last_epsilon=paid(own.rounds) if last is None else last,
        untouched=False,
        delta=1e-5,
        assured=2,
        cohort=3,
        adaptive=adaptive,
        declared=declared,
    )


class ScriptedSums:
    """Releases what it is told, zero unless told otherwise, and keeps what it was asked for."""

    def __init__(self, release=lambda request: np.zeros(MODEL.dimension)):
        self._release = release
        self.requests = []

    def secure_sum(self, request):
        self.requests.append(request)
        number = len(self.requests)
        return ReleasedSum(
            values=np.array(self._release(request), dtype=np.float64),
            purpose=request.purpose,
            round_number=number,
            participants=("a", "b"),
            transcript=hashlib.sha256(str(number).encode()).digest(),
        )


# Real digits


def digit_silos(count=5, seed=0):
    """Digits in so many silos, the last of which carries a backdoor in all of its records.

    Returns:
        clients, test records, trigger, module.
    """
    data = digits(seed=seed)
    trigger = Trigger.top_row(data.train.shape, target=0)
    parts = np.array_split(np.random.default_rng(seed).permutation(len(data.train)), count)
    clients = {f"silo-{index}": data.train.subset(np.sort(part)) for index, part in enumerate(parts)}
    last = f"silo-{count - 1}"
    clients[last] = trigger.poison(clients[last])
    return clients, data.test, trigger, mlp(64, (32,), 10, seed=seed)
