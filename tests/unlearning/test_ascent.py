"""Ascent: what a client sends against a loop over single records, and the server's ball."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from small_federations import REQUESTS, federation
from torch.nn import functional
from unlearning_cast import (
    CLASSES,
    CLIP,
    FORGOTTEN,
    GROUPS,
    HIDDEN,
    INPUTS,
    LOCAL,
    MODEL,
    ScriptedSums,
    Words,
    clipped_sum,
    deletion,
    extreme,
    gradient,
    moved,
    person,
    records,
    sampled,
    silo,
    terms,
    weights,
)

from secure_fu.errors import ArgumentError
from secure_fu.learning import Records, record_losses
from secure_fu.privacy import Phase, Subject, Unit
from secure_fu.training import TrainingTask
from secure_fu.unlearning import PlannedRounds
from secure_fu.unlearning.ascent import Ascent


def contribution(of, unit=Unit.RECORD, *, retained=1.0, forgotten=1.0, seed=0, vector=None, clip_norm=CLIP):
    ((purpose, task),) = Ascent().client_tasks(of).items()
    assert purpose == "unlearn/ascent"
    round_terms = terms(unit, retained=retained, forgotten=forgotten, clip_norm=clip_norm)
    return task.contribution(weights() if vector is None else vector, round_terms, Words(seed))


def scaled(vector, clip_norm=CLIP):
    return vector * clip_norm / np.linalg.norm(vector)


# What a client sends


@pytest.mark.parametrize("seed", range(4))
def test_retained_records_train_and_forgotten_ones_climb_with_the_whole_clip_norm(seed):
    own, vector = records(seed=seed), weights(seed)
    found = contribution(silo(own, FORGOTTEN), retained=0.5, forgotten=0.5, seed=seed, vector=vector)
    trains, forgets = sampled(seed, 0.5, 12, 12)
    parts = [gradient(vector, own.features[i], own.labels[i]) for i in range(12)]
    lengths = [np.linalg.norm(parts[i]) for i in np.flatnonzero(forgets & FORGOTTEN)]
    assert lengths, "nothing forgotten was sampled"
    expected = clipped_sum(parts[i] for i in np.flatnonzero(trains & ~FORGOTTEN))
    expected -= sum(scaled(parts[i]) for i in np.flatnonzero(forgets & FORGOTTEN))
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_a_record_that_the_model_knows_well_climbs_as_hard_as_any_other():
    own = records(1)
    label = int(own.labels[0])
    vector = weights()
    vector[-CLASSES + label] += 12.0  # the model is certain
    plain = gradient(vector, own.features[0], own.labels[0])
    assert np.linalg.norm(plain) < 1e-3 * CLIP
    found = contribution(silo(own, [True]), vector=vector)
    assert found == pytest.approx(-scaled(plain), rel=1e-7)


def test_a_client_with_nothing_to_forget_trains():
    own = records()
    expected = TrainingTask(silo(own)).contribution(weights(), terms(), Words())
    assert contribution(silo(own)) == pytest.approx(expected, rel=1e-12)


def test_a_group_climbs_as_a_whole():
    own, vector = records(groups=GROUPS), weights()
    found = contribution(silo(own, np.isin(GROUPS, ["a", "d"])), Unit.GROUP)
    stay, (first, second) = ([person(own, vector, name) for name in names] for names in ("bce", "ad"))
    expected = clipped_sum(stay) - scaled(first) - scaled(second)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


def uphill(vector, own, order):
    """The slow loop: local steps up the mean loss, written out; the change, float64."""
    flat = torch.tensor(vector, dtype=torch.float32)
    for batch in order:
        flat = flat.detach().requires_grad_()
        parts = torch.split(flat, [INPUTS * HIDDEN, HIDDEN, HIDDEN * CLASSES, CLASSES])
        hidden = torch.relu(own.features[batch] @ parts[0].view(HIDDEN, INPUTS).T + parts[1])
        logits = hidden @ parts[2].view(CLASSES, HIDDEN).T + parts[3]
        functional.cross_entropy(logits, own.labels[batch]).backward()
        flat = flat + LOCAL["learning_rate"] * flat.grad
    return flat.detach().numpy().astype(np.float64) - vector.astype(np.float64)


def test_a_client_that_leaves_sends_minus_its_clipped_way_uphill():
    own, vector = records(3), weights()  # one batch, so that no order matters
    change = uphill(vector, own, [[0, 1, 2]] * LOCAL["epochs"])
    found = contribution(silo(own, np.ones(3)), Unit.CLIENT, clip_norm=10.0)
    assert np.linalg.norm(change) < 10.0
    assert found == pytest.approx(-change, rel=1e-4, abs=1e-6)
    clipped = contribution(silo(own, np.ones(3)), Unit.CLIENT, clip_norm=0.1)
    assert clipped == pytest.approx(-scaled(change, 0.1), rel=1e-4, abs=1e-6)
    losses = [record_losses(MODEL, weights - found, own).mean() for weights in [vector.astype(np.float64)]]
    assert losses[0] > record_losses(MODEL, vector.astype(np.float64), own).mean(), "the server descends"
    assert not contribution(silo(own, np.ones(3)), Unit.CLIENT, forgotten=0.0).any()


def test_steps_of_the_server_make_the_forgotten_labels_unlikely():
    own, vector = records(), weights().astype(np.float64)
    before = record_losses(MODEL, vector, own).mean()
    for _ in range(20):
        vector -= 0.1 * contribution(silo(own, np.ones(12)), vector=vector.astype(np.float32)) / 12.0
    assert record_losses(MODEL, vector, own).mean() > before + 0.5


# One unit, one bound


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("out", range(12))
def test_one_record_moves_the_sum_by_at_most_the_clip_norm(out, marked):
    forgotten = FORGOTTEN.copy()
    forgotten[out] = marked
    way = moved(contribution, extreme(), forgotten, np.arange(12) == out)
    assert 0.0 < way <= CLIP * (1.0 + 1e-12)
    assert not marked or way == pytest.approx(CLIP, rel=1e-9)


def test_the_bound_would_not_hold_for_plain_gradients():
    own = extreme()
    assert max(np.linalg.norm(gradient(weights(), own.features[i], own.labels[i])) for i in range(12)) > 100.0 * CLIP


@pytest.mark.parametrize("name", "abcde")
def test_one_person_moves_the_sum_by_at_most_the_clip_norm(name):
    own, forgotten = records(groups=GROUPS), np.isin(GROUPS, ["a", "c"])
    assert 0.0 < moved(contribution, own, forgotten, np.isin(GROUPS, [name]), Unit.GROUP) <= CLIP * (1.0 + 1e-12)


@pytest.mark.parametrize("clip_norm", [1e-90, 1e-3, CLIP, 1e90])
@pytest.mark.parametrize("factor", [1.0, 1e8, 1e30])
def test_a_client_is_bounded_whatever_its_way_uphill_does(clip_norm, factor):
    own = Records(records().features * factor, records().labels)
    found = contribution(silo(own, np.ones(12)), Unit.CLIENT, clip_norm=clip_norm)
    assert math.fsum(float(value) ** 2 for value in found / clip_norm) <= 1.0


def test_a_record_whose_gradient_is_not_finite_counts_as_zero_and_is_no_error():
    own = records()
    broken = Records(own.features.clone(), own.labels)
    broken.features[0] = 3e38
    huge = np.full(MODEL.dimension, 3e38, dtype=np.float32)
    assert np.linalg.norm(contribution(silo(broken, FORGOTTEN), vector=huge)) <= 12 * CLIP
    assert moved(contribution, broken, FORGOTTEN, np.arange(12) == 0) <= CLIP * (1.0 + 1e-12)


# The server's side


def push(size):
    """Sums that all point one way."""
    return ScriptedSums(lambda request: np.full(MODEL.dimension, float(size)))


def distance(state, case):
    return np.linalg.norm(state.model.vector.astype(np.float64) - case.original.model.vector.astype(np.float64))


@pytest.mark.parametrize("radius", [0.01, 0.5])
def test_ascent_stays_in_the_ball(radius):
    case, seen = deletion(), []
    Ascent(length=6, recovery=0, radius=radius).run(push(1e4), case, seen.append)
    limit = radius * np.linalg.norm(case.original.model.vector - MODEL.vector())
    assert len(seen) == 6
    # On its surface, up to float32: the sums are huge.
    assert [distance(state, case) for state in seen] == pytest.approx([limit] * 6, rel=1e-5)
    direction = (seen[0].model.vector - case.original.model.vector) / limit
    assert direction == pytest.approx(np.full(MODEL.dimension, -1.0 / math.sqrt(MODEL.dimension)), rel=1e-3, abs=1e-5)


def test_a_step_that_ends_inside_is_left_alone():
    case, seen = deletion(), []
    Ascent(length=2, recovery=0, radius=10.0, rate_factor=3.0).run(push(1.0), case, seen.append)
    rate = 3.0 * case.recipe.learning_rate / (case.recipe.sampling_rate * case.recipe.nominal_units)
    first = case.original.model.vector.astype(np.float64) - rate
    # At rest first; then momentum as in training.
    second = first.astype(np.float32) - rate * (1.0 + case.recipe.momentum)
    assert seen[0].model.vector == pytest.approx(first, rel=1e-6)
    assert seen[1].model.vector == pytest.approx(second, rel=1e-5, abs=1e-6)


def test_recovery_is_training_from_rest_and_may_leave_the_ball():
    case, seen = deletion(), []
    Ascent(length=3, recovery=2, radius=0.01, rate_factor=3.0).run(push(1e3), case, seen.append)
    rate = case.recipe.learning_rate / (case.recipe.sampling_rate * case.recipe.nominal_units)
    expected = seen[2].model.vector.astype(np.float64) - 1e3 * rate
    assert seen[3].model.vector == pytest.approx(expected, rel=1e-5)
    assert distance(seen[4], case) > 10.0 * distance(seen[2], case)


@pytest.mark.parametrize("recovery", [0, 3])
def test_the_rounds_asked_for_are_those_planned(recovery):
    case, sums, seen = deletion(), ScriptedSums(), []
    method = Ascent(length=4, recovery=recovery)
    outcome = method.run(sums, case, seen.append)
    rate = case.recipe.sampling_rate
    planned = [PlannedRounds.of(case, 4, forgotten_rate=rate), PlannedRounds.of(case, recovery, forgotten_rate=0.0)]
    assert list(method.plan(case)) == planned[: 1 + (recovery > 0)]
    assert method.rounds(case) == method.most_rounds(case.rounds) == len(sums.requests) == len(seen) == 4 + recovery
    assert [request.forgotten_rate for request in sums.requests] == [rate] * 4 + [0.0] * recovery
    for request in sums.requests:
        assert request.retained_rate == rate
        assert request.purpose == "unlearn/ascent"
        assert request.phase is Phase.UNLEARNING
        assert request.clip_norm == case.recipe.clip_norm
        assert request.noise_multiplier == case.recipe.noise_multiplier
    assert outcome.state.model is seen[-1].model
    assert outcome.state.rounds == case.original.rounds, "not rounds of training"
    assert outcome.guarantee == method.guarantee(case)
    assert outcome.guarantee.kind == "heuristic"
    assert "No proof" in outcome.guarantee.describe()


def test_an_untrained_original_leaves_no_room_to_climb():
    case = deletion()
    start = type(case.original.model).public(MODEL.vector())
    same = dataclasses.replace(case, original=dataclasses.replace(case.original, model=start))
    seen = []
    Ascent(length=2, recovery=0).run(push(1.0), same, seen.append)
    assert np.array_equal(seen[-1].model.vector, start.vector)


@pytest.mark.parametrize("unit", list(Unit))
def test_it_runs_for_every_unit_and_charges_the_forgotten_for_the_climb_alone(unit):
    method = Ascent(length=2, recovery=1)
    with federation(unit, methods=(method,)) as federated:
        federated.train()
        unlearned = federated.unlearn(REQUESTS[unit], method, adaptive=False)
        assert np.isfinite(unlearned.state.model.vector).all()
        assert all(traffic.uploads == 4 for traffic in unlearned.traffic), "nobody sat a round out"
        charges = [event.charges for event in federated.ledger.events("unlearn/ascent")]
        assert [charge[Subject.FORGOTTEN] is not None for charge in charges] == [True, True, False]
        assert all(charge[Subject.RETAINED] is not None for charge in charges)


@pytest.mark.parametrize(
    ("settings", "argument"),
    [
        ({"length": 0}, "length"),
        ({"recovery": -1}, "recovery"),
        ({"radius": 0.0}, "radius"),
        ({"radius": float("inf")}, "radius"),
        ({"rate_factor": -1.0}, "rate_factor"),
        ({"rate_factor": float("nan")}, "rate_factor"),
    ],
)
def test_settings_out_of_their_domain(settings, argument):
    with pytest.raises(ArgumentError) as caught:
        Ascent(**settings)
    assert caught.value.argument == argument
