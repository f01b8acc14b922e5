"""Federations that cannot be made: each is refused by name, before anything is written or travels."""

from __future__ import annotations

import pytest
from small_federations import federation, plan_for, silos

from secure_fu.errors import ArgumentError, DataError, SecureFUError
from secure_fu.learning import Records, mlp
from secure_fu.planning import make_plan
from secure_fu.privacy import Unit


@pytest.mark.parametrize("name", ["server", "key-holder"])
def test_clients_may_not_be_called_as_the_other_parties(name):
    with pytest.raises(ArgumentError, match=name):
        federation(clients={**silos(3), name: silos(1)["silo-0"]})


def test_the_client_unit_needs_to_know_how_clients_train():
    module = mlp(5, (), 3, 0)
    plan = make_plan(
        module, clients=4, nominal_units=4, minimum_cohort=3, unit=Unit.CLIENT, rounds=2, sampling_rate=1.0
    )
    with pytest.raises(ArgumentError, match="batch_size, epochs, learning_rate"):
        federation(Unit.CLIENT, plan=plan)


@pytest.mark.parametrize("arguments", [{"joins": {"silo-0": 1, "silo-1": 1}}, {"clients": silos(2)}])
def test_fewer_clients_than_the_minimum_cohort_are_refused_at_once(tmp_path, arguments):
    with pytest.raises(ArgumentError, match="minimum_cohort is 3; expected at most 2"):
        federation(directory=tmp_path, plan=plan_for(mlp(5, (), 3, 0)), **arguments)
    assert list(tmp_path.iterdir()) == []


def test_arguments_out_of_their_domain_are_refused_by_name(tmp_path):
    empty = silos()["silo-0"].subset(slice(0))
    for number, (arguments, named) in enumerate(
        (
            ({"joins": {"nobody": 1}}, "joins"),
            ({"clients": {**silos(), "empty": empty}}, "empty"),
            ({"scheme_name": "none"}, "plain"),
        )
    ):
        directory = tmp_path / str(number)
        directory.mkdir()
        with pytest.raises(ArgumentError, match=named):
            federation(directory=directory, **arguments)
        assert list(directory.iterdir()) == []
    with pytest.raises(SecureFUError, match="nobody home"):
        federation(clients={**silos(), "nobody home": silos()["silo-0"]}, directory=tmp_path)


def test_records_that_the_module_cannot_take_are_refused_before_anything_travels(tmp_path):
    """Inside a round such a client would send noise alone, and nobody would know."""
    own = silos()
    wide = Records(own["silo-1"].features.repeat(1, 2), own["silo-1"].labels, own["silo-1"].groups)
    strange = Records(own["silo-2"].features, own["silo-2"].labels + 3, own["silo-2"].groups)
    for name, records in (("silo-1", wide), ("silo-2", strange)):
        with pytest.raises(DataError, match=f"records of client '{name}'"):
            federation(clients={**silos(), name: records}, directory=tmp_path)
    with pytest.raises(ArgumentError, match=r"committee is .*; expected a CommitteeTerms"):
        federation(committee=(5, 3, 4, 1), scheme_name="kahe", directory=tmp_path)
    assert list(tmp_path.iterdir()) == []
