"""Shadow runs: what flows where, the same in any number of processes, and no process left behind."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from shadow_laws import CLIENTS, MODULE, shadow
from small_federations import plan_for

from secure_fu.audit.deletion import NOTHING, Part
from secure_fu.auditor.shadow import run_pool
from secure_fu.auditor.shadow.cast import ShadowCast, choose_targets, seed_of
from secure_fu.auditor.shadow.one_run import Runner
from secure_fu.auditor.shadow.runs import RETRAINED, deletion_runs
from secure_fu.config_file import load_preset, with_overrides
from secure_fu.errors import ArgumentError, CohortTooSmall, NonFiniteError, SecureFUError
from secure_fu.learning import Records
from secure_fu.privacy import Unit
from secure_fu.unlearning import FineTune, Negation, Retrain, Scratch

METHODS = (Retrain(), FineTune(length=1), Negation(layer=3), Scratch(length=1))
SMALL = ShadowCast.of(
    with_overrides(
        load_preset("digits-silos"),
        [
            "training.rounds=4",
            "deletion.joined_at=2",
            "training.checkpoint_every=1",
            "data.records=400",
            'unlearning.methods=["rollback","finetune","negation"]',
            "unlearning.settings.finetune.length=1",
            "unlearning.settings.negation.layer=7",
        ],
    )
)


def cast(unit=Unit.RECORD, clients=CLIENTS, **changes):
    arguments = {
        "module": MODULE,
        "clients": clients,
        "test": CLIENTS["silo-0"],
        "plan": plan_for(MODULE, unit, rounds=3),
        "methods": METHODS,
    }
    return ShadowCast(**{**arguments, **changes})


def test_runs_have_what_an_audit_asks_for():
    told = []
    made = deletion_runs(cast(), runs=4, seed=1, progress=lambda done, runs: told.append((done, runs)))
    runs = made.runs
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert runs.runs == 4
    assert runs.forgotten == 12
    assert set(runs.after) == {NOTHING, RETRAINED, "finetune", "scratch"}
    assert set(made.refused) == {"negation"}
    assert "layer 3" in made.refused["negation"]
    models = np.concatenate(
        [runs.before, runs.retrained, *(runs.after[name] for name in runs.after if name != NOTHING)]
    )
    assert len({model.tobytes() for model in models}) == len(models)  # fresh noise everywhere
    assert np.array_equal(runs.after[NOTHING], runs.before)
    assert len(runs.others) == 40 - 36
    assert 0.0 < made.fullest < 1.0


def test_the_retrained_are_the_law_of_their_parts():
    """A run is the shadow federation of who is there, told to forget whom it forgets."""
    own = cast()
    targets = choose_targets(own, count=12, seed=1)
    parts = targets.parts(1, seed=1)[0]
    run = Runner(own, targets, seed=1).run(0, parts)
    assert run.before.dtype == np.float32
    assert set(run.after) == {RETRAINED, "finetune", "scratch"}
    # Written again: without the never, with a mark on the forgotten.
    there, marks = {}, {}
    for name, records in CLIENTS.items():
        role = np.zeros(len(records), dtype=int)
        for unit, (client, place) in enumerate(zip(targets.clients, targets.positions, strict=True)):
            if client == name:
                role[place] = parts[unit]
        assert [int((role == part).sum()) for part in (Part.FORGOTTEN, Part.NEVER)] == [1, 1]
        there[name] = records.subset(role != Part.NEVER)
        marks[name] = (role == Part.FORGOTTEN)[role != Part.NEVER]
    again = shadow(seed_of("run/1/0"), clients=there, plan=own.plan)
    assert np.array_equal(again.train().model.vector, run.before)
    assert np.array_equal(again.unlearn(marks, Retrain()).model.vector, run.retrained)
    assert np.array_equal(again.unlearn(marks, Retrain()).model.vector, run.after[RETRAINED])
    assert np.array_equal(again.unlearn(marks, FineTune(length=1)).model.vector, run.after["finetune"])


def with_other_records(targets, chosen):
    """The clients, with other content in the records of these units."""
    marks = targets.marks(CLIENTS, chosen)
    changed = {}
    for name, records in CLIENTS.items():
        features = records.features.clone()
        features[torch.from_numpy(marks[name])] += 3.0
        changed[name] = Records(features, records.labels, records.groups)
    return changed


@pytest.mark.parametrize(
    ("part", "moves"),
    [(Part.NEVER, ()), (Part.FORGOTTEN, ("before", "finetune")), (Part.RETAINED, ("before", "retrained", "finetune"))],
)
def test_who_moves_which_model(part, moves):
    own = cast()
    targets = choose_targets(own, count=12, seed=3)
    parts = targets.parts(1, seed=3)[0]
    found = []
    for clients in (CLIENTS, with_other_records(targets, parts == part)):
        run = Runner(replace(own, clients=clients), targets, seed=3).run(0, parts)
        found.append({"before": run.before, "retrained": run.retrained, **run.after})
    for name, vector in found[0].items():
        expected = name in moves or (name in (RETRAINED, "scratch") and "retrained" in moves)
        assert np.array_equal(vector, found[1][name]) is not expected, name


@pytest.mark.parametrize("unit", [Unit.GROUP, Unit.CLIENT])
def test_runs_of_other_units(unit):
    made = deletion_runs(cast(unit, methods=(FineTune(length=1),)), runs=3, seed=1)
    assert made.refused == {}
    sizes = np.bincount(made.runs.units)
    assert set(sizes.tolist()) == ({2} if unit is Unit.GROUP else {10})
    assert made.runs.unit_count == (12 if unit is Unit.GROUP else 3)


def test_accidents_are_simulated():
    careful = deletion_runs(cast(methods=()), runs=3, seed=1)
    dropping = deletion_runs(cast(methods=(), dropout=0.1), runs=3, seed=1)
    assert not np.array_equal(careful.runs.before, dropping.runs.before)
    with pytest.raises(CohortTooSmall):
        deletion_runs(cast(methods=(), dropout=0.95), runs=3, seed=1)


def test_a_seed_decides_and_global_generators_are_left_alone():
    torch.manual_seed(4)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    first, again, other = (deletion_runs(cast(methods=()), runs=3, seed=seed).runs for seed in (1, 1, 2))
    assert np.array_equal(first.before, again.before)
    assert np.array_equal(first.parts, again.parts)
    assert not np.array_equal(first.before, other.before)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_a_training_that_diverges_is_said():
    plan = plan_for(MODULE, rounds=3)
    diverging = replace(plan, recipe=replace(plan.recipe, learning_rate=1e42))
    with pytest.raises(NonFiniteError, match="diverged"):
        deletion_runs(cast(plan=diverging), runs=3, seed=1)


def test_bad_arguments():
    with pytest.raises(ArgumentError, match="runs"):
        deletion_runs(cast(), runs=2, seed=1)
    with pytest.raises(ArgumentError, match="processes"):
        deletion_runs(cast(), runs=3, seed=1, processes=-1)
    with pytest.raises(ArgumentError, match="as a configuration made it"):
        deletion_runs(cast(), runs=3, seed=1, processes=2)


# Processes


@pytest.fixture
def workers(monkeypatch):
    """The worker processes that a test starts."""
    started = []
    start = run_pool._start

    def keep():
        started.append(start())
        return started[-1]

    monkeypatch.setattr(run_pool, "_start", keep)
    yield started
    for worker in started:
        worker.kill()
        worker.wait()


def test_processes_give_the_same_models(workers):
    here = deletion_runs(SMALL, runs=3, seed=1)
    there = deletion_runs(SMALL, runs=3, seed=1, processes=2)
    assert len(workers) == 2
    assert all(worker.poll() is not None for worker in workers)
    assert set(here.runs.after) == set(there.runs.after) == {NOTHING, RETRAINED, "rollback", "finetune"}
    assert np.array_equal(here.runs.before, there.runs.before)
    assert np.array_equal(here.runs.retrained, there.runs.retrained)
    for name, vectors in here.runs.after.items():
        assert np.array_equal(vectors, there.runs.after[name]), name
    assert here.refused == there.refused
    assert "layer 7" in there.refused["negation"]
    assert here.fullest == there.fullest


def test_an_interrupt_ends_the_processes(workers):
    def interrupt(_done, _runs):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deletion_runs(SMALL, runs=50, seed=1, processes=1, progress=interrupt)
    assert [worker.poll() is not None for worker in workers] == [True]


def test_a_process_that_dies_is_said(workers):
    def kill(_done, _runs):
        workers[0].kill()

    with pytest.raises(SecureFUError, match="ended early"):
        deletion_runs(SMALL, runs=50, seed=1, processes=1, progress=kill)
