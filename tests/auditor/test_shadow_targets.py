"""Who is forgotten in shadow runs: a third of the targets, while another third was never there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from shadow_laws import CLIENTS, MODULE
from small_federations import plan_for

from secure_fu.audit.deletion import Part
from secure_fu.auditor.shadow.cast import ShadowCast, TargetKind, Targets, choose_targets
from secure_fu.config_file import load_preset, with_overrides
from secure_fu.errors import ArgumentError
from secure_fu.privacy import Unit
from secure_fu.unlearning import FineTune, Retrain, Rollback


def cast(unit=Unit.RECORD, **changes):
    arguments = {
        "module": MODULE,
        "clients": CLIENTS,
        "test": CLIENTS["silo-0"],
        "plan": plan_for(MODULE, unit),
        "methods": (FineTune(length=1),),
    }
    return ShadowCast(**{**arguments, **changes})


def held(targets, name):
    return [own.tolist() for client, own in zip(targets.clients, targets.positions, strict=True) if client == name]


def test_records_are_spread_over_the_clients_in_thirds():
    targets = choose_targets(cast(), count=24, seed=1)
    assert len(targets) == 24
    assert [len(held(targets, name)) for name in CLIENTS] == [6, 6, 6, 6]
    parts = targets.parts(50, seed=2)
    for name in CLIENTS:
        own = parts[:, [client == name for client in targets.clients]]
        assert all((own == part).sum(axis=1).tolist() == [2] * 50 for part in Part)
    assert len({row.tobytes() for row in parts}) > 45
    assert np.array_equal(parts, targets.parts(50, seed=2))
    assert not np.array_equal(parts, targets.parts(50, seed=3))
    # Each unit is everything once in a while: an eighteenth of the runs would be far from a third.
    assert all(((parts == part).mean(axis=0) > 1 / 9).all() for part in Part)


def test_every_client_keeps_a_record():
    targets = choose_targets(cast(), seed=1)
    assert [len(held(targets, name)) for name in CLIENTS] == [9, 9, 9, 9]
    with pytest.raises(ArgumentError, match="3 to 36"):
        choose_targets(cast(), count=39, seed=1)
    assert len(choose_targets(cast(), count=5, clients=["silo-2"], seed=1)) == 3


def test_targets_join_when_those_of_the_request_do():
    late = cast(joins={"silo-3": 1}, leaving=("silo-3",))
    assert set(choose_targets(late, count=3, seed=1).clients) == {"silo-3"}
    early = cast(joins={"silo-3": 1}, leaving=("silo-1",))
    assert set(choose_targets(early, count=27, seed=1).clients) == {"silo-0", "silo-1", "silo-2"}
    assert set(choose_targets(late, count=6, clients=("silo-0", "silo-3"), seed=1).clients) == {"silo-0", "silo-3"}


def test_persons_are_whole_under_the_group_unit():
    targets = choose_targets(cast(Unit.GROUP), count=12, seed=1)
    for name, own in zip(targets.clients, targets.positions, strict=True):
        groups = CLIENTS[name].groups
        assert len(set(groups[own])) == 1
        assert (groups == groups[own[0]]).sum() == len(own) == 2


def test_clients_are_targets_as_a_whole():
    own = cast(Unit.CLIENT, leaving=("silo-2",))
    targets = choose_targets(own, seed=1)
    assert len(targets) == 3
    assert "silo-2" in targets.clients
    assert targets.positions[0].tolist() == list(range(10))
    assert (np.sort(targets.parts(9, seed=1), axis=1) == [0, 1, 2]).all()
    assert choose_targets(cast(), kind=TargetKind.CLIENTS, seed=1).strata.tolist() == [0, 0, 0]
    with pytest.raises(ArgumentError, match="count"):
        choose_targets(own, count=6, seed=1)
    with pytest.raises(ArgumentError, match="kind"):
        choose_targets(own, kind=TargetKind.RECORDS, seed=1)
    with pytest.raises(ArgumentError, match="nobody"):
        choose_targets(own, clients=["nobody"], seed=1)


def test_records_of_units_and_of_others():
    targets = Targets(
        clients=("silo-0", "silo-2", "silo-0"),
        positions=(np.array([1, 4]), np.array([0]), np.array([7])),
        strata=np.zeros(3, dtype=np.int64),
    )
    records, units = targets.records(CLIENTS)
    assert units.tolist() == [0, 0, 1, 2]
    expected = [CLIENTS["silo-0"].features[[1, 4]], CLIENTS["silo-2"].features[[0]], CLIENTS["silo-0"].features[[7]]]
    assert torch.equal(records.features, torch.cat(expected))
    others = targets.others(CLIENTS)
    assert len(others) == 40 - 4
    rows = {row.numpy().tobytes() for row in records.features}
    assert not rows & {row.numpy().tobytes() for row in others.features}
    chosen = targets.marks(CLIENTS, np.array([True, False, False]))
    assert {name: np.flatnonzero(mask).tolist() for name, mask in chosen.items() if mask.any()} == {"silo-0": [1, 4]}
    whole = Targets(clients=tuple(CLIENTS)[:3], positions=(np.arange(10),) * 3, strata=np.zeros(3, dtype=np.int64))
    assert len(whole.others(CLIENTS)) == 10
    assert whole.others({name: CLIENTS[name] for name in whole.clients}) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clients": ("silo-0",)}, "positions or strata"),
        ({"positions": (np.array([1]), np.array([], dtype=np.int64), np.array([2]))}, "without records"),
        ({"strata": np.array([0, 0, 1])}, "multiples of 3"),
        ({"positions": (np.array([1]), np.array([1]), np.array([2]))}, "two units"),
    ],
)
def test_bad_targets(change, message):
    good = {
        "clients": ("silo-0",) * 3,
        "positions": (np.array([1]), np.array([3]), np.array([2])),
        "strata": np.zeros(3, dtype=np.int64),
    }
    Targets(**good)
    with pytest.raises(ArgumentError, match=message):
        Targets(**{**good, **change})


def test_a_cast_of_a_configuration_has_no_trigger_unless_asked():
    config = load_preset("digits-silos")
    plain, poisoned = ShadowCast.of(config), ShadowCast.of(config, backdoor=True)
    assert plain.leaving == ("silo-09",)
    assert plain.joins == {"silo-09": 60}
    assert not (plain.clients["silo-09"].labels == 0).all()
    assert (poisoned.clients["silo-09"].labels == 0).all()
    assert torch.equal(plain.clients["silo-00"].features, poisoned.clients["silo-00"].features)
    assert plain.plan == poisoned.plan
    assert [method.name for method in plain.methods] == list(config.unlearning.methods)
    targets = choose_targets(plain, seed=0)
    assert set(targets.clients) == {"silo-09"}
    assert len(targets) == 120
    settled = ShadowCast.of(with_overrides(config, ["unlearning.settings.rollback.forget_epsilon=2"]))
    assert Rollback(forget_epsilon=2.0) in settled.methods
    # What was changed since cannot be made again of the configuration.
    assert plain.config is config
    assert replace(plain, methods=(Retrain(), FineTune())).config is None


def test_bad_casts():
    with pytest.raises(ArgumentError, match="repeats"):
        cast(methods=(FineTune(), FineTune(length=3)))
    with pytest.raises(ArgumentError, match="joins or leaving"):
        cast(leaving=("nobody",))
    with pytest.raises(ArgumentError, match="dropout"):
        cast(dropout=1.0)
    assert [method.name for method in cast(methods=(Retrain(), FineTune())).audited] == ["finetune"]
