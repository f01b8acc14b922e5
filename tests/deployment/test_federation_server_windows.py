"""Windows of deletions over nodes: each is executed once, goes on after failures, and counts what clients signed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from deployed import RECORDS, check_transcript, events, gone, replace_window
from deployment_cast import IMPATIENT

from secure_fu.crypto.wire import decode, encode
from secure_fu.deletion import DeletionBatch
from secure_fu.deletion.policy import DeletionPolicy, write_deletion_policy
from secure_fu.deletion.wiping import WipeStatement
from secure_fu.deployment.exchange.messages import Kind, NodeReply
from secure_fu.errors import (
    AlreadyForgotten,
    ArgumentError,
    CohortTooSmall,
    GuaranteeError,
    RecordError,
    RoundAborted,
)
from secure_fu.unlearning import Certified, Requirement, Retrain, Rollback, Scrub


def test_a_window_is_executed_once(deploy):
    made = deploy()
    made.server.train()
    batch = made.batch(made.request(RECORDS, "silo-1", 3))
    execution = made.server.delete(batch, Rollback(), adaptive=True)
    before = events(made)
    for _ in range(2):
        assert made.server.delete(batch, Rollback(), adaptive=True) == execution
        assert events(made) == before
        made.reopen()
    assert len(made.server.executed) == 1
    # The same requests in another window have been forgotten.
    with pytest.raises(AlreadyForgotten):
        made.server.delete(replace_window(made, batch), Rollback(), adaptive=True)


def test_a_window_that_came_to_nothing_goes_on_where_it_was(deploy):
    """Without a restart, and with one."""
    made = deploy(rounds=3)
    made.server.train()
    batch = made.batch(made.request(RECORDS, "silo-1", 3))
    done = []
    fails = [True]

    def silent(party, kind):
        return fails[0] and len(done) >= 1 and party in ("member-0", "member-1") and kind is Kind.QUORUM

    made.accidents.silent = silent
    for again in (lambda: None, made.reopen):
        with pytest.raises(RoundAborted):
            made.server.delete(batch, Retrain(), adaptive=True, on_round=done.append)
        again()
        assert made.server.execution(batch.window_id) is None
        assert made.server.executed == ()
    fails[0] = False
    made.server.delete(batch, Retrain(), adaptive=True)
    assert [branch for branch, *_ in events(made)] == ["original"] * 3 + ["unlearn/retrain"] * 5
    # Two rounds that were not opened stay charged, each under its own number; the first was asked for once.
    assert len(made.server.ledger.rounds("unlearn/retrain")) == len({number for _, number, _ in events(made)}) - 3
    assert check_transcript(made) == 2


def test_a_window_that_nobody_serves_costs_nothing(deploy):
    made = deploy()
    made.server.train()
    request = made.request(RECORDS, "silo-1", 3)
    with pytest.raises(CohortTooSmall):
        made.server.delete(made.batch(request, hidden_units=1), Rollback(), adaptive=True)  # none are pinned
    assert {status for branch, _, status in events(made) if branch != "original"} == {"void"}
    assert made.server.executed == ()
    assert [gone(made, name) for name in made.clients] == [()] * 4
    made.server.delete(made.batch(request), Rollback(), adaptive=True)
    assert gone(made, "silo-1") == (0, 3, 7)


def test_a_client_that_refuses_what_concerns_it_confirms_nothing(deploy):
    made = deploy()
    made.server.train()
    forged = replace(made.request(RECORDS, "silo-1", 3), signature=bytes(64))
    batch = made.batch(forged)
    assert made.server.delete(batch, Rollback(), adaptive=True).missing == ("silo-1",)
    assert gone(made, "silo-1") == ()


def test_the_policy_that_was_founded_says_how_windows_are_executed(deploy):
    made = deploy()
    made.server.train()
    batch = made.batch(made.request(RECORDS, "silo-1", 3))
    with pytest.raises(RecordError, match=r"deletion\.toml"):
        made.server.execute(batch)
    write_deletion_policy(
        DeletionPolicy(window_start=0, window_seconds=60, method="finetune", settings={"length": 1}),
        made.server_directory / "deletion.toml",
    )
    execution = made.server.execute(batch)
    assert (execution.method, execution.settings["length"], execution.rounds) == ("finetune", 1, 1)
    assert made.server.execute(batch) == execution


def test_what_cannot_be_promised_is_refused_before_anybody_is_told(deploy):
    made = deploy()
    made.server.train()
    made.accidents.asked.clear()
    batch = made.batch(made.request(RECORDS, "silo-1", 3))
    with pytest.raises(GuaranteeError):
        made.server.delete(batch, Scrub(length=1), adaptive=True, require=Requirement(kind=Certified, epsilon=1.0))
    with pytest.raises(ArgumentError, match="expected a SignedBatch"):
        made.server.delete(RECORDS, Rollback(), adaptive=True)
    with pytest.raises(ArgumentError, match="expected a SignedBatch"):
        made.server.delete(DeletionBatch((RECORDS,)), Rollback(), adaptive=True)
    assert Kind.BEGIN not in {kind for _, kind in made.accidents.asked}


def test_only_a_client_s_own_word_confirms(deploy):
    made = deploy()
    made.server.train()
    words = []

    def tampers(party, kind, reply):
        if kind is not Kind.WIPE:
            return reply
        (answer,) = decode(NodeReply, reply).answers
        words.append(answer.body)
        if party == "silo-0":
            return reply
        bodies = {
            "silo-1": words[0],  # another's word
            "silo-2": b"garbage",
            "silo-3": encode(replace(decode(WipeStatement, answer.body), window_id=bytes(16))),
        }
        return encode(NodeReply(answers=(replace(answer, body=bodies[party]),)))

    made.accidents.tampers = tampers
    batch = made.batch(made.request(RECORDS, "silo-1", 3))
    assert made.server.delete(batch, Rollback(), adaptive=True).missing == ("silo-1", "silo-2", "silo-3")
    made.accidents.tampers = lambda _party, _kind, reply: reply
    made.server.survey()
    assert made.server.missing(batch.window_id) == ()
    # The same words as at first: whoever was not heard has destroyed nothing twice.
    assert set(words) == set(made.server.wiped(batch.window_id).values())


def test_the_epsilon_of_a_window_is_the_ledger_s(deploy):
    made = deploy()
    made.server.train()
    batch = made.batch(made.request(RECORDS, "silo-1", 3))
    execution = made.server.delete(batch, Rollback(), adaptive=True)
    entries = {(one.subject.value, one.phase.value): one.value for one in made.server.epsilon(batch)}
    assert entries["forgotten", "unlearning"] == 0.0
    assert entries["retained", "unlearning"] > 0.0
    assert {(one["subject"], one["phase"]): one["value"] for one in execution.epsilon}.keys() >= entries.keys()
    assert execution.rounds == 2
    assert len(execution.model_before) == 64


def test_a_window_whose_record_is_lost_is_not_made_up(deploy):
    made = deploy()
    made.server.train()
    batch = made.batch(made.request(RECORDS, "silo-1", 3))
    execution = made.server.delete(batch, Rollback(), adaptive=True)
    folder = made.server_directory / "deletion" / "windows" / batch.window_id.hex()
    (folder / "execution.json").unlink()
    made.reopen()
    again = made.server.execution(batch.window_id)
    assert replace(again, finished=0, started=0) == replace(execution, finished=0, started=0)
    (folder / "execution.json").write_bytes(b"{}")
    with pytest.raises(RecordError, match=r"execution\.json is damaged"):
        made.reopen()
    (folder / "started.json").unlink()
    with pytest.raises(RecordError, match="folder"):
        made.reopen()


def test_patience_has_a_domain():
    assert IMPATIENT.attempts == 3
    with pytest.raises(ArgumentError, match="invite"):
        replace(IMPATIENT, invite=0.0)
    with pytest.raises(ArgumentError, match="pause"):
        replace(IMPATIENT, pause=float("nan"))
    assert np.isfinite(IMPATIENT.invite)
