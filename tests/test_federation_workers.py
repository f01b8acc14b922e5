"""Worker processes change when the work is done, and nothing else."""

from __future__ import annotations

import numpy as np

from secure_fu import Federation, make_plan
from secure_fu.crypto import InsecureDeterministicRandomness
from secure_fu.learning import digits, iid, logistic


def test_models_are_the_same_with_and_without_workers() -> None:
    data = digits(seed=0).train
    clients = {f"silo-{n}": data.subset(part) for n, part in enumerate(iid(data, 4, 0))}
    module = logistic(64, 10, seed=0)
    plan = make_plan(module, clients=4, nominal_units=len(data), minimum_cohort=3, rounds=3)
    models = []
    for processes in (0, 2):
        with Federation(
            module,
            clients,
            plan=plan,
            encryption_processes=processes,
            randomness=InsecureDeterministicRandomness(7),
        ) as federation:
            models.append(federation.train().model.vector)
            assert [entry.uploads for entry in federation.training_traffic] == [4, 4, 4]
    np.testing.assert_array_equal(models[0], models[1])
