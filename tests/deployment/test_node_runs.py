"""What a run's id commits to, what a client is shown of an order, and the limits that it has pinned."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from node_cast import (
    CLIENT,
    CLIENTS,
    HIDING,
    NOW,
    OTHER_RUN,
    OTHER_WINDOW,
    PRIVATE,
    REQUEST,
    RUN,
    RUN_KEY,
    ServerSide,
    ask,
    begun,
    commitment_holds,
    gone,
    make_cast,
    marks,
    settled,
)

from secure_fu.crypto.wire import decode, encode
from secure_fu.deletion import DeletionRequest
from secure_fu.deletion.policy import DeletionPolicy
from secure_fu.deletion.wiping import order_digest
from secure_fu.deployment.exchange.messages import Begin, Kind, Outcome, WipeStatement, addressed
from secure_fu.deployment.node import REQUESTS, Node, leave_request
from secure_fu.deployment.node import client as node_client
from secure_fu.deployment.node.holdings import Holdings
from secure_fu.errors import ConfigError
from secure_fu.protocol.run_id import run_id_of
from secure_fu.unlearning import Ascent, Retrain, Scrub

OTHERS = DeletionRequest.some_records("silo-2", (1, 4))
THIRD_RUN, THIRD_WINDOW = b"t" * 16, b"u" * 16


@pytest.fixture
def cast(tmp_path):
    return make_cast(tmp_path / "nodes", deletion=HIDING)


def signed(cast, run_id, branch, order=None):
    return encode(Begin.signed(cast.server, run_id=run_id, branch=branch, order=order))


# What a run id commits to


def test_a_run_begins_only_under_the_id_of_its_branch_and_order(cast, node):
    order = cast.order(cast.asks(REQUEST))
    other = cast.order(cast.asks(OTHERS))
    real = run_id_of(RUN_KEY, "r", order.digest)
    wrong = [
        signed(cast, real, "r", other),
        signed(cast, real, "r"),
        signed(cast, real, "s", order),
        signed(cast, run_id_of(RUN_KEY, "r"), "r", order),
        signed(cast, run_id_of(bytes([1]) * 32, "r", order.digest), "r", order),  # of another epoch
        signed(cast, RUN, "r"),
    ]
    for body in wrong:
        assert ask(node, Kind.BEGIN, body).outcome is Outcome.REFUSED
    assert node.client(CLIENT).state.runs == ()
    assert ask(node, Kind.BEGIN, signed(cast, real, "r", order)).outcome is Outcome.DONE


def test_without_that_check_clients_with_different_orders_answer_in_one_run(cast, keeper, tmp_path, monkeypatch):
    """The attack: one client is told of hidden units that the others are not, and all are in one sum."""
    orders = {CLIENTS[0]: cast.order(hidden_units=9), CLIENTS[1]: cast.order(hidden_units=1)}
    real = run_id_of(RUN_KEY, "r", orders[CLIENTS[0]].digest)
    cast.runs[RUN] = real
    side = ServerSide(cast, tmp_path / "server")
    invitation = side.invitation(keeper, 0, "unlearn/retrain")
    side.close()
    seen = {}
    for broken in (False, True):
        for name, order in orders.items():
            with (Node.open if broken else Node.create)(cast.folder(name)) as one:
                with monkeypatch.context() as patch:
                    if broken:
                        patch.setattr(node_client, "run_id_of", lambda *_: real)
                    ask(one, Kind.BEGIN, signed(cast, real, "r", order))
                seen[broken, name] = ask(one, Kind.INVITE, invitation).outcome
    assert [seen[False, name] for name in orders] == [Outcome.DONE, Outcome.UNKNOWN_RUN]
    assert seen[True, CLIENTS[1]] is Outcome.DONE


def test_a_statement_names_the_order_and_the_rounds_that_were_answered(cast, node, keeper, side):
    request = cast.asks(REQUEST)
    assert begun(cast, node, request) is Outcome.DONE
    for number, purpose in enumerate(("unlearn/retrain", "train", "unlearn/retrain")):
        assert ask(node, Kind.INVITE, side.invitation(keeper, number, purpose)).outcome is Outcome.DONE
        side.drop()
    statement = decode(WipeStatement, settled(cast, node))
    assert statement.rounds == 2  # of the method; training is none of the window's
    assert statement.order == order_digest(
        window_id=b"w" * 16,
        opened=NOW,
        method="retrain",
        settings=cast.order(request).settings,
        request_digests=(hashlib.sha256(encode(request)).digest(),),
        hidden_units=0,
        continues_after=0,
    )
    statement.check(cast.roster)
    for changes in ({"order": bytes(32)}, {"rounds": 3}):
        with pytest.raises(Exception, match="verify"):
            replace(statement, **changes).check(cast.roster)


def test_rounds_of_an_earlier_attempt_do_not_count_and_its_run_is_over(cast, node, keeper, side, tmp_path):
    request = cast.asks(REQUEST)
    begun(cast, node, request)
    first = side.invitation(keeper, 0, "unlearn/retrain")
    assert ask(node, Kind.INVITE, first).outcome is Outcome.DONE
    side.drop()
    late = side.invitation(keeper, 1, "unlearn/retrain")
    side.drop()
    assert begun(cast, node, request, run_id=OTHER_RUN) is Outcome.DONE
    assert ask(node, Kind.INVITE, late).outcome is Outcome.REFUSED
    assert begun(cast, node, request) is Outcome.AHEAD  # replayed
    assert decode(WipeStatement, settled(cast, node, OTHER_RUN)).rounds == 0


# What a client is shown


def test_a_client_is_sent_the_requests_that_concern_it_and_all_are_sent_equally_much(cast):
    requests = [cast.asks(REQUEST), cast.asks(PRIVATE), cast.asks(OTHERS)]
    whole = cast.begin_message(order=cast.order(*requests))
    bodies = {name: addressed(whole)(name) for name in CLIENTS}
    assert len({len(body) for body in bodies.values()}) == 1
    shown = {name: decode(Begin, body).order[0].requests for name, body in bodies.items()}
    assert shown[CLIENT] == (encode(requests[0]), encode(requests[1]))
    assert shown["silo-2"] == (encode(requests[2]),)
    assert shown["silo-0"] == shown["silo-3"] == ()
    for name, body in bodies.items():
        decode(Begin, body).check(cast.roster, "server")
        for request in requests:
            concerned = request.concerns(name)
            for secret in (request.request_id, request.boxes[0].box, request.signature):
                assert (secret in body) is concerned
        assert all(request.digest in body for request in requests)
    assert all(request.signature in encode(whole) for request in requests)  # the broken variant: the same for all
    assert CLIENT.encode() not in bodies["silo-0"]


def test_the_length_does_not_tell_whom_requests_concern(cast):
    few = addressed(cast.begin_message(order=cast.order(cast.asks(REQUEST), cast.asks(OTHERS))))
    both = addressed(cast.begin_message(order=cast.order(cast.asks(REQUEST), cast.asks(PRIVATE))))
    assert len(few("silo-0")) == len(both("silo-0"))


def test_whom_a_request_does_not_concern_serves_the_order_and_marks_nothing(cast, node):
    whole = cast.begin_message(order=cast.order(cast.asks(OTHERS)))
    assert ask(node, Kind.BEGIN, addressed(whole)(CLIENT)).outcome is Outcome.DONE
    assert marks(node) == ()
    assert node.client(CLIENT).state.order.order_digest == whole.order_digest


def test_a_request_that_the_digests_do_not_have_is_refused(cast, node):
    order = cast.order(cast.asks(REQUEST))
    other = encode(cast.asks(PRIVATE))
    before = (cast.folder(CLIENT) / f"state-{CLIENT}.json").read_bytes()
    for wrong in (
        replace(order, requests=(other,)),
        replace(order, requests=(*order.requests, other)),
        replace(order, requests=order.requests * 2),
        replace(order, request_digests=order.request_digests * 2),
        replace(cast.order(cast.asks(REQUEST), cast.asks(OTHERS)), request_digests=(b"b" * 32, b"a" * 32)),
    ):
        assert ask(node, Kind.BEGIN, cast.begin(order=wrong)).outcome is Outcome.REFUSED
    assert (cast.folder(CLIENT) / f"state-{CLIENT}.json").read_bytes() == before


def test_the_commitment_tells_which_requests_the_client_was_given(cast, node):
    """A server that keeps one back gives its digest to all the same; the client can show that it never saw it."""
    own = cast.asks(REQUEST)
    kept_back = replace(cast.order(own), requests=())
    assert ask(node, Kind.BEGIN, cast.begin(order=kept_back)).outcome is Outcome.DONE
    assert commitment_holds(cast, node, settled(cast, node))["requests"] == []
    assert begun(cast, node, own, cast.asks(PRIVATE), run_id=OTHER_RUN, window=OTHER_WINDOW) is Outcome.DONE
    opening = commitment_holds(cast, node, settled(cast, node, OTHER_RUN, OTHER_WINDOW), OTHER_WINDOW)
    assert own.request_id.hex() in opening["requests"]


# Limits


def test_an_order_beyond_what_is_pinned_is_refused(tmp_path):
    policy = DeletionPolicy(
        window_start=0, window_seconds=60, maximum_batch=2, hidden_units=2, method="scrub", settings={"length": 3}
    )
    cast = make_cast(tmp_path / "nodes", deletion=policy)
    with Node.create(cast.folder(CLIENT)) as node:
        requests = [cast.asks(DeletionRequest.some_records(CLIENT, (place,))) for place in range(3)]
        for refused, arguments in (
            (requests[:2], {"hidden_units": 3, "method": Scrub(length=3)}),
            (requests[:2], {"hidden_units": 4_000_000_000, "method": Scrub(length=3)}),
            (requests, {"method": Scrub(length=3)}),
            (requests[:2], {"method": Scrub(length=4)}),
            (requests[:2], {"method": Retrain()}),
        ):
            assert begun(cast, node, *refused, **arguments) is Outcome.REFUSED
        assert node.client(CLIENT).state.order is None
        assert begun(cast, node, *requests[:2], hidden_units=2, method=Scrub(length=3)) is Outcome.DONE


def test_without_a_pinned_deletion_policy_there_are_no_hidden_units(tmp_path):
    cast = make_cast(tmp_path / "nodes")
    with Node.create(cast.folder(CLIENT)) as node:
        assert begun(cast, node, hidden_units=1) is Outcome.REFUSED
        assert begun(cast, node, cast.asks(OTHERS), hidden_units=1) is Outcome.REFUSED
        assert begun(cast, node, cast.asks(OTHERS), method=Ascent()) is Outcome.DONE


def test_requests_of_executed_windows_fill_up_no_batch(tmp_path):
    policy = DeletionPolicy(window_start=0, window_seconds=60, minimum_batch=3)
    cast = make_cast(tmp_path / "nodes", deletion=policy)
    with Node.create(cast.folder(CLIENT)) as node:
        served = [cast.asks(DeletionRequest.some_records("silo-2", (place,))) for place in range(3)]
        new = [cast.asks(DeletionRequest.some_records(CLIENT, (place,))) for place in range(3)]
        assert begun(cast, node, *served) is Outcome.DONE
        settled(cast, node)
        for padded in ([new[0], *served[:2]], served, [*new[:2], *served]):
            outcome = begun(cast, node, *padded, run_id=OTHER_RUN, window=OTHER_WINDOW)
            assert outcome is Outcome.REFUSED
        assert begun(cast, node, *new, served[0], run_id=OTHER_RUN, window=OTHER_WINDOW) is Outcome.DONE


def test_who_leaves_goes_whatever_its_request_declares(cast, node, caplog):
    few = cast.asks(DeletionRequest.whole_client(CLIENT), units=1)
    assert begun(cast, node, few) is Outcome.DONE
    assert marks(node) == tuple(range(10))
    assert "declares fewer units" in caplog.text
    assert commitment_holds(cast, node, settled(cast, node))["undone"] == []
    assert len(node.client(CLIENT).silo.records) == 0


def test_a_class_signer_that_is_the_server_is_refused(tmp_path):
    policy = DeletionPolicy(window_start=0, window_seconds=60, class_signers=("server",))
    cast = make_cast(tmp_path / "nodes", deletion=policy)
    with pytest.raises(ConfigError, match="class_signers"):
        Node.create(cast.folder(CLIENT))


# What fails, and what was in no round


def test_an_order_whose_preparation_fails_is_prepared_before_anything_is_computed(
    cast, node, keeper, side, monkeypatch, tmp_path
):
    """Or its rounds would leave out what the order before it marked, and its wiping destroy that one's history."""
    ask(node, Kind.BEGIN, cast.begin(THIRD_RUN))
    training = ServerSide(cast, tmp_path / "training", THIRD_RUN)
    for number in range(3):
        assert ask(node, Kind.INVITE, training.invitation(keeper, number)).outcome is Outcome.DONE
        training.drop()
    training.close()
    first, second = cast.asks(DeletionRequest.some_records(CLIENT, (0, 1))), cast.asks(REQUEST)
    assert begun(cast, node, first, run_id=OTHER_RUN, window=OTHER_WINDOW, remembered=2) is Outcome.DONE

    def fails(*_, **__):
        raise MemoryError

    client = node.client(CLIENT)
    stale = client._ordered
    begin = cast.begin(order=cast.order(second, remembered=2))
    with monkeypatch.context() as patch:
        patch.setattr(Holdings, "marked", fails)
        assert ask(node, Kind.BEGIN, begin).outcome is Outcome.FAILED
        assert client._prepared is None
        assert client._tasks == {}
        assert ask(node, Kind.INVITE, side.invitation(keeper, 0, "unlearn/retrain")).outcome is Outcome.FAILED
        side.drop()
    assert ask(node, Kind.INVITE, side.invitation(keeper, 1, "unlearn/retrain")).outcome is Outcome.DONE
    assert list(client._ordered.places[client._ordered.forgotten]) == [0, 3, 7]
    with monkeypatch.context() as patch:
        patch.setattr(client, "_ordered", stale)
        patch.setattr(client, "_prepared", b"of the first order")
        settled(cast, node)
    assert gone(node) == (0, 3, 7)
    assert not any(entry.sampled[[0, 3, 7]].any() for entry in client.silo.history)
    assert client.silo.history.rounds == (0, 1, 2)


def test_what_was_asked_in_private_and_was_in_no_round_is_not_ticked_off(cast, node, keeper, side, caplog):
    node.request_privately(CLIENT, PRIVATE)
    begun(cast, node, run_id=OTHER_RUN, window=OTHER_WINDOW, hidden_units=5)
    body = settled(cast, node, OTHER_RUN, OTHER_WINDOW)
    assert decode(WipeStatement, body).rounds == 0
    assert gone(node) == (2, 5)
    (waiting,) = node.client(CLIENT).state.private
    assert waiting.wiped
    assert "wiped, not unlearnt" in caplog.text
    node.close()
    with cast.open(CLIENT) as again:
        assert settled(cast, again, OTHER_RUN, OTHER_WINDOW) == body
        assert begun(cast, again, hidden_units=1) is Outcome.DONE
        assert marks(again) == ()  # nothing is left to mark, and it needs no hidden unit
        assert ask(again, Kind.INVITE, side.invitation(keeper, 0, "unlearn/retrain")).outcome is Outcome.DONE
        settled(cast, again)
        assert again.client(CLIENT).state.private == ()


def test_garbage_does_not_have_requests_taken_up(cast, node):
    path = leave_request(cast.folder(CLIENT) / REQUESTS, CLIENT, PRIVATE)
    stranger = cast.identities["silo-2"]
    for body in (b"garbage", cast.begin(by=stranger), signed(cast, RUN, "r")):
        assert ask(node, Kind.BEGIN, body).outcome is Outcome.REFUSED
        assert path.exists()
        assert node.client(CLIENT).state.private == ()
    assert ask(node, Kind.BEGIN, cast.begin(THIRD_RUN)).outcome is Outcome.DONE
    assert not path.exists()
    assert len(node.client(CLIENT).state.private) == 1
