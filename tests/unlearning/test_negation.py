"""Negation: one layer with its sign turned, the rest as it was, and training rounds that nothing forgotten enters."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from small_federations import REQUESTS, federation
from torch import nn
from unlearning_cast import CLASSES, HIDDEN, INPUTS, ScriptedSums, Words, deletion, records, silo, terms, weights

from secure_fu.errors import ArgumentError, MethodRefused
from secure_fu.learning import FlatModel, mlp
from secure_fu.privacy import Phase, Subject, Unit
from secure_fu.training import TrainingTask
from secure_fu.unlearning import PlannedRounds
from secure_fu.unlearning.negation import Negation

FIRST = INPUTS * HIDDEN + HIDDEN  # weight and bias of the first layer


@pytest.mark.parametrize("layer", [0, 1])
def test_one_layer_is_negated_and_the_others_are_as_they_were(layer):
    case = deletion()
    original = case.original.model.vector
    state = Negation(layer=layer).start_state(case)
    negated = np.arange(len(original)) < FIRST if layer == 0 else np.arange(len(original)) >= FIRST
    assert np.array_equal(state.model.vector[negated], -original[negated])
    assert np.array_equal(state.model.vector[~negated], original[~negated])
    assert negated.any()
    assert not negated.all()
    assert not state.velocity.any(), "at rest"
    assert state.rounds == case.original.rounds


def test_negating_the_first_layer_negates_what_goes_into_its_activation():
    module, features = mlp(INPUTS, (HIDDEN,), CLASSES, 3), records().features
    flat = FlatModel(module)
    with torch.no_grad():
        before = next(layer for layer in flat.module.modules() if isinstance(layer, nn.Linear))(features)
    original = dataclasses.replace(
        deletion().original, model=deletion().original.model.derived(flat.vector().astype(np.float32))
    )
    start = Negation().start_state(dataclasses.replace(deletion(), original=original))
    flat.load(start.model.vector.astype(np.float64))
    with torch.no_grad():
        after = next(layer for layer in flat.module.modules() if isinstance(layer, nn.Linear))(features)
    assert torch.equal(after, -before)


class Scaled(nn.Module):
    """A scale before the first layer, a convolution, and parameters of the module itself."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.norm = nn.LayerNorm(4)
        self.convolution = nn.Conv1d(1, 2, 3)
        self.last = nn.Linear(4, 3, bias=False)

    def forward(self, features):
        return self.last(self.convolution((self.norm(features) * self.scale)[:, None, :]).flatten(1))


@pytest.mark.parametrize(("layer", "names"), [(0, {"convolution.weight", "convolution.bias"}), (1, {"last.weight"})])
def test_layers_are_counted_by_weights_of_two_or_more_dimensions(layer, names):
    model = FlatModel(Scaled())
    case = dataclasses.replace(
        deletion(),
        model=model,
        original=dataclasses.replace(
            deletion().original,
            model=type(deletion().original.model).public(np.ones(model.dimension)),
            velocity=np.zeros(model.dimension),
        ),
    )
    vector = Negation(layer=layer).start_state(case).model.vector
    assert {part.name for part in model.layers if (vector[part.slice] == -1.0).all()} == names
    assert {part.name for part in model.layers if (vector[part.slice] == 1.0).all()} == {
        part.name for part in model.layers
    } - names


def test_a_model_without_such_a_layer_is_refused_before_anything_is_asked_for():
    with pytest.raises(MethodRefused, match=r"layer 2 .* this one has 2"):
        Negation(layer=2).check(deletion())
    Negation(layer=1).check(deletion())


def test_the_rounds_asked_for_are_those_planned_and_nothing_forgotten_enters_them():
    case, sums, seen = deletion(), ScriptedSums(), []
    method = Negation(length=4)
    outcome = method.run(sums, case, seen.append)
    assert method.plan(case) == (PlannedRounds.of(case, 4, forgotten_rate=0.0),)
    assert method.most_rounds(case.rounds) == method.rounds(case) == len(sums.requests) == len(seen) == 4
    for request in sums.requests:
        assert request.purpose == "unlearn/negation"
        assert request.phase is Phase.UNLEARNING
        assert request.forgotten_rate == 0.0
        assert request.retained_rate == case.recipe.sampling_rate
    # Sums of zero move nothing: the first model is the negated one, and so is the last.
    assert np.array_equal(sums.requests[0].model.vector, method.start_state(case).model.vector)
    assert np.array_equal(outcome.state.model.vector, method.start_state(case).model.vector)
    assert outcome.state.rounds == case.original.rounds, "not rounds of training"
    assert outcome.guarantee == method.guarantee(case)
    assert outcome.guarantee.kind == "heuristic"
    assert "No proof" in outcome.guarantee.describe()


def test_clients_run_the_code_of_training():
    own, forgotten = records(), np.arange(12) % 3 == 0
    ((purpose, task),) = Negation().client_tasks(silo(own, forgotten)).items()
    found = task.contribution(weights(), terms(forgotten=0.0), Words())
    expected = TrainingTask(silo(own.subset(~forgotten))).contribution(weights(), terms(forgotten=0.0), Words())
    assert purpose == "unlearn/negation"
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-15)
    ((_, leaver),) = Negation().client_tasks(silo(own, np.ones(12))).items()
    assert not leaver.contribution(weights(), terms(forgotten=0.0), Words()).any()


@pytest.mark.parametrize("unit", list(Unit))
def test_it_runs_for_every_unit_and_charges_the_forgotten_nothing(unit):
    method = Negation(length=2)
    with federation(unit, methods=(method,)) as federated:
        federated.train()
        unlearned = federated.unlearn(REQUESTS[unit], method, adaptive=False)
        assert len(unlearned.traffic) == 2
        assert all(traffic.uploads == 4 for traffic in unlearned.traffic), "nobody sat a round out"
        charges = [event.charges for event in federated.ledger.events("unlearn/negation")]
        assert all(charge[Subject.FORGOTTEN] is None and charge[Subject.RETAINED] is not None for charge in charges)


@pytest.mark.parametrize(("settings", "argument"), [({"length": 0}, "length"), ({"layer": -1}, "layer")])
def test_settings_out_of_their_domain(settings, argument):
    with pytest.raises(ArgumentError) as caught:
        Negation(**settings)
    assert caught.value.argument == argument
