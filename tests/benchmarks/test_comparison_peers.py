"""The plaintext peers: they forget a client that leaves and keep the rest; their arithmetic against dense oracles."""

from __future__ import annotations

import numpy as np
import pytest
from comparison.peers import FedEraser, FedRecover, PlaintextServer, _hessian_product

from secure_fu.learning import FlatModel, Trigger, accuracy, digits, iid, mlp
from secure_fu.privacy import Unit
from secure_fu.training import Recipe

LEAVER = "silo-4"


def recipe(unit=Unit.RECORD, rounds=40, units=1437):
    return Recipe(
        unit=unit,
        rounds=rounds,
        learning_rate=1.5 if unit is Unit.RECORD else 1.0,
        momentum=0.5,
        clip_norm=1.0,
        noise_multiplier=1.0,  # the peers add none
        sampling_rate=0.4 if unit is Unit.RECORD else 1.0,
        nominal_units=units,
        saturation=1000.0,
        local={} if unit is Unit.RECORD else {"epochs": 1, "batch_size": 20, "learning_rate": 0.2},
    )


@pytest.fixture(scope="module")
def trained():
    dataset = digits(seed=0)
    trigger = Trigger.top_row(dataset.train.shape, target=0)
    clients = {
        f"silo-{number}": dataset.train.subset(part) for number, part in enumerate(iid(dataset.train, 5, seed=0))
    }
    clients[LEAVER] = trigger.poison(clients[LEAVER])
    model = FlatModel(mlp(64, (16,), 10, seed=0))
    server = PlaintextServer(model, clients, recipe(), seed=1)
    original, history = server.train_and_keep()
    stay = [name for name in clients if name != LEAVER]

    def scores(vector):
        return accuracy(model, vector, dataset.test), trigger.success_rate(model, vector, dataset.test)

    retrained = PlaintextServer(FlatModel(mlp(64, (16,), 10, seed=0)), clients, recipe(), seed=2).train(stay)
    return model, server, history, scores, scores(original), scores(retrained)


def test_the_original_has_the_backdoor_and_retraining_has_not(trained):
    *_, original, retrained = trained
    assert original[0] > 0.8
    assert original[1] > 0.9
    assert retrained[0] > 0.8
    assert retrained[1] < 0.05


@pytest.mark.parametrize(
    ("peer", "least", "share"),
    [
        (FedEraser(every=1), 0.8, 1.0),
        (FedEraser(every=2), 0.65, 0.55),
        (FedRecover(warm_up=6, every=8, tuning=3), 0.8, 0.7),
    ],
)
def test_peers_forget_and_keep_the_rest_for_less_than_retraining(trained, peer, least, share):
    model, server, history, scores, *_ = trained
    outcome = peer.run(server, history, model, {LEAVER})
    kept, backdoor = scores(outcome.vector)
    assert kept > least
    assert backdoor < 0.05
    assert outcome.client_rounds <= share * server.recipe.rounds


def test_a_peer_that_forgets_nobody_keeps_the_backdoor(trained):
    """The test above can fail: with the leaver still in, the same calls end with its backdoor."""
    model, server, history, scores, *_ = trained
    assert scores(FedEraser(every=1).run(server, history, model, set()).vector)[1] > 0.9
    assert scores(FedRecover(warm_up=6, every=8, tuning=3).run(server, history, model, set()).vector)[1] > 0.9


def test_exact_rounds_alone_are_retraining(trained):
    model, server, history, *_ = trained
    stay = [name for name in server.clients if name != LEAVER]
    exact = FedRecover(warm_up=server.recipe.rounds).run(server, history, model, {LEAVER})
    assert np.array_equal(exact.vector, server.train(stay))
    assert exact.client_rounds == server.recipe.rounds


def test_the_client_unit_trains_and_forgets():
    dataset = digits(seed=0)
    clients = {
        f"c{number:02}": dataset.train.subset(part) for number, part in enumerate(iid(dataset.train, 12, seed=0))
    }
    model = FlatModel(mlp(64, (), 10, seed=0))
    server = PlaintextServer(model, clients, recipe(Unit.CLIENT, rounds=12, units=12), seed=1)
    original, history = server.train_and_keep()
    assert accuracy(model, original, dataset.test) > 0.8
    outcome = FedRecover(warm_up=3, every=3, tuning=1).run(server, history, model, {"c03"})
    assert accuracy(model, outcome.vector, dataset.test) > 0.8
    assert np.all(np.linalg.norm(history.updates["c05"], axis=1) <= 1.0 + 1e-6)


def test_hessian_products_are_those_of_bfgs():
    """Against the dense update, pair by pair: B+ = B - B s s' B / (s' B s) + y y' / (y' s)."""
    draw = np.random.default_rng(0)
    root = draw.normal(size=(6, 6))
    truth = root @ root.T + np.eye(6)
    moves = [draw.normal(size=6) for _ in range(3)]
    changes = [truth @ move for move in moves]
    sigma = (changes[-1] @ moves[-1]) / (moves[-1] @ moves[-1])
    dense = sigma * np.eye(6)
    for s, y in zip(moves, changes, strict=True):
        dense = dense - np.outer(dense @ s, dense @ s) / (s @ dense @ s) + np.outer(y, y) / (y @ s)
    direction = draw.normal(size=6)
    assert _hessian_product(moves, changes, direction) == pytest.approx(dense @ direction)
    assert _hessian_product(moves, changes, moves[-1]) == pytest.approx(changes[-1])  # the secant equation


def test_no_estimate_without_positive_curvature():
    assert _hessian_product([], [], np.ones(3)) is None
    assert _hessian_product([np.ones(3)], [-np.ones(3)], np.ones(3)) is None
