"""Training and deletions with every party on a node of its own, and what happens when some of them are away."""

from __future__ import annotations

from dataclasses import replace

import pytest
from deployed import (
    HIDING,
    LEAVES,
    METHOD_LIST,
    OTHERS,
    RECORDS,
    SEED,
    check_transcript,
    events,
    gone,
    module,
    replace_window,
    shown,
)
from deployment_cast import SMALL
from small_federations import plan_for, silos

from secure_fu.crypto import InsecureDeterministicRandomness
from secure_fu.crypto.wire import decode, encode
from secure_fu.deletion import DeletionRequest
from secure_fu.deletion.wiping import WipeStatement
from secure_fu.deployment.exchange.messages import Kind, NodeReply, Outcome, PartyAnswer
from secure_fu.deployment.server.hosts import PartiesAway
from secure_fu.errors import (
    AlreadyForgotten,
    ArgumentError,
    LedgerError,
)
from secure_fu.federation import Federation
from secure_fu.learning import mlp
from secure_fu.protocol import verify_transcript
from secure_fu.protocol.run_id import run_id_of
from secure_fu.unlearning import FineTune, Retrain, Rollback, Scrub

# The same as in one process


def told(scheme_name, seed=SEED, first=RECORDS):
    """Training, rollback, training, scrub and retraining in one process: the states after each."""
    plan = plan_for(module(), rounds=3, branch_rounds=16)
    with Federation(
        module(),
        silos(),
        plan=plan,
        scheme_name=scheme_name,
        committee=SMALL,
        randomness=InsecureDeterministicRandomness(seed),
        methods=METHOD_LIST,
    ) as federated:
        states = [federated.train(rounds=2)]
        states.append(federated.delete(first, Rollback(), adaptive=False).state)
        states.append(federated.train(rounds=1))
        states.append(federated.delete(OTHERS, Scrub(length=2), adaptive=False).state)
        states.append(federated.delete(LEAVES, Retrain(), adaptive=True).state)
        return [shown(state) for state in states], [entry.guarantee for entry in federated.executed]


@pytest.mark.parametrize("scheme_name", ["kahe", "bfv"])
def test_a_deployment_comes_to_what_one_process_comes_to(deploy, scheme_name):
    made = deploy(scheme_name, rounds=3, deterministic=True)
    server, states = made.server, []
    server.train(rounds=2)
    states.append(server.state)
    for request, units, method, adaptive in (
        (RECORDS, 3, Rollback(), False),
        (OTHERS, 2, Scrub(length=2), False),
        (LEAVES, 10, Retrain(), True),
    ):
        batch = made.batch(made.request(request, request.client, units))
        execution = server.delete(batch, method, adaptive=adaptive)
        assert (execution.model_after, execution.missing) == (server.state.model.digest.hex(), ())
        states.append(server.state)
        if method == Rollback():
            server.train(rounds=1)
            states.append(server.state)
    expected, guarantees = told(scheme_name)
    assert [shown(state) for state in states] == expected
    assert [entry.guarantee for entry in server.executed] == guarantees
    assert check_transcript(made) == 0
    assert [len(gone(made, name)) for name in made.clients] == [0, 3, 2, 10]


def test_the_comparison_can_tell():
    right = told("plain")[0]
    assert told("plain", seed=SEED + 1)[0] != right
    other = told("plain", first=DeletionRequest.some_records("silo-1", (0, 3, 8)))[0]
    assert other[0] == right[0]
    assert other[1] != right[1]


def test_what_is_asked_in_private_is_forgotten_and_nobody_sees_it(deploy):
    made = deploy(deterministic=True, deletion=HIDING)
    made.server.train()
    made.nodes["silo-2"].request_privately("silo-2", DeletionRequest.some_records("silo-2", (4,)))
    execution = made.server.delete(made.batch(hidden_units=1), Retrain(), adaptive=True)
    with Federation(
        module(),
        silos(),
        plan=made.plan,
        scheme_name="plain",
        randomness=InsecureDeterministicRandomness(SEED),
        methods=METHOD_LIST,
    ) as federated:
        federated.train()
        outcome = federated.delete(DeletionRequest.some_records("silo-2", (4,)), Retrain(), adaptive=True)
    assert shown(made.server.state) == shown(outcome.state)
    assert gone(made, "silo-2") == (4,)
    assert len({len(statement) for statement in execution.wiped}) == 1
    # As far as the server knows, each of the four clients may have used its unit.
    (entry,) = made.server.executed
    assert entry.forgotten_units == 4
    assert execution.group_size == 4


# What the server has


def test_the_server_has_no_key_record_or_mark_of_anybody(deploy):
    made = deploy()
    made.server.train()
    made.server.delete(made.batch(made.request(RECORDS, "silo-1", 3)), Rollback(), adaptive=True)
    files = [path for path in made.server_directory.rglob("*") if path.is_file()]
    names = {path.relative_to(made.server_directory).parts[0] for path in files}
    assert {"keys.bin", "ledger.sqlite", "transcript.jsonl", "main_line.json", "deletion"} <= names
    assert not names & {"identities.bin", "histories", "clients", "committee.sqlite", "key_holder.sqlite", "models"}
    contents = {path: path.read_bytes() for path in files}
    for party in (*made.clients, *made.openers):
        secret = (made.directory / party / "keys.bin").read_bytes()
        pieces = [secret[start : start + 24] for start in range(len(secret) - 96, len(secret) - 24, 24)]
        assert not any(piece in content for content in contents.values() for piece in pieces)
    own = (made.server_directory / "keys.bin").read_bytes()
    assert any(own[-48:-24] in content for content in contents.values()), "the search finds what is there"
    assert '"gone": {}' in (made.server_directory / "main_line.json").read_text()
    for records in made.records.values():
        row = records.features[0].numpy().tobytes()
        assert not any(row in content for content in contents.values())


def test_keys_of_others_are_refused_in_the_server_s_directory(deploy):
    made = deploy()
    made.server.close()
    keys = made.server_directory / "keys.bin"
    keys.write_bytes((made.directory / "silo-0" / "keys.bin").read_bytes())
    with pytest.raises(ArgumentError, match="the keys of 'server' alone"):
        made.reopen()


def test_a_directory_has_one_server(deploy):
    made = deploy()
    before = made.server
    with pytest.raises(LedgerError, match="open in another process"):
        type(before).open(made.server_directory, made.exchange, module=module())
    made.reopen()


def test_what_was_founded_cannot_be_changed(deploy):
    made = deploy()
    for changes, says in (
        ({"module": mlp(5, (), 3, 1)}, "module is"),
        ({"module": None}, "what was founded does not name it"),
        ({"methods": (FineTune(length=7),)}, "methods is"),
    ):
        with pytest.raises(ArgumentError, match=says):
            made.reopen(**changes)
    made.reopen(methods=())  # read back from what was founded
    made.server.train()


# Who is away


def test_a_client_that_was_away_for_a_deletion_is_told_later(deploy):
    made = deploy(rounds=3)
    made.server.train(rounds=2)
    made.stop("silo-1")
    batch = made.batch(made.request(RECORDS, "silo-1", 3))
    execution = made.server.delete(batch, Rollback(), adaptive=True)
    assert execution.missing == made.server.missing(batch.window_id) == ("silo-1",)
    assert set(made.server.wiped(batch.window_id)) == {"silo-0", "silo-2", "silo-3"}
    made.reopen()
    assert made.server.missing(batch.window_id) == ("silo-1",), "also after a restart of the server"
    made.start("silo-1")
    assert gone(made, "silo-1") == ()
    made.server.train()
    assert gone(made, "silo-1") == (0, 3, 7)
    assert made.server.missing(batch.window_id) == ()
    now = made.server.execution(batch.window_id)
    assert replace(now, wiped=(), missing=()) == replace(execution, wiped=(), missing=())
    statements = [decode(WipeStatement, one) for one in now.wiped]
    for statement in statements:
        statement.check(made.roster)
    assert [statement.client for statement in statements] == list(made.clients)


def test_a_client_that_missed_two_windows_is_told_of_both_in_order(deploy):
    made = deploy()
    made.server.train()
    made.stop("silo-1")
    first = made.batch(made.request(RECORDS, "silo-1", 3))
    second = made.batch(
        made.request(DeletionRequest.some_records("silo-1", (9,)), "silo-1", 1), made.request(OTHERS, "silo-2", 2)
    )
    made.server.delete(first, Rollback(), adaptive=True)
    made.server.delete(second, Rollback(), adaptive=True)
    assert made.server.missing(first.window_id) == made.server.missing(second.window_id) == ("silo-1",)
    made.start("silo-1")
    made.server.survey()
    assert made.server.missing(first.window_id) == made.server.missing(second.window_id) == ()
    assert gone(made, "silo-1") == (0, 3, 7, 9)


def test_a_client_behind_is_given_no_later_order(deploy):
    """It would take the place of the one that it has not executed."""
    made = deploy()
    made.server.train()
    failed = encode(NodeReply(answers=(PartyAnswer(party="silo-1", outcome=Outcome.FAILED, body=b""),)))
    made.accidents.instead = lambda party, kind: failed if (party, kind) == ("silo-1", Kind.WIPE) else None
    first = made.batch(made.request(RECORDS, "silo-1", 3))
    made.server.delete(first, Rollback(), adaptive=True)
    second = made.batch(made.request(OTHERS, "silo-2", 2))
    made.server.delete(second, Rollback(), adaptive=True)
    assert made.nodes["silo-1"].client("silo-1").state.order.window == first.window_id
    made.accidents.instead = lambda *_: None
    made.server.survey()
    assert made.server.missing(first.window_id) == made.server.missing(second.window_id) == ()
    assert gone(made, "silo-1") == (0, 3, 7)


def test_who_has_left_is_missing_until_it_confirms_and_holds_back_no_window(deploy):
    made = deploy()
    made.server.train()
    first = made.batch(made.request(LEAVES, "silo-3", 10))
    made.server.delete(first, Retrain(), adaptive=True)
    assert made.server.missing(first.window_id) == ()
    assert set(made.server.wiped(first.window_id)) == set(made.clients), "but in the window in which it leaves"
    made.stop("silo-3")
    second = made.batch(made.request(OTHERS, "silo-2", 2))
    assert made.server.delete(second, Retrain(), adaptive=True).missing == ("silo-3",)
    with pytest.raises(AlreadyForgotten):
        made.server.delete(replace_window(made, first), Retrain(), adaptive=True)
    made.start("silo-3")
    failed = encode(NodeReply(answers=(PartyAnswer(party="silo-3", outcome=Outcome.FAILED, body=b""),)))
    made.accidents.instead = lambda party, kind: failed if (party, kind) == ("silo-3", Kind.WIPE) else None
    third = made.batch(made.request(DeletionRequest.some_records("silo-2", (5,)), "silo-2"))
    assert made.server.delete(third, Retrain(), adaptive=True).missing == ("silo-3",)
    assert made.nodes["silo-3"].client("silo-3").state.order.window == third.window_id
    made.accidents.instead = lambda *_: None
    made.server.survey()
    assert [made.server.missing(one.window_id) for one in (first, second, third)] == [(), (), ()]


def test_who_asked_to_leave_can_ask_again(deploy):
    """The server cannot know whether the first request was done at the client."""
    made = deploy()
    made.server.train()
    first = made.batch(made.request(LEAVES, "silo-3", 1))
    assert made.server.delete(first, Retrain(), adaptive=True).missing == ()
    assert len(made.nodes["silo-3"].client("silo-3").silo.records) == 0
    again = made.batch(made.request(LEAVES, "silo-3", 10), opened=first.opened + 60)
    assert made.server.delete(again, Retrain(), adaptive=True).missing == ()
    assert made.server.executed[-1].forgotten_units == 10


def test_runs_commit_to_orders_also_after_a_restart(deploy):
    made = deploy(rounds=3)
    made.server.train()
    batch = made.batch(made.request(RECORDS, "silo-1", 3))
    execution = made.server.delete(batch, Rollback(), adaptive=True)
    order = made.nodes["silo-0"].client("silo-0").state.settled_window(batch.window_id).order
    assert (execution.order, execution.opened) == (order.hex(), batch.opened)
    assert execution.run_key == bytes(32).hex()
    assert execution.run_id == run_id_of(bytes(32), execution.branch, order).hex()
    branches = {
        one.name: one.run_id
        for one in verify_transcript(made.server_directory / "transcript.jsonl", roster=made.roster, policy=made.policy)
    }
    assert branches == {
        "original": run_id_of(bytes(32), "original"),
        execution.branch: bytes.fromhex(execution.run_id),
    }
    for one in (made.server._server, made.reopen()._server):
        assert one.run_id(execution.branch).hex() == execution.run_id
        assert one.run_id("original") == run_id_of(bytes(32), "original")
    for statement in made.server.wiped(batch.window_id).values():
        said = decode(WipeStatement, statement)
        assert (said.order, said.rounds) == (order, execution.rounds)


def test_a_client_without_the_run_is_told_within_the_round(deploy):
    made = deploy(rounds=3)
    lost = []

    def silent(party, kind):
        if party == "silo-2" and kind is Kind.BEGIN and not lost:
            lost.append(kind)
            return True
        return False

    made.accidents.silent = silent
    made.server.train()
    rounds = [made.server.ledger.participants("original", number) for number in range(3)]
    assert rounds == [tuple(name for name in made.clients if name != "silo-2"), made.clients, made.clients]


def test_nodes_that_are_started_anew_between_rounds_change_nothing(deploy):
    calm, stormy = deploy(deterministic=True, rounds=3), deploy(deterministic=True, rounds=3)
    batches = []
    for made in (calm, stormy):

        def restart(state, made=made):
            if made is stormy:
                for party in (*made.clients, *made.openers):
                    made.restart(party)

        made.server.train(restart)
        batches.append(made.batch(made.request(RECORDS, "silo-1", 3)))
        made.server.delete(batches[-1], Rollback(), adaptive=True, on_round=restart)
        assert made.server.missing(batches[-1].window_id) == ()
    assert shown(calm.server.state) == shown(stormy.server.state)
    assert gone(stormy, "silo-1") == (0, 3, 7)


def test_a_round_goes_on_with_enough_members_and_not_with_fewer(deploy):
    made = deploy(rounds=3)
    made.stop("member-0")
    made.server.train(rounds=1)
    made.stop("member-1")
    with pytest.raises(PartiesAway, match="2 of those who open"):
        made.server.train(rounds=1)
    assert [status for *_, status in events(made)] == ["committed"], "nothing is charged for it"
    made.start("member-1")
    made.server.train(rounds=1)
    assert check_transcript(made) == 0
