"""Scrub and correction from the server's side: what they ask for, what they do with it, what it costs."""

from __future__ import annotations

import numpy as np
import pytest
from unlearning_cast import MODEL, ScriptedSums, deletion, digit_silos

from secure_fu.deletion import DeletionRequest
from secure_fu.federation import Federation
from secure_fu.learning import Records, mlp
from secure_fu.planning import make_plan
from secure_fu.privacy import Phase, Subject, Unit
from secure_fu.unlearning import Correction, Retrain, Scrub


@pytest.mark.parametrize(
    ("method", "factor"),
    [(Scrub(length=4, rate_factor=2.0, forgotten_factor=1.0), 2.0), (Correction(length=3, rate_factor=0.5), 0.5)],
)
def test_every_round_asks_for_both_kinds_and_steps_at_its_own_rate(method, factor):
    case, sums, seen = deletion(), ScriptedSums(lambda request: np.ones(MODEL.dimension)), []
    assert method.run(sums, case, seen.append).state is seen[-1]
    assert len(sums.requests) == len(seen) == method.rounds(case) == method.length
    for request in sums.requests:
        assert request.purpose == f"unlearn/{method.name}"
        assert request.phase is Phase.UNLEARNING
        assert request.retained_rate == request.forgotten_rate == case.recipe.sampling_rate
    assert sums.requests[0].model is case.original.model
    # At rest first, so that the first step is one sum over the public scale; then momentum as in training.
    mean = 1.0 / (case.recipe.sampling_rate * case.recipe.nominal_units)
    start = case.original.model.vector.astype(np.float64)
    first = start - factor * case.recipe.learning_rate * mean
    second = first.astype(np.float32) - factor * case.recipe.learning_rate * mean * (1.0 + case.recipe.momentum)
    assert seen[0].model.vector == pytest.approx(first, rel=1e-6)
    assert seen[1].model.vector == pytest.approx(second, rel=1e-5, abs=1e-6)


def test_scrub_takes_a_tenth_of_retraining_as_it_comes():
    case = deletion(rounds=100)
    assert 10 * Scrub().rounds(case) == Retrain().rounds(case)


def small_federation(unit=Unit.RECORD, scheme="plain"):
    clients, _, _, _ = digit_silos(4)
    small = {}
    for name, own in clients.items():
        part = own.subset(np.arange(len(own)) < 30)
        small[name] = Records(part.features, part.labels, np.array([f"{name}/{i // 3}" for i in range(30)]))
    module = mlp(64, (6,), 10, seed=1)
    plan = make_plan(
        module,
        clients=4,
        nominal_units={Unit.RECORD: 120, Unit.GROUP: 40, Unit.CLIENT: 4}[unit],
        minimum_cohort=3,
        unit=unit,
        rounds=3,
        sampling_rate=1.0 if unit is Unit.CLIENT else 0.4,
        local={"epochs": 1, "batch_size": 10, "learning_rate": 0.1} if unit is Unit.CLIENT else None,
    )
    return Federation(module, small, plan=plan, scheme_name=scheme)


JOINT = (Scrub(length=2, forgotten_factor=1.0), Correction(length=2))


@pytest.mark.parametrize(
    ("unit", "request_"),
    [
        (Unit.RECORD, DeletionRequest.some_records("silo-1", (0, 7, 29))),
        (Unit.GROUP, DeletionRequest.person("silo-1/2", "silo-3/0")),
        (Unit.CLIENT, DeletionRequest.whole_client("silo-1")),
    ],
)
def test_in_a_joint_round_a_forgotten_unit_pays_what_a_retained_one_pays(unit, request_):
    with small_federation(unit) as federated:
        federated.train()
        for method in JOINT:
            unlearned = federated.unlearn(request_, method, adaptive=False)
            assert np.isfinite(unlearned.state.model.vector).all()
            assert all(traffic.uploads == 4 for traffic in unlearned.traffic), "nobody sat a round out"
            charges = [event.charges for event in federated.ledger.events(f"unlearn/{method.name}")]
            assert all(charge[Subject.FORGOTTEN] == charge[Subject.RETAINED] is not None for charge in charges)


@pytest.mark.parametrize("scheme", ["kahe", "bfv"])
def test_encrypted_as_well(scheme):
    with small_federation(scheme=scheme) as federated:
        federated.train()
        for method in JOINT:
            unlearned = federated.unlearn(DeletionRequest.whole_client("silo-3"), method, adaptive=False)
            assert np.isfinite(unlearned.state.model.vector).all()
            assert len(unlearned.traffic) == method.rounds(
                federated.deletion(DeletionRequest.whole_client("silo-3"), adaptive=False)
            )
