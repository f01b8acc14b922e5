"""What the difference of two models tells: alignment, inversion, classes, relearning, poison, pairs of games."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from deletion_cast import digit_runs, memorising_runs, others, shuffled_digits, training

from secure_fu.audit.deletion import (
    FINETUNE,
    NOTHING,
    RETRAIN,
    DeletionRuns,
    DeletionTerms,
    Part,
    audit_deletion,
    poisoned,
    poisoning_score,
    secret_parts,
    stacked_deletion_runs,
)
from secure_fu.audit.deletion.alignment import alignments
from secure_fu.audit.deletion.class_leakage import class_leakage, last_layer_change
from secure_fu.audit.deletion.inversion import gradient_matching, inversion, is_linear, linear_inversion
from secure_fu.audit.deletion.poisoning import poison_products
from secure_fu.audit.deletion.relearning import steps_to_relearn
from secure_fu.audit.verdict import Outcome
from secure_fu.errors import ArgumentError
from secure_fu.learning import FlatModel, LinearHead, cnn, logistic, mlp


@pytest.fixture(scope="module")
def small() -> DeletionRuns:
    return digit_runs(runs=3, targets=30, steps=10)


def gradient_of(model: FlatModel, vector: np.ndarray, features: torch.Tensor, label: torch.Tensor) -> np.ndarray:
    """The oracle: one record's gradient by automatic differentiation of the module itself."""
    model.load(vector)
    model.module.zero_grad()
    torch.nn.functional.cross_entropy(model.module(features[None]), label[None]).backward()
    return np.concatenate([parameter.grad.reshape(-1).numpy() for parameter in model.module.parameters()])


def test_alignment_is_the_product_with_each_gradient(small: DeletionRuns) -> None:
    found = alignments(small, small.retrained)
    model = FlatModel(small.model.module)
    for run, record in ((0, 0), (1, 7), (2, 29)):
        before = small.before[run].astype(np.float64)
        own = gradient_of(model, before, small.targets.features[record], small.targets.labels[record])
        assert found[run, record] == pytest.approx(float(own @ (small.retrained[run] - before)), rel=1e-3, abs=1e-5)


# Inversion


def linear_runs(*, fixed: bool) -> DeletionRuns:
    data = shuffled_digits()
    return stacked_deletion_runs(
        FlatModel(logistic(64, 10, seed=0)),
        data.train.subset(slice(0, 30)),
        others(200, 100),
        data.test,
        runs=10,
        training=training(210, steps=600, sampling_rate=1.0, divisor=210.0, learning_rate=0.5, weight_decay=0.1),
        seed=1,
        forgotten=1,
        finetune_steps=0,
        fixed_randomness=fixed,
    )


def test_a_record_is_rebuilt_from_two_linear_models() -> None:
    runs = linear_runs(fixed=True)
    found = inversion(runs, runs.retrained, weight_decay=0.1)
    assert found is not None
    assert found.exact
    assert found.found
    assert found.cosine.value > 0.98
    assert found.psnr_gain.low > 8.0
    # and it is the deleted record, not just any
    run = int(np.argmax(runs.parts[0] == Part.FORGOTTEN))
    rebuilt, label = linear_inversion(
        runs.model,
        runs.before[0].astype(np.float64),
        runs.retrained[0].astype(np.float64),
        runs.test,
        weight_decay=0.1,
    )
    truth = runs.targets.features.numpy().reshape(30, -1)
    errors = ((truth - rebuilt) ** 2).mean(axis=1)
    assert int(errors.argmin()) == run
    assert label == int(runs.targets.labels[run])


def test_models_that_have_not_changed_give_nothing_away() -> None:
    runs = linear_runs(fixed=True)
    found = inversion(runs, runs.after[NOTHING])
    assert found is not None
    assert not found.found
    assert found.gain.high <= 0.0


def test_gradient_matching_rebuilds_the_record_of_one_step() -> None:
    data = shuffled_digits()
    model = FlatModel(mlp(64, (64,), 10, 0))
    public = data.test.features.numpy().reshape(len(data.test), -1).astype(np.float64)
    guesses = np.stack([public[data.test.labels.numpy() == c].mean(axis=0) for c in range(10)])
    vector = model.vector()
    for record in range(3):
        own = gradient_of(FlatModel(model.module), vector, data.train.features[record], data.train.labels[record])
        rebuilt, label = gradient_matching(model, vector, vector + 0.01 * own, data.test, guesses, steps=60)
        truth = data.train.features[record].numpy().reshape(-1)
        cosines = [v @ truth / np.linalg.norm(v) / np.linalg.norm(truth) for v in (rebuilt, guesses[label])]
        assert label == int(data.train.labels[record])
        assert cosines[0] > 0.999 > cosines[1]


def test_which_models_are_linear() -> None:
    assert is_linear(FlatModel(logistic(64, 10, seed=0)), 64)
    assert not is_linear(FlatModel(mlp(64, (5,), 10, 0)), 64)


# Classes


def test_the_last_layer_gives_the_deleted_class() -> None:
    """Units are classes; each run forgets one and never saw another."""
    data = shuffled_digits()
    targets = data.train.subset(slice(0, 400))
    draw = np.random.default_rng(0)
    parts = np.zeros((20, 10), dtype=np.int8)
    for row in parts:
        row[draw.permutation(10)[:2]] = Part.FORGOTTEN, Part.NEVER
    runs = stacked_deletion_runs(
        FlatModel(mlp(64, (32,), 10, 0)),
        targets,
        None,
        data.test,
        runs=20,
        training=training(300),
        seed=4,
        units=targets.labels.numpy(),
        parts=parts,
    )
    found = class_leakage(runs, runs.retrained, classes=10, level=0.95)
    assert found is not None
    assert found.accuracy.low > 0.6
    assert found.chance <= 0.3
    assert found.correlation is not None
    assert found.correlation.low > 0.3
    assert found.found
    nothing = class_leakage(runs, runs.after[NOTHING], classes=10, level=0.95)
    assert nothing is not None
    assert nothing.accuracy.value == 0.0
    assert not nothing.found


def test_noise_gives_no_class() -> None:
    """Models whose difference is noise: told at most as often as two tests at 2.5 % may."""
    runs = digit_runs(runs=30, targets=60, steps=0)
    draw = np.random.default_rng(1)
    found = [
        class_leakage(
            runs, (runs.before + draw.normal(size=runs.before.shape)).astype(np.float32), classes=10, level=0.95
        )
        for _ in range(60)
    ]
    assert sum(one is not None and one.found for one in found) <= 8


def test_a_model_without_a_row_for_each_class() -> None:
    assert last_layer_change(FlatModel(mlp(64, (5,), 10, 0)), np.zeros((2, 385)), 7) is None


# Relearning


def test_steps_until_the_loss_is_back(small: DeletionRuns) -> None:
    never = steps_to_relearn(small, small.before, np.full(3, -1.0), longest=4, learning_rate=0.1)
    np.testing.assert_array_equal(never, 4.0)
    at_once = steps_to_relearn(small, small.before, np.full(3, 1e3), longest=4, learning_rate=0.1)
    np.testing.assert_array_equal(at_once, 0.0)
    # Against plain descent, written out.
    model = FlatModel(small.model.module)
    model.load(small.before[0].astype(np.float64))
    own = small.targets.subset(small.record_parts[0] == Part.FORGOTTEN)
    losses = []
    optimiser = torch.optim.SGD(model.module.parameters(), lr=0.3)
    for _ in range(8):
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(model.module(own.features), own.labels)
        losses.append(loss.item())
        loss.backward()
        optimiser.step()
    wanted = np.full(3, (losses[4] + losses[5]) / 2.0)
    assert steps_to_relearn(small, small.before, wanted, longest=20, learning_rate=0.3)[0] == 5.0


# Poison


@pytest.fixture(scope="module")
def poisoned_runs() -> tuple[DeletionRuns, object]:
    data = shuffled_digits()
    poison = poisoned(data.train.subset(slice(0, 240)), deviation=0.3, seed=9)
    runs = stacked_deletion_runs(
        FlatModel(mlp(64, (64,), 10, 0)),
        poison.records,
        None,
        data.test,
        runs=12,
        training=training(80),
        seed=5,
    )
    return runs, poison


def test_poison_still_works_where_nothing_was_done(poisoned_runs) -> None:
    runs, poison = poisoned_runs
    nothing = poisoning_score(runs, NOTHING, poison)
    assert nothing.gap.low > 0.1
    assert poisoning_score(runs, FINETUNE, poison).gap.low > 0.1
    retrain = poisoning_score(runs, RETRAIN, poison)
    assert retrain.gap.low < 0.0 < retrain.gap.high
    assert abs(retrain.value.value) < 0.2


def test_poison_products_are_standard_normal_without_the_poison(poisoned_runs) -> None:
    poison = poisoned_runs[1]
    model = FlatModel(mlp(64, (64,), 10, 77))
    products = poison_products(model, model.vector()[None].astype(np.float32), poison)[0]
    # 240 values: 5 standard errors
    assert abs(products.mean()) < 0.33
    assert 0.75 < products.std() < 1.25
    own = poison.clean.features[:1].clone().requires_grad_()
    torch.nn.functional.cross_entropy(model.module(own), poison.clean.labels[:1]).backward()
    noise, slope = poison.noise[0].reshape(-1), own.grad.numpy().reshape(-1)
    expected = -8.0 * (noise @ slope) / np.linalg.norm(noise) / np.linalg.norm(slope)
    assert products[0] == pytest.approx(float(expected), rel=1e-4)


def test_wrong_poison_is_refused(poisoned_runs) -> None:
    runs, poison = poisoned_runs
    with pytest.raises(ArgumentError, match="targets of the runs"):
        poisoning_score(memorising_runs(), NOTHING, poison)
    with pytest.raises(ArgumentError, match="one of"):
        poisoning_score(runs, "unheard of", poison)
    with pytest.raises(ArgumentError):
        poisoned(poison.clean, deviation=0.0, seed=0)


def test_inversion_needs_a_public_record_of_each_class(small: DeletionRuns) -> None:
    chosen = small.test.labels.numpy() != 3
    assert inversion(dataclasses.replace(small, test=small.test.subset(chosen)), small.retrained) is None


def test_frozen_layers_and_linear_heads_can_be_audited() -> None:
    data = shuffled_digits()
    frozen = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10))
    for parameter in frozen[1].parameters():
        parameter.requires_grad_(False)
    for module in (frozen, LinearHead(None, inputs=64, classes=10), cnn((8, 8), (4,), 10, 0)):
        model = FlatModel(module)
        draw = np.random.default_rng(0)
        vectors = (model.vector() + 0.05 * draw.normal(size=(4, 8, model.dimension))).astype(np.float32)
        runs = DeletionRuns(
            model=model,
            targets=data.train.subset(slice(0, 30)),
            units=np.arange(30),
            parts=secret_parts(8, 30, seed=0),
            others=None,
            test=data.test,
            before=vectors[0],
            retrained=vectors[1],
            after={"noise": vectors[2]},
        )
        row = audit_deletion(runs, terms=DeletionTerms(relearning_steps=2)).row("noise")
        assert row.inversion is not None
        assert row.verdict.outcome in (Outcome.INVALID, Outcome.CANNOT_TELL)
