"""A federation's model is what its clients' contributions and noise make of it, also after accidents and interrupts."""

from __future__ import annotations

import numpy as np
import pytest
from machines import Tape
from small_federations import digests_of_checkpoints

from secure_fu.crypto import InsecureDeterministicRandomness
from secure_fu.deletion import DeletionRequest
from secure_fu.federation import Federation
from secure_fu.learning import Records, mlp
from secure_fu.planning import make_plan
from secure_fu.privacy import Grid, NoiseShare, Phase, Subject, Unit, assured_clients
from secure_fu.training import TrainingTask
from secure_fu.unlearning import FineTune, Retrain

ROUNDS = 4


class Kept:
    """Every contribution that a client's training code returned, in order; can be interrupted once."""

    def __init__(self, monkeypatch):
        self.contributions = {}
        self.interrupt_at = None
        original = TrainingTask.contribution

        def contribution(task, model, terms, stream):
            name = task._silo.name
            if self.interrupt_at == (terms.round_number, name):
                self.interrupt_at = None
                raise KeyboardInterrupt
            result = original(task, model, terms, stream)
            self.contributions.setdefault((name, terms.round_number), []).append(result)
            return result

        monkeypatch.setattr(TrainingTask, "contribution", contribution)


@pytest.fixture
def kept(monkeypatch):
    return Kept(monkeypatch)


class NumberedTape(Tape):
    """Knows in which round a client drew its noise: the contributions before it tell."""

    def __init__(self, kept, inner=None):
        super().__init__(inner)
        self._kept = kept
        self.noise = {}

    def stream(self, label):
        stream = super().stream(label)
        kind, name = label.split("/")[:2]
        if kind == "noise":
            number = max(number for client, number in self._kept.contributions if client == name)
            assert (name, number) not in self.noise, "noise is drawn once a round"
            self.noise[name, number] = stream
        return stream


def federation(tape, **arguments):
    draw = np.random.default_rng(11)
    clients = {f"silo-{n}": Records.from_arrays(draw.normal(size=(10, 5)), draw.integers(0, 3, 10)) for n in range(4)}
    module = mlp(5, (), 3, 0)
    plan = make_plan(
        module, clients=4, nominal_units=40, minimum_cohort=3, rounds=ROUNDS, sampling_rate=0.5, checkpoint_every=1
    )
    return Federation(module, clients, plan=plan, randomness=tape, **arguments)


def replay(federated, tape, kept, state, branch):
    """The models that a branch's released rounds make of a state, from contributions and noise alone."""
    recipe, dimension = federated.recipe, federated.model.dimension
    grid = Grid.fine(recipe.clip_norm, dimension, recipe.saturation, Unit.RECORD)
    share = NoiseShare(
        noise_multiplier=recipe.noise_multiplier,
        sensitivity=grid.sensitivity,
        step=grid.step,
        assured=assured_clients(3, 1),
    )
    weights, velocity = state.model.vector, state.velocity
    models = []
    for event in federated.ledger.events(branch):
        if event.participants is None:
            continue
        total = np.zeros(dimension)
        for name in event.participants:
            (contribution,) = kept.contributions[name, event.round_number]
            clamped = np.clip(contribution, -recipe.saturation, recipe.saturation)
            noise = tape.noise[name, event.round_number].replayed(share, dimension)
            total += np.rint(clamped / grid.step) + noise
        velocity = recipe.momentum * velocity + total * grid.step / (recipe.sampling_rate * recipe.nominal_units)
        weights = (weights.astype(np.float64) - recipe.learning_rate * velocity).astype(np.float32)
        models.append(weights)
    return models


def assert_right(federated, tape, kept):
    expected = replay(federated, tape, kept, federated.checkpoints.load(0), "original")
    assert len(expected) == len(federated.checkpoints.rounds) - 1 == ROUNDS
    for done, model in enumerate(expected, start=1):
        state = federated.checkpoints.load(done)
        assert model == pytest.approx(state.model.vector, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("scheme_name", ["bfv", "plain"])
def test_every_model_is_the_sum_of_the_participants_contributions_and_noise(kept, scheme_name):
    tape = NumberedTape(kept)
    absent = {(1, "silo-0"), (2, "silo-3")}
    with federation(tape, scheme_name=scheme_name, vanishes=lambda n, name: (n, name) in absent) as federated:
        federated.train()
        assert_right(federated, tape, kept)
        request = DeletionRequest.some_records("silo-1", (0, 4, 5))
        kept.contributions.clear()
        tape.noise.clear()
        unlearned = federated.unlearn(request, Retrain(), adaptive=False)
        branch = replay(federated, tape, kept, federated.checkpoints.load(0), "unlearn/retrain")
        assert len(branch) == ROUNDS
        assert branch[-1] == pytest.approx(unlearned.state.model.vector, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("client", ["silo-0", "silo-2", "silo-3"])
@pytest.mark.parametrize("number", [0, 2])
def test_an_interrupt_inside_a_clients_code_voids_the_round_and_training_goes_on_to_the_right_model(
    kept, number, client
):
    tape = NumberedTape(kept)
    kept.interrupt_at = (number, client)
    with federation(tape, scheme_name="bfv") as federated:
        with pytest.raises(KeyboardInterrupt):
            federated.train()
        assert federated.state.rounds == number
        assert federated.ledger.pending() == ()
        assert [event.status.value for event in federated.ledger.events()] == ["committed"] * number + ["void"]
        for name in federated.clients:
            spent = federated.ledger.event_counts("original", name, Subject.FORGOTTEN, Phase.TRAINING)
            assert spent.total() == number
        federated.train()
        assert federated.ledger.rounds("original") == tuple(n for n in range(ROUNDS + 1) if n != number)
        assert_right(federated, tape, kept)
        assert (
            federated.unlearn(DeletionRequest.whole_client(client), FineTune(length=1), adaptive=False)
            .traffic[0]
            .uploads
            == 4
        )


def test_an_interrupt_in_an_unlearning_branch_leaves_the_original_and_another_try_is_right(kept):
    tape = NumberedTape(kept)
    with federation(tape, scheme_name="plain") as federated:
        federated.train()
        trained = federated.state
        kept.interrupt_at = (ROUNDS + 1, "silo-2")
        request = DeletionRequest.whole_client("silo-2")
        with pytest.raises(KeyboardInterrupt):
            federated.unlearn(request, Retrain(), adaptive=False)
        assert federated.ledger.rounds("unlearn/retrain") == (ROUNDS,)
        kept.contributions.clear()
        tape.noise.clear()
        unlearned = federated.unlearn(request, Retrain(), adaptive=False)
        assert federated.state is trained
        branch = replay(federated, tape, kept, federated.checkpoints.load(0), "unlearn/retrain#2")
        assert branch[-1] == pytest.approx(unlearned.state.model.vector, rel=1e-6, abs=1e-7)


def test_who_leaves_still_uploads_noise_and_nothing_else(kept):
    tape = NumberedTape(kept)
    with federation(tape, scheme_name="plain") as federated:
        federated.train()
        kept.contributions.clear()
        tape.noise.clear()
        federated.unlearn(DeletionRequest.whole_client("silo-2"), Retrain(), adaptive=False)
    rounds = range(ROUNDS, 2 * ROUNDS)
    for number in rounds:
        (contribution,) = kept.contributions["silo-2", number]
        assert not contribution.any()
        assert len(tape.noise["silo-2", number].handed_out) >= federated.model.dimension
    assert any(kept.contributions["silo-1", number][0].any() for number in rounds)


def test_the_same_seed_gives_the_same_models_and_another_one_does_not():
    def models(seed):
        with federation(InsecureDeterministicRandomness(seed), scheme_name="plain") as federated:
            federated.train()
            unlearned = federated.unlearn(DeletionRequest.whole_client("silo-0"), FineTune(length=1), adaptive=False)
            return [*digests_of_checkpoints(federated), unlearned.state.model.digest]

    assert models(5) == models(5)
    assert all(one != two for one, two in zip(models(5)[1:], models(6)[1:], strict=True))
