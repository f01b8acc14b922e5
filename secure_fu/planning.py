"""From what a federation wants (an epsilon, a number of rounds) to the noise, grid and budget that give it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from secure_fu.errors import ArgumentError, BudgetExceededError
from secure_fu.learning import FlatModel
from secure_fu.privacy import (
    Budget,
    Calibration,
    GaussianSumEvent,
    Grid,
    RotatedGrid,
    Unit,
    assured_clients,
    calibrate_noise,
    renyi_epsilon,
)
from secure_fu.privacy.accounting import ORDERS, order_for_events, rdp, renyi_limit
from secure_fu.privacy.discretisation import discretisation_divergence, divergence_limit
from secure_fu.protocol import GridKind
from secure_fu.training import Recipe

__all__ = ["Plan", "make_plan", "spare_rounds"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A training recipe with the budget that pays for it and for one unlearning branch.

    Attributes:
        recipe: how to train.
        budget: of each unit.
        minimum_cohort: fewer uploads than this are never opened.
        colluders: clients that may omit their noise or pool what they know.
        grid: how contributions become integers.
        sum_bits: width of a coordinate of a sum on the rotated grid.
        least_noise_multiplier: the least noise of any round; below the recipe's for methods that ask for less.
        largest_sampling_rate: of any round; above the recipe's for methods that sample forgotten units more often.
        checkpoint_every: the public grid of the states that the server keeps, in rounds; a coarser one tells less about
            who joined when.
        checkpoint_limit: most states that it keeps; one more, and the grid's spacing doubles.
        planned_epsilon: what training and the longest branch together will cost a unit that is in every round, by Renyi
            divergence; at most the budget's epsilon.
    """

    recipe: Recipe
    budget: Budget
    minimum_cohort: int
    colluders: int
    grid: GridKind = GridKind.FINE
    sum_bits: int = 16
    least_noise_multiplier: float
    largest_sampling_rate: float
    checkpoint_every: int = 10
    checkpoint_limit: int = 32
    planned_epsilon: float

    def __post_init__(self) -> None:
        if not 0.0 < self.least_noise_multiplier <= self.recipe.noise_multiplier:
            raise ArgumentError(
                "least_noise_multiplier",
                self.least_noise_multiplier,
                f"a positive number, at most the recipe's {self.recipe.noise_multiplier:g}",
            )
        if not self.recipe.sampling_rate <= self.largest_sampling_rate <= 1.0:
            raise ArgumentError(
                "largest_sampling_rate",
                self.largest_sampling_rate,
                f"between the recipe's {self.recipe.sampling_rate:g} and 1",
            )
        if self.checkpoint_every < 1:
            raise ArgumentError("checkpoint_every", self.checkpoint_every, "at least 1")
        if self.checkpoint_limit < 2:
            raise ArgumentError("checkpoint_limit", self.checkpoint_limit, "at least 2")


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
    branch_rounds: int | None = None,
    noise_multiplier: float | None = None,
    colluders: int = 1,
    deletion_reserve: float = 0.5,
    weight_decay: float = 0.0,
    saturation: float | None = None,
    local: Mapping[str, float | int] | None = None,
    grid: GridKind = GridKind.FINE,
    sum_bits: int = 16,
    least_noise_multiplier: float | None = None,
    largest_sampling_rate: float | None = None,
    checkpoint_every: int = 10,
    checkpoint_limit: int = 32,
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
        rounds: of a full training.
        sampling_rate: probability with which a silo samples each of its units; must be 1 for the client unit.
        branch_rounds: of the longest unlearning branch, at the same sampling rate; None for as many as training has, as
            retraining takes.
        noise_multiplier: None takes the smallest that fits the budget.
        deletion_reserve: fraction of the Renyi budget that training leaves for deletions.
        weight_decay: lambda of the L2 term lambda / 2 |w|^2 of what is minimised.
        saturation: bound on each coordinate of one client's contribution; None for half the clip norm of every unit
            that a client of average size samples. Certified `newton` needs one that never acts: the clip norm times
            the units of the largest client.
        local: for the client unit: `epochs`, `batch_size`, `learning_rate` of local training.
        grid: `GridKind.ROTATED` makes sums of `sum_bits` bits; for the client unit and scheme `kahe`.
        sum_bits: width of a coordinate of a sum on the rotated grid.
        least_noise_multiplier: what clients accept as the least noise of a round; None for that of training. The budget
            holds in any case: their ledgers refuse what goes beyond it.
        largest_sampling_rate: what clients accept as the largest rate; None for twice that of training, or 1. What a
            round costs is charged at its own rate, and the budget holds as above.
        checkpoint_every, checkpoint_limit: of the states of training that the server keeps, see :class:`Plan`.

    Raises:
        ArgumentError: an argument is out of its domain.
        BudgetExceededError: the noise multiplier given cannot keep training and the longest branch within the budget.
        UnattainableEpsilonError: no noise multiplier reaches the budget.
    """
    for name, number in (("clients", clients), ("nominal_units", nominal_units), ("rounds", rounds)):
        if number < 1:
            raise ArgumentError(name, number, "at least 1")
    if minimum_cohort > clients:
        raise ArgumentError("minimum_cohort", minimum_cohort, f"at most {clients}, the clients there are")
    if not 0.0 <= deletion_reserve < 1.0:
        raise ArgumentError("deletion_reserve", deletion_reserve, "a number in [0, 1)")
    longest = rounds if branch_rounds is None else branch_rounds
    if longest < 0:
        raise ArgumentError("branch_rounds", longest, "at least 0")
    dimension = FlatModel(module).dimension
    # A sum in which every sampled unit puts half its clip norm into one coordinate, all the same way, is no gradient
    # any more; what is clamped there costs utility, not privacy. Made from public numbers only.
    sampled = 1.0 if unit is Unit.CLIENT else max(1.0, 0.5 * sampling_rate * nominal_units / clients)
    saturation = clip_norm * sampled if saturation is None else saturation
    shares = assured_clients(minimum_cohort, colluders)
    # Renyi divergences add: a training that must leave a part of the budget needs the noise of a longer one. A round
    # that too few clients answered has cost those who answered, so there are some to spare.
    training = rounds + spare_rounds(rounds)
    budgeted = max(training + longest + spare_rounds(longest), math.ceil(training / (1.0 - deletion_reserve)))

    fine = Grid.fine(clip_norm=clip_norm, dimension=dimension, saturation=saturation, unit=unit)

    def scale_at(multiplier: float) -> float:
        """The sensitivity in steps; the rotated grid's step depends on the noise."""
        chosen: Grid | RotatedGrid = fine
        if grid is GridKind.ROTATED:
            chosen = RotatedGrid.for_sums(
                clip_norm=clip_norm,
                dimension=dimension,
                clients=clients,
                noise_multiplier=multiplier,
                assured=shares,
                sum_bits=sum_bits,
                unit=unit,
            )
        return chosen.sensitivity / chosen.step

    def events(multiplier: float, count: int) -> dict[GaussianSumEvent, int]:
        event = GaussianSumEvent(
            noise_multiplier=multiplier,
            sampling_rate=sampling_rate,
            grid_ratio=multiplier * scale_at(multiplier),
            dimension=dimension,
            shares=shares,
        )
        return {event: count}

    def calibrated() -> Calibration:
        """The smallest noise that fits: on the fine grid, then on the coarser ones that follow and take more."""
        scale = fine.sensitivity / fine.step
        while True:
            found = calibrate_noise(
                epsilon=epsilon,
                delta=delta,
                rounds={sampling_rate: budgeted},
                sensitivity_in_steps=scale,
                dimension=dimension,
                shares=shares,
            )
            coarser = scale_at(found.noise_multiplier)
            if coarser >= scale:
                return found
            scale = coarser

    def passes(multiplier: float) -> bool:
        """Whether the ledger's filter will admit them all."""
        planned = events(multiplier, budgeted)
        order = order_for_events(planned, delta=delta)
        (event,) = planned
        divergence = budgeted * float(rdp(event)[ORDERS.index(order)])
        discrete = budgeted * discretisation_divergence(event)
        if discrete > divergence_limit(epsilon=epsilon, delta=delta):
            return False
        return divergence <= renyi_limit(epsilon=epsilon, delta=delta, order=order)

    given = noise_multiplier
    if given is None or not passes(given):
        calibration = calibrated()
        if given is not None:
            raise BudgetExceededError(
                f"noise_multiplier is {given:g}; expected at least {calibration.noise_multiplier:g}, which keeps "
                f"{rounds} rounds of training and {longest} of the longest branch within epsilon {epsilon:g} at delta "
                f"{delta:g}, {deletion_reserve:.0%} of it reserved for deletions"
            )
        noise_multiplier, order = calibration.noise_multiplier, calibration.order
    else:
        noise_multiplier, order = given, order_for_events(events(given, budgeted), delta=delta)
    return Plan(
        recipe=Recipe(
            unit=unit,
            rounds=rounds,
            learning_rate=learning_rate,
            momentum=momentum,
            clip_norm=clip_norm,
            noise_multiplier=noise_multiplier,
            sampling_rate=sampling_rate,
            nominal_units=nominal_units,
            saturation=saturation,
            weight_decay=weight_decay,
            local=dict(local or {}),
        ),
        budget=Budget(epsilon=epsilon, delta=delta, order=order, deletion_reserve=deletion_reserve, unit=unit),
        minimum_cohort=minimum_cohort,
        colluders=colluders,
        grid=grid,
        sum_bits=sum_bits,
        least_noise_multiplier=noise_multiplier if least_noise_multiplier is None else least_noise_multiplier,
        largest_sampling_rate=min(1.0, 2.0 * sampling_rate) if largest_sampling_rate is None else largest_sampling_rate,
        checkpoint_every=checkpoint_every,
        checkpoint_limit=checkpoint_limit,
        planned_epsilon=renyi_epsilon(events(noise_multiplier, rounds + longest), delta=delta),
    )


def spare_rounds(rounds: int) -> int:
    """How many further rounds a budget keeps for so many: one that too few clients answered has cost those who did."""
    return math.ceil(rounds / 50)
