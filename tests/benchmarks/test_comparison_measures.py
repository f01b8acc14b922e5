"""The measures of the comparison, against closed forms and against models of which the answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from comparison.measures import MOST_STEPS, Yardstick, matched, output_distance, steps_to

from secure_fu.learning import FlatModel, Records, Trigger, digits, logistic


@pytest.fixture(scope="module")
def data():
    dataset = digits(seed=0)
    return dataset.train, dataset.test


def fitted(records, steps=200, rate=0.5):
    """Logistic regression by plain gradient descent, written apart from the package's own."""
    features = records.features.flatten(1).double()
    weight, bias = torch.zeros(10, features.shape[1], dtype=torch.float64), torch.zeros(10, dtype=torch.float64)
    targets = torch.nn.functional.one_hot(records.labels, 10).double()
    for _ in range(steps):
        errors = (torch.softmax(features @ weight.T + bias, dim=1) - targets) / len(records)
        weight, bias = weight - rate * errors.T @ features, bias - rate * errors.sum(0)
    return np.concatenate([weight.numpy().ravel(), bias.numpy()])


def test_output_distance_is_that_of_jensen_and_shannon():
    one, other = np.array([[0.5, 0.5], [1.0, 0.0]]), np.array([[0.5, 0.5], [0.0, 1.0]])
    assert output_distance(one, one) == 0.0
    assert output_distance(one[1:], other[1:]) == pytest.approx(1.0)  # nothing in common: one bit
    assert output_distance(one, other) == pytest.approx(math.sqrt(0.5))
    p, q = np.array([[0.8, 0.2]]), np.array([[0.3, 0.7]])
    middle = (p + q) / 2
    by_hand = 0.5 * np.sum(p * np.log2(p / middle)) + 0.5 * np.sum(q * np.log2(q / middle))
    assert output_distance(p, q) == pytest.approx(math.sqrt(by_hand))


def test_matched_records_have_the_shares_that_are_wanted():
    candidates = np.repeat([0, 1, 2], [100, 50, 30])
    wanted = np.repeat([0, 1], [10, 30])
    chosen = candidates[matched(candidates, wanted, np.random.default_rng(0))]
    values, counts = np.unique(chosen, return_counts=True)
    assert list(values) == [0, 1]
    assert counts[1] == 50  # all there are of the scarcest
    assert counts[0] == 16


def test_relearning_takes_as_many_steps_as_gradient_descent_does(data):
    train, _ = data
    few = train.subset(slice(0, 50))
    model = FlatModel(logistic(64, 10, seed=0))
    # Both from zero: the oracle's model after n steps has the loss that relearning is then asked for.
    zero = np.zeros(model.dimension)
    vector = fitted(few, steps=7, rate=0.3)
    logits = few.features.flatten(1).double() @ torch.from_numpy(vector[:640]).view(10, 64).T + torch.from_numpy(
        vector[640:]
    )
    loss = float(torch.nn.functional.cross_entropy(logits, few.labels))
    assert steps_to(model, zero, few, loss=loss + 1e-5, rate=0.3) == 7
    assert steps_to(model, zero, few, loss=0.0, rate=0.3, most=20) == 20


def test_a_yardstick_tells_a_model_that_knows_from_one_that_never_saw(data):
    train, test = data
    trigger = Trigger.top_row(train.shape, target=0)
    forgotten, retained = trigger.poison(train.subset(slice(0, 200))), train.subset(slice(200, 1400))
    everything = Records(
        torch.cat([forgotten.features, retained.features]), torch.cat([forgotten.labels, retained.labels])
    )
    knows, never = fitted(everything), fitted(retained)
    model = FlatModel(logistic(64, 10, seed=0))
    yardstick = Yardstick(
        model,
        test=test,
        retained=retained,
        forgotten=forgotten,
        forgotten_classes=train.labels[:200].numpy(),
        trigger=trigger,
        original=knows,
        relearn_rate=0.1,
        seed=1,
    )
    with_data, without = yardstick.figures(knows), yardstick.figures(never)
    assert with_data["backdoor_success"] > 0.9 > 0.2 > without["backdoor_success"]
    assert with_data["forget_accuracy"] > 0.9 > 0.3 > without["forget_accuracy"]
    assert with_data["test_accuracy"] == pytest.approx(without["test_accuracy"], abs=0.05)
    assert 1 <= with_data["relearn_steps"] < without["relearn_steps"] <= MOST_STEPS
    outputs = [yardstick.outputs(vector) for vector in (knows, never, fitted(retained, steps=180))]
    assert outputs[1].distance(outputs[2]) < 0.1 < outputs[1].distance(outputs[0])
    assert outputs[0].distance(outputs[1]) == pytest.approx(outputs[1].distance(outputs[0]))


def test_membership_compares_like_with_like(data):
    """One class forgotten: held-out records of that class, or its loss would give membership away by its class."""
    train, test = data
    of_class = (train.labels == 3).numpy()
    never = fitted(train.subset(~of_class))
    yardstick = Yardstick(
        FlatModel(logistic(64, 10, seed=0)),
        test=test,
        retained=train.subset(~of_class),
        forgotten=train.subset(of_class),
        forgotten_classes=train.labels.numpy()[of_class],
        trigger=None,
        original=fitted(train),
        relearn_rate=0.1,
        seed=1,
    )
    figures = yardstick.figures(never)
    assert figures["backdoor_success"] is None
    assert 0.35 < figures["membership_auc"] < 0.65  # against all test records it would be near 0
