"""A plan's noise keeps its budget, by accountants that are not ours, and is no larger than it has to be."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant

from secure_fu.errors import ArgumentError, BudgetExceededError, UnattainableEpsilonError
from secure_fu.learning import FlatModel, logistic, mlp
from secure_fu.planning import Plan, make_plan
from secure_fu.privacy import GaussianSumEvent, Grid, Phase, RotatedGrid, Unit, renyi_epsilon
from secure_fu.privacy.accounting import ORDERS, rdp
from secure_fu.protocol import GridKind

MODEL = logistic(4, 3, seed=0)
WIDE = mlp(64, (32,), 10, seed=0)


def plan(**changes: Any) -> Plan:
    return make_plan(MODEL, **{"clients": 5, "nominal_units": 400, "minimum_cohort": 4, "rounds": 10, **changes})


def tight_epsilon(noise_multiplier: float, sampling_rate: float, rounds: int, delta: float) -> float:
    """By the privacy loss distribution of dp-accounting, which no Renyi bound undercuts."""
    accountant = PLDAccountant()
    one = PoissonSampledDpEvent(sampling_rate, GaussianDpEvent(noise_multiplier))
    accountant.compose(SelfComposedDpEvent(one, rounds))
    return float(accountant.get_epsilon(delta))


def renyi_epsilon_of_gaussians(noise_multiplier: float, rounds: int, delta: float) -> float:
    """Mironov 2017, corollary 3, and Canonne, Kamath, Steinke 2020, proposition 12, at any order."""
    order = 1.0 + np.logspace(-3, 4, 20_000)
    divergence = order * rounds / (2.0 * noise_multiplier**2)
    return float(np.min(divergence + np.log1p(-1.0 / order) - np.log(delta * order) / (order - 1.0)))


@pytest.mark.parametrize(("epsilon", "sampling_rate", "rounds"), [(8.0, 0.25, 10), (2.0, 0.05, 60), (1.0, 0.25, 2)])
def test_training_and_the_longest_branch_fit_the_budget(epsilon: float, sampling_rate: float, rounds: int) -> None:
    made = plan(epsilon=epsilon, sampling_rate=sampling_rate, rounds=rounds)
    spent = tight_epsilon(made.recipe.noise_multiplier, sampling_rate, 2 * rounds, 1e-5)
    assert 0.6 * epsilon < spent <= epsilon
    assert spent <= made.planned_epsilon <= epsilon


@pytest.mark.parametrize("epsilon", [8.0, 1.0])
def test_unamplified_noise_is_the_smallest_by_the_closed_form(epsilon: float) -> None:
    made = plan(unit=Unit.CLIENT, sampling_rate=1.0, epsilon=epsilon)
    smallest = made.recipe.noise_multiplier
    # Ten rounds of training, ten of the longest branch, and one to spare for each.
    assert renyi_epsilon_of_gaussians(smallest, 22, 1e-5) <= epsilon
    assert renyi_epsilon_of_gaussians(0.985 * smallest, 22, 1e-5) > epsilon
    assert made.planned_epsilon == pytest.approx(renyi_epsilon_of_gaussians(smallest, 20, 1e-5), rel=2e-3)


def test_noise_by_hand_is_taken_when_it_fits_and_refused_when_it_does_not() -> None:
    smallest = plan().recipe.noise_multiplier
    again = plan(noise_multiplier=smallest)
    assert again == plan()
    more = plan(noise_multiplier=3.0 * smallest)
    assert more.recipe.noise_multiplier == 3.0 * smallest
    assert more.planned_epsilon < 0.5 * again.planned_epsilon
    with pytest.raises(BudgetExceededError, match=rf"noise_multiplier is .*; expected at least {smallest:g}") as caught:
        plan(noise_multiplier=0.99 * smallest)
    assert "10 rounds of training and 10 of the longest branch within epsilon 8" in str(caught.value)


def test_noise_by_hand_for_an_epsilon_out_of_reach_says_so() -> None:
    with pytest.raises(UnattainableEpsilonError):
        plan(noise_multiplier=2.0, epsilon=1e-4)


def test_the_budgets_order_admits_all_rounds_with_noise_by_hand() -> None:
    made = plan(noise_multiplier=50.0)
    index = ORDERS.index(made.budget.order)
    assert 20 * rdp(event(made))[index] <= made.budget.limit(Phase.UNLEARNING)


def event(made: Plan) -> GaussianSumEvent:
    """One round of a plan, as the ledger charges it."""
    recipe = made.recipe
    dimension = FlatModel(MODEL).dimension
    grid = Grid.fine(clip_norm=recipe.clip_norm, dimension=dimension, saturation=recipe.saturation, unit=recipe.unit)
    return GaussianSumEvent(
        noise_multiplier=recipe.noise_multiplier,
        sampling_rate=recipe.sampling_rate,
        grid_ratio=recipe.noise_multiplier * grid.sensitivity / grid.step,
        dimension=dimension,
        shares=made.minimum_cohort - made.colluders,
    )


@pytest.mark.parametrize("reserve", [0.0, 0.5, 0.8, 0.95])
def test_training_leaves_the_deletion_reserve(reserve: float) -> None:
    made = plan(deletion_reserve=reserve)
    divergence = rdp(event(made))[ORDERS.index(made.budget.order)]
    # Ten rounds each, and one to spare.
    assert 11 * divergence <= made.budget.limit(Phase.TRAINING)
    assert 22 * divergence <= made.budget.limit(Phase.UNLEARNING)
    # and not much more noise than that takes
    assert 11.5 * divergence > made.budget.limit(Phase.TRAINING) or 23 * divergence > made.budget.limit(
        Phase.UNLEARNING
    )


@pytest.mark.parametrize(("rounds", "branch_rounds"), [(1, 1), (50, 50), (51, 50), (100, 20), (20, 100), (10, 0)])
def test_there_are_rounds_to_spare_one_for_every_fifty_begun(rounds: int, branch_rounds: int) -> None:
    """A round that too few clients answered costs those who answered; a few of them must not end a training."""
    made = plan(rounds=rounds, branch_rounds=branch_rounds, deletion_reserve=0.0)
    divergence = rdp(event(made))[ORDERS.index(made.budget.order)]
    spare = -(-rounds // 50) - (-branch_rounds // 50)
    fit = made.budget.limit(Phase.UNLEARNING) / divergence
    assert rounds + branch_rounds + spare <= fit < 1.05 * (rounds + branch_rounds + spare) + 1
    # What is planned to be spent is without them.
    assert made.planned_epsilon == renyi_epsilon({event(made): rounds + branch_rounds}, delta=1e-5)


# The rotated grid


def rotated(**changes: Any) -> Plan:
    arguments = {"unit": Unit.CLIENT, "sampling_rate": 1.0, "grid": GridKind.ROTATED, **changes}
    return make_plan(WIDE, **{"clients": 100, "nominal_units": 100, "minimum_cohort": 90, "rounds": 10, **arguments})


def rotated_grid(made: Plan, clients: int = 100) -> RotatedGrid:
    return RotatedGrid.for_sums(
        clip_norm=made.recipe.clip_norm,
        dimension=FlatModel(WIDE).dimension,
        clients=clients,
        noise_multiplier=made.recipe.noise_multiplier,
        assured=made.minimum_cohort - made.colluders,
        sum_bits=made.sum_bits,
    )


@pytest.mark.parametrize("sum_bits", [14, 16, 24])
def test_a_plan_for_the_rotated_grid_keeps_its_budget_on_that_grid(sum_bits: int) -> None:
    made = rotated(sum_bits=sum_bits)
    assert (made.grid, made.sum_bits) == (GridKind.ROTATED, sum_bits)
    grid = rotated_grid(made)
    event = GaussianSumEvent(
        noise_multiplier=made.recipe.noise_multiplier,
        sampling_rate=1.0,
        grid_ratio=made.recipe.noise_multiplier * grid.sensitivity / grid.step,
        dimension=grid.encoded_dimension,
        shares=made.minimum_cohort - made.colluders,
    )
    assert renyi_epsilon({event: 22}, delta=1e-5) <= 8.0
    assert made.planned_epsilon == renyi_epsilon({event: 20}, delta=1e-5)
    # The discrete noise costs hardly more than a Gaussian of its size, and the plan takes no more noise than it needs.
    assert made.planned_epsilon == pytest.approx(
        renyi_epsilon_of_gaussians(made.recipe.noise_multiplier, 20, 1e-5), rel=2e-3
    )
    assert renyi_epsilon_of_gaussians(0.985 * made.recipe.noise_multiplier, 22, 1e-5) > 8.0


def test_noise_by_hand_serves_on_the_rotated_grid_too() -> None:
    smallest = rotated().recipe.noise_multiplier
    assert rotated(noise_multiplier=smallest) == rotated()
    assert rotated(noise_multiplier=2.0 * smallest).planned_epsilon < rotated().planned_epsilon
    with pytest.raises(BudgetExceededError, match="noise_multiplier is"):
        rotated(noise_multiplier=0.95 * smallest)


def test_bits_that_are_too_few_are_answered_with_more_that_soon_are_enough() -> None:
    """The grid that a width needs takes more noise, which may need a wider one again."""
    tried = [8]
    while True:
        try:
            made = rotated(sum_bits=tried[-1])
            break
        except ArgumentError as error:
            (more,) = re.findall(r"^sum_bits is \d+; expected at least (\d+);", str(error))
            tried.append(int(more))
    assert made.sum_bits == tried[-1]
    assert tried == sorted(set(tried))
    assert 1 < len(tried) <= 4
    assert tried[-1] <= 14


def test_a_coarse_grid_takes_more_noise_and_the_plan_has_it() -> None:
    noise = {bits: rotated(sum_bits=bits).recipe.noise_multiplier for bits in (13, 14, 16)}
    assert noise[13] > 1.1 * noise[14]
    assert noise[14] == noise[16]


def test_the_rotated_grid_is_for_the_client_unit() -> None:
    with pytest.raises(ArgumentError, match=r"Unit\.CLIENT"):
        plan(grid=GridKind.ROTATED)


def test_a_branch_longer_than_training_is_paid_for() -> None:
    made = plan(rounds=2, branch_rounds=12)
    assert 14 * rdp(event(made))[ORDERS.index(made.budget.order)] <= made.budget.limit(Phase.UNLEARNING)
    assert made.planned_epsilon == pytest.approx(renyi_epsilon({event(made): 14}, delta=1e-5))
    assert made.recipe.noise_multiplier > plan(rounds=2).recipe.noise_multiplier


def test_more_epsilon_takes_less_noise() -> None:
    noise = [plan(epsilon=epsilon).recipe.noise_multiplier for epsilon in (0.5, 2.0, 8.0)]
    assert noise == sorted(noise, reverse=True)


def test_saturation_and_grid_follow_from_public_numbers() -> None:
    made = plan(nominal_units=4000, clip_norm=0.5)
    assert made.recipe.saturation == 0.5 * (0.5 * 0.25 * 4000 / 5)
    assert made.recipe.nominal_units == 4000
    # however few records a silo may draw, one unit's contribution is not cut
    assert plan(nominal_units=1, clip_norm=0.5).recipe.saturation == 0.5
    assert plan(unit=Unit.CLIENT, sampling_rate=1.0, clip_norm=0.5).recipe.saturation == 0.5


def test_settings_reach_the_recipe_and_the_budget() -> None:
    made = plan(
        unit=Unit.CLIENT,
        sampling_rate=1.0,
        learning_rate=0.7,
        momentum=0.2,
        delta=1e-6,
        colluders=0,
        deletion_reserve=0.25,
        local={"epochs": 3},
    )
    assert (made.recipe.learning_rate, made.recipe.momentum, made.recipe.unit) == (0.7, 0.2, Unit.CLIENT)
    assert (made.recipe.rounds, made.recipe.local) == (10, {"epochs": 3})
    assert (made.budget.epsilon, made.budget.delta, made.budget.deletion_reserve) == (8.0, 1e-6, 0.25)
    assert (made.budget.unit, made.minimum_cohort, made.colluders) == (Unit.CLIENT, 4, 0)


def test_an_epsilon_out_of_reach_is_said_to_be() -> None:
    with pytest.raises(UnattainableEpsilonError, match=r"epsilon 0\.0001 at delta 1e-05 is out of reach"):
        plan(epsilon=1e-4)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("clients", 0),
        ("nominal_units", 0),
        ("nominal_units", -5),
        ("rounds", 0),
        ("minimum_cohort", 6),
        ("minimum_cohort", 2),
        ("colluders", -1),
        ("sampling_rate", 0.0),
        ("sampling_rate", 1.5),
        ("epsilon", 0.0),
        ("epsilon", math.inf),
        ("delta", 0.0),
        ("delta", 1.0),
        ("clip_norm", 0.0),
        ("clip_norm", math.nan),
        ("noise_multiplier", -1.0),
        ("noise_multiplier", math.nan),
        ("branch_rounds", -1),
        ("deletion_reserve", 1.0),
        ("deletion_reserve", -0.1),
        ("momentum", 1.0),
        ("learning_rate", 0.0),
    ],
)
def test_an_argument_out_of_its_domain_is_named(argument: str, value: float) -> None:
    with pytest.raises(ArgumentError) as caught:
        plan(**{argument: value})
    assert caught.value.argument == argument


def test_clients_are_never_sampled_secretly() -> None:
    with pytest.raises(ArgumentError, match="1 for the client unit") as caught:
        plan(unit=Unit.CLIENT, sampling_rate=0.25)
    assert caught.value.argument == "sampling_rate"


def test_a_larger_model_needs_a_finer_grid_and_no_more_noise() -> None:
    large = make_plan(mlp(64, (32,), 10, seed=0), clients=5, nominal_units=400, minimum_cohort=4, rounds=10)
    assert large.recipe.noise_multiplier == plan().recipe.noise_multiplier
