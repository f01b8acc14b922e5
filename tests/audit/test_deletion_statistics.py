"""Statistics of the deletion audit on made-up signals: oracles, and how often claims are wrong."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from secure_fu.audit.deletion import Part, secret_parts
from secure_fu.audit.deletion.after_only import likelihood_attack, loss_attack
from secure_fu.audit.deletion.areas import areas, learned_areas, unit_means
from secure_fu.audit.deletion.likelihood import Parted, likelihood_ratios

TERMS = {"margin": 0.05, "level": 0.95}


def two_parts(generator, runs, units, records_each=1, forgotten=None):
    parts = secret_parts(runs, units, seed=int(generator.integers(2**40)), forgotten=forgotten)
    return Parted(
        inside=parts == Part.FORGOTTEN, outside=parts == Part.NEVER, units=np.repeat(np.arange(units), records_each)
    )


def made_up(generator, runs=16, units=30, records_each=1, shift=0.0, spread=0.0, difficulty=2.0, forgotten=None):
    """Signals of a method and of retrained models; `shift` and `spread` are what the method leaves on the forgotten."""
    parted = two_parts(generator, runs, units, records_each, forgotten)
    count = units * records_each
    hard = difficulty * generator.normal(size=count)
    method, retrained = (hard + generator.normal(size=(runs, count)) for _ in range(2))
    left = shift + spread * generator.normal(size=count)
    return method + parted.inside[:, parted.units] * left, retrained, parted


def test_areas_agree_with_scikit_learn():
    generator = np.random.default_rng(0)
    parted = two_parts(generator, 5, 20)
    scores = np.round(generator.normal(size=(5, 20)), 1)  # with ties
    for row, area in enumerate(areas(scores, parted)):
        chosen = parted.inside[row] | parted.outside[row]
        assert area == pytest.approx(roc_auc_score(parted.inside[row, chosen], scores[row, chosen]))
    # groups of unequal size take the other way
    uneven = Parted(inside=parted.inside.copy(), outside=parted.outside.copy(), units=parted.units)
    uneven.outside[0, np.flatnonzero(uneven.outside[0])[0]] = False
    np.testing.assert_allclose(areas(scores, uneven)[1:], areas(scores, parted)[1:])


def test_unit_means():
    values = np.arange(8.0).reshape(2, 4)
    np.testing.assert_allclose(unit_means(values, np.array([1, 0, 1, 1])), [[1.0, 5 / 3], [5.0, 17 / 3]])


def test_likelihood_ratios_against_a_loop():
    """Each run's Gaussians written out: the other runs only, variances shrunken, gaps by DerSimonian and Laird."""
    generator = np.random.default_rng(1)
    signal, other, parted = made_up(generator, runs=9, units=6, records_each=2, shift=1.0)
    found = likelihood_ratios(signal, parted, [signal, other])
    for run in range(9):
        rest = [index for index in range(9) if index != run]
        groups = []
        for record in range(12):
            unit = parted.units[record]
            one = signal[[i for i in rest if parted.inside[i, unit]], record]
            zero = signal[[i for i in rest if parted.outside[i, unit]], record]
            groups.append((one, zero))

        def left(values):
            return float(((values - values.mean()) ** 2).sum()) if len(values) else 0.0

        def freedom(values):
            return max(len(values) - 1, 0)

        pooled = [sum(left(g[s]) for g in groups) / max(1, sum(freedom(g[s]) for g in groups)) for s in (0, 1)]
        total = sum(left(v) for g in groups for v in g) / max(1, sum(freedom(v) for g in groups for v in g))
        raw, error = np.zeros(12), np.full(12, np.inf)
        for record, (one, zero) in enumerate(groups):
            if len(one) and len(zero):
                raw[record] = one.mean() - zero.mean()
                both = (4 * total + left(one) + left(zero)) / (4 + freedom(one) + freedom(zero))
                error[record] = both * (1 / len(one) + 1 / len(zero))
        weight = 1 / error
        mean = (weight * raw).sum() / weight.sum()
        excess = (weight * (raw - mean) ** 2).sum() - ((weight > 0).sum() - 1)
        between = max(0.0, excess / (weight.sum() - (weight**2).sum() / weight.sum()))
        for unit in range(6):
            expected = np.zeros(2)
            for record in np.flatnonzero(parted.units == unit):
                one, zero = groups[record]
                gap = mean
                if np.isfinite(error[record]):
                    gap = (between * raw[record] + error[record] * mean) / (between + error[record])
                low = (one.sum() + zero.sum() - len(one) * gap) / (len(one) + len(zero))
                scales = [
                    np.sqrt((4 * pooled[s] + left(groups[record][s])) / (4 + freedom(groups[record][s])))
                    for s in (0, 1)
                ]
                for index, x in enumerate((signal[run, record], other[run, record])):
                    expected[index] += stats.norm.logpdf(x, low + gap, scales[0]) - stats.norm.logpdf(x, low, scales[1])
            np.testing.assert_allclose([part[run, unit] for part in found], expected, rtol=1e-7, atol=1e-7)


def test_a_run_learns_nothing_from_itself():
    """Its own signal changes its score only as the point that is scored: its Gaussians stay."""
    signal, _, parted = made_up(np.random.default_rng(2), shift=1.0)
    probe = np.zeros_like(signal)
    before = likelihood_ratios(signal, parted, [probe])[0]
    changed = signal.copy()
    changed[3] += 50.0
    after = likelihood_ratios(changed, parted, [probe])[0]
    np.testing.assert_allclose(after[3], before[3], rtol=1e-6, atol=1e-6)
    assert np.abs(after[4] - before[4]).max() > 0.1


def test_a_signal_without_spread_tells_nothing():
    parted = two_parts(np.random.default_rng(3), 10, 12)
    signal = np.tile(np.linspace(-2.0, 2.0, 12), (10, 1))
    np.testing.assert_array_equal(learned_areas(signal, parted, [signal])[0], 0.5)


def test_learned_areas_have_the_plain_areas_mean():
    signal, other, parted = made_up(np.random.default_rng(4), shift=0.8)
    for values, scores in zip(
        learned_areas(signal, parted, [signal, other]), likelihood_ratios(signal, parted, [signal, other]), strict=True
    ):
        assert values.mean() == pytest.approx(areas(scores, parted).mean())


def test_what_is_left_is_found_in_both_directions():
    for shift in (1.0, -1.0):
        method, retrained, parted = made_up(np.random.default_rng(5), runs=24, units=60, shift=shift)
        likelihood = likelihood_attack(method, retrained, parted, **TERMS)
        assert likelihood.value.value > 0.6
        assert likelihood.test is not None
        assert likelihood.test.different
        loss = loss_attack(-method, -retrained, parted, **TERMS)
        assert loss.test is not None
        assert loss.test.different
        assert np.sign(loss.gap.value) == np.sign(shift)


def share_of(reps, seed, claim, **settings):
    generator = np.random.default_rng(seed)
    return np.mean([claim(*made_up(generator, **settings)) for _ in range(reps)])


def likelihood_different(*arrays):
    return likelihood_attack(*arrays, **TERMS).test.different


def loss_different(method, retrained, parted):
    return loss_attack(-method, -retrained, parted, **TERMS).test.different


@pytest.mark.parametrize(
    "settings",
    [{}, {"runs": 12, "units": 9, "records_each": 5}, {"runs": 12, "units": 8, "records_each": 5, "forgotten": 1}],
    ids=["records", "clients", "one client"],
)
def test_another_retraining_is_called_different_at_most_at_the_level(settings):
    """More than 20 false alarms at 5 % among 200 have a chance below 1 in 300, and the seed is fixed."""
    assert share_of(200, 6, likelihood_different, **settings) <= 20 / 200
    assert share_of(200, 7, loss_different, **settings) <= 20 / 200


def test_plain_areas_would_be_called_different_too_often():
    """The broken variant, without the jackknife: what run r shows by run s counts as if it were new."""

    def claim(method, retrained, parted):
        scores = likelihood_ratios(method, parted, [method])[0]
        return stats.ttest_1samp(areas(scores, parted), 0.5).pvalue < 0.05

    def right(method, retrained, parted):
        return stats.ttest_1samp(learned_areas(method, parted, [method])[0], 0.5).pvalue < 0.05

    settings = {"runs": 24, "units": 60}
    assert share_of(200, 8, claim, **settings) > 0.09
    assert share_of(200, 8, right, **settings) <= 0.07


def test_equivalence_at_the_margin_is_claimed_at_most_at_the_level():
    """With unit noise a shift d gives the loss an area of Phi(d / sqrt(2)); the likelihood ratio was calibrated."""

    def likelihood(*arrays):
        return likelihood_attack(*arrays, **TERMS).test.equivalent

    def loss(method, retrained, parted):
        return loss_attack(-method, -retrained, parted, **TERMS).test.equivalent

    at_margin = np.sqrt(2.0) * stats.norm.ppf(0.55)
    settings = {"runs": 48, "units": 90, "difficulty": 0.0}
    assert share_of(300, 9, loss, shift=at_margin, **settings) <= 26 / 300
    assert share_of(60, 9, loss, shift=0.0, **settings) > 0.5
    # At this shift the mean gap of the likelihood ratio over many repetitions is 0.052.
    settings = {"runs": 24, "units": 90}
    assert share_of(100, 10, likelihood, shift=0.28, **settings) <= 12 / 100
    assert share_of(40, 10, likelihood, shift=0.0, **settings) > 0.1
