"""Retraining, rollback and the baselines: training rounds, from the right state, that no forgotten record enters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from unlearning_cast import (
    FORGOTTEN,
    LOCAL,
    MODEL,
    ScriptedSums,
    Words,
    deletion,
    digit_silos,
    records,
    silo,
    terms,
    weights,
)

from secure_fu.crypto import InsecureDeterministicRandomness
from secure_fu.deletion import DeletionRequest
from secure_fu.errors import ArgumentError
from secure_fu.federation import Federation
from secure_fu.learning import Records, mlp
from secure_fu.planning import make_plan
from secure_fu.privacy import Phase, Unit
from secure_fu.unlearning import FineTune, Retrain, Rollback, Scratch

RERUNS = [Retrain(), Rollback(), FineTune(), Scratch()]


def contribution(method, of, unit=Unit.RECORD, *, rate=1.0, seed=0):
    ((purpose, task),) = method.client_tasks(of).items()
    assert purpose == f"unlearn/{method.name}"
    return task.contribution(weights(), terms(unit, retained=rate, forgotten=0.0), Words(seed))


@pytest.mark.parametrize("unit", list(Unit))
@pytest.mark.parametrize("method", RERUNS, ids=lambda method: method.name)
def test_forgotten_records_count_as_if_the_silo_had_never_held_them(method, unit):
    own = records(groups=[f"person-{i // 2}" for i in range(12)])
    never_held = own.subset(~FORGOTTEN)
    found = contribution(method, silo(own, FORGOTTEN), unit)
    expected = contribution(method, silo(never_held), unit)
    assert np.linalg.norm(found) > 0.0
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-15)
    assert not np.allclose(contribution(method, silo(own), unit), expected)


@pytest.mark.parametrize("unit", list(Unit))
@pytest.mark.parametrize("method", RERUNS, ids=lambda method: method.name)
def test_what_forgotten_records_hold_changes_no_bit_of_the_contribution(method, unit):
    groups = [f"person-{i // 3}" for i in range(12)]
    own, other = records(groups=groups), records(seed=50, groups=groups)
    marks = torch.from_numpy(FORGOTTEN)
    changed = Records(
        torch.where(marks[:, None], other.features * 1e6, own.features),
        torch.where(marks, 2 - own.labels, own.labels),
        own.groups,
    )
    for seed in range(5):
        found = contribution(method, silo(own, FORGOTTEN), unit, rate=1.0 if unit is Unit.CLIENT else 0.5, seed=seed)
        again = contribution(
            method, silo(changed, FORGOTTEN), unit, rate=1.0 if unit is Unit.CLIENT else 0.5, seed=seed
        )
        assert np.array_equal(found, again)


@pytest.mark.parametrize("unit", list(Unit))
@pytest.mark.parametrize("method", RERUNS, ids=lambda method: method.name)
def test_a_client_that_leaves_sends_zero(method, unit):
    own = silo(records(groups=["x"] * 12), np.ones(12))
    assert np.array_equal(contribution(method, own, unit), np.zeros(MODEL.dimension))


# The server's side


@pytest.mark.parametrize(
    ("method", "every", "rounds", "start"),
    [
        (Retrain(), 10, 20, 0),
        (Rollback(), 10, 10, 10),
        (Rollback(), 4, 8, 12),
        (Rollback(forget_epsilon=0.4), 4, 4, 16),
        (FineTune(), 10, 10, 20),
        (FineTune(length=3), 10, 3, 20),
        (Scratch(length=7), 10, 7, 0),
    ],
)
def test_a_rerun_starts_from_its_checkpoint_and_asks_for_training_rounds_without_the_forgotten(
    method, every, rounds, start
):
    case, sums, seen = deletion(every=every), ScriptedSums(), []
    outcome = method.run(sums, case, seen.append)
    assert method.rounds(case) == rounds == len(sums.requests) == len(seen)
    assert method.start_state(case).model is case.checkpoints.load(start).model
    assert sums.requests[0].model is case.checkpoints.load(start).model
    assert outcome.state is seen[-1]
    assert outcome.guarantee == method.guarantee(case)
    assert outcome.state.rounds == (start if isinstance(method, FineTune) else start + rounds), (
        "fine-tuning is no training"
    )
    for request, state in zip(sums.requests[1:], seen, strict=False):
        assert request.model is state.model
    for request in sums.requests:
        assert request.purpose == f"unlearn/{method.name}"
        assert request.phase is Phase.UNLEARNING
        assert (request.forgotten_rate, request.retained_rate) == (0.0, 0.25)
        assert (request.clip_norm, request.noise_multiplier) == (case.recipe.clip_norm, case.recipe.noise_multiplier)


def test_a_rollback_takes_the_optimiser_back_and_fine_tuning_starts_at_rest():
    # With sums of zero the model moves by its momentum alone.
    for method, every, start, at_rest in (
        (Rollback(), 10, 10, False),
        (Rollback(), 4, 12, False),
        (FineTune(), 10, 20, True),
        (Retrain(), 10, 0, True),
    ):
        case = deletion(every=every)
        velocity = np.zeros(MODEL.dimension) if at_rest else case.checkpoints.load(start).velocity
        assert at_rest is not np.any(velocity)
        seen = []
        method.run(ScriptedSums(), case, seen.append)
        vector = case.checkpoints.load(start).model.vector.astype(np.float64)
        moved = vector - case.recipe.learning_rate * case.recipe.momentum * velocity
        assert np.array_equal(seen[0].model.vector, moved.astype(np.float32))


@pytest.mark.parametrize(
    ("every", "epsilon", "expected"),
    [
        (1, 0.0, 12),
        (10, 0.0, 10),
        (5, 0.0, 10),
        (12, 0.0, 12),
        (13, 0.0, 0),
        (100, 0.0, 0),
        (1, 0.35, 15),
        (2, 0.35, 14),
        (10, 0.35, 10),
        (1, 100.0, 20),
        (7, 100.0, 14),
    ],
)
def test_rollback_takes_the_latest_checkpoint_of_the_grid_up_to_which_the_units_had_paid_no_more(
    every, epsilon, expected
):
    assert Rollback(forget_epsilon=epsilon).checkpoint(deletion(every=every)) == expected


def test_an_infinite_charge_is_never_small_enough():
    case = deletion(lambda rounds: None if rounds > 12 else 0.0)
    assert Rollback(forget_epsilon=1e9).checkpoint(case) == 12


def test_units_that_were_there_from_the_start_take_rollback_to_the_public_start():
    case = deletion(lambda rounds: 0.1 * rounds, joined_at=0, every=10)
    assert Rollback().checkpoint(case) == 0
    assert Rollback(forget_epsilon=1.0).checkpoint(case) == 10


def test_a_rollback_that_goes_back_nowhere_runs_no_round():
    case, sums = deletion(), ScriptedSums()
    method = Rollback(forget_epsilon=10.0)
    assert method.run(sums, case).state is case.original
    assert sums.requests == []


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: Rollback(forget_epsilon=-0.1), "forget_epsilon"),
        (lambda: Rollback(forget_epsilon=float("nan")), "forget_epsilon"),
        (lambda: Rollback(forget_epsilon=float("inf")), "forget_epsilon"),
        (lambda: FineTune(length=0), "length"),
        (lambda: Scratch(length=-3), "length"),
    ],
)
def test_settings_out_of_their_domain(make, argument):
    with pytest.raises(ArgumentError) as caught:
        make()
    assert caught.value.argument == argument


# A whole federation


def federation(last, *, unit=Unit.RECORD, scheme="plain", joins=True, methods=()):
    """Four silos of digits; what the last one holds, and nothing else, is up to the caller. Noise follows a seed."""
    clients, _, _, _ = digit_silos(4)
    clients = {name: own.subset(np.arange(len(own)) < 40) for name, own in clients.items()}
    clients["silo-3"] = last(clients["silo-3"])
    module = mlp(64, (6,), 10, seed=1)
    plan = make_plan(
        module,
        clients=4,
        nominal_units=4 if unit is Unit.CLIENT else 160,
        minimum_cohort=3,
        unit=unit,
        rounds=6,
        sampling_rate=1.0 if unit is Unit.CLIENT else 0.3,
        local=LOCAL if unit is Unit.CLIENT else None,
        checkpoint_every=2,
    )
    return Federation(
        module,
        clients,
        plan=plan,
        methods=methods,
        scheme_name=scheme,
        joins={"silo-3": 4} if joins else None,
        randomness=InsecureDeterministicRandomness(7),
    )


def poisoned(own):
    return Records(own.features * 3.0 - 1.0, 9 - own.labels, own.groups)


@pytest.mark.parametrize(
    ("method", "joins"),
    [(Retrain(), True), (Retrain(), False), (Rollback(), True), (Scratch(length=2), False)],
)
@pytest.mark.parametrize("unit", [Unit.RECORD, Unit.CLIENT])
def test_no_bit_of_an_exact_method_s_model_depends_on_what_was_forgotten(method, joins, unit):
    """With noise and sampling held fixed, whatever the leaving client held, the outcome is the same model."""
    models, originals = set(), set()
    for last in (lambda own: own, poisoned):
        with federation(last, unit=unit, joins=joins, methods=[method]) as federated:
            originals.add(federated.train().model.digest)
            unlearned = federated.unlearn(DeletionRequest.whole_client("silo-3"), method, adaptive=False)
            assert unlearned.guarantee.kind == "exact"
            models.add(unlearned.state.model.digest)
    assert len(originals) == 2, "the original does depend on it"
    assert len(models) == 1


def test_encrypted_as_well():
    models = set()
    for last in (lambda own: own, poisoned):
        with federation(last, scheme="bfv") as federated:
            federated.train()
            request = DeletionRequest.whole_client("silo-3")
            models.add(federated.unlearn(request, Rollback(), adaptive=False).state.model.digest)
    assert len(models) == 1


def test_fine_tuning_does_depend_on_it_and_claims_nothing():
    models = set()
    for last in (lambda own: own, poisoned):
        with federation(last) as federated:
            federated.train()
            unlearned = federated.unlearn(DeletionRequest.whole_client("silo-3"), FineTune(length=2), adaptive=False)
            assert unlearned.guarantee.kind == "baseline"
            models.add(unlearned.state.model.digest)
    assert len(models) == 2


def test_retained_records_of_a_silo_that_forgets_some_are_still_learnt_from():
    """Nothing of retained data is lost: change one retained record, and the retrained model changes."""
    request = DeletionRequest.some_records("silo-3", range(39))

    def last_record_changed(own):
        features = own.features.clone()
        features[39] = 1.0 - features[39]
        return Records(features, own.labels, own.groups)

    def forgotten_changed(own):
        features = own.features.clone()
        features[:39] = 1.0 - features[:39]
        return Records(features, own.labels, own.groups)

    models = []
    for last in (lambda own: own, forgotten_changed, last_record_changed):
        with federation(last) as federated:
            federated.train()
            models.append(federated.unlearn(request, Retrain(), adaptive=False).state.model.digest)
    assert models[0] == models[1] != models[2]
