from __future__ import annotations

import numpy as np
import pytest
import torch

from secure_fu.errors import ArgumentError
from secure_fu.learning import OptimiserState, ServerMomentum, limit_threads


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_steps_are_those_of_torch_sgd(momentum: float) -> None:
    rng = np.random.default_rng(0)
    start = rng.standard_normal(7)
    parameter = torch.nn.Parameter(torch.from_numpy(start.copy()))
    reference = torch.optim.SGD([parameter], lr=0.3, momentum=momentum)
    optimiser = ServerMomentum(learning_rate=0.3, momentum=momentum)
    state = optimiser.start(start)
    for _ in range(5):
        gradient = rng.standard_normal(7)
        parameter.grad = torch.from_numpy(gradient.copy())
        reference.step()
        state = optimiser.step(state, gradient)
        np.testing.assert_allclose(state.vector, parameter.detach().numpy(), rtol=1e-14)


def test_states_are_values() -> None:
    optimiser, vector = ServerMomentum(learning_rate=1.0, momentum=0.5), np.ones(3)
    first = optimiser.start(vector)
    second = optimiser.step(first, np.ones(3))
    vector[:] = 9.0
    assert first.vector.tolist() == [1.0] * 3
    assert not first.velocity.any()
    # From the same state the same gradient gives the same step, whatever was done in between: rollback needs it.
    np.testing.assert_array_equal(optimiser.step(first, np.ones(3)).vector, second.vector)
    with pytest.raises(ValueError, match="read-only"):
        second.vector[0] = 1.0


def test_bad_arguments() -> None:
    for rate, momentum in ((0.0, 0.0), (float("inf"), 0.0), (1.0, 1.0), (1.0, -0.1), (1.0, float("nan"))):
        with pytest.raises(ArgumentError):
            ServerMomentum(learning_rate=rate, momentum=momentum)
    optimiser = ServerMomentum(learning_rate=1.0)
    state = optimiser.start(np.zeros(3))
    for gradient in (np.zeros(2), np.zeros(3, dtype=np.float32), np.full(3, np.nan)):
        with pytest.raises(ArgumentError, match="gradient"):
            optimiser.step(state, gradient)
    with pytest.raises(ArgumentError, match="vector"):
        optimiser.start(np.zeros((3, 1)))
    with pytest.raises(ArgumentError, match="velocity"):
        OptimiserState(vector=np.zeros(3), velocity=np.zeros(2))


def test_threads_are_those_allowed() -> None:
    before = torch.get_num_threads()
    try:
        assert limit_threads() == torch.get_num_threads() >= 1
    finally:
        torch.set_num_threads(before)
