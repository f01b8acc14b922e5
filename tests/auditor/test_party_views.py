"""What each party can find out: committee members really try, and a run's transcript is read."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from small_federations import federation

from secure_fu.audit.verdict import Outcome
from secure_fu.auditor.canary.committee_view import committee_attempt
from secure_fu.auditor.canary.protocol_audit import audit_protocol
from secure_fu.auditor.canary.runs import canary_run
from secure_fu.auditor.canary.views import canary_views
from secure_fu.auditor.transcript_views import read_transcript, transcript_views
from secure_fu.crypto import CommitteeTerms
from secure_fu.crypto.sharing import share_key
from secure_fu.deletion import DeletionRequest
from secure_fu.errors import ArgumentError, RunDirectoryError, TranscriptError
from secure_fu.learning import Records, mlp
from secure_fu.planning import make_plan
from secure_fu.protocol.committee import encryption
from secure_fu.unlearning import METHODS

TERMS = CommitteeTerms(members=5, threshold=4, quorum=4, corrupt=2)


def made_run(scheme_name="kahe", canaries=240, rounds=4):
    draw = np.random.default_rng(5)
    clients = {
        f"silo-{place}": Records.from_arrays(draw.normal(size=(12, 16)), draw.integers(0, 4, 12)) for place in range(4)
    }
    module = mlp(16, (24,), 4, 0)
    plan = make_plan(
        module, clients=4, nominal_units=48, minimum_cohort=3, rounds=rounds, sampling_rate=1.0, epsilon=8.0
    )
    return canary_run(
        module, clients, plan, canaries=canaries, scheme_name=scheme_name, committee=TERMS, seed=3, zero_rounds=2
    )


@pytest.fixture(scope="module")
def run():
    return made_run()


def test_fewer_members_than_the_threshold_read_nothing_and_toss_coins(run):
    """False alarms: 1e-4 or so for the correlation at 2 times its 99 % limit; 240 coins, an AUC within 0.2 of 1/2."""
    for members in (0, TERMS.corrupt):
        attempt = committee_attempt(run, members=members)
        assert attempt.opened == 0
        assert attempt.uploads == 4
        assert abs(attempt.correlation) < 2.0 * attempt.correlation_by_chance
        assert abs(attempt.guessing.value - 0.5) < 0.2


def test_a_threshold_of_members_reads_uploads_and_guesses_better(run):
    attempt = committee_attempt(run, members=TERMS.threshold)
    assert attempt.opened == attempt.uploads == 4
    assert attempt.correlation == pytest.approx(1.0)
    assert attempt.guessing.low > 0.5


def test_a_client_that_leaves_the_random_part_of_its_sharing_out_is_read(monkeypatch):
    """Sums still open, and nobody notices; the polynomials then have the degree that two members determine."""

    def without_randomness(key, terms, *, stream):
        assert terms == TERMS
        return share_key(key, CommitteeTerms(members=5, threshold=2, quorum=4, corrupt=0), stream=stream)

    monkeypatch.setattr(encryption, "share_key", without_randomness)
    run = made_run(canaries=60, rounds=1)
    attempt = committee_attempt(run, members=TERMS.corrupt)
    assert attempt.opened == attempt.uploads == 4
    (view,) = [view for view in canary_views(run) if "committee members" in view.party]
    assert view.verdict.outcome is Outcome.LEAK


def test_views_are_ordered_bounded_and_serialise(run):
    views = {view.party: view for view in canary_views(run)}
    assert len(views) == 6
    for view in views.values():
        json.dumps(view.to_json(), allow_nan=False)
        assert view.verdict.outcome in (Outcome.PASSED, Outcome.CANNOT_TELL)
        for bound in view.bounds:
            assert bound.delta == run.registration.delta
    knows, colluding = views["whoever knows all but the canaries"], views["the same, pooled with 1 client"]
    assert max(bound.value for bound in knows.bounds) > 0.2 * run.claim
    assert colluding.figures["canaries"] == 180
    # The first view is that of the protocol's audit.
    assert [b.value for b in knows.bounds] == [b.value for b in audit_protocol(run).bounds]


def test_a_client_that_subtracts_its_own_share_sees_more_than_the_server(run):
    """In the spread of canaries that were left out, where the noise of one upload of four is missing."""
    name = next(iter(run.colluding))
    others = (run.holder != run.holders.index(name)) & ~run.inserted
    with_it = run.directions.scores(run.sums - run.known)[:, others]
    without = run.directions.scores(run.sums - run.colluding[name] - run.known + run.known_colluding[name])[:, others]
    ratio = without.var() / with_it.var()
    assert ratio == pytest.approx(0.75, abs=5.0 * np.sqrt(2.0 / others.sum() / 4))
    assert ratio < 0.95


def test_an_outsiders_model_is_the_weighted_sum_of_what_was_released(run):
    """By hand: momentum and rate on the sums, in the order of training."""
    recipe = run.plan.recipe
    vector, velocity = run.first_model.astype(np.float64), 0.0
    for released in run.sums:
        velocity = recipe.momentum * velocity + released / (recipe.sampling_rate * recipe.nominal_units)
        vector = (vector - recipe.learning_rate * velocity).astype(np.float32).astype(np.float64)
    np.testing.assert_allclose(vector, run.last_model, rtol=1e-5, atol=1e-6)
    outsider = next(view for view in canary_views(run) if view.party == "an outsider")
    assert max(bound.value for bound in outsider.bounds) <= run.claim


def test_canaries_beyond_the_claim_are_a_leak_for_every_view_that_sees_them(run):
    views = canary_views(replace(run, claim=0.05 * run.claim))
    assert views[0].verdict.outcome is Outcome.LEAK
    assert "more than was promised" in views[0].verdict.sentence


def test_uploads_of_a_round_have_one_size(run):
    assert {len(sizes) for sizes in run.body_sizes} == {1}


def test_other_schemes_say_what_is_assumed():
    plain = made_run("plain", canaries=60, rounds=1)
    (opener,) = [view for view in canary_views(plain) if "opens" in view.party]
    assert opener.verdict.outcome is Outcome.LEAK
    with pytest.raises(ArgumentError, match="kahe"):
        committee_attempt(plain, members=0)
    held = made_run("bfv", canaries=60, rounds=1)
    (opener,) = [view for view in canary_views(held) if "key-holder" in view.party]
    assert opener.verdict.outcome is Outcome.CANNOT_TELL


# The transcript of a finished run.


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    with closing(
        federation(
            rounds=4,
            minimum=3,
            scheme_name="kahe",
            committee=TERMS,
            joins={"silo-3": 2},
            vanishes=lambda number, name: number == 1 and name == "silo-9",
            directory=directory,
        )
    ) as federated:
        federated.train()
        federated.unlearn(DeletionRequest.whole_client("silo-3"), METHODS["rollback"](), adaptive=False)
    return directory


def test_lists_of_participants_tell_who_joined_and_where_a_rollback_starts(finished):
    seen = read_transcript(finished)
    main, rollback = seen.branches
    assert (main.rounds, main.fewest, main.most) == (4, 3, 4)
    assert dict(main.late) == {"silo-3": 2}
    assert rollback.parent == main.name
    assert rollback.starts_before == 2
    assert rollback.fits == ("silo-3",)
    assert rollback.left == ()
    assert set(main.claims) == {"retained", "forgotten"}
    assert seen.worst_claim == max(main.claims["retained"], rollback.claims["retained"])
    assert seen.corrupt == 2
    assert seen.unreleased == 0


def test_views_of_a_transcript_say_it_in_words(finished):
    views = transcript_views(read_transcript(finished))
    assert len(views) == 4
    for view in views:
        json.dumps(view.to_json(), allow_nan=False)
        assert view.verdict.outcome is Outcome.CANNOT_TELL
        assert view.bounds == ()
    assert "silo-3 may have asked" in views[0].verdict.sentence
    assert "joined late: silo-3 (round 2)" in views[0].finds


def test_what_is_missing_or_was_changed_is_refused(finished, tmp_path):
    with pytest.raises(RunDirectoryError, match=r"transcript\.jsonl"):
        read_transcript(tmp_path)
    for name in ("transcript.jsonl", "roster.bin", "policy.toml", "ledger.sqlite"):
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    lines = (tmp_path / "transcript.jsonl").read_text().splitlines()
    (tmp_path / "transcript.jsonl").write_text("\n".join([lines[0].replace("silo-0", "silo-1"), *lines[1:]]) + "\n")
    with pytest.raises(TranscriptError, match="line 1"):
        read_transcript(tmp_path)
