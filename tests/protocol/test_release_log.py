"""A branch that is run again reads the sums that it was given before; what a kill has cut short is settled once."""

from __future__ import annotations

import os
import re
import signal
from dataclasses import fields, replace

import numpy as np
import pytest
from machines import SERVER

from secure_fu.errors import ArgumentError, ProtocolError, RecordError, TranscriptError
from secure_fu.privacy import EventStatus, Phase, PrivacyLedger, Unit
from secure_fu.protocol import (
    KeyHolderServer,
    ReleasedModel,
    ReleaseLog,
    ResumableSums,
    SumRequest,
    Transcript,
    reconcile,
    verify_transcript,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
ROUNDS = 4


def contributions(client):
    return np.random.default_rng(client).normal(0.0, 0.3, 6)


class Federation:
    """The machines of a round with a server that logs."""

    def __init__(self, build, directory, **arguments):
        # Without threads: some tests fork.
        self.machines = build(contributions=contributions, scheme_name="plain", **arguments)
        self.directory = directory
        self.log = ReleaseLog(directory / "releases")
        self.serve(self.log.append, Transcript(path=directory / "transcript.jsonl", branch="original"))

    def serve(self, on_release, transcript):
        machines = self.machines
        self.transcript = transcript
        run = replace(machines.server._run, on_release=on_release, transcript=transcript, ledger=machines.ledger)
        machines.server = KeyHolderServer(machines.identities[SERVER], run, scheme=machines.scheme)

    def run(self, sums, rounds=ROUNDS, start=None, **changes):
        """A little training: each model is a function of the sums before it."""
        models = [ReleasedModel.public(np.zeros(6)) if start is None else start]
        for _ in range(rounds):
            released = sums.secure_sum(self.machines.request(model=models[-1], **changes))
            models.append(models[-1].derived(models[-1].vector + 0.1 * released.values, released))
        return models

    @property
    def released(self):
        return [event for event in self.machines.ledger.events() if event.status is EventStatus.COMMITTED]


@pytest.fixture
def federation(build, tmp_path):
    return Federation(build, tmp_path)


class Refuses:
    """Secure sums that nobody may ask."""

    def secure_sum(self, request):
        raise AssertionError("asked")


def encodings(models):
    return [model.encode() for model in models]


def test_a_run_from_the_log_gives_the_same_models_and_asks_nobody(federation):
    models = federation.run(federation.machines.sums())
    sums = ResumableSums(Refuses(), ReleaseLog(federation.directory / "releases"))
    assert sums.left == ROUNDS
    assert encodings(federation.run(sums)) == encodings(models)
    assert sums.left == 0
    assert len(federation.released) == ROUNDS
    with pytest.raises(AssertionError, match="asked"):
        federation.run(sums, 1)


def test_what_was_released_comes_back_in_every_field(federation):
    given = [federation.machines.sums(first_round=n).secure_sum(federation.machines.request()) for n in (3, 5)]
    log = ReleaseLog(federation.directory / "releases")
    assert log.rounds == (3, 5)
    for number, released in zip(log.rounds, given, strict=True):
        again = log.read(number).released
        assert again.values.tobytes() == released.values.tobytes()
        assert not again.values.flags.writeable
        for name in ("purpose", "round_number", "participants", "transcript"):
            assert getattr(again, name) == getattr(released, name)


def test_an_interrupted_run_goes_on_live_where_the_log_ends(federation):
    machines = federation.machines
    first = federation.run(machines.sums(), 2)
    sums = ResumableSums(machines.sums(first_round=2), ReleaseLog(federation.directory / "releases"))
    models = federation.run(sums)
    assert encodings(models[:3]) == encodings(first)
    assert [event.round_number for event in federation.released] == [0, 1, 2, 3]
    assert federation.log.rounds == (0, 1, 2, 3)


def test_a_state_kept_elsewhere_needs_only_the_later_sums(federation):
    models = federation.run(federation.machines.sums())
    federation.log.destroy(until=1)
    log = ReleaseLog(federation.directory / "releases")
    assert log.rounds == (2, 3)
    assert encodings(federation.run(ResumableSums(Refuses(), log), 2, models[2])) == encodings(models[2:])
    assert encodings(federation.run(ResumableSums(Refuses(), log, after=2), 1, models[3])) == encodings(models[3:])


OTHER = {
    "purpose": "train",
    "phase": Phase.UNLEARNING,
    "model": ReleasedModel.public(np.full(6, 1e-7)),
    "unit": Unit.GROUP,
    "clip_norm": 0.5,
    "saturation": 2.5,
    "noise_multiplier": 2.0000000001,
    "retained_rate": 0.25,
    "forgotten_rate": 0.25,
    "settings": {"steps": 2},
    "length": 5,
}


def test_every_field_of_a_request_has_to_be_the_same(federation):
    assert set(OTHER) == {item.name for item in fields(SumRequest)}  # a new field has to be told to the log
    machines = federation.machines
    federation.run(machines.sums(), 1)
    before = len(list(machines.ledger.events()))
    for name, value in OTHER.items():
        sums = ResumableSums(machines.sums(first_round=1), federation.log)
        with pytest.raises(ProtocolError, match=rf"request 1 of the resumed branch differs from round 0.*{name} is"):
            sums.secure_sum(machines.request(**{name: value}))
        assert sums.left == 1
    assert len(list(machines.ledger.events())) == before
    assert sums.secure_sum(machines.request(length=6)).round_number == 0  # the same, said otherwise


def test_a_log_that_does_not_compare_would_give_another_request_the_old_sum(federation, monkeypatch):
    machines = federation.machines
    federation.run(machines.sums(), 1)
    monkeypatch.setattr("secure_fu.protocol.release_log._asked_now", lambda _request: {})
    ResumableSums(Refuses(), federation.log).secure_sum(machines.request(**OTHER))


# Files


def files_of(federation):
    return sorted((federation.directory / "releases").iterdir())


def test_any_damage_is_found_and_the_file_named(federation):
    federation.run(federation.machines.sums(), 2)
    path = files_of(federation)[1]
    whole = path.read_bytes()
    for position in [*range(0, len(whole), 7), len(whole) - 1]:
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(RecordError, match=re.escape(str(path))):
            ReleaseLog(federation.directory / "releases")
    for length in (0, 10, 32, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(RecordError, match=r"damaged.*restore it; or delete it if it is the newest"):
            ReleaseLog(federation.directory / "releases")
    path.write_bytes(whole)
    assert ReleaseLog(federation.directory / "releases").rounds == (0, 1)


def test_a_hole_and_a_foreign_release_are_found(federation):
    federation.run(federation.machines.sums(), 3)
    paths = files_of(federation)
    whole = paths[1].read_bytes()
    paths[1].unlink()
    with pytest.raises(RecordError, match="does not follow round 0: a file between them is missing"):
        ReleaseLog(federation.directory / "releases")
    paths[1].write_bytes(paths[0].read_bytes())
    with pytest.raises(RecordError, match="it holds another round"):
        ReleaseLog(federation.directory / "releases")
    paths[1].write_bytes(whole)
    (federation.directory / "releases" / "notes.txt").write_text("mine")
    assert ReleaseLog(federation.directory / "releases").rounds == (0, 1, 2)


def test_files_are_their_owners_and_destroyed_ones_are_overwritten(federation):
    federation.run(federation.machines.sums(), 2)
    paths = files_of(federation)
    assert {path.stat().st_mode & 0o777 for path in paths} == {0o600}
    linked = federation.directory / "linked"
    os.link(paths[0], linked)
    size = linked.stat().st_size
    federation.log.destroy()
    assert linked.read_bytes() == bytes(size)
    assert files_of(federation) == []
    assert federation.log.rounds == ()


def test_a_torn_entry_is_dropped(federation):
    federation.run(federation.machines.sums(), 2)
    path = files_of(federation)[1]
    path.rename(path.with_name(f".{path.name}.part"))  # as a kill leaves it before the rename
    assert ReleaseLog(federation.directory / "releases").rounds == (0,)
    assert [left.name for left in files_of(federation)] == ["round-00000000.release"]


def test_what_does_not_follow_is_not_logged(federation):
    federation.run(federation.machines.sums(), 2)
    last = federation.log.read(1)
    with pytest.raises(ProtocolError, match="round 1 does not follow round 1"):
        federation.log.append(last.release, last.integers)
    assert federation.log.rounds == (0, 1)


def test_a_log_that_cannot_be_written_ends_the_round_and_the_charge_stays(federation, monkeypatch):
    machines = federation.machines
    federation.run(machines.sums(), 1)
    real = os.open

    def full(path, flags, *arguments, **named):
        if "release" in str(path) and flags & os.O_CREAT:
            raise OSError(28, "No space left on device")
        return real(path, flags, *arguments, **named)

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(RecordError, match=r"round-00000001\.release cannot be written.*counts as spent"):
        machines.sums(first_round=1).secure_sum(machines.request())
    monkeypatch.setattr(os, "open", real)
    assert [event.round_number for event in federation.released] == [0, 1]
    assert federation.log.rounds == (0,)
    machines.sums(first_round=2).secure_sum(machines.request())  # the chain goes on without it
    assert federation.log.rounds == (0, 2)


# Settling


def reopened(federation):
    """Everything from disk again, after a child was killed."""
    machines = federation.machines
    path = machines.ledger._file.path
    machines.ledger.close()
    machines.ledger = PrivacyLedger.open(path)
    federation.log = ReleaseLog(federation.directory / "releases")
    branches = reconcile(
        federation.directory / "transcript.jsonl",
        logs={"original": federation.log},
        ledger=machines.ledger,
        roster=machines.roster,
        policy=machines.policy,
    )
    assert set(branches) <= {"original"}
    head = branches["original"].head if branches else bytes(32)
    transcript = Transcript(path=federation.directory / "transcript.jsonl", start=head, branch="original")
    federation.serve(federation.log.append, transcript)
    return branches


def die(*_arguments, **_named):
    os.kill(os.getpid(), signal.SIGKILL)


def cut_line(transcript):
    """Half a line, as a kill in the middle of a write leaves it."""

    def append(header, release):
        real = transcript._path
        transcript._path = real.with_name("line")
        Transcript.append(transcript, header, release)
        line = transcript._path.read_bytes()
        with real.open("ab") as file:
            file.write(line[: len(line) // 2])
        die()

    return append


MOMENTS = {"before the log": 0, "after the log": 1, "after the commit": 1, "within the line": 1, "after the line": 1}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_release_that_a_kill_cut_is_settled_once(build, tmp_path, moment):
    federation = Federation(build, tmp_path)
    machines = federation.machines
    ledger_path = machines.ledger._file.path
    machines.ledger.close()  # the child opens its own, for a lock is a process's
    child = os.fork()
    if child == 0:
        machines.ledger = PrivacyLedger.open(ledger_path)
        federation.serve(federation.log.append, federation.transcript)
        models = federation.run(machines.sums(), 2)
        np.save(tmp_path / "model.npy", models[-1].vector)
        transcript = federation.transcript
        if moment == "before the log":
            federation.serve(die, transcript)
        elif moment == "after the log":
            machines.ledger.commit = die
        elif moment == "after the commit":
            transcript.append = die
        elif moment == "within the line":
            transcript.append = cut_line(transcript)
        append = transcript.append
        if moment == "after the line":
            transcript.append = lambda *arguments: (append(*arguments), die())
        federation.run(machines.sums(first_round=2), 1, models[-1])
        os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    machines.ledger = PrivacyLedger.open(ledger_path)
    branches = reopened(federation)
    settled = MOMENTS[moment]
    assert [release.round_number for release in branches["original"].releases] == list(range(2 + settled))
    assert [event.round_number for event in federation.released] == list(range(2 + settled))
    assert len(machines.ledger.pending()) == 1 - settled
    assert reopened(federation)["original"].releases == branches["original"].releases  # a second time nothing changes
    # The clients' own memory stays in this process and knows nothing of the child's rounds; numbers go on all the same.
    sums = ResumableSums(machines.sums(first_round=3), federation.log)
    models = federation.run(sums, 4)
    assert np.array_equal(models[2].vector, np.load(tmp_path / "model.npy"))
    numbers = [0, 1, 2, 3] if settled else [0, 1, 3, 4]
    assert [event.round_number for event in federation.released] == numbers
    (branch,) = verify_transcript(tmp_path / "transcript.jsonl", roster=machines.roster, policy=machines.policy)
    assert [release.round_number for release in branch.releases] == numbers


def test_without_the_log_the_cut_release_would_be_lost(build, tmp_path):
    """What :func:`reconcile` is for: without the write-ahead, the round is paid for and its sum gone."""
    federation = Federation(build, tmp_path)
    federation.serve(None, federation.transcript)
    federation.transcript.append = lambda *_: (_ for _ in ()).throw(ArgumentError("killed", 1, 0))
    with pytest.raises(ArgumentError):
        federation.run(federation.machines.sums(), 1)
    assert [event.round_number for event in federation.released] == [0]
    assert federation.log.rounds == ()


def test_files_that_do_not_belong_together_are_refused(federation):
    machines = federation.machines
    federation.run(machines.sums(), 2)
    path = federation.directory / "transcript.jsonl"
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for content, error, says in (
        (whole + b'{"branch": "', RecordError, "cut short and that no log"),
        (lines[1], TranscriptError, "line 1: it follows no earlier line"),
        (b"[]\n" + whole, RecordError, "is damaged"),
        (whole.replace(b'"train', b'"trial').replace(b"statistic/", b"statistik/"), TranscriptError, "line 1"),
    ):
        path.write_bytes(content)
        with pytest.raises(error, match=says):
            reopened(federation)
        federation.machines.ledger.close()
    path.write_bytes(whole)
    reopened(federation)
    federation.machines.ledger.close()
    # A ledger of another time, or federation: it has no such round.
    other = federation.directory / "other.sqlite"
    with PrivacyLedger.create(other, budget=machines.ledger.budget) as ledger:
        ledger.branch("original")
        with pytest.raises(RecordError, match="not of one federation"):
            reconcile(
                path,
                logs={"original": federation.log},
                ledger=ledger,
                roster=machines.roster,
                policy=machines.policy,
            )
    # Lost lines of the end come back from the log, all of them.
    machines.ledger = PrivacyLedger.open(machines.ledger._file.path)
    path.unlink()
    reopened(federation)
    assert path.read_bytes() == whole
