"""What methods claim: computed from checkpoint and ledger, typed, and in words."""

from __future__ import annotations

import typing
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from unlearning_cast import deletion, digit_silos

from secure_fu.deletion import DeletionRequest
from secure_fu.federation import Federation
from secure_fu.learning import mlp
from secure_fu.planning import make_plan
from secure_fu.privacy import Phase, Subject, renyi_epsilon
from secure_fu.unlearning import (
    METHODS,
    Baseline,
    Certified,
    CertifiedModel,
    Correction,
    Exact,
    FineTune,
    Heuristic,
    JointRounds,
    Rerun,
    Retrain,
    Rollback,
    Scratch,
    Scrub,
    UnlearningMethod,
)

ADAPTIVE = "Assumed: the request and the settings of the run were not chosen after seeing models"


@pytest.mark.parametrize(
    ("method", "kind", "text"),
    [
        (
            Retrain(),
            Exact,
            "Exact: it is trained again without the data, with fresh noise, under the same public settings.",
        ),
        (Scratch(length=5), Exact, "under the same public settings, but for 5 rounds only."),
        (Rollback(), Exact, "Exact: it goes back to round 12, before the data took part, and trains on without it"),
        (
            Rollback(forget_epsilon=0.5),
            Certified,
            "Certified: epsilon 0.50 at delta 1e-05 for a group of 3 units, in the view of every release; it goes back "
            "to round 17, up to which the ledger charged the forgotten units this much.",
        ),
        (Scrub(), Heuristic, "Heuristic: 10 rounds pull the forgotten records towards the model's own output"),
        (Correction(length=4), Heuristic, "Heuristic: 4 rounds take back each forgotten unit's own clipped history"),
        (
            FineTune(),
            Baseline,
            "Baseline: 10 more rounds of the original model, without the data. It promises nothing.",
        ),
    ],
)
def test_kinds_and_words(method, kind, text):
    found = method.guarantee(deletion(declared=lambda _: True))
    assert type(found) is kind
    assert found.kind == kind.__name__.lower()
    assert text in found.describe()
    assert found.describe().endswith(".")
    assert ".." not in found.describe()
    assert (ADAPTIVE in found.describe()) == (kind in (Exact, Certified)), (
        "each claim says under which requests it holds"
    )
    assert ("No proof" in found.describe()) == (kind is Heuristic)


def test_a_certificate_for_one_unit_and_one_without_a_bound():
    method = Rollback(forget_epsilon=0.5)
    assert "for one unit, in the view" in method.guarantee(deletion(units=1, declared=lambda _: True)).describe()
    unbounded = Certified(epsilon=None, delta=1e-5, group_size=143, reason="because", assumptions=())
    assert unbounded.describe() == (
        "Certified: epsilon unbounded at delta 1e-05 for a group of 143 units, in the view of every release; because."
    )


# No method can claim what it does not compute


def test_the_kind_of_claim_is_in_the_type():
    claims = {name: typing.get_type_hints(method.guarantee)["return"] for name, method in METHODS.items()}
    reruns = {name for name, method in METHODS.items() if issubclass(method, Rerun)}
    assert reruns == {"retrain", "rollback", "scratch"}
    assert {name for name, method in METHODS.items() if issubclass(method, JointRounds)} == {"scrub", "correction"}
    assert all(claims.pop(name) == Exact | Certified for name in reruns)
    assert claims.pop("finetune") is Baseline
    assert claims.pop("newton") == CertifiedModel | Heuristic
    assert set(claims.values()) == {Heuristic}, claims
    assert {name for name, method in METHODS.items() if method.baseline} == {"finetune", "scratch"}


@pytest.mark.parametrize("family", [Rerun, JointRounds])
def test_what_a_claim_rests_on_is_final(family):
    members = {"guarantee", "start_state", "run", *({"client_tasks"} if family is Rerun else set()), "plan", "rounds"}
    for member in members:
        assert getattr(getattr(family, member), "__final__", False), f"{family.__name__}.{member}"
        for method in METHODS.values():
            if issubclass(method, family):
                assert getattr(method, member) is getattr(family, member)


@dataclass(frozen=True, kw_only=True)
class Boastful(Rerun):
    """Goes back to wherever it likes, and would like that to be exact."""

    to: int

    name: ClassVar[str] = "boastful"
    title: ClassVar[str] = "Boastful"

    def training_rounds(self, deletion):
        return 1

    def checkpoint(self, deletion):
        return self.to


@pytest.mark.parametrize("to", range(21))
def test_a_rerun_claims_what_the_ledger_says_of_its_checkpoint(to):
    found = Boastful(to=to).guarantee(deletion(declared=lambda _: True))
    if to <= 12:
        assert isinstance(found, Exact)
    else:
        assert isinstance(found, Certified)
        assert found.epsilon == pytest.approx(0.1 * (to - 12))
        assert (found.delta, found.group_size) == (1e-5, 3)


def test_an_infinite_charge_is_no_bound_and_never_exact():
    found = Boastful(to=15).guarantee(deletion(lambda rounds: None if rounds > 12 else 0.0, declared=lambda _: True))
    assert isinstance(found, Certified)
    assert found.epsilon is None
    assert "unbounded" in found.describe()


def test_methods_are_abstract_until_they_say_everything():
    for kind in (UnlearningMethod, Rerun, JointRounds):
        with pytest.raises(TypeError, match="abstract"):
            kind()


# By the ledger of a real federation


def federation(noise_multiplier=None, every=1, **arguments):
    clients, _, _, _ = digit_silos(5)
    clients = {name: own.subset(np.arange(len(own)) < 20) for name, own in clients.items()}
    module = mlp(64, (4,), 10, seed=0)
    plan = make_plan(
        module,
        clients=5,
        nominal_units=100,
        minimum_cohort=4,
        rounds=6,
        sampling_rate=0.3,
        noise_multiplier=noise_multiplier,
        checkpoint_every=every,
    )
    return Federation(module, clients, plan=plan, scheme_name="plain", **arguments)


def test_a_certificate_is_what_the_group_of_forgotten_units_had_paid_up_to_the_checkpoint():
    method = Rollback(forget_epsilon=100.0)
    with federation(every=5, joins={"silo-4": 3}, methods=[method]) as federated:
        federated.train()
        request = DeletionRequest.some_records("silo-4", (2, 5, 6))
        assert [method.checkpoint(federated.deletion(request, adaptive=False))] == [5], (
            "it stops short of the last round"
        )
        found = federated.unlearn(request, method, adaptive=False).guarantee
        counts = federated.ledger.event_counts("original", "silo-4", Subject.FORGOTTEN, Phase.TRAINING)
    (event,) = counts
    assert counts[event] == 3
    assert isinstance(found, Certified)
    assert found.group_size == 3
    # Round 5 is two rounds after it joined.
    assert found.epsilon == pytest.approx(renyi_epsilon({event: 2}, delta=1e-5, group_size=3), rel=1e-9)


def test_rounds_that_had_to_be_asked_for_again_do_not_make_a_rollback_late():
    """A client joins at a round number; rounds that were asked for again make numbers run ahead of states."""
    absent = {(number, name) for number in (0, 1) for name in ("silo-0", "silo-1")}
    # Rounds asked for in vain have cost whoever answered: more noise leaves room for them.
    with federation(
        joins={"silo-4": 3}, vanishes=lambda number, name: (number, name) in absent, noise_multiplier=50.0
    ) as federated:
        federated.train()
        uploads = [traffic.uploads for traffic in federated.training_traffic]
        assert uploads == [4, 5, 5, 5, 5, 5], "it took part from the second round on"
        case = federated.deletion(DeletionRequest.whole_client("silo-4"), adaptive=False)
        method = Rollback()
        assert method.checkpoint(case) == 1
        assert isinstance(method.guarantee(case), Exact)
        assert isinstance(Boastful(to=3).guarantee(case), Certified)
