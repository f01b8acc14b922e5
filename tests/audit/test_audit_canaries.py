"""Directions against the matrix that they stand for; the task against what a client's sum must then hold."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.fft import dct

from secure_fu.audit.canaries import RAW_LENGTH, CanaryDirections, CanaryTask, NoiseAlone
from secure_fu.crypto import InsecureDeterministicRandomness
from secure_fu.errors import ArgumentError
from secure_fu.learning import FlatModel, PerRecordGradients, mlp
from secure_fu.privacy import Unit
from secure_fu.protocol import RoundTerms

D, M = 60, 25


def terms(unit=Unit.RECORD, rate=1.0, clip_norm=2.0, length=D):
    return RoundTerms(
        purpose="train",
        round_number=3,
        unit=unit,
        clip_norm=clip_norm,
        retained_rate=rate,
        forgotten_rate=rate,
        settings={},
        length=length,
    )


RANDOMNESS = InsecureDeterministicRandomness(7)


def stream():
    return RANDOMNESS.stream("sampling")


def matrix(directions):
    return np.stack([directions.combine(row) for row in np.eye(directions.count)])


@pytest.mark.parametrize(("dimension", "count"), [(60, 25), (61, 61), (1, 1), (5000, 40)])
def test_directions_are_orthonormal_and_scores_undo_them(dimension, count):
    directions = CanaryDirections(dimension=dimension, count=count, seed=1)
    rows = matrix(directions)
    np.testing.assert_allclose(rows @ rows.T, np.eye(count), atol=1e-12)
    vectors = np.random.default_rng(0).normal(size=(3, dimension))
    np.testing.assert_allclose(directions.scores(vectors), vectors @ rows.T, atol=1e-11)
    np.testing.assert_allclose(directions.scores(vectors[0]), rows @ vectors[0], atol=1e-11)
    others = directions.others(vectors)
    assert others.shape == (3, dimension - count)
    lengths = (others**2).sum(axis=1) + (directions.scores(vectors) ** 2).sum(axis=1)
    np.testing.assert_allclose(lengths, (vectors**2).sum(axis=1))
    assert np.abs(rows).max() <= np.sqrt(2.0 / dimension) + 1e-12


def test_a_fixed_vectors_components_have_variance_its_square_over_d():
    """Whatever the vector is, the smoothest ones included; the transform alone, without signs, would not have it."""
    d = 400
    smooth = np.ones(d)
    squares, plain = [], []
    for seed in range(300):
        directions = CanaryDirections(dimension=d, count=4, seed=seed)
        squares.extend(directions.scores(smooth) ** 2)
        plain.append((dct(smooth, norm="ortho")[1:] ** 2).mean())
    assert abs(np.mean(squares) - 1.0) < 5.0 * np.std(squares) / np.sqrt(len(squares))
    assert stats.kstest(np.array(squares), stats.chi2(1).cdf).pvalue > 1e-4
    assert np.mean(plain) < 1e-12


def test_no_more_directions_than_coordinates():
    with pytest.raises(ArgumentError, match="1 to 60"):
        CanaryDirections(dimension=60, count=61, seed=0)
    directions = CanaryDirections(dimension=60, count=5, seed=0)
    with pytest.raises(ArgumentError, match="coefficients"):
        directions.combine(np.ones(6))
    with pytest.raises(ArgumentError, match="vector"):
        directions.scores(np.ones(61))


class Constant:
    def __init__(self, value):
        self.value = value

    def contribution(self, model, terms, stream):
        return np.full(terms.length, self.value)


def clip_factors(norms, clip_norm):
    return PerRecordGradients(FlatModel(mlp(5, (), 3, 0))).clip_factors(norms, clip_norm=clip_norm)


def task(held, inserted, *, inner=None, factors=clip_factors, seed=2, on_inner=None):
    directions = CanaryDirections(dimension=D, count=M, seed=seed)
    return directions, CanaryTask(
        inner,
        directions=directions,
        held=np.array(held),
        inserted=np.array(inserted),
        clip_factors=factors,
        on_inner=on_inner,
    )


def test_inserted_canaries_come_at_the_clip_norm_beside_the_clients_own():
    seen = []
    directions, riding = task(
        [3, 7, 20], [True, False, True], inner=Constant(0.5), on_inner=lambda *each: seen.append(each)
    )
    sent = riding.contribution(np.zeros(D, dtype=np.float32), terms(), stream())
    ((number, own),) = seen
    assert number == 3
    np.testing.assert_array_equal(own, np.full(D, 0.5))
    expected = np.zeros(M)
    expected[[3, 20]] = 2.0
    np.testing.assert_allclose(directions.scores(sent - own), expected, atol=1e-12)
    assert np.linalg.norm(sent - own) <= 2.0 * np.sqrt(2.0)


def test_a_clip_that_does_nothing_shows_at_the_raw_length():
    directions, riding = task([4], [True], factors=lambda norms, _clip_norm: np.ones_like(norms))
    sent = riding.contribution(np.zeros(D, dtype=np.float32), terms(), stream())
    assert directions.scores(sent)[4] == pytest.approx(RAW_LENGTH * 2.0)


def test_canaries_are_sampled_at_the_rate_of_records():
    directions, riding = task(np.arange(M), np.ones(M, dtype=bool))
    counts = np.zeros(M)
    for _ in range(400):
        sent = riding.contribution(np.zeros(D, dtype=np.float32), terms(rate=0.2), stream())
        components = directions.scores(sent) / 2.0
        np.testing.assert_allclose(components, np.rint(components), atol=1e-9)
        counts += np.rint(components)
    total = counts.sum()
    assert stats.binomtest(int(total), 400 * M, 0.2).pvalue > 1e-5
    assert stats.binomtest(int(total), 400 * M, 0.25).pvalue < 1e-5


@pytest.mark.parametrize("coin", [True, False])
def test_a_canary_client_sends_its_direction_or_zero(coin):
    directions, riding = task([6], [coin], factors=None)
    sent = riding.contribution(np.zeros(D, dtype=np.float32), terms(Unit.CLIENT), stream())
    assert np.linalg.norm(sent) == pytest.approx(2.0 if coin else 0.0)
    assert np.linalg.norm(sent) <= 2.0
    assert directions.scores(sent)[6] == pytest.approx(2.0 if coin else 0.0)


def test_a_task_refuses_what_does_not_fit():
    with pytest.raises(ArgumentError, match="inserted"):
        task([1, 2], [True])
    _, riding = task([1], [True], factors=None)
    with pytest.raises(ArgumentError, match="clip_factors"):
        riding.contribution(np.zeros(D, dtype=np.float32), terms(), stream())


def test_in_a_zero_round_nobody_says_anything():
    assert not NoiseAlone().contribution(np.ones(D, dtype=np.float32), terms(), stream()).any()
