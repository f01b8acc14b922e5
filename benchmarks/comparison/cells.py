"""One cell: train once, retrain several times, run every method, the baselines and the peers, measure all of it."""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from public_features import unclamped

from comparison.clock import ClientClock, client_clock
from comparison.measures import OutputRecorder, Yardstick
from comparison.peers import FedEraser, FedRecover, PlaintextServer
from comparison.shorter import FACTORS, Shorter, shorter_recipe
from comparison.tasks import SCAN_SEED, Cast, Task, cast_of, tasks
from secure_fu.config import SimulationConfig
from secure_fu.errors import CheckpointError, MethodRefused, SecureFUError
from secure_fu.federation import Federation
from secure_fu.learning import FlatModel, LinearHead, accuracy
from secure_fu.planning import Plan
from secure_fu.privacy import Unit
from secure_fu.protocol import RoundTraffic
from secure_fu.simulation import plan_of
from secure_fu.training import TrainingState
from secure_fu.unlearning import (
    METHODS,
    FineTune,
    Guarantee,
    Rerun,
    Retrain,
    Scratch,
    UnlearningMethod,
    method_from_settings,
)

__all__ = ["methods_of", "run_job", "settings_of"]

Job = dict[str, Any]
Vector = NDArray[np.float64]

_VERSION = 1  # of what is measured and how; a change makes old results another experiment's
_LONGEST_SCRATCH = 200
_BASELINES = ("retrain", "finetune", "scratch")


def methods_of(task: Task) -> list[UnlearningMethod]:
    """The methods that a task runs, beside retraining and the baselines, with the task's settings."""
    return [
        method_from_settings(name, task.method_settings(name))
        for name in METHODS
        if name not in _BASELINES and name not in task.skipped
    ]


def settings_of(job: Job) -> dict[str, Any]:
    """Everything that a job's result depends on, but for the code of the package."""
    task = _task(job)
    config = task.config(job["seed"], job.get("request", "client"), job.get("scheme", "plain"))
    return {
        "version": _VERSION,
        "task": {**dataclasses.asdict(task), "seeds": None, "scan_seeds": None, "peers": None, "requests": None},
        "config": config.to_dict(),
        "methods": [repr(method) for method in methods_of(task)],
        "job": {key: value for key, value in job.items() if key not in ("data", "scratch")},
    }


def run_job(job: Job) -> dict[str, Any]:
    """Run a cell or a scan; see :func:`~comparison.shorter.cheapest` for the latter.

    Args:
        job: `kind`, `task`, `quick`, `seed`, `data`, `scratch` (folder for what a run needs while it runs); of a cell
            also `request`, `scheme`, `retrainings`, `peers`, and `shorter` as the scans chose it.
    """
    torch.set_num_threads(1)
    tempfile.tempdir = job["scratch"]
    started, worked = time.perf_counter(), time.process_time()
    result = _scan(job) if job["kind"] == "scan" else _cell(job)
    return {
        **result,
        "seconds": time.perf_counter() - started,
        "processor_seconds": time.process_time() - worked,
    }


def _task(job: Job) -> Task:
    return next(task for task in tasks(quick=job["quick"]) if task.name == job["task"])


def _prepared(job: Job, request: str) -> tuple[Task, SimulationConfig, Cast, Plan]:
    task = _task(job)
    config = task.config(job["seed"], request, job.get("scheme", "plain"))
    cast = cast_of(task, config, request, Path(job["data"]) if job["data"] else None)
    plan = plan_of(config, cast.scenario)
    module = cast.scenario.module
    if isinstance(module, LinearHead):
        plan = unclamped(plan, module)
    return task, config, cast, plan


def _scan(job: Job) -> dict[str, Any]:
    """Trainings of several lengths on one of the seeds for settings, without a deletion."""
    task, _, cast, plan = _prepared(job, "records-1")
    if job["seed"] < SCAN_SEED:
        raise ValueError(f"seed is {job['seed']}; expected a seed for settings, at least {SCAN_SEED}")
    full = plan.recipe.rounds
    entries = []
    for rounds, factor in [*itertools.product(task.shorter, FACTORS), (full, 1.0)]:
        recipe = shorter_recipe(plan, rounds=rounds, rate_factor=factor)
        changed = dataclasses.replace(plan, recipe=recipe, least_noise_multiplier=recipe.noise_multiplier)
        with _federation(job, cast, changed, ()) as federation:
            state = federation.train()
        test_accuracy = accuracy(federation.model, _vector(state), cast.scenario.test)
        entries.append({"rounds": rounds, "rate_factor": factor, "test_accuracy": test_accuracy})
    return {"scan": entries, "full": full}


def _federation(job: Job, cast: Cast, plan: Plan, methods: Sequence[UnlearningMethod]) -> Federation:
    return Federation(
        cast.scenario.module,
        cast.clients,
        plan=plan,
        scheme_name=job.get("scheme", "plain"),
        joins=cast.scenario.joins,
        keep_history=any(method.needs_history for method in methods),
        methods=methods,
    )


def _cell(job: Job) -> dict[str, Any]:
    task, _, cast, plan = _prepared(job, job["request"])
    chosen = job["shorter"]
    recipe = shorter_recipe(plan, rounds=chosen["rounds"], rate_factor=chosen["rate_factor"])
    shorter = Shorter.of(recipe)
    methods = methods_of(task)
    scratches = [Scratch(length=length) for length in range(1, _LONGEST_SCRATCH)]
    least = min(recipe.noise_multiplier, plan.least_noise_multiplier)
    plan = dataclasses.replace(plan, least_noise_multiplier=least)
    with (
        client_clock() as clock,
        _federation(job, cast, plan, [*methods, shorter, *scratches]) as federation,
    ):
        started = time.perf_counter()
        original = federation.train()
        run = _Cell(job, task, cast, federation, clock)
        run.add_original(original, time.perf_counter() - started)
        for number in range(job["retrainings"]):
            run.add("retrained" if number == 0 else f"reference {number}", Retrain())
        run.add("shorter", shorter)
        for method in methods:
            run.add(method.name, method)
        lengths = sorted({task.length, *(length for length in run.lengths if length <= plan.recipe.rounds)})
        run.add_lengths([FineTune(length=length) for length in lengths])
        run.add_lengths([Scratch(length=length) for length in lengths])
        result = run.result()
    peers = _peers(job, task, cast, plan, FlatModel(cast.scenario.module)) if job["peers"] else None
    return {**result, "peers": peers, "shorter": chosen}


class _Cell:
    """Runs methods in one trained federation and measures what they end in."""

    def __init__(self, job: Job, task: Task, cast: Cast, federation: Federation, clock: ClientClock) -> None:
        self._job, self._task, self._cast, self._federation, self._clock = job, task, cast, federation, clock
        self._rows: dict[str, dict[str, Any]] = {}
        self._outputs: dict[str, OutputRecorder] = {}
        self.lengths: set[int] = set()

    def add_original(self, state: TrainingState, seconds: float) -> None:
        """The model before anything is forgotten: what doing nothing leaves."""
        model, seed = self._federation.model, self._job["seed"]
        self._yardstick = _yardstick(self._task, self._cast, model, _vector(state), seed)
        self._measure("original", state)
        self._rows["original"] |= {
            "guarantee": {"kind": "none", "text": "nothing was done"},
            "rounds": 0,
            "training_client_seconds": self._clock.lap() / len(self._cast.clients),
            "training_seconds": seconds,
        }

    def add(self, row: str, method: UnlearningMethod) -> None:
        """Run a method; a refusal becomes a row that says why."""
        request = self._cast.request
        try:
            cost = self._federation.cost(request, method, adaptive=False)
            if isinstance(method, Rerun) and method.name == "rollback" and cost.rounds == cost.retraining_rounds:
                raise MethodRefused("no checkpoint is from before the data took part: it would be retraining")
            self._clock.lap()
            done = self._federation.unlearn(request, method, adaptive=False)
        except (MethodRefused, CheckpointError) as refusal:
            self._rows[row] = {"refused": str(refusal)}
            return
        except SecureFUError as error:
            if isinstance(method, Retrain | Shorter):
                raise
            self._rows[row] = {"refused": f"ended in {type(error).__name__}: {error}"}
            return
        seconds = self._clock.lap()
        self._measure(row, done.state)
        self._rows[row] |= {
            **_described(method, done.guarantee, done.traffic),
            "client_seconds": seconds / len(self._cast.clients),
            "epsilon": [entry.to_json() for entry in done.epsilon],
            "confidentiality": done.confidentiality.to_json(),
        }
        if not isinstance(method, Rerun | Shorter):
            self.lengths.add(len(done.traffic))

    def add_lengths(self, methods: Sequence[FineTune | Scratch]) -> None:
        """One baseline at several lengths, ascending: the shorter ones are the first rounds of the longest."""
        request, longest = self._cast.request, methods[-1]
        states: list[TrainingState] = []
        laps: list[float] = []

        def observe(state: TrainingState) -> None:
            states.append(state)
            laps.append(self._clock.lap())

        self._clock.lap()
        done = self._federation.unlearn(request, longest, on_round=observe, adaptive=False)
        for method in methods:
            row = f"{method.name} {method.length}"
            cost = self._federation.cost(request, method, adaptive=False)
            self._measure(row, states[method.length - 1])
            self._rows[row] |= {
                **_described(method, cost.guarantee, done.traffic[: method.length]),
                "client_seconds": sum(laps[: method.length]) / len(self._cast.clients),
                "epsilon": [entry.to_json() for entry in cost.epsilon],
                # Forgotten units enter none of these rounds, so that all lengths have the same figures.
                "confidentiality": done.confidentiality.to_json(),
            }

    def _measure(self, row: str, state: TrainingState) -> None:
        vector = _vector(state)
        self._rows[row] = {"figures": self._yardstick.figures(vector)}
        self._outputs[row] = self._yardstick.outputs(vector)

    def result(self) -> dict[str, Any]:
        """Rows, references and distances, as :class:`~comparison.statistics.CellFigures` wants them."""
        count = self._job["retrainings"]
        references = [self._rows.pop(f"reference {number}")["figures"] for number in range(1, count)]
        runs = [self._outputs["retrained"], *(self._outputs[f"reference {number}"] for number in range(1, count))]
        for row, entry in self._rows.items():
            if "figures" in entry:
                away = [self._outputs[row].distance(reference) for reference in runs[1:]]
                entry["figures"]["output_distance"] = float(np.mean(away))
        for method, reason in self._task.skipped.items():
            self._rows[method] = {"refused": f"not run here: {reason}"}
        return {
            "rows": self._rows,
            "references": references,
            "pairs": _pairs(runs),
            "forgotten": len(self._cast.forgotten),
            "scheme": self._job["scheme"],
            "dimension": self._federation.model.dimension,
            "training_rounds": self._federation.recipe.rounds,
        }


def _vector(state: TrainingState) -> Vector:
    return state.model.vector.astype(np.float64)


def _described(method: UnlearningMethod, guarantee: Guarantee, traffic: Sequence[RoundTraffic]) -> dict[str, Any]:
    return {
        "guarantee": {
            "kind": guarantee.kind,
            "text": guarantee.describe(),
            **{name: getattr(guarantee, name, None) for name in ("epsilon", "group_size", "view")},
        },
        "settings": repr(method),
        "rounds": len(traffic),
        "upload_bytes": sum(entry.upload_bytes for entry in traffic),
    }


def _yardstick(task: Task, cast: Cast, model: FlatModel, original: Vector, seed: int) -> Yardstick:
    return Yardstick(
        FlatModel(model.module),
        test=cast.scenario.test,
        retained=cast.retained,
        forgotten=cast.forgotten,
        forgotten_classes=cast.forgotten_classes,
        trigger=cast.trigger,
        original=original,
        relearn_rate=task.relearn_rate,
        seed=seed,
    )


def _pairs(runs: Sequence[OutputRecorder]) -> dict[str, float]:
    return {
        f"{one}-{other}": runs[one].distance(runs[other]) for one, other in itertools.combinations(range(len(runs)), 2)
    }


def _peers(job: Job, task: Task, cast: Cast, plan: Plan, model: FlatModel) -> dict[str, Any]:
    """The plaintext peers, with an original and retrainings of their own, all without noise."""
    leavers = {name for name, mask in cast.marks.items() if mask.all()}
    if not leavers or any(mask.any() and not mask.all() for mask in cast.marks.values()):
        return {
            "refused": "published for clients that leave; here the stored updates of all clients hold forgotten records"
        }
    seed = 1000 * (job["seed"] + 1)
    server = PlaintextServer(model, cast.clients, plan.recipe, seed=seed)
    stay = [name for name in server.clients if name not in leavers]
    original, history = server.train_and_keep()
    yardstick = _yardstick(task, cast, model, original, job["seed"])
    retrained = [
        PlaintextServer(model_at(model, server.start), cast.clients, plan.recipe, seed=seed + number + 1).train(stay)
        for number in range(job["retrainings"])
    ]
    rounds = plan.recipe.rounds
    client_unit = plan.recipe.unit is Unit.CLIENT
    recover = FedRecover(warm_up=max(2, rounds // 10), every=5 if client_unit else 10, tuning=max(1, rounds // 20))
    runs = [yardstick.outputs(vector) for vector in retrained]
    rows: dict[str, Any] = {}

    def add(row: str, vector: Vector, client_rounds: float) -> None:
        outputs = yardstick.outputs(vector)
        away = float(np.mean([outputs.distance(reference) for reference in runs[1:]]))
        figures: Mapping[str, float | None] = {**yardstick.figures(vector), "output_distance": away}
        rows[row] = {"figures": figures, "rounds": client_rounds}

    add("retrained", retrained[0], rounds)
    for peer in (FedEraser(), recover):
        outcome = peer.run(server, history, model, leavers)
        add(peer.name, outcome.vector, outcome.client_rounds)
    add("original", original, 0.0)
    return {
        "rows": rows,
        "references": [yardstick.figures(vector) for vector in retrained[1:]],
        "pairs": _pairs(runs),
    }


def model_at(model: FlatModel, vector: Vector) -> FlatModel:
    """The same architecture with other parameters, so that a training starts from there."""
    copy = FlatModel(model.module)
    copy.load(vector)
    return copy
