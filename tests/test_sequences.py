"""Many deletions over time, between rounds of training: what each guarantees then, and that the ledger tells it all."""

from __future__ import annotations

import numpy as np
import pytest
from small_federations import digests_of_checkpoints, federation, plan_for, silos

from secure_fu.crypto import InsecureDeterministicRandomness
from secure_fu.deletion import DeletionBatch, DeletionRequest
from secure_fu.errors import AlreadyForgotten, ArgumentError, CheckpointError, GuaranteeError
from secure_fu.learning import Records, mlp
from secure_fu.privacy import Phase, Subject, Unit, renyi_epsilon
from secure_fu.unlearning import Certified, Exact, FineTune, Heuristic, Requirement, Retrain, Rollback, Scrub

FIRST = DeletionRequest.some_records("silo-4", (0, 3))
SECOND = DeletionRequest.whole_client("silo-1")
ROUNDS = 6


def started(*, joins=None, methods=(), clients=None, randomness=None, every=1, rounds=ROUNDS, minimum=4, **arguments):
    module = mlp(5, (), 3, 0)
    plan = plan_for(
        module, clients=5, rounds=rounds, minimum=minimum, noise_multiplier=40.0, checkpoint_every=every, **arguments
    )
    return federation(
        module=module,
        clients=silos(5) if clients is None else clients,
        plan=plan,
        joins={"silo-4": 2} if joins is None else joins,
        methods=methods,
        randomness=randomness,
    )


def forgotten_epsilon(unlearned, phase):
    (entry,) = [e for e in unlearned.epsilon if e.subject is Subject.FORGOTTEN and e.phase is phase]
    return entry.value


def test_training_deletion_training_deletion():
    with started() as federated:
        federated.train(rounds=4)
        first = federated.delete(FIRST, Rollback(), adaptive=False)
        assert isinstance(first.guarantee, Exact)
        assert (first.cost.rounds, len(first.traffic), first.state.rounds) == (2, 2, 4), "back to round 2 and up again"
        assert federated.state is first.state
        federated.train()
        assert (federated.state.rounds, federated.checkpoints.rounds) == (6, tuple(range(7)))
        second = federated.delete(SECOND, Scrub(length=2), adaptive=False)
        assert isinstance(second.guarantee, Heuristic)
        assert second.state.rounds == 6, "steps of unlearning are no rounds of training"
        # It was there from the start: whatever knew it is destroyed, and the outcome takes the place.
        assert federated.checkpoints.rounds == (0, 6)
        assert digests_of_checkpoints(federated)[1] == federated.state.model.digest
        third = federated.delete(DeletionRequest.whole_class(2), Retrain(), adaptive=False)
        assert len(third.traffic) == 6
        assert [entry.method for entry in federated.executed] == ["rollback", "scrub", "retrain"]
        assert federated.ledger.branches == {
            "original": None,
            "unlearn/rollback": "original",
            "unlearn/scrub": "unlearn/rollback",
            "unlearn/retrain": "unlearn/scrub",
        }
        numbers = [event.round_number for event in federated.ledger.events()]
        assert numbers == list(range(len(numbers))), "one line, no number twice"


def poisoned(own):
    return Records(own.features * -2.0 + 1.0, (own.labels + 1) % 3, own.groups)


@pytest.mark.parametrize("request_", [DeletionRequest.whole_client("silo-4"), DeletionRequest.whole_client("silo-1")])
def test_nothing_that_follows_depends_on_what_was_forgotten(request_):
    """With noise and sampling held fixed: training after an exact deletion ends in the same model, whatever it held."""
    models, before = set(), set()
    for change in (lambda own: own, poisoned):
        clients = silos(5)
        clients[request_.client] = change(clients[request_.client])
        with started(clients=clients, randomness=InsecureDeterministicRandomness(3)) as federated:
            before.add(federated.train(rounds=4).model.digest)
            federated.delete(request_, Rollback(), adaptive=False)
            federated.train()
            federated.delete(DeletionRequest.some_records("silo-0", (1,)), Scrub(length=1), adaptive=False)
            models.add(federated.state.model.digest)
            # Nor can a checkpoint that knew it be gone back to.
            models.add(tuple(digests_of_checkpoints(federated)))
    assert len(before) == 2
    assert len(models) == 2, "one final model, one set of checkpoints"


def test_the_same_cannot_be_forgotten_twice_and_what_overlaps_is_forgotten_once():
    with started() as federated:
        federated.train(rounds=3)
        federated.delete(FIRST, FineTune(length=1), adaptive=True)
        for request in (FIRST, DeletionRequest.some_records("silo-4", (3,)), DeletionBatch((FIRST, FIRST))):
            for attempt in (federated.unlearn, federated.delete, federated.cost):
                with pytest.raises(AlreadyForgotten, match="has been forgotten before"):
                    attempt(request, Retrain(), adaptive=True)
        whole = federated.delete(DeletionRequest.whole_client("silo-4"), FineTune(length=1), adaptive=True)
        assert federated.executed[1].forgotten_units == 8, "two of the ten were gone"
        assert whole.traffic[0].uploads == 5, "who has left sends noise like the others"
        # Positions stay those of the records as they were brought.
        federated.delete(DeletionRequest.some_records("silo-0", (1, 2)), FineTune(length=1), adaptive=True)
        federated.delete(DeletionRequest.some_records("silo-0", (9,)), FineTune(length=1), adaptive=True)
        left = federated._silos["silo-0"].records.features
        assert left.equal(silos(5)["silo-0"].features[[0, 3, 4, 5, 6, 7, 8]])
        federated.train()


def test_who_is_forgotten_later_has_paid_for_earlier_deletions_as_one_who_stays():
    with started() as federated:
        federated.train(rounds=4)
        federated.delete(FIRST, Rollback(), adaptive=False)
        federated.train(rounds=1)
        found = federated.unlearn(SECOND, Scrub(length=2, forgotten_factor=1.0), adaptive=False)
        counts = federated.ledger.event_counts("unlearn/rollback", "silo-1", Subject.RETAINED, Phase.BOTH)
        (event,) = counts
        assert counts[event] == 4 + 2 + 1, "training, the re-run, training"
        assert forgotten_epsilon(found, Phase.BOTH) == pytest.approx(renyi_epsilon({event: 7 + 2}, delta=1e-5))
        assert forgotten_epsilon(found, Phase.BOTH) == pytest.approx(found.confidentiality.pair.value)
        assert forgotten_epsilon(found, Phase.UNLEARNING) > 0.0
        # And whoever was forgotten by then pays for none of the rounds that follow.
        gone = federated.ledger.event_counts("unlearn/rollback", "silo-4", Subject.FORGOTTEN, Phase.BOTH)
        assert sum(gone.values()) == 2, "it was there in rounds 2 and 3"


def test_a_certificate_counts_the_rounds_that_are_in_the_state_and_no_others():
    """After a rollback, the rounds that were undone have no part in later states."""
    method = Rollback(forget_epsilon=0.2)
    with started(methods=[method]) as federated:
        federated.train(rounds=4)
        federated.delete(FIRST, Rollback(), adaptive=False)  # back to round 2
        deletion = federated.deletion(SECOND, adaptive=False)
        counts = federated.ledger.event_counts("original", "silo-1", Subject.RETAINED, Phase.TRAINING)
        (event,) = counts
        # Round 4 is made of rounds 0 and 1 and of the two of the re-run; what was released are six.
        assert deletion.unit_epsilon(4) == pytest.approx(renyi_epsilon({event: 4}, delta=1e-5, group_size=10))
        assert deletion.unit_epsilon(1) == pytest.approx(renyi_epsilon({event: 1}, delta=1e-5, group_size=10))
        assert deletion.last_epsilon == pytest.approx(renyi_epsilon({event: 6}, delta=1e-5, group_size=10))


def test_adaptive_requests_weaken_what_was_proved():
    with started(methods=[FineTune(length=1)]) as federated:
        federated.train(rounds=4)
        assert isinstance(federated.cost(FIRST, Rollback(), adaptive=False).guarantee, Exact)
        found = federated.cost(FIRST, Rollback(), adaptive=True).guarantee
        assert isinstance(found, Certified)
        assert found.epsilon == federated.deletion(FIRST, adaptive=False).last_epsilon > 0.0
        first = federated.delete(FIRST, Rollback(), adaptive=False)
        assert federated.executed[0].guarantee == first.guarantee
        federated.delete(DeletionRequest.some_records("silo-0", (1,)), FineTune(length=1), adaptive=False)
        assert isinstance(federated.executed[0].guarantee, Exact)
        federated.delete(DeletionRequest.some_records("silo-0", (2,)), FineTune(length=1), adaptive=True)
        weakened = federated.executed[0].guarantee
        assert isinstance(weakened, Certified)
        assert (weakened.epsilon, weakened.group_size) == (found.epsilon, 2)
        assert "chosen after seeing" in weakened.describe()


def test_what_came_of_an_adaptive_request_weakens_later_claims_as_well():
    """Whom it removed may tell what models knew: a trace in all that follows (Gupta et al. 2021)."""
    with started(methods=[FineTune(length=1)]) as federated:
        federated.train(rounds=4)
        assert isinstance(federated.cost(SECOND, Retrain(), adaptive=False).guarantee, Exact)
        federated.delete(FIRST, FineTune(length=1), adaptive=True)
        found = federated.cost(SECOND, Retrain(), adaptive=False).guarantee
        assert isinstance(found, Certified)
        assert found.epsilon == federated.deletion(SECOND, adaptive=False).last_epsilon


def test_settings_chosen_late_weaken_what_was_proved_before():
    with started() as federated:
        federated.train(rounds=4)
        federated.delete(FIRST, Rollback(), adaptive=False)
        federated.delete(SECOND, Scrub(length=1), adaptive=False)
        assert isinstance(federated.executed[0].guarantee, Certified)


def test_a_state_with_more_releases_takes_the_place_of_the_checkpoint_of_its_round():
    """A client that was never charged leaves by scrub; another was in those rounds, and then asks for a rollback."""
    joins = {"silo-4": 4, "silo-3": 4}
    with started(joins=joins, methods=[Scrub(length=2)], minimum=3) as federated:
        federated.train(rounds=4)
        federated.delete(DeletionRequest.whole_client("silo-4"), Scrub(length=2), adaptive=False)
        before = federated.state
        deletion = federated.deletion(DeletionRequest.whole_client("silo-3"), adaptive=False)
        assert deletion.last_epsilon > 0.0, "it was in the rounds of the scrub"
        assert deletion.joined_at < 4
        found = federated.delete(DeletionRequest.whole_client("silo-3"), Rollback(), adaptive=False)
        assert len(found.traffic) > 0
        assert found.state.model.digest != before.model.digest


def test_what_was_tried_out_counts_for_requests_that_may_have_seen_it():
    with started() as federated:
        federated.train(rounds=4)
        before = federated.deletion(SECOND, adaptive=False).last_epsilon
        federated.unlearn(SECOND, Scrub(length=2), adaptive=False)
        assert federated.deletion(SECOND, adaptive=False).last_epsilon > before


def test_a_client_that_no_round_has_touched_is_forgotten_exactly_whoever_chose():
    with started(joins={"silo-4": 5}) as federated:
        federated.train(rounds=2)
        found = federated.delete(FIRST, Rollback(), adaptive=True)
        assert isinstance(found.guarantee, Exact)
        assert found.traffic == (), "there is nothing to go back on"
        federated.train()
        assert federated.state.rounds == ROUNDS


def test_settings_that_were_not_declared_before_training_certify_no_more_than_the_last_model():
    late = Rollback(forget_epsilon=0.08)
    with started() as federated, started(methods=[late]) as declared:
        for each in (federated, declared):
            each.train()
        request = DeletionRequest.some_records("silo-0", (1,))
        weak, strong = (each.cost(request, late, adaptive=False).guarantee for each in (federated, declared))
        assert isinstance(weak, Certified)
        assert isinstance(strong, Certified)
        assert weak.epsilon == federated.deletion(request, adaptive=False).last_epsilon
        assert strong.epsilon < weak.epsilon
        assert "settings" in weak.reason


@pytest.mark.parametrize(
    ("method", "requirement", "able"),
    [
        (Scrub(length=1), Requirement(kind=Exact), "retrain, rollback"),
        (FineTune(length=1), Requirement(kind=Certified, epsilon=0.001), "retrain, rollback"),
    ],
)
def test_a_guarantee_that_cannot_be_given_is_refused_with_those_that_can(method, requirement, able):
    with started() as federated:
        federated.train()
        with pytest.raises(GuaranteeError, match=f"{method.name}.*those that can, here: {able}"):
            federated.delete(FIRST, method, require=requirement, adaptive=False)
        with pytest.raises(GuaranteeError, match="no registered method can, here"):
            federated.delete(FIRST, method, require=Requirement(kind=Exact), adaptive=True)
        assert list(federated.ledger.branches) == ["original"], "nothing was asked of anybody"
        assert isinstance(federated.unlearn(FIRST, Retrain(), require=requirement, adaptive=False).guarantee, Exact)


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: Requirement(kind=Heuristic), "kind"),
        (lambda: Requirement(kind=Exact, epsilon=1.0), "epsilon"),
        (lambda: Requirement(kind=Certified, epsilon=float("nan")), "epsilon"),
        (lambda: DeletionBatch(()), "requests"),
        (lambda: DeletionBatch(("silo-1",)), "requests\\[0\\]"),
        (lambda: DeletionRequest.whole_class(-1), "label"),
        (lambda: DeletionRequest.whole_class(True), "label"),
    ],
)
def test_bad_requirements_and_requests(make, argument):
    with pytest.raises(ArgumentError, match=argument):
        make()


def test_a_checkpoint_that_is_missing_or_corrupt_is_named_and_nothing_is_asked(tmp_path):
    module = mlp(5, (), 3, 0)
    plan = plan_for(module, clients=5, rounds=4, minimum=4, noise_multiplier=40.0)
    with federation(module=module, clients=silos(5), plan=plan, joins={"silo-4": 2}, directory=tmp_path) as federated:
        federated.train()
        (path,) = (tmp_path / "checkpoints").glob("*00002.safetensors")
        content = path.read_bytes()
        path.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
        with pytest.raises(CheckpointError, match=path.name):
            federated.unlearn(FIRST, Rollback(), adaptive=False)
        path.unlink()
        with pytest.raises(CheckpointError, match=path.name):
            federated.delete(FIRST, Rollback(), adaptive=True)
        assert federated.ledger.rounds("original") == (0, 1, 2, 3)
        spent = [event for event in federated.ledger.events() if event.branch != "original"]
        assert spent == []
        assert isinstance(federated.unlearn(FIRST, Retrain(), adaptive=False).guarantee, Exact)


def test_checkpoints_have_bounded_disk_and_rollback_takes_the_grid_there_is():
    with started(every=1, checkpoint_limit=4, rounds=12, joins={"silo-4": 7}) as federated:
        federated.train()
        assert federated.checkpoints.rounds == (0, 4, 8, 12)
        assert federated.cost(FIRST, Rollback(), adaptive=False).rounds == 12 - 4


def test_late_joiners_and_rare_participants_come_out_nearly_free():
    """What leaving costs follows the ledger: who joined late goes back little, who came seldom has paid little."""
    late = {"silo-4": 16}
    with started(rounds=20, joins=late) as federated:
        federated.train()
        cost = federated.cost(DeletionRequest.whole_client("silo-4"), Rollback(), adaptive=False)
        assert (cost.rounds, cost.retraining_rounds) == (4, 20)
        assert isinstance(cost.guarantee, Exact)

    def seldom(number, name):
        return name == "silo-4" and number % 10 != 3

    rarely = Rollback(forget_epsilon=0.1)
    module = mlp(5, (), 3, 0)
    plan = plan_for(module, clients=5, rounds=20, minimum=4, noise_multiplier=40.0)
    with federation(module=module, clients=silos(5), plan=plan, vanishes=seldom, methods=[rarely]) as federated:
        federated.train()
        one = DeletionRequest.some_records("silo-4", (0,))
        rare = federated.cost(one, rarely, adaptive=False)
        always = federated.cost(DeletionRequest.some_records("silo-0", (0,)), rarely, adaptive=False)
        assert rare.rounds < always.rounds, "two rounds in place of twenty"
        assert isinstance(rare.guarantee, Certified)
        assert rare.guarantee.epsilon <= 0.1
        assert np.isfinite(rare.guarantee.epsilon)


def test_the_client_unit_in_a_sequence():
    module = mlp(5, (), 3, 0)
    plan = plan_for(module, Unit.CLIENT, clients=5, rounds=3, minimum=3, noise_multiplier=40.0)
    with federation(Unit.CLIENT, module=module, clients=silos(5), plan=plan) as federated:
        federated.train(rounds=2)
        federated.delete(DeletionRequest.whole_client("silo-0"), Scrub(length=1), adaptive=True)
        federated.train()
        federated.delete(
            DeletionBatch((DeletionRequest.whole_client("silo-1"), DeletionRequest.whole_client("silo-3"))),
            Retrain(),
            adaptive=True,
        )
        assert [entry.forgotten_units for entry in federated.executed] == [1, 2]
        assert federated.state.rounds == 3
