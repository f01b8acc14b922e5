"""The cheapest retraining: its noise costs what the full one's costs, and the choice among the scanned."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import small_federations as small
from comparison.shorter import Shorter, cheapest, shorter_recipe

from secure_fu.federation import Federation
from secure_fu.learning import mlp
from secure_fu.privacy import GaussianSumEvent, Subject, renyi_epsilon
from secure_fu.unlearning import Retrain


def test_a_shorter_recipe_costs_as_much_and_no_more():
    plan = small.plan_for(mlp(5, (), 3, 0), rounds=40)

    def epsilon(multiplier, rounds):
        event = GaussianSumEvent(noise_multiplier=multiplier, sampling_rate=0.5, grid_ratio=1e6, dimension=1, shares=2)
        return renyi_epsilon({event: rounds}, delta=plan.budget.delta)

    full = epsilon(plan.recipe.noise_multiplier, 40)
    short = shorter_recipe(plan, rounds=10, rate_factor=2.0)
    assert short.rounds == 10
    assert short.learning_rate == 2.0 * plan.recipe.learning_rate
    assert short.noise_multiplier < 0.8 * plan.recipe.noise_multiplier
    assert epsilon(short.noise_multiplier, 10) == pytest.approx(full, rel=0.1)
    assert shorter_recipe(plan, rounds=40, rate_factor=1.0).noise_multiplier == pytest.approx(
        plan.recipe.noise_multiplier, rel=1e-4
    )


def test_a_federation_admits_it_and_charges_the_leaver_nothing():
    module = mlp(5, (), 3, 0)
    plan = small.plan_for(module, rounds=8)
    recipe = shorter_recipe(plan, rounds=3, rate_factor=1.0)
    shorter = Shorter.of(recipe)
    lowered = dataclasses.replace(plan, least_noise_multiplier=recipe.noise_multiplier)
    clients = small.silos()
    request = small.REQUESTS[plan.recipe.unit]
    with Federation(module, clients, plan=lowered, scheme_name="plain", methods=[shorter]) as federation:
        federation.train()
        short, full = (
            federation.unlearn(request, shorter, adaptive=False),
            federation.unlearn(request, Retrain(), adaptive=False),
        )
        assert len(short.traffic) == 3
        assert short.guarantee.kind == "exact"
        assert short.confidentiality.phase.value == 0.0

        def retained(done):
            return max(entry.value for entry in done.epsilon if entry.subject is Subject.RETAINED)

        assert retained(short) == pytest.approx(retained(full), rel=0.05)
        assert not np.array_equal(short.state.model.vector, federation.model.vector())


def scan(**accuracies):
    return [
        {"rounds": int(name.split("_")[1]), "rate_factor": float(name.split("_")[2]), "test_accuracy": value}
        for name, value in accuracies.items()
    ]


def test_the_fewest_rounds_that_are_equal_on_the_mean_win():
    scans = [
        scan(r_10_1=0.80, r_20_1=0.90, r_20_2=0.93, r_40_1=0.94, r_100_1=0.93),
        scan(r_10_1=0.99, r_20_1=0.90, r_20_2=0.92, r_40_1=0.94, r_100_1=0.93),
    ]
    found = cheapest(scans, full=100)
    assert (found["rounds"], found["rate_factor"]) == (20, 2.0)
    assert found["test_accuracy"] == pytest.approx(0.925)
    assert found["full_accuracy"] == pytest.approx(0.93)


def test_the_full_training_is_its_own_cheapest_if_nothing_shorter_will_do():
    found = cheapest([scan(r_10_1=0.5, r_50_1=0.9, r_100_1=0.93)], full=100)
    assert (found["rounds"], found["rate_factor"]) == (100, 1.0)
