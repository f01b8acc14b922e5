"""Worker processes change when the work is done, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from secure_fu import Federation, make_plan
from secure_fu.crypto import InsecureDeterministicRandomness
from secure_fu.errors import LedgerError
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
            scheme_name="bfv",
            encryption_processes=processes,
            randomness=InsecureDeterministicRandomness(7),
        ) as federation:
            models.append(federation.train().model.vector)
            assert [entry.uploads for entry in federation.training_traffic] == [4, 4, 4]
    np.testing.assert_array_equal(models[0], models[1])


def test_a_directory_in_use_starts_no_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = digits(seed=0).train
    clients = {f"silo-{n}": data.subset(part) for n, part in enumerate(iid(data, 3, 0))}
    module = logistic(64, 10, seed=0)
    plan = make_plan(module, clients=3, nominal_units=len(data), minimum_cohort=3, rounds=1)
    Federation(module, clients, plan=plan, scheme_name="plain", directory=tmp_path).close()
    started = []
    monkeypatch.setattr("secure_fu.federation.parties.EncryptionPool", lambda *arguments: started.append(arguments))
    with pytest.raises(LedgerError, match="exists"):
        Federation(module, clients, plan=plan, scheme_name="bfv", directory=tmp_path, encryption_processes=2)
    assert started == []
