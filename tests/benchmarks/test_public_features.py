"""The head on public features: its silos, its plan, and that `newton` can be certified on it."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import public_features as shared
import pytest
import torch
from comparison import cells
from comparison.tasks import SCAN_SEED, tasks

from secure_fu.federation import Federation
from secure_fu.learning import Records
from secure_fu.unlearning.newton import Newton
from secure_fu.unlearning.residuals import obstacle_to_bound

(TASK,) = [task for task in tasks(quick=False) if task.head]
PUBLIC, PRIVATE = 60, 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """IDX files of random images."""
    draw = np.random.default_rng(0)
    for part, count in (("train", PUBLIC + PRIVATE), ("t10k", 20)):
        labels = np.arange(count, dtype=np.uint8) % shared.CLASSES
        images = draw.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        for name, values in (("images-idx3", images), ("labels-idx1", labels)):
            head = struct.pack(f">4B{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
            (tmp_path / f"{part}-{name}-ubyte").write_bytes(head + values.tobytes())
    return tmp_path


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> shared.PublicFeatures:
    """Features around one direction a class, in place of MNIST's."""

    def records(count: int, seed: int) -> Records:
        draw = np.random.default_rng(seed)
        labels = draw.integers(0, shared.CLASSES, count)
        directions = np.random.default_rng(0).normal(size=(shared.CLASSES, shared.FEATURES))
        return Records.from_arrays(directions[labels] + 0.3 * draw.normal(size=(count, shared.FEATURES)), labels)

    found = shared.PublicFeatures(private=records(2000, 1), test=records(200, 2), public_accuracy=0.0)
    monkeypatch.setattr("comparison.tasks.public_features", lambda _folder: found)
    return found


def prepared():
    job = {"task": TASK.name, "seed": SCAN_SEED, "quick": False, "data": "somewhere", "scheme": "plain"}
    return cells._prepared(job, "records-1")


def test_features_are_made_once_of_records_that_are_not_public(folder, monkeypatch):
    monkeypatch.setattr(shared, "_PUBLIC", PUBLIC)
    state = torch.random.get_rng_state()
    found = shared.public_features(folder, epochs=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (len(found.private), len(found.test)) == (PRIVATE, 20)
    assert found.private.shape == (shared.FEATURES,)
    torch.testing.assert_close(found.private.features.norm(dim=1), torch.full((PRIVATE,), 3.0))
    monkeypatch.setattr(shared, "_public_network", None)  # cannot be trained again
    assert shared.public_features(folder, epochs=1) is found


def test_silos_are_equal_and_part_the_records(made_up):
    silos = shared.equal_silos(made_up.private, 3)
    assert {len(records) for records in silos.values()} == {len(made_up.private) // shared.SILOS}
    together = torch.cat([records.features for records in silos.values()])
    assert torch.equal(together.sort(dim=0).values, made_up.private.features.sort(dim=0).values)
    others = shared.equal_silos(made_up.private, 4)
    assert not torch.equal(silos["silo-0"].features, others["silo-0"].features)


def test_newtons_rounds_cost_what_retrainings_cost(made_up):
    _, _, cast, plan = prepared()
    assert len(cast.forgotten) == 20
    (newton,) = [method for method in cells.methods_of(TASK) if isinstance(method, Newton)]
    assert newton.steps == shared.STEPS
    assert newton.noise_multiplier == pytest.approx(shared.newton_noise(plan), rel=1e-3)
    assert plan.least_noise_multiplier <= newton.noise_multiplier
    # By the law of zero-concentrated privacy: rounds over the square of the noise.
    assert (newton.steps + 2) / newton.noise_multiplier**2 == pytest.approx(
        plan.recipe.rounds / plan.recipe.noise_multiplier**2, rel=2e-3
    )


def test_nothing_stands_in_the_way_of_a_certificate(made_up):
    _, _, cast, plan = prepared()
    clipped = replace(plan, recipe=replace(plan.recipe, saturation=2.0))
    found = []
    for variant in (plan, clipped):
        with Federation(
            cast.scenario.module, cast.clients, plan=variant, scheme_name="plain", keep_history=False
        ) as federation:
            federation.train(rounds=1)
            found.append(obstacle_to_bound(federation.deletion(cast.request, adaptive=False)))
    assert found[0] is None
    assert "saturation" in found[1]


def test_without_data_it_says_what_it_needs():
    with pytest.raises(ValueError, match="four IDX files"):
        cells.cast_of(TASK, TASK.config(0), "records-1", None)
