"""The whole story at tiny size: train, ask for a deletion, unlearn; for records, persons and clients."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from small_federations import RATES, REQUESTS, digests_of_checkpoints, federation, plan_for, silos
from torch import nn

from secure_fu.crypto import Role
from secure_fu.crypto.wire import decode
from secure_fu.deletion import DeletionRequest
from secure_fu.errors import (
    ArgumentError,
    BudgetExceededError,
    CohortTooSmall,
    OpeningError,
    ProtocolError,
    RoundAborted,
    SecureFUError,
)
from secure_fu.federation import Federation
from secure_fu.learning import Records, mlp
from secure_fu.privacy import GaussianSumEvent, Phase, Subject, Unit, assured_clients, renyi_epsilon
from secure_fu.privacy.ledger_records import EventStatus
from secure_fu.protocol import KeyHolder, RoundServer
from secure_fu.protocol.messages import Upload
from secure_fu.unlearning import Correction, FineTune, Retrain, Rollback, Scratch, Scrub


def entries(unlearned):
    return {(entry.subject, entry.phase): entry.value for entry in unlearned.epsilon}


def event_of(federated, rate):
    """The event that one round costs, made from the plan alone."""
    recipe = federated.recipe
    step = 2.0 ** np.floor(np.log2(recipe.clip_norm / (100.0 * federated.model.dimension**0.5)))
    (charge,) = {
        charge
        for event in federated.ledger.events("original")
        for charge in event.charges.values()
        if charge is not None
    }
    assert charge.sampling_rate == rate
    assert charge.noise_multiplier == recipe.noise_multiplier
    assert charge.dimension == federated.model.dimension
    # Rounding adds up to 1 % to the sensitivity, which is what the noise is a multiple of.
    assert recipe.noise_multiplier * recipe.clip_norm / step <= charge.grid_ratio
    assert charge.grid_ratio <= 1.01 * recipe.noise_multiplier * recipe.clip_norm / step
    return GaussianSumEvent(
        noise_multiplier=recipe.noise_multiplier,
        sampling_rate=rate,
        grid_ratio=charge.grid_ratio,
        dimension=federated.model.dimension,
        shares=assured_clients(federated.plan.minimum_cohort, federated.plan.colluders),
    )


METHODS = {
    Unit.RECORD: (Retrain(), Rollback(), Scrub(length=2), Correction(length=2)),
    Unit.GROUP: (Retrain(), Scrub(length=2), Correction(length=1), FineTune(length=1)),
    Unit.CLIENT: (Retrain(), Rollback(), Scrub(length=1), Correction(length=2), Scratch(length=1)),
}


@pytest.mark.parametrize("scheme_name", ["kahe", "bfv"])
@pytest.mark.parametrize("unit", [Unit.RECORD, Unit.GROUP, Unit.CLIENT])
def test_the_whole_story(unit, scheme_name):
    with federation(unit, scheme_name=scheme_name) as federated:
        seen = []
        trained = federated.train(on_round=seen.append)
        assert federated.checkpoints.rounds == (0, 1, 2)
        assert digests_of_checkpoints(federated)[1:] == [state.model.digest for state in seen]
        assert federated.state is trained
        assert not np.array_equal(trained.model.vector, federated.checkpoints.load(0).model.vector)
        assert [traffic.uploads for traffic in federated.training_traffic] == [4, 4]
        assert federated.ledger.rounds("original") == (0, 1)
        for method in METHODS[unit]:
            rounds = []
            unlearned = federated.unlearn(REQUESTS[unit], method, on_round=rounds.append, adaptive=False)
            expected = method.rounds(federated.deletion(REQUESTS[unit], adaptive=False))
            assert unlearned.method == method.name
            assert unlearned.state is rounds[-1]
            assert len(rounds) == len(unlearned.traffic) == expected
            assert all(traffic.uploads == 4 for traffic in unlearned.traffic)
            assert all(traffic.purpose == f"unlearn/{method.name}" for traffic in unlearned.traffic)
            assert np.isfinite(unlearned.state.model.vector).all()
            assert unlearned.seconds > 0.0
            assert federated.ledger.rounds(f"unlearn/{method.name}") == tuple(range(2, 2 + expected))
        # Branches are counterfactuals: the original stays as it was.
        assert federated.state is trained
        assert federated.ledger.rounds("original") == (0, 1)
        assert federated.ledger.branches == {
            "original": None,
            **{f"unlearn/{method.name}": "original" for method in METHODS[unit]},
        }


@pytest.mark.parametrize("unit", [Unit.RECORD, Unit.GROUP, Unit.CLIENT])
def test_epsilon_of_forgotten_and_retained_units_by_phase(unit):
    with federation(unit) as federated:
        federated.train()
        event = event_of(federated, RATES[unit])

        def paid(rounds):
            return pytest.approx(renyi_epsilon({event: rounds}, delta=1e-5) if rounds else 0.0, rel=1e-9)

        # Rounds of the branch in which retained and forgotten units take part.
        for method, retained, forgotten in (
            (Retrain(), 2, 0),
            (FineTune(length=1), 1, 0),
            (Correction(length=2), 2, 2),
            (Scrub(length=1, forgotten_factor=1.0), 1, 1),
        ):
            found = entries(federated.unlearn(REQUESTS[unit], method, adaptive=False))
            assert found == {
                (Subject.FORGOTTEN, Phase.TRAINING): paid(2),
                (Subject.FORGOTTEN, Phase.UNLEARNING): paid(forgotten),
                (Subject.FORGOTTEN, Phase.BOTH): paid(2 + forgotten),
                (Subject.RETAINED, Phase.TRAINING): paid(2),
                (Subject.RETAINED, Phase.UNLEARNING): paid(retained),
                (Subject.RETAINED, Phase.BOTH): paid(2 + retained),
            }
        assert 0.0 < renyi_epsilon({event: 4}, delta=1e-5) <= federated.budget.epsilon


def test_a_late_joiner_pays_for_the_rounds_since_it_joined_and_rollback_goes_back_before_it():
    late = Rollback(forget_epsilon=3.9)
    with federation(clients=silos(5), rounds=4, joins={"silo-4": 2}, methods=[late]) as federated:
        federated.train()
        assert [traffic.uploads for traffic in federated.training_traffic] == [4, 4, 5, 5]
        request = DeletionRequest.whole_client("silo-4")
        unlearned = federated.unlearn(request, Rollback(), adaptive=False)
        event = event_of(federated, 0.5)
        found = entries(unlearned)
        assert found[Subject.FORGOTTEN, Phase.TRAINING] == pytest.approx(renyi_epsilon({event: 2}, delta=1e-5))
        assert found[Subject.RETAINED, Phase.TRAINING] == pytest.approx(renyi_epsilon({event: 4}, delta=1e-5))
        assert unlearned.guarantee.kind == "exact"
        assert len(unlearned.traffic) == 2
        assert unlearned.state.rounds == 4
        start = Rollback().start_state(federated.deletion(request, adaptive=False))
        assert (start.rounds, start.model.digest) == (2, digests_of_checkpoints(federated)[2])
        certified = federated.unlearn(DeletionRequest.some_records("silo-4", (0,)), late, adaptive=False)
        assert certified.guarantee.kind == "certified"
        assert certified.guarantee.epsilon == pytest.approx(found[Subject.FORGOTTEN, Phase.TRAINING])


def test_rollback_goes_back_before_the_client_took_part_also_when_rounds_were_asked_for_again():
    failing = {(number, name) for number in (0, 1) for name in ("silo-0", "silo-1")}
    # Rounds asked for in vain have cost whoever answered: more noise leaves room for them.
    plan = plan_for(mlp(5, (), 3, 0), clients=5, minimum=4, rounds=4, noise_multiplier=50.0)
    with federation(
        clients=silos(5),
        plan=plan,
        joins={"silo-4": 2},
        vanishes=lambda number, name: (number, name) in failing,
    ) as federated:
        federated.train()
        assert federated.ledger.rounds("original") == (2, 3, 4, 5)
        request = DeletionRequest.whole_client("silo-4")
        took_part = ["silo-4" in federated.ledger.participants("original", number) for number in (2, 3, 4, 5)]
        assert Rollback().checkpoint(federated.deletion(request, adaptive=False)) == took_part.index(True)


def test_rollback_goes_back_before_the_client_took_part_also_when_a_round_was_spent_without_release(monkeypatch):
    # Round 0 is spent and releases nothing; so the late joiner's first release, of round 1, is the first one of all.
    opened = KeyHolder.open

    def open_but_the_first(key_holder, roll):
        if len(list(federated.ledger.events("original"))) == 1:
            raise OpeningError("out of range")
        return opened(key_holder, roll)

    monkeypatch.setattr(KeyHolder, "open", open_but_the_first)
    module = mlp(5, (), 3, 0)
    plan = plan_for(module, clients=5, rounds=3, noise_multiplier=50.0)  # room for the round that is spent in vain
    with federation(clients=silos(5), plan=plan, joins={"silo-4": 1}) as federated:
        with pytest.raises(RoundAborted):
            federated.train()
        federated.train()
        request = DeletionRequest.whole_client("silo-4")
        assert "silo-4" in federated.ledger.participants("original", 1)
        assert Rollback().checkpoint(federated.deletion(request, adaptive=False)) == 0
        assert federated.deletion(request, adaptive=False).unit_epsilon(1) > 0.0


@pytest.mark.parametrize(
    ("unit", "request_"),
    [
        (Unit.CLIENT, DeletionRequest.some_records("silo-1", (0, 3))),
        (Unit.CLIENT, DeletionRequest.person("p1-0", client="silo-1")),
        (Unit.GROUP, DeletionRequest.some_records("silo-1", (0,))),
    ],
)
def test_a_part_of_a_unit_cannot_be_forgotten(unit, request_):
    with federation(unit) as federated:
        federated.train()
        with pytest.raises(ArgumentError, match=f"whole units.*{unit.value}"):
            federated.unlearn(request_, Retrain(), adaptive=False)
        assert list(federated.ledger.branches) == ["original"]


def test_rounds_of_ones_own_count_when_a_checkpoint_is_judged():
    plan = plan_for(mlp(5, (), 3, 0), clients=5, rounds=3, noise_multiplier=50.0)
    with federation(clients=silos(5), plan=plan, joins={"silo-4": 1}) as federated:
        recipe = federated.recipe
        federated.training_sums().secure_sum(
            recipe.request(purpose="train", phase=Phase.TRAINING, model=federated.state.model, forgotten_rate=0.5)
        )
        federated.train()
        deletion = federated.deletion(DeletionRequest.whole_client("silo-4"), adaptive=False)
        assert deletion.joined_at == 0
        assert Rollback().checkpoint(deletion) == 0


def test_the_same_method_twice_is_two_branches_with_noise_of_their_own():
    with federation() as federated:
        federated.train()
        first, second, third = (federated.unlearn(REQUESTS[Unit.RECORD], Retrain(), adaptive=False) for _ in range(3))
        assert list(federated.ledger.branches)[1:] == ["unlearn/retrain", "unlearn/retrain#2", "unlearn/retrain#3"]
        models = {unlearned.state.model.digest for unlearned in (first, second, third)}
        assert len(models) == 3
        assert entries(first) == entries(second) == entries(third)


def test_unlearning_waits_for_the_first_round_and_training_goes_on_after_an_interrupt():
    with federation() as federated:
        with pytest.raises(ProtocolError, match="no training round is done"):
            federated.unlearn(REQUESTS[Unit.RECORD], Retrain(), adaptive=False)
        stop = []

        def interrupt(state):
            if state.rounds == 1:
                stop.append(state)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            federated.train(on_round=interrupt)
        # Half-way through, a retraining takes as many rounds as training had by then.
        assert len(federated.unlearn(REQUESTS[Unit.RECORD], Retrain(), adaptive=False).traffic) == 1
        assert federated.train().rounds == 2
        assert digests_of_checkpoints(federated)[1] == stop[0].model.digest
        assert federated.train() is federated.state, "nothing is left to train"
        assert federated.ledger.rounds("original") == (0, 1)
        federated.unlearn(REQUESTS[Unit.RECORD], FineTune(length=1), adaptive=False)


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        (DeletionRequest.whole_client("nobody"), "nobody"),
        (DeletionRequest.some_records("silo-1", (10,)), "between 0 and 9"),
        (DeletionRequest.some_records("silo-1", tuple(range(11))), "between 0 and 9"),
        (DeletionRequest.some_records("silo-1", (-1,)), "between 0 and 9"),
        (DeletionRequest.person("nobody"), "at least one record"),
    ],
)
def test_a_request_that_fits_nothing_starts_no_branch(request_, named):
    with federation(rounds=1) as federated:
        federated.train()
        with pytest.raises(ArgumentError, match=named):
            federated.unlearn(request_, Retrain(), adaptive=False)
        assert list(federated.ledger.branches) == ["original"]


def test_a_group_request_needs_a_group_column():
    plain = {name: Records(records.features, records.labels) for name, records in silos().items()}
    with federation(clients=plain, rounds=1) as federated:
        federated.train()
        with pytest.raises(ArgumentError, match="group column"):
            federated.unlearn(REQUESTS[Unit.GROUP], Retrain(), adaptive=False)


class Sizes:
    """What the server received: from whom, how many bytes, and how many ciphertext and shares have."""

    def __init__(self, monkeypatch):
        self.uploads = []
        receive, sizes = RoundServer.receive, self.uploads

        def kept(server, upload):
            message = decode(Upload, upload)
            receive(server, upload)
            sizes.append((message.client, len(upload), (len(message.body), *map(len, message.shares))))

        monkeypatch.setattr(RoundServer, "receive", kept)

    def of(self, name):
        return [size for client, size, _ in self.uploads if client == name]


@pytest.mark.parametrize("scheme_name", ["kahe", "bfv", "plain"])
@pytest.mark.parametrize("method", [Retrain(), Correction(length=2), Scrub(length=2)])
def test_every_upload_has_the_same_length_whoever_unlearns(monkeypatch, method, scheme_name):
    sizes = Sizes(monkeypatch)
    with federation(scheme_name=scheme_name) as federated:
        federated.train()
        federated.unlearn(DeletionRequest.whole_client("silo-1"), method, adaptive=False)
    assert len(sizes.of("silo-1")) == len(sizes.of("silo-0")) == 2 + 2, "who leaves uploads every time"
    assert len({size for _, size, _ in sizes.uploads}) == 1
    assert len({parts for _, _, parts in sizes.uploads}) == 1


def test_who_vanishes_is_not_in_the_sum_and_not_charged():
    absent = {(0, "silo-2"), (1, "silo-2")}
    with federation(vanishes=lambda number, name: (number, name) in absent) as federated:
        federated.train()
        assert federated.ledger.participants("original", 0) == ("silo-0", "silo-1", "silo-3")
        unlearned = federated.unlearn(DeletionRequest.whole_client("silo-2"), FineTune(length=1), adaptive=False)
        assert entries(unlearned)[Subject.FORGOTTEN, Phase.BOTH] == 0.0


def test_too_few_for_the_minimum_cohort_end_training_without_release():
    with federation(vanishes=lambda number, name: name in ("silo-0", "silo-3")) as federated:
        with pytest.raises(CohortTooSmall, match="2 uploads"):
            federated.train()
        assert [event.status for event in federated.ledger.events()] == [EventStatus.VOID] * 3
        assert federated.checkpoints.rounds == (0,)
        assert federated.training_traffic == ()


def test_an_exhausted_budget_ends_training_and_keeps_what_was_done():
    plan = plan_for(mlp(5, (), 3, 0), rounds=6)
    small = replace(plan, budget=replace(plan.budget, deletion_reserve=0.75))
    with federation(plan=small) as federated:
        with pytest.raises(BudgetExceededError, match="original"):
            federated.train()
        done = federated.state.rounds
        assert done == 3, "a quarter of fourteen, the spare rounds counted"
        assert federated.ledger.rounds("original") == tuple(range(done))
        assert federated.ledger.pending() == ()
        with pytest.raises(BudgetExceededError):
            federated.train()
        assert federated.state.rounds == done


class Exponential(nn.Module):
    """Overflows on features of a thousand."""

    def forward(self, features):
        return features.exp()


def test_a_client_whose_gradients_are_not_finite_takes_part_like_any_other(caplog):
    own = silos()
    own["silo-2"] = Records(own["silo-2"].features + 1000.0, own["silo-2"].labels, own["silo-2"].groups)
    module = nn.Sequential(Exponential(), mlp(5, (), 3, 0))
    with Federation(module, own, plan=plan_for(module), scheme_name="plain") as federated:
        federated.train()
        for number in (0, 1):
            assert federated.ledger.participants("original", number) == federated.clients
        assert np.isfinite(federated.state.model.vector).all()
    assert "not finite" in caplog.text
    # How many records were in its secret sample is nobody's business.
    assert not re.search(r"\d+ of \d+ gradients", caplog.text)


def test_ledger_transcript_and_record_are_kept_where_asked(tmp_path):
    with federation(directory=tmp_path) as federated:
        federated.train()
        federated.unlearn(REQUESTS[Unit.RECORD], FineTune(length=1), adaptive=False)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("ledger.sqlite", "key_holder.sqlite", "transcript.jsonl", "roster.bin", "policy.toml", "clients"),
        "checkpoints",
    }
    assert {path.name for path in (tmp_path / "clients").iterdir()} == {"original.sqlite", "unlearn-finetune.sqlite"}
    assert [path for path in tmp_path.rglob("*") if "histor" in str(path.relative_to(tmp_path))] == [], (
        "whoever is given the directory must not find the clients' secret samples"
    )
    lines = [json.loads(line) for line in (tmp_path / "transcript.jsonl").read_text().splitlines()]
    assert [line["branch"] for line in lines] == ["original", "original", "unlearn/finetune"]
    assert [line["round"] for line in lines] == [0, 1, 2]
    assert lines[0]["previous"] == bytes(32).hex()
    assert [line["previous"] for line in lines[1:]] == [line["hash"] for line in lines[:-1]]
    assert len({line["run_id"] for line in lines}) == 2
    with pytest.raises(SecureFUError, match="exists"):
        federation(directory=tmp_path)


def test_every_branch_follows_the_original_in_the_transcript(tmp_path):
    with federation(directory=tmp_path) as federated:
        federated.train()
        for _ in range(2):
            federated.unlearn(REQUESTS[Unit.RECORD], FineTune(length=1), adaptive=False)
    lines = [json.loads(line) for line in (tmp_path / "transcript.jsonl").read_text().splitlines()]
    assert [line["previous"] for line in lines[2:]] == [lines[1]["hash"]] * 2


def test_parties_have_fresh_keys_in_every_federation():
    with federation() as one, federation() as other:
        assert one.policy.roster_digest != other.policy.roster_digest
        assert one.roster.names(Role.CLIENT) == one.clients == tuple(silos())
