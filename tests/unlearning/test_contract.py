"""Every method that is installed, through one and the same contract; a new one is in it as soon as it is registered.

Those of other packages are in it too: install yours beside this repository, and run this file. `SHORT` keeps
runs short.
"""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
from small_federations import REQUESTS, federation, plan_for

from secure_fu.deletion import DeletionBatch, DeletionRequest
from secure_fu.errors import MethodRefused
from secure_fu.federation.costs import predicted_events
from secure_fu.learning import mlp
from secure_fu.privacy import Subject, Unit
from secure_fu.protocol import SecureSums
from secure_fu.unlearning import (
    Baseline,
    Certified,
    Exact,
    Heuristic,
    Outcome,
    UnlearningMethod,
    installed,
    known_methods,
    satisfies,
)

SHORT = {"length": 2, "recovery": 1, "steps": 1, "forgetting": 1}
ROUNDS = 3

BATCH = DeletionBatch((DeletionRequest.some_records("silo-1", (0, 3)), DeletionRequest.some_records("silo-2", (5,))))
CASES = [
    pytest.param(Unit.RECORD, REQUESTS[Unit.RECORD], id="record-records"),
    pytest.param(Unit.RECORD, DeletionRequest.whole_client("silo-1"), id="record-client"),
    pytest.param(Unit.RECORD, DeletionRequest.whole_class(1), id="record-class"),
    pytest.param(Unit.RECORD, DeletionRequest.person("p2-1"), id="record-person"),
    pytest.param(Unit.RECORD, BATCH, id="record-batch"),
    pytest.param(Unit.GROUP, REQUESTS[Unit.GROUP], id="group-persons"),
    pytest.param(Unit.GROUP, DeletionRequest.whole_client("silo-1"), id="group-client"),
    pytest.param(Unit.CLIENT, REQUESTS[Unit.CLIENT], id="client-client"),
    pytest.param(
        Unit.CLIENT,
        DeletionBatch((DeletionRequest.whole_client("silo-0"), DeletionRequest.whole_client("silo-2"))),
        id="client-batch",
    ),
]


def short(kind: type[UnlearningMethod]) -> UnlearningMethod:
    own = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in SHORT.items() if name in own})


@pytest.fixture(params=sorted(known_methods()))
def method(request):
    return short(installed(request.param))


def trained(unit, methods=(), **arguments):
    module = mlp(5, (), 3, 0)
    plan = plan_for(module, unit, rounds=ROUNDS, noise_multiplier=30.0)
    made = federation(unit, module=module, plan=plan, methods=methods, **arguments)
    made.train()
    return made


class Watched:
    """Passes requests on, and keeps them with what was released."""

    def __init__(self, sums: SecureSums) -> None:
        self._sums = sums
        self.asked = []
        self.released = []

    def secure_sum(self, request):
        self.asked.append(request)
        self.released.append(self._sums.secure_sum(request))
        return self.released[-1]


class Replayed:
    """Releases once more what was released before, if it is asked for the same."""

    def __init__(self, watched: Watched) -> None:
        self._left = list(zip(watched.asked, watched.released, strict=True))

    def secure_sum(self, request):
        asked, released = self._left.pop(0)
        assert request.model.digest == asked.model.digest
        assert dataclasses.replace(request, model=asked.model) == asked
        return released


@pytest.mark.parametrize(("unit", "request_"), CASES)
def test_what_a_method_says_beforehand_is_what_comes(method, unit, request_):
    with trained(unit, methods=[method]) as federated:
        deletion = federated.deletion(request_, adaptive=False)
        try:
            method.check(deletion)
        except MethodRefused as refusal:
            before = len(federated.ledger.branches)
            with pytest.raises(MethodRefused):
                federated.unlearn(request_, method, adaptive=False)
            with pytest.raises(MethodRefused):
                federated.cost(request_, method, adaptive=False)
            assert len(federated.ledger.branches) == before, "a refusal costs nothing"
            said = str(refusal)
            assert len(said) > 40, said
            return
        promised = method.guarantee(deletion)
        assert type(promised) in (Exact, Heuristic, Baseline) or isinstance(promised, Certified)
        assert promised.describe().endswith(".")
        cost = federated.cost(request_, method, adaptive=False)
        assert cost.guarantee == promised
        seen = []
        unlearned = federated.unlearn(request_, method, on_round=seen.append, adaptive=False)
        (branch,) = [name for name in federated.ledger.branches if name.startswith(method.purpose)]
        events = list(federated.ledger.events(branch))

        # The guarantee is no weaker than what was promised.
        if isinstance(promised, Certified):
            assert satisfies(unlearned.guarantee, type(promised), epsilon=promised.epsilon)
        else:
            assert unlearned.guarantee == promised

        # Rounds, charges and epsilon are those that were predicted.
        assert len(unlearned.traffic) == len(events) == len(seen) == cost.rounds == method.rounds(deletion)
        for subject in Subject:
            charged = Counter(event.charges[subject] for event in events if event.charges[subject] is not None)
            assert charged == predicted_events(method.plan(deletion), subject, plan=federated.plan, cohort=4)
        assert unlearned.epsilon == unlearned.cost.epsilon == cost.epsilon
        assert cost.rounds <= method.most_rounds(ROUNDS)

        # Uploads do not show who leaves: one size, everybody, every round.
        assert all(entry.uploads == 4 for entry in unlearned.traffic)
        assert all(event.purpose == method.purpose and event.participants == federated.clients for event in events)
        assert unlearned.state.model.dimension == federated.model.dimension
        assert np.isfinite(unlearned.state.model.vector).all()

        figures = unlearned.confidentiality
        forgotten = {
            entry.phase.value: entry.value for entry in unlearned.epsilon if entry.subject is Subject.FORGOTTEN
        }
        assert figures.phase.value == pytest.approx(forgotten["unlearning"])
        assert figures.pair.value == pytest.approx(forgotten["training+unlearning"])
        assert figures.who_asked.value >= 0.0


def test_the_outcome_is_a_function_of_released_sums(method):
    """Run again from the releases alone: the same requests, the same model, no client asked."""
    request = REQUESTS[Unit.RECORD]
    with trained(Unit.RECORD, methods=[method]) as federated:
        deletion = federated.deletion(request, adaptive=False)
        try:
            method.check(deletion)
        except MethodRefused:
            return
        watched = []
        run = method.run

        def watch(sums, case, on_round):
            watched.append(Watched(sums))
            return run(watched[0], case, on_round)

        kind = type(method)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kind, "run", lambda _self, sums, case, on_round: watch(sums, case, on_round))
            first = federated.unlearn(request, method, adaptive=False)
        again = run(Replayed(watched[0]), deletion, lambda _state: None)
        assert isinstance(again, Outcome)
        if not isinstance(again.guarantee, Certified):  # those add output noise of their own
            assert again.state.model.digest == first.state.model.digest
        assert [asked.purpose for asked in watched[0].asked] == [method.purpose] * len(watched[0].asked)


def test_a_client_of_which_nothing_is_forgotten_has_the_same_code_whoever_asks(method):
    """What the others contribute does not depend on the request: they get no mark, and their data stays."""
    with trained(Unit.RECORD, methods=[method]) as federated:
        deletion = federated.deletion(REQUESTS[Unit.RECORD], adaptive=False)
        try:
            method.check(deletion)
        except MethodRefused:
            return
        before = {name: federated._silos[name].records.features for name in federated.clients}
        federated.delete(REQUESTS[Unit.RECORD], method, adaptive=True)
        for name in ("silo-0", "silo-2", "silo-3"):
            own = federated._silos[name]
            assert own.records.features.equal(before[name])
            assert not own.forgotten.any()
        left = federated._silos["silo-1"].records
        kept = [index for index in range(10) if index not in (0, 3, 7)]
        assert left.features.equal(before["silo-1"][kept])


def test_methods_are_named_once_and_have_titles():
    kinds = {name: installed(name) for name in known_methods()}
    assert len({kind.title for kind in kinds.values()}) == len(kinds)
    assert all(name == kind.name and kind.__doc__ for name, kind in kinds.items())
