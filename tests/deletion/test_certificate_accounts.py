"""The charges of a certificate give the figures that the ledger gives, and that another accountant gives."""

from __future__ import annotations

import math

import certificate_cast as cast
import numpy as np
import pytest
from certificate_cast import BASIS, BEFORE, CLIENTS, DELTA, OWN, RERUN, RERUN_STORY, STORY, accounts, event, rounds_of
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.rdp import RdpAccountant

from secure_fu.deletion.certificates import Accounts, Counted, ledger_rounds
from secure_fu.deletion.certificates.accounts import Part
from secure_fu.errors import ArgumentError
from secure_fu.privacy import Budget, Phase, PrivacyLedger, Subject, Unit, confidentiality

NAMES = tuple(f"c{n}" for n in range(12))
DURING = {Subject.FORGOTTEN: event(0.25), Subject.RETAINED: event()}
TRAIN = {Subject.FORGOTTEN: event(), Subject.RETAINED: event()}


def ledger_with(path, vanish, *, names=NAMES, tries=2):
    """Training with vanished clients, a try-out beside, a deletion, a round that was never settled, more training."""
    ledger = PrivacyLedger.create(
        path, budget=Budget(epsilon=20.0, delta=DELTA, order=4.0, deletion_reserve=0.5, unit=Unit.RECORD)
    )

    def run(branch, number, phase, charges, settled=True):
        held = ledger.reserve(
            branch, round_number=number, purpose=phase.value, phase=phase, charges=charges, cohort=names
        )
        if settled:
            ledger.commit(held, [name for name in names if not vanish(number, name)])

    ledger.branch("original")
    for number in range(6):
        run("original", number, Phase.TRAINING, TRAIN)
    ledger.branch("try", parent="original")
    for number in range(tries):
        run("try", 10 + number, Phase.UNLEARNING, DURING)
    ledger.branch("unlearn/x", parent="original")
    for number in range(4):
        run("unlearn/x", 20 + number, Phase.UNLEARNING, DURING)
    run("unlearn/x", 24, Phase.UNLEARNING, DURING, settled=False)
    until = max(found.event_id for found in ledger.events())
    for number in range(3):
        run("unlearn/x", 30 + number, Phase.TRAINING, {Subject.FORGOTTEN: None, Subject.RETAINED: event()})
    return ledger, until


def from_ledger(ledger, until, forgotten=NAMES, basis=(("original", 5),)):
    rounds = ledger_rounds(ledger, "unlearn/x", basis=basis, until=until)
    return Accounts.of(rounds, forgotten=forgotten, retained=NAMES)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_figures_are_those_of_the_ledger_also_where_clients_vanish(tmp_path, seed):
    draw = np.random.default_rng(seed)
    gone = {(number, name) for number in range(40) for name in NAMES if draw.random() < 0.25}
    ledger, until = ledger_with(tmp_path / "ledger.sqlite", lambda number, name: (number, name) in gone)
    with ledger:
        for group in (NAMES, NAMES[:1], NAMES[3:7]):
            own = from_ledger(ledger, until, group)
            for size in (1, 3):
                theirs = confidentiality(ledger, "unlearn/x", forgotten=group, group_size=size)
                mine = own.confidentiality(delta=DELTA, group_size=size)
                for name, value in mine.items():
                    assert value == pytest.approx(getattr(theirs, name).value, rel=1e-9), name
            entries = ledger.epsilon_entries("unlearn/x", forgotten=group)
            for entry in entries:
                if entry.phase is Phase.UNLEARNING:  # the branch's training came after
                    value = own.epsilon(entry.subject, entry.phase, delta=DELTA, group_size=1)
                    assert value == pytest.approx(entry.value, rel=1e-9)
        assert from_ledger(ledger, until).rounds(part=Part.BESIDE) >= 1
        assert from_ledger(ledger, until).rounds(part=Part.DELETION, released=False) == 1


def by_dp_accounting(charges, orders):
    accountant = RdpAccountant(list(orders))
    for one, count in charges:
        mechanism = GaussianDpEvent(one.noise_multiplier)
        if one.sampling_rate < 1.0:
            mechanism = PoissonSampledDpEvent(one.sampling_rate, mechanism)
        accountant.compose(mechanism, count)
    return accountant.get_epsilon(DELTA)


def test_the_figures_are_those_of_an_independent_accountant():
    """At integer orders, from the published sampled Gaussian: ours may only be better, by its finer orders."""
    orders = range(2, 129)
    own = accounts()
    for subject, during in ((Subject.FORGOTTEN, OWN.forgotten), (Subject.RETAINED, OWN.retained)):
        mine = own.epsilon(subject, Phase.BOTH, delta=DELTA, group_size=1)
        theirs = max(
            by_dp_accounting([(event(), trained), (during, unlearned)], orders)
            for trained, unlearned in ((6, 3), (6, 4), (4, 4))
        )
        assert 0.97 * theirs < mine <= theirs * (1 + 1e-6)
        fewer = by_dp_accounting([(event(), 5), (during, 3)], orders)
        assert fewer < 0.97 * theirs, "some rounds fewer have to show"
    basis = own.forgetting(Counted.BASIS, delta=DELTA, group_size=1)
    theirs = by_dp_accounting([(event(), 6)], orders)
    assert 0.97 * theirs < basis <= theirs * (1 + 1e-6)


def test_the_exchange_figure_is_at_least_that_of_leaving_alone():
    own = accounts()
    found = own.confidentiality(delta=DELTA, group_size=1)
    assert found["who_asked"] > found["phase"] > 0.0
    assert found["pair"] > found["phase"]
    rerun = accounts(story=RERUN_STORY).confidentiality(delta=DELTA, group_size=1)
    assert rerun["phase"] == 0.0
    assert rerun["who_asked"] == pytest.approx(
        accounts(story=RERUN_STORY).epsilon(Subject.RETAINED, Phase.UNLEARNING, delta=DELTA, group_size=1)
    )


def test_only_profiles_that_no_other_exceeds_are_kept():
    own = accounts()
    # ada: 6 and 3; bob: 6 and 4; eve: 4 and 4. Only bob's is left.
    assert own.forgotten == ((6, 4),)
    apart = Accounts.of(
        rounds_of(((BASIS, 5, ("ada",)), (BASIS, 2, ("bob",)), (OWN, 3, ("bob",)))), forgotten=CLIENTS, retained=CLIENTS
    )
    assert apart.forgotten == ((5, 0), (2, 3))


def test_with_many_profiles_the_figures_can_only_grow():
    draw = np.random.default_rng(0)
    story = tuple((kind, 1, tuple(np.array(NAMES)[draw.random(12) < 0.5])) for kind in (BASIS, BEFORE, OWN) * 40)
    rounds = rounds_of(story)
    own = Accounts.of(rounds, forgotten=NAMES, retained=NAMES)
    many = Accounts.of(
        [(kind, [f"{n}" for n in range(64) if (n + place) % 3]) for place, (kind, _) in enumerate(rounds * 3)],
        forgotten=[f"{n}" for n in range(64)],
        retained=[f"{n}" for n in range(64)],
    )
    assert len(own.forgotten) <= 12
    assert len(many.forgotten) <= 32
    crossing = [
        (kind, [name])
        for place, name in enumerate(map(str, range(40)))
        for kind, count in ((BASIS, place), (OWN, 39 - place))
        for _ in range(count)
    ]
    merged = Accounts.of(crossing, forgotten=list(map(str, range(40))), retained=list(map(str, range(40))))
    assert merged.retained == ((39, 39),)


def test_json_keeps_everything():
    for own in (accounts(), accounts(("eve",), RERUN_STORY), Accounts(kinds=(), forgotten=((),), retained=((),))):
        assert Accounts.from_json(own.to_json()) == own
    with pytest.raises(ArgumentError):
        Accounts(kinds=(BASIS, BASIS), forgotten=((1, 1),), retained=((1, 1),))
    with pytest.raises(ArgumentError):
        Accounts(kinds=(BASIS,), forgotten=((1, 1),), retained=((1,),))
    with pytest.raises(ArgumentError):
        Accounts(kinds=(BASIS,), forgotten=((-1,),), retained=((1,),))


@pytest.mark.parametrize(
    "story",
    [
        (*STORY[:3], (OWN, 2, ("eve",))),
        (*STORY, (OWN, 1, CLIENTS)),
        (*STORY, (RERUN, 1, ("ada",))),
        ((BEFORE, 4, CLIENTS), *STORY[1:]),
        STORY[1:],
    ],
)
def test_other_charges_are_told_apart_in_both_directions(story):
    honest, other = accounts(), accounts(story=story)
    assert honest.difference(accounts()) is None
    assert honest.difference(other) is not None
    assert other.difference(honest) is not None


def test_profiles_that_cross_are_compared_as_such():
    crossing = accounts(story=(*STORY[:3], (OWN, 1, ("eve",))))
    assert crossing.forgotten == ((6, 3), (4, 4))
    assert crossing.difference(accounts()) is not None  # some client was charged for both
    assert accounts().difference(crossing) is None  # one that stands for both says more than it need
    assert crossing.difference(accounts(story=(*STORY[:3], (OWN, 1, ("eve",)), (BASIS, 1, ("eve",))))) is not None


def test_less_noise_and_other_sampling_are_other_charges():
    for change in (event(noise=1.2), event(rate=0.6), event(dimension=19)):
        kind = cast.replace(OWN, retained=change)
        assert accounts(story=(*STORY[:2], (kind, 3, CLIENTS), (kind, 1, ("bob", "eve")))).difference(accounts())


def test_an_unknown_branch_is_named(tmp_path):
    ledger, until = ledger_with(tmp_path / "ledger.sqlite", lambda *_: False)
    with ledger, pytest.raises(ArgumentError, match="branch is 'unlearn/y'"):
        list(ledger_rounds(ledger, "unlearn/y", basis=(), until=until))


def test_what_a_group_pays_is_not_less_than_what_one_pays():
    own = accounts()
    one, three = (own.confidentiality(delta=DELTA, group_size=size) for size in (1, 3))
    assert all(three[name] > one[name] and math.isfinite(three[name]) for name in one)
