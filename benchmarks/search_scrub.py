"""How the defaults of `scrub` were chosen: losses, rates and mixing against retraining, on seeds of their own.

Search: seeds 100 to 102 of MNIST (100 to 111 of digits). Seeds 110 to 112 (120 to 131) settled the learning rates, and
113 to 115 (132 to 143) confirm; seeds 0 to 9 are left for final figures. One silo leaves, all its records carry a
backdoor. MNIST: ten silos (Dirichlet 0.5), the silo there from the start; on each seed three silos leave in turn, for
their sizes differ. Tasks of one seed share data and start, so that intervals over tasks are a little too narrow.
Digits: the preset, with the silo there from the start and joined late.

A candidate is a loss of the forgotten records, a sharpness (what its gradient is multiplied by before it is clipped),
a sampling rate and a learning rate over those of training, and a number of rounds at the end that forgotten records do
not enter. Candidates are drawn at random from a grid, then halved, by the mean over tasks of
max(0, points of test accuracy below retraining) + |points of backdoor success from retraining| / 2.

"The cheapest retraining" is the fewest rounds, each with the noise that its own plan needs and the best of some
learning rates, whose mean test accuracy is within half a point of the full number of rounds.

What is run is a float replica: the library's own clipped sums over the pooled records, plus Gaussian noise of the
variance of all clients' shares. Sums under encryption are exact integers on a fine grid, so the law of a model is the
same up to rounding. Saturation is applied to the silo that leaves, whose bias of the target class it can reach; the
others are pooled and stay below it. The noise comes from a seeded generator: nothing here is private. Epsilon is by
Renyi divergence, as the ledger charges it. The whole takes about a quarter of an hour on an idle core.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from harness import arguments, report
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from secure_fu.config_file import load_preset, with_overrides
from secure_fu.learning import FlatModel, Loss, PerRecordGradients, Records, accuracy, cross_entropy
from secure_fu.planning import make_plan
from secure_fu.privacy import GaussianSumEvent, Grid, Unit, mean_interval, renyi_epsilon
from secure_fu.scenario import build_scenario
from secure_fu.unlearning import Scrub
from secure_fu.unlearning.scrub import true_class_removed

LEVEL = 0.90
MNIST = (
    "data.partition=dirichlet",
    "data.alpha=0.5",
    "deletion.joined_at=0",
    "model.hidden=[32]",
    "training.rounds=150",
    "training.sampling_rate=0.0333",
    "training.learning_rate=6.0",
)
RETRAIN_ROUNDS = (60, 80, 90, 100, 110, 120, 130, 140)
RETRAIN_RATES = (0.75, 1.0, 1.33)


def uniform_output(logits: Tensor, labels: Tensor) -> Tensor:
    """KL(uniform || p)."""
    return -functional.log_softmax(logits, dim=1).mean(dim=1)


def uniform_others(logits: Tensor, labels: Tensor) -> Tensor:
    """KL(uniform over the other classes || p)."""
    own = functional.log_softmax(logits, dim=1)
    return -own.scatter(1, labels[:, None], 0.0).sum(dim=1) / (logits.shape[1] - 1)


def half_removed(logits: Tensor, labels: Tensor) -> Tensor:
    """-log(1 - p_y / 2), the loss of FedOSD."""
    return -torch.log1p(-0.5 * functional.softmax(logits, dim=1).gather(1, labels[:, None])[:, 0])


def ascent(logits: Tensor, labels: Tensor) -> Tensor:
    """Minus the training loss."""
    return -cross_entropy(logits, labels)


LOSSES: dict[str, Loss] = {
    loss.__name__: loss for loss in (true_class_removed, uniform_output, uniform_others, half_removed, ascent)
}


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """`length` rounds, the last `recovery` of which forgotten records do not enter; fields otherwise as in `Scrub`."""

    length: int
    rate_factor: float
    forgotten_factor: float
    sharpness: float
    loss: str = "true_class_removed"
    recovery: int = 0

    @classmethod
    def of(cls, method: Scrub) -> Candidate:
        """The library's own settings."""
        return cls(**asdict(method))


SPACE = [
    {"loss": loss, "sharpness": sharpness, "forgotten_factor": sampled, "rate_factor": rate, "recovery": recovery}
    for loss, sharpness, sampled, rate, recovery in itertools.product(
        LOSSES, (1.0, 3.0, 10.0, 30.0, math.inf), (0.6, 1.0, 1.75, 3.0), (1.0, 1.4, 2.0, 3.0), (0, 1, 3)
    )
]


class Task:
    """One preset, seed and leaving silo: data, plan, an original and retrained models."""

    def __init__(
        self, preset: str, seed: int, changes: Sequence[str], *, data_dir: Path, leaver: int | None = None
    ) -> None:
        config = with_overrides(load_preset(preset), [f"seed={seed}", *changes])
        if leaver is not None:
            config = with_overrides(config, [f"deletion.client={config.data.client_prefix}-{leaver:02d}"])
        scenario = build_scenario(config, data_dir=data_dir)
        marks = scenario.request.identify_all(scenario.clients)
        self.retained = _pooled([own.subset(~marks[name]) for name, own in scenario.clients.items()])
        self.forgotten = _pooled([own.subset(marks[name]) for name, own in scenario.clients.items()])
        self._test, self._trigger = scenario.test, scenario.trigger
        self._model = FlatModel(scenario.module)
        self._gradients = PerRecordGradients(self._model)
        self._module, self._config = scenario.module, config
        self._clients = len(scenario.clients)
        self._draw = np.random.default_rng(seed)
        self.joined_at = config.deletion.joined_at
        self.training = config.training
        self.noise = self.planned_noise(config.training.rounds)

    def planned_noise(self, rounds: int) -> float:
        """Noise multiplier of a federation that trains and retrains for so many rounds within the preset's budget."""
        plan = make_plan(
            self._module,
            clients=self._clients,
            nominal_units=self._units,
            minimum_cohort=self._config.protocol.minimum_cohort,
            epsilon=self._config.privacy.epsilon,
            delta=self._config.privacy.delta,
            rounds=rounds,
            sampling_rate=self.training.sampling_rate,
            clip_norm=self.training.clip_norm,
            colluders=self._config.protocol.colluders,
        )
        return plan.recipe.noise_multiplier

    def train(
        self, rounds: int, *, forgotten: bool, noise: float | None = None, rate: float = 1.0
    ) -> NDArray[np.float64]:
        """A model trained from the public start; with the silo that leaves, from when it joined, or without."""
        state = _State(self._model.vector())
        for done in range(rounds):
            total = self._part(state.vector, self.retained, self.training.sampling_rate)
            if forgotten and done >= self.joined_at:
                total += self._saturated(self._part(state.vector, self.forgotten, self.training.sampling_rate))
            self._step(state, total, self.noise if noise is None else noise, rate)
        return state.vector

    def unlearn(self, original: NDArray[np.float64], candidate: Candidate) -> NDArray[np.float64]:
        """The original after a candidate's rounds, with the momentum buffer emptied before the first."""
        state = _State(original)
        loss = _sharpened(LOSSES[candidate.loss], candidate.sharpness)
        for done in range(candidate.length):
            total = self._part(state.vector, self.retained, self.training.sampling_rate)
            if done < candidate.length - candidate.recovery:
                rate = min(1.0, candidate.forgotten_factor * self.training.sampling_rate)
                total += self._saturated(
                    self._part(state.vector, self.forgotten, rate, loss=loss, normalise=math.isinf(candidate.sharpness))
                )
            self._step(state, total, self.noise, candidate.rate_factor)
        return state.vector

    def measure(self, vector: NDArray[np.float64]) -> NDArray[np.float64]:
        """Test accuracy and backdoor success, in percent."""
        assert self._trigger is not None
        success = self._trigger.success_rate(self._model, vector, self._test)
        return 100.0 * np.array([accuracy(self._model, vector, self._test), success])

    def epsilon(self, candidate: Candidate) -> dict[str, float]:
        """Of one record that is in all of training and of the candidate's rounds."""
        rate = self.training.sampling_rate
        rounds, forgets = self.training.rounds, candidate.length - candidate.recovery
        own = min(1.0, candidate.forgotten_factor * rate)
        forgotten: dict[GaussianSumEvent, int] = {self._event(rate): rounds - self.joined_at}
        forgotten[self._event(own)] = forgotten.get(self._event(own), 0) + forgets
        retained = {self._event(rate): rounds + candidate.length}
        delta = self._config.privacy.delta
        return {
            "forgotten": renyi_epsilon(forgotten, delta=delta),
            "retained": renyi_epsilon(retained, delta=delta),
            "retraining": renyi_epsilon({self._event(rate): 2 * rounds}, delta=delta),
        }

    @property
    def _units(self) -> int:
        return len(self.retained) + len(self.forgotten)

    @property
    def _shares(self) -> int:
        return self._config.protocol.minimum_cohort - self._config.protocol.colluders

    @property
    def _saturation(self) -> float:
        """As in `make_plan`."""
        return self.training.clip_norm * max(1.0, 0.5 * self.training.sampling_rate * self._units / self._clients)

    def _saturated(self, total: NDArray[np.float64]) -> NDArray[np.float64]:
        clamped: NDArray[np.float64] = np.clip(total, -self._saturation, self._saturation)
        return clamped

    def _grid(self) -> Grid:
        return Grid.fine(
            clip_norm=self.training.clip_norm,
            dimension=self._model.dimension,
            saturation=self._saturation,
            unit=Unit.RECORD,
        )

    def _event(self, rate: float) -> GaussianSumEvent:
        grid = self._grid()
        return GaussianSumEvent(
            noise_multiplier=self.noise,
            sampling_rate=rate,
            grid_ratio=self.noise * grid.sensitivity / grid.step,
            dimension=self._model.dimension,
            shares=self._shares,
        )

    def _part(
        self,
        vector: NDArray[np.float64],
        records: Records,
        rate: float,
        *,
        loss: Loss = cross_entropy,
        normalise: bool = False,
    ) -> NDArray[np.float64]:
        sampled = records.subset(self._draw.random(len(records)) < rate)
        return self._gradients.clipped_sum(
            vector, sampled, clip_norm=self.training.clip_norm, loss=loss, normalise=normalise
        )

    def _step(self, state: _State, total: NDArray[np.float64], noise: float, rate: float) -> None:
        deviation = noise * self._grid().sensitivity * math.sqrt(self._clients / self._shares)
        mean = (total + self._draw.normal(0.0, deviation, len(total))) / (self.training.sampling_rate * self._units)
        state.velocity = self.training.momentum * state.velocity + mean
        moved = state.vector - rate * self.training.learning_rate * state.velocity
        state.vector = moved.astype(np.float32).astype(np.float64)


class _State:
    def __init__(self, vector: NDArray[np.float64]) -> None:
        self.vector = vector.copy()
        self.velocity = np.zeros_like(vector)


class Trained:
    """A task with an original and the mean figures of some retrained models."""

    def __init__(self, task: Task, *, retrainings: int) -> None:
        self.task = task
        rounds = task.training.rounds
        self.original = task.train(rounds, forgotten=True)
        self.before = task.measure(self.original)
        self.retrained = np.mean(
            [task.measure(task.train(rounds, forgotten=False)) for _ in range(retrainings)], axis=0
        )

    def gap(self, candidate: Candidate) -> NDArray[np.float64]:
        """Points of accuracy and of backdoor success over retraining."""
        gap: NDArray[np.float64] = self.task.measure(self.task.unlearn(self.original, candidate)) - self.retrained
        return gap

    def gap_of(self, model: NDArray[np.float64]) -> NDArray[np.float64]:
        gap: NDArray[np.float64] = self.task.measure(model) - self.retrained
        return gap


def score(gaps: NDArray[np.float64]) -> float:
    """Mean over tasks, gaps of shape (tasks, 2): the less the better."""
    return float(np.mean(np.maximum(0.0, -gaps[:, 0]) + np.abs(gaps[:, 1]) / 2.0))


def search(tasks: Sequence[Trained], *, length: int, count: int, seed: int) -> list[dict[str, object]]:
    """The best candidates of one length, best first: drawn from the grid, then halved on more and more tasks."""
    draw = np.random.default_rng(seed)
    chosen = draw.permutation(len(SPACE))[:count]
    pool = [
        Candidate(**{**SPACE[index], "length": length, "recovery": min(SPACE[index]["recovery"], length - 1)})
        for index in chosen
    ]
    pool.append(replace(Candidate.of(Scrub()), length=length))
    found: dict[Candidate, list[NDArray[np.float64]]] = {candidate: [] for candidate in pool}
    for kept, shown, times in ((len(pool), 2, 1), (max(8, count // 8), len(tasks), 1), (6, len(tasks), 4)):
        pool = sorted(pool, key=lambda candidate: score(np.array(found[candidate])) if found[candidate] else 0.0)[:kept]
        for candidate in pool:
            found[candidate] += [trained.gap(candidate) for _ in range(times) for trained in tasks[:shown]]
    pool.sort(key=lambda candidate: score(np.array(found[candidate])))
    return [{"settings": _plain(candidate), **_gaps(found[candidate])} for candidate in pool]


def confirm(tasks: Sequence[Trained], candidate: Candidate) -> dict[str, object]:
    """Gaps to retraining with intervals, beside fine-tuning and a new start of the same rounds; what it costs."""
    rounds = candidate.length
    finetune = replace(candidate, recovery=rounds, rate_factor=1.0)
    return {
        "settings": _plain(candidate),
        "scrub": _gaps([trained.gap(candidate) for trained in tasks]),
        "finetune": _gaps([trained.gap(finetune) for trained in tasks]),
        "scratch": _gaps([trained.gap_of(trained.task.train(rounds, forgotten=False)) for trained in tasks]),
        "epsilon": tasks[0].task.epsilon(candidate),
    }


def cheapest_retraining(tasks: Sequence[Trained]) -> dict[str, object]:
    """Mean test accuracy by rounds, the noise recalibrated for each, and the fewest rounds within half a point."""
    full = float(np.mean([trained.retrained[0] for trained in tasks]))
    by_rounds: dict[str, float] = {}
    for rounds in RETRAIN_ROUNDS:
        noise = tasks[0].task.planned_noise(rounds)
        by_rounds[str(rounds)] = max(
            float(
                np.mean(
                    [
                        trained.task.measure(trained.task.train(rounds, forgotten=False, noise=noise, rate=rate))[0]
                        for trained in tasks
                    ]
                )
            )
            for rate in RETRAIN_RATES
        )
    reached = [int(rounds) for rounds, found in by_rounds.items() if found >= full - 0.5]
    return {
        "full rounds": tasks[0].task.training.rounds,
        "full accuracy": full,
        "accuracy by rounds": by_rounds,
        "fewest rounds within half a point": min(reached, default=tasks[0].task.training.rounds),
    }


def _pooled(parts: Sequence[Records]) -> Records:
    return Records(torch.cat([part.features for part in parts]), torch.cat([part.labels for part in parts]))


def _sharpened(loss: Loss, sharpness: float) -> Loss:
    return loss if math.isinf(sharpness) else lambda logits, labels: sharpness * loss(logits, labels)


def _plain(candidate: Candidate) -> dict[str, object]:
    settings = asdict(candidate)
    return {key: "inf" if value == math.inf else value for key, value in settings.items()}


def _gaps(found: Sequence[NDArray[np.float64]]) -> dict[str, object]:
    gaps = np.array(found)
    return {
        "accuracy over retraining": mean_interval(gaps[:, 0], level=LEVEL).to_json(),
        "backdoor over retraining": mean_interval(gaps[:, 1], level=LEVEL).to_json(),
        "worst": [float(gaps[:, 0].min()), float(gaps[:, 1].max())],
        "score": score(gaps),
    }


def _study(
    make: Callable[[int, int | None], Task],
    *,
    seeds: Sequence[int],
    fresh: Sequence[int],
    leavers: Sequence[int | None],
    lengths: Sequence[int],
    count: int,
    retrainings: int,
    curve: bool,
) -> dict[str, object]:
    started = time.perf_counter()
    tasks = [Trained(make(seed, leaver), retrainings=retrainings) for seed in seeds for leaver in leavers]
    study: dict[str, object] = {"original": _means(tasks, "before"), "retrained": _means(tasks, "retrained")}
    if curve:
        study["cheapest retraining"] = cheapest_retraining(tasks[:: len(leavers)])
    for length in lengths:
        study[f"search, {length} rounds"] = found = search(tasks, length=length, count=count, seed=length)
        print(f"{length} rounds: {found[0]}", flush=True)
    others = [Trained(make(seed, leaver), retrainings=retrainings) for seed in fresh for leaver in leavers]
    for length in lengths:
        candidate = replace(Candidate.of(Scrub()), length=length)
        study[f"defaults confirmed, {length} rounds"] = found_gaps = confirm(others, candidate)
        print(f"confirmed, {length} rounds: {found_gaps}", flush=True)
    study["seconds"] = time.perf_counter() - started
    return study


def _means(tasks: Sequence[Trained], name: str) -> list[float]:
    means: list[float] = np.mean([getattr(trained, name) for trained in tasks], axis=0).tolist()
    return means


def main() -> None:
    options = arguments(__doc__, data_dir=True)
    quick, folder = options.quick, options.data_dir
    count = 8 if quick else 200

    def mnist(seed: int, leaver: int | None) -> Task:
        changes = (*MNIST, "training.rounds=20", "data.records=6000") if quick else MNIST
        return Task("mnist-silos", seed, changes, data_dir=folder, leaver=leaver)

    def digits(joined_at: int) -> Callable[[int, int | None], Task]:
        changes = (f"deletion.joined_at={joined_at}", *(("training.rounds=80",) if quick else ()))
        return lambda seed, leaver: Task("digits-silos", seed, changes, data_dir=folder, leaver=leaver)

    sizes: dict[str, range] = {"search": range(100, 102 if quick else 103), "fresh": range(113, 115 if quick else 116)}
    small: dict[str, range] = {"search": range(100, 102 if quick else 112), "fresh": range(132, 134 if quick else 144)}
    figures: dict[str, object] = {
        "mnist": _study(
            mnist,
            seeds=sizes["search"],
            fresh=sizes["fresh"],
            leavers=(9,) if quick else (9, 0, 4),
            lengths=(4,) if quick else (15, 10, 7),
            count=count,
            retrainings=1 if quick else 3,
            curve=not quick,
        )
    }
    for joined_at in (0, 60):
        figures[f"digits, joined at {joined_at}"] = _study(
            digits(joined_at),
            seeds=small["search"],
            fresh=small["fresh"],
            leavers=(None,),
            lengths=(4,) if quick else (10, 5),
            count=count // 2,
            retrainings=1 if quick else 4,
            curve=False,
        )
    report(options, {"level": LEVEL, **figures})


if __name__ == "__main__":
    main()
