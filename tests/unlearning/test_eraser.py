"""Eraser: the direction of now with the size of then, one unit at a time, against slow loops; and its bound."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional
from unlearning_cast import (
    CLIP,
    FORGOTTEN,
    GRADIENTS,
    GROUPS,
    LOCAL,
    MODEL,
    ScriptedSums,
    Words,
    clipped,
    deletion,
    gradient,
    overflowing,
    records,
    sampled,
    silo,
    terms,
    weights,
)

from secure_fu.errors import ArgumentError, CheckpointError, DataError, HistoryError
from secure_fu.learning import FlatModel, PerRecordGradients, Records
from secure_fu.learning.calibrated import calibrated_sum
from secure_fu.privacy import Phase, Unit
from secure_fu.protocol import ReleasedModel, RoundTerms
from secure_fu.training import Silo, TrainingTask
from secure_fu.unlearning import Heuristic
from secure_fu.unlearning.eraser import Eraser

ROUNDS = 5
NOW = 77
UNITS = {Unit.RECORD: [[i] for i in range(12)], Unit.GROUP: [np.flatnonzero(np.array(GROUPS) == g) for g in "abcde"]}
HUGE = np.full(MODEL.dimension, 3e38, dtype=np.float32)


def trained(own, unit=Unit.RECORD, clip_norm=CLIP, models=weights, **arguments):
    """A silo after some training rounds on models of their own; seeds are the round numbers."""
    made = silo(own, **arguments)
    for number in range(ROUNDS):
        TrainingTask(made).contribution(models(number), terms(unit, number=number, clip_norm=clip_norm), Words(number))
    return made


def settings(old=2, ratio_limit=3.0, **changes):
    return {**LOCAL, "old_model": ReleasedModel.public(weights(old)).digest.hex(), "ratio_limit": ratio_limit} | changes


def asked(unit=Unit.RECORD, *, rate=1.0, forgotten=0.0, clip_norm=CLIP, number=99, **changes):
    plain = terms(unit, retained=rate, forgotten=forgotten, clip_norm=clip_norm, number=number)
    return RoundTerms(**{**vars(plain), "settings": settings(**changes)})


def contribution(of, unit=Unit.RECORD, *, seed=5, task=None, model=None, **arguments):
    if task is None:
        ((purpose, task),) = Eraser().client_tasks(of).items()
        assert purpose == "unlearn/eraser"
    return task.contribution(weights(NOW) if model is None else model, asked(unit, **arguments), Words(seed))


def together(own, positions, model):
    return sum(gradient(model, own.features[i], own.labels[i]) for i in positions)


def calibrated(own, positions, *, old=2, clip_norm=CLIP, ratio_limit=3.0):
    """The oracle: what one unit adds."""
    then, now = together(own, positions, weights(old)), together(own, positions, weights(NOW))
    size = np.linalg.norm(clipped(then, clip_norm))
    return now * min(size / np.linalg.norm(now), ratio_limit)


# What a client computes


@pytest.mark.parametrize("unit", [Unit.RECORD, Unit.GROUP])
@pytest.mark.parametrize("old", [0, 2, 4])
@pytest.mark.parametrize(("clip_norm", "ratio_limit"), [(CLIP, 3.0), (100.0, 3.0), (100.0, 0.6)])
def test_each_unit_has_the_direction_of_now_and_the_size_of_then(unit, old, clip_norm, ratio_limit):
    own = records(groups=GROUPS)
    found = contribution(trained(own, unit), unit, old=old, clip_norm=clip_norm, ratio_limit=ratio_limit)
    parts = [calibrated(own, unit_, old=old, clip_norm=clip_norm, ratio_limit=ratio_limit) for unit_ in UNITS[unit]]
    assert found == pytest.approx(sum(parts), rel=1e-9, abs=1e-12)
    plain = sum(clipped(together(own, unit_, weights(NOW)), clip_norm) for unit_ in UNITS[unit])
    assert np.allclose(found, plain, rtol=1e-2) == (unit is Unit.GROUP and clip_norm == CLIP)  # all groups are clipped


def test_the_clip_and_the_limit_both_act_in_these_tests():
    own = records(groups=GROUPS)
    sizes = [np.linalg.norm(together(own, [i], weights(2))) for i in range(12)]
    ratios = [size / np.linalg.norm(together(own, [i], weights(NOW))) for i, size in enumerate(sizes)]
    assert min(sizes) < CLIP < max(sizes)
    assert min(ratios) < 3.0 < max(ratios)


@pytest.mark.parametrize("seed", range(3))
def test_the_sample_is_fresh_and_without_the_forgotten(seed):
    own = records()
    found = contribution(trained(own).forgetting(FORGOTTEN), rate=0.5, forgotten=1.0, seed=seed)
    (now,) = sampled(seed, 0.5, 12)
    expected = sum(calibrated(own, [i]) for i in np.flatnonzero(now & ~FORGOTTEN))
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("unit", list(Unit))
def test_who_has_no_part_in_that_round_contributes_as_in_training(unit):
    own = records(groups=GROUPS)
    found = contribution(silo(own), unit, clip_norm=100.0)
    expected = TrainingTask(silo(own)).contribution(weights(NOW), asked(unit, clip_norm=100.0), Words(5))
    assert np.array_equal(found, expected)
    known = contribution(trained(own, unit, clip_norm=100.0), unit, clip_norm=100.0)
    assert not np.allclose(found, known, rtol=1e-3)


def test_a_client_is_as_long_as_its_update_was():
    own = records()
    of_then = TrainingTask(silo(own)).contribution(weights(2), terms(Unit.CLIENT, number=2), Words())
    of_now = TrainingTask(silo(own)).contribution(weights(NOW), asked(Unit.CLIENT), Words())
    for limit in (3.0, 0.4):
        found = contribution(trained(own, Unit.CLIENT), Unit.CLIENT, ratio_limit=limit)
        ratio = np.linalg.norm(of_then) / np.linalg.norm(of_now)
        assert found == pytest.approx(of_now * min(ratio, limit), rel=1e-6, abs=1e-8)
    assert ratio > 0.4


@pytest.mark.parametrize("unit", list(Unit))
def test_who_leaves_contributes_exactly_zero(unit):
    own = trained(records(groups=GROUPS), unit).forgetting(np.ones(12, bool))
    assert not contribution(own, unit, forgotten=1.0).any()


@pytest.mark.parametrize("unit", list(Unit))
def test_nothing_of_forgotten_records_or_of_other_clients_is_touched(unit):
    """The forgotten records are replaced by others; nothing that is sent changes. Other silos are no argument."""
    groups = np.array(GROUPS)
    forgotten = np.ones(12, bool) if unit is Unit.CLIENT else np.isin(groups, ["a", "d"])
    own, other = records(groups=GROUPS), records(seed=9)
    features = np.where(forgotten[:, None], other.features, own.features)
    swapped = Records.from_arrays(features, np.where(forgotten, other.labels, own.labels), GROUPS)
    found = [contribution(trained(part, unit).forgetting(forgotten, unit), unit) for part in (own, swapped)]
    assert np.array_equal(*found)
    assert found[0].any() == (unit is not Unit.CLIENT)


# One unit, one bound


OLD_MODELS = {
    "ordinary": weights,
    "zeros": lambda number: np.full(MODEL.dimension, number * 1e-20, dtype=np.float32),
    "overflowing": lambda number: HUGE * np.float32(1.0 - 0.01 * number),
    "large": lambda number: weights(number) * np.float32(1e6),
}


@pytest.mark.parametrize("unit", [Unit.RECORD, Unit.GROUP])
@pytest.mark.parametrize("models", OLD_MODELS)
@pytest.mark.parametrize("ratio_limit", [1e-9, 1.0, 1e100])
@pytest.mark.parametrize("factor", [1.0, 1e-18])
def test_one_unit_moves_the_sum_by_at_most_the_clip_norm(unit, models, ratio_limit, factor):
    """Neighbours share the released models, which may have been made up; the unit that is out was never there."""
    own = records(groups=GROUPS)
    old = ReleasedModel.public(OLD_MODELS[models](2)).digest.hex()
    now = (weights(NOW) * factor).astype(np.float32)

    def found(part):
        of = trained(part, unit, models=OLD_MODELS[models])
        return contribution(of, unit, old_model=old, ratio_limit=ratio_limit, model=now)

    whole = found(own)
    for positions in UNITS[unit]:
        moved = np.linalg.norm(whole - found(own.subset(~np.isin(np.arange(12), positions))))
        assert moved <= CLIP * (1.0 + 1e-12)


def test_the_bound_is_reached_and_a_ratio_of_sums_would_break_it():
    own = records()
    whole, out = contribution(trained(own), ratio_limit=1e6), []
    for position in range(12):
        rest = own.subset(np.arange(12) != position)
        out.append(np.linalg.norm(whole - contribution(trained(rest), ratio_limit=1e6)))
    assert max(out) == pytest.approx(CLIP, rel=1e-9)

    def shared_ratio(part):
        """As a client would calibrate its whole update: what the paper does, where the unit is a client."""
        then, now = (clipped_loop(part, weights(seed)) for seed in (2, NOW))
        return now * np.linalg.norm(then) / np.linalg.norm(now)

    broken = [
        np.linalg.norm(shared_ratio(own) - shared_ratio(own.subset(np.arange(12) != position)))
        for position in range(12)
    ]
    assert max(broken) > CLIP * 1.01


def clipped_loop(own, model):
    return sum(clipped(together(own, [i], model)) for i in range(len(own)))


@pytest.mark.parametrize("old_norm", [0.0, 1e-30, 1.0, 1e30])
@pytest.mark.parametrize("ratio_limit", [1e-9, 1.0, 1e100])
def test_a_client_is_bounded_whatever_its_history_holds(old_norm, ratio_limit):
    own = silo(records())
    own.remember_update(0, weights(2), np.full(MODEL.dimension, old_norm / math.sqrt(MODEL.dimension)))
    for clip_norm in (CLIP, 1e-6, 1e-90, 1e90):
        branch = own.forgetting(np.zeros(12, bool))
        found = contribution(branch, Unit.CLIENT, clip_norm=clip_norm, ratio_limit=ratio_limit)
        # In exact arithmetic from the float64 result: no tolerance.
        assert math.fsum(float(value) ** 2 for value in found / clip_norm) <= 1.0


@pytest.mark.parametrize("unit", [Unit.RECORD, Unit.GROUP])
@pytest.mark.parametrize("where", ["old", "new"])
def test_a_model_made_to_overflow_on_one_unit_moves_the_sum_by_exactly_zero(unit, where, monkeypatch):
    """The model overflows on records whose features are positive, of which there is one; or none."""
    monkeypatch.setattr("secure_fu.learning.per_record._CHUNK_BYTES", 1)  # equal bits, whatever the other records
    deep, bad, own = overflowing(6)
    keep, good = np.arange(6) != 2, deep.vector()
    models = (bad, good) if where == "old" else (good, bad)
    by_group = unit is Unit.GROUP
    whole, rest = (
        calibrated_sum(PerRecordGradients(deep), *models, part, clip_norm=CLIP, ratio_limit=5.0, by_group=by_group)
        for part in (own, own.subset(keep))
    )
    assert np.isfinite(whole).all()
    assert np.array_equal(whole, rest)
    assert rest.any()


def test_any_module_gives_the_same_as_linear_layers_do(monkeypatch):
    own, old, new = records(40), weights(2).astype(np.float64), weights(NOW).astype(np.float64)
    expected = calibrated_sum(GRADIENTS, old, new, own, clip_norm=CLIP, ratio_limit=3.0)
    monkeypatch.setattr("secure_fu.learning.per_record.LinearGradients.covers", lambda model: False)
    explicit = PerRecordGradients(MODEL)
    monkeypatch.setattr("secure_fu.learning.per_record._CHUNK_BYTES", 10_000)
    found = calibrated_sum(explicit, old, new, own, clip_norm=CLIP, ratio_limit=3.0)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)
    empty = own.subset(slice(0))
    assert not calibrated_sum(explicit, old, new, empty, clip_norm=CLIP, ratio_limit=3.0).any()


# What is refused


@pytest.mark.parametrize(
    "wrong",
    [
        {"old_model": 3},
        {"old_model": "no hash"},
        {"old_model": "ab" * 31},
        {"ratio_limit": 0.0},
        {"ratio_limit": float("nan")},
        {"ratio_limit": float("inf")},
        {"ratio_limit": "large"},
        {"ratio_limit": True},
    ],
)
@pytest.mark.parametrize("leaves", [True, False])
def test_a_servers_settings_are_checked_by_everybody(wrong, leaves):
    own = trained(records()).forgetting(np.full(12, leaves))
    with pytest.raises(ArgumentError, match=f"settings.{next(iter(wrong))}"):
        contribution(own, **wrong)


@pytest.mark.parametrize("unit", list(Unit))
@pytest.mark.parametrize("leaves", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_a_model_of_another_length_is_refused_by_everybody(unit, leaves, known):
    own = trained(records(groups=GROUPS), unit) if known else silo(records(groups=GROUPS))
    with pytest.raises(ArgumentError, match=f"{MODEL.dimension}"):
        contribution(own.forgetting(np.full(12, leaves)), unit, model=np.zeros(MODEL.dimension + 1, np.float32))


def test_a_history_that_does_not_fit_the_model_is_refused(tmp_path):
    trained(records(), folder=tmp_path)
    other = FlatModel(torch.nn.Sequential(torch.nn.Linear(4, 3)))
    with pytest.raises(HistoryError, match=r"does not fit the model"):
        Silo.of("silo", records(), other, PerRecordGradients(other), folder=tmp_path)


@pytest.mark.parametrize("forgotten", [FORGOTTEN, np.zeros(12, bool), np.ones(12, bool)])
def test_every_client_needs_a_whole_history_whoever_leaves(forgotten, tmp_path):
    with pytest.raises(HistoryError, match=r"'silo'.*keep_history"):
        Eraser().client_tasks(silo(records(), keeps_history=False).forgetting(forgotten))
    own = trained(records(), folder=tmp_path)
    (tmp_path / "round-00000001.safetensors").write_bytes(b"")
    with pytest.raises(HistoryError, match=r"round-00000001"):
        Eraser().client_tasks(own.forgetting(forgotten))


def test_groups_need_a_group_column():
    with pytest.raises(DataError, match="group"):
        contribution(trained(records()), Unit.GROUP)


@pytest.mark.parametrize("rates", [(0.5, 0.0), (1.0, 0.5)])
def test_a_client_as_a_unit_is_in_or_out(rates):
    with pytest.raises(ArgumentError, match="0 or 1 for the client unit"):
        contribution(trained(records(), Unit.CLIENT), Unit.CLIENT, rate=rates[0], forgotten=rates[1])


@pytest.mark.parametrize(
    ("wrong", "argument"),
    [
        ({"interval": 0}, "interval"),
        ({"length": -1}, "length"),
        ({"rate_factor": 0.0}, "rate_factor"),
        ({"ratio_limit": float("inf")}, "ratio_limit"),
        ({"ratio_limit": float("nan")}, "ratio_limit"),
    ],
)
def test_settings_out_of_their_domain(wrong, argument):
    with pytest.raises(ArgumentError) as caught:
        Eraser(**wrong)
    assert caught.value.argument == argument


# The server's side


@pytest.mark.parametrize(
    ("method", "every", "places"),
    [
        (Eraser(), 1, [0, 4, 8, 12, 16]),
        (Eraser(interval=7), 1, [0, 6, 13]),
        (Eraser(length=6), 1, [0, 3, 6, 10, 13, 16]),
        (Eraser(interval=4), 10, [0, 0, 0, 10, 10]),
        (Eraser(interval=50), 1, [0]),
        (Eraser(length=25), 5, [i * 20 // 25 // 5 * 5 for i in range(25)]),
    ],
)
def test_each_round_names_the_old_model_of_its_place(method, every, places):
    case, sums, seen = deletion(every=every), ScriptedSums(lambda request: np.ones(MODEL.dimension)), []
    outcome = method.run(sums, case, seen.append)
    assert outcome.state is seen[-1]
    (planned,) = method.plan(case)
    assert planned.count == method.rounds(case) == method.most_rounds(20) == len(sums.requests) == len(places)
    assert (planned.forgotten_rate, planned.retained_rate) == (0.0, case.recipe.sampling_rate)
    for request, place in zip(sums.requests, places, strict=True):
        assert request.purpose == "unlearn/eraser"
        assert request.phase is Phase.UNLEARNING
        assert (request.retained_rate, request.forgotten_rate) == (case.recipe.sampling_rate, 0.0)
        assert request.settings["old_model"] == case.checkpoints.load(place).model.digest.hex()
        assert request.settings["ratio_limit"] == method.ratio_limit
    assert outcome.state.rounds == 20


def test_it_starts_at_the_public_start_and_steps_at_its_own_rate():
    case, sums = deletion(), ScriptedSums(lambda request: np.ones(MODEL.dimension))
    method = Eraser(interval=20, rate_factor=3.0)
    found = method.run(sums, case).state.model.vector
    assert sums.requests[0].model is case.checkpoints.load(0).model
    step = 3.0 * case.recipe.learning_rate / (case.recipe.sampling_rate * case.recipe.nominal_units)
    assert found == pytest.approx(case.checkpoints.load(0).model.vector - step, rel=1e-5, abs=1e-6)


def test_a_missing_checkpoint_is_found_before_anything_is_asked():
    case, sums = deletion(), ScriptedSums()

    def load(rounds):
        if rounds == 10:
            raise CheckpointError("gone")
        return case.checkpoints.kept[rounds]

    case.checkpoints.load = load
    with pytest.raises(CheckpointError, match="gone"):
        Eraser(interval=5).run(sums, case)
    assert sums.requests == []


def test_the_guarantee_is_no_more_than_words():
    found = Eraser().guarantee(deletion())
    assert isinstance(found, Heuristic)
    assert found.describe().startswith("Heuristic: 5 rounds from the public start, without the data")


def test_the_oracle_is_the_paper():
    """FedEraser, equation of calibration: |U_then| U_now / |U_now|, without limits."""
    own = records()
    then, now = (gradient(weights(seed), own.features[0], own.labels[0], functional.cross_entropy) for seed in (2, NOW))
    expected = np.linalg.norm(then) * now / np.linalg.norm(now)
    assert calibrated(own, [0], clip_norm=1e9, ratio_limit=1e9) == pytest.approx(expected)
