"""Newton in a federation: through headers, policies, the ledger and the main line."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from newton_cast import CLIENTS, SIZE, head_silos

from secure_fu.deletion import DeletionRequest
from secure_fu.errors import MethodRefused, PolicyRefusal
from secure_fu.federation import Federation
from secure_fu.learning import LinearHead, mlp
from secure_fu.planning import make_plan
from secure_fu.privacy import Phase, Subject
from secure_fu.unlearning import Certified, CertifiedModel, Heuristic, Requirement
from secure_fu.unlearning.newton import Newton

REQUEST = DeletionRequest.some_records("client-0", tuple(range(24)))


def head_plan(module, *, noise=6.0, least=2.0, **changes):
    plan = make_plan(
        module,
        clients=CLIENTS,
        nominal_units=CLIENTS * SIZE,
        minimum_cohort=CLIENTS,
        rounds=10,
        branch_rounds=5,
        sampling_rate=1.0,
        learning_rate=0.3,
        clip_norm=1.5,
        weight_decay=0.5,
        noise_multiplier=noise,
        least_noise_multiplier=least,
        checkpoint_every=1,
    )
    return replace(plan, recipe=replace(plan.recipe, **({"saturation": 1.5 * CLIENTS * SIZE} | changes)))


def head_federation(method, module=None, **arguments):
    module = LinearHead(None, inputs=3, classes=3) if module is None else module
    clients = {silo.name: silo.records for silo in head_silos()}
    scheme = arguments.pop("scheme_name", "plain")
    return Federation(module, clients, plan=head_plan(module, **arguments), scheme_name=scheme, methods=(method,))


@pytest.mark.parametrize("scheme", ["plain", "kahe"])
def test_a_certified_deletion_is_executed_and_training_and_deletions_go_on(scheme):
    method = Newton(steps=3, noise_multiplier=3.0, deletions=2)
    with head_federation(method, scheme_name=scheme) as federation:
        federation.train(rounds=6)
        cost = federation.cost(REQUEST, method, adaptive=False)
        assert cost.rounds == 5
        assert isinstance(cost.guarantee, CertifiedModel)
        unlearned = federation.delete(REQUEST, method, require=Requirement(kind=Certified, epsilon=1.0), adaptive=True)
        guarantee = unlearned.guarantee
        assert isinstance(guarantee, CertifiedModel)
        assert 0.0 < guarantee.epsilon <= cost.guarantee.epsilon <= 1.0
        assert guarantee.group_size == 24
        assert len(unlearned.traffic) == 5
        # Forgotten units are in none of its sums, so they pay nothing for it.
        paid = {(entry.subject, entry.phase): entry.value for entry in unlearned.epsilon}
        assert paid[Subject.FORGOTTEN, Phase.UNLEARNING] == 0.0
        assert paid[Subject.RETAINED, Phase.UNLEARNING] > 0.5
        assert np.array_equal(federation.state.model.vector, unlearned.state.model.vector)
        assert federation.state.rounds == 6
        federation.train()
        assert federation.state.rounds == 10
        second = DeletionRequest.some_records("client-2", (1, 5))
        again = federation.delete(second, method, adaptive=True).guarantee
        assert again.group_size == 2
        assert guarantee.epsilon < again.epsilon <= 1.0
        assert "1 certified deletions before" in again.reason


def test_models_that_knew_the_data_do_not_come_back_through_what_clients_remember():
    """What is certified is the published model alone; a later correction would compute on the models of then."""
    method = Newton(steps=3, noise_multiplier=3.0, output_noise=5.0)
    with head_federation(method) as federation:
        federation.train(rounds=6)
        knew = [federation.checkpoints.load(rounds).model.digest for rounds in range(1, 6)]
        remembered = {digest for silo in federation._silos.values() for digest in silo.history.digests}
        assert remembered >= set(knew)
        federation.delete(REQUEST, method, adaptive=True)
        assert federation.checkpoints.rounds == (0, 6)
        left = {digest for silo in federation._silos.values() for digest in silo.history.digests}
        assert left.isdisjoint(knew)


def test_products_travel_with_their_direction():
    method = Newton(steps=1, hessian="products", products=3, noise_multiplier=3.0, output_noise=1e3)
    with head_federation(method) as federation:
        federation.train(rounds=3)
        unlearned = federation.unlearn(REQUEST, method, adaptive=False)
        assert isinstance(unlearned.guarantee, CertifiedModel)
        assert len(unlearned.traffic) == 5


def test_models_that_are_no_head_are_served_without_a_certificate():
    method = Newton(steps=1, products=2, noise_multiplier=3.0)
    with head_federation(method, mlp(3, (4,), 3, 0)) as federation:
        federation.train(rounds=2)
        assert isinstance(federation.unlearn(REQUEST, method, adaptive=False).guarantee, Heuristic)


def test_clients_refuse_less_noise_than_their_policy_allows():
    method = Newton(noise_multiplier=1.9)
    with head_federation(method, least=2.0) as federation:
        federation.train(rounds=2)
        with pytest.raises(PolicyRefusal, match="noise_multiplier"):
            federation.unlearn(REQUEST, method, adaptive=False)


def test_a_sum_of_hessians_of_something_else_is_refused_beforehand():
    method = Newton(hessian="sum")
    with head_federation(method, mlp(3, (4,), 3, 0)) as federation:
        federation.train(rounds=1)
        with pytest.raises(MethodRefused, match="LinearHead"):
            federation.cost(REQUEST, method, adaptive=False)
