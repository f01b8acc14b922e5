"""The default run under scheme `kahe`, every client and member a process of its own, some of them killed at random."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import torch

from secure_fu.config_file import load_preset, with_overrides
from secure_fu.crypto import CommitteeTerms, Identity, OsRandomness, Role, Roster
from secure_fu.errors import PolicyRefusal, ProtocolError, SecureFUError
from secure_fu.learning import FlatModel, PerRecordGradients
from secure_fu.privacy import Grid, PrivacyLedger
from secure_fu.protocol import (
    Client,
    ClientRecord,
    CommitteeEncryption,
    CommitteeOpening,
    CommitteeServer,
    InProcessSums,
    Member,
    MemberRecord,
    Policy,
    ReleasedModel,
    ReleasedSum,
    Run,
    SumRequest,
    Transcript,
    kahe_parameter_sets,
    read_policy,
    verify_transcript,
    write_policy,
)
from secure_fu.scenario import build_scenario
from secure_fu.simulation import plan_of
from secure_fu.training import TRAIN, Silo, TrainingState, train, training_task

TERMS = CommitteeTerms(members=10, threshold=7, quorum=7, corrupt=3)
ROUNDS = 100
FORK = multiprocessing.get_context("fork")


class Process:
    """A party in a process of its own: bytes in, bytes out, until it is killed."""

    def __init__(self, name: str, answer: Callable[[str, bytes], bytes]) -> None:
        self.name = name
        self._pipe, theirs = FORK.Pipe()
        self._process = FORK.Process(target=self._serve, args=(theirs, answer), daemon=True)
        self._process.start()
        theirs.close()

    def _serve(self, pipe: Connection, answer: Callable[[str, bytes], bytes]) -> None:
        self._pipe.close()
        while True:
            try:
                kind, message = pipe.recv()
            except EOFError:
                return
            try:
                pipe.send((True, answer(kind, message)))
            except SecureFUError as error:
                pipe.send((False, str(error).encode()))

    def ask(self, kind: str, message: bytes) -> bytes:
        try:
            self._pipe.send((kind, message))
            done, answer = self._pipe.recv()
        except (EOFError, OSError):
            raise ProtocolError(f"{self.name} is gone") from None
        if not done:
            raise ProtocolError(answer.decode())
        return answer

    def kill(self) -> None:
        os.kill(self._process.pid, signal.SIGKILL)

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


class RemoteMember:
    """Stands where the driver expects a member."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.name = process.name

    def vote(self, ballot: bytes) -> bytes:
        return self._process.ask("vote", ballot)

    def answer(self, quorum: bytes) -> bytes:
        return self._process.ask("answer", quorum)


class RemoteClient:
    """Stands where the driver expects a client, an accepted round and an upload in the making."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._upload = b""
        self.failure = None

    def accept(self, invitation: bytes) -> RemoteClient:
        try:
            self._upload = self._process.ask("respond", invitation)
        except ProtocolError as error:
            raise PolicyRefusal(str(error)) from None
        return self

    def begin(self) -> RemoteClient:
        return self

    def finish(self) -> bytes:
        return self._upload


class TellingEncryption(CommitteeEncryption):
    """Also writes down what it encrypts, so that the test can add it up."""

    def __init__(self, *, roster: Roster, directory: Path) -> None:
        super().__init__(roster=roster)
        self._directory = directory

    def begin(self, invitation, header, client, values):
        np.save(self._directory / f"{header.round_number}-{client}.npy", values)
        return super().begin(invitation, header, client, values)


class Watched:
    """The driver, with an eye on each release, and a kill now and then in the middle of a round."""

    def __init__(self, sums: InProcessSums, kills: dict[int, list[tuple[float, Process]]]) -> None:
        self._sums = sums
        self._kills = kills
        self.released: list[tuple[SumRequest, ReleasedSum]] = []

    def secure_sum(self, request: SumRequest) -> ReleasedSum:
        timers = [threading.Timer(delay, process.kill) for delay, process in self._kills.pop(self._sums.next_round, [])]
        for timer in timers:
            timer.start()
        released = self._sums.secure_sum(request)
        for timer in timers:
            timer.join()
        self.released.append((request, released))
        return released


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # children are forked, and torch's pool would not survive that
    yield
    torch.set_num_threads(before)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_the_default_run_survives_two_members_and_three_clients_killed_at_random(tmp_path, one_thread):
    config = with_overrides(
        load_preset("digits-silos"),
        ["protocol.minimum_cohort=6", "unlearning.methods=[]"],
    )
    scenario = build_scenario(config)
    plan = plan_of(config, scenario)
    model = FlatModel(scenario.module)
    gradients = PerRecordGradients(model)
    silos = {
        name: Silo.of(name, records, model, gradients, keeps_history=False, stacked=None)
        for name, records in sorted(scenario.clients.items())
    }
    committee = tuple(f"member-{number}" for number in range(TERMS.members))
    identities = {name: Identity.generate(name, Role.CLIENT) for name in silos}
    identities |= {name: Identity.generate(name, Role.MEMBER) for name in committee}
    identities["server"] = Identity.generate("server", Role.SERVER)
    roster = Roster.of(identity.party for identity in identities.values())
    policy = Policy(
        server="server",
        committee=committee,
        terms=TERMS,
        roster_digest=roster.digest,
        unit=plan.recipe.unit,
        budget=plan.budget,
        clip_norm=plan.recipe.clip_norm,
        saturation=plan.recipe.saturation,
        noise_multiplier=plan.recipe.noise_multiplier,
        sampling_rate=plan.recipe.sampling_rate,
        minimum_cohort=plan.minimum_cohort,
        colluders=plan.colluders,
        purposes=frozenset({TRAIN}),
        parameter_sets=kahe_parameter_sets(),
    )
    (tmp_path / "roster.bin").write_bytes(roster.encode())
    write_policy(policy, tmp_path / "policy.toml")

    def member_answer(name: str) -> Callable[[str, bytes], bytes]:
        made: list[Member] = []

        def answer(kind: str, message: bytes) -> bytes:
            if not made:
                record = MemberRecord(tmp_path / f"{name}.sqlite", new=True)
                made.append(Member(identities[name], roster=roster, policy=policy, record=record))
            return made[0].vote(message) if kind == "vote" else made[0].answer(message)

        return answer

    def client_answer(name: str) -> Callable[[str, bytes], bytes]:
        made: list[Client] = []

        def answer(kind: str, message: bytes) -> bytes:
            if not made:
                made.append(
                    Client(
                        identities[name],
                        roster=roster,
                        policy=policy,
                        encryption=TellingEncryption(roster=roster, directory=tmp_path),
                        tasks={TRAIN: training_task(silos[name])},
                        randomness=OsRandomness(),
                        record=ClientRecord(tmp_path / f"{name}.sqlite", new=True),
                    )
                )
            return made[0].respond(message)

        return answer

    processes = {name: Process(name, member_answer(name)) for name in committee}
    processes |= {name: Process(name, client_answer(name)) for name in silos}
    try:
        victims = random.sample(committee, 2) + random.sample(sorted(silos), 3)
        kills: dict[int, list[tuple[float, Process]]] = {}
        for name in victims:
            at = random.randrange(1, ROUNDS - 1)
            kills.setdefault(at, []).append((random.uniform(0.0, 0.2), processes[name]))
        with PrivacyLedger.create(tmp_path / "ledger.sqlite", budget=plan.budget) as ledger:
            ledger.branch("original")
            run = Run(
                run_id=os.urandom(16),
                roster=roster,
                policy=policy,
                ledger=ledger,
                branch="original",
                transcript=Transcript(path=tmp_path / "transcript.jsonl", branch="original"),
            )
            server = CommitteeServer(identities["server"], run)
            sums = InProcessSums(
                opening=CommitteeOpening(
                    server,
                    [RemoteMember(processes[name]) for name in committee],  # type: ignore[misc]
                    MemberRecord(),
                ),
                clients={name: RemoteClient(processes[name]) for name in silos},  # type: ignore[misc]
                record=ClientRecord(),
                cohort=lambda number: tuple(name for name in silos if scenario.joins.get(name, 0) <= number),
            )
            watched = Watched(sums, kills)
            start = TrainingState.initial(ReleasedModel.public(model.vector()))
            state = train(watched, plan.recipe, start, ROUNDS)
    finally:
        for process in processes.values():
            process.end()

    assert state.rounds == ROUNDS
    assert len(watched.released) == ROUNDS
    alive = set(silos) - set(victims)
    assert set(watched.released[-1][1].participants) == alive
    for _, released in watched.released:
        said = [np.load(tmp_path / f"{released.round_number}-{name}.npy") for name in released.participants]
        np.testing.assert_array_equal(released.values, sum(said) * step_of(plan, model))
    # From outside: the files alone, and what was pinned.
    (branch,) = verify_transcript(
        tmp_path / "transcript.jsonl",
        roster=Roster.decode((tmp_path / "roster.bin").read_bytes()),
        policy=read_policy(tmp_path / "policy.toml"),
    )
    assert [release.participants for release in branch.releases] == [r.participants for _, r in watched.released]


def step_of(plan, model) -> float:
    return Grid.fine(
        clip_norm=plan.recipe.clip_norm,
        dimension=model.dimension,
        saturation=plan.recipe.saturation,
        unit=plan.recipe.unit,
    ).step
