"""Copies of a server's directory: whole, of one moment, and never a way to get spent budget back."""

from __future__ import annotations

import io
import json
import shutil
import stat
import tarfile
import time

import pytest
from operations_cast import Operated, secrets_in

from secure_fu.crypto.identity_file import read_identities
from secure_fu.deletion import DeletionRequest
from secure_fu.deletion.queue import RequestQueue
from secure_fu.deletion.requests import SignedBatch, sign_request
from secure_fu.deployment.founding.bundle import write_bundle
from secure_fu.deployment.founding.setup import read_party_file, rotate_keys
from secure_fu.deployment.upkeep import Evidence, back_up, begin_epoch, changed_roster, restore, seen
from secure_fu.deployment.upkeep.backup import StaleBackup
from secure_fu.errors import ArgumentError, LedgerError, RecordError, SecureFUError
from secure_fu.privacy import PrivacyLedger
from secure_fu.unlearning import Retrain


@pytest.fixture
def operated(tmp_path):
    made = Operated(tmp_path / "federation")
    yield made
    made.stop()


def train(operated, rounds: int, *, new: bool = False) -> bytes:
    """Some rounds; the head after them."""
    operated.start(new=new)
    with operated.opened() as server:
        server.train(rounds=rounds)
        head = server._server.head("original")
    operated.stop()
    return head


def contents(folder):
    """Files by name, but for the scratch of SQLite."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(("-journal", "-wal", "-shm"))
    }


def test_a_restored_server_goes_on_where_the_copy_was_made(operated, tmp_path):
    head = train(operated, 2, new=True)
    manifest = back_up(operated.server, tmp_path / "copy.tar")
    assert manifest.heads == {"original": head.hex()}
    assert stat.S_IMODE((tmp_path / "copy.tar").stat().st_mode) == 0o600
    before = contents(operated.server)
    keys = (operated.server / "keys.bin").read_bytes()
    shutil.rmtree(operated.server)
    operated.server.mkdir(mode=0o700)
    (operated.server / "keys.bin").write_bytes(keys)  # kept apart, as they should be
    (operated.server / "keys.bin").chmod(0o600)
    restore(tmp_path / "copy.tar", operated.server, evidence=Evidence(heads=[head]))
    after = contents(operated.server)
    assert {name for name in before if name != "server.party"} == set(after)
    assert all(after[name] == before[name] for name in after if not name.endswith(".sqlite"))
    operated.start()
    with operated.opened() as server:
        assert server.state.rounds == 2
        server.train(rounds=1)
        assert server.state.rounds == 3


def test_the_copys_own_head_is_no_evidence_and_restoring_says_so(operated, tmp_path, capsys):
    from secure_fu.cli.backup import restore as command

    head = train(operated, 1, new=True)
    made = back_up(operated.server, tmp_path / "copy.tar")
    newest = train(operated, 1)
    assert made.heads["original"] == head.hex() != newest.hex()
    arguments = {"transcript": None, "nothing_newer": False}
    command(tmp_path / "copy.tar", tmp_path / "stale", head=[head.hex()], seen=None, **arguments)
    assert "WARNING: --head is the copy's own last head" in capsys.readouterr().err
    with pytest.raises(StaleBackup, match="the copy has no release"):
        command(tmp_path / "copy.tar", tmp_path / "never", head=[newest.hex()], seen=None, **arguments)
    back_up(operated.server, tmp_path / "newest.tar")
    (tmp_path / "seen.json").write_bytes(seen(operated.root / "silo-0"))
    command(tmp_path / "newest.tar", tmp_path / "good", head=[newest.hex()], seen=[tmp_path / "seen.json"], **arguments)
    assert capsys.readouterr().err == ""


def test_a_server_that_has_gone_back_is_told_so_by_those_who_refuse(operated, tmp_path, caplog):
    train(operated, 1, new=True)
    back_up(operated.server, tmp_path / "copy.tar")
    train(operated, 1)
    keys = (operated.server / "keys.bin").read_bytes()
    shutil.rmtree(operated.server)
    operated.server.mkdir(mode=0o700)
    (operated.server / "keys.bin").write_bytes(keys)
    (operated.server / "keys.bin").chmod(0o600)
    restore(tmp_path / "copy.tar", operated.server, evidence=Evidence(nothing_newer=True))
    operated.start()
    with operated.opened() as server, caplog.at_level("WARNING", "secure_fu"):
        server.survey()
        assert "may have gone back" not in caplog.text
        assert server.state.rounds == 1
        server.train(rounds=1)  # under a number that nobody has answered
    assert "party silo-0 refuses: this server may have gone back" in caplog.text


def test_keys_are_copied_only_when_asked_for(operated, tmp_path):
    back_up(operated.server, tmp_path / "without.tar")
    back_up(operated.server, tmp_path / "with.tar", with_keys=True)
    secrets = secrets_in(operated.server / "keys.bin")
    assert not any(secret in (tmp_path / "without.tar").read_bytes() for secret in secrets)
    assert all(secret in (tmp_path / "with.tar").read_bytes() for secret in secrets)
    restore(tmp_path / "with.tar", tmp_path / "again", evidence=Evidence(nothing_newer=True))
    assert stat.S_IMODE((tmp_path / "again" / "keys.bin").stat().st_mode) == 0o600
    assert read_identities(tmp_path / "again" / "keys.bin")


def test_a_copy_is_not_opened_without_anything_to_compare_it_with():
    with pytest.raises(ArgumentError, match="--nothing-newer"):
        Evidence()


@pytest.mark.parametrize("kind", ["transcript", "head", "seen by a client", "seen by a member"])
def test_a_ledger_that_went_back_is_refused(operated, tmp_path, kind):
    """The copy is of before the last round; what was spent since would be given back."""
    head = train(operated, 1, new=True)
    back_up(operated.server, tmp_path / "old.tar")
    known = evidence_of(operated, tmp_path, kind, head)
    restore(tmp_path / "old.tar", tmp_path / "same", evidence=known)  # nobody has seen more yet
    newer = train(operated, 1)
    late = evidence_of(operated, tmp_path, kind, newer)
    with pytest.raises(StaleBackup):
        restore(tmp_path / "old.tar", tmp_path / "again", evidence=late)
    assert not (tmp_path / "again").exists()
    assert not list(tmp_path.glob(".*restoring*"))
    # The broken variant, without a look at the evidence: the budget of a round is there again.
    restore(tmp_path / "old.tar", tmp_path / "blind", evidence=Evidence(nothing_newer=True))
    with PrivacyLedger.open(tmp_path / "blind" / "ledger.sqlite") as blind:
        events = sum(1 for _ in blind.events())
    with PrivacyLedger.open(operated.server / "ledger.sqlite") as true:
        assert sum(1 for _ in true.events()) == events + 1


def evidence_of(operated, tmp_path, kind: str, head: bytes) -> Evidence:
    if kind == "transcript":
        shutil.copy(operated.server / "transcript.jsonl", tmp_path / "kept.jsonl")
        return Evidence(transcripts=[tmp_path / "kept.jsonl"])
    if kind == "head":
        return Evidence(heads=[head])
    node = operated.root / ("silo-2" if kind == "seen by a client" else "member-1")
    (tmp_path / "seen.json").write_bytes(seen(node))
    return Evidence(seen=[tmp_path / "seen.json"])


def test_a_round_that_was_answered_and_never_released_counts_too(operated, tmp_path):
    """It was charged by the client's own record; a ledger that does not know it is older."""
    train(operated, 1, new=True)
    back_up(operated.server, tmp_path / "old.tar")
    operated.start()
    for name in ("member-0", "member-1"):
        operated.nodes.pop(name).close()  # nothing can be opened
    with operated.opened() as server, pytest.raises(SecureFUError):
        server.train(rounds=1)
    operated.stop()
    (tmp_path / "seen.json").write_bytes(seen(operated.root / "silo-2"))
    assert json.loads((tmp_path / "seen.json").read_bytes())["newest"]
    with PrivacyLedger.open(operated.server / "ledger.sqlite") as ledger:
        reserved = max(event.round_number for event in ledger.events())
    if max(json.loads((tmp_path / "seen.json").read_bytes())["newest"].values()) == 0:
        assert reserved == 0  # nobody was asked, nothing was charged
        return
    with pytest.raises(StaleBackup, match="has answered round"):
        restore(tmp_path / "old.tar", tmp_path / "again", evidence=Evidence(seen=[tmp_path / "seen.json"]))


def test_a_run_of_a_deletion_is_known_to_the_copy(operated, tmp_path):
    """Its id commits to the order, which the copy has too."""
    train(operated, 2, new=True)
    now = int(time.time())
    request = sign_request(
        read_identities(operated.root / "silo-1" / "keys.bin")["silo-1"],
        DeletionRequest.some_records("silo-1", (0, 3)),
        roster=operated.roster,
        units=2,
        submitted=now,
        deadline=now + 86_400,
    )
    operated.start()
    with operated.opened() as server:
        execution = server.delete(SignedBatch.of(now, (request,), 0), Retrain(), adaptive=False)
    operated.stop()
    back_up(operated.server, tmp_path / "new.tar")
    (tmp_path / "seen.json").write_bytes(seen(operated.root / "silo-2"))
    assert execution.run_id in json.loads((tmp_path / "seen.json").read_bytes())["newest"]
    known = Evidence(seen=[tmp_path / "seen.json"])
    restore(tmp_path / "new.tar", tmp_path / "again", evidence=known)
    (operated.server / "releases" / execution.branch.replace("/", "-") / "order.json").unlink()
    back_up(operated.server, tmp_path / "without.tar")
    with pytest.raises(StaleBackup, match="knows the run"):
        restore(tmp_path / "without.tar", tmp_path / "never", evidence=known)


def test_a_copy_of_an_earlier_epoch_is_refused(operated, tmp_path):
    train(operated, 2, new=True)
    back_up(operated.server, tmp_path / "old.tar")
    files = [read_party_file(rotate_keys(operated.root / "silo-1")["silo-1"])]
    begin_epoch(operated.server, changed_roster(operated.roster, files=files))
    write_bundle(operated.server, operated.bundle)
    for path in operated.root.iterdir():
        if path.is_dir() and path.name.startswith(("silo-", "member-")):
            operated.pin(path.name)
    train(operated, 2)
    back_up(operated.server, tmp_path / "new.tar")
    (tmp_path / "seen.json").write_bytes(seen(operated.root / "silo-2"))
    known = Evidence(seen=[tmp_path / "seen.json"])
    with pytest.raises(StaleBackup, match="knows the run"):
        restore(tmp_path / "old.tar", tmp_path / "again", evidence=known)
    restore(tmp_path / "new.tar", tmp_path / "again", evidence=known)
    assert (tmp_path / "again" / "epochs" / "1" / "transcript.jsonl").exists()


def test_the_queue_is_copied_as_it_is(operated, tmp_path):
    (operated.server / "deletion").mkdir()
    now = int(time.time())
    with RequestQueue.create(operated.server / "deletion" / "queue.sqlite") as queue:
        request = sign_request(
            read_identities(operated.root / "silo-1" / "keys.bin")["silo-1"],
            DeletionRequest.some_records("silo-1", (0, 3)),
            roster=operated.roster,
            units=2,
            submitted=now,
            deadline=now + 86_400,
        )
        queue.submit(request, roster=operated.roster, policy=operated.terms.deletion, now=now)
        back_up(operated.server, tmp_path / "copy.tar")  # while the queue is open elsewhere
    restore(tmp_path / "copy.tar", tmp_path / "again", evidence=Evidence(nothing_newer=True))
    with RequestQueue(tmp_path / "again" / "deletion" / "queue.sqlite", read_only=True) as queue:
        assert [entry.request_id for entry in queue.entries()] == [request.request_id]


def test_a_running_server_is_not_copied(operated, tmp_path):
    with PrivacyLedger.open(operated.server / "ledger.sqlite"), pytest.raises(LedgerError, match="another process"):
        back_up(operated.server, tmp_path / "copy.tar")
    assert list(tmp_path.glob("*.tar")) == list(tmp_path.glob(".*part*")) == []


def test_no_copy_or_directory_is_written_over(operated, tmp_path):
    back_up(operated.server, tmp_path / "copy.tar")
    with pytest.raises(ArgumentError, match="--out"):
        back_up(operated.server, tmp_path / "copy.tar")
    with pytest.raises(ArgumentError, match=r"nothing but keys\.bin"):
        restore(tmp_path / "copy.tar", operated.server, evidence=Evidence(nothing_newer=True))


def repacked(path, change) -> None:
    """The same archive with other members."""
    with tarfile.open(path) as packed:
        members = [(member, packed.extractfile(member).read()) for member in packed.getmembers()]
    with tarfile.open(path, "w") as packed:
        for member, content in change(members):
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))


def changed(name, edit):
    return lambda members: [(member, edit(content) if member.name == name else content) for member, content in members]


def smuggled(name):
    def change(members):
        made = []
        for member, content in members:
            if member.name == "manifest.json":
                values = json.loads(content)
                values["files"][name] = "0" * 64
                content = json.dumps(values).encode()
            made.append((member, content))
        return [(tarfile.TarInfo(name), b"#!"), *made]

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (changed("policy.toml", lambda content: content.replace(b"colluders = 1", b"colluders = 0")), "is damaged"),
        (changed("ledger.sqlite", lambda content: content[:-1] + b"x"), "is damaged"),
        (lambda members: [one for one in members if one[0].name != "roster.bin"], "is damaged, or no copy"),
        (lambda members: [one for one in members if one[0].name != "manifest.json"], "is damaged, or no copy"),
        (changed("manifest.json", lambda content: content.replace(b"backup/1", b"backup/2")), "no copy that this"),
        (changed("manifest.json", lambda content: b"[]"), "is damaged, or no copy"),
        (smuggled("../outside.txt"), "no server's directory has"),
        (smuggled("/outside.txt"), "no server's directory has"),
        (smuggled("releases/../../outside.txt"), "no server's directory has"),
        (smuggled("run.sh"), "no server's directory has"),
    ],
)
def test_a_copy_that_was_changed_is_refused(operated, tmp_path, change, says):
    train(operated, 1, new=True)
    back_up(operated.server, tmp_path / "copy.tar")
    repacked(tmp_path / "copy.tar", change)
    with pytest.raises(RecordError, match=says):
        restore(tmp_path / "copy.tar", tmp_path / "again", evidence=Evidence(nothing_newer=True))
    assert not (tmp_path / "again").exists()
    assert not (tmp_path / "outside.txt").exists()


def test_evidence_that_is_none_is_refused(operated, tmp_path):
    back_up(operated.server, tmp_path / "copy.tar")
    (tmp_path / "wrong.json").write_text("{}")
    with pytest.raises(ArgumentError, match="--seen"):
        restore(tmp_path / "copy.tar", tmp_path / "again", evidence=Evidence(seen=[tmp_path / "wrong.json"]))
    with pytest.raises(ArgumentError, match="--transcript"):
        restore(tmp_path / "copy.tar", tmp_path / "again", evidence=Evidence(transcripts=[tmp_path / "none.jsonl"]))
    with pytest.raises(StaleBackup):
        restore(tmp_path / "copy.tar", tmp_path / "again", evidence=Evidence(heads=[b"x" * 32]))
