"""Fisher: sums of magnitudes against a loop over single records, and which weights the server resets."""

from __future__ import annotations

import dataclasses
import logging
import math

import numpy as np
import pytest
import torch
from small_federations import REQUESTS, federation
from torch import nn
from unlearning_cast import (
    CLIP,
    FORGOTTEN,
    GRADIENTS,
    GROUPS,
    HIDDEN,
    INPUTS,
    MODEL,
    ScriptedSums,
    Words,
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

from secure_fu.errors import ArgumentError, DataError
from secure_fu.learning import FlatModel, PerRecordGradients, Records, magnitude_sum, mlp
from secure_fu.privacy import Phase, Subject, Unit
from secure_fu.protocol import ReleasedModel
from secure_fu.training import StackedUpdates, TrainingTask, single_update
from secure_fu.unlearning import PlannedRounds
from secure_fu.unlearning.fisher import Fisher


def contribution(of, unit=Unit.RECORD, *, measures=True, seed=0, vector=None, **rates):
    ((purpose, task),) = Fisher().client_tasks(of).items()
    assert purpose == "unlearn/fisher"
    asked = terms(unit, **rates)
    if measures:
        asked = dataclasses.replace(asked, settings={**asked.settings, "importance": True})
    return task.contribution(weights() if vector is None else vector, asked, Words(seed))


def magnitudes(vectors, clip_norm=CLIP):
    return sum((np.abs(v) * clip_norm / np.linalg.norm(v) for v in vectors), start=np.zeros(MODEL.dimension))


# What a client sends


@pytest.mark.parametrize("seed", range(4))
def test_a_measuring_round_sums_magnitudes_of_either_kind_at_its_own_rate(seed):
    own, vector = records(seed=seed), weights(seed)
    found = contribution(silo(own, FORGOTTEN), retained=0.5, forgotten=0.5, seed=seed, vector=vector)
    stays, goes = sampled(seed, 0.5, 12, 12)
    chosen = np.flatnonzero((stays & ~FORGOTTEN) | (goes & FORGOTTEN))
    assert 0 < len(chosen) < 12
    expected = magnitudes(gradient(vector, own.features[i], own.labels[i]) for i in chosen)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert found.min() >= 0.0


@pytest.mark.parametrize(("retained", "forgotten"), [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0)])
def test_no_unit_enters_at_a_rate_of_zero(retained, forgotten):
    own = records()
    found = contribution(silo(own, FORGOTTEN), retained=retained, forgotten=forgotten)
    chosen = np.flatnonzero((FORGOTTEN & (forgotten > 0.0)) | (~FORGOTTEN & (retained > 0.0)))
    expected = magnitudes(gradient(weights(), own.features[i], own.labels[i]) for i in chosen)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_a_client_with_nothing_forgotten_sends_zero_where_the_forgotten_are_measured():
    assert not contribution(silo(), retained=0.0, forgotten=1.0).any()
    assert not contribution(silo(), Unit.CLIENT, retained=0.0, forgotten=1.0).any()


def test_a_group_is_measured_as_a_whole():
    own, vector = records(groups=GROUPS), weights()
    found = contribution(silo(own, np.isin(GROUPS, ["a", "d"])), Unit.GROUP, retained=0.0)
    assert found == pytest.approx(magnitudes(person(own, vector, name) for name in "ad"), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("leaves", [False, True])
def test_a_client_is_measured_by_its_clipped_update(leaves, stacked):
    own = records()
    made = silo(own, stacked=StackedUpdates(MODEL, {"silo": own}) if stacked else None)
    found = contribution(made.forgetting(np.full(12, leaves)), Unit.CLIENT)
    update = single_update("silo", MODEL, weights(), own, terms(Unit.CLIENT))
    assert found == pytest.approx(np.abs(update), rel=1e-5, abs=1e-7)
    assert np.linalg.norm(found) <= CLIP


@pytest.mark.parametrize("unit", list(Unit))
def test_other_rounds_are_rounds_of_training(unit):
    own = records(groups=GROUPS)
    forgotten = np.isin(GROUPS, ["a", "d"]) if unit is not Unit.CLIENT else np.zeros(12, dtype=bool)
    found = contribution(silo(own, forgotten), unit, measures=False, forgotten=0.0)
    expected = TrainingTask(silo(own, forgotten)).contribution(weights(), terms(unit, forgotten=0.0), Words())
    assert np.array_equal(found, expected)
    assert found.min() < 0.0


@pytest.mark.parametrize("rates", [(0.5, 0.0), (0.0, 0.5), (0.0, float("nan"))])
def test_a_client_as_a_unit_is_in_or_out(rates):
    with pytest.raises(ArgumentError, match="0 or 1 for the client unit"):
        contribution(silo(), Unit.CLIENT, retained=rates[0], forgotten=rates[1])


# One unit, one bound


@pytest.mark.parametrize("out", range(12))
def test_one_record_moves_the_sum_by_the_clip_norm(out):
    own = extreme()
    way = moved(contribution, own, FORGOTTEN, np.arange(12) == out)
    assert way <= CLIP * (1.0 + 1e-12)
    assert way == pytest.approx(CLIP, rel=1e-9)
    assert np.linalg.norm(gradient(weights(), own.features[-1], own.labels[-1])) > 100.0 * CLIP, "unclipped, far more"


@pytest.mark.parametrize("name", "abcde")
def test_one_person_moves_the_sum_by_the_clip_norm(name):
    forgotten = np.isin(GROUPS, ["a", "c"])
    way = moved(contribution, extreme(groups=GROUPS), forgotten, np.isin(GROUPS, [name]), Unit.GROUP)
    assert way <= CLIP * (1.0 + 1e-12)
    assert way == pytest.approx(CLIP, rel=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_squares_of_clipped_gradients_over_the_clip_norm_would_keep_the_bound_but_use_little_of_it(seed):
    """Why magnitudes: for |g| <= C the norm of g^2 / C is at most C, and far below it unless one coordinate is all."""
    own = records(seed=seed)
    for i in range(12):
        g = gradient(weights(seed), own.features[i], own.labels[i])
        g *= min(1.0, CLIP / np.linalg.norm(g))
        assert np.linalg.norm(g**2 / CLIP) <= np.linalg.norm(g) ** 2 / CLIP * (1.0 + 1e-12) <= CLIP * (1.0 + 1e-11)
        assert np.linalg.norm(g**2 / CLIP) < 0.75 * np.linalg.norm(np.abs(g))
    spike = np.zeros(MODEL.dimension)
    spike[3] = -CLIP
    assert np.linalg.norm(spike**2 / CLIP) == pytest.approx(CLIP)


@pytest.mark.parametrize("clip_norm", [1e-90, 1e-3, CLIP, 1e90])
@pytest.mark.parametrize("huge", [False, True])
@pytest.mark.parametrize("unit", [Unit.RECORD, Unit.GROUP])
def test_gradients_that_overflow_count_as_zero_and_are_no_error(unit, huge, clip_norm):
    own = records(groups=GROUPS)
    vector = np.full(MODEL.dimension, 3e38, dtype=np.float32) if huge else weights()
    found = contribution(silo(own, FORGOTTEN), unit, vector=vector, clip_norm=clip_norm)
    assert np.isfinite(found).all()
    assert np.linalg.norm(found / clip_norm) <= 12.0


class Root(nn.Module):
    """Infinite slope, and then NaN, where a record has a zero in front."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(INPUTS, 3)

    def forward(self, features):
        return torch.sqrt(torch.sqrt(features[:, :1])) * self.last(features) / torch.sqrt(features[:, :1])


@pytest.mark.parametrize("by_group", [False, True])
def test_what_is_not_finite_counts_as_zero_with_one_warning(by_group, caplog):
    model = FlatModel(Root())
    own = records(groups=GROUPS)
    features = own.features.abs() + 0.1
    features[5] = 0.0
    features[0] = 0.0
    broken = Records(features, own.labels, own.groups)
    gone = np.isin(GROUPS, ["a", "d"]) if by_group else np.isin(np.arange(12), [0, 5])
    vector = model.vector()
    with caplog.at_level(logging.WARNING, logger="secure_fu"):
        found = magnitude_sum(PerRecordGradients(model), vector, broken, clip_norm=CLIP, by_group=by_group)
    assert len(caplog.records) == 1
    whole = broken.subset(~gone)
    expected = magnitude_sum(PerRecordGradients(model), vector, whole, clip_norm=CLIP, by_group=by_group)
    assert found == pytest.approx(expected, rel=1e-12)
    assert found.any()


@pytest.mark.parametrize("by_group", [False, True])
def test_sums_do_not_depend_on_how_records_are_cut_into_chunks(by_group, monkeypatch):
    own = records(groups=GROUPS)
    whole = magnitude_sum(GRADIENTS, weights().astype(np.float64), own, clip_norm=CLIP, by_group=by_group)
    monkeypatch.setattr("secure_fu.learning.per_record._CHUNK_BYTES", 5000)
    cut = magnitude_sum(GRADIENTS, weights().astype(np.float64), own, clip_norm=CLIP, by_group=by_group)
    assert cut == pytest.approx(whole, rel=1e-12, abs=1e-15)


def test_magnitudes_of_no_records_and_of_none_with_groups():
    nothing = records().subset(np.zeros(12, dtype=bool))
    assert not magnitude_sum(GRADIENTS, weights().astype(np.float64), nothing, clip_norm=CLIP).any()
    with pytest.raises(DataError, match="no groups"):
        magnitude_sum(GRADIENTS, weights().astype(np.float64), records(), clip_norm=CLIP, by_group=True)
    with pytest.raises(ArgumentError, match="clip_norm"):
        magnitude_sum(GRADIENTS, weights().astype(np.float64), records(), clip_norm=0.0)


# The server's side


class Measured:
    """Sums that say what each kind is said to matter, zero in rounds that train."""

    def __init__(self, goes, stays):
        self._sums = ScriptedSums(self._release)
        self.goes, self.stays = goes, stays

    @property
    def requests(self):
        return self._sums.requests

    def secure_sum(self, request):
        return self._sums.secure_sum(request)

    def _release(self, request):
        if request.settings.get("importance") is not True:
            return np.zeros(MODEL.dimension)
        assert (request.forgotten_rate == 0.0) != (request.retained_rate == 0.0), "the two kinds share no sum"
        return self.goes if request.forgotten_rate else self.stays


def planted(layer, row=None, column=None, size=50.0):
    """Importances of 1, and of `size` in a row or a column of a layer's weights."""
    values = np.ones(MODEL.dimension)
    part = MODEL.layers[layer]
    matrix = values[part.slice].reshape(part.shape)
    if row is not None:
        matrix[row] = size
    if column is not None:
        matrix[:, column] = size
    values[part.slice] = matrix.reshape(-1)
    return values


def reset(outcome, case):
    """Which coordinates went back to the public start; all others must be the original's."""
    vector, start = outcome.state.model.vector, MODEL.vector().astype(np.float32)
    changed = vector != case.original.model.vector
    assert np.array_equal(vector[changed], start[changed])
    return changed


@pytest.mark.parametrize(
    ("where", "count"),
    [({"layer": 0, "row": 2}, INPUTS), ({"layer": 0, "column": 1}, HIDDEN), ({"layer": 2, "row": 0}, HIDDEN)],
)
def test_the_weights_that_matter_to_the_forgotten_alone_are_reset(where, count):
    case = deletion()
    goes, stays = planted(**where), np.ones(MODEL.dimension)
    outcome = Fisher(share=count / MODEL.dimension).run(Measured(goes, stays), case)
    assert np.array_equal(reset(outcome, case), goes > 1.0)


def test_weights_that_matter_to_everybody_are_not_reset():
    case = deletion()
    common = planted(2, row=1, size=400.0)
    goes, stays = planted(0, row=2) + common, common
    outcome = Fisher(share=INPUTS / MODEL.dimension).run(Measured(goes, stays), case)
    assert np.array_equal(reset(outcome, case), planted(0, row=2) > 1.0)


def test_biases_are_judged_one_by_one():
    case, goes = deletion(), np.ones(MODEL.dimension)
    bias = MODEL.layers[1]
    assert bias.shape == (HIDDEN,)
    goes[bias.slice.start + 3] = 40.0
    outcome = Fisher(share=1.0 / MODEL.dimension).run(Measured(goes, np.ones(MODEL.dimension)), case)
    assert np.flatnonzero(reset(outcome, case)).tolist() == [bias.slice.start + 3]


@pytest.mark.parametrize("seed", range(3))
def test_planted_weights_are_found_under_the_noise_that_the_rounds_have(seed):
    """One row of a larger layer, each entry one standard deviation of a round's noise: the row's sum tells."""
    wide = FlatModel(mlp(40, (30,), 3, 0))
    case = deletion()
    moved = ReleasedModel.public(wide.vector() + 1.0)
    original = dataclasses.replace(case.original, model=moved, velocity=np.zeros(wide.dimension))
    case = dataclasses.replace(case, model=wide, original=original)
    sigma = case.recipe.noise_multiplier * case.recipe.clip_norm * math.sqrt(2 / case.assured)  # two participants
    row = np.zeros(wide.dimension, dtype=bool)
    row[7 * 40 : 8 * 40] = True
    draw, released = np.random.default_rng(seed), []

    def release(request):
        if request.settings.get("importance") is not True:
            return np.zeros(wide.dimension)
        signal = np.where(row, sigma, 0.0) if request.forgotten_rate else np.full(wide.dimension, 3.0 * sigma)
        released.append(signal + draw.normal(0.0, sigma, wide.dimension))
        return released[-1]

    outcome = Fisher(share=80 / wide.dimension, measurements=2).run(ScriptedSums(release), case)
    back = outcome.state.model.vector == wide.vector().astype(np.float32)
    alone = np.argsort(-(released[0] + released[1]) / np.maximum(released[2], 0.3 * sigma))[:80]
    assert back.sum() == 80
    assert back[row].mean() > 0.6
    assert np.isin(np.flatnonzero(row), alone).mean() < 0.5, "what the same sums tell coordinate by coordinate"


def test_nothing_counts_as_less_than_the_noise_floor():
    """What is measured as next to nothing for both kinds is noise: its ratio, however large, says nothing."""
    goes, stays = np.full(MODEL.dimension, 1e-6), np.full(MODEL.dimension, 1e-9)
    goes[::2] = stays[1::3] = -2.0
    bias = MODEL.layers[3].slice.start
    goes[bias], stays[bias] = 1.0, 0.01
    for part in MODEL.layers:
        if len(part.shape) >= 2:
            goes[part.slice], stays[part.slice] = 1e-3, 10.0
    case = deletion()
    outcome = Fisher(share=1.0 / MODEL.dimension).run(Measured(goes, stays), case)
    assert np.flatnonzero(reset(outcome, case)).tolist() == [bias]


@pytest.mark.parametrize("recovery", [0, 3])
def test_the_rounds_asked_for_are_those_planned(recovery):
    case, sums, seen = deletion(), Measured(planted(0, row=2), np.ones(MODEL.dimension)), []
    method = Fisher(measurements=2, recovery=recovery)
    outcome = method.run(sums, case, seen.append)
    rate = case.recipe.sampling_rate
    assert method.plan(case) == (
        PlannedRounds.of(case, 2, forgotten_rate=rate, retained_rate=0.0),
        PlannedRounds.of(case, 1 + recovery, forgotten_rate=0.0),
    )
    assert method.rounds(case) == method.most_rounds(case.rounds) == len(sums.requests) == len(seen) == 3 + recovery
    found = [(r.forgotten_rate, r.retained_rate, r.settings.get("importance", False)) for r in sums.requests]
    assert found == [(rate, 0.0, True)] * 2 + [(0.0, rate, True)] + [(0.0, rate, False)] * recovery
    for request in sums.requests:
        assert request.purpose == "unlearn/fisher"
        assert request.phase is Phase.UNLEARNING
        assert request.clip_norm == case.recipe.clip_norm
        assert request.noise_multiplier == case.recipe.noise_multiplier
    assert all(state.model is case.original.model for state in seen[:3]), "measuring moves nothing"
    assert [state.last_round for state in seen] == list(range(1, 4 + recovery))
    assert outcome.state.rounds == case.original.rounds, "not rounds of training"
    assert outcome.guarantee == method.guarantee(case)
    assert outcome.guarantee.kind == "heuristic"
    assert "No proof" in outcome.guarantee.describe()


def test_recovery_is_training_from_the_reset_model():
    case, seen = deletion(), []
    sums = ScriptedSums(lambda request: np.ones(MODEL.dimension))
    Fisher(measurements=1, recovery=1, share=1.0).run(sums, case, seen.append)
    rate = case.recipe.learning_rate / (case.recipe.sampling_rate * case.recipe.nominal_units)
    assert seen[-1].model.vector == pytest.approx(MODEL.vector() - rate, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("unit", list(Unit))
def test_it_runs_for_every_unit_and_each_kind_pays_for_its_own_rounds(unit):
    method = Fisher(measurements=1, recovery=1)
    with federation(unit, methods=(method,)) as federated:
        federated.train()
        unlearned = federated.unlearn(REQUESTS[unit], method, adaptive=False)
        assert np.isfinite(unlearned.state.model.vector).all()
        assert all(traffic.uploads == 4 for traffic in unlearned.traffic), "nobody sat a round out"
        charges = [event.charges for event in federated.ledger.events("unlearn/fisher")]
        assert [charge[Subject.FORGOTTEN] is not None for charge in charges] == [True, False, False]
        assert [charge[Subject.RETAINED] is not None for charge in charges] == [False, True, True]


@pytest.mark.parametrize(
    ("settings", "argument"),
    [
        ({"measurements": 0}, "measurements"),
        ({"share": 0.0}, "share"),
        ({"share": 1.1}, "share"),
        ({"share": float("nan")}, "share"),
        ({"noise_floor": 0.0}, "noise_floor"),
        ({"noise_floor": float("inf")}, "noise_floor"),
        ({"recovery": -1}, "recovery"),
    ],
)
def test_settings_out_of_their_domain(settings, argument):
    with pytest.raises(ArgumentError) as caught:
        Fisher(**settings)
    assert caught.value.argument == argument
