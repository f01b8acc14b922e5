"""The clip of records and of changes, as it can be used on vectors that come from neither: an audit's canaries."""

from __future__ import annotations

import numpy as np
import pytest

from secure_fu.errors import ArgumentError
from secure_fu.learning import FlatModel, LocalTraining, PerRecordGradients, Records, client_update, mlp
from secure_fu.learning.per_client import clipped_change


@pytest.fixture
def model():
    return FlatModel(mlp(5, (), 3, 0))


def lone_records(count=12):
    draw = np.random.default_rng(4)
    return Records.from_arrays(3.0 * draw.normal(size=(count, 5)), draw.integers(0, 3, count))


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("clip_norm", [0.7, 2.0])
def test_factors_are_those_of_the_sums(model, clip_norm, normalise):
    gradients = PerRecordGradients(model)
    records, vector = lone_records(), model.vector()
    for row in range(len(records)):
        alone = records.subset(np.arange(len(records)) == row)
        raw = gradients.clipped_sum(vector, alone, clip_norm=1e9)
        (factor,) = gradients.clip_factors(np.array([np.linalg.norm(raw)]), clip_norm=clip_norm, normalise=normalise)
        expected = gradients.clipped_sum(vector, alone, clip_norm=clip_norm, normalise=normalise)
        np.testing.assert_allclose(factor * raw, expected, rtol=1e-12, atol=1e-15)


def test_factors_keep_the_bound_and_what_is_not_finite_counts_as_zero(model):
    gradients = PerRecordGradients(model)
    norms = np.array([0.5, 1.0, 10.0, 1e190, 1e210, np.inf, np.nan])
    factors = gradients.clip_factors(norms, clip_norm=1.0)
    assert factors[0] == 1.0
    assert (norms[:4] * factors[:4] <= 1.0).all()
    assert factors[2] > 0.0999999
    assert (factors[4:] == 0.0).all()
    with pytest.raises(ArgumentError, match="norms"):
        gradients.clip_factors(np.ones((2, 2)), clip_norm=1.0)
    with pytest.raises(ArgumentError, match="clip_norm"):
        gradients.clip_factors(np.ones(2), clip_norm=0.0)


def test_a_change_is_clipped_as_a_client_does_it(model):
    training = LocalTraining(epochs=3, learning_rate=1.0, batch_size=4)
    records, vector = lone_records(), model.vector()
    raw = client_update(model, vector, records, training=training, clip_norm=1e9, seed=1)
    expected = client_update(model, vector, records, training=training, clip_norm=0.3, seed=1)
    assert np.linalg.norm(raw) > 0.3
    before = raw.copy()
    np.testing.assert_array_equal(clipped_change(raw, clip_norm=0.3), expected)
    np.testing.assert_array_equal(raw, before)


def test_a_change_that_is_not_finite_counts_as_zero_and_is_left_as_it_is(caplog):
    change = np.array([1.0, np.nan, 2.0])
    assert not clipped_change(change, clip_norm=1.0).any()
    assert np.isnan(change[1])
    assert "not finite" in caplog.text
    with pytest.raises(ArgumentError, match="change"):
        clipped_change(np.ones((2, 2)), clip_norm=1.0)
