"""For the tests of newton: a small convex federation, its exact minimisers, and secure sums without encryption."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
from unlearning_cast import KeptStates, Words, recipe

from secure_fu.learning import FlatModel, LinearHead, PerRecordGradients, Records
from secure_fu.privacy import Grid, NoiseShare
from secure_fu.protocol import ReleasedModel, ReleasedSum, RoundTerms
from secure_fu.training import Silo, TrainingState
from secure_fu.unlearning import Deletion
from secure_fu.unlearning.newton_task import NewtonTask

INPUTS, CLASSES, CLIENTS, SIZE = 3, 3, 4, 60
DECAY = 0.05
HEAD = FlatModel(LinearHead(None, inputs=INPUTS, classes=CLASSES, bound=1.0))
DIMENSION = HEAD.dimension
TERMS = {
    "rounds": 5,
    "clip_norm": 1.5,
    "noise_multiplier": 1.0,
    "sampling_rate": 1.0,
    "nominal_units": CLIENTS * SIZE,
    "saturation": 1.5 * CLIENTS * SIZE,
    "weight_decay": DECAY,
}


def head_silos(model=HEAD, seed=0, forgotten=24, groups=False):
    """Records of classes that can be told apart; of the first client, some are marked, and have a wrong label."""
    draw = np.random.default_rng(seed)
    gradients = PerRecordGradients(model)
    centres = draw.normal(size=(CLASSES, INPUTS)) * 2.0
    made = []
    for client in range(CLIENTS):
        labels = draw.integers(0, CLASSES, SIZE)
        features = centres[labels] + draw.normal(size=(SIZE, INPUTS))
        marks = np.zeros(SIZE, dtype=bool)
        if client == 0:
            marks[:forgotten] = True
            labels[:forgotten] = (labels[:forgotten] + 1) % CLASSES
        names = [f"{client}-{i // 3}" for i in range(SIZE)] if groups else None
        own = Records.from_arrays(features, labels, names)
        made.append(Silo.of(f"client-{client}", own, model, gradients, keeps_history=False).forgetting(marks))
    return made


def minimiser(silos, *, forgotten, head=HEAD, nominal=CLIENTS * SIZE, decay=DECAY):
    """The exact minimiser, with or without the marked records: Newton's method in float64 from the closed forms."""
    module = FlatModel(head.module).module.double()
    parts = [silo.records if forgotten else silo.retained_records for silo in silos]
    inputs = np.concatenate([module.bounded(part.features.double()).numpy() for part in parts])
    labels = np.concatenate([part.labels.numpy() for part in parts])
    classes, width = module.classes, inputs.shape[1]
    weights = np.zeros((classes, width))
    for _ in range(50):
        scores = np.exp(inputs @ weights.T)
        odds = scores / scores.sum(axis=1, keepdims=True)
        slopes = odds.copy()
        slopes[np.arange(len(labels)), labels] -= 1.0
        gradient = (slopes.T @ inputs / nominal + decay * weights).reshape(-1)
        curvature = np.einsum("nk,kl->nkl", odds, np.eye(classes)) - np.einsum("nk,nl->nkl", odds, odds)
        hessian = np.einsum("nkl,ni,nj->kilj", curvature, inputs, inputs).reshape(gradient.size, -1) / nominal
        weights -= np.linalg.solve(hessian + decay * np.eye(gradient.size), gradient).reshape(classes, width)
    assert np.linalg.norm(gradient) < 1e-13
    return weights.reshape(-1)


def head_deletion(vector, model=HEAD, *, delta=1e-5, assured=CLIENTS, units=24, earlier=(), **changes):
    """A deletion from a model that all records were in."""
    own = recipe(**(TERMS | changes))
    start = TrainingState.initial(ReleasedModel.public(np.zeros(model.dimension)))
    original = replace(start, model=ReleasedModel.public(vector), rounds=own.rounds, last_round=own.rounds - 1)
    return Deletion(
        recipe=own,
        model=model,
        checkpoints=KeptStates((start, original)),
        original=original,
        joined_at=0,
        forgotten_units=units,
        unit_epsilon=lambda rounds: 3.0,
        last_epsilon=3.0,
        untouched=False,
        delta=delta,
        assured=assured,
        cohort=CLIENTS,
        adaptive=True,
        declared=lambda method: True,
        earlier=earlier,
    )


class ClientSums:
    """Sums of what the clients' own tasks contribute; exact, or on the grid and with the noise that is released.

    Args:
        silos: of the clients.
        assured: shares that the noise is made for; None releases exact sums.
        absent: names of clients that do not answer, by the number of the sum.
        silent: so many clients leave out their noise.
    """

    def __init__(self, silos, *, assured=None, seed=0, absent=lambda number: (), silent=0):
        self._tasks = {silo.name: NewtonTask(silo) for silo in silos}
        self._assured = assured
        self._words = Words(seed)
        self._absent = absent
        self._silent = silent
        self.requests = []

    def secure_sum(self, request):
        self.requests.append(request)
        number = len(self.requests)
        length = request.model.dimension if request.length is None else request.length
        terms = RoundTerms(
            purpose=request.purpose,
            round_number=number,
            unit=request.unit,
            clip_norm=request.clip_norm,
            retained_rate=request.retained_rate,
            forgotten_rate=request.forgotten_rate,
            settings=request.settings,
            length=length,
        )
        present = [name for name in sorted(self._tasks) if name not in self._absent(number)]
        parts = [self._tasks[name].contribution(request.model.vector, terms, self._words) for name in present]
        if self._assured is None:
            values = np.sum(parts, axis=0)
        else:
            grid = Grid.fine(request.clip_norm, length, request.saturation, request.unit)
            share = NoiseShare(
                noise_multiplier=request.noise_multiplier,
                sensitivity=grid.sensitivity,
                step=grid.step,
                assured=self._assured,
            )
            whole = sum(grid.quantise(part) for part in parts)
            whole = whole + sum(share.sample(length, stream=self._words) for _ in parts[self._silent :])
            values = grid.dequantise(whole)
        return ReleasedSum(
            values=values,
            purpose=request.purpose,
            round_number=number,
            participants=tuple(present),
            transcript=hashlib.sha256(str(number).encode()).digest(),
        )
