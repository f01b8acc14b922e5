"""What a method claims is held against the ledger, whoever wrote it: before its first round and after its last."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import unlearning_cast as cast
from foreign_methods import NEWEST, Claim, Foreign
from small_federations import federation, plan_for, silos

from secure_fu.deletion import DeletionRequest
from secure_fu.errors import GuaranteeError
from secure_fu.federation import branches
from secure_fu.learning import mlp
from secure_fu.unlearning import (
    METHODS,
    Ascent,
    Certified,
    CertifiedModel,
    Exact,
    FineTune,
    Heuristic,
    Outcome,
    Requirement,
    Retrain,
    Rollback,
)
from secure_fu.unlearning.claims import check_claim, if_adaptive
from secure_fu.unlearning.guarantee import NOT_ADAPTIVE

JOINED = 2
REQUEST = DeletionRequest.some_records("silo-4", (0, 3))
OTHER = DeletionRequest.some_records("silo-0", (1,))
EXACT = Requirement(kind=Exact)


def trained(*methods, joined=JOINED):
    module = mlp(5, (), 3, 0)
    plan = plan_for(module, clients=5, rounds=6, minimum=4, noise_multiplier=40.0)
    made = federation(
        module=module, clients=silos(5), plan=plan, joins={"silo-4": joined}, methods=(*methods, FineTune(length=1))
    )
    made.train(rounds=4)
    return made


@dataclass(frozen=True, kw_only=True)
class Liar(Ascent):
    """Climbs the loss of the forgotten units, and calls it exact."""

    name: ClassVar[str] = "liar"
    title: ClassVar[str] = "Liar"

    def guarantee(self, deletion):
        return Exact("it says so", assumptions=())

    def run(self, sums, deletion, on_round=lambda _: None):
        outcome = super().run(sums, deletion, on_round)
        return Outcome(state=outcome.state, guarantee=self.guarantee(deletion))


def certified(kind=Certified, **changes):
    numbers = {"epsilon": 2.0, "delta": 1e-5, "group_size": 3, "reason": "so", "assumptions": ()}
    return kind(**numbers | changes)


LIAR = Liar(length=1, recovery=1)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("require", [None, EXACT])
def test_ascent_that_calls_itself_exact_is_refused_before_any_round(adaptive, require):
    with trained(LIAR) as made:
        events = len(list(made.ledger.events()))
        for attempt in (made.unlearn, made.delete):
            with pytest.raises(GuaranteeError, match=r"'liar' claims: Exact.*units to be forgotten entered"):
                attempt(REQUEST, LIAR, adaptive=adaptive, require=require)
        with pytest.raises(GuaranteeError, match="'liar' claims"):
            made.cost(REQUEST, LIAR, adaptive=adaptive)
        assert len(list(made.ledger.events())) == events
        assert made.executed == ()


def test_without_the_rule_the_liar_would_pass(monkeypatch):
    """The tests above can fail: it is this rule, and nothing else, that refuses it."""
    monkeypatch.setattr(branches, "check_claim", lambda *_, **__: None)
    monkeypatch.setattr(branches, "claimed_start", lambda *_: None)
    with trained(LIAR) as made:
        assert isinstance(made.delete(REQUEST, LIAR, adaptive=True, require=EXACT).guarantee, Exact)
        # Even so, what a later adaptive deletion leaves of it is the ledger's word.
        made.delete(OTHER, FineTune(length=1), adaptive=True)
        assert isinstance(made.executed[0].guarantee, Certified)


BEFORE = {
    "enters": (Foreign(plans_ascent=True, asks_ascent=True), False, "units to be forgotten entered"),
    "starts from the newest model": (Foreign(starts=NEWEST), False, "what it rests on had charged"),
    "starts after they joined": (Foreign(starts=JOINED + 1), False, "what it rests on had charged"),
    "adaptive": (Foreign(), True, "what it rests on had charged"),
    "certified, enters": (Foreign(promises=Claim.CERTIFIED, plans_ascent=True, epsilon=99.0), False, "entered"),
    "certified below the ledger": (Foreign(promises=Claim.CERTIFIED, starts=3), False, "the ledger charged"),
    "certified, for fewer units": (Foreign(promises=Claim.CERTIFIED, units=1, epsilon=99.0), False, "2 units are"),
    "certified, adaptive": (Foreign(promises=Claim.CERTIFIED, epsilon=0.02), True, "the ledger charged"),
    "certified by too little noise": (Foreign(promises=Claim.MODEL, epsilon=1.0), False, "shift and noise give"),
}


@pytest.mark.parametrize("name", BEFORE)
def test_what_the_plan_or_the_start_belies_is_refused_before_anything_is_charged(name):
    method, adaptive, words = BEFORE[name]
    with trained(method) as made:
        events = len(list(made.ledger.events()))
        with pytest.raises(GuaranteeError, match=words):
            made.delete(REQUEST, method, adaptive=adaptive)
        assert len(list(made.ledger.events())) == events


def test_settings_that_were_not_declared_make_no_exact_claim():
    with trained(Foreign()) as made:
        assert isinstance(made.cost(REQUEST, Foreign(), adaptive=False).guarantee, Exact)
        with pytest.raises(GuaranteeError, match="what it rests on"):
            made.cost(REQUEST, Foreign(planned=3, ran=3), adaptive=False)


def test_a_run_that_does_not_begin_with_its_start_is_refused_before_it_is_charged():
    method = Foreign(begins=NEWEST)
    with trained(method) as made:
        events = len(list(made.ledger.events()))
        with pytest.raises(GuaranteeError, match="another model than its start_state"):
            made.delete(REQUEST, method, adaptive=False)
        assert len(list(made.ledger.events())) == events


AFTER = {
    "claims more than it promised, and entered": (
        Foreign(promises=Claim.HEURISTIC, plans_ascent=True, asks_ascent=True),
        "units to be forgotten entered",
    ),
    "claims more, from another start": (
        Foreign(promises=Claim.HEURISTIC, begins=NEWEST),
        "did not begin with its start_state",
    ),
    "runs nothing, and names the newest model": (
        Foreign(ran=0, begins=NEWEST),
        "did not begin with its start_state",
    ),
    "reaches less than it promised": (Foreign(claims=Claim.HEURISTIC), "promised: Exact"),
}


@pytest.mark.parametrize("name", AFTER)
def test_what_the_rounds_that_were_run_belie_is_not_executed(name):
    method, words = AFTER[name]
    with trained(method) as made:
        before = made.state
        with pytest.raises(GuaranteeError, match=words):
            made.delete(REQUEST, method, adaptive=False)
        assert made.executed == ()
        assert made.state is before


def test_what_is_reached_has_to_do_for_what_was_required():
    with pytest.raises(GuaranteeError, match="require is exact; method 'foreign' reached: Heuristic"):
        EXACT.check_reached(Foreign(), Heuristic("so"))
    EXACT.check_reached(Foreign(), Exact("so", assumptions=()))


def test_an_honest_claim_passes_and_weakens_as_every_other_does():
    honest = Foreign(starts=JOINED)
    with trained(honest) as made:
        paid = made.deletion(REQUEST, adaptive=False).last_epsilon
        first = made.delete(REQUEST, honest, adaptive=False, require=EXACT)
        assert isinstance(first.guarantee, Exact)
        # It comes from the checkpoint, and not from the models that knew the data.
        assert made.lineage == (("original", JOINED - 1), ("unlearn/foreign", first.state.last_round))
        assert made.checkpoints.rounds == (0, 1, 2, 4)
        made.delete(OTHER, FineTune(length=1), adaptive=True)
        left = made.executed[0].guarantee
        assert isinstance(left, Certified)
        assert (left.epsilon, left.group_size) == (paid, 2)


def test_what_nobody_knew_is_forgotten_exactly_whoever_chose():
    honest = Foreign(starts=NEWEST)
    with trained(honest, joined=5) as made:
        made.delete(REQUEST, honest, adaptive=True, require=EXACT)
        made.delete(OTHER, FineTune(length=1), adaptive=True)
        assert made.executed[0].guarantee == Exact("it says so", assumptions=())


def test_a_certificate_may_count_what_the_ledger_counts():
    with trained() as made:
        everything = made.deletion(REQUEST, adaptive=False).last_epsilon
    methods = [Foreign(promises=Claim.CERTIFIED, claims=Claim.CERTIFIED, starts=NEWEST, epsilon=everything)]
    with trained(*methods) as made:
        assert made.cost(REQUEST, methods[0], adaptive=True).guarantee.epsilon == everything
        assert made.unlearn(REQUEST, methods[0], adaptive=True).guarantee.epsilon == everything


def test_a_refusal_names_no_method_that_only_says_that_it_can():
    with trained(LIAR, Foreign(starts=NEWEST)) as made:
        with pytest.raises(GuaranteeError) as refused:
            made.delete(REQUEST, FineTune(length=1), adaptive=False, require=EXACT)
        able = str(refused.value).partition("those that can, here: ")[2]
        assert "retrain" in able
        assert "liar" not in able
        assert "foreign" not in able


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("method", [Retrain(), Rollback(), METHODS["scratch"](), Rollback(forget_epsilon=0.4)])
def test_what_reruns_compute_passes(method, adaptive):
    deletion = cast.deletion(adaptive=adaptive, declared=lambda _: True)
    claim = method.guarantee(deletion)
    check_claim(method, claim, deletion, entered=False)
    with pytest.raises(GuaranteeError, match="entered"):
        check_claim(method, claim, deletion, entered=True)


@pytest.mark.parametrize("method", [Retrain(), Rollback(), Rollback(forget_epsilon=0.4)])
def test_what_is_left_of_a_rerun_is_what_it_would_say_itself(method):
    now, later = (cast.deletion(adaptive=adaptive, declared=lambda _: True) for adaptive in (False, True))
    assert if_adaptive(method.guarantee(now), now) == method.guarantee(later)


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        (Heuristic("so", kind="exact"), "a Heuristic of kind 'exact'"),
        (Exact("so", assumptions=(), kind="heuristic"), "a Exact of kind 'heuristic'"),
        (type("Proved", (Heuristic,), {})("so"), "a Proved of kind"),
        (certified(delta=0.9), "the federation's delta is 1e-05"),
        (certified(delta=1e-9), "the federation's delta is 1e-05"),
        (certified(group_size=2), "3 units are"),
        (certified(group_size=4), "3 units are"),
        (certified(epsilon=float("nan")), "epsilon is no finite number"),
        (certified(epsilon=-1.0), "epsilon is no finite number"),
        (certified(CertifiedModel, shift=1.0, output_noise=0.0), "its figures give no epsilon"),
        (certified(CertifiedModel, shift=float("nan"), output_noise=1.0), "its figures give no epsilon"),
        (certified(CertifiedModel, shift=9.0, output_noise=1.0), "shift and noise give"),
    ],
)
def test_a_claim_that_is_none_is_refused(claim, words):
    with pytest.raises(GuaranteeError, match=words):
        check_claim(Foreign(), claim, cast.deletion(declared=lambda _: True), entered=False)


def test_a_larger_figure_stays_and_none_is_no_bound():
    deletion = cast.deletion(units=3)
    claim = Certified(epsilon=50.0, delta=1e-5, group_size=3, reason="so", assumptions=(NOT_ADAPTIVE,))
    assert if_adaptive(claim, deletion).epsilon == 50.0
    assert if_adaptive(replace(claim, epsilon=None), deletion).epsilon is None
    assert if_adaptive(Heuristic("so"), deletion) == Heuristic("so")


def test_a_start_that_is_nearly_a_checkpoint_is_none():
    class Near(Foreign):
        def start_state(self, deletion):
            state = super().start_state(deletion)
            vector = state.model.vector.astype(np.float64)
            vector[0] += 1e-3
            return replace(state, model=state.model.derived(vector))

    deletion = cast.deletion(declared=lambda _: True)
    check_claim(Foreign(), Exact("so", assumptions=()), deletion, entered=False)
    with pytest.raises(GuaranteeError, match="what it rests on"):
        check_claim(Near(), Exact("so", assumptions=()), deletion, entered=False)
