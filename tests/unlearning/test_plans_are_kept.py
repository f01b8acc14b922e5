"""A method may ask for what it has planned, and for nothing else; and its cost is that of what was run."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import unlearning_cast as cast
from foreign_methods import Claim, Foreign
from small_federations import REQUESTS, federation, plan_for

from secure_fu.errors import ProtocolError, RoundAborted
from secure_fu.federation import branches
from secure_fu.federation.planned_sums import PlannedSums
from secure_fu.learning import mlp
from secure_fu.privacy import Phase, Unit
from secure_fu.protocol import ReleasedModel
from secure_fu.unlearning import METHODS, PlannedRounds

REQUEST = REQUESTS[Unit.RECORD]
HEURISTIC = {"promises": Claim.HEURISTIC, "claims": Claim.HEURISTIC}


def started(method, **arguments):
    plan = plan_for(mlp(5, (), 3, 0), rounds=2, branch_rounds=6, noise_multiplier=20.0)
    made = federation(plan=plan, methods=[method], **arguments)
    if not made.state.rounds:
        made.train()
    return made


def rounds_of(made):
    return Counter(event.branch for event in made.ledger.events())["unlearn/foreign"]


def test_a_round_beyond_the_plan_is_neither_asked_nor_charged():
    method = Foreign(planned=1, ran=3, **HEURISTIC)
    with started(method) as made:
        with pytest.raises(ProtocolError, match="'foreign' asks for round 2, and its plan has 1; expected"):
            made.delete(REQUEST, method, adaptive=True)
        assert rounds_of(made) == 1, "that of the plan"
        assert made.executed == ()


def test_without_the_count_it_would_be_charged_for_three(monkeypatch):
    """The test above can fail."""
    monkeypatch.setattr(PlannedSums, "secure_sum", lambda self, request: self._inner.secure_sum(request))
    method = Foreign(planned=1, ran=3, **HEURISTIC)
    with started(method) as made:
        made.delete(REQUEST, method, adaptive=True)
        assert rounds_of(made) == 3


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (Foreign(retained_rate=0.75, **HEURISTIC), r"retained_rate 0\.75, planned 0\.5"),
        (Foreign(asks_ascent=True, **HEURISTIC), r"forgotten_rate 0\.5, planned 0\.0"),
        (Foreign(planned=0, **HEURISTIC), "its plan has 0"),
    ],
)
def test_a_round_of_other_terms_than_planned_is_neither_asked_nor_charged(method, words):
    with started(method) as made:
        with pytest.raises(ProtocolError, match=words):
            made.unlearn(REQUEST, method, adaptive=True)
        assert rounds_of(made) == 0


@pytest.mark.parametrize("ran", [0, 1, 3])
def test_the_cost_of_a_run_is_that_of_the_rounds_that_were_run(ran):
    method = Foreign(planned=3, ran=ran, **HEURISTIC)
    with started(method) as made:
        assert made.cost(REQUEST, method, adaptive=True).rounds == 3
        done = made.unlearn(REQUEST, method, adaptive=True)
        assert (done.cost.rounds, len(done.traffic), rounds_of(made)) == (ran, ran, ran)
        told = {(entry.subject, entry.phase): entry.value for entry in done.cost.epsilon}
        for entry in done.epsilon:
            if entry.phase is not Phase.TRAINING:
                assert told[entry.subject, entry.phase] == pytest.approx(entry.value)


def test_rounds_that_an_interrupted_run_has_behind_it_count(tmp_path, monkeypatch):
    """Read from the log, they are rounds of the plan like the others: it cannot be had twice."""
    method = Foreign(planned=2, ran=2, **HEURISTIC)
    arguments = {"directory": tmp_path, "resumable": True}
    with started(method, **arguments) as made:

        def stop(_state):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            made.unlearn(REQUEST, method, adaptive=True, on_round=stop)
        assert rounds_of(made) == 1
        kept = []
        real = branches.PlannedSums

        def noting(*arguments, **named):
            kept.append(real(*arguments, **named))
            return kept[-1]

        monkeypatch.setattr(branches, "PlannedSums", noting)
        made.unlearn(REQUEST, method, adaptive=True)
        assert rounds_of(made) == 2
        assert sum(rounds.count for rounds in kept[-1].ran) == 2
        assert not kept[-1].stopped_early


def planned(count=1, **changes):
    rounds = PlannedRounds.of(cast.deletion(), count, forgotten_rate=0.0)
    return replace(rounds, **changes)


def request(**changes):
    model = ReleasedModel.public(np.zeros(cast.MODEL.dimension))
    return replace(
        cast.recipe().request(purpose="unlearn/x", phase=Phase.UNLEARNING, model=model, forgotten_rate=0.0), **changes
    )


def test_every_term_that_is_charged_for_is_compared():
    for name, value in {
        "retained_rate": 0.3,
        "forgotten_rate": 0.3,
        "noise_multiplier": 0.9,
        "clip_norm": 9.0,
        "saturation": 9.0,
        "length": 3,
    }.items():
        inner = cast.ScriptedSums()
        sums = PlannedSums(inner, [planned()], method="x", start=None)
        with pytest.raises(ProtocolError, match=f"no round of these terms is left in its plan: {name} "):
            sums.secure_sum(request(**{name: value}))
        assert inner.requests == []
        sums.secure_sum(request())


def test_planned_rounds_may_come_in_any_order_and_in_parts():
    sums = PlannedSums(cast.ScriptedSums(), [planned(), planned(length=3), planned()], method="x", start=None)
    for length in (None, 3):
        sums.secure_sum(request(length=length))
    assert sums.stopped_early
    sums.secure_sum(request())
    assert not sums.stopped_early
    assert Counter({rounds.length: rounds.count for rounds in sums.ran}) == {cast.MODEL.dimension: 2, 3: 1}
    with pytest.raises(ProtocolError, match="asks for round 4, and its plan has 3"):
        sums.secure_sum(request())


def test_a_round_that_was_aborted_is_still_to_be_run():
    class Once(cast.ScriptedSums):
        def secure_sum(self, request):
            if not self.requests:
                self.requests.append(request)
                raise RoundAborted("too few")
            return super().secure_sum(request)

    sums = PlannedSums(Once(), [planned()], method="x", start=None)
    with pytest.raises(RoundAborted):
        sums.secure_sum(request())
    assert sums.ran == ()
    sums.secure_sum(request())
    assert not sums.stopped_early


@pytest.mark.parametrize("name", sorted(METHODS))
def test_methods_of_the_package_run_all_of_their_plan(name):
    """None of them stops early: what they cost is known beforehand."""
    method = METHODS[name]()
    deletion = cast.deletion()
    sums = PlannedSums(
        cast.ScriptedSums(lambda asked: np.full(asked.length or cast.MODEL.dimension, 0.01)),
        method.plan(deletion),
        method=name,
        start=None,
    )
    method.run(sums, deletion)
    assert not sums.stopped_early
