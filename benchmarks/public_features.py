"""Frozen features from public records, and what trains a convex head on them so that `newton` is certified.

MNIST. Ten thousand training records are public; a small network is trained on them without privacy, and its last layer
but one, put on a sphere, gives the features of all other records: fifty thousand in ten silos, which train a
`LinearHead` with record-level privacy. lambda is fixed beforehand.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from secure_fu.learning import LinearHead, Records, idx_folder
from secure_fu.planning import Plan

__all__ = [
    "CLASSES",
    "EPOCHS",
    "FEATURES",
    "LAMBDA",
    "RATE",
    "ROUNDS",
    "SILOS",
    "STEPS",
    "PublicFeatures",
    "equal_silos",
    "linear_head",
    "newton_noise",
    "public_features",
    "unclamped",
]

LAMBDA = 0.01
SILOS, FEATURES, CLASSES = 10, 8, 10
ROUNDS, RATE = 100, 2.0
STEPS = 1
"""Newton's, chosen on seed 101: a second step takes a round more and comes no nearer than the output noise."""

EPOCHS = 8
"""Of the public network."""

_PUBLIC, _RADIUS = 10_000, 3.0


class _Sphere(nn.Module):
    """Puts each record's features at the same distance from 0, so that the head's bound takes nothing from any."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return _RADIUS * nn.functional.normalize(values, dim=1)


@dataclass(frozen=True, kw_only=True, eq=False)
class PublicFeatures:
    """Features instead of images, as clients compute them once from the public network.

    Attributes:
        private: what the silos hold together.
        test: held out from everybody.
        public_accuracy: of the public network with a head of its own, on `test`.
    """

    private: Records
    test: Records
    public_accuracy: float


@functools.cache
def public_features(folder: Path, *, epochs: int = EPOCHS) -> PublicFeatures:
    """Train the public network and take its features; once in a process.

    Args:
        folder: with the four IDX files of MNIST.
    """
    data = idx_folder(folder)
    order = np.random.default_rng(0).permutation(len(data.train))
    public, private = data.train.subset(order[:_PUBLIC]), data.train.subset(order[_PUBLIC:])
    network = _public_network(public, epochs)

    def of(records: Records) -> Records:
        with torch.no_grad():
            return Records(torch.cat([network[0](part) for part in records.features.split(5000)]), records.labels)

    test = of(data.test)
    with torch.no_grad():
        found = network[1](test.features).argmax(dim=1)
    return PublicFeatures(private=of(private), test=test, public_accuracy=float((found == test.labels).double().mean()))


def _public_network(public: Records, epochs: int) -> nn.Sequential:
    """Features and a head of its own, trained on public records alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        features = nn.Sequential(
            nn.Conv2d(1, 16, 5, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU(),
            nn.Flatten(), nn.Linear(800, 64), nn.ReLU(), nn.Linear(64, FEATURES), _Sphere(),
        )  # fmt: skip
        network = nn.Sequential(features, nn.Linear(FEATURES, CLASSES))
        optimiser = torch.optim.Adam(network.parameters(), 2e-3)
        for _ in range(epochs):
            for chosen in torch.randperm(len(public)).split(100):
                loss = nn.functional.cross_entropy(network(public.features[chosen]), public.labels[chosen])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        return network.eval()


def linear_head() -> LinearHead:
    """The head that the silos train."""
    return LinearHead(None, inputs=FEATURES, classes=CLASSES)


def equal_silos(private: Records, seed: int) -> dict[str, Records]:
    """The records in random silos of equal size."""
    order = np.random.default_rng(seed).permutation(len(private))
    return {f"silo-{index}": private.subset(part) for index, part in enumerate(np.array_split(order, SILOS))}


def unclamped(plan: Plan, head: LinearHead) -> Plan:
    """The plan with sums of gradients that saturate nowhere: it costs a few bits of each coordinate."""
    recipe = replace(plan.recipe, saturation=1.001 * head.coordinate_bound * plan.recipe.nominal_units)
    return replace(plan, recipe=recipe)


def newton_noise(plan: Plan) -> float:
    """The noise multiplier with which newton's rounds together cost as much as retraining's."""
    asked = STEPS + 2  # a sum of Hessians, and the measuring one
    return plan.recipe.noise_multiplier * math.sqrt(asked / plan.recipe.rounds)
