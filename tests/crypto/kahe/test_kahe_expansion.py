"""The public ring elements: who computes them gets the same, and they are uniform."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from kahe_oracle import SEED, SETS, expansion
from numpy.typing import NDArray
from scipy import stats

from secure_fu.crypto.kahe import PARAMETER_SETS, ParameterSet
from secure_fu.crypto.kahe._expansion import expand
from secure_fu.errors import ArgumentError

BY_NAME = pytest.mark.parametrize("parameter_set", SETS, ids=lambda found: found.name)

# SHA-256 of the first two blocks of the seed SHA-256("secure-fu known answer"), as little-endian 32-bit words. Made by
# this code after the slow version in kahe_oracle.py agreed with it; a change of any of them changes every ciphertext.
KNOWN_ANSWERS = {
    "kahe-8192-196": "e629990493a788b53c2b1b1a96d16532523b45bb1d4791db28cd4916a0388e2d",
    "kahe-4096-96": "6e6550d68eb0aadeacf7327edf34e7a45736d1e627627adf5a4297ddf8613e20",
    "kahe-2048-48": "3421b55be24fc5e60be1b9d974718b926470120b568a08abfd5eb28c4eedcaf5",
    "kahe-1024-25": "143f2f61ea2f29072e227a0bddf5cba661e3ecc6ad28bd1994a3c602795faa92",
}


@BY_NAME
def test_known_answers(parameter_set: ParameterSet) -> None:
    found = expand(parameter_set, hashlib.sha256(b"secure-fu known answer").digest(), 2)
    assert hashlib.sha256(found.astype("<u4").tobytes()).hexdigest() == KNOWN_ANSWERS[parameter_set.name]


@BY_NAME
def test_it_is_the_documented_stream(parameter_set: ParameterSet) -> None:
    found = expand(parameter_set, SEED, 2)
    assert found.shape == (2, len(parameter_set.primes), parameter_set.degree)
    for block in range(2):
        for index in {0, len(parameter_set.primes) - 1}:
            assert found[block, index].tolist() == expansion(parameter_set, SEED, block, index)


def test_blocks_primes_seeds_and_sets_are_apart() -> None:
    a = PARAMETER_SETS["kahe-2048-48"]
    b = ParameterSet(name="another", degree=a.degree, residue_bits=a.residue_bits, primes=a.primes)
    rows = [*expand(a, SEED, 2).reshape(4, -1), expand(a, bytes(32), 1)[0, 0], expand(b, SEED, 1)[0, 0]]
    assert len({row.tobytes() for row in rows}) == 6


def test_fewer_blocks_are_the_first_ones_and_work_is_shared() -> None:
    parameter_set = PARAMETER_SETS["kahe-1024-25"]
    three = expand(parameter_set, SEED, 3)
    assert np.array_equal(three[:2], expand(parameter_set, SEED, 2))
    assert three is expand(parameter_set, SEED, 3)
    with pytest.raises(ValueError, match="read-only"):
        three[0, 0, 0] = 1


@pytest.mark.parametrize("seed", [b"", bytes(31), bytes(33)])
def test_a_seed_is_a_hash(seed: bytes) -> None:
    with pytest.raises(ArgumentError, match="seed"):
        expand(PARAMETER_SETS["kahe-1024-25"], seed, 1)


def uniformity(residues: NDArray[np.integer], prime: int) -> float:
    """The p-value of a chi-square test on 64 classes."""
    counts, _ = np.histogram(residues, bins=np.linspace(0, prime, 65))
    assert counts.sum() == residues.size
    return float(stats.chisquare(counts).pvalue)


@BY_NAME
def test_it_is_uniform_and_a_biased_one_would_show(parameter_set: ParameterSet) -> None:
    blocks = 200_000 // parameter_set.degree
    index = len(parameter_set.primes) - 1
    prime = parameter_set.primes[index]
    good = expand(parameter_set, SEED, blocks)[:, index]
    assert int(good.max()) < prime
    assert uniformity(good, prime) > 1e-6
    # What lies above the prime folded down instead of thrown away, for a prime as far from 2^24 as ours are: 1 %.
    words = np.frombuffer(hashlib.shake_128(b"biased").digest(800_000), dtype="<u4") & 0xFFFFFF
    folded = words % 16580609
    assert uniformity(folded, 16580609) < 1e-9
    # And a few values too frequent: an expansion that repeats one block's start.
    repeated = good.reshape(-1).copy()
    repeated[::40] = repeated[0]
    assert uniformity(repeated, prime) < 1e-9


def test_neighbours_are_independent() -> None:
    parameter_set = PARAMETER_SETS["kahe-4096-96"]
    rows = expand(parameter_set, SEED, 40)[:, 0].astype(float).reshape(-1)
    for lag in (1, 2, 8, parameter_set.degree):
        correlation = float(np.corrcoef(rows[:-lag], rows[lag:])[0, 1])
        assert abs(correlation) * np.sqrt(rows.size - lag) < 5.5
    alternating = rows.copy()
    alternating[1::2] = alternating[::2]
    assert abs(float(np.corrcoef(alternating[:-1], alternating[1:])[0, 1])) * np.sqrt(rows.size) > 50
