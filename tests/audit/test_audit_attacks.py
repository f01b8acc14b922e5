"""Each attack against the same attack written out plainly, record by record; and faults of known code are caught."""

from __future__ import annotations

import math
from collections.abc import Callable

import mpmath
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import special, stats

from secure_fu.audit.attacks import (
    Variance,
    calibrated_attack,
    choose_attack,
    confidence,
    lira_offline,
    lira_online,
    log_probability,
    loss_attack,
    offline_scaling,
    rmia,
)
from secure_fu.audit.attacks._shadow_scores import ShadowScores, moments
from secure_fu.audit.attacks.lira import _student_tail
from secure_fu.audit.attacks.shrinkage import online_predictives, variance_prior
from secure_fu.audit.shadows import balanced_members
from secure_fu.errors import ArgumentError
from secure_fu.learning import FlatModel, Records, StackedTraining, digits, mlp, stacked_logits, train_stacked

Array = NDArray[np.float64]


class Case:
    """Phi of a target and of S shadow models on n records, and who was trained on what."""

    def __init__(self, *, models: int, records: int, seed: int) -> None:
        generator = np.random.default_rng(seed)
        hardness = generator.normal(2.0, 2.0, size=records)
        spread = np.exp(generator.normal(0.0, 0.5, size=records))
        self.members = balanced_members(models, records, seed=seed)
        self.shadows = (
            hardness + spread * generator.normal(size=(models, records)) + self.members * (1.0 + 0.5 * spread)
        )
        self.truth = generator.random(records) < 0.5
        self.target = hardness + spread * generator.normal(size=records) + self.truth * (1.0 + 0.5 * spread)

    @property
    def arrays(self) -> tuple[Array, Array, NDArray[np.bool_]]:
        return self.target, self.shadows, self.members

    def sides(self, record: int) -> tuple[Array, Array]:
        """Phi of one record over the models with it, and over those without."""
        inside = self.members[:, record]
        return self.shadows[inside, record], self.shadows[~inside, record]


CASE = Case(models=10, records=60, seed=4)


def each(score: Callable[[int], float]) -> Array:
    return np.array([score(record) for record in range(len(CASE.target))])


def test_confidence_is_the_logit_of_the_probability() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(scale=3.0, size=(4, 7, 5))
    labels = generator.integers(0, 5, size=7)
    phi = confidence(logits, labels)
    assert phi.shape == (4, 7)
    for model in range(4):
        for record in range(7):
            own = special.softmax(logits[model, record])[labels[record]]
            assert phi[model, record] == pytest.approx(math.log(own) - math.log(1.0 - own), abs=1e-9)
            assert log_probability(phi)[model, record] == pytest.approx(math.log(own), abs=1e-12)
    # where probabilities round to 1, it still tells models apart
    sure = confidence(np.array([[60.0, 0.0, 0.0], [80.0, 0.0, 0.0]]), np.array([0, 0]))
    assert sure == pytest.approx([60.0 - math.log(2.0), 80.0 - math.log(2.0)])


@pytest.mark.parametrize(
    ("logits", "labels", "argument"),
    [
        (np.zeros((3, 1)), np.zeros(3, int), "logits"),
        (np.zeros(3), np.zeros(3, int), "logits"),
        (np.zeros((3, 2)), np.zeros(2, int), "labels"),
        (np.zeros((3, 2)), np.array([0, 1, 2]), "labels"),
        (np.zeros((3, 2)), np.array([0, -1, 1]), "labels"),
        (np.zeros((3, 2)), np.zeros(3), "labels"),
        (np.array([[0.0, np.nan]]), np.zeros(1, int), "logits"),
    ],
)
def test_confidence_refuses_what_does_not_fit(logits: Array, labels: NDArray[np.int64], argument: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        confidence(logits, labels)
    assert caught.value.argument == argument


def test_loss() -> None:
    generator = np.random.default_rng(1)
    logits, labels = generator.normal(size=(30, 4)), generator.integers(0, 4, size=30)
    expected = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(labels), reduction="none")
    np.testing.assert_allclose(loss_attack(confidence(logits, labels)), -expected.numpy(), atol=1e-12)


def test_calibrated() -> None:
    def one(record: int) -> float:
        _, without = CASE.sides(record)
        usual = sum(math.log(special.expit(value)) for value in without) / len(without)
        return math.log(special.expit(CASE.target[record])) - usual

    np.testing.assert_allclose(calibrated_attack(*CASE.arrays), each(one), atol=1e-9)


def plain_ratios(scaling: float | None) -> tuple[Array, Array]:
    """p(x | theta) / p(x) of all records, and the same as records z, whose p(z) is over models without them."""
    of_x, of_z = [], []
    for record in range(len(CASE.target)):
        with_it, without = (special.expit(side) for side in CASE.sides(record))
        own = special.expit(CASE.target[record])
        if scaling is None:
            usual = (with_it.mean() + without.mean()) / 2.0
        else:
            usual = ((1.0 + scaling) * without.mean() + 1.0 - scaling) / 2.0
        of_x.append(own / usual)
        of_z.append(own / without.mean())
    return np.array(of_x), np.array(of_z)


@pytest.mark.parametrize("scaling", [None, 0.0, 0.3, 1.0])
@pytest.mark.parametrize("gamma", [1.1, 2.0])
def test_rmia(scaling: float | None, gamma: float) -> None:
    scores = rmia(*CASE.arrays, population=~CASE.truth, gamma=gamma, scaling=scaling)
    ratios, against = plain_ratios(scaling)
    against = against[~CASE.truth]
    expected = each(lambda record: float(np.mean([ratios[record] / z >= gamma for z in against])))
    counted = np.floor(scores * (len(against) + 1)) / len(against)
    np.testing.assert_allclose(counted, expected, atol=1e-12)
    # within one value of the paper's score, the ratio decides
    for value in np.unique(expected):
        tied = expected == value
        np.testing.assert_array_equal(np.argsort(scores[tied]), np.argsort(ratios[tied]))
    # p(z) over all models, a fault of known code, is another score
    assert scaling is not None or not np.allclose(against, ratios[~CASE.truth])


def test_rmia_of_very_unlikely_records_is_finite() -> None:
    target, shadows, members = (array.copy() for array in CASE.arrays)
    target[:3] -= 2000.0
    shadows[:, :3] -= 2000.0
    for scaling in (None, 0.5, 1.0):
        assert np.isfinite(rmia(target, shadows, members, population=~CASE.truth, scaling=scaling)).all()


def test_offline_scaling_is_the_least_squares_line_through_one() -> None:
    with_it = each(lambda record: float(special.expit(CASE.sides(record)[0]).mean()))
    without = each(lambda record: float(special.expit(CASE.sides(record)[1]).mean()))
    grid = np.linspace(0.0, 1.0, 100_001)
    best = grid[np.argmin([((with_it - a * without - 1.0 + a) ** 2).sum() for a in grid])]
    assert offline_scaling(CASE.shadows, CASE.members) == pytest.approx(best, abs=1e-5)
    assert offline_scaling(CASE.shadows, np.zeros_like(CASE.members)) == 1.0


def deviation(record: int, side: int, variance: Variance) -> float:
    own = [float(np.var(CASE.sides(other)[side], ddof=1)) for other in range(len(CASE.target))]
    return math.sqrt(own[record] if variance is Variance.PER_RECORD else sum(own) / len(own))


@pytest.mark.parametrize("variance", [Variance.FIXED, Variance.PER_RECORD])
def test_lira_online(variance: Variance) -> None:
    def one(record: int, sides: tuple[int, int] = (0, 1)) -> float:
        with_it, without = CASE.sides(record)
        likely = stats.norm(with_it.mean(), deviation(record, sides[0], variance)).logpdf(CASE.target[record])
        return float(
            likely - stats.norm(without.mean(), deviation(record, sides[1], variance)).logpdf(CASE.target[record])
        )

    scores = lira_online(*CASE.arrays, variance=variance)
    np.testing.assert_allclose(scores, each(one), atol=1e-9)
    # the deviation of the models without a record taken from those with it, a fault of known code, is another score
    assert not np.allclose(scores, each(lambda record: one(record, (0, 0))), atol=1e-3)


@pytest.mark.parametrize("variance", [Variance.FIXED, Variance.PER_RECORD])
def test_lira_offline_is_a_tail_of_one_side(variance: Variance) -> None:
    def one(record: int) -> float:
        without = CASE.sides(record)[1]
        above = stats.norm(without.mean(), deviation(record, 1, variance)).sf(CASE.target[record])
        return -math.log(above)

    np.testing.assert_allclose(lira_offline(*CASE.arrays, variance=variance), each(one), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("variance", list(Variance))
def test_offline_a_record_that_fits_badly_is_no_member(variance: Variance) -> None:
    """A density would call it one: its target value is as unlikely as that of a member."""
    target, shadows, members = (array.copy() for array in CASE.arrays)
    usual = np.where(members, 0.0, shadows).sum(axis=0) / (~members).sum(axis=0)
    target[0], target[1], target[2] = usual[0] - 20.0, usual[1] + 20.0, usual[2]
    low, high, middle = lira_offline(target, shadows, members, variance=variance)[:3]
    assert low < middle < high
    assert middle == pytest.approx(math.log(2.0))
    # far in the tail scores do not saturate
    target[1] += 1000.0
    assert high < lira_offline(target, shadows, members, variance=variance)[1] < np.inf


def test_the_prior_of_the_variances_is_found() -> None:
    generator = np.random.default_rng(8)
    for freedom in (3.0, 12.0):
        variances = 2.5 * freedom / generator.chisquare(freedom, size=40_000)
        counts = generator.integers(2, 6, size=40_000).astype(np.float64)
        found = variance_prior(variances * generator.chisquare(counts), counts)
        assert found.freedom == pytest.approx(freedom, rel=0.1)
        assert found.variance == pytest.approx(2.5, rel=0.05)
    # all records with one variance: the prior is as sure of it as it can be
    same = variance_prior(0.7 * generator.chisquare(5.0, size=40_000), np.full(40_000, 5.0))
    assert same.variance == pytest.approx(0.7, rel=0.02)
    assert same.freedom > 200.0
    posterior, total = same.posterior(np.array([100.0]), np.array([5.0]))
    assert total == pytest.approx([same.freedom + 5.0])
    assert posterior == pytest.approx([(same.freedom * same.variance + 100.0) / total[0]])


def test_shrunken_lira_written_out() -> None:
    """Posterior of a normal pair of means and of a variance, record by record; t densities by their formula."""
    scores = ShadowScores.checked(*CASE.arrays)
    pairs = [CASE.sides(record) for record in range(len(CASE.target))]
    scatter = np.array([[((side - side.mean()) ** 2).sum() for side in pair] for pair in pairs])
    means = np.array([[side.mean() for side in pair] for pair in pairs])
    counts = np.array([[len(side) for side in pair] for pair in pairs])
    factor = (scatter[:, 0].sum() / (counts[:, 0] - 1).sum()) / (scatter[:, 1].sum() / (counts[:, 1] - 1).sum())
    prior = variance_prior(scatter[:, 0] / factor + scatter[:, 1], counts.sum(axis=1) - 2.0)
    degrees = prior.freedom + counts.sum(axis=1) - 2.0
    variance = (prior.freedom * prior.variance + scatter[:, 0] / factor + scatter[:, 1]) / degrees
    errors = np.stack([variance * factor / counts[:, 0], variance / counts[:, 1]], axis=1)
    covariance = np.cov(means.T) - np.diag(errors.mean(axis=0))
    assert np.linalg.eigvalsh(covariance).min() > 0.0
    expected = []
    for record, target in enumerate(CASE.target):
        gain = covariance @ np.linalg.inv(covariance + np.diag(errors[record]))
        location = means.mean(axis=0) + gain @ (means[record] - means.mean(axis=0))
        left = covariance - gain @ covariance
        total = 0.0
        for side, (sign, own) in enumerate(((1.0, factor), (-1.0, 1.0))):
            scale = math.sqrt(variance[record] * own + left[side, side])
            nu, z = degrees[record], (target - location[side]) / scale
            total += sign * (
                math.lgamma((nu + 1) / 2) - math.lgamma(nu / 2) - 0.5 * math.log(nu * math.pi) - math.log(scale)
            )
            total -= sign * (nu + 1) / 2 * math.log1p(z**2 / nu)
        expected.append(total)
    np.testing.assert_allclose(lira_online(*CASE.arrays), expected, atol=1e-8)
    one, other = online_predictives(moments(scores, inside=True), moments(scores, inside=False))
    assert one.freedom == pytest.approx(other.freedom)


@pytest.mark.parametrize("freedom", [2.0, 30.0, 2000.0])
def test_the_tail_of_student_goes_on_where_floats_end(freedom: float) -> None:
    values = np.array([-3.0, 0.0, 2.0, 30.0, 45.0, 200.0, 1e6, 1e9])
    expected = [
        float(mpmath.log(mpmath.betainc(freedom / 2, 0.5, 0, freedom / (freedom + mpmath.mpf(z) ** 2), True) / 2))
        for z in values[2:]
    ]
    found = _student_tail(values, np.full(len(values), freedom))
    np.testing.assert_allclose(found[2:], expected, rtol=1e-5, atol=1e-6)
    assert found[1] == pytest.approx(math.log(0.5))
    assert (np.diff(found) < 0.0).all()


def test_with_many_models_shrinking_does_nothing() -> None:
    many = Case(models=2000, records=40, seed=5)
    many.members = balanced_members(2000, 40, seed=6)
    shrunken, own = (
        lira_offline(*many.arrays, variance=variance) for variance in (Variance.SHRUNKEN, Variance.PER_RECORD)
    )
    np.testing.assert_allclose(shrunken, own, rtol=0.1, atol=0.05)


def test_models_that_all_say_the_same_do_not_break_it() -> None:
    members = balanced_members(8, 5, seed=0)
    for variance in Variance:
        scores = lira_online(np.zeros(5), np.zeros((8, 5)), members, variance=variance)
        assert np.isfinite(scores).all()
        assert np.isfinite(lira_offline(np.ones(5), np.zeros((8, 5)), members, variance=variance)).all()


@pytest.mark.parametrize(
    ("models", "attack", "words"),
    [
        (2, lira_online, "at least 2 trained with each record for online LiRA; 4 in balanced halves will do"),
        (2, lira_offline, "at least 2 trained without each record"),
        (0, rmia, "at least 1 trained with"),
        (0, calibrated_attack, None),
    ],
)
def test_too_few_models_and_how_many_it_takes(models: int, attack: Callable[..., Array], words: str | None) -> None:
    members = balanced_members(models, 6, seed=0) if models else np.zeros((1, 6), bool)
    more = {"population": np.ones(6, bool)} if attack is rmia else {}
    arrays = (np.zeros(6), np.zeros(members.shape), members)
    if words is None:
        assert attack(*arrays).shape == (6,)
        return
    with pytest.raises(ArgumentError, match=words):
        attack(*arrays, **more)


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"target": np.full(6, np.nan)}, "target"),
        ({"shadows": np.full((8, 6), np.inf)}, "shadows"),
        ({"shadows": np.zeros((8, 5))}, "shadows"),
        ({"members": np.zeros((8, 6))}, "members"),
        ({"target": np.zeros((1, 6))}, "target"),
        ({"population": np.zeros(6, bool)}, "population"),
        ({"gamma": 0.0}, "gamma"),
        ({"scaling": 1.5}, "scaling"),
    ],
)
def test_bad_arrays_are_refused(change: dict[str, object], argument: str) -> None:
    given: dict[str, object] = {
        "target": np.zeros(6),
        "shadows": np.zeros((8, 6)),
        "members": balanced_members(8, 6, seed=0),
        "population": np.ones(6, bool),
    }
    with pytest.raises(ArgumentError) as caught:
        rmia(**{**given, **change})  # type: ignore[arg-type]
    assert caught.value.argument == argument


def test_the_choice_is_made_by_the_number_of_models() -> None:
    names = [choose_attack(count) for count in (0, 1, 4, 7, 8, 256)]
    assert names == ["loss", "rmia", "rmia", "rmia", "lira_online", "lira_online"]
    assert choose_attack(64, online=False) == "rmia"
    with pytest.raises(ArgumentError):
        choose_attack(-1)


def test_at_eight_models_shrinking_finds_more_members_than_one_variance_for_all() -> None:
    """Each of 64 models that know digits by heart is once the target; its shadow models are eight others, in pairs.

    The share of members above every non-member, which is the true positive rate at the smallest false positive rate.
    """
    data = digits(seed=0, test_fraction=0.2)
    pool = data.train.subset(slice(0, 500))
    model = FlatModel(mlp(64, (64,), 10, seed=0))
    members = balanced_members(64, len(pool), seed=1)
    training = StackedTraining(steps=300, sampling_rate=0.25, learning_rate=0.2, momentum=0.9, divisor=62.5)
    vectors = train_stacked(model, pool, members, training=training, start=model.vector(), seeds=range(64))
    phi = confidence(stacked_logits(model, vectors, pool), pool.labels.numpy())
    generator = np.random.default_rng(2)
    rates: dict[Variance, list[float]] = {variance: [] for variance in Variance}
    for target in range(64):
        others = generator.choice([pair for pair in range(32) if pair != target // 2], size=4, replace=False)
        chosen = np.concatenate([2 * others, 2 * others + 1])
        for variance in Variance:
            scores = lira_online(phi[target], phi[chosen], members[chosen], variance=variance)
            inside = members[target]
            rates[variance].append(float((scores[inside] > scores[~inside].max()).mean()))
    gain = np.array(rates[Variance.SHRUNKEN]) - np.array(rates[Variance.FIXED])
    assert gain.mean() > 0.0
    assert np.mean(rates[Variance.SHRUNKEN]) > 2.0 * np.mean(rates[Variance.PER_RECORD])


def test_records_of_the_pool_can_be_any_shape() -> None:
    records = Records.from_arrays(np.random.default_rng(0).random((4, 1, 2, 2)), np.array([0, 1, 1, 0]))
    logits = stacked_logits(FlatModel(mlp(4, (), 2, seed=0)), np.zeros((3, 10), np.float32), records)
    assert confidence(logits, records.labels.numpy()) == pytest.approx(np.zeros((3, 4)))
