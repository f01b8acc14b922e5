"""At reduced size on real digits: what forgets, forgets a backdoor; what does not, does not."""

from __future__ import annotations

import numpy as np
import pytest
from unlearning_cast import digit_silos

from secure_fu.crypto import InsecureDeterministicRandomness
from secure_fu.deletion import DeletionRequest
from secure_fu.federation import Federation
from secure_fu.learning import accuracy
from secure_fu.planning import make_plan
from secure_fu.unlearning import Correction, FineTune, Retrain, Rollback, Scrub

SEED = 2


@pytest.fixture(scope="module")
def trained():
    """Five silos, forty rounds; the last silo joins at twenty and all of its records carry the trigger.

    A larger budget than a real one: with few rounds and silos the noise would drown what is to be seen. Noise follows a
    seed, so that the outcome is the same each time.
    """
    clients, test, trigger, module = digit_silos(5)
    plan = make_plan(
        module,
        clients=5,
        nominal_units=sum(map(len, clients.values())),
        minimum_cohort=4,
        colluders=0,
        epsilon=16.0,
        rounds=40,
        sampling_rate=0.4,
        learning_rate=1.5,
        momentum=0.5,
    )
    with Federation(
        module,
        clients,
        plan=plan,
        scheme_name="plain",
        joins={"silo-4": 20},
        randomness=InsecureDeterministicRandomness(SEED),
    ) as federated:
        federated.train()

        def measure(state):
            vector = state.model.vector.astype(np.float64)
            return (
                accuracy(federated.model, vector, test),
                trigger.success_rate(federated.model, vector, test),
            )

        yield federated, measure


def outcome(trained, method):
    federated, measure = trained
    return measure(federated.unlearn(DeletionRequest.whole_client("silo-4"), method, adaptive=False).state)


def test_the_original_has_learnt_the_digits_and_the_backdoor(trained):
    federated, measure = trained
    right, backdoor = measure(federated.state)
    assert right > 0.8
    assert backdoor > 0.7


@pytest.mark.parametrize("method", [Retrain(), Rollback()], ids=lambda method: method.name)
def test_exact_methods_have_no_backdoor(trained, method):
    right, backdoor = outcome(trained, method)
    assert right > 0.8
    assert backdoor < 0.1


@pytest.mark.parametrize("method", [Scrub(), Correction()], ids=lambda method: method.name)
def test_heuristics_take_it_out_and_keep_the_digits(trained, method):
    right, backdoor = outcome(trained, method)
    assert right > 0.75
    assert backdoor < 0.1


def test_training_on_without_the_data_leaves_it_in(trained):
    right, backdoor = outcome(trained, FineTune())
    assert right > 0.8
    assert backdoor > 0.3
