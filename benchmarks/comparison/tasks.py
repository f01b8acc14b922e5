"""What the comparison runs: tasks, requests, seeds, settings. A cell is one of each.

Settings were chosen on seeds from 100 on, the figures come from seeds 0, 1, ...
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from public_features import (
    CLASSES,
    FEATURES,
    LAMBDA,
    RATE,
    ROUNDS,
    SILOS,
    STEPS,
    equal_silos,
    linear_head,
    public_features,
)

from secure_fu.config import SimulationConfig
from secure_fu.config_file import load_preset, with_overrides
from secure_fu.deletion import DeletionBatch, DeletionRequest
from secure_fu.learning import Records, Trigger
from secure_fu.scenario import Scenario, build_scenario

__all__ = ["REQUESTS", "SCAN_SEED", "Cast", "Task", "cast_of", "tasks"]

SCAN_SEED = 100
"""First of the seeds that settings are chosen on."""

REQUESTS = {
    "client": "one client leaves",
    "client-late": "one client leaves that joined after 60 % of training",
    "records-1": "1 % of all records",
    "records-5": "5 % of all records",
    "class": "one class",
}

_FORGOTTEN_CLASS = 3
_TRIGGER_LABEL = 0
_LATE = 0.6


@dataclass(frozen=True, kw_only=True)
class Task:
    """One data set with one model and one recipe.

    Attributes:
        name: in results and tables.
        title: in words.
        preset: the recipe to start from.
        overrides: what differs from it, as on the command line.
        requests: keys of :data:`REQUESTS`.
        seeds: how many.
        scan_seeds: how many to choose the shorter retraining on.
        shorter: lengths of the shorter retrainings that are tried.
        length: rounds of the baselines that stand in the ranking.
        settings: of methods, by name, in place of the preset's.
        skipped: why a method is not run, by name.
        weight_decay: of the recipe.
        relearn_rate: learning rate of relearning.
        peers: run the peers in so many of the seeds.
        trigger_features: of the leaver's records, for data that is no image; empty for the top row of pixels.
        head: whether the model is a linear head on public features, as certified `newton` needs it.
        note: for the page.
    """

    name: str
    title: str
    preset: str
    overrides: tuple[str, ...] = ()
    requests: tuple[str, ...]
    seeds: int
    scan_seeds: int = 3
    shorter: tuple[int, ...]
    length: int = 10
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    relearn_rate: float
    peers: int = 0
    trigger_features: tuple[int, ...] = ()
    head: bool = False
    note: str = ""

    @property
    def needs_data(self) -> bool:
        """Whether it reads a folder of data."""
        return self.preset.startswith("mnist")

    def method_settings(self, name: str) -> Mapping[str, Any]:
        """Of a method, for this task."""
        return self.settings.get(name, load_preset(self.preset).unlearning.settings.get(name, {}))

    def config(self, seed: int, request: str = "client", scheme: str = "plain") -> SimulationConfig:
        """The configuration of a cell. The deletion is set up by :func:`cast_of`."""
        config = with_overrides(load_preset(self.preset), ["deletion.joined_at=0", *self.overrides])
        joined = round(_LATE * config.training.rounds) if request == "client-late" else 0
        own = ["deletion.backdoor=false", "deletion.scope=client", f"deletion.joined_at={joined}", f"seed={seed}"]
        # Sums of few bits are for `kahe` alone.
        plain = ["protocol.grid=fine"] if scheme == "plain" else []
        return with_overrides(config, [*own, *plain, f"protocol.scheme={scheme}"])


@dataclass(frozen=True, kw_only=True, eq=False)
class Cast:
    """Who takes part in a cell, and what is to be forgotten.

    Attributes:
        scenario: its clients hold the records as they are trained on, trigger included.
        request: the deletion request.
        marks: of the forgotten records, by client.
        forgotten_classes: true classes of the forgotten records, in the order of the clients, shape (m,).
        trigger: that they carry; None without.
    """

    scenario: Scenario
    clients: Mapping[str, Records]
    request: DeletionRequest | DeletionBatch
    marks: Mapping[str, NDArray[np.bool_]]
    forgotten_classes: NDArray[np.int64]
    trigger: Trigger | None

    @property
    def forgotten(self) -> Records:
        """All forgotten records."""
        return _together([records.subset(self.marks[name]) for name, records in self.clients.items()])

    @property
    def retained(self) -> Records:
        """All others."""
        return _together([records.subset(~self.marks[name]) for name, records in self.clients.items()])


def cast_of(task: Task, config: SimulationConfig, request: str, data: Path | None) -> Cast:
    """Build a cell's cast; all of it follows from the seed."""
    scenario = _head_scenario(config, data) if task.head else build_scenario(config, data_dir=data)
    clients = dict(scenario.clients)
    asked = _request(clients, request, config.seed)
    marks = asked.identify_all(clients)
    classes = np.concatenate([records.labels.numpy()[marks[name]] for name, records in clients.items()])
    trigger = None
    if request.startswith("client") and config.training.unit == "record":
        trigger = _trigger(task, scenario)
        leaver = max(clients)
        clients[leaver] = trigger.poison(clients[leaver])
    return Cast(
        scenario=scenario, clients=clients, request=asked, marks=marks, forgotten_classes=classes, trigger=trigger
    )


def _head_scenario(config: SimulationConfig, data: Path | None) -> Scenario:
    """Silos that hold public features of images."""
    if data is None:
        raise ValueError("data is None; expected the folder with the four IDX files of MNIST")
    found = public_features(data)
    clients = equal_silos(found.private, config.seed)
    return Scenario(
        module=linear_head(),
        model_name=f"linear head {FEATURES}-{CLASSES}",
        clients=clients,
        classes=CLASSES,
        test=found.test,
        held_out=found.test,
        trigger=None,
        request=DeletionRequest.whole_client(max(clients)),
        joins={},
        dataset="features of MNIST from a public network",
    )


def _request(clients: Mapping[str, Records], request: str, seed: int) -> DeletionRequest | DeletionBatch:
    if request.startswith("client"):
        return DeletionRequest.whole_client(max(clients))
    if request == "class":
        return DeletionRequest.whole_class(_FORGOTTEN_CLASS)
    share = float(request.removeprefix("records-")) / 100.0
    owners = np.concatenate([np.full(len(records), row) for row, records in enumerate(clients.values())])
    positions = np.concatenate([np.arange(len(records)) for records in clients.values()])
    count = max(1, round(share * len(owners)))
    chosen = np.random.default_rng((seed, 4)).permutation(len(owners))[:count]
    return DeletionBatch(
        tuple(
            DeletionRequest.some_records(name, sorted(int(place) for place in positions[chosen[owners[chosen] == row]]))
            for row, name in enumerate(clients)
            if (owners[chosen] == row).any()
        )
    )


def _trigger(task: Task, scenario: Scenario) -> Trigger:
    if not task.trigger_features:
        return Trigger.top_row(scenario.test.shape, target=_TRIGGER_LABEL)
    return Trigger(
        positions=task.trigger_features, value=4.0, target=_TRIGGER_LABEL, description="some features set to 4"
    )


def _together(parts: Sequence[Records]) -> Records:
    return Records(torch.cat([part.features for part in parts]), torch.cat([part.labels for part in parts]))


_DIGITS_SHORTER = (10, 15, 20, 30, 40, 60, 80)
_MNIST_SHORTER = (40, 80, 100, 120)

_NEWTON_NOISE = 1.578
"""What `newton_noise` gives for the plan of the head."""

_TASKS = (
    Task(
        name="breast-cancer/logistic",
        title="Breast cancer, logistic model, six clinics",
        preset="breast-cancer-silos",
        requests=("client", "records-1", "records-5"),
        seeds=10,
        shorter=(5, 10, 15, 20, 30, 45),
        relearn_rate=0.05,
        peers=10,
        trigger_features=(9, 14, 19),
    ),
    Task(
        name="digits/mlp",
        title="Digits, MLP 64-32-10, ten silos",
        preset="digits-silos",
        requests=("client", "client-late", "records-1", "records-5", "class"),
        seeds=10,
        shorter=_DIGITS_SHORTER,
        relearn_rate=0.01,
        peers=10,
    ),
    Task(
        name="digits/logistic",
        title="Digits, logistic model, ten silos",
        preset="digits-silos",
        overrides=("model.kind=logistic", "training.weight_decay=0.001"),
        requests=("client", "records-1", "class"),
        seeds=10,
        shorter=_DIGITS_SHORTER,
        relearn_rate=0.05,
        peers=10,
    ),
    Task(
        name="digits/cnn",
        title="Digits, small CNN, ten silos",
        preset="digits-silos",
        overrides=("model.kind=cnn",),
        requests=("client", "class"),
        seeds=10,
        shorter=_DIGITS_SHORTER,
        relearn_rate=0.003,
        peers=10,
    ),
    Task(
        name="mnist-silos/mlp",
        title="MNIST, MLP 784-32-10, ten silos, Dirichlet 0.5",
        preset="mnist-silos",
        overrides=(
            "data.partition=dirichlet",
            "data.alpha=0.5",
            "model.hidden=[32]",
            "training.rounds=150",
            "training.sampling_rate=0.0333",
            "training.learning_rate=6.0",
        ),
        requests=("client", "records-1", "records-5", "class"),
        seeds=5,
        scan_seeds=2,
        shorter=_MNIST_SHORTER,
        length=12,
        settings={"scrub": {"length": 12}},
        relearn_rate=0.05,
        peers=2,
        note="Scrub, the method named beforehand, takes 12 rounds: a tenth of the cheapest retraining of equal "
        "accuracy, 120 rounds in the search of its settings.",
    ),
    Task(
        name="mnist-silos/head",
        title="MNIST, convex head on eight public features with an L2 term, ten silos",
        preset="mnist-silos",
        overrides=(
            "model.kind=logistic",
            f"training.weight_decay={LAMBDA}",
            "training.sampling_rate=1.0",
            "training.clip_norm=1.41422",  # just above the head's bound: it never acts
            f"training.learning_rate={RATE}",
            "training.momentum=0.9",
            f"training.rounds={ROUNDS}",
            f"data.clients={SILOS}",
            f"protocol.minimum_cohort={SILOS}",
            f"privacy.least_noise_multiplier={_NEWTON_NOISE}",
        ),
        requests=("records-1",),
        seeds=5,
        scan_seeds=2,
        shorter=(1, 2, 3, 5, 10),
        settings={"newton": {"steps": STEPS, "noise_multiplier": _NEWTON_NOISE}},
        relearn_rate=0.5,
        head=True,
        note="The recipe that certified `newton` needs: all records in every round, no gradient clipped. 10 000 of "
        "MNIST's training records are public and train the features; 50 000 are the silos'.",
    ),
    Task(
        name="mnist-devices/logistic",
        title="MNIST, logistic model, a thousand devices, client unit",
        preset="mnist-devices",
        requests=("client",),
        seeds=5,
        scan_seeds=2,
        shorter=(4, 6, 8, 10, 12),
        length=5,
        settings={
            "ascent": {"length": 3, "recovery": 2},
            "eraser": {"interval": 3},
            "fisher": {"measurements": 2, "recovery": 3},
            "negation": {"length": 5},
        },
        relearn_rate=0.02,
        peers=2,
        note="The encrypted seed sums on the rotated grid, in 16 bits; the plain ones on the fine grid. Both round "
        "far below the noise.",
    ),
)

_QUICK = {
    "breast-cancer/logistic": {"requests": ("records-1",), "seeds": 2, "shorter": (30,)},
    "digits/mlp": {"requests": ("client", "class"), "seeds": 2, "shorter": (20, 40)},
    "mnist-silos/mlp": {"requests": ("client",), "seeds": 1, "shorter": (30,)},
}


def tasks(*, quick: bool) -> list[Task]:
    """All tasks, or a few small ones that show that it works."""
    if not quick:
        return list(_TASKS)
    small = []
    for task in _TASKS:
        if task.name in _QUICK:
            overrides = (*task.overrides, "data.records=6000") if task.needs_data else task.overrides
            small.append(dataclasses.replace(task, overrides=overrides, scan_seeds=1, **_QUICK[task.name]))
    return small
