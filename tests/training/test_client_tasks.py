"""What a client computes in a training round, against loops over single records."""

from __future__ import annotations

import math

import numpy as np
import pytest
from training_cast import (
    MODEL,
    Words,
    clipped,
    drawn,
    gradient,
    records,
    silo,
    terms,
    vector,
)

from secure_fu.errors import ArgumentError, DataError
from secure_fu.learning import FlatModel, PerRecordGradients, Records, mlp
from secure_fu.privacy import Unit
from secure_fu.training import (
    Silo,
    StackedUpdates,
    TrainingTask,
    clipped_gradients,
    sample_units,
    single_update,
)


@pytest.mark.parametrize("seed", range(5))
def test_the_contribution_is_the_loop_over_sampled_records(seed):
    own, weights, stream = records(), vector(seed), Words(seed)
    contribution = TrainingTask(silo(own)).contribution(weights, terms(), stream)
    sampled = np.flatnonzero(drawn(stream, 12, 0.5))
    gradients = [gradient(weights, own.features[i], own.labels[i]) for i in sampled]
    assert any(np.linalg.norm(g) > 0.7 for g in gradients)
    assert contribution.dtype == np.float64
    assert contribution == pytest.approx(clipped(gradients, 0.7), rel=1e-9, abs=1e-12)


def test_forgotten_records_are_left_out_and_change_no_other_records_chance():
    own, weights = records(), vector()
    forgotten = np.arange(12) % 3 == 0
    stream, same = Words(4), Words(4)
    contribution = TrainingTask(silo(own, forgotten)).contribution(weights, terms(), stream)
    sampled = np.flatnonzero(drawn(stream, 12, 0.5) & ~forgotten)
    expected = clipped([gradient(weights, own.features[i], own.labels[i]) for i in sampled], 0.7)
    assert contribution == pytest.approx(expected, rel=1e-9, abs=1e-12)
    everything = TrainingTask(silo(own)).contribution(weights, terms(), same)
    assert same.handed_out == stream.handed_out
    assert not np.allclose(everything, contribution)


@pytest.mark.parametrize("seed", range(3))
def test_groups_are_sampled_and_clipped_as_a_whole(seed):
    groups = ["a", "b", "a", "c", "c", "d", "a", "b", "d", "e", "e", "e"]
    own, weights, stream = records(groups=groups), vector(seed), Words(seed)
    contribution = TrainingTask(silo(own)).contribution(weights, terms(Unit.GROUP), stream)
    sampled = drawn(stream, 5, 0.5)
    sums = [
        sum(gradient(weights, own.features[i], own.labels[i]) for i in range(12) if groups[i] == name)
        for name, chosen in zip("abcde", sampled, strict=True)
        if chosen
    ]
    assert contribution == pytest.approx(clipped(sums, 0.7), rel=1e-9, abs=1e-12)


def test_a_group_needs_a_group_column():
    with pytest.raises(DataError, match="group"):
        TrainingTask(silo()).contribution(vector(), terms(Unit.GROUP), Words())


@pytest.mark.parametrize("unit", [Unit.RECORD, Unit.GROUP, Unit.CLIENT])
def test_who_leaves_contributes_exactly_zero(unit):
    leaving = silo(records(groups=["a", "b"] * 6), np.ones(12, dtype=bool))
    contribution = TrainingTask(leaving).contribution(vector(), terms(unit), Words())
    assert contribution.shape == (MODEL.dimension,)
    assert not contribution.any()


def test_an_empty_sample_contributes_zero():
    contribution = TrainingTask(silo()).contribution(vector(), terms(retained_rate=1e-15), Words())
    assert not contribution.any()


@pytest.mark.parametrize("unit", [Unit.RECORD, Unit.GROUP])
def test_adding_one_unit_moves_the_contribution_by_at_most_the_clip_norm(unit):
    groups = [f"p{i // 2}" for i in range(12)]
    own, weights = records(groups=groups), vector()
    whole = clipped_gradients(silo(own), weights, own, terms(unit))
    rest = own.subset(~(own.groups == "p3")) if unit is Unit.GROUP else own.subset(np.arange(12) != 5)
    moved = np.linalg.norm(whole - clipped_gradients(silo(own), weights, rest, terms(unit)))
    assert 0.0 < moved <= 0.7 * (1.0 + 1e-12)


def test_the_client_unit_sends_the_negative_of_its_clipped_update():
    own, weights = records(), vector()
    for stacked in (None, StackedUpdates(MODEL, {"other": records(7, 9), "silo": own})):
        contribution = TrainingTask(silo(own, stacked=stacked)).contribution(weights, terms(Unit.CLIENT), Words())
        update = single_update("silo", MODEL, weights, own, terms(Unit.CLIENT))
        assert 0.1 < np.linalg.norm(update) <= 0.7
        assert contribution == pytest.approx(-update, rel=1e-4, abs=1e-6)


def test_the_update_is_plain_gradient_descent():
    own, weights = records(3), vector()
    round_terms = terms(Unit.CLIENT, clip_norm=100.0, settings={"epochs": 4, "batch_size": 3, "learning_rate": 0.1})
    moved = weights.astype(np.float64)
    for _ in range(4):
        moved = moved - 0.1 * sum(gradient(moved, own.features[i], own.labels[i]) for i in range(3)) / 3
    update = single_update("silo", MODEL, weights, own, round_terms)
    assert update == pytest.approx(moved - weights, rel=1e-3, abs=1e-5)


def test_stacked_updates_equal_single_ones_for_every_client_round_and_model():
    clients = {f"c{number}": records(5 + number, 20 + number) for number in range(4)}
    stacked = StackedUpdates(MODEL, clients)
    for number, seed in ((0, 1), (1, 1), (1, 2)):
        round_terms = terms(Unit.CLIENT, number=number)
        for name, own in clients.items():
            single = single_update(name, MODEL, vector(seed), own, round_terms)
            assert stacked.update(name, vector(seed), round_terms) == pytest.approx(single, rel=1e-4, abs=1e-6)
    assert "4 clients" in repr(stacked)


def test_the_order_of_records_differs_from_round_to_round_and_client_to_client():
    own, weights = records(), vector()
    updates = [
        single_update(name, MODEL, weights, own, terms(Unit.CLIENT, number=number))
        for name, number in (("a", 0), ("a", 1), ("b", 0))
    ]
    assert not np.allclose(updates[0], updates[1], atol=1e-9)
    assert not np.allclose(updates[0], updates[2], atol=1e-9)
    assert np.array_equal(updates[0], single_update("a", MODEL, weights, own, terms(Unit.CLIENT)))


def test_diverging_local_training_counts_as_zero_alone_and_stacked():
    clients = {"a": records(), "b": records(9, 4)}
    for weights, rate in ((vector(), 1e30), (np.full(MODEL.dimension, 3e38, dtype=np.float32), 0.2)):
        round_terms = terms(Unit.CLIENT, settings={"epochs": 40, "batch_size": 4, "learning_rate": rate})
        for own in (StackedUpdates(MODEL, clients), None):
            found = TrainingTask(silo(clients["a"], name="a", stacked=own)).contribution(weights, round_terms, Words())
            assert found.shape == (MODEL.dimension,)
            assert not found.any()


@pytest.mark.parametrize("unit", [Unit.RECORD, Unit.GROUP])
def test_a_model_made_to_overflow_on_one_unit_moves_the_contribution_by_exactly_zero(unit, monkeypatch):
    """The server's model overflows on records whose features are positive, of which there is one; or none."""
    monkeypatch.setattr("secure_fu.learning.per_record._CHUNK_BYTES", 1)  # equal bits, whatever the other records
    deep = FlatModel(mlp(4, (2,) * 9, 3, 0))
    weights = np.zeros(deep.dimension, dtype=np.float32)
    for layer in deep.layers:
        if len(layer.shape) > 1:
            weights[layer.slice] = 3e38
    features = -np.abs(np.random.default_rng(0).normal(size=(6, 4)))
    features[2] *= -1.0
    own, keep = Records.from_arrays(features, [0, 1, 2, 0, 1, 2], list("abcdef")), np.arange(6) != 2
    with_it, without = (
        TrainingTask(Silo.of("silo", part, deep, PerRecordGradients(deep))).contribution(
            weights, terms(unit, retained_rate=1.0), Words()
        )
        for part in (own, own.subset(keep))
    )
    assert np.linalg.norm(without) > 0.5
    assert np.array_equal(with_it, without)


@pytest.mark.parametrize("leaves", [True, False])
@pytest.mark.parametrize("rates", [(0.5, 0.0), (1.0, 0.5), (float("nan"), 0.0), (-1.0, 0.0), (2.0, 0.0), (1.0, 1e-300)])
def test_a_client_as_a_unit_is_in_or_out(rates, leaves):
    retained, forgotten = rates
    with pytest.raises(ArgumentError, match="0 or 1 for the client unit"):
        TrainingTask(silo(forgotten=np.full(12, leaves))).contribution(
            vector(), terms(Unit.CLIENT, retained, forgotten_rate=forgotten), Words()
        )


@pytest.mark.parametrize("unit", list(Unit))
@pytest.mark.parametrize("leaves", [True, False])
def test_a_model_of_another_length_is_refused_by_who_leaves_as_well(unit, leaves):
    own = silo(records(groups=["a", "b"] * 6), np.full(12, leaves))
    with pytest.raises(ArgumentError, match=f"{MODEL.dimension}"):
        TrainingTask(own).contribution(np.zeros(MODEL.dimension + 1, np.float32), terms(unit), Words())


@pytest.mark.parametrize("unit", list(Unit))
def test_nobody_enters_at_a_rate_of_zero(unit):
    own = silo(records(groups=["a", "b"] * 6))
    assert not TrainingTask(own).contribution(vector(), terms(unit, 0.0, forgotten_rate=1.0), Words()).any()
    assert TrainingTask(own).contribution(vector(), terms(unit, 1.0, forgotten_rate=0.0), Words()).any()


def test_a_client_that_forgets_a_part_trains_on_the_rest_alone():
    own, weights = records(), vector()
    stacked = StackedUpdates(MODEL, {"silo": own})
    marked = silo(own, stacked=stacked).forgetting(np.arange(12) < 5)
    contribution = TrainingTask(marked).contribution(weights, terms(Unit.CLIENT), Words())
    expected = single_update("silo", MODEL, weights, own.subset(np.arange(12) >= 5), terms(Unit.CLIENT))
    assert contribution == pytest.approx(-expected, rel=1e-12)
    assert (len(marked.retained_records), len(marked.forgotten_records), marked.leaves) == (7, 5, False)


def test_sampling_draws_each_unit_at_its_rate():
    own = records(4000)
    share = sample_units(own, Unit.RECORD, 0.25, Words()).mean()
    assert abs(share - 0.25) < 6 * math.sqrt(0.25 * 0.75 / 4000)
    assert not sample_units(own, Unit.RECORD, 0.0, Words()).any()
    assert sample_units(own, Unit.RECORD, 1.0, Words()).all()
    assert sample_units(own.subset(slice(0)), Unit.RECORD, 0.5, Words()).shape == (0,)


def test_sums_of_gradients_are_not_for_the_client_unit():
    with pytest.raises(ArgumentError, match="unit"):
        clipped_gradients(silo(), vector(), records(), terms(Unit.CLIENT))
