"""The three figures of a deletion, from ledgers whose rounds are known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from secure_fu.errors import ArgumentError
from secure_fu.privacy.accounting import GaussianSumEvent, renyi_epsilon
from secure_fu.privacy.budget import Budget
from secure_fu.privacy.confidentiality import Confidentiality, EpsilonFigure, confidentiality
from secure_fu.privacy.epsilon import Phase, Subject
from secure_fu.privacy.exchange import ExchangedSum, exchange_epsilon
from secure_fu.privacy.ledger import PrivacyLedger
from secure_fu.privacy.units import Unit

DELTA = 1e-5
SILOS = ("a", "b", "c", "d")


def event(noise_multiplier: float = 2.43, sampling_rate: float = 0.25) -> GaussianSumEvent:
    return GaussianSumEvent(
        noise_multiplier=noise_multiplier, sampling_rate=sampling_rate, grid_ratio=12_000.0, dimension=2410, shares=8
    )


TRAIN, JOINT = event(), event(3.0, 0.5)
BUDGET = Budget(epsilon=20.0, delta=DELTA, order=2.5, deletion_reserve=0.5, unit=Unit.RECORD)


@pytest.fixture
def ledger(tmp_path: Path):
    with PrivacyLedger.create(tmp_path / "ledger.sqlite", budget=BUDGET) as made:
        made.branch("original")
        run(made, "original", range(30))
        yield made


def run(ledger, branch, rounds, *, phase=Phase.TRAINING, forgotten=TRAIN, retained=TRAIN, who=SILOS):
    """Reserve and commit rounds; `who` took part."""
    for number in rounds:
        reservation = ledger.reserve(
            branch,
            round_number=number,
            purpose="train",
            phase=phase,
            charges={Subject.FORGOTTEN: forgotten, Subject.RETAINED: retained},
            cohort=SILOS,
        )
        ledger.commit(reservation, who)


def unlearn(ledger, branch, rounds, *, parent="original", **charges):
    ledger.branch(branch, parent=parent)
    run(ledger, branch, rounds, phase=Phase.UNLEARNING, **charges)


def test_a_joint_method(ledger):
    unlearn(ledger, "scrub", range(30, 37), forgotten=JOINT, retained=JOINT)
    run(ledger, "scrub", range(37, 40), phase=Phase.UNLEARNING, forgotten=None)
    found = confidentiality(ledger, "scrub", forgotten=["a"])
    assert found.phase.value == ledger.epsilon("scrub", "a", Subject.FORGOTTEN, Phase.UNLEARNING)
    assert found.phase.value == renyi_epsilon({JOINT: 7}, delta=DELTA)
    assert found.pair.value == ledger.epsilon("scrub", "a", Subject.FORGOTTEN, Phase.BOTH)
    sums = {ExchangedSum(left=JOINT, stayed=JOINT): 7, ExchangedSum(left=None, stayed=TRAIN): 3}
    assert found.who_asked.value == exchange_epsilon(sums, delta=DELTA)
    # More than either kind of unit pays alone, and less than a unit of twice the sensitivity.
    retained = ledger.epsilon("scrub", "a", Subject.RETAINED, Phase.UNLEARNING)
    twice = ledger.epsilon("scrub", "a", Subject.RETAINED, Phase.UNLEARNING, group_size=2)
    assert max(found.phase.value, retained) * 1.2 < found.who_asked.value < twice


def test_a_rerun_tells_who_asked_as_far_as_a_unit_that_stays_pays(ledger):
    unlearn(ledger, "rollback", range(30, 50), forgotten=None)
    found = confidentiality(ledger, "rollback", forgotten=["b"])
    assert found.phase.value == 0.0
    assert found.pair.value == ledger.epsilon("rollback", "b", Subject.FORGOTTEN, Phase.TRAINING)
    assert found.who_asked.value == ledger.epsilon("rollback", "b", Subject.RETAINED, Phase.UNLEARNING)


def test_rounds_that_touch_nobody_cost_nothing(ledger):
    unlearn(ledger, "nothing", range(30, 32), forgotten=None, retained=None)
    found = confidentiality(ledger, "nothing", forgotten=["a"])
    assert (found.phase.value, found.who_asked.value) == (0.0, 0.0)
    ledger.branch("no rounds", parent="original")
    assert confidentiality(ledger, "no rounds", forgotten=["a"]) == found


def test_the_worst_client_counts(ledger):
    ledger.branch("scrub", parent="original")
    run(ledger, "scrub", range(30, 40), phase=Phase.UNLEARNING, who=("a", "c"))
    run(ledger, "scrub", range(40, 44), phase=Phase.UNLEARNING, who=("a", "b"))
    each = {name: confidentiality(ledger, "scrub", forgotten=[name]) for name in SILOS}
    assert confidentiality(ledger, "scrub", forgotten=["b", "d", "c"]) == each["c"]
    assert each["a"].who_asked.value > each["c"].who_asked.value > each["b"].who_asked.value
    assert each["d"].who_asked.value == each["d"].phase.value == 0.0
    assert confidentiality(ledger, "scrub", forgotten=SILOS) == each["a"]


@pytest.mark.parametrize("same_branch", [False, True])
def test_a_second_deletion_on_the_same_line(ledger, same_branch):
    """Its units stayed in the first one's rounds: they paid there what retained units pay."""
    unlearn(ledger, "first", range(30, 35), forgotten=JOINT, retained=TRAIN)
    run(ledger, "first", range(35, 40), forgotten=None, retained=TRAIN)
    if same_branch:
        second, rounds = "first", range(40, 42)
        run(ledger, "first", rounds, phase=Phase.UNLEARNING, forgotten=JOINT, retained=None)
    else:
        second, rounds = "second", None
        unlearn(ledger, "second", range(40, 42), parent="first", forgotten=JOINT, retained=None)
    run(ledger, second, range(42, 45), retained=TRAIN)  # training goes on, without the units
    found = confidentiality(ledger, second, forgotten=["a"], rounds=rounds)
    assert found.phase.value == found.who_asked.value == renyi_epsilon({JOINT: 2}, delta=DELTA)
    assert found.pair.value == renyi_epsilon({TRAIN: 40, JOINT: 2}, delta=DELTA)
    # The ledger's entry for units that any request named is about another history.
    assert found.pair.value != ledger.epsilon(second, "a", Subject.FORGOTTEN, Phase.BOTH)
    first = confidentiality(ledger, "first", forgotten=["a"], rounds=range(30, 35))
    assert first.pair.value == renyi_epsilon({TRAIN: 30, JOINT: 5}, delta=DELTA)
    none = confidentiality(ledger, "first", forgotten=["a"], rounds=range(35, 35))
    assert none.pair.value == renyi_epsilon({TRAIN: 35}, delta=DELTA)
    assert none.phase.value == 0.0


def test_groups_and_delta(ledger):
    unlearn(ledger, "scrub", range(30, 34))
    one, two = (confidentiality(ledger, "scrub", forgotten=["a"], group_size=size) for size in (1, 2))
    for name in ("phase", "pair", "who_asked"):
        assert getattr(two, name).value > 1.8 * getattr(one, name).value
        assert getattr(two, name).group_size == 2
    assert confidentiality(ledger, "scrub", forgotten=["a"], delta=1e-7).phase.delta == 1e-7
    assert one.phase.delta == DELTA
    vacuous = confidentiality(ledger, "scrub", forgotten=["a"], group_size=10_000)
    assert vacuous.who_asked.value is None
    assert json.loads(json.dumps(vacuous.to_json()))["who_asked"] == {
        "value": None,
        "delta": DELTA,
        "group_size": 10_000,
    }


def test_what_is_refused(ledger):
    for wrong in ([], "a"):
        with pytest.raises(ArgumentError, match="forgotten"):
            confidentiality(ledger, "original", forgotten=wrong)
    with pytest.raises(ArgumentError, match="branch"):
        confidentiality(ledger, "elsewhere", forgotten=["a"])
    with pytest.raises(ArgumentError, match="rounds"):
        confidentiality(ledger, "original", forgotten=["a"], rounds=range(0, 10, 2))
    with pytest.raises(ArgumentError, match="value"):
        EpsilonFigure(value=float("inf"), delta=DELTA)
    assert isinstance(confidentiality(ledger, "original", forgotten=["a"]), Confidentiality)


def test_a_client_that_no_round_touched_has_nothing_to_hide(ledger):
    found = confidentiality(ledger, "original", forgotten=["nobody"])
    assert {found.phase.value, found.pair.value, found.who_asked.value} == {0.0}
    with_another = confidentiality(ledger, "original", forgotten=["a", "nobody"])
    assert with_another == confidentiality(ledger, "original", forgotten=["a"])
