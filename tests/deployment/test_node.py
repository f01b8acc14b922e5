"""What a node answers and refuses: whoever speaks, for whom, and when."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from node_cast import CLIENTS, FOUR, KEEPER, OTHER_RUN, RUN, SERVER, ServerSide, ask, hello, make_cast, module
from small_federations import silos

from secure_fu.crypto import Identity, InsecureDeterministicRandomness, Role
from secure_fu.crypto.wire import decode, encode
from secure_fu.deletion import DeletionRequest
from secure_fu.deployment.exchange.messages import Begin, HelloAnswer, Kind, NodeReply, NodeRequest, Outcome
from secure_fu.deployment.node import Node
from secure_fu.deployment.node.state import StateFile
from secure_fu.errors import DataError, RecordError, SecureFUError
from secure_fu.federation import Federation
from secure_fu.protocol import ClientRecord, Header
from secure_fu.protocol.messages import Invitation

CLIENT = "silo-1"


@pytest.fixture
def cast(tmp_path):
    return make_cast(tmp_path / "nodes")


@pytest.fixture
def nodes(cast):
    made = {name: Node.create(cast.folder(name)) for name in (CLIENT, KEEPER)}
    yield made
    for node in made.values():
        node.close()


@pytest.fixture
def side(cast, tmp_path):
    made = ServerSide(cast, tmp_path / "server")
    yield made
    made.close()


def files(folder):
    """Content of all files of a directory but SQLite's own, which pages and journals change without a meaning."""
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".sqlite" not in path.name
    }


# A round


@pytest.mark.parametrize("scheme_name", ["plain", "kahe"])
def test_a_round_over_nodes_is_the_round_in_one_process(tmp_path, scheme_name):
    cast = make_cast(tmp_path / "nodes", scheme_name=scheme_name)
    nodes = {
        name: Node.create(cast.folder(name), randomness=InsecureDeterministicRandomness(7))
        for name in cast.identities
        if name != SERVER
    }
    side = ServerSide(cast, tmp_path / "server")
    invitation = side.invitation(nodes.get(KEEPER), 0)
    for name in CLIENTS:
        assert ask(nodes[name], Kind.BEGIN, cast.begin()).outcome is Outcome.DONE
        side.take([ask(nodes[name], Kind.INVITE, invitation).body])
    if scheme_name == "kahe":
        side.server.close()
        for name in cast.policy.committee:
            side.server.receive_vote(ask(nodes[name], Kind.BALLOT, side.server.ballot(name)).body)
        quorum = side.server.quorum()
        for name in cast.policy.committee:
            side.server.receive_answer(ask(nodes[name], Kind.QUORUM, quorum).body)
        released = side.server.release()
    else:
        released = side.server.release(ask(nodes[KEEPER], Kind.OPEN, side.server.close()).body)
    side.close()
    for node in nodes.values():
        node.close()

    stepped = side.state.step(released, cast.plan.recipe).model.vector
    for seed, same in ((7, True), (8, False)):
        with Federation(
            module(),
            silos(),
            plan=cast.plan,
            scheme_name=scheme_name,
            committee=FOUR,
            randomness=InsecureDeterministicRandomness(seed),
        ) as federation:
            assert np.array_equal(federation.train(rounds=1).model.vector, stepped) is same


def test_a_round_is_answered_in_a_run_that_has_begun_and_once(cast, nodes, side):
    older = side.invitation(nodes[KEEPER], 2)
    side.drop()
    invitation = side.invitation(nodes[KEEPER], 3)
    node = nodes[CLIENT]
    assert ask(node, Kind.INVITE, invitation).outcome is Outcome.UNKNOWN_RUN
    assert ask(node, Kind.BEGIN, cast.begin(OTHER_RUN)).outcome is Outcome.DONE
    assert ask(node, Kind.INVITE, invitation).outcome is Outcome.UNKNOWN_RUN
    assert ask(node, Kind.BEGIN, cast.begin()).outcome is Outcome.DONE
    assert ask(node, Kind.INVITE, invitation).outcome is Outcome.DONE
    assert ask(node, Kind.INVITE, invitation).outcome is Outcome.AHEAD
    node.close()
    with cast.open(CLIENT) as again:
        assert ask(again, Kind.INVITE, invitation).outcome is Outcome.AHEAD
        assert ask(again, Kind.INVITE, older).outcome is Outcome.AHEAD
        side.drop()
        assert ask(again, Kind.INVITE, side.invitation(nodes[KEEPER], 4)).outcome is Outcome.DONE


def test_a_purpose_that_no_order_is_for_is_refused(cast, nodes, side):
    node = nodes[CLIENT]
    ask(node, Kind.BEGIN, cast.begin())
    invitation = side.invitation(nodes[KEEPER], 0, "unlearn/retrain")
    assert ask(node, Kind.INVITE, invitation).outcome is Outcome.REFUSED
    order = cast.order(cast.asks(DeletionRequest.some_records(CLIENT, (0,))))
    assert ask(node, Kind.BEGIN, cast.begin(OTHER_RUN, order)).outcome is Outcome.DONE
    assert ask(node, Kind.INVITE, invitation).outcome is Outcome.REFUSED


# Who speaks


def test_only_the_pinned_server_begins_runs_and_settles_windows(cast, nodes, side):
    node, folder = nodes[CLIENT], cast.folder(CLIENT)
    stranger = Identity.generate(SERVER, Role.SERVER)
    before = files(folder)
    bodies = [
        cast.begin(by=stranger),
        cast.begin(by=cast.identities[CLIENT]),
        encode(replace(decode(Begin, cast.begin()), branch="another")),
        encode(replace(decode(Begin, cast.begin()), run_id=OTHER_RUN)),
        encode(replace(decode(Begin, cast.begin()), signature=bytes(64))),
        cast.wipe(),  # signed, but as something else
    ]
    for body in bodies:
        assert ask(node, Kind.BEGIN, body).outcome is Outcome.REFUSED
    assert files(folder) == before

    order = cast.order(cast.asks(DeletionRequest.some_records(CLIENT, (0, 3, 7))))
    assert ask(node, Kind.BEGIN, cast.begin(order=order)).outcome is Outcome.DONE
    before = files(folder)
    for body in (cast.wipe(by=stranger), cast.wipe(window=b"x" * 16), cast.begin(order=order)):
        assert ask(node, Kind.WIPE, body).outcome is Outcome.REFUSED
    assert ask(node, Kind.WIPE, cast.wipe(OTHER_RUN)).outcome is Outcome.UNKNOWN_RUN
    assert files(folder) == before
    assert ask(node, Kind.BEGIN, cast.begin(OTHER_RUN)).outcome is Outcome.DONE
    assert ask(node, Kind.WIPE, cast.wipe(OTHER_RUN)).outcome is Outcome.REFUSED  # a run of training
    assert len(node.client(CLIENT).silo.records) == 10


def test_a_round_that_the_server_did_not_sign_changes_nothing(cast, nodes, side):
    node = nodes[CLIENT]
    ask(node, Kind.BEGIN, cast.begin())
    message = decode(Invitation, side.invitation(nodes[KEEPER], 0))
    header = decode(Header, message.announcement.header)
    forged = replace(
        message, announcement=replace(message.announcement, header=encode(replace(header, round_number=9)))
    )
    assert ask(node, Kind.INVITE, encode(forged)).outcome is Outcome.REFUSED
    record = node.client(CLIENT)._record
    assert record.rounds(CLIENT) == 0
    assert ask(node, Kind.INVITE, encode(message)).outcome is Outcome.DONE
    assert record.rounds(CLIENT) == 1


def test_without_its_check_of_signatures_a_client_would_listen_to_anybody(cast, nodes, monkeypatch):
    monkeypatch.setattr(Begin, "check", lambda *_: None)
    stranger = Identity.generate(SERVER, Role.SERVER)
    assert ask(nodes[CLIENT], Kind.BEGIN, cast.begin(by=stranger)).outcome is Outcome.DONE


def test_messages_of_another_federation_are_refused(cast, nodes, tmp_path):
    other = make_cast(tmp_path / "others")
    with Node.create(other.folder(KEEPER)) as keeper:
        theirs = ServerSide(other, tmp_path / "their server")
        invitation = theirs.invitation(keeper, 0)
        theirs.close()
    ask(nodes[CLIENT], Kind.BEGIN, cast.begin())
    for kind, body in (
        (Kind.BEGIN, other.begin()),
        (Kind.INVITE, invitation),
        (Kind.WIPE, other.wipe()),
    ):
        assert ask(nodes[CLIENT], kind, body).outcome is Outcome.REFUSED
    foreign = other.asks(DeletionRequest.some_records(CLIENT, (0, 3, 7)))
    assert ask(nodes[CLIENT], Kind.BEGIN, cast.begin(OTHER_RUN, cast.order(foreign))).outcome is Outcome.REFUSED


# To whom


def test_a_party_answers_what_its_role_does_and_nobody_answers_for_others(cast, nodes):
    roles = {
        CLIENT: {Kind.HELLO, Kind.BEGIN, Kind.INVITE, Kind.WIPE},
        KEEPER: {Kind.HELLO, Kind.ISSUE_KEY, Kind.OPEN},
    }
    for name, own in roles.items():
        for kind in set(Kind) - own:
            assert ask(nodes[name], kind, cast.begin()).outcome is Outcome.REFUSED
    assert ask(nodes[CLIENT], Kind.BEGIN, cast.begin(), party="silo-2").outcome is Outcome.REFUSED


def test_each_party_is_given_its_own_body(cast, nodes):
    request = NodeRequest(kind=Kind.BEGIN, parties=("nobody", CLIENT), bodies=(b"", cast.begin()))
    answers = decode(NodeReply, nodes[CLIENT].handle(encode(request))).answers
    assert [(answer.party, answer.outcome) for answer in answers] == [
        ("nobody", Outcome.REFUSED),
        (CLIENT, Outcome.DONE),
    ]


@pytest.mark.parametrize("request_", [b"", b"SFU", os.urandom(200), encode(NodeReply(answers=()))])
def test_what_is_no_request_has_no_answers(nodes, request_):
    assert decode(NodeReply, nodes[CLIENT].handle(request_)).answers == ()


@pytest.mark.parametrize("kind", list(Kind))
def test_every_cut_and_every_flipped_bit_is_refused(cast, nodes, side, kind):
    """Of a body that would be served, for each kind: signed bodies alone are, byte for byte."""
    order = cast.order(cast.asks(DeletionRequest.some_records(CLIENT, (0, 3, 7))))
    node = nodes[CLIENT]
    ask(node, Kind.BEGIN, cast.begin(order=order))
    body = {
        Kind.BEGIN: cast.begin(OTHER_RUN),
        Kind.WIPE: cast.wipe(),
        Kind.INVITE: side.invitation(nodes[KEEPER], 0),
    }.get(kind, b"SFU")
    before = files(cast.folder(CLIENT))
    for place in range(0, len(body), 1 if kind is Kind.WIPE else 61):
        for bad in (body[:place], body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :], body + b"x"):
            assert ask(node, kind, bad).outcome in (Outcome.REFUSED, Outcome.UNKNOWN_RUN)
    assert files(cast.folder(CLIENT)) == before
    assert node.client(CLIENT)._record.rounds(CLIENT) == 0


# Greetings


def test_a_greeting_is_answered_by_all_under_their_keys_and_this_nonce(cast, nodes):
    said = hello(cast)
    for node in nodes.values():
        reply = decode(NodeReply, node.handle(encode(NodeRequest(kind=Kind.HELLO, parties=(), bodies=(said,)))))
        (answer,) = reply.answers
        answered = decode(HelloAnswer, answer.body)
        answered.check(cast.roster)
        assert answered.policy_digest == cast.policy.digest
        assert set(answered.parameter_sets) == cast.policy.parameter_sets
        assert answered.nonce in said
        for changed in (
            replace(answered, nonce=bytes(32)),
            replace(answered, software="another"),
            replace(answered, policy_digest=bytes(32)),
        ):
            with pytest.raises(SecureFUError, match="does not verify"):
                changed.check(cast.roster)
    loose = replace(cast.policy, noise_multiplier=cast.policy.noise_multiplier / 2)
    assert loose.digest != cast.policy.digest


# What goes wrong on its own machine


def test_two_nodes_on_one_directory_are_refused(cast, nodes):
    for name in nodes:
        with pytest.raises(RecordError, match="open in another process"):
            cast.open(name)
    script = (
        "import sys; from pathlib import Path; from secure_fu.deployment.node.node import Node\n"
        "try: Node.open(Path(sys.argv[1]))\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    found = subprocess.run(
        [sys.executable, "-c", script, str(cast.folder(CLIENT))], capture_output=True, text=True, check=True
    )
    assert found.stdout.startswith("RecordError")
    assert "open in another process" in found.stdout
    for node in nodes.values():
        node.close()
    cast.open(CLIENT).close()


def test_records_of_another_width_are_refused_with_the_file_and_both_widths(tmp_path):
    cast = make_cast(tmp_path / "n")
    (path,) = cast.folder(CLIENT).glob("*.npz")
    with np.load(path) as archive:
        arrays = dict(archive)
    np.savez(path, **{**arrays, "features": arrays["features"][:, :3]})
    with pytest.raises(
        DataError, match=r"in .*\.npz have features of shape \(3,\); the model takes records of 5 features$"
    ):
        Node.create(cast.folder(CLIENT))
    assert not list(cast.folder(CLIENT).glob("*.sqlite"))


def test_what_a_node_was_made_with_is_not_made_anew(cast, nodes):
    for node in nodes.values():
        node.close()
    for name in nodes:
        with pytest.raises(RecordError, match="exists"):
            Node.create(cast.folder(name))
    state = cast.folder(CLIENT) / f"state-{CLIENT}.json"
    whole = state.read_bytes()
    state.write_bytes(whole.replace(b'"gone": []', b'"gone": [1]'))
    assert state.read_bytes() != whole
    with pytest.raises(RecordError, match="damaged"):
        cast.open(CLIENT)
    state.unlink()
    with pytest.raises(RecordError, match="is missing"):
        cast.open(CLIENT)
    (cast.folder(CLIENT) / f"client-{CLIENT}.sqlite").unlink()
    with pytest.raises(RecordError, match="needs new keys"):
        cast.open(CLIENT)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ZeroDivisionError("secret 0.125")])
def test_what_cannot_be_written_down_is_not_done(cast, nodes, side, monkeypatch, caplog, error):
    def fails(*_):
        raise error

    node = nodes[CLIENT]
    with monkeypatch.context() as patch:
        patch.setattr("secure_fu.deployment.node.state.write_whole", fails)
        with caplog.at_level(logging.WARNING, "secure_fu"):
            assert ask(node, Kind.BEGIN, cast.begin()).outcome is Outcome.FAILED
    assert "secret" not in caplog.text
    assert node.client(CLIENT).state.runs == ()
    invitation = side.invitation(nodes[KEEPER], 0)
    assert ask(node, Kind.INVITE, invitation).outcome is Outcome.UNKNOWN_RUN
    assert ask(node, Kind.BEGIN, cast.begin()).outcome is Outcome.DONE
    assert StateFile(cast.folder(CLIENT) / f"state-{CLIENT}.json").read().window_of(cast.real(RUN)) == b""
    with monkeypatch.context() as patch:
        patch.setattr(ClientRecord, "accept", fails)
        assert ask(node, Kind.INVITE, invitation).outcome is Outcome.FAILED


def test_modes_of_what_is_secret(cast, nodes, side):
    node = nodes[CLIENT]
    order = cast.order(cast.asks(DeletionRequest.some_records(CLIENT, (0, 3, 7))))
    ask(node, Kind.BEGIN, cast.begin(order=order))
    ask(node, Kind.INVITE, side.invitation(nodes[KEEPER], 0))
    ask(node, Kind.WIPE, cast.wipe())
    public = {"roster.bin", "policy.toml", "node.toml"}
    seen = set()
    for path in cast.folder(CLIENT).rglob("*"):
        if path.is_file() and path.name not in public:
            seen.add(path.name)
            assert path.stat().st_mode & 0o077 == 0, path
    assert {"keys.bin", "records.npz", f"state-{CLIENT}.json", f"client-{CLIENT}.sqlite"} <= seen
    for secret in (node, node.client(CLIENT), node.client(CLIENT).state):
        assert "(0, 3, 7)" not in repr(secret)
