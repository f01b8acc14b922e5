"""The law of a shadow sum: contributions as clients bound them, and the noise of all shares that are in it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from shadow_laws import MODULE
from small_federations import plan_for

from secure_fu.auditor.shadow.sums import ShadowSums, noise_deviation
from secure_fu.errors import ArgumentError, CohortTooSmall, NonFiniteError, PolicyRefusal
from secure_fu.learning import mlp
from secure_fu.planning import make_plan
from secure_fu.privacy import Grid, Phase, RotatedGrid, Unit
from secure_fu.protocol import GridKind, ReleasedModel
from secure_fu.training import TRAIN

NAMES = ("a", "b", "c", "d", "e")
LENGTH = 40_000
PLAN = plan_for(MODULE, clients=5, minimum=3)
MODEL = ReleasedModel.public(np.zeros(LENGTH))


class Constant:
    def __init__(self, vector):
        self.vector = vector

    def contribution(self, model, terms, stream):
        return self.vector


def sums(vectors=None, *, plan=PLAN, seed=0, **arguments):
    vectors = dict.fromkeys(NAMES, np.zeros(LENGTH)) if vectors is None else vectors
    tasks = {name: {TRAIN: Constant(vector)} for name, vector in vectors.items()}
    arguments = {"cohort": lambda _number: tuple(vectors), **arguments}
    return ShadowSums(tasks, plan=plan, generator=np.random.default_rng(seed), **arguments)


def request(plan=PLAN, **changes):
    rate = plan.recipe.sampling_rate
    made = plan.recipe.request(purpose=TRAIN, phase=Phase.TRAINING, model=MODEL, forgotten_rate=rate)
    return replace(made, **changes)


def deviations(values, expected):
    """By how many of its own standard deviations the sample variance is off, for Gaussian values of mean zero."""
    return (np.mean(values**2) / expected**2 - 1.0) / np.sqrt(2.0 / len(values))


def test_the_noise_is_that_of_all_uploads():
    recipe = PLAN.recipe
    grid = Grid.fine(clip_norm=1.0, dimension=LENGTH, saturation=recipe.saturation, unit=Unit.RECORD)
    assured = PLAN.minimum_cohort - PLAN.colluders
    share = recipe.noise_multiplier * grid.sensitivity / np.sqrt(assured)
    values = sums().secure_sum(request()).values
    assert abs(deviations(values, share * np.sqrt(5))) < 4.5
    # What a mistake would make of it: the assured shares alone, or a twentieth more.
    assert abs(deviations(values, share * np.sqrt(assured))) > 20
    assert abs(deviations(values, share * np.sqrt(5) * 1.05)) > 4.5
    assert noise_deviation(PLAN, length=LENGTH, clients=5) == pytest.approx(share * np.sqrt(5))
    assert noise_deviation(PLAN, length=LENGTH, clients=5, uploads=4) == pytest.approx(share * 2.0)


def test_who_does_not_answer_adds_nothing():
    made = sums({name: np.full(LENGTH, 1.0) for name in NAMES}, vanishes=lambda _number, name: name in ("b", "d"))
    released = made.secure_sum(request())
    assert released.participants == ("a", "c", "e")
    deviation = noise_deviation(PLAN, length=LENGTH, clients=5, uploads=3)
    assert abs(deviations(released.values - 3.0, deviation)) < 4.5
    assert abs(released.values.mean() - 3.0) < 4.5 * deviation / np.sqrt(LENGTH)


def test_too_few_clients_are_asked_three_times():
    asked = []
    made = sums(vanishes=lambda number, name: asked.append(number) or name in ("a", "b", "c"))
    with pytest.raises(CohortTooSmall, match="2 of 5 clients; expected at least 3"):
        made.secure_sum(request())
    assert sorted(set(asked)) == [0, 1, 2]
    again = sums(first_round=7, vanishes=lambda number, _name: number < 9)
    assert again.secure_sum(request()).round_number == 9
    assert again.next_round == 10


def test_a_client_is_clamped_on_its_own():
    saturation = PLAN.recipe.saturation
    made = sums({"a": np.full(LENGTH, 10 * saturation), "b": np.full(LENGTH, -0.5), "c": np.zeros(LENGTH)})
    assert made.fullest == 0.0
    values = made.secure_sum(request()).values
    deviation = noise_deviation(PLAN, length=LENGTH, clients=3)
    assert abs(values.mean() - (saturation - 0.5)) < 4.5 * deviation / np.sqrt(LENGTH)
    assert made.fullest == pytest.approx(10.0)


def test_a_client_as_the_unit_is_clipped_as_a_whole():
    plan = plan_for(MODULE, Unit.CLIENT, clients=5, minimum=3)
    long = np.zeros(LENGTH)
    long[0] = 1000.0
    values = sums({"a": long, "b": long, "c": long}, plan=plan).secure_sum(request(plan)).values
    assert abs(values[0] - 3.0) < 6 * noise_deviation(plan, length=LENGTH, clients=3)


def test_the_rotated_grid_keeps_mean_and_variance():
    plan = make_plan(
        mlp(64, (), 10, 0),
        clients=20,
        nominal_units=20,
        minimum_cohort=18,
        unit=Unit.CLIENT,
        sampling_rate=1.0,
        rounds=2,
        grid=GridKind.ROTATED,
        local={"epochs": 1, "batch_size": 4, "learning_rate": 0.1},
    )
    names = tuple(f"client-{number:02}" for number in range(20))
    vector = np.zeros(LENGTH)
    vector[:100] = 0.1
    made = sums(dict.fromkeys(names, vector), plan=plan, cohort=lambda _number: names)
    values = made.secure_sum(request(plan)).values
    grid = RotatedGrid.for_sums(
        clip_norm=1.0,
        dimension=LENGTH,
        clients=20,
        noise_multiplier=plan.recipe.noise_multiplier,
        assured=17,
    )
    noise = plan.recipe.noise_multiplier * grid.sensitivity * np.sqrt(20 / 17)
    error = values - 20 * vector
    # Rounding adds at most a quarter of a step squared a client and coordinate, and rounded noise a twelfth.
    least, most = noise**2, noise**2 + (20 / 4 + 1 / 12) * grid.step**2
    assert least * (1 - 4.5 * np.sqrt(2 / LENGTH)) < np.mean(error**2) < most * (1 + 4.5 * np.sqrt(2 / LENGTH))
    assert abs(error[:100].mean()) < 4.5 * np.sqrt(most / 100)


def test_what_clients_refuse_is_refused():
    with pytest.raises(PolicyRefusal, match="noise_multiplier"):
        sums().secure_sum(request(noise_multiplier=PLAN.least_noise_multiplier * 0.99))
    with pytest.raises(PolicyRefusal, match="sampling rate"):
        sums().secure_sum(request(plan=PLAN, forgotten_rate=min(1.0, PLAN.largest_sampling_rate) + 0.1))


def test_a_mistake_of_a_task_is_no_silence():
    broken = np.zeros(LENGTH)
    broken[3] = np.nan
    with pytest.raises(NonFiniteError, match="'b'"):
        sums({"a": np.zeros(LENGTH), "b": broken, "c": np.zeros(LENGTH)}).secure_sum(request())
    with pytest.raises(ArgumentError, match="contribution of 'a'"):
        sums({"a": np.zeros(3), "b": np.zeros(3), "c": np.zeros(3)}).secure_sum(request())
    with pytest.raises(ArgumentError, match="purpose"):
        sums().secure_sum(request(purpose="unlearn/x", phase=Phase.UNLEARNING))


def test_the_generator_decides_everything():
    first, again, other = (sums(seed=seed).secure_sum(request()).values for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
