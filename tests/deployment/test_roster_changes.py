"""Rosters that change: continuity of keys, pinning by hand, a server's next epoch, and budgets that go on."""

from __future__ import annotations

import base64
import json
import shutil
import time
from contextlib import closing
from dataclasses import replace

import pytest
from operations_cast import CLIENTS, MEMBERS, Operated, secrets_in, write_records

from secure_fu.crypto import CommitteeTerms, Role
from secure_fu.crypto.identity_file import read_identities
from secure_fu.crypto.wire import decode
from secure_fu.deletion import DeletionRequest
from secure_fu.deletion.queue import RequestQueue, State
from secure_fu.deletion.requests import SignedBatch, sign_request
from secure_fu.deployment.founding.bundle import bundle_digest, write_bundle
from secure_fu.deployment.founding.setup import make_keys, read_party_file, rotate_keys
from secure_fu.deployment.upkeep import begin_epoch, changed_roster, difference, epochs, pin
from secure_fu.deployment.upkeep.roster_changes import RosterChange, next_policy
from secure_fu.errors import ArgumentError, LedgerError, PolicyRefusal, RecordError, RosterError, SecureFUError
from secure_fu.federation.founding import read_founding
from secure_fu.privacy import Budget, Phase, PrivacyLedger, Subject
from secure_fu.protocol import ClientRecord, Header, read_policy, verify_transcript, write_policy
from secure_fu.protocol.messages import Release
from secure_fu.protocol.run_id import run_id_of
from secure_fu.unlearning import Retrain


@pytest.fixture
def operated(tmp_path):
    made = Operated(tmp_path)
    yield made
    made.stop()


def rotated(operated, *names, **arguments):
    """A roster in which these parties have new keys, which wait in `keys-next.bin`."""
    files = [read_party_file(rotate_keys(operated.root / name)[name]) for name in names]
    return changed_roster(operated.roster, files=files, **arguments)


def next_epoch(operated, roster, **arguments):
    founding = begin_epoch(operated.server, roster, **arguments)
    write_bundle(operated.server, operated.bundle)
    return founding


# Rosters


def test_a_difference_names_who_came_went_and_changed(operated):
    new = rotated(operated, "silo-1", remove=["silo-3"])
    newcomer = make_keys(operated.root / "silo-9", {"silo-9": Role.CLIENT})["silo-9"]
    newer = changed_roster(new, files=[read_party_file(newcomer)])
    assert difference(operated.roster, newer) == RosterChange(
        added=("silo-9",), removed=("silo-3",), rotated=("silo-1",)
    )
    assert difference(newer, newer) == RosterChange(added=(), removed=(), rotated=())


def test_keys_that_the_old_ones_did_not_sign_need_a_person_who_compared_them(operated):
    stranger = make_keys(operated.root / "thief", {"silo-1": Role.CLIENT})["silo-1"]
    with pytest.raises(RosterError, match="not signed by those of before"):
        changed_roster(operated.roster, files=[read_party_file(stranger)])
    new = changed_roster(operated.roster, files=[read_party_file(stranger)], unsigned=["silo-1"])
    assert new.party("silo-1") == read_party_file(stranger).party


def test_a_role_is_not_changed_by_a_new_key(operated):
    other = make_keys(operated.root / "other", {"silo-1": Role.MEMBER})["silo-1"]
    with pytest.raises(RosterError, match="cannot follow"):
        changed_roster(operated.roster, files=[read_party_file(other)])


@pytest.mark.parametrize("arguments", [{"remove": ["nobody"]}, {}, {"remove": ["server"]}, {"remove": MEMBERS}])
def test_a_change_that_is_none_or_leaves_no_federation_is_refused(operated, arguments):
    with pytest.raises(ArgumentError):
        changed_roster(operated.roster, **arguments)


def test_the_next_policy_has_the_same_demands(operated):
    policy = read_policy(operated.server / "policy.toml")
    fewer = changed_roster(operated.roster, remove=["member-3"])
    with pytest.raises(ArgumentError):
        next_policy(policy, changed_roster(fewer, remove=["member-2"]), scheme_name="kahe")
    new = next_policy(policy, fewer, scheme_name="kahe")
    assert new.terms == CommitteeTerms(members=3, threshold=3, quorum=3, corrupt=1)
    assert replace(new, committee=policy.committee, terms=policy.terms, roster_digest=policy.roster_digest) == policy
    with pytest.raises(ArgumentError, match="at least 3, the cohort"):
        next_policy(policy, changed_roster(operated.roster, remove=["silo-0", "silo-1"]), scheme_name="kahe")


# Pinning


def test_nothing_is_pinned_but_what_was_read_out(operated):
    before = {path.name: path.read_bytes() for path in (operated.root / "silo-0").iterdir()}
    policy = read_policy(operated.bundle / "policy.toml")
    heard = bundle_digest(operated.bundle)
    write_policy(replace(policy, noise_multiplier=0.1), operated.bundle / "policy.toml")
    with pytest.raises(ArgumentError, match="the bundle's, which is another one: ask again"):
        pin(operated.root / "silo-0", operated.bundle, digest=heard)
    assert {path.name: path.read_bytes() for path in (operated.root / "silo-0").iterdir()} == before


def test_other_terms_are_taken_only_on_purpose(operated):
    policy = read_policy(operated.bundle / "policy.toml")
    larger = replace(policy.budget, epsilon=policy.budget.epsilon * 2)
    write_policy(replace(policy, budget=larger), operated.bundle / "policy.toml")
    with pytest.raises(ArgumentError, match=r"policy\.budget is"):
        operated.pin("silo-0")
    assert read_policy(operated.root / "silo-0" / "policy.toml") == policy
    operated.pin("silo-0", accept_terms=True)
    assert read_policy(operated.root / "silo-0" / "policy.toml").budget == larger


def test_a_roster_without_this_machines_keys_is_not_pinned(operated):
    make_keys(operated.root / "stranger", {"silo-0": Role.CLIENT})
    with pytest.raises(RosterError, match="other keys"):
        operated.pin("stranger")
    assert sorted(path.name for path in (operated.root / "stranger").iterdir()) == ["keys.bin", "silo-0.party"]


def test_an_earlier_epoch_or_another_federation_is_not_pinned(operated, tmp_path):
    old = tmp_path / "old-bundle"
    write_bundle(operated.server, old)
    next_epoch(operated, rotated(operated, "silo-1"))
    operated.pin("silo-0")
    with pytest.raises(ArgumentError, match="epoch 2, which is pinned, or a later one"):
        pin(operated.root / "silo-0", old, digest=bundle_digest(old))
    for name, value in (("start", "00" * 32), ("methods", "Retrain(); Scrub()")):
        path = operated.bundle / "federation.json"
        founding = read_founding(path)
        epochs.write_founding(path, replace(founding, facts={**founding.facts, name: value}))
        with pytest.raises(ArgumentError, match="another one needs another folder"):
            operated.pin("silo-0")
        epochs.write_founding(path, founding)


# Epochs


def test_budgets_and_model_go_on_in_a_new_epoch_and_the_old_transcript_stays_checkable(operated):
    operated.start(new=True)
    with operated.opened() as server:
        server.train(rounds=2)
        model = server.state.model.digest
        spent = server.ledger.epsilon_entries("original", retained=CLIENTS)
    operated.stop()
    old_roster, old_policy = operated.roster, read_policy(operated.server / "policy.toml")
    old_keys = secrets_in(operated.root / "silo-1" / "keys.bin")
    rounds = answered(operated, "silo-1")
    founding = next_epoch(operated, rotated(operated, "silo-1", "member-2", "server"))
    assert (founding.facts["epoch"], founding.clients) == ("2", CLIENTS)

    (past,) = verify_transcript(
        operated.server / "epochs" / "1" / "transcript.jsonl", roster=old_roster, policy=old_policy
    )
    assert json.loads(founding.facts["before"]) == {"original": past.head.hex()}
    for name in (*CLIENTS, *MEMBERS):
        pinned = operated.pin(name)
        assert pinned.new_keys == (name in ("silo-1", "member-2"))
        assert pinned.change == RosterChange(added=(), removed=(), rotated=("member-2", "server", "silo-1"))
    assert not set(old_keys) & set(secrets_in(operated.root / "silo-1" / "keys.bin"))
    assert not (operated.root / "silo-1" / "keys-next.bin").exists()

    operated.start()
    with operated.opened() as server:
        assert server.state.model.digest == model
        assert server.ledger.epsilon_entries("original", retained=CLIENTS) == spent
        server.train()
        assert (server.state.rounds, server.left_out) == (4, ())
        more = server.ledger.epsilon_entries("original", retained=CLIENTS)
        assert more[0].value > spent[0].value
    operated.stop()
    assert answered(operated, "silo-1") == rounds + 2
    (present,) = verify_transcript(
        operated.server / "transcript.jsonl",
        roster=operated.roster,
        policy=read_policy(operated.server / "policy.toml"),
    )
    assert present.run_id != past.run_id
    assert [release.round_number for release in present.releases] == [2, 3]


def answered(operated, name: str) -> int:
    """How many rounds a client's own record counts."""
    with closing(ClientRecord(operated.root / name / f"client-{name}.sqlite")) as record:
        return record.rounds(name)


def rounds_left(record: ClientRecord, header: Header, budget: Budget) -> int:
    """How many more rounds like this a client's own ledger lets through, each under a run id of its own."""
    for number in range(1000):
        try:
            record.accept("silo-0", replace(header, run_id=number.to_bytes(16, "big")), b"h" * 32, budget=budget)
        except PolicyRefusal:
            return number
    raise AssertionError("there is no end of it")


def test_a_clients_own_record_counts_old_epochs_in_new_ones(operated):
    operated.start(new=True)
    with operated.opened() as server:
        server.train(rounds=2)
    operated.stop()
    next_epoch(operated, rotated(operated, "silo-0"))
    operated.pin("silo-0")
    line = json.loads((operated.server / "epochs" / "1" / "transcript.jsonl").read_text().splitlines()[-1])
    release = decode(Release, base64.b64decode(line["release"]))
    header = decode(Header, release.announcement.header)
    budget = read_policy(operated.root / "silo-0" / "policy.toml").budget
    with closing(ClientRecord(operated.root / "silo-0" / "client-silo-0.sqlite")) as record:
        left = rounds_left(record, header, budget)
    with closing(ClientRecord()) as forgetful:  # the broken variant: a record that is made anew with the keys
        assert rounds_left(forgetful, header, budget) == left + 2


def test_a_party_that_leaves_or_comes_does_so_with_an_epoch(operated):
    operated.start(new=True)
    with operated.opened() as server:
        server.train(rounds=2)
    operated.stop()
    newcomer = make_keys(operated.root / "silo-9", {"silo-9": Role.CLIENT})["silo-9"]
    roster = changed_roster(operated.roster, files=[read_party_file(newcomer)], remove=["silo-3"])
    next_epoch(operated, roster)
    names = ("silo-0", "silo-1", "silo-2", *MEMBERS)
    for name in (*names, "silo-9"):
        operated.pin(name)
    with pytest.raises(RosterError, match="'silo-3' is not in the roster"):
        operated.pin("silo-3")
    write_records(operated.root / "silo-9" / "records.npz", "silo-3")
    operated.start(*names)
    operated.start("silo-9", new=True)
    with operated.opened() as server:
        server.train(rounds=1)
        assert "silo-9" in server.ledger
        assert server.ledger.participants("original", 2) == ("silo-0", "silo-1", "silo-2", "silo-9")
        # What the leaver has spent is still known.
        assert server.ledger.epsilon("original", "silo-3", Subject.RETAINED, Phase.TRAINING) > 0.0


def test_in_a_new_epoch_the_branch_of_a_deletion_goes_on_as_training(operated):
    """Who comes is not given an order of before, which would hold its own private requests for ever."""
    operated.start(new=True)
    with operated.opened() as server:
        server.train(rounds=2)
        execution = server.delete(
            SignedBatch.of(int(time.time()), (signed(operated, "silo-1"),), 2), Retrain(), adaptive=False
        )
        assert execution.missing == ()
    operated.stop()
    newcomer = make_keys(operated.root / "silo-9", {"silo-9": Role.CLIENT})["silo-9"]
    founding = next_epoch(operated, changed_roster(operated.roster, files=[read_party_file(newcomer)]))
    for name in (*CLIENTS, *MEMBERS, "silo-9"):
        operated.pin(name)
    write_records(operated.root / "silo-9" / "records.npz", "silo-3")
    operated.start()
    operated.start("silo-9", new=True)
    with operated.opened() as server:
        server.train(rounds=1)
        assert "silo-9" in server.ledger.participants(execution.branch, 4)
    assert operated.nodes["silo-9"].client("silo-9").state.order is None
    operated.stop()
    (present,) = verify_transcript(
        operated.server / "transcript.jsonl",
        roster=operated.roster,
        policy=read_policy(operated.server / "policy.toml"),
    )
    assert present.name == execution.branch
    assert present.run_id == run_id_of(founding.run_key, execution.branch)


def test_an_epoch_begins_where_no_released_sum_is_waiting(operated):
    operated.start(new=True)
    with operated.opened() as server:
        server.train(rounds=1)
    operated.stop()
    roster = rotated(operated, "silo-1")
    before = {path.name: path.read_bytes() for path in operated.server.iterdir() if path.suffix in (".bin", ".toml")}
    with pytest.raises(RecordError, match="1 rounds since its last checkpoint"):
        next_epoch(operated, roster)
    after = {path.name: path.read_bytes() for path in operated.server.iterdir() if path.suffix in (".bin", ".toml")}
    assert after == before
    operated.start()
    with operated.opened() as server:
        server.train(rounds=1)
    operated.stop()
    assert next_epoch(operated, roster).facts["epoch"] == "2"


def test_an_epoch_does_not_begin_under_a_running_server(operated):
    with PrivacyLedger.open(operated.server / "ledger.sqlite"), pytest.raises(LedgerError, match="another process"):
        begin_epoch(operated.server, rotated(operated, "silo-1"))


def test_the_roster_of_the_epoch_that_runs_begins_none(operated):
    with pytest.raises(ArgumentError, match="another roster"):
        begin_epoch(operated.server, operated.roster)


class Killed(BaseException):
    pass


def test_a_kill_anywhere_leaves_the_old_epoch_or_one_that_is_ended_by_the_same_call(operated, monkeypatch, tmp_path):
    operated.start(new=True)
    with operated.opened() as server:
        server.train(rounds=2)
    operated.stop()
    roster = rotated(operated, "server", "silo-1")
    kept = tmp_path / "kept"
    shutil.copytree(operated.server, kept)
    points, outcomes = 0, set()
    original, counted = epochs.write_whole, {"left": 0}

    def killing(path, content):
        counted["left"] -= 1
        if counted["left"] == 0:
            raise Killed
        original(path, content)

    monkeypatch.setattr(epochs, "write_whole", killing)
    while True:
        shutil.rmtree(operated.server)
        shutil.copytree(kept, operated.server)
        points += 1
        counted["left"] = points
        try:
            begin_epoch(operated.server, roster)
            break
        except Killed:
            counted["left"] = -1
        try:
            operated.opened().close()
            outcomes.add("old")
        except SecureFUError:
            outcomes.add("refused")
        assert begin_epoch(operated.server, roster).facts["epoch"] == "2"
        operated.opened().close()
        assert (operated.server / "epochs" / "1" / "transcript.jsonl").read_bytes() == (
            kept / "transcript.jsonl"
        ).read_bytes()
    assert outcomes == {"old", "refused"}
    assert points >= 8


def signed(operated, name: str):
    now = int(time.time())
    return sign_request(
        read_identities(operated.root / name / "keys.bin")[name],
        DeletionRequest.some_records(name, (0, 3, 7)),
        roster=operated.roster,
        units=3,
        submitted=now,
        deadline=now + 86_400,
    )


def test_a_window_that_a_client_has_not_confirmed_keeps_the_epoch(operated):
    operated.start(new=True)
    with operated.opened() as server:
        server.train()
        requests = (signed(operated, "silo-1"),)
        batch = SignedBatch.of(int(time.time()), requests, 0)
        server.delete(batch, Retrain(), adaptive=False)
        assert server.missing(batch.window_id) == ()
    operated.stop()
    wiped = operated.server / "deletion" / "windows" / batch.window_id.hex() / "wiped.json"
    statements = json.loads(wiped.read_text())
    wiped.write_text(json.dumps({name: said for name, said in statements.items() if name != "silo-2"}))
    roster = rotated(operated, "server")
    with pytest.raises(RecordError, match="silo-2 have not confirmed"):
        begin_epoch(operated.server, roster)
    wiped.write_text(json.dumps(statements))
    assert begin_epoch(operated.server, roster).facts["epoch"] == "2"


def test_requests_that_nobody_could_check_any_more_are_executed_or_refused_first(operated):
    (operated.server / "deletion").mkdir()
    with RequestQueue.create(operated.server / "deletion" / "queue.sqlite") as queue:
        for name in ("silo-1", "silo-2"):
            queue.submit(
                signed(operated, name), roster=operated.roster, policy=operated.terms.deletion, now=int(time.time())
            )
    roster = rotated(operated, "silo-1")
    with pytest.raises(RecordError, match="1 deletion requests wait whose signers"):
        begin_epoch(operated.server, roster)
    begin_epoch(operated.server, roster, refuse_requests=True)
    with RequestQueue(operated.server / "deletion" / "queue.sqlite", read_only=True) as queue:
        assert {entry.signer: entry.state for entry in queue.entries()} == {
            "silo-1": State.REFUSED,
            "silo-2": State.ACCEPTED,
        }
