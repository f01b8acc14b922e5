from __future__ import annotations

import hashlib
import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from secure_fu.errors import ArgumentError
from secure_fu.privacy import GaussianSumEvent, Grid, NoiseShare, Unit, calibrate_noise, clip_l2
from secure_fu.privacy._hadamard import rotate
from secure_fu.privacy.rotated_grid import LARGEST_INFLATION, RotatedGrid

SEED = hashlib.sha256(b"a header").digest()

# A thousand clients with a logistic model of 784 pixels and ten digits, of whom 900 must upload and 100 may collude.
DEVICES = {"clip_norm": 0.1, "dimension": 7850, "clients": 1000, "noise_multiplier": 3.5, "assured": 800}


def share_of(grid, noise_multiplier, assured):
    return NoiseShare(noise_multiplier=noise_multiplier, sensitivity=grid.sensitivity, step=grid.step, assured=assured)


def p_of_variance(errors, variance):
    """Two-sided p-value that independent zero-mean normal values have this variance."""
    statistic = float((errors**2).sum()) / variance
    return 2 * min(stats.chi2.cdf(statistic, len(errors)), stats.chi2.sf(statistic, len(errors)))


def test_a_noisy_sum_decodes_to_the_true_sum_within_its_noise(os_stream):
    clients, dimension, clip = 40, 7850, 0.1
    grid = RotatedGrid.for_sums(
        clip_norm=clip, dimension=dimension, clients=clients, noise_multiplier=1.5, assured=20, sum_bits=14
    )
    share = share_of(grid, 1.5, 20)
    generator = np.random.default_rng(4)
    common = generator.standard_normal(dimension)
    vectors = [clip_l2(common + generator.standard_normal(dimension), clip) for _ in range(clients)]
    total = sum(
        grid.encode(vector, seed=SEED, stream=os_stream) + share.sample(dimension, stream=os_stream)
        for vector in vectors
    )
    width = 2**grid.sum_bits
    travelled = np.mod(total, width)
    opened = np.where(travelled > grid.largest_sum, travelled - width, travelled)
    np.testing.assert_array_equal(opened, total)
    errors = grid.decode(opened, seed=SEED) - sum(vectors)
    # Rounding: f (1 - f) for each client and coordinate, here about a sixth.
    parts = [np.abs(rotate(vector / grid.step, SEED)) % 1.0 for vector in vectors]
    rounding = float(np.mean([fraction * (1.0 - fraction) for fraction in parts]))
    assert 0.1 < rounding < 0.25
    variance = clients * (float(share.sigma_squared) + rounding) * grid.step**2
    assert p_of_variance(errors, variance) > 1e-7
    assert p_of_variance(errors * 0.9, variance) < 1e-7
    assert p_of_variance(errors * 1.1, variance) < 1e-7
    assert abs(errors.mean()) < 6 * math.sqrt(variance / dimension)
    # The same along the vectors' common direction, where a wrong seed would lose the sum.
    direction = common / np.linalg.norm(common)
    assert abs(direction @ errors) < 6 * math.sqrt(variance)
    assert direction @ (grid.decode(opened, seed=bytes(32)) - sum(vectors)) < -6 * math.sqrt(variance)


# Eight clients that send the same flat vector, little noise: what the rotation makes of them decides.
ALIGNED = {"step": 1.0, "dimension": 64, "clip_norm": 60.0, "clients": 8, "sum_bits": 9}


@pytest.fixture(scope="module")
def aligned_sums():
    """Noisy sums, shape (6000, 64), one row per seed; deterministic."""
    generator = np.random.default_rng(5)

    class Stream:
        def words(self, count):
            return generator.integers(0, 2**64, count, dtype=np.uint64)

    grid, repetitions = RotatedGrid(**ALIGNED), 6000
    share = share_of(grid, 0.1, 2)
    noise = share.sample(repetitions * 8 * 64, stream=Stream()).reshape(repetitions, 8, 64).sum(axis=1)
    vector = clip_l2(np.full(64, 60.0), 60.0)
    seeds = [hashlib.sha256(b"%d" % i).digest() for i in range(repetitions)]
    return noise + np.stack([sum(grid.encode(vector, seed=seed, stream=Stream()) for _ in range(8)) for seed in seeds])


@pytest.mark.parametrize("log2_probability", [-3.0, -4.0, -5.0])
def test_sums_of_aligned_clients_exceed_the_bound_as_seldom_as_stated(aligned_sums, log2_probability):
    grid = RotatedGrid(**ALIGNED)
    bound = grid.sum_bound(8, share_of(grid, 0.1, 2), log2_probability=log2_probability)
    peaks = np.abs(aligned_sums).max(axis=1)
    exceeded, expected = int((peaks > bound).sum()), len(peaks) * 2.0**log2_probability
    assert 1 <= exceeded <= expected
    # A bound three tenths smaller would be wrong, so this one is no loose guess.
    assert (peaks > 0.7 * bound).sum() > 2 * expected


def test_the_aligned_case_wraps_as_seldom_as_stated(aligned_sums):
    grid = RotatedGrid(**ALIGNED)
    logarithm = grid.log2_wrap_probability(share_of(grid, 0.1, 2))
    assert -5.5 < logarithm < -4.5
    wrapped = np.mod(aligned_sums + 256, 512) - 256
    frequency = (wrapped != aligned_sums).any(axis=1).mean()
    assert 0.0 < frequency <= 2.0**logarithm


def test_fewer_clients_or_another_direction_only_lower_the_peaks(aligned_sums):
    grid = RotatedGrid(**ALIGNED)
    share = share_of(grid, 0.1, 2)
    bounds = [grid.sum_bound(count, share) for count in range(1, 9)]
    assert bounds == sorted(bounds)
    # What is not aligned cancels: the worst case is the one that the bound assumes.
    assert np.abs(aligned_sums).max() > 3 * bounds[0] / 2


@settings(deadline=None, max_examples=100)
@given(
    st.integers(2, 2000),
    st.integers(1, 10**6),
    st.floats(4.0, 1000.0),
    st.floats(0.3, 20.0),
    st.floats(-60.0, -1.0),
)
def test_sum_bound_and_wrap_probability_are_the_published_kind_of_bound(clients, dimension, clip, z, log2_probability):
    grid = RotatedGrid(step=0.5, dimension=dimension, clip_norm=clip, clients=clients, sum_bits=16)
    assured = max(2, clients // 2)
    if (z * grid.sensitivity / grid.step) ** 2 / assured < 8.001:
        return
    share = share_of(grid, z, assured)
    bound = grid.sum_bound(clients, share, log2_probability=log2_probability)
    with mpmath.workdps(50):
        length = mpmath.mpf(max(2**k for k in range(21) if 2**k <= dimension))
        peak = (clients * mpmath.mpf(clip) / mpmath.mpf(0.5)) ** 2 / length
        noise = clients * (mpmath.mpf(z) * grid.sensitivity / grid.step) ** 2 / assured
        proxy = peak + noise + mpmath.mpf(clients) / 4
        beta = mpmath.exp(mpmath.mpf("-0.5"))
        bias = clients * mpmath.sqrt(mpmath.log(1 / (1 - beta)) / 2)
        tail = mpmath.sqrt(2 * proxy * mpmath.log(2 * dimension / mpmath.mpf(2) ** log2_probability))
        assert bias + tail <= bound + 1 <= bias + clients / 10_000 + tail * (1 + mpmath.mpf(2) ** -30) + 3
        stated = grid.log2_wrap_probability(share)

        def wrap(room, fallback):
            return min(0, mpmath.log(2 * dimension * mpmath.exp(-(max(0, room) ** 2) / (2 * proxy)) + fallback, 2))

        room = 2**15 - bias
        assert wrap(room, clients * beta**200) <= stated + 1e-9
        assert stated <= wrap(room - 2 - clients / 10_000, clients * mpmath.mpf(2) ** -144) + 1e-6
    if bound <= grid.largest_sum:
        assert stated <= log2_probability + 1e-6
    else:
        assert stated >= log2_probability - 1e-6


def test_a_thousand_phones_fit_sixteen_bits_at_little_cost():
    grid = RotatedGrid.for_sums(**DEVICES)
    share = share_of(grid, 3.5, 800)
    assert (grid.step, grid.sum_bits, grid.encoded_dimension) == (2.0**-11, 16, 7850)
    assert 1.025 < grid.sensitivity / 0.1 < 1.027
    assert 16_384 < grid.sum_bound(1000, share) <= grid.largest_sum == 32_767
    assert grid.log2_wrap_probability(share) < -50
    fine = Grid.fine(0.1, 7850, 0.1, Unit.CLIENT)
    assert fine.sum_bound(1000, share_of(fine, 3.5, 800)).bit_length() + 1 == 25


def test_the_step_is_the_finest_that_fits():
    for clip in (0.05, 0.07, 0.1, 1.0):
        for bits in (16, 17, 20):
            settings_ = DEVICES | {"clip_norm": clip, "sum_bits": bits}
            grid = RotatedGrid.for_sums(**settings_)
            assert grid.sum_bound(1000, share_of(grid, 3.5, 800)) <= grid.largest_sum
            assert grid.sensitivity <= LARGEST_INFLATION * clip
            finer = RotatedGrid(step=grid.step / 2, dimension=7850, clip_norm=clip, clients=1000, sum_bits=bits)
            assert finer.sum_bound(1000, share_of(finer, 3.5, 800)) > finer.largest_sum


def test_the_step_is_never_finer_than_the_fine_grid():
    grid = RotatedGrid.for_sums(**DEVICES, sum_bits=40)
    assert grid.step == Grid.fine(0.1, 7850, 0.1, Unit.CLIENT).step


def test_a_smaller_probability_takes_a_coarser_step():
    steps = {log2: RotatedGrid.for_sums(**DEVICES, log2_probability=log2).step for log2 in (-1.0, -20.0, -50.0, -64.0)}
    assert sorted(steps.values()) == list(steps.values())
    assert steps[-64.0] > steps[-1.0]


def test_too_few_bits_are_refused_with_the_number_that_does():
    large = DEVICES | {"dimension": 1_000_000}
    with pytest.raises(ArgumentError, match="sum_bits is 16; expected at least 17"):
        RotatedGrid.for_sums(**large)
    assert RotatedGrid.for_sums(**large, sum_bits=17).sensitivity < LARGEST_INFLATION * 0.1
    # Here it is the noise shares' variance that forbids a coarser step.
    quiet = DEVICES | {"noise_multiplier": 0.3}
    with pytest.raises(ArgumentError, match="sum_bits is 16; expected at least 17"):
        RotatedGrid.for_sums(**quiet)
    assert share_of(RotatedGrid.for_sums(**quiet, sum_bits=17), 0.3, 800).sigma_squared >= 8


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("unit", Unit.RECORD, "unit"),
        ("unit", Unit.GROUP, "unit"),
        ("noise_multiplier", 1e-3, "variance below 8"),
        ("noise_multiplier", 0.0, "noise_multiplier"),
        ("assured", 1, "assured"),
        ("clients", 0, "clients"),
        ("dimension", 0, "dimension"),
        ("clip_norm", math.inf, "clip_norm"),
        ("sum_bits", 1, "sum_bits"),
        ("sum_bits", 63, "sum_bits"),
        ("log2_probability", 0.5, "log2_probability"),
        ("log2_probability", -101.0, "log2_probability"),
        ("log2_probability", math.nan, "log2_probability"),
    ],
)
def test_arguments_out_of_their_domain(field, value, named):
    with pytest.raises(ArgumentError, match=named):
        RotatedGrid.for_sums(**(DEVICES | {field: value}))


def test_noise_of_another_grid_is_refused():
    grid, fine = RotatedGrid.for_sums(**DEVICES), Grid.fine(0.1, 7850, 0.1, Unit.CLIENT)
    for one, other in ((grid, fine), (fine, grid)):
        with pytest.raises(ArgumentError, match="share"):
            one.sum_bound(10, share_of(other, 3.5, 800))
    with pytest.raises(ArgumentError, match="share"):
        grid.log2_wrap_probability(share_of(fine, 3.5, 800))


def test_the_accounting_takes_it_and_asks_for_no_more_noise():
    grid = RotatedGrid.for_sums(**DEVICES)
    share = share_of(grid, 3.5, 800)
    event = GaussianSumEvent(
        noise_multiplier=3.5,
        sampling_rate=1.0,
        grid_ratio=share.total_grid_ratio,
        dimension=grid.encoded_dimension,
        shares=800,
    )
    assert event.grid_ratio > 700
    multipliers = {
        calibrate_noise(
            epsilon=8.0,
            delta=1e-5,
            rounds={1.0: 30},
            sensitivity_in_steps=one.sensitivity / one.step,
            dimension=7850,
            shares=800,
        ).noise_multiplier
        for one in (grid, Grid.fine(0.1, 7850, 0.1, Unit.CLIENT))
    }
    assert multipliers == {3.5}


def test_every_grid_has_grid_ratios_that_can_be_charged():
    # The smallest share variance alone makes grid_ratio**2 = assured * variance at least 16.
    for assured in (2, 3, 50):
        grid = RotatedGrid.for_sums(
            clip_norm=1.0, dimension=100, clients=60, noise_multiplier=0.5, assured=assured, sum_bits=18
        )
        assert share_of(grid, 0.5, assured).total_grid_ratio >= math.sqrt(8 * assured) > 2


def test_the_fine_grid_has_the_same_members(os_stream):
    grid = Grid.fine(1.0, 100, 3.0, Unit.RECORD)
    share = share_of(grid, 2.0, 5)
    vector = np.random.default_rng(6).standard_normal(100)
    integers = grid.encode(vector, seed=SEED, stream=os_stream)
    np.testing.assert_array_equal(integers, grid.quantise(vector))
    np.testing.assert_array_equal(grid.decode(integers, seed=SEED), grid.dequantise(integers))
    assert grid.encoded_dimension == 100
    assert grid.sum_bound(7, share) == 7 * grid.max_integer + share.sum_tail_bound(7, 100, log2_probability=-64)
    assert grid.sum_bound(7, share, log2_probability=-20) < grid.sum_bound(7, share)
    assert Fraction(grid.step) * grid.max_integer >= 3
