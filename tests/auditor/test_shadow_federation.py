"""A shadow federation has the law, the rounds and the flows of the real one, and nothing of what a ledger says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from shadow_laws import CLIENTS, MARKED, MODULE, distance_of_laws, marks, shadow
from small_federations import REQUESTS, federation, plan_for, silos

from secure_fu.auditor.shadow.federation import ShadowCheckpoints, ShadowFederation
from secure_fu.crypto import InsecureDeterministicRandomness
from secure_fu.deletion import DeletionRequest
from secure_fu.errors import ArgumentError, CheckpointError, CohortTooSmall, MethodRefused, ProtocolError
from secure_fu.learning import FlatModel, Records, mlp
from secure_fu.privacy import Unit
from secure_fu.protocol import ReleasedModel
from secure_fu.training import CheckpointStore, TrainingState
from secure_fu.unlearning import METHODS, Correction, Eraser, FineTune, Negation, Retrain, Rollback, Scrub

JOINS = {"silo-3": 1}
# Silos so large that gradients are more than the noise hides, each of one class, and a saturation that acts.
LARGE = {
    name: Records(records.features, torch.full_like(records.labels, number % 3))
    for number, (name, records) in enumerate(silos(size=60).items())
}
PLAN = plan_for(MODULE, epsilon=10.0, saturation=2.0)
METHOD = Scrub(length=1)
METHODS_RUN = (Retrain(), METHOD)
REQUEST = DeletionRequest.some_records("silo-1", MARKED["silo-1"])


def change(state):
    return state.model.vector - FlatModel(MODULE).vector()


def real_changes(seeds):
    """Of models before, retrained and after: (runs, d) each."""
    found = []
    for seed in seeds:
        with federation(
            module=MODULE,
            clients=LARGE,
            plan=PLAN,
            joins=JOINS,
            methods=(METHOD,),
            randomness=InsecureDeterministicRandomness(seed),
        ) as own:
            before = own.train()
            ends = [own.unlearn(REQUEST, method, adaptive=False).state for method in METHODS_RUN]
            found.append([change(state) for state in (before, *ends)])
    return np.array(found).transpose(1, 0, 2)


def shadow_changes(seeds, plan=PLAN, methods=METHODS_RUN):
    found = []
    for seed in seeds:
        own = shadow(seed, clients=LARGE, plan=plan, joins=JOINS)
        before = own.train()
        found.append([change(state) for state in (before, *(own.unlearn(marks(LARGE), method) for method in methods))])
    return np.array(found).transpose(1, 0, 2)


@pytest.fixture(scope="module")
def real():
    return real_changes(range(30))


def test_models_have_the_law_of_the_real_federation(real):
    for one, two in zip(real, shadow_changes(range(200)), strict=True):
        means, spread = distance_of_laws(one, two)
        assert means < 4.0
        assert abs(spread) < 4.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"noise_multiplier": 1.5 * PLAN.recipe.noise_multiplier},
        {"learning_rate": 1.5 * PLAN.recipe.learning_rate},
        {"saturation": 1000.0},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_another_law_is_told(real, wrong):
    plan = replace(PLAN, recipe=replace(PLAN.recipe, **wrong))
    means, spread = distance_of_laws(real[0], shadow_changes(range(200), plan, methods=())[0])
    assert max(means, abs(spread)) > 5.0


@pytest.mark.parametrize("unit", list(Unit))
def test_a_method_is_told_the_same_but_for_the_ledger(unit):
    request = REQUESTS[unit]
    with federation(unit, rounds=3, joins=JOINS) as own:
        own.train()
        expected = own.deletion(request, adaptive=False)
        assert expected.unit_epsilon(3) > 0.0
    made = shadow(unit=unit, rounds=3, joins=JOINS)
    made.train()
    found = made.deletion(request.identify_all(CLIENTS))
    for name in ("recipe", "joined_at", "forgotten_units", "untouched", "delta", "assured", "cohort", "adaptive"):
        assert getattr(found, name) == getattr(expected, name), name
    assert found.checkpoints.rounds == expected.checkpoints.rounds
    assert found.original.last_round == expected.original.last_round
    assert found.unit_epsilon(3) is None
    assert found.last_epsilon is None


def test_a_late_client_is_rolled_back_to_its_joining():
    late = marks(marked={"silo-3": (1,)})
    with federation(rounds=3, joins={"silo-3": 2}) as own:
        own.train()
        expected = own.deletion(DeletionRequest.some_records("silo-3", (1,)), adaptive=False)
    made = shadow(rounds=3, joins={"silo-3": 2})
    made.train()
    assert made.deletion(late).joined_at == expected.joined_at == 2
    assert Rollback().rounds(made.deletion(late)) == 1
    untouched = shadow(rounds=3, joins={"silo-3": 2})
    untouched.train(rounds=2)
    assert untouched.deletion(late).untouched
    assert untouched.deletion(late).joined_at == 2


@pytest.mark.parametrize("name", list(METHODS))
def test_methods_take_the_rounds_that_they_predict(name):
    method = METHODS[name]()
    made = shadow(rounds=4, plan=plan_for(MODULE, rounds=4, branch_rounds=60))
    made.train()
    deletion = made.deletion(marks())
    try:
        method.check(deletion)
    except MethodRefused:
        with pytest.raises(MethodRefused):
            made.unlearn(marks(), method)
        return
    seen = []
    state = made.unlearn(marks(), method, on_round=seen.append)
    assert len(seen) == method.rounds(deletion)
    assert state.last_round == 3 + len(seen)
    assert not np.array_equal(state.model.vector, made.state.model.vector)


def scrambled(places):
    """The clients, with other content in these records of one of them."""
    own = CLIENTS["silo-1"]
    features, labels = own.features.clone(), own.labels.clone()
    features[list(places)] = torch.randn(len(places), 5, generator=torch.Generator().manual_seed(9)) * 5.0
    labels[list(places)] = (labels[list(places)] + 1) % 3
    return {**CLIENTS, "silo-1": Records(features, labels, own.groups)}


@pytest.mark.parametrize("pooled", [True, False])
def test_what_is_forgotten_changes_nothing_in_retraining(pooled):
    ends = {}
    for kind, clients in (("as it is", CLIENTS), ("forgotten", scrambled((0, 3, 7))), ("retained", scrambled((1,)))):
        made = shadow(1, clients=clients, rounds=3, pooled=pooled)
        before = made.train()
        states = (before, *(made.unlearn(marks(), method) for method in (Retrain(), FineTune(length=1))))
        ends[kind] = [state.model.digest for state in states]
    assert ends["as it is"][0] != ends["forgotten"][0]
    assert ends["as it is"][1] == ends["forgotten"][1]
    assert ends["as it is"][1] != ends["retained"][1]
    # Fine-tuning goes on from a model that knew: a method that does not forget is not taken for one that does.
    assert ends["as it is"][2] != ends["forgotten"][2]


def test_a_client_without_records_takes_part_with_noise_alone():
    nobody = {**CLIENTS, "silo-0": CLIENTS["silo-0"].subset(slice(0, 0))}
    made = shadow(2, clients=nobody)
    state = made.train()
    made.unlearn(marks(nobody), Scrub(length=1))
    with pytest.raises(ArgumentError, match="at least one record"):
        made.deletion(marks(nobody, {"silo-0": ()}))
    empty = {name: records.subset(slice(0, 0)) for name, records in CLIENTS.items()}
    alone = shadow(2, clients=empty).train()
    assert not np.array_equal(alone.model.vector, state.model.vector)
    assert made.clients == tuple(CLIENTS)


def test_branches_do_not_depend_on_each_other():
    one, two = shadow(3), shadow(3)
    one.train()
    two.train()
    first = [one.unlearn(marks(), method).model.digest for method in (Retrain(), METHOD, Retrain())]
    second = [two.unlearn(marks(), method).model.digest for method in (METHOD, Retrain(), Retrain())]
    assert first == [second[1], second[0], second[2]]
    assert first[0] != first[2]
    assert one.state.model.digest == two.state.model.digest
    assert shadow(4).train().model.digest != one.state.model.digest


@pytest.mark.parametrize("saturation", [None, 0.6])
@pytest.mark.parametrize("method", [Retrain(), Correction(length=2), Eraser(), Rollback()])
def test_pooling_changes_rounding_alone(saturation, method):
    module = mlp(5, (4,), 3, 0)
    plan = plan_for(module, rounds=4, saturation=saturation, clip_norm=0.5)
    vectors, fullest = [], []
    for pooled in (True, False):
        made = ShadowFederation(FlatModel(module), CLIENTS, plan=plan, seed=5, joins=JOINS, pooled=pooled)
        made.train()
        vectors.append((made.state.model.vector, made.unlearn(marks(), method).model.vector))
        fullest.append(made.fullest)
    for one, two in zip(*vectors, strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=2e-6)
    assert fullest[0] == pytest.approx(fullest[1], rel=1e-6)
    assert (fullest[0] > 1.0) is (saturation is not None)


def test_dropout_goes_on_without_pooling():
    module = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 3))
    plan = plan_for(module)
    digests = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        digests.append(ShadowFederation(FlatModel(module), CLIENTS, plan=plan, seed=5).train().model.digest)
    assert digests[0] == digests[1] != digests[2]


def test_checkpoints_are_on_the_grid_of_the_store(tmp_path):
    start = ReleasedModel.public(np.zeros(2))
    for every, limit, rounds in ((1, 4, 13), (3, 2, 20), (5, 8, 22)):
        store = CheckpointStore(tmp_path / f"{every}", start=start, every=every, limit=limit)
        kept = ShadowCheckpoints(TrainingState.initial(start), every=every, limit=limit)
        for done in range(1, rounds + 1):
            state = replace(TrainingState.initial(start), rounds=done, last_round=done - 1)
            store.save(state, (("original", done - 1),))
            kept.save(state)
            assert kept.rounds == store.rounds
        assert kept.load(kept.rounds[-1]).rounds == kept.rounds[-1]
        with pytest.raises(CheckpointError, match="no checkpoint at round 999"):
            kept.load(999)


def test_bad_arguments_are_named():
    with pytest.raises(ArgumentError, match="joins"):
        shadow(joins={"silo-9": 1})
    made = shadow()
    with pytest.raises(ProtocolError, match="train first"):
        made.deletion(marks())
    made.train()
    with pytest.raises(ArgumentError, match="at least one record"):
        made.deletion(marks(marked={}))
    with pytest.raises(ArgumentError, match="marks"):
        made.deletion({"silo-1": np.ones(3, dtype=bool)})
    with pytest.raises(ArgumentError, match="marks"):
        made.deletion({"nobody": np.ones(10, dtype=bool)})
    with pytest.raises(MethodRefused, match="layer 4"):
        made.unlearn(marks(), Negation(layer=4))
    parted = shadow(unit=Unit.GROUP)
    parted.train()
    with pytest.raises(ArgumentError, match="whole units"):
        parted.deletion(marks(marked={"silo-1": (0,)}))
    gone = shadow(vanishes=lambda _number, name: name < "silo-2")
    with pytest.raises(CohortTooSmall):
        gone.train()


def test_settings_that_were_not_declared_weaken_what_is_promised():
    made = shadow(methods=(Retrain(),))
    made.train()
    assert made.deletion(marks()).declared(Retrain())
    assert not made.deletion(marks()).declared(METHOD)
    assert shadow().clients == tuple(silos())
