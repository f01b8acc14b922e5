"""A recipe as stacked training has the law of the federation's own rounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from shadow_laws import CLIENTS, MODEL, MODULE, distance_of_laws, shadow
from small_federations import plan_for

from secure_fu.auditor.shadow.stacked_recipe import joined_steps, pooled_records, stacked_training
from secure_fu.auditor.shadow.sums import noise_deviation
from secure_fu.errors import ArgumentError
from secure_fu.learning.stacked import train_stacked
from secure_fu.privacy import Unit

JOINS = {"silo-3": 2}
# A saturation that no client reaches, for stacked training knows none.
PLAN = plan_for(MODULE, rounds=4, epsilon=10.0, saturation=100.0, weight_decay=0.1)


def test_the_settings_are_the_recipes():
    training = stacked_training(PLAN, MODEL, clients=4)
    recipe = PLAN.recipe
    for name in ("sampling_rate", "learning_rate", "momentum", "weight_decay", "clip_norm"):
        assert getattr(training, name) == getattr(recipe, name)
    assert training.steps == recipe.rounds
    assert training.divisor == recipe.sampling_rate * recipe.nominal_units
    assert training.noise == pytest.approx(noise_deviation(PLAN, length=MODEL.dimension, clients=4))
    late = stacked_training(PLAN, MODEL, clients=4, joins=JOINS).noise
    assert late == pytest.approx(training.noise * np.sqrt((2 * 3 / 4 + 2) / 4))


def test_records_are_pooled_in_the_order_of_names():
    own = dict(reversed(list(CLIENTS.items())))
    records = pooled_records(own)
    assert torch.equal(records.features, torch.cat([CLIENTS[name].features for name in sorted(CLIENTS)]))
    assert joined_steps(own, JOINS).tolist() == [0] * 30 + [2] * 10
    with pytest.raises(ArgumentError, match="clients"):
        pooled_records({})


def test_other_units_are_refused():
    with pytest.raises(ArgumentError, match="record unit"):
        stacked_training(plan_for(MODULE, Unit.CLIENT), MODEL, clients=4)
    with pytest.raises(ArgumentError, match="clients"):
        stacked_training(PLAN, MODEL, clients=1, joins={"a": 1, "b": 2})


@pytest.mark.parametrize(
    ("plan", "joins", "same"),
    [
        (PLAN, {}, True),
        (PLAN, JOINS, True),
        (replace(PLAN, recipe=replace(PLAN.recipe, noise_multiplier=1.3 * PLAN.recipe.noise_multiplier)), {}, False),
        (replace(PLAN, recipe=replace(PLAN.recipe, momentum=0.5)), {}, False),
    ],
    ids=["same", "late", "noise", "momentum"],
)
def test_stacked_models_have_the_law_of_shadow_models(plan, joins, same):
    runs = 150
    records = pooled_records(CLIENTS)
    stacked = train_stacked(
        MODEL,
        records,
        np.ones((4 * runs, len(records)), dtype=bool),
        training=stacked_training(plan, MODEL, clients=4, joins=joins),
        start=MODEL.vector(),
        seeds=list(range(4 * runs)),
        joined=joined_steps(CLIENTS, joins),
    )
    federated = []
    for seed in range(runs):
        made = shadow(seed, plan=PLAN, joins=joins, keep_history=False)
        federated.append(made.train().model.vector)
        assert made.fullest < 1.0
    means, spread = distance_of_laws(np.array(federated, dtype=np.float64), stacked.astype(np.float64))
    if same:
        assert means < 4.0
        assert abs(spread) < 4.0
    else:
        assert abs(spread) > 5.0
