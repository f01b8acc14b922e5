"""Every method's client code, whatever the server asks for: rates are kept, one unit is bounded by the clip norm."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import unlearning_cast
from unlearning_cast import CLIP, GROUPS, MODEL, Words, records, silo, weights

from secure_fu.errors import ArgumentError, MethodRefused
from secure_fu.privacy import Unit
from secure_fu.protocol import ReleasedModel
from secure_fu.training import StackedUpdates, TrainingTask
from secure_fu.unlearning import METHODS


def serves_clients(name):
    try:
        METHODS[name]().check(unlearning_cast.deletion(unit=Unit.CLIENT))
    except MethodRefused:
        return False
    return True


def asks_both(name):
    """Whether retained and forgotten units enter one and the same round of the plan."""
    plan = METHODS[name]().plan(unlearning_cast.deletion())
    return any(rounds.retained_rate > 0.0 and rounds.forgotten_rate > 0.0 for rounds in plan)


ALL = pytest.mark.parametrize("method", METHODS)
CLIENTS_TOO = {name for name in METHODS if serves_clients(name)}
FOR_CLIENTS = pytest.mark.parametrize("method", sorted(CLIENTS_TOO))
JOINT = {name for name in METHODS if asks_both(name)}
PARTS = {"stays": np.zeros(12, dtype=bool), "forgets a part": np.isin(GROUPS, ["a", "d"]), "leaves": np.ones(12, bool)}
# What the headers of some methods say beside: the sum that is meant, the old model.
SETTINGS = {"sum": "gradient", "old_model": ReleasedModel.public(weights(0)).digest.hex(), "ratio_limit": 2.0}
terms = functools.partial(unlearning_cast.terms, settings=SETTINGS)
HUGE = np.full(MODEL.dimension, 3e38, dtype=np.float32)


def task_of(method, part, unit=Unit.CLIENT, stacked=False):
    """The task of a client that trained for four rounds, on ordinary models and one near the largest float."""
    own = records(groups=GROUPS)
    together = StackedUpdates(MODEL, {"other": records(7, 9), "silo": own}) if stacked else None
    made = silo(own, stacked=together)
    for number in range(4):
        model = HUGE if number == 2 else weights(number)
        TrainingTask(made).contribution(model, terms(unit, number=number, clip_norm=5.0), Words(number))
    ((_, task),) = METHODS[method]().client_tasks(made.forgetting(PARTS[part])).items()
    return task


@FOR_CLIENTS
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("stacked", [False, True])
def test_a_client_as_a_unit_is_bounded_by_each_rounds_clip_norm(method, part, stacked):
    task = task_of(method, part, stacked=stacked)
    acts = method in JOINT or part != "leaves"
    for number, clip_norm in enumerate((CLIP, 50.0, 1e-6, 1e-90, 3.0, 1e-6, 1e90)):
        for model in (weights(60 + number), weights(60), HUGE):
            found = task.contribution(model, terms(Unit.CLIENT, clip_norm=clip_norm, number=number), Words())
            # In exact arithmetic from the float64 result: no tolerance.
            assert math.fsum(float(value) ** 2 for value in found / clip_norm) <= 1.0
            assert model is HUGE or found.any() == acts


@ALL
@pytest.mark.parametrize("unit", list(Unit))
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(("retained", "forgotten"), [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)])
def test_units_enter_at_their_own_rate_and_none_at_zero(method, unit, part, retained, forgotten):
    if unit is Unit.CLIENT and method not in CLIENTS_TOO:
        pytest.skip("it refuses the client unit")
    task = task_of(method, part, unit)
    found = task.contribution(weights(70), terms(unit, retained=retained, forgotten=forgotten), Words())
    stays = part == "stays" or (part == "forgets a part")
    forgets = part == "leaves" or (part == "forgets a part" and unit is not Unit.CLIENT)
    assert found.any() == ((stays and retained > 0.0) or (method in JOINT and forgets and forgotten > 0.0))


@FOR_CLIENTS
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("rates", [(0.5, 1.0), (1.0, 0.5), (0.0, float("nan")), (1.0, -1.0), (1.0, 2.0)])
def test_a_client_as_a_unit_is_in_or_out_and_what_it_forgets_does_not_show(method, part, rates):
    with pytest.raises(ArgumentError, match="0 or 1 for the client unit"):
        task_of(method, part).contribution(
            weights(70), terms(Unit.CLIENT, retained=rates[0], forgotten=rates[1]), Words()
        )


@ALL
@pytest.mark.parametrize("unit", [Unit.RECORD, Unit.GROUP])
@pytest.mark.parametrize("part", PARTS)
def test_gradients_that_overflow_are_no_error_in_any_method(method, unit, part):
    task = task_of(method, part, unit)
    bound = {Unit.RECORD: 12, Unit.GROUP: 5}[unit]
    for clip_norm in (CLIP, 1e-6, 1e90):
        found = task.contribution(HUGE, terms(unit, clip_norm=clip_norm), Words())
        assert np.linalg.norm(found / clip_norm) <= bound
