"""The secure simulation: train, delete, retrain, unlearn with each method, measure, write the run directory."""

from __future__ import annotations

import hashlib
import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from secure_fu.config import SimulationConfig
from secure_fu.config_file import to_toml
from secure_fu.crypto import CommitteeTerms, InsecureDeterministicRandomness
from secure_fu.errors import MethodRefused
from secure_fu.evaluation import Evaluator
from secure_fu.federation import Federation
from secure_fu.learning import FlatModel
from secure_fu.planning import Plan, make_plan
from secure_fu.privacy import Unit
from secure_fu.protocol import GridKind, ReleasedModel
from secure_fu.report import write_report
from secure_fu.results import ResultBuilder
from secure_fu.run_directory import RunDirectory
from secure_fu.scenario import Scenario, build_scenario
from secure_fu.training import OnRound, TrainingState
from secure_fu.unlearning import Retrain, UnlearningMethod, method_from_settings

__all__ = ["Progress", "Simulation", "committee_of", "encryption_processes", "plan_of"]

# A curve needs no more points than a plot can show.
_CURVE_POINTS = 100

# From about five ciphertexts on, handing the encryption to another process costs less than it saves.
_WORTH_A_WORKER = 20_000


class Progress(Protocol):
    """Told how far a simulation is."""

    def phase(self, title: str, steps: int) -> None:
        """A phase of so many steps begins; the one before it is done."""

    def advance(self) -> None:
        """One step of the phase is done."""


class _Silent:
    def phase(self, title: str, steps: int) -> None:
        pass

    def advance(self) -> None:
        pass


class Simulation:
    """One run of a configuration.

    Args:
        config: what to run.
        out: the run directory, new or empty.
        data_dir: takes the place of `data.path`.
        insecure_deterministic: test-only: noise and sampling come from the seed, so whoever knows it sees through them.
        progress: told how far the run is.

    Raises:
        ConfigError, DataError, RunDirectoryError, UnattainableEpsilonError, BudgetExceededError: before anything long
            starts.
    """

    def __init__(
        self,
        config: SimulationConfig,
        out: Path,
        *,
        data_dir: Path | None = None,
        insecure_deterministic: bool = False,
        progress: Progress | None = None,
    ) -> None:
        self._methods = _methods(config)
        self._config = config
        self._progress: Progress = _Silent() if progress is None else progress
        self._progress.phase("preparing", 1)
        scenario = build_scenario(config, data_dir=data_dir)
        plan = plan_of(config, scenario)
        self._directory = RunDirectory(out)
        self._directory.write_text("config.toml", to_toml(config))
        self._federation = Federation(
            scenario.module,
            scenario.clients,
            plan=plan,
            scheme_name=config.protocol.scheme,
            joins=scenario.joins,
            committee=committee_of(config),
            vanishes=_accidents(config),
            member_vanishes=_member_accidents(config),
            directory=out,
            keep_history=any(method.needs_history for method in self._methods),
            methods=self._methods,
            encryption_processes=encryption_processes(FlatModel(scenario.module).dimension),
            randomness=InsecureDeterministicRandomness(config.seed) if insecure_deterministic else None,
        )
        self._request = scenario.request
        self._evaluator = Evaluator(scenario, self._federation.model)
        self._results = ResultBuilder(
            config=config,
            scenario=scenario,
            federation=self._federation,
            evaluator=self._evaluator,
            insecure_deterministic=insecure_deterministic,
        )

    def run(self) -> dict[str, object]:
        """Run everything, write the run directory, return the result.

        A run that ends early, even one that is killed, leaves config, ledger, transcript, the models so far and a
        result marked incomplete; where there is an exception, a note on it says where.

        Raises:
            BudgetExceededError, RoundAborted: a round could not be run.
        """
        try:
            with self._federation:
                self._save_unfinished()
                self._train()
                for method in self._methods:
                    self._save_unfinished()
                    self._unlearn(method)
            self._progress.phase("writing the report", 1)
            result = self._results.to_dict(complete=True)
            write_report(result, self._directory.path)
            self._directory.write_json("result.json", result)
        except BaseException as error:
            self._save_unfinished()
            error.add_note(f"what was done is in {self._directory.path}, marked incomplete")
            raise
        self._progress.advance()
        return result

    def _save_unfinished(self) -> None:
        self._directory.write_json("result.json", self._results.to_dict(complete=False))

    def _train(self) -> None:
        self._progress.phase("training", self._config.training.rounds)
        started = time.perf_counter()
        self._record_point("original", 0, self._federation.state.model)
        state = self._federation.train(self._observer("original", self._config.training.rounds))
        self._results.add_original(state, seconds=time.perf_counter() - started)
        self._keep_model("original", state.model)

    def _unlearn(self, method: UnlearningMethod) -> None:
        row = "retrained" if isinstance(method, Retrain) else method.name
        deletion = self._federation.deletion(self._request, adaptive=False)
        try:
            method.check(deletion)
        except MethodRefused as refusal:
            self._results.add_refused(row, method.title, str(refusal))
            return
        rounds = method.rounds(deletion)
        self._progress.phase(method.title.lower(), rounds)
        self._record_point(row, 0, method.start_state(deletion).model)
        unlearned = self._federation.unlearn(
            self._request, method, on_round=self._observer(row, rounds), adaptive=False
        )
        self._results.add_unlearned(row, method.title, unlearned)
        self._keep_model(row, unlearned.state.model)

    def _observer(self, row: str, rounds: int) -> OnRound:
        every = max(1, rounds // _CURVE_POINTS)
        count = itertools.count(1)

        def observe(state: TrainingState) -> None:
            done = next(count)
            if done % every == 0 or done == rounds:
                self._record_point(row, done, state.model)
            self._progress.advance()

        return observe

    def _record_point(self, row: str, done: int, model: ReleasedModel) -> None:
        accuracy, success = self._evaluator.quick(model)
        self._results.add_point(row, done, accuracy, success)

    def _keep_model(self, row: str, model: ReleasedModel) -> None:
        self._directory.write_model(row, self._federation.model.tensors(model.vector.astype("float64")))


def _methods(config: SimulationConfig) -> list[UnlearningMethod]:
    settings = config.unlearning.settings
    for name, values in settings.items():
        method_from_settings(name, values)  # also those of methods that do not run: a typo must not go unseen
    return [Retrain(), *(method_from_settings(name, settings.get(name, {})) for name in config.unlearning.methods)]


def encryption_processes(dimension: int) -> int:
    """How many worker processes pay off for models of this size on this machine: 0, or one for each spare core."""
    affinity = getattr(os, "sched_getaffinity", None)  # missing on macOS and Windows
    cores = len(affinity(0)) if affinity is not None else (os.cpu_count() or 1)
    return cores - 1 if dimension >= _WORTH_A_WORKER else 0


def plan_of(config: SimulationConfig, scenario: Scenario) -> Plan:
    """The plan of a configuration: recipe, budget and cohort.

    Raises:
        BudgetExceededError: the noise multiplier in the configuration is too small for the budget.
        UnattainableEpsilonError: no noise multiplier reaches the budget.
    """
    training = config.training
    unit = Unit(training.unit)
    return make_plan(
        scenario.module,
        clients=len(scenario.clients),
        nominal_units=training.nominal_units or scenario.count_units(unit),
        minimum_cohort=config.protocol.minimum_cohort,
        unit=unit,
        epsilon=config.privacy.epsilon,
        delta=config.privacy.delta,
        rounds=training.rounds,
        branch_rounds=_longest_branch(config),
        sampling_rate=training.sampling_rate,
        learning_rate=training.learning_rate,
        momentum=training.momentum,
        clip_norm=training.clip_norm,
        noise_multiplier=config.privacy.noise_multiplier or None,
        least_noise_multiplier=config.privacy.least_noise_multiplier or None,
        weight_decay=training.weight_decay,
        checkpoint_every=training.checkpoint_every,
        checkpoint_limit=training.checkpoint_limit,
        colluders=config.protocol.colluders,
        deletion_reserve=config.privacy.deletion_reserve,
        grid=GridKind(config.protocol.grid),
        sum_bits=config.protocol.sum_bits,
        local={
            "epochs": training.local_epochs,
            "batch_size": training.local_batch_size,
            "learning_rate": training.local_learning_rate,
        }
        if unit is Unit.CLIENT
        else None,
    )


def committee_of(config: SimulationConfig) -> CommitteeTerms:
    """The committee of a configuration."""
    protocol = config.protocol
    return CommitteeTerms(
        members=protocol.members, threshold=protocol.threshold, quorum=protocol.quorum, corrupt=protocol.corrupt
    )


def _longest_branch(config: SimulationConfig) -> int:
    """Rounds of the longest unlearning branch: retraining's, or those of a method that takes more."""
    return max(method.most_rounds(config.training.rounds) for method in _methods(config))


def _accidents(config: SimulationConfig) -> Callable[[int, str], bool]:
    """Which clients fail to answer which rounds; simulated, from the seed."""

    def vanishes(round_number: int, client: str) -> bool:
        draw = hashlib.sha256(f"dropout/{config.seed}/{round_number}/{client}".encode()).digest()
        return int.from_bytes(draw[:8], "big") < config.protocol.dropout * 2**64

    return vanishes


def _member_accidents(config: SimulationConfig) -> Callable[[int, str], bool]:
    """Whether a member is away when it is asked: a fresh draw each time, from the seed and a count of questions."""
    asked = itertools.count()

    def vanishes(round_number: int, member: str) -> bool:
        draw = hashlib.sha256(f"member/{config.seed}/{next(asked)}/{round_number}/{member}".encode()).digest()
        return int.from_bytes(draw[:8], "big") < config.protocol.member_dropout * 2**64

    return vanishes
