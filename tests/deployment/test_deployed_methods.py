"""Every method of the package, with every party on a node of its own: it comes to what one process comes to."""

from __future__ import annotations

import numpy as np
import pytest
from deployed import METHOD_LIST, RECORDS, SEED, check_transcript, gone, module, shown
from deployment_cast import SMALL
from small_federations import plan_for, silos

from secure_fu.crypto import InsecureDeterministicRandomness
from secure_fu.federation import Federation
from secure_fu.unlearning import METHODS, settings_of

ROUNDS, BRANCH_ROUNDS = 2, 16
# Shorter than by default, where a method lets one choose.
SHORT = {"length": 2, "steps": 1}


def short(kind):
    return kind(**{name: value for name, value in SHORT.items() if name in settings_of(kind())})


def in_one_process(scheme_name, method):
    with Federation(
        module(),
        silos(),
        plan=plan_for(module(), rounds=ROUNDS, branch_rounds=BRANCH_ROUNDS),
        scheme_name=scheme_name,
        committee=SMALL,
        randomness=InsecureDeterministicRandomness(SEED),
        methods=tuple(method if type(method) is type(other) else other for other in METHOD_LIST),
    ) as federated:
        federated.train()
        before = shown(federated.state)
        federated.delete(RECORDS, method, adaptive=False)
        (entry,) = federated.executed
        return before, shown(federated.state), entry.guarantee


@pytest.mark.parametrize("scheme_name", ["kahe", "bfv"])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_comes_to_what_one_process_comes_to(deploy, name, scheme_name):
    method = short(METHODS[name])
    methods = tuple(method if type(method) is type(other) else other for other in METHOD_LIST)
    made = deploy(scheme_name, rounds=ROUNDS, branch_rounds=BRANCH_ROUNDS, deterministic=True, methods=methods)
    made.server.train()
    before = shown(made.server.state)
    execution = made.server.delete(made.batch(made.request(RECORDS, "silo-1", 3)), method, adaptive=False)
    assert (execution.method, execution.missing) == (name, ())
    (entry,) = made.server.executed
    assert (before, shown(made.server.state), entry.guarantee) == in_one_process(scheme_name, method)
    assert shown(made.server.state) != before
    assert np.isfinite(made.server.state.model.vector).all()
    assert gone(made, "silo-1") == (0, 3, 7)
    assert check_transcript(made) == 0
