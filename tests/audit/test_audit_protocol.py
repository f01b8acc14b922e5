"""The protocol's verdict on made-up runs whose truth is known: faultless ones, and each fault planted by itself."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from scipy import stats

from secure_fu.audit.contributions import contribution_test
from secure_fu.audit.protocol import CanaryObservations, protocol_audit
from secure_fu.audit.protocol_findings import Claim
from secure_fu.audit.registration import likelihood_scores, register_canaries
from secure_fu.audit.verdict import Outcome
from secure_fu.errors import ArgumentError
from secure_fu.privacy import GaussianSumEvent, Unit, pld_epsilon
from secure_fu.privacy.gaussian import gaussian_epsilon

DELTA, ROUNDS, NOISE, CLIENTS, ASSURED = 1e-5, 4, 2.0, 8, 6


@lru_cache
def registration(canaries=400, rate=1.0, alarm=0.01):
    return register_canaries(
        canaries=canaries,
        rounds=ROUNDS,
        unit=Unit.RECORD,
        sampling_rate=rate,
        noise=NOISE,
        raw_length=10.0,
        claim=true_epsilon(rate),
        delta=DELTA,
        alarm=alarm,
    )


@lru_cache
def true_epsilon(rate=1.0):
    if rate == 1.0:
        return gaussian_epsilon(np.sqrt(ROUNDS) / NOISE, 1.0, DELTA)
    event = GaussianSumEvent(noise_multiplier=NOISE, sampling_rate=rate, grid_ratio=1e6, dimension=1, shares=2)
    return pld_epsilon({event: ROUNDS}, delta=DELTA)


def observed(seed, *, canaries=400, rate=1.0, d=3000, noise=1.0, zero_noise=1.0, clip=(1.0,) * CLIENTS, rates=None):
    """Components of a run; `noise` and `zero_noise` are factors of what should be there, `clip` of each client's."""
    draw = np.random.default_rng(seed)
    inserted = draw.random(canaries) < 0.5
    holder = draw.permutation(np.arange(canaries) % CLIENTS)
    sampled = draw.random((ROUNDS, canaries)) < (rate if rates is None else np.array(rates)[holder])
    components = NOISE * noise * draw.normal(size=(ROUNDS, canaries))
    components += np.array(clip)[holder] * (inserted & sampled)
    return CanaryObservations(
        components=components,
        others=NOISE * noise * draw.normal(size=(ROUNDS, 50)),
        inserted=inserted,
        holders=tuple(f"silo-{place}" for place in range(CLIENTS)),
        holder=holder,
        took_part=np.ones((ROUNDS, CLIENTS), dtype=bool),
        noise=np.full(ROUNDS, NOISE),
        zeros=NOISE * zero_noise * draw.normal(size=(1, d)),
        zero_noise=np.array([NOISE]),
        zero_required=NOISE * np.sqrt(ASSURED / CLIENTS),
        zero_uploads=np.array([CLIENTS]),
    )


def audit(seen, *, claim=None, recomputed=None, rate=1.0, **registered):
    own = registration(seen.inserted.size, rate, **registered)
    epsilon = true_epsilon(rate) if claim is None else claim
    return protocol_audit(seen, registration=own, claim=Claim(epsilon=epsilon, delta=DELTA, recomputed=recomputed))


def test_a_faultless_run_passes_with_figures_and_json():
    found = audit(observed(2), recomputed=true_epsilon())
    assert found.verdict.outcome is Outcome.PASSED
    assert {each.outcome for each in found.findings.values()} == {Outcome.PASSED}
    assert len(found.bounds) == 5
    assert all(bound.value <= true_epsilon() for bound in found.bounds)
    assert max(bound.value for bound in found.bounds) > 0.5 * true_epsilon()
    read = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert read["claim"]["epsilon"] == pytest.approx(true_epsilon())
    assert read["verdict"]["outcome"] == "passed"


@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_faultless_runs_are_flagged_as_seldom_as_was_registered(rate):
    """At alarm 0.1 more than 32 of 160 has probability 4e-5; bounds have slack, so that far fewer come."""
    flagged = [
        audit(observed(seed, rate=rate, d=500), rate=rate, alarm=0.1).verdict.outcome in (Outcome.LEAK, Outcome.INVALID)
        for seed in range(160)
    ]
    assert stats.binom.sf(32, 160, 0.1) < 1e-4
    assert sum(flagged) <= 32


@pytest.mark.parametrize(
    ("fault", "finding", "says"),
    [
        ({"zero_noise": 0.7}, "noise", "claimed epsilon does not hold"),
        ({"zero_noise": np.sqrt(7 / 8)}, "noise", "missing"),
        ({"noise": 0.8}, "rounds", "too small"),
        ({"clip": (1.0,) * 7 + (10.0,)}, "contributions", "silo-7"),
        ({"clip": (2.0,) * 8}, "contributions", "not clipped"),
        ({"rate": 0.3, "rates": (1.0,) * 8}, "contributions", "sampled too often"),
    ],
    ids=["small noise", "one share missing", "small noise in rounds", "one unclipped", "twice the clip", "all sampled"],
)
def test_a_planted_fault_is_found_in_run_after_run(fault, finding, says):
    rate = fault.get("rate", 1.0)
    for seed in range(5):
        found = audit(observed(seed, **fault), rate=rate)
        assert found.findings[finding].outcome is Outcome.LEAK
        assert found.verdict.outcome is Outcome.LEAK
        assert says in found.verdict.sentence


def test_a_missing_share_that_leaves_enough_is_not_called_too_little_for_privacy():
    found = audit(observed(3, zero_noise=np.sqrt(7 / 8)))
    assert found.required_noise.p_too_small > 0.5
    assert "still what privacy is accounted with" in found.findings["noise"].sentence


def test_noise_five_percent_too_small_is_found_at_5000_coordinates():
    outcomes = [
        audit(observed(seed, d=5000, zero_noise=0.95 * np.sqrt(ASSURED / CLIENTS))).required_noise.too_small
        for seed in range(20)
    ]
    assert all(outcomes)


def test_a_claim_that_is_too_small_is_refuted_by_what_was_released():
    for seed in range(5):
        found = audit(observed(seed), claim=0.4 * true_epsilon())
        assert found.findings["claim"].outcome is Outcome.LEAK
        assert "show more" in found.findings["claim"].sentence


def test_a_claim_below_what_the_headers_come_to_is_found_without_any_statistic():
    registered = replace(registration(), claim=0.8 * true_epsilon())
    claim = Claim(epsilon=0.8 * true_epsilon(), delta=DELTA, recomputed=true_epsilon())
    found = protocol_audit(observed(0), registration=registered, claim=claim)
    assert "accountant" in found.findings["claim"].sentence
    charged = protocol_audit(observed(0), registration=registration(), claim=replace(claim, recomputed=None))
    assert "charged too little" in charged.findings["claim"].sentence


def test_what_makes_the_audit_void_is_no_pass():
    louder = audit(observed(0, zero_noise=1.2))
    assert louder.findings["noise"].outcome is Outcome.INVALID
    silent = audit(observed(0, clip=(0.0,) * 8))
    assert silent.findings["contributions"].outcome is Outcome.INVALID
    assert silent.verdict.outcome is Outcome.INVALID


def test_an_audit_that_could_see_little_cannot_tell_and_says_what_it_could_have_seen():
    few = audit(observed(0, canaries=24, rate=0.3, d=60), rate=0.3)
    assert few.verdict.outcome is Outcome.CANNOT_TELL
    assert "could be missing unseen" in few.findings["noise"].sentence
    assert "perfect attack would have shown" in few.findings["claim"].sentence
    assert few.findings["claim"].figures["largest_without_assumptions"] == few.bounds[0].largest


def test_with_sampling_the_likelihood_ratio_tells_more_than_the_sum():
    noise = np.full(ROUNDS, 0.8)
    draw = np.random.default_rng(0)
    left = 0.8 * draw.normal(size=(ROUNDS, 40000))
    into = 0.8 * draw.normal(size=(ROUNDS, 40000)) + (draw.random((ROUNDS, 40000)) < 0.1)
    ratio = (
        likelihood_scores(into, noise=noise, rate=0.1).mean() - likelihood_scores(left, noise=noise, rate=0.1).mean()
    )
    ratio /= likelihood_scores(left, noise=noise, rate=0.1).std()
    linear = (into.sum(axis=0).mean() - left.sum(axis=0).mean()) / left.sum(axis=0).std()
    assert ratio > 1.2 * linear


def test_at_rate_one_the_likelihood_ratio_is_that_of_two_gaussians():
    components = np.random.default_rng(0).normal(size=(3, 10))
    noise = np.array([1.0, 2.0, 0.5])
    densities = stats.norm.logpdf(components, 1.0, noise[:, None]) - stats.norm.logpdf(components, 0.0, noise[:, None])
    np.testing.assert_allclose(likelihood_scores(components, noise=noise, rate=1.0), densities.sum(axis=0))
    mixed = np.log(
        0.3 * stats.norm.pdf(components, 1.0, noise[:, None]) + 0.7 * stats.norm.pdf(components, 0.0, noise[:, None])
    )
    mixed -= stats.norm.logpdf(components, 0.0, noise[:, None])
    np.testing.assert_allclose(likelihood_scores(components, noise=noise, rate=0.3), mixed.sum(axis=0))


def test_p_values_of_contributions_are_uniform_or_larger_and_reject_the_wrong_rate():
    """Of a single client, so that no factor for many tests hides it; 400 runs of few draws at a small rate."""
    found, wrong = [], []
    for seed in range(400):
        seen = observed(seed, canaries=160, rate=0.1)
        for rate, into in ((0.1, found), (0.05, wrong)):
            test = contribution_test(
                seen.components,
                inserted=seen.inserted,
                holders=seen.holders,
                holder=seen.holder,
                took_part=seen.took_part,
                noise=np.full(ROUNDS, NOISE),
                rate=rate,
            )
            into.append(test.overall.p_too_large)
    assert stats.kstest(found, "uniform").pvalue > 1e-4
    assert stats.kstest(wrong, "uniform").pvalue < 1e-4


def test_a_holder_that_vanished_is_not_said_to_have_sent_too_little():
    seen = observed(2, canaries=4000)
    away = np.ones((ROUNDS, CLIENTS), dtype=bool)
    away[0, :4] = False
    components = seen.components.copy()
    components[0, (seen.holder < 4) & seen.inserted] -= 1.0

    def p_too_small(took_part):
        return contribution_test(
            components,
            inserted=seen.inserted,
            holders=seen.holders,
            holder=seen.holder,
            took_part=took_part,
            noise=np.full(ROUNDS, NOISE),
            rate=1.0,
        ).overall.p_too_small

    assert p_too_small(away) > 0.01
    assert p_too_small(np.ones_like(away)) < 1e-4


def test_views_with_fewer_canaries_take_guesses_in_proportion():
    whole = registration(400)
    part = whole.registered_for(350)
    assert part.threshold == whole.registered.threshold
    assert len(part.guesses) == pytest.approx(len(whole.registered.guesses) * 350 / 400, abs=2)
    assert whole.registered_for(400) is whole.registered
    assert part.guesses.inserted[0] == whole.registered.guesses.inserted[0]


def test_arguments_are_checked():
    with pytest.raises(ArgumentError, match="at least 20"):
        registration(canaries=19)
    with pytest.raises(ArgumentError, match="as registered"):
        protocol_audit(observed(0), registration=registration(canaries=100), claim=Claim(epsilon=1.0, delta=DELTA))
    with pytest.raises(ArgumentError, match="finite"):
        replace(observed(0), noise=np.full(ROUNDS, np.nan))
    with pytest.raises(ArgumentError, match="took_part"):
        replace(observed(0), took_part=np.ones((1, CLIENTS), dtype=bool))
    with pytest.raises(ArgumentError, match="not above 0"):
        likelihood_scores(np.zeros((2, 3)), noise=np.array([1.0, 0.0]), rate=1.0)
