"""Orders to forget: who may give them, what they mark, and what private requests add."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
from node_cast import (
    CLIENT,
    HIDING,
    KEEPER,
    OTHER_RUN,
    OTHER_WINDOW,
    PLACES,
    PRIVATE,
    REQUEST,
    RUN,
    WINDOW,
    ServerSide,
    ask,
    begun,
    commitment_holds,
    gone,
    make_cast,
    marks,
    settled,
    twin,
)
from small_federations import silos

from secure_fu.crypto.wire import decode, encode
from secure_fu.deletion import DeletionRequest
from secure_fu.deletion.policy import DeletionPolicy
from secure_fu.deployment.exchange.messages import Kind, Outcome, WipeStatement, wipe_commitment
from secure_fu.deployment.node import REQUESTS, Node, leave_request
from secure_fu.deployment.node import orders as node_orders
from secure_fu.errors import AlreadyForgotten, ArgumentError
from secure_fu.privacy import Unit
from secure_fu.unlearning import Retrain

TWICE = b"t" * 16


@pytest.fixture
def cast(tmp_path):
    return make_cast(tmp_path / "nodes", deletion=HIDING)


# Who may give an order


def test_an_order_marks_what_the_client_asked_for_and_nothing_else(cast, node):
    assert begun(cast, node, cast.asks(REQUEST)) is Outcome.DONE
    assert marks(node) == PLACES
    assert len(node.client(CLIENT).silo.records) == 10  # nothing is gone before the window is settled


def test_requests_that_are_forged_or_not_the_signers_to_make_spoil_the_order(cast, node):
    good = cast.asks(REQUEST)
    before = (cast.folder(CLIENT) / f"state-{CLIENT}.json").read_bytes()
    of_all = DeletionRequest.whole_class(1)
    bad = [
        replace(good, signature=bytes(64)),
        replace(good, units=9),
        replace(good, request_id=bytes(16)),
        cast.asks(REQUEST, by="silo-2"),
        replace(cast.asks(REQUEST, by="silo-2"), signer=CLIENT),
        cast.asks(of_all, by="silo-2"),
        cast.asks(DeletionRequest.whole_client(CLIENT), by=KEEPER),
    ]
    for request in bad:
        assert begun(cast, node, good, request) is Outcome.REFUSED
    assert begun(cast, node, good, good) is Outcome.REFUSED
    assert begun(cast, node, good, method=replace_method("no-such")) is Outcome.REFUSED
    assert (cast.folder(CLIENT) / f"state-{CLIENT}.json").read_bytes() == before
    assert begun(cast, node, good) is Outcome.DONE


def replace_method(name):
    class Unknown(Retrain):
        pass

    Unknown.name = name
    return Unknown()


def test_without_its_check_of_requests_a_client_would_forget_for_anybody(cast, node, monkeypatch):
    monkeypatch.setattr(node_orders, "check_signature", lambda *_, **__: None)
    assert begun(cast, node, cast.asks(REQUEST, by="silo-2")) is Outcome.DONE
    assert marks(node) == PLACES


def test_who_may_ask_for_a_class_everywhere_is_in_the_pinned_policy(tmp_path):
    policy = DeletionPolicy(window_start=0, window_seconds=60, class_signers=("silo-2",))
    cast = make_cast(tmp_path / "nodes", deletion=policy)
    with Node.create(cast.folder(CLIENT)) as node:
        of_all = DeletionRequest.whole_class(1)
        assert begun(cast, node, cast.asks(of_all, by="silo-3", units=40)) is Outcome.REFUSED
        assert begun(cast, node, cast.asks(of_all, by="silo-2", units=40)) is Outcome.DONE
        assert marks(node) == tuple(np.flatnonzero(silos()[CLIENT].labels.numpy() == 1))


def test_fewer_requests_than_the_pinned_smallest_batch_are_not_served(tmp_path):
    policy = DeletionPolicy(window_start=0, window_seconds=60, minimum_batch=2, hidden_units=2, cover=True)
    cast = make_cast(tmp_path / "nodes", deletion=policy)
    with Node.create(cast.folder(CLIENT)) as node:
        one, another = cast.asks(REQUEST), cast.asks(DeletionRequest.whole_client("silo-2"))
        assert begun(cast, node, one) is Outcome.REFUSED
        assert begun(cast, node) is Outcome.REFUSED
        assert begun(cast, node, one, hidden_units=2) is Outcome.REFUSED
        assert begun(cast, node, one, another) is Outcome.DONE
        assert begun(cast, node, window=OTHER_WINDOW, run_id=OTHER_RUN, hidden_units=1) is Outcome.DONE


# One order at a time


def test_the_same_order_again_changes_nothing_and_another_under_its_name_is_refused(cast, node):
    first, second = cast.asks(REQUEST), cast.asks(PRIVATE)
    path = cast.folder(CLIENT) / f"state-{CLIENT}.json"
    assert begun(cast, node, first) is Outcome.DONE
    before = path.read_bytes()
    assert begun(cast, node, first) is Outcome.DONE
    for run_id in (RUN, OTHER_RUN):
        assert begun(cast, node, first, second, run_id=run_id) is Outcome.REFUSED
        assert begun(cast, node, first, hidden_units=9, run_id=run_id) is Outcome.REFUSED
    assert path.read_bytes() == before


def test_another_attempt_takes_the_place_of_the_first_and_the_first_does_not_come_back(cast, node):
    request = cast.asks(REQUEST)
    assert begun(cast, node, request) is Outcome.DONE
    assert begun(cast, node, request, run_id=OTHER_RUN, remembered=4) is Outcome.DONE
    assert node.client(CLIENT).state.order.continues_after == 5
    assert begun(cast, node, request) is Outcome.AHEAD  # replayed
    assert node.client(CLIENT).state.order.continues_after == 5
    assert marks(node) == PLACES


def test_an_order_in_the_place_of_another_drops_its_marks(cast, node, keeper, side):
    assert begun(cast, node, cast.asks(REQUEST)) is Outcome.DONE
    assert begun(cast, node, cast.asks(PRIVATE), run_id=OTHER_RUN, window=OTHER_WINDOW) is Outcome.DONE
    assert marks(node) == (2, 5)
    for number, purpose in enumerate(("unlearn/retrain", "train")):
        invitation = side.invitation(keeper, number, purpose)
        assert ask(node, Kind.INVITE, invitation).outcome is Outcome.REFUSED  # the run of the first
        side.drop()
    assert begun(cast, node, cast.asks(REQUEST), run_id=TWICE) is Outcome.REFUSED  # its window
    settled(cast, node, OTHER_RUN, OTHER_WINDOW)
    assert gone(node) == (2, 5)


def test_a_server_that_went_on_too_early_can_still_say_that_the_first_was_executed(cast, node):
    assert begun(cast, node, cast.asks(REQUEST)) is Outcome.DONE
    assert begun(cast, node, cast.asks(PRIVATE), run_id=OTHER_RUN, window=OTHER_WINDOW) is Outcome.DONE
    body = settled(cast, node)
    assert gone(node) == PLACES
    assert len(node.client(CLIENT).silo.records) == 7
    assert settled(cast, node) == body
    settled(cast, node, OTHER_RUN, OTHER_WINDOW)
    assert gone(node) == (0, 2, 3, 5, 7)
    assert len(node.client(CLIENT).silo.records) == 5


# Units


def test_a_group_goes_as_a_whole_or_not_at_all(tmp_path, caplog):
    cast = make_cast(tmp_path / "nodes", unit=Unit.GROUP)
    with Node.create(cast.folder(CLIENT)) as node:
        part, whole = (
            cast.asks(DeletionRequest.some_records(CLIENT, (0,))),
            cast.asks(DeletionRequest.person("p1-2", client=CLIENT)),
        )
        with caplog.at_level(logging.ERROR, "secure_fu"):
            assert begun(cast, node, part, whole) is Outcome.DONE
        assert marks(node) == (4, 5)
        assert "undone" in caplog.text
        opening = commitment_holds(cast, node, settled(cast, node))
        assert opening["undone"] == [part.request_id.hex()]
        # Two halves are a whole.
        halves = [cast.asks(DeletionRequest.some_records(CLIENT, (place,))) for place in (0, 1)]
        assert begun(cast, node, *halves, run_id=OTHER_RUN, window=OTHER_WINDOW) is Outcome.DONE
        assert marks(node) == (0, 1)


def test_what_cannot_be_done_is_left_undone_and_the_server_is_not_told(cast, node, caplog):
    fine = cast.asks(DeletionRequest.some_records(CLIENT, (4,)))
    odd = [
        cast.asks(DeletionRequest.some_records(CLIENT, (98765,))),
        cast.asks(DeletionRequest.some_records(CLIENT, (0, 1, 2, 3)), units=3),
    ]
    with caplog.at_level(logging.DEBUG, "secure_fu"):
        plain = ask(node, Kind.BEGIN, cast.begin(order=cast.order(*odd, fine)))
    assert (plain.outcome, plain.body) == (Outcome.DONE, b"")
    assert marks(node) == (4,)
    assert "98765" not in caplog.text
    opening = commitment_holds(cast, node, settled(cast, node))
    assert sorted(opening["undone"]) == sorted(request.request_id.hex() for request in odd)


# In private


def test_a_private_request_joins_the_next_order_that_has_room_for_it(cast, node, keeper, tmp_path):
    node.request_privately(CLIENT, PRIVATE)
    assert begun(cast, node, cast.asks(REQUEST), hidden_units=1) is Outcome.DONE
    assert marks(node) == PLACES
    assert begun(cast, node, run_id=OTHER_RUN, window=OTHER_WINDOW, hidden_units=2) is Outcome.DONE
    assert marks(node) == (2, 5)
    other = ServerSide(cast, tmp_path / "other server", OTHER_RUN)
    assert ask(node, Kind.INVITE, other.invitation(keeper, 0, "unlearn/retrain")).outcome is Outcome.DONE
    other.close()
    opening = commitment_holds(cast, node, settled(cast, node, OTHER_RUN, OTHER_WINDOW), OTHER_WINDOW)
    assert [one["request"]["records"] for one in opening["private"]] == [[2, 5]]
    assert gone(node) == (2, 5)
    assert node.client(CLIENT).state.private == ()


def test_private_requests_that_wait_hold_back_none_behind_them(cast, node):
    node.request_privately(CLIENT, DeletionRequest.some_records(CLIENT, (0, 1, 2)))
    node.request_privately(CLIENT, DeletionRequest.some_records(CLIENT, (3,)))
    node.request_privately(CLIENT, DeletionRequest.some_records(CLIENT, (4,)))
    begun(cast, node, hidden_units=1)
    assert marks(node) == (3,)
    settled(cast, node)
    begun(cast, node, hidden_units=4, run_id=OTHER_RUN, window=OTHER_WINDOW)
    assert marks(node) == (0, 1, 2, 4)


def test_a_private_request_survives_and_one_that_was_left_is_taken_up_once(cast, node):
    node.request_privately(CLIENT, PRIVATE)
    node.close()
    path = leave_request(cast.folder(CLIENT) / REQUESTS, CLIENT, DeletionRequest.some_records(CLIENT, (9,)))
    copied = path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    with cast.open(CLIENT) as again:
        assert len(again.client(CLIENT).state.private) == 2
        assert not path.exists()
        path.write_bytes(copied)  # as if the file had outlived a kill
        (path.parent / "broken.request").write_bytes(b"{}")
        assert begun(cast, again, hidden_units=5) is Outcome.DONE
        assert marks(again) == (2, 5, 9)
        assert len(again.client(CLIENT).state.private) == 2


def test_private_requests_are_of_this_client_and_of_what_is_there(cast, node):
    for request, wrong in (
        (DeletionRequest.whole_client("silo-2"), AlreadyForgotten),
        (DeletionRequest.some_records(CLIENT, (10,)), ArgumentError),
        (DeletionRequest.person("nobody"), AlreadyForgotten),
    ):
        with pytest.raises(wrong):
            node.request_privately(CLIENT, request)
    with pytest.raises(ArgumentError, match="client"):
        node.request_privately("silo-2", DeletionRequest.whole_client("silo-2"))
    with pytest.raises(ArgumentError, match=r"request\.client"):
        leave_request(cast.folder(CLIENT) / REQUESTS, CLIENT, DeletionRequest.whole_client("silo-2"))
    assert node.client(CLIENT).state.private == ()


def test_nobody_can_tell_from_answers_who_asked_in_private(cast, keeper, side):
    """Outcomes and sizes of all answers, to who asked in private and who did not; and that commitments are salted."""
    order = cast.order(cast.asks(DeletionRequest.whole_client("silo-2")), hidden_units=2)
    cast.begin(order=order)
    invitation = side.invitation(keeper, 0, "unlearn/retrain")
    seen, statements = {}, {}
    for asks in (False, True):
        folder = twin(cast, f"asks-{asks}", silos()[CLIENT])
        with Node.create(folder) as node:
            if asks:
                node.request_privately(CLIENT, PRIVATE)
            answers = [
                ask(node, Kind.BEGIN, cast.begin(order=order)),
                ask(node, Kind.INVITE, invitation),
                ask(node, Kind.WIPE, cast.wipe()),
            ]
            seen[asks] = [(answer.outcome, len(answer.body)) for answer in answers]
            statements[asks] = decode(WipeStatement, answers[-1].body)
            own = node.client(CLIENT).state.settled_window(WINDOW)
            assert bool(json.loads(own.opening)["private"]) is asks
            assert len(own.salt) == 32
            # Without the salt, whoever guesses right would know.
            assert statements[asks].commitment != wipe_commitment(b"", own.opening.encode())
    assert seen[True] == seen[False]
    assert statements[True].commitment != statements[False].commitment
    assert len(encode(statements[True])) == len(encode(statements[False]))
