"""The public settings of training, and the server's step from a released sum to the next model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secure_fu.errors import ArgumentError, NonFiniteError, RoundAborted
from secure_fu.privacy import Phase, Unit
from secure_fu.protocol import ReleasedModel, ReleasedSum
from secure_fu.training import Recipe, TrainingState, train

RECIPE = Recipe(
    unit=Unit.RECORD,
    rounds=5,
    learning_rate=0.3,
    momentum=0.9,
    clip_norm=1.0,
    noise_multiplier=2.0,
    sampling_rate=0.25,
    nominal_units=100,
    saturation=4.0,
)


def released(values, number=0):
    return ReleasedSum(
        values=np.array(values, dtype=np.float64),
        purpose="train",
        round_number=number,
        participants=("a", "b"),
        transcript=bytes(32),
    )


class Script:
    """Secure sums that release what is written down, and keep the requests."""

    def __init__(self, sums):
        self.requests = []
        self._sums = list(sums)

    def secure_sum(self, request):
        self.requests.append(request)
        if len(self.requests) > len(self._sums):
            raise RoundAborted("no more")
        return released(self._sums[len(self.requests) - 1], len(self.requests) - 1)


@given(
    sums=st.lists(st.lists(st.floats(-100.0, 100.0), min_size=3, max_size=3), min_size=1, max_size=6),
    momentum=st.floats(0.0, 0.99),
    rate=st.floats(0.01, 1.0),
    learning_rate=st.floats(0.01, 2.0),
    factor=st.floats(0.1, 5.0),
)
def test_a_step_is_momentum_descent_along_the_mean(sums, momentum, rate, learning_rate, factor):
    recipe = replace(RECIPE, momentum=momentum, sampling_rate=rate, learning_rate=learning_rate)
    state = TrainingState.initial(ReleasedModel.public(np.array([1.0, -2.0, 0.5])))
    weights, velocity = np.array([1.0, -2.0, 0.5], dtype=np.float32), [0.0, 0.0, 0.0]
    for number, total in enumerate(sums):
        state = state.step(released(total), recipe, rate_factor=factor)
        velocity = [momentum * v + x / (rate * 100) for v, x in zip(velocity, total, strict=True)]
        weights = np.array(
            [float(w) - factor * learning_rate * v for w, v in zip(weights, velocity, strict=True)], dtype=np.float32
        )
        assert state.rounds == number + 1
        assert state.velocity == pytest.approx(velocity, rel=1e-12, abs=1e-12)
        assert state.model.vector.dtype == np.float32
        assert state.model.vector == pytest.approx(weights, rel=1e-6, abs=1e-6)


def test_a_step_leaves_the_state_before_it_as_it_was():
    start = TrainingState.initial(ReleasedModel.public(np.zeros(3)))
    start.step(released([1.0, 2.0, 3.0]), RECIPE)
    assert start.rounds == 0
    assert not start.velocity.any()
    assert not start.model.vector.any()
    with pytest.raises(ValueError, match="read-only"):
        start.model.vector[0] = 1.0


def test_at_rest_empties_the_momentum_and_nothing_else():
    state = TrainingState.initial(ReleasedModel.public(np.zeros(3))).step(released([1.0, 2.0, 3.0]), RECIPE)
    rest = state.at_rest()
    assert state.velocity.any()
    assert not rest.velocity.any()
    assert rest.model is state.model
    assert rest.rounds == 1


def test_a_sum_of_another_length_is_refused():
    with pytest.raises((ArgumentError, ValueError)):
        TrainingState.initial(ReleasedModel.public(np.zeros(3))).step(released([1.0, 2.0]), RECIPE)


def test_training_asks_for_one_sum_a_round_on_the_newest_model():
    sums = Script([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
    seen = []
    start = TrainingState.initial(ReleasedModel.public(np.zeros(2)))
    end = train(sums, RECIPE, start, 3, on_round=seen.append)
    assert [state.rounds for state in seen] == [1, 2, 3]
    assert seen[-1] is end
    models = [request.model for request in sums.requests]
    assert models == [start.model, seen[0].model, seen[1].model]
    for request in sums.requests:
        assert (request.purpose, request.phase) == ("train", Phase.TRAINING)
        assert (request.retained_rate, request.forgotten_rate) == (0.25, 0.25)
        assert (request.clip_norm, request.saturation, request.noise_multiplier) == (1.0, 4.0, 2.0)
        assert request.unit is Unit.RECORD


def test_after_a_deletion_forgotten_units_do_not_enter():
    sums = Script([[1.0, 0.0]])
    start = TrainingState.initial(ReleasedModel.public(np.zeros(2)))
    train(sums, RECIPE, start, 1, purpose="unlearn/retrain", phase=Phase.UNLEARNING, forgotten_rate=0.0)
    (request,) = sums.requests
    assert (request.retained_rate, request.forgotten_rate) == (0.25, 0.0)
    assert (request.purpose, request.phase) == ("unlearn/retrain", Phase.UNLEARNING)


def test_no_rounds_are_no_rounds_and_an_aborted_round_ends_training():
    start = TrainingState.initial(ReleasedModel.public(np.zeros(2)))
    assert train(Script([]), RECIPE, start, 0) is start
    sums = Script([[1.0, 0.0]])
    seen = []
    with pytest.raises(RoundAborted):
        train(sums, RECIPE, start, 2, on_round=seen.append)
    assert [state.rounds for state in seen] == [1]


def test_a_request_carries_the_local_settings_and_the_methods_own():
    recipe = replace(RECIPE, local={"epochs": 2, "batch_size": 8})
    model = ReleasedModel.public(np.zeros(2))
    request = recipe.request(
        purpose="train",
        phase=Phase.TRAINING,
        model=model,
        forgotten_rate=0.1,
        retained_rate=0.0,
        settings={"normalise": True, "epochs": 1},
    )
    assert request.settings == {"epochs": 1, "batch_size": 8, "normalise": True}
    assert (request.retained_rate, request.forgotten_rate) == (0.0, 0.1)
    assert request.model is model


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(
            (field, value)
            for field in ("learning_rate", "clip_norm", "noise_multiplier", "saturation")
            for value in (0.0, -1.0, float("nan"), float("inf"))
        ),
        ("rounds", 0),
        ("nominal_units", 0),
        ("nominal_units", -3),
        ("momentum", 1.0),
        ("momentum", -0.1),
        ("momentum", float("nan")),
        ("sampling_rate", 0.0),
        ("sampling_rate", 1.1),
        ("sampling_rate", float("nan")),
        ("saturation", 0.5),
    ],
)
def test_settings_out_of_their_domain_are_refused_by_name(field, value):
    with pytest.raises(ArgumentError, match=field):
        replace(RECIPE, **{field: value})


def test_the_client_unit_is_never_sampled():
    with pytest.raises(ArgumentError, match="client unit"):
        replace(RECIPE, unit=Unit.CLIENT)
    assert replace(RECIPE, unit=Unit.CLIENT, sampling_rate=1.0).sampling_rate == 1.0


def test_a_released_model_is_checked_and_derived_from_released_things_alone():
    model = ReleasedModel.public(np.array([1.0, 2.0]))
    assert model.dimension == 2
    assert model.encode() == np.array([1.0, 2.0], dtype="<f4").tobytes()
    for wrong in (np.zeros((2, 1)), np.zeros(0), np.array([np.nan, 0.0]), np.array([1e39, 0.0])):
        with pytest.raises(ArgumentError), np.errstate(over="ignore"):
            ReleasedModel.public(wrong)
    with pytest.raises(ArgumentError, match="shape"):
        model.derived(np.zeros(3), model)
    with pytest.raises(ArgumentError, match="sources"):
        model.derived(np.zeros(2), np.zeros(2))
    assert model.derived(np.zeros(2), released([0.0, 0.0])).digest != model.digest


def test_a_public_start_is_a_copy():
    vector = np.ones(2, dtype=np.float32)
    model = ReleasedModel.public(vector)
    vector[0] = 7.0
    assert model.vector[0] == 1.0
    assert vector.flags.writeable


def test_a_training_that_diverges_says_so_and_in_which_round() -> None:
    recipe = replace(RECIPE, learning_rate=1e300)
    state = TrainingState.initial(ReleasedModel.public(np.ones(3)))
    with pytest.raises(NonFiniteError, match=r"round 4.*diverged.*learning rate below"):
        state.step(released([1e20, 1.0, 1.0], number=4), recipe)
