"""A federation that was killed goes on: the same models bit for bit, each release charged once, a whole transcript."""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from command import environment
from killed_federations import LOOKED_AT, ROUNDS, SMALL
from small_federations import REQUESTS, federation, plan_for, silos

from secure_fu.crypto import InsecureDeterministicRandomness, Role
from secure_fu.crypto.identity_file import _StoredIdentities, _StoredIdentity, make_identities, read_identities
from secure_fu.crypto.wire import decode
from secure_fu.deletion import DeletionRequest
from secure_fu.errors import (
    AlreadyForgotten,
    ArgumentError,
    CryptoError,
    HistoryError,
    LedgerError,
    ProtocolError,
    RecordError,
    TranscriptError,
)
from secure_fu.federation import Federation
from secure_fu.learning import Records, mlp
from secure_fu.privacy import Unit
from secure_fu.protocol import verify_transcript
from secure_fu.unlearning import Correction, Eraser, FineTune, Retrain, Rollback, Scrub

# By place and call: how many rounds the kill leaves charged without a release.
KILLS = {
    "unlearn/reserving/2": 1,
    "unlearn/saved/2": 0,
    "unlearn/begun a branch/2": 0,
    "unlearn/accepting/18": 1,
    "unlearn/uploading/18": 1,
    "unlearn/voting/18": 1,
    "unlearn/logging/5": 1,
    "unlearn/logged/5": 0,
    "unlearn/committed/5": 0,
    "delete/committed/2": 0,
    "delete/logged/5": 0,
    "delete/voting/22": 1,
    "delete/destroying/1": 0,
    "delete/destroyed/1": 0,
}


@pytest.fixture(scope="module")
def stories(tmp_path_factory):
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, str(here / "killed_federations.py"), str(tmp_path_factory.mktemp("killed")), *KILLS],
        env={**environment(), "PYTHONPATH": f"{here}:{here.parent}"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def said(life, label):
    return [content for name, content in life if name == label]


@pytest.mark.parametrize("name", KILLS)
def test_what_was_released_before_the_kill_is_released_again_bit_for_bit(stories, name):
    first, second = stories[name][:2]
    trained = dict([*said(first, "found"), *said(first, "trained")])
    (found,) = said(second, "found")
    if said(first, "outcome") or not said(second, "outcome"):
        return  # the kill came after the deletion was executed, see below
    rounds, model = found
    # The newest released round is there, seen or not; nothing that was seen is another one now.
    assert max(trained) <= rounds <= max(trained) + 1
    assert trained.get(rounds, model) == model
    assert [rounds for rounds, _ in said(second, "trained")] == list(range(rounds + 1, ROUNDS + 1))
    forgot = said(first, "forgot")
    assert said(second, "forgot")[: len(forgot)] == forgot
    assert len(said(second, "forgot")) == ROUNDS
    assert said(second, "outcome") == said(second, "forgot")[-1:]


@pytest.mark.parametrize("name", KILLS)
def test_each_release_is_charged_once_and_the_transcript_holds(stories, name):
    second = stories[name][1]
    (ledger,) = said(second, "ledger")
    ((_, trained), (branch, forgot)) = said(second, "transcript")[0]
    assert branch == ("unlearn/retrain" if name.startswith("unlearn") else "unlearn/rollback")
    assert (len(trained), len(forgot)) == (ROUNDS, ROUNDS)
    committed = {(branch, number) for branch, number, status in ledger if status == "committed"}
    assert committed == {*(("original", number) for number in trained), *((branch, number) for number in forgot)}
    # The round that was under way stays charged, and no other.
    assert len(ledger) == 2 * ROUNDS + KILLS[name]
    assert [status for *_, status in ledger].count("reserved") == KILLS[name]
    assert said(second, "unreleased") == [KILLS[name]]
    assert len({(branch, number) for branch, number, _ in ledger}) == len(ledger)


@pytest.mark.parametrize("name", LOOKED_AT)
def test_whoever_opens_it_later_finds_the_same(stories, name):
    _, second, third = stories[name]
    for label in ("ledger", "transcript", "checkpoints", "lineages", "executed", "logs", "end"):
        assert said(third, label) == said(second, label) != []


@pytest.mark.parametrize("name", [name for name in KILLS if name.startswith("delete")])
def test_an_executed_deletion_stays_executed_and_what_knew_the_data_is_gone(stories, name):
    first, second = stories[name][:2]
    ((executed,),) = said(second, "executed")
    assert executed[0] == "unlearn/rollback"
    assert executed[1].startswith("Exact")
    (lineages,) = said(second, "lineages")
    assert all(branch == "unlearn/rollback" for lineage in lineages for branch, _ in lineage)
    assert said(second, "logs") == [{"original": 0, "unlearn-rollback": 0}]
    (end,) = said(second, "end")
    models = said(second, "forgot") or said(first, "forgot")
    assert end == [ROUNDS, models[-1]]


# Opening, without kills


def module():
    return mlp(5, (), 3, 0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A directory with two rounds of training and a method that was tried out; tests copy it."""
    directory = tmp_path_factory.mktemp("trained")
    with made(directory) as federated:
        federated.train()
        outcome = federated.unlearn(REQUESTS[Unit.RECORD], FineTune(length=2), adaptive=False)
        state = federated.state
    return directory, state, outcome.state


def made(directory, **arguments):
    plan = plan_for(module(), branch_rounds=8)
    arguments = {"resumable": True, **arguments}
    return federation(scheme_name="kahe", committee=SMALL, plan=plan, directory=directory, **arguments)


@pytest.fixture
def directory(trained, tmp_path):
    shutil.copytree(trained[0], tmp_path / "copy")
    return tmp_path / "copy"


def opened(directory, **arguments):
    return Federation.open(directory, module(), arguments.pop("clients", silos()), **arguments)


def test_a_closed_federation_is_opened_and_goes_on(trained, directory):
    _, state, _ = trained
    with opened(directory) as federated:
        assert federated.state.model.encode() == state.model.encode()
        assert federated.state.velocity.tobytes() == state.velocity.tobytes()
        federated.delete(REQUESTS[Unit.RECORD], Rollback(), adaptive=True)
        (executed,) = federated.executed
    with opened(directory) as federated:
        assert len(federated.executed) == 1
        assert federated.executed[0].guarantee == executed.guarantee
        with pytest.raises(AlreadyForgotten):
            federated.delete(REQUESTS[Unit.RECORD], Rollback(), adaptive=True)
        federated.unlearn(REQUESTS[Unit.CLIENT], FineTune(length=1), adaptive=False)
        branches = verify_transcript(directory / "transcript.jsonl", roster=federated.roster, policy=federated.policy)
        assert [branch.name for branch in branches] == [
            *("original", "unlearn/finetune", "unlearn/rollback", "unlearn/finetune#2")
        ]


def test_forgotten_records_need_not_be_brought_again(directory):
    with opened(directory) as federated:
        federated.delete(REQUESTS[Unit.CLIENT], Retrain(), adaptive=True)
    clients = silos()
    gone = clients["silo-1"]
    clients["silo-1"] = Records(gone.features * 0, gone.labels * 0, gone.groups)
    with opened(directory, clients=clients) as federated:
        federated.unlearn(DeletionRequest.some_records("silo-2", (1,)), Retrain(), adaptive=False)


def test_the_same_again_is_given_again_and_something_else_is_not(trained, directory):
    _, _, outcome = trained
    with opened(directory) as federated:
        rounds = len(list(federated.ledger.events()))
        again = federated.unlearn(REQUESTS[Unit.RECORD], FineTune(length=2), adaptive=False)
        assert again.state.model.encode() == outcome.model.encode()
        assert len(list(federated.ledger.events())) == rounds
        # Asked a second time it is another counterfactual, as ever; and so is any other request or setting.
        for request, method in (
            (REQUESTS[Unit.RECORD], FineTune(length=2)),
            (REQUESTS[Unit.CLIENT], FineTune(length=2)),
            (REQUESTS[Unit.RECORD], FineTune(length=1)),
        ):
            before = set(federated.ledger.branches)
            federated.unlearn(request, method, adaptive=False)
            assert len(set(federated.ledger.branches) - before) == 1


def test_a_method_that_asks_otherwise_than_before_is_refused(directory, monkeypatch):
    """Another version of the code, say: what was released does not answer what it asks."""
    run = FineTune.run

    def other(self, sums, deletion, on_round):
        class Louder:
            def secure_sum(self, request):
                return sums.secure_sum(replace(request, settings={"louder": True}))

        return run(self, Louder(), deletion, on_round)

    monkeypatch.setattr(FineTune, "run", other)
    with opened(directory) as federated, pytest.raises(ProtocolError, match=r"settings is .*louder.*, was"):
        federated.unlearn(REQUESTS[Unit.RECORD], FineTune(length=2), adaptive=False)


def flip(path, at=-1):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(bytes(content))


def swapped(name):
    def swap(directory):
        other = directory.parent / "other"
        other.mkdir()
        with made(other) as federated:
            federated.train()
        shutil.copy(other / name, directory / name)

    return swap


REFUSALS = {
    "no directory": (shutil.rmtree, RecordError, r"federation\.json is missing, and .* does not exist"),
    "no founding": (lambda d: (d / "federation.json").unlink(), RecordError, "One whose setting up was interrupted"),
    "founding damaged": (lambda d: flip(d / "federation.json", 200), RecordError, r"federation\.json is damaged"),
    "no ledger": (lambda d: (d / "ledger.sqlite").unlink(), LedgerError, r"ledger\.sqlite is not a file"),
    "no keys": (lambda d: (d / "identities.bin").unlink(), CryptoError, "without its keys nothing can go on"),
    "keys damaged": (lambda d: flip(d / "identities.bin"), CryptoError, r"identities\.bin is damaged"),
    "keys cut": (lambda d: os.truncate(d / "identities.bin", 99), CryptoError, r"identities\.bin is damaged"),
    "keys open": (lambda d: (d / "identities.bin").chmod(0o640), CryptoError, "has mode 640.*expected 600"),
    "other keys": (swapped("identities.bin"), RecordError, r"identities\.bin is damaged or of another federation"),
    "other roster": (swapped("roster.bin"), RecordError, r"roster\.bin is damaged or of another federation"),
    "no policy": (lambda d: (d / "policy.toml").unlink(), RecordError, r"policy\.toml"),
    "other ledger": (swapped("ledger.sqlite"), TranscriptError, "was released, and the ledger does not say so"),
    "other founding": (swapped("federation.json"), RecordError, r"identities\.bin is damaged or of another"),
    "no members": (lambda d: (d / "committee.sqlite").unlink(), RecordError, r"committee\.sqlite does not exist"),
    "other members": (swapped("committee.sqlite"), RecordError, r"committee\.sqlite knows of no round after -1"),
    "no clients": (lambda d: (d / "clients" / "original.sqlite").unlink(), RecordError, r"original\.sqlite does not"),
    "other clients": (swapped("clients/original.sqlite"), RecordError, r"original\.sqlite knows of no round after -1"),
    "other lines": (swapped("transcript.jsonl"), TranscriptError, "line 1: the signature of 'server' for 'header'"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_directory_that_is_not_whole_is_refused(directory, case):
    damage, error, says = REFUSALS[case]
    damage(directory)
    with pytest.raises(error, match=says):
        opened(directory)


@pytest.mark.parametrize("client", ["silo-1", "silo-2"])
def test_a_torn_history_costs_the_methods_that_need_it_and_no_other(directory, client):
    folder = directory / "histories" / "clients" / client
    for path in folder.glob("round-*"):
        os.truncate(path, 50)
    request = REQUESTS[Unit.RECORD]
    with opened(directory) as federated:
        charged = len(list(federated.ledger.events()))
        for method in (Correction(length=1), Eraser(length=1)):
            with pytest.raises(HistoryError, match=f"'{client}' has lost its history.*round-00000000"):
                federated.unlearn(request, method, adaptive=False)
        assert len(list(federated.ledger.events())) == charged, "refused before any round"
        federated.unlearn(request, Scrub(length=1), adaptive=False)
        federated.delete(request, Rollback(), adaptive=True)
    assert [path.name for path in folder.iterdir()] == ["lost"]
    with opened(directory) as federated, pytest.raises(HistoryError, match="for good"):
        federated.unlearn(DeletionRequest.some_records("silo-3", (1,)), Correction(length=1), adaptive=False)


def test_what_was_fixed_beforehand_cannot_be_changed(directory):
    plan = plan_for(module(), branch_rounds=8)
    arguments = {"plan": plan, "scheme_name": "kahe", "committee": SMALL, "directory": directory, "new": False}
    clients = silos()
    for changes, says in (
        ({"plan": plan_for(module(), rounds=3, branch_rounds=8)}, r"plan\.recipe\.rounds is 3; expected 2, as"),
        ({"plan": plan_for(module(), branch_rounds=9)}, r"plan\.recipe\.noise_multiplier is"),
        ({"clients": {**clients, "silo-9": clients["silo-1"]}}, "clients is .*silo-9"),
        ({"scheme_name": "plain"}, "scheme_name is 'plain'; expected 'kahe'"),
        ({"joins": {"silo-1": 1}}, r"facts\.joins is"),
        ({"methods": [FineTune(length=7)]}, r"methods is .*\"length\":7.*; expected methods that were declared"),
        ({"committee": type(SMALL)(members=5, threshold=3, quorum=4, corrupt=1)}, "committee is"),
        ({"module": mlp(5, (), 3, 1)}, r"facts\.start is"),
        ({"randomness": InsecureDeterministicRandomness(0)}, "repeat the noise of earlier rounds"),
        ({"directory": None}, "a directory that outlives the process"),
    ):
        given = {**arguments, "module": module(), "clients": clients, **changes}
        with pytest.raises(ArgumentError, match=says):
            Federation(given.pop("module"), given.pop("clients"), **given)
    opened(directory).close()  # nothing was left locked or changed


def test_a_directory_has_one_process(directory):
    with opened(directory), pytest.raises(LedgerError, match="open in another process"):
        opened(directory)
    with pytest.raises(LedgerError, match="exists"):
        made(directory)
    opened(directory).close()


def test_no_second_federation_is_made_where_setting_up_was_interrupted(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "secure_fu.federation.party_directory.write_founding", lambda *_: (_ for _ in ()).throw(OSError("killed"))
    )
    with pytest.raises(OSError, match="killed"):
        made(tmp_path)
    monkeypatch.undo()
    with pytest.raises(LedgerError, match="exists"):
        made(tmp_path)
    with pytest.raises(RecordError, match="delete it and begin anew"):
        opened(tmp_path)


# Keys


def test_without_being_asked_to_nothing_writes_keys_or_sums(tmp_path):
    with made(tmp_path, resumable=False) as federated:
        federated.train()
        federated.unlearn(REQUESTS[Unit.RECORD], FineTune(length=1), adaptive=False)
        federated.delete(REQUESTS[Unit.RECORD], Rollback(), adaptive=True)
    names = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*") if path.is_file()}
    assert not names & {"identities.bin", "releases", "federation.json", "main_line.json"}
    with pytest.raises(RecordError, match="made resumable"):
        opened(tmp_path)
    with pytest.raises(ArgumentError, match="a directory that outlives the process"):
        made(None)


def test_keys_come_back_and_belong_to_their_owner_alone(tmp_path):
    umask = os.umask(0)
    try:
        identities = make_identities(tmp_path / "keys", {"client": Role.CLIENT, "server": Role.SERVER})
    finally:
        os.umask(umask)
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o600
    again = read_identities(tmp_path / "keys")
    assert {name: one.party for name, one in again.items()} == {name: one.party for name, one in identities.items()}
    assert again["client"].sign("test", b"x") == identities["client"].sign("test", b"x")
    before = (tmp_path / "keys").read_bytes()
    with pytest.raises(CryptoError, match="exists"):
        make_identities(tmp_path / "keys", {"client": Role.CLIENT})
    assert (tmp_path / "keys").read_bytes() == before


def test_secrets_are_neither_shown_nor_pickled(tmp_path, caplog, monkeypatch):
    drawn = []
    urandom = os.urandom
    monkeypatch.setattr(os, "urandom", lambda size: drawn.append(urandom(size)) or drawn[-1])
    identities = make_identities(tmp_path / "keys", {"client": Role.CLIENT})
    monkeypatch.undo()
    (secret,) = drawn
    assert secret in (tmp_path / "keys").read_bytes()  # or there would be nothing to look for
    read = read_identities(tmp_path / "keys")
    stored = _StoredIdentity(name="client", role=Role.CLIENT, secret=secret)
    for one in (identities["client"], read["client"], stored):
        assert "redacted" in repr(one)
        for action in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError):
                action(one)
    (tmp_path / "keys").write_bytes((tmp_path / "keys").read_bytes() + b"x")
    with pytest.raises(CryptoError) as caught:
        read_identities(tmp_path / "keys")
    shown = f"{caught.value!r} {caught.value.__context__!r} {caplog.text}"
    assert not any(part in shown for part in (secret.hex(), repr(secret), repr(secret[:8])[2:-1]))


def test_nothing_but_the_key_file_has_the_keys(directory):
    stored = decode(_StoredIdentities, (directory / "identities.bin").read_bytes()[32:]).identities
    pieces = [one.secret[start : start + 16] for one in stored for start in range(0, 128, 16)]
    assert len(pieces) == 8 * (4 + 1 + SMALL.members)
    others = [path for path in directory.rglob("*") if path.is_file() and path.name != "identities.bin"]
    assert len(others) > 10
    for path in others:
        content = path.read_bytes()
        assert not any(piece in content or piece.hex().encode() in content for piece in pieces)
