"""The cheapest retraining that is as good as the full one, so that a long training cannot flatter a method.

A shorter retraining has its own noise: as many rounds fewer, so much more Renyi divergence each may cost. Its length
and learning rate are chosen per task, on seeds of their own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from secure_fu.planning import Plan
from secure_fu.privacy import GaussianSumEvent, Phase, assured_clients
from secure_fu.privacy.accounting import ORDERS, rdp
from secure_fu.protocol import LocalTask, SecureSums
from secure_fu.training import OnRound, Recipe, Silo, TrainingState, no_observer, train, training_task
from secure_fu.unlearning import Deletion, Exact, Outcome, PlannedRounds, UnlearningMethod

__all__ = ["EQUAL", "FACTORS", "Shorter", "cheapest", "shorter_recipe"]

EQUAL = 0.005
"""Test accuracy that may be lost and still counts as equal, on the mean over the seeds of the scan."""

FACTORS = (1.0, 2.0)
"""Learning rates that are tried, over the recipe's own."""

_HALVINGS = 18


def shorter_recipe(plan: Plan, *, rounds: int, rate_factor: float) -> Recipe:
    """The recipe with fewer rounds, and the least noise with which they cost what the recipe's rounds cost."""
    recipe = plan.recipe

    def divergence(multiplier: float) -> float:
        event = GaussianSumEvent(
            noise_multiplier=multiplier,
            sampling_rate=recipe.sampling_rate,
            grid_ratio=1e6,  # as if continuous; what the grid adds is far below what is left over here
            dimension=1,
            shares=assured_clients(plan.minimum_cohort, plan.colluders),
        )
        return float(rdp(event)[ORDERS.index(plan.budget.order)])

    allowed = recipe.rounds * divergence(recipe.noise_multiplier)
    low, high = recipe.noise_multiplier / 100.0, recipe.noise_multiplier
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if rounds * divergence(middle) > allowed else (low, middle)
    return dataclasses.replace(
        recipe, rounds=rounds, noise_multiplier=high, learning_rate=rate_factor * recipe.learning_rate
    )


@dataclass(frozen=True, kw_only=True)
class Shorter(UnlearningMethod):
    """Train again without the data, in fewer rounds with less noise each.

    Attributes:
        length: rounds.
        noise_multiplier, learning_rate: see :func:`shorter_recipe`.
    """

    length: int
    noise_multiplier: float
    learning_rate: float

    name: ClassVar[str] = "shorter"
    title: ClassVar[str] = "Cheapest retraining"

    @classmethod
    def of(cls, recipe: Recipe) -> Shorter:
        """The retraining by a recipe of :func:`shorter_recipe`."""
        return cls(length=recipe.rounds, noise_multiplier=recipe.noise_multiplier, learning_rate=recipe.learning_rate)

    def plan(self, deletion: Deletion) -> tuple[PlannedRounds, ...]:
        """Rounds that no forgotten unit enters."""
        planned = PlannedRounds.of(deletion, self.length, forgotten_rate=0.0)
        return (dataclasses.replace(planned, noise_multiplier=self.noise_multiplier),)

    def start_state(self, deletion: Deletion) -> TrainingState:
        """The public start."""
        return deletion.checkpoints.load(0)

    def guarantee(self, deletion: Deletion) -> Exact:
        """Nothing of the data enters."""
        return Exact("it is trained again without the data, with fresh noise, by a shorter recipe", assumptions=())

    def client_tasks(self, silo: Silo) -> Mapping[str, LocalTask]:
        """The code of training."""
        return {self.purpose: training_task(silo)}

    def run(self, sums: SecureSums, deletion: Deletion, on_round: OnRound = no_observer) -> Outcome:
        """See :meth:`UnlearningMethod.run`."""
        recipe = dataclasses.replace(
            deletion.recipe, noise_multiplier=self.noise_multiplier, learning_rate=self.learning_rate
        )
        state = train(
            sums,
            recipe,
            self.start_state(deletion),
            self.length,
            purpose=self.purpose,
            phase=Phase.UNLEARNING,
            forgotten_rate=0.0,
            on_round=on_round,
        )
        return Outcome(state=state, guarantee=self.guarantee(deletion))


def cheapest(scans: Iterable[Sequence[Mapping[str, Any]]], *, full: int) -> dict[str, Any]:
    """The fewest rounds whose mean accuracy is at most :data:`EQUAL` below that of the full training.

    Args:
        scans: one a seed: entries of rounds, rate_factor and test_accuracy, the full training at factor 1 among them.
        full: rounds of the full training.

    Returns:
        rounds, rate_factor, test_accuracy and full_accuracy; the full training itself if nothing shorter will do.
    """
    accuracies: dict[tuple[int, float], list[float]] = {}
    for scan in scans:
        for entry in scan:
            place = (int(entry["rounds"]), float(entry["rate_factor"]))
            accuracies.setdefault(place, []).append(float(entry["test_accuracy"]))
    means = {place: sum(values) / len(values) for place, values in accuracies.items()}
    aim = means[full, 1.0] - EQUAL
    fewest = min(rounds for (rounds, _), mean in means.items() if mean >= aim)
    rounds, factor = max((place for place in means if place[0] == fewest), key=means.__getitem__)
    return {
        "rounds": rounds,
        "rate_factor": factor,
        "test_accuracy": means[rounds, factor],
        "full_accuracy": means[full, 1.0],
    }
