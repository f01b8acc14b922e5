"""Scrub: the loss against its definition, and what a client sends against a loop over single records."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from unlearning_cast import (
    CLIP,
    FORGOTTEN,
    GROUPS,
    MODEL,
    ScriptedSums,
    Words,
    clipped,
    clipped_sum,
    deletion,
    digit_silos,
    gradient,
    moved,
    person,
    records,
    sampled,
    silo,
    terms,
    weights,
)

from secure_fu.deletion import DeletionRequest
from secure_fu.errors import ArgumentError
from secure_fu.federation import Federation
from secure_fu.learning import client_update, mlp, predictions, record_losses
from secure_fu.planning import make_plan
from secure_fu.privacy import Subject, Unit
from secure_fu.training import TrainingTask
from secure_fu.training.local_updates import local_training
from secure_fu.unlearning import Scrub
from secure_fu.unlearning.scrub import true_class_removed

LOGITS = st.lists(st.floats(-50.0, 50.0), min_size=2, max_size=6)


def definition(logits, label):
    """KL(t || p), t being p without the true class, and its gradient for t held fixed, to sixty digits."""
    with mpmath.workdps(60):
        weight = [mpmath.exp(mpmath.mpf(value)) for value in logits]
        total = mpmath.fsum(weight)
        others = mpmath.fsum(value for index, value in enumerate(weight) if index != label)
        p = [value / total for value in weight]
        t = [mpmath.mpf(0) if index == label else value / others for index, value in enumerate(weight)]
        loss = mpmath.fsum(a * mpmath.log(a / b) for a, b in zip(t, p, strict=True) if a > 0)
        return float(loss), np.array([float(b - a) for a, b in zip(t, p, strict=True)])


def loss_and_gradient(logits, label):
    values = torch.tensor([logits], dtype=torch.float64, requires_grad=True)
    loss = true_class_removed(values, torch.tensor([label]))
    loss.sum().backward()
    return float(loss.detach()[0]), values.grad[0].numpy()


@given(LOGITS, st.data())
def test_the_loss_is_the_divergence_from_the_own_output_without_the_true_class(logits, data):
    label = data.draw(st.integers(0, len(logits) - 1))
    loss, found = loss_and_gradient(logits, label)
    expected, slope = definition(logits, label)
    assert loss == pytest.approx(expected, rel=1e-9, abs=1e-300)
    assert found == pytest.approx(slope, rel=1e-9, abs=1e-14)
    assert loss >= 0.0


@pytest.mark.parametrize("others", [[0.0], [0.0, 1.0], [-700.0, 3.0, 2.0]])
@pytest.mark.parametrize("true", [-2000.0, -800.0, -40.0, 40.0, 800.0, 2000.0])
def test_the_loss_and_its_gradient_are_finite_where_the_true_class_is_certain_or_impossible(true, others):
    loss, found = loss_and_gradient([true, *others], 0)
    expected, slope = definition([true, *others], 0)
    assert loss == pytest.approx(expected, rel=1e-12, abs=1e-300)
    assert found == pytest.approx(slope, rel=1e-12, abs=1e-300)
    assert np.abs(found).sum() == pytest.approx(2.0 if true > 0.0 else 0.0, abs=1e-12)


def test_the_loss_is_one_value_a_record():
    logits, labels = torch.randn(7, 4, dtype=torch.float64), torch.arange(7) % 4
    together = true_class_removed(logits, labels)
    alone = [true_class_removed(logits[i : i + 1], labels[i : i + 1])[0] for i in range(7)]
    assert together.shape == (7,)
    assert together.tolist() == pytest.approx([float(value) for value in alone], rel=1e-14)


def contribution(of, unit=Unit.RECORD, *, retained=1.0, forgotten=1.0, seed=0, vector=None, sharpness=1.0):
    ((purpose, task),) = Scrub(sharpness=sharpness).client_tasks(of).items()
    assert purpose == "unlearn/scrub"
    model = weights() if vector is None else vector
    return task.contribution(model, terms(unit, retained=retained, forgotten=forgotten), Words(seed))


def parts_of(own, forgotten, chosen, vector):
    """Clipped gradients of the chosen records, each of its own loss."""
    return [
        gradient(vector, own.features[i], own.labels[i], *((true_class_removed,) if forgotten[i] else ()))
        for i in chosen
    ]


@pytest.mark.parametrize("seed", range(4))
def test_retained_records_train_and_forgotten_ones_descend_the_other_loss_in_the_same_sum(seed):
    own, vector = records(seed=seed), weights(seed)
    found = contribution(silo(own, FORGOTTEN), retained=0.5, forgotten=0.5, seed=seed, vector=vector)
    trains, forgets = sampled(seed, 0.5, 12, 12)
    parts = parts_of(own, ~FORGOTTEN, np.flatnonzero(forgets & FORGOTTEN), vector)
    assert parts, "nothing forgotten was sampled"
    parts = parts_of(own, FORGOTTEN, np.flatnonzero(forgets & FORGOTTEN), vector)
    parts += parts_of(own, FORGOTTEN, np.flatnonzero(trains & ~FORGOTTEN), vector)
    assert any(np.linalg.norm(part) > CLIP for part in parts)
    assert found == pytest.approx(clipped_sum(parts), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("retained", "forgotten"), [(0.0, 1.0), (1.0, 0.0)])
def test_each_kind_keeps_to_its_own_sampling_rate(retained, forgotten):
    own = records()
    found = contribution(silo(own, FORGOTTEN), retained=retained, forgotten=forgotten)
    chosen = np.flatnonzero(FORGOTTEN if forgotten else ~FORGOTTEN)
    assert found == pytest.approx(clipped_sum(parts_of(own, FORGOTTEN, chosen, weights())), rel=1e-9, abs=1e-12)


def test_a_client_with_nothing_to_forget_trains():
    own = records()
    everything = clipped_sum(parts_of(own, np.zeros(12, dtype=bool), range(12), weights()))
    assert contribution(silo(own)) == pytest.approx(everything, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("sharpness", [0.2, 3.0, 10.0])
def test_forgotten_gradients_are_sharpened_and_then_clipped_and_no_others(sharpness):
    own, vector = records(), 0.3 * weights()
    found = contribution(silo(own, FORGOTTEN), vector=vector, sharpness=sharpness)
    forgets = [sharpness * part for part in parts_of(own, FORGOTTEN, np.flatnonzero(FORGOTTEN), vector)]
    trains = parts_of(own, FORGOTTEN, np.flatnonzero(~FORGOTTEN), vector)
    expected = clipped_sum(forgets + trains)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert found != pytest.approx(sharpness * clipped_sum(parts_of(own, FORGOTTEN, range(12), vector)), rel=1e-3)
    assert found != pytest.approx(contribution(silo(own, FORGOTTEN), vector=vector), rel=1e-3)


def test_infinite_sharpness_brings_every_forgotten_gradient_to_the_clip_norm():
    own, vector = records(), 0.3 * weights()
    forgets = parts_of(own, FORGOTTEN, np.flatnonzero(FORGOTTEN), vector)
    assert any(np.linalg.norm(part) < CLIP for part in forgets)
    found = contribution(silo(own, FORGOTTEN), vector=vector, sharpness=math.inf)
    trains = clipped_sum(parts_of(own, FORGOTTEN, np.flatnonzero(~FORGOTTEN), vector))
    expected = trains + sum(CLIP * part / np.linalg.norm(part) for part in forgets)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_a_sharpened_gradient_still_fades_as_a_record_is_forgotten():
    own = records()
    away = weights().astype(np.float64)
    for _ in range(80):
        away -= 0.3 * contribution(silo(own, np.ones(12)), vector=away.astype(np.float32), sharpness=10.0) / 12.0
    model = away.astype(np.float32)
    sharp, one_length = (
        np.linalg.norm(contribution(silo(own, np.ones(12)), vector=model, sharpness=sharpness))
        for sharpness in (10.0, math.inf)
    )
    assert sharp < 0.5 * one_length


def test_forgetting_steps_make_the_forgotten_labels_unlikely():
    own, vector = records(), weights().astype(np.float64)
    leaving = silo(own, np.ones(12))
    before = record_losses(MODEL, vector, own)
    for _ in range(60):
        vector -= 0.3 * contribution(leaving, vector=vector.astype(np.float32)) / 12.0
    after = record_losses(MODEL, vector, own)
    assert after.mean() > before.mean() + 2.0
    assert np.mean(predictions(MODEL, vector, own) == own.labels.numpy()) == 0.0


# One unit, one bound


SHARPNESS = pytest.mark.parametrize("sharpness", [1.0, 10.0, 1e6, math.inf])


@SHARPNESS
@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("out", range(12))
def test_one_record_moves_the_sum_by_at_most_the_clip_norm(out, marked, sharpness):
    forgotten = FORGOTTEN.copy()
    forgotten[out] = marked
    way = moved(contribution, records(), forgotten, np.arange(12) == out, sharpness=sharpness)
    assert 0.0 < way <= CLIP * (1.0 + 1e-12)


def test_sharpening_what_was_clipped_already_would_break_the_bound():
    """The mistake that the test above is there to catch."""
    own, vector = records(), weights()
    lengths = [np.linalg.norm(10.0 * clipped(part)) for part in parts_of(own, np.ones(12, bool), range(12), vector)]
    assert max(lengths) > 2.0 * CLIP


def test_persons_are_clipped_as_a_whole():
    own, vector = records(groups=GROUPS), weights()
    found = contribution(silo(own, np.isin(GROUPS, ["a", "d"])), Unit.GROUP)
    parts = [person(own, vector, name) for name in "bce"]
    parts += [person(own, vector, name, true_class_removed) for name in "ad"]
    assert found == pytest.approx(clipped_sum(parts), rel=1e-9, abs=1e-12)


@SHARPNESS
@pytest.mark.parametrize("name", "abcde")
def test_one_person_moves_the_sum_by_at_most_the_clip_norm(name, sharpness):
    own, forgotten = records(groups=GROUPS), np.isin(GROUPS, ["a", "c"])
    way = moved(contribution, own, forgotten, np.isin(GROUPS, [name]), Unit.GROUP, sharpness=sharpness)
    assert 0.0 < way <= CLIP * (1.0 + 1e-12)


def test_a_client_that_leaves_sends_one_clipped_update_of_local_training_on_the_other_loss():
    own, model, round_terms = records(), weights(), terms(Unit.CLIENT)
    found = contribution(silo(own, np.ones(12)), Unit.CLIENT)
    update = client_update(
        MODEL,
        model.astype(np.float64),
        own,
        training=local_training(round_terms),
        clip_norm=CLIP,
        seed=0,
        loss=true_class_removed,
    )
    assert np.array_equal(found, -update)
    assert 0.0 < np.linalg.norm(found) <= CLIP


def test_a_client_that_stays_trains_as_ever():
    found = contribution(silo(), Unit.CLIENT)
    assert np.array_equal(found, TrainingTask(silo()).contribution(weights(), terms(Unit.CLIENT), Words()))


# What the server asks for, and what it costs


@pytest.mark.parametrize(
    ("factor", "length", "expected"),
    [
        (0.5, 2, 0.125),
        (1.0, 2, 0.25),
        (2.0, 2, 0.5),
        (9.0, 2, 0.25 * 10**0.5),
        (2.0, 10, 0.25 * 2**0.5),
        (2.0, 40, 0.25),
    ],
)
def test_forgotten_units_enter_at_their_own_planned_rate_held_to_what_retraining_costs_others(factor, length, expected):
    case, sums = deletion(rounds=20), ScriptedSums()
    method = Scrub(length=length, forgotten_factor=factor)
    (planned,) = method.plan(case)
    method.run(sums, case)
    assert len(sums.requests) == planned.count == length
    assert planned.forgotten_rate == pytest.approx(expected, rel=1e-12)
    assert planned.retained_rate == case.recipe.sampling_rate == 0.25
    for request in sums.requests:
        for name in ("retained_rate", "forgotten_rate", "noise_multiplier", "clip_norm", "saturation"):
            assert getattr(request, name) == getattr(planned, name)


def test_no_rate_is_above_one_and_a_client_as_a_unit_has_but_one():
    case = deletion(rounds=20, sampling_rate=0.8)
    assert Scrub(length=1, forgotten_factor=3.0).plan(case)[0].forgotten_rate == 1.0
    for factor in (0.5, 3.0):
        clients = deletion(unit=Unit.CLIENT)
        assert Scrub(length=1, forgotten_factor=factor).plan(clients)[0].forgotten_rate == 1.0


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_the_ledger_charges_forgotten_units_for_their_own_rate(factor):
    clients, _, _, _ = digit_silos(4)
    small = {name: own.subset(np.arange(len(own)) < 20) for name, own in clients.items()}
    module = mlp(64, (6,), 10, seed=1)
    plan = make_plan(module, clients=4, nominal_units=80, minimum_cohort=3, rounds=8, sampling_rate=0.2)
    with Federation(module, small, plan=plan, scheme_name="plain") as federated:
        federated.train()
        federated.unlearn(
            DeletionRequest.whole_client("silo-3"), Scrub(length=1, forgotten_factor=factor), adaptive=False
        )
        (event,) = federated.ledger.events("unlearn/scrub")
    assert event.charges[Subject.RETAINED].sampling_rate == 0.2
    assert event.charges[Subject.FORGOTTEN].sampling_rate == pytest.approx(0.2 * factor)


@pytest.mark.parametrize(
    ("settings", "argument"),
    [
        ({"length": 0}, "length"),
        ({"rate_factor": 0.0}, "rate_factor"),
        ({"rate_factor": -1.0}, "rate_factor"),
        ({"rate_factor": float("nan")}, "rate_factor"),
        ({"rate_factor": float("inf")}, "rate_factor"),
        ({"forgotten_factor": 0.0}, "forgotten_factor"),
        ({"forgotten_factor": float("inf")}, "forgotten_factor"),
        ({"forgotten_factor": float("nan")}, "forgotten_factor"),
        ({"sharpness": 0.0}, "sharpness"),
        ({"sharpness": -math.inf}, "sharpness"),
        ({"sharpness": 1e7}, "sharpness"),
        ({"sharpness": float("nan")}, "sharpness"),
    ],
)
def test_settings_out_of_their_domain(settings, argument):
    with pytest.raises(ArgumentError) as caught:
        Scrub(**settings)
    assert caught.value.argument == argument
