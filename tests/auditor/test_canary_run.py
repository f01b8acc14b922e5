"""Canary runs of a small federation, with real messages: faultless ones, and each fault planted in a party's code."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_federations import LOCAL

import secure_fu.auditor.canary.runs as module_of_run
from secure_fu.audit.canaries import CanaryTask
from secure_fu.audit.verdict import Outcome
from secure_fu.auditor.canary.protocol_audit import audit_protocol, noise_of
from secure_fu.auditor.canary.runs import ZERO, canary_run
from secure_fu.crypto import InsecureDeterministicRandomness
from secure_fu.errors import ArgumentError, BudgetExceededError
from secure_fu.learning import Records, _clip, mlp
from secure_fu.learning import per_client as client_code
from secure_fu.planning import make_plan
from secure_fu.privacy import NoiseShare, Unit
from secure_fu.protocol import client as client_machine
from secure_fu.protocol.header import grid_of, noise_share_of

CLIENTS = 5


def clients(groups=False):
    draw = np.random.default_rng(5)
    return {
        f"silo-{place}": Records.from_arrays(
            draw.normal(size=(12, 16)),
            draw.integers(0, 4, 12),
            [f"p{place}-{row // 2}" for row in range(12)] if groups else None,
        )
        for place in range(CLIENTS)
    }


def module():
    return mlp(16, (24,), 4, 0)


def plan(unit=Unit.RECORD, rounds=4, rate=0.5, **arguments):
    return make_plan(
        module(),
        clients=CLIENTS,
        nominal_units=CLIENTS if unit is Unit.CLIENT else 60,
        minimum_cohort=4,
        unit=unit,
        rounds=rounds,
        sampling_rate=1.0 if unit is Unit.CLIENT else rate,
        local=LOCAL if unit is Unit.CLIENT else None,
        **arguments,
    )


def run(*, unit=Unit.RECORD, scheme_name="plain", canaries=200, seed=1, own_plan=None, **arguments):
    return canary_run(
        module(),
        clients(unit is Unit.GROUP),
        plan(unit) if own_plan is None else own_plan,
        canaries=canaries,
        scheme_name=scheme_name,
        seed=seed,
        randomness=InsecureDeterministicRandomness(seed),
        **{"zero_rounds": 4, **arguments},
    )


def outcomes(found):
    return {name: finding.outcome for name, finding in found.findings.items()}


@pytest.mark.parametrize(
    ("unit", "scheme_name", "canaries"),
    [
        (Unit.RECORD, "kahe", 200),
        (Unit.RECORD, "bfv", 200),
        (Unit.RECORD, "plain", 200),
        (Unit.GROUP, "plain", 200),
        (Unit.CLIENT, "kahe", 40),
    ],
)
def test_a_faultless_run_is_not_flagged(unit, scheme_name, canaries, tmp_path):
    made = run(unit=unit, scheme_name=scheme_name, canaries=canaries, directory=tmp_path / "run")
    assert made.sums.shape == (4, made.directions.dimension)
    assert {event["statistic"] for event in [made.registration.to_json()]}
    found = audit_protocol(made)
    assert not {Outcome.LEAK, Outcome.INVALID} & set(outcomes(found).values())
    assert found.claim.epsilon == pytest.approx(made.registration.claim, rel=1e-9)
    assert made.recomputed <= found.claim.epsilon
    written = json.loads((tmp_path / "run" / "registration.json").read_text())
    assert written == made.registration.to_json()


def test_sums_hold_canaries_known_contributions_and_noise_and_nothing_else():
    """Against an oracle that decomposes the sums by hand: what remains is noise of the stated size, and grid steps."""
    made = run(own_plan=plan(rate=1.0), canaries=100)
    coefficients = np.where(made.inserted, 1.0, 0.0)
    rest = made.sums - made.known - made.directions.combine(coefficients)
    expected = noise_of(made.headers[0], CLIENTS)
    assert rest.std() == pytest.approx(expected, rel=5.0 / np.sqrt(2.0 * rest.size))
    assert np.abs((made.sums - made.known).mean()) < 5.0 * expected / np.sqrt(rest.size)
    # Of the right size along the canaries' own directions as well, and only with the canaries taken out.
    along = made.directions.scores(made.sums - made.known)[:, made.inserted]
    assert along.mean() == pytest.approx(1.0, abs=5.0 * expected / np.sqrt(along.size))
    assert along.mean() > 0.2
    share = noise_share_of(made.headers[0])
    assert noise_of(made.headers[0], share.assured) == pytest.approx(
        made.plan.recipe.noise_multiplier * share.sensitivity, rel=1e-9
    )


def test_colluders_uploads_are_what_the_sums_hold_of_them():
    made = run(canaries=100)
    (name,) = made.colluding
    own = made.colluding[name] - made.known_colluding[name]
    held = made.holder == made.holders.index(name)
    components = made.directions.scores(own)[:, held & ~made.inserted]
    expected = noise_of(made.headers[0], 1)
    assert components.std() == pytest.approx(expected, rel=0.5)
    # Less the colluder's upload, the sums have the noise of one upload less.
    rest = made.sums - made.colluding[name] - (made.known - made.known_colluding[name])
    left_out = made.directions.scores(rest)[:, ~held & ~made.inserted]
    assert left_out.std() == pytest.approx(noise_of(made.headers[0], CLIENTS - 1), rel=0.3)


def test_vanished_clients_are_accounted_for():
    made = run(vanishes=lambda number, name: number == 1 and name == "silo-3")
    assert made.uploads.tolist() == [5, 4, 5, 5]
    assert not made.took_part[1, made.holders.index("silo-3")]
    assert made.took_part.sum() == 19
    assert not {Outcome.LEAK, Outcome.INVALID} & set(outcomes(audit_protocol(made)).values())


# Faults.


def half_the_noise(header):
    share = noise_share_of(header)
    return NoiseShare(
        noise_multiplier=share.noise_multiplier / 2.0,
        sensitivity=share.sensitivity,
        step=share.step,
        assured=share.assured,
    )


def test_noise_that_is_too_small_is_found(monkeypatch):
    monkeypatch.setattr(client_machine, "noise_share_of", half_the_noise)
    found = audit_protocol(run())
    assert outcomes(found)["noise"] is Outcome.LEAK
    assert outcomes(found)["rounds"] is Outcome.LEAK
    assert "claimed epsilon does not hold" in found.verdict.sentence
    assert found.required_noise.ratio.high < 0.7


def test_noise_that_is_too_small_in_training_alone_is_found(monkeypatch):
    """Whoever behaves in zero rounds only."""
    monkeypatch.setattr(
        client_machine,
        "noise_share_of",
        lambda header: noise_share_of(header) if header.purpose == ZERO else half_the_noise(header),
    )
    found = outcomes(audit_protocol(run()))
    assert found["noise"] is Outcome.PASSED
    assert found["rounds"] is Outcome.LEAK


def test_a_missing_noise_share_is_found(monkeypatch):
    """Of one client of five; four shares are what privacy needs, so that it is an omission and not yet a breach."""
    honest = client_machine.Client._noised_contribution

    def silent(self, header, header_digest, model, terms):
        if self.name != "silo-2":
            return honest(self, header, header_digest, model, terms)
        contribution = self._bounded_contribution(header, model, terms)
        return grid_of(header).encode(contribution, seed=header_digest, stream=None), None

    monkeypatch.setattr(client_machine.Client, "_noised_contribution", silent)
    found = audit_protocol(run())
    assert outcomes(found)["noise"] is Outcome.LEAK
    assert "missing" in found.findings["noise"].sentence
    assert found.required_noise.p_too_small > 0.01


def test_one_client_that_does_not_clip_records_is_found_and_named(monkeypatch):
    class Unclipped(CanaryTask):
        def __init__(self, inner, **arguments):
            if 0 in arguments["held"]:
                arguments["clip_factors"] = lambda norms, _clip_norm: np.ones_like(norms)
            super().__init__(inner, **arguments)

    monkeypatch.setattr(module_of_run, "CanaryTask", Unclipped)
    made = run()
    found = audit_protocol(made)
    assert outcomes(found)["contributions"] is Outcome.LEAK
    assert found.contributions.largest.name == made.holders[made.holder[0]]


def test_a_clip_of_records_that_does_nothing_is_found(monkeypatch):
    """In the code that clips records themselves, which canaries go through."""
    monkeypatch.setattr(_clip.Clip, "scales", lambda _self, norms: torch.ones_like(norms))
    found = audit_protocol(run())
    assert outcomes(found)["contributions"] is Outcome.LEAK


def test_a_client_that_does_not_clip_its_change_is_found(monkeypatch):
    honest = client_code._clip_factors
    monkeypatch.setattr(
        client_code, "_clip_factors", lambda changes, bound: (torch.ones(len(changes)), honest(changes, bound)[1])
    )
    once_more = run(unit=Unit.CLIENT, canaries=40)
    assert outcomes(audit_protocol(once_more))["contributions"] is not Outcome.LEAK  # the client machine clips again
    monkeypatch.setattr(client_machine, "clip_l2", lambda vector, _bound: vector)
    # The grid clamps each coordinate to the clip norm, which leaves most of a long dense direction.
    found = audit_protocol(run(unit=Unit.CLIENT, canaries=40))
    assert outcomes(found)["contributions"] is Outcome.LEAK


def test_clients_that_use_all_records_where_they_are_to_sample_are_found(monkeypatch):
    from secure_fu.audit import canaries

    monkeypatch.setattr(canaries, "poisson_sample", lambda count, _rate, _stream: np.ones(count, dtype=bool))
    found = audit_protocol(run(own_plan=plan(rate=0.1, rounds=8)))
    assert outcomes(found)["contributions"] is Outcome.LEAK
    assert "sampled too often" in found.findings["contributions"].sentence


def test_a_ledger_that_claims_too_little_is_found_by_the_other_accountant(monkeypatch):
    from secure_fu.privacy import ledger

    honest = ledger.largest_epsilon
    monkeypatch.setattr(ledger, "largest_epsilon", lambda *args, **named: honest(*args, **named) / 2.0)
    found = audit_protocol(run(canaries=60))
    assert outcomes(found)["claim"] is Outcome.LEAK
    assert "accountant" in found.findings["claim"].sentence


def test_accountants_that_are_all_wrong_are_found_by_the_released_sums(monkeypatch):
    """Where each of them says a fifth of the truth, nothing but the canaries can tell."""
    from secure_fu.privacy import ledger

    for place, name in ((ledger, "largest_epsilon"), (module_of_run, "pld_epsilon"), (module_of_run, "renyi_epsilon")):
        honest = getattr(place, name)
        monkeypatch.setattr(place, name, lambda *args, honest=honest, **named: honest(*args, **named) / 5.0)
    found = audit_protocol(run(own_plan=plan(rate=1.0), canaries=400))
    assert outcomes(found)["claim"] is Outcome.LEAK
    assert "released sums show more" in found.verdict.sentence
    assert set(outcomes(found).values()) == {Outcome.LEAK, Outcome.PASSED}


def test_arguments_are_checked():
    with pytest.raises(ArgumentError, match="orthogonal"):
        run(canaries=10_000)
    with pytest.raises(ArgumentError, match="at least 20"):
        run(canaries=19)
    with pytest.raises(ArgumentError, match="rounds"):
        run(rounds=5)
    with pytest.raises(ArgumentError, match="zero_rounds"):
        run(zero_rounds=0)
    with pytest.raises(ArgumentError, match="minimum_cohort"):
        canary_run(module(), dict(list(clients().items())[:3]), plan(), canaries=30)


def test_a_plan_that_does_not_pay_for_its_rounds_is_refused_by_the_ledger():
    own = plan()
    dearer = replace(own.recipe, noise_multiplier=own.recipe.noise_multiplier / 4.0)
    with pytest.raises(BudgetExceededError):
        run(own_plan=replace(own, recipe=dearer, least_noise_multiplier=dearer.noise_multiplier))
