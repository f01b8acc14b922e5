"""Tiny federations: a few silos of random records, a plan for them, and what each privacy unit asks to forget."""

from __future__ import annotations

import numpy as np

from secure_fu.deletion import DeletionRequest
from secure_fu.federation import Federation
from secure_fu.learning import Records, mlp
from secure_fu.planning import make_plan
from secure_fu.privacy import Unit

LOCAL = {"epochs": 1, "batch_size": 4, "learning_rate": 0.1}
RATES = {Unit.RECORD: 0.5, Unit.GROUP: 0.5, Unit.CLIENT: 1.0}


def silos(count=4, size=10, seed=3):
    draw = np.random.default_rng(seed)
    return {
        f"silo-{number}": Records.from_arrays(
            draw.normal(size=(size, 5)), draw.integers(0, 3, size), [f"p{number}-{i // 2}" for i in range(size)]
        )
        for number in range(count)
    }


def plan_for(module, unit=Unit.RECORD, clients=4, rounds=2, minimum=3, **arguments):
    return make_plan(
        module,
        clients=clients,
        nominal_units=clients if unit is Unit.CLIENT else 10 * clients,
        minimum_cohort=minimum,
        unit=unit,
        rounds=rounds,
        sampling_rate=RATES[unit],
        local=LOCAL if unit is Unit.CLIENT else None,
        **{"checkpoint_every": 1, **arguments},
    )


def federation(
    unit=Unit.RECORD,
    *,
    module=None,
    clients=None,
    plan=None,
    scheme_name="plain",
    minimum=3,
    rounds=2,
    **arguments,
):
    module = mlp(5, (), 3, 0) if module is None else module
    own = silos() if clients is None else clients
    made = plan_for(module, unit, len(own), rounds, minimum) if plan is None else plan
    return Federation(module, own, plan=made, scheme_name=scheme_name, **arguments)


REQUESTS = {
    Unit.RECORD: DeletionRequest.some_records("silo-1", (0, 3, 7)),
    Unit.GROUP: DeletionRequest.person("p2-1", "p2-4"),
    Unit.CLIENT: DeletionRequest.whole_client("silo-1"),
}


def digests_of_checkpoints(federated):
    """Of the models after each round of training that the server still has."""
    return [federated.checkpoints.load(rounds).model.digest for rounds in federated.checkpoints.rounds]
