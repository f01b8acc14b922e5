"""How many windows a budget holds is what founding says, and cover that it does not hold is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from operations_cast import TERMS

from secure_fu.crypto import Identity, Role, Roster
from secure_fu.deployment.founding.bundle import found
from secure_fu.deployment.founding.terms import read_terms
from secure_fu.deployment.founding.windows_held import FEW_WINDOWS, check_cover, windows_held
from secure_fu.errors import ConfigError

POLICIES = Path(__file__).parents[2] / "examples" / "policies"


def roster(clients, opener):
    members = [(f"member-{number}", Role.MEMBER) for number in range(4)]
    openers = members if opener == "kahe" else [("holder", Role.KEY_HOLDER)]
    cast = [("server", Role.SERVER), *openers, *((f"client-{number}", Role.CLIENT) for number in range(clients))]
    return Roster.of(Identity.generate(name, role).party for name, role in cast)


@pytest.mark.parametrize(("name", "clients"), [("hospitals", 6), ("bank", 5), ("devices", 60)])
def test_the_examples_hold_what_they_say(name, clients):
    path = POLICIES / f"{name}.toml"
    terms = read_terms(path)
    plan = terms.plan_for(roster(clients, terms.scheme))
    (said,) = re.findall(r"for deletions: (\d+) windows", path.read_text())
    assert windows_held(terms, plan, clients=clients) == int(said)
    assert not terms.deletion.cover or int(said) >= FEW_WINDOWS


@pytest.mark.parametrize("windows", [1, 2, 3, 5])
def test_the_reserve_that_is_advised_holds_so_many(tmp_path, windows):
    reserve = windows / (windows + 1)
    (tmp_path / "terms.toml").write_text(TERMS.replace("deletion_reserve = 0.9", f"deletion_reserve = {reserve}"))
    terms = read_terms(tmp_path / "terms.toml")
    cast = roster(4, "kahe")
    plan = terms.plan_for(cast)
    assert windows_held(terms, plan, clients=4) in (windows, windows + 1)
    if windows > 1:
        check_cover(terms, plan, clients=4)
        return
    with pytest.raises(ConfigError, match=r"deletion\.cover.*a budget that holds more windows than 1"):
        found(terms, cast, tmp_path / "server")
    assert not (tmp_path / "server").exists()
