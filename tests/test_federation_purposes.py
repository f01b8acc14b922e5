"""What an interrupted run is told by: the same request by the same method, in this version and in the next."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, make_dataclass, replace

import pytest
from small_federations import REQUESTS, federation, plan_for, silos

from secure_fu.deletion import DeletionBatch, DeletionRequest
from secure_fu.errors import ProtocolError
from secure_fu.federation import Federation
from secure_fu.federation.purposes import Purpose
from secure_fu.learning import mlp
from secure_fu.privacy import Unit
from secure_fu.unlearning import FineTune, Newton, Retrain, Scrub

REQUEST = REQUESTS[Unit.RECORD]
METHOD = FineTune(length=2)
PURPOSE = Purpose(
    request=REQUEST, method=METHOD, adaptive=True, execute=False, branch="original", last_round=3, model=bytes(32)
)


def test_it_is_a_digest_of_canonical_json():
    said = (
        '{"adaptive":true,"branch":"original","execute":false,"last_round":3,"method":"finetune",'
        f'"model":"{"00" * 32}",'
        '"request":{"client":"silo-1","records":[0,3,7],"scope":"records"},"settings":{"length":2}}'
    )
    assert PURPOSE.line == f"secure-fu/purpose/2 {hashlib.sha256(said.encode()).hexdigest()}"


@pytest.mark.parametrize(
    "changes",
    [
        {"request": REQUESTS[Unit.CLIENT]},
        {"request": DeletionRequest.some_records("silo-1", (0, 3))},
        {"request": DeletionBatch((REQUEST,))},
        {"method": FineTune(length=3)},
        {"method": FineTune()},
        {"method": Retrain()},
        {"adaptive": False},
        {"execute": True},
        {"branch": "unlearn/finetune"},
        {"last_round": 4},
        {"model": bytes(31) + b"\1"},
    ],
)
def test_anything_else_is_another_purpose(changes):
    other = replace(PURPOSE, **changes)
    assert other.line != PURPOSE.line
    assert not PURPOSE.is_written_as(other.line)


def test_settings_of_every_kind_are_told_apart():
    lines = {
        replace(PURPOSE, method=method).line
        for method in (Scrub(), Scrub(sharpness=math.inf), Newton(), Newton(hessian="sum"), Newton(deletions=2))
    }
    assert len(lines) == 5


def test_a_field_of_a_later_version_makes_it_no_other_run():
    @dataclass(frozen=True, kw_only=True)
    class Later(FineTune):
        warm_up: bool = False

    words = [("note", str, "")]
    later = make_dataclass("DeletionRequest", words, bases=(DeletionRequest,), frozen=True, kw_only=True)
    request = later(scope=REQUEST.scope, client=REQUEST.client, records=REQUEST.records)
    for other in (replace(PURPOSE, method=Later(length=2)), replace(PURPOSE, request=request)):
        assert other.line == PURPOSE.line
        # What was done before would have begun again, and charged again.
        assert repr((other.request, other.method)) != repr((PURPOSE.request, PURPOSE.method))
    assert replace(PURPOSE, method=Later(length=2, warm_up=True)).line != PURPOSE.line


def made(directory):
    plan = plan_for(mlp(5, (), 3, 0), branch_rounds=8)
    return federation(plan=plan, directory=directory, resumable=True)


def interrupted(directory, request=REQUEST):
    with made(directory) as federated:
        federated.train()

        def stop(_state):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            federated.unlearn(request, METHOD, adaptive=True, on_round=stop)
        state = federated.state
    return directory / "releases" / "unlearn-finetune" / "purpose.txt", state


def said_before(state, method=METHOD, execute=False):
    """The line as the former version wrote it."""
    said = (REQUEST, method, True, execute, "original", state.last_round, state.model.digest.hex())
    return hashlib.sha256(repr(said).encode()).hexdigest()


def opened(directory):
    return Federation.open(directory, mlp(5, (), 3, 0), silos())


def ask_again(directory):
    """How many rounds the branch has, and which branches there are, after the same was asked again."""
    with opened(directory) as federated:
        federated.unlearn(REQUEST, METHOD, adaptive=True)
        events = list(federated.ledger.events())
        return len([event for event in events if event.branch.startswith("unlearn")]), len(federated.ledger.branches)


def test_an_interrupted_run_is_gone_on_with(tmp_path):
    path, _ = interrupted(tmp_path)
    assert path.read_text().startswith("secure-fu/purpose/2 ")
    assert ask_again(tmp_path) == (2, 2)


def test_one_of_the_former_version_is_gone_on_with_too(tmp_path):
    path, state = interrupted(tmp_path)
    path.write_text(said_before(state))
    assert ask_again(tmp_path) == (2, 2)


@pytest.mark.parametrize("line", ["0" * 64, "", "secure-fu/purpose/2 " + "0" * 64])
def test_what_was_begun_for_something_else_is_left_alone(tmp_path, line):
    path, _ = interrupted(tmp_path)
    path.write_text(line)
    assert ask_again(tmp_path) == (3, 3), "a branch of its own, charged for its own two rounds"


def test_a_default_that_has_changed_since_is_refused_and_not_charged(tmp_path, monkeypatch):
    """A default does not stand in the line; that it was another one then is told by what was asked."""
    with made(tmp_path) as federated:
        federated.train()

        def stop(_state):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            federated.unlearn(REQUEST, Scrub(), adaptive=True, on_round=stop)
    with opened(tmp_path) as federated:
        events = len(list(federated.ledger.events()))
        monkeypatch.setattr(Scrub, "forgotten_rate", lambda _self, _recipe: 0.55)
        with pytest.raises(ProtocolError, match="differs from round"):
            federated.unlearn(REQUEST, Scrub(), adaptive=True)
        assert len(list(federated.ledger.events())) == events
