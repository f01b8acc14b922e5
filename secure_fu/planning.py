"""From what a federation wants (an epsilon, a number of rounds) to the noise, grid and budget that give it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from secure_fu.learning import FlatModel
from secure_fu.privacy import Budget, Grid, Unit, assured_clients, calibrate_noise
from secure_fu.training import Recipe

__all__ = ["Plan", "make_plan"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A training recipe with the budget that pays for it and for one unlearning branch.

    Attributes:
        recipe: how to train.
        budget: of each unit.
        minimum_cohort: fewer uploads than this are never opened.
        colluders: clients that may omit their noise or pool what they know.
        planned_epsilon: what training and the longest branch together will cost a unit that is in every round, by Renyi
            divergence; at most the budget's epsilon.
    """

    recipe: Recipe
    budget: Budget
    minimum_cohort: int
    colluders: int
    planned_epsilon: float


def make_plan(
    module: nn.Module,
    *,
    clients: int,
    nominal_units: int,
    minimum_cohort: int,
    unit: Unit = Unit.RECORD,
    epsilon: float = 8.0,
    delta: float = 1e-5,
    rounds: int = 100,
    sampling_rate: float = 0.25,
    learning_rate: float = 0.3,
    momentum: float = 0.9,
    clip_norm: float = 1.0,
    noise_multiplier: float | None = None,
    colluders: int = 1,
    deletion_reserve: float = 0.5,
    local: Mapping[str, float | int] | None = None,
) -> Plan:
    """Choose noise, saturation and the budget's order for a federation.

    Args:
        module: the model; only its size matters here.
        clients: how many there are.
        nominal_units: public number of units that the federation is designed for; sums are divided by it. Never a
            private count.
        minimum_cohort: fewer uploads than this are never opened; at least colluders + 2.
        unit: privacy unit.
        epsilon, delta: what one unit may spend on training and one unlearning branch together.
        rounds: of a full training; retraining, the longest branch, takes as many again.
        sampling_rate: probability with which a silo samples each of its units; must be 1 for the client unit.
        noise_multiplier: None takes the smallest that fits the budget.
        deletion_reserve: fraction of the Renyi budget that training leaves for deletions.
        local: for the client unit: `epochs`, `batch_size`, `learning_rate` of local training.

    Raises:
        ArgumentError: an argument is out of its domain.
        UnattainableEpsilonError: no noise multiplier reaches the budget.
    """
    dimension = FlatModel(module).dimension
    # Twice what an average silo's expected sample can reach in one coordinate; made from public numbers only.
    sampled = 1.0 if unit is Unit.CLIENT else max(1.0, 2.0 * sampling_rate * nominal_units / clients)
    saturation = clip_norm * sampled
    grid = Grid.fine(clip_norm=clip_norm, dimension=dimension, saturation=saturation, unit=unit)
    calibration = calibrate_noise(
        epsilon=epsilon,
        delta=delta,
        rounds={sampling_rate: 2 * rounds},
        sensitivity_in_steps=grid.sensitivity / grid.step,
        dimension=dimension,
        shares=assured_clients(minimum_cohort, colluders),
    )
    return Plan(
        recipe=Recipe(
            unit=unit,
            rounds=rounds,
            learning_rate=learning_rate,
            momentum=momentum,
            clip_norm=clip_norm,
            noise_multiplier=calibration.noise_multiplier if noise_multiplier is None else noise_multiplier,
            sampling_rate=sampling_rate,
            nominal_units=nominal_units,
            saturation=saturation,
            local=dict(local or {}),
        ),
        budget=Budget(
            epsilon=epsilon, delta=delta, order=calibration.order, deletion_reserve=deletion_reserve, unit=unit
        ),
        minimum_cohort=minimum_cohort,
        colluders=colluders,
        planned_epsilon=calibration.epsilon,
    )
