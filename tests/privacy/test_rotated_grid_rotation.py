from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest

from secure_fu.privacy._hadamard import rotate, rotate_back, transform_length

SEED = hashlib.sha256(b"a header").digest()


def seeds(count):
    return [hashlib.sha256(b"seed %d" % i).digest() for i in range(count)]


def hadamard(order):
    """Entry (i, j) is -1 to the number of bits that i and j share."""
    return np.array([[(-1.0) ** (i & j).bit_count() for j in range(order)] for i in range(order)]) / math.sqrt(order)


def signs(length, seed):
    """Both diagonals, bit by bit from one large integer."""
    row = (length + 7) // 8
    stream = hashlib.shake_256(b"secure-fu/1/rotation-signs\0" + seed).digest(2 * row)
    rows = (int.from_bytes(stream[:row], "little"), int.from_bytes(stream[row:], "little"))
    return [np.diag([-1.0 if bits >> j & 1 else 1.0 for j in range(length)]) for bits in rows]


def matrix(dimension, seed):
    """The rotation as a dense matrix, from its definition."""
    length = max(2**k for k in range(20) if 2**k <= dimension)
    first, second = signs(length, seed)
    left, right = np.eye(dimension), np.eye(dimension)
    right[:length, :length] = hadamard(length) @ first
    if length < dimension:
        left[-length:, -length:] = hadamard(length) @ second
    return left @ right


@pytest.mark.parametrize("dimension", [1, 2, 3, 5, 8, 31, 32, 33, 63, 64, 100, 500])
def test_rotation_is_the_orthonormal_matrix_of_its_definition(dimension):
    oracle = matrix(dimension, SEED)
    np.testing.assert_allclose(oracle @ oracle.T, np.eye(dimension), atol=1e-13)
    columns = np.stack([rotate(row, SEED) for row in np.eye(dimension)], axis=1)
    np.testing.assert_allclose(columns, oracle, atol=1e-14)
    rows = np.stack([rotate_back(row, SEED) for row in np.eye(dimension)], axis=0)
    np.testing.assert_allclose(rows, oracle, atol=1e-14)


@pytest.mark.parametrize("dimension", [1, 63, 64, 7850, 100_180, 1_000_000])
def test_rotation_keeps_norms_and_is_undone(dimension):
    vector = np.random.default_rng(dimension).standard_normal(dimension)
    given = vector.copy()
    rotated = rotate(vector, SEED)
    np.testing.assert_array_equal(vector, given)
    assert rotated.shape == (dimension,)
    norm = np.linalg.norm(vector)
    assert abs(np.linalg.norm(rotated) - norm) <= 1e-14 * norm
    assert np.linalg.norm(rotate_back(rotated, SEED) - vector) <= 1e-14 * norm
    if dimension > 1:
        assert np.linalg.norm(rotate_back(rotated, seeds(1)[0]) - vector) > 0.5 * norm


def unit_vectors(dimension):
    generator = np.random.default_rng(1)
    few = np.zeros(dimension)
    few[: dimension // 10] = 1.0
    vectors = {
        "first": np.eye(1, dimension, 0)[0],
        "middle": np.eye(1, dimension, dimension // 2)[0],
        "last": np.eye(1, dimension, dimension - 1)[0],
        "equal": np.ones(dimension),
        "few": few,
        "alternating": (-1.0) ** np.arange(dimension),
        "random": generator.standard_normal(dimension),
    }
    return {name: vector / np.linalg.norm(vector) for name, vector in vectors.items()}


@pytest.mark.parametrize("name", unit_vectors(10))
def test_every_coordinate_has_the_stated_variance_proxy(name):
    dimension, repetitions = 100, 4000
    vector = unit_vectors(dimension)[name]
    length = transform_length(dimension)
    assert length == 64
    rotated = np.stack([rotate(vector, seed) for seed in seeds(repetitions)]) * math.sqrt(length)
    # Moment generating functions at a few points, less what 4000 samples can be off.
    for t in (0.5, 1.0, 1.5):
        means = np.exp(t * rotated).mean(axis=0)
        deviation = math.sqrt((math.exp(2 * t * t) - math.exp(t * t)) / repetitions)
        assert (means <= math.exp(t * t / 2) + 6 * deviation).all()
    tails = (np.abs(rotated) > 3.0).mean()
    assert tails <= 2 * math.exp(-4.5)


@pytest.mark.parametrize("name", unit_vectors(10))
def test_no_unit_vector_keeps_a_peak(name):
    dimension = 7850
    peaks = [np.abs(rotate(unit_vectors(dimension)[name], seed)).max() for seed in seeds(50)]
    assert max(peaks) <= math.sqrt(2 * math.log(2 * dimension * 50 * 2**20) / 4096)


def test_without_signs_there_would_be_a_peak():
    assert np.abs(hadamard(64) @ unit_vectors(64)["equal"]).max() > 0.99
    assert np.abs(rotate(unit_vectors(64)["equal"], SEED)).max() < 0.6


@pytest.mark.parametrize(("dimension", "length"), [(1, 1), (2, 2), (3, 2), (64, 64), (7850, 4096), (10**6, 2**19)])
def test_transforms_cover_the_vector(dimension, length):
    assert transform_length(dimension) == length
    assert length <= dimension < 2 * length
