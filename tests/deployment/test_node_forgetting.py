"""What a client computes under an order and after it, what is gone when it has settled, and what it signs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from node_cast import (
    CLIENT,
    CLIENTS,
    KEEPER,
    OTHER_RUN,
    OTHER_WINDOW,
    PLACES,
    REQUEST,
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

from secure_fu.crypto import InsecureDeterministicRandomness
from secure_fu.deletion import DeletionRequest
from secure_fu.deployment.exchange.messages import Kind, Outcome
from secure_fu.deployment.node import Node
from secure_fu.learning import Records
from secure_fu.privacy import Unit
from secure_fu.protocol import KeyHolderEncryption
from secure_fu.unlearning import Eraser

KEPT = tuple(place for place in range(10) if place not in PLACES)


@pytest.fixture
def cast(tmp_path):
    return make_cast(tmp_path / "nodes")


@pytest.fixture
def contributed(monkeypatch):
    """What clients encrypt, their noise included, in the order in which they do."""
    seen = []
    real = KeyHolderEncryption.begin

    def begin(self, invitation, header, client, values):
        seen.append(values.copy())
        return real(self, invitation, header, client, values)

    monkeypatch.setattr(KeyHolderEncryption, "begin", begin)
    return seen


# What is computed


def without(records, places):
    keep = np.ones(len(records), dtype=np.bool_)
    keep[list(places)] = False
    return records.subset(keep)


def altered(records, places):
    """Other data at these places."""
    features, labels = records.features.clone(), records.labels.clone()
    features[list(places)] = 7.5
    labels[list(places)] = 2 - labels[list(places)]
    return Records(features, labels, records.groups)


def test_rounds_of_an_order_do_not_see_the_marked_records(cast, keeper, side, contributed):
    own = silos()[CLIENT]
    folders = {
        "same": twin(cast, "same", own),
        "other forgotten": twin(cast, "other-forgotten", altered(own, PLACES)),
        "other retained": twin(cast, "other-retained", altered(own, KEPT)),
    }
    order = cast.order(cast.asks(REQUEST))
    cast.begin(order=order)
    invitations = [side.invitation(keeper, 0, "unlearn/retrain")]
    side.drop()
    invitations.append(side.invitation(keeper, 1, "unlearn/retrain"))
    side.drop()
    invitations.append(side.invitation(keeper, 2))  # training in its run, before it is settled
    for folder in folders.values():
        for number, invitation in enumerate(invitations):
            # Another process for each round, as after a kill in the middle of the order.
            opened = Node.open if number else Node.create
            with opened(folder, randomness=InsecureDeterministicRandomness(1)) as node:
                if number == 0:
                    assert ask(node, Kind.BEGIN, cast.begin(order=order)).outcome is Outcome.DONE
                assert ask(node, Kind.INVITE, invitation).outcome is Outcome.DONE
    for number in range(3):
        same, other_forgotten, other_retained = contributed[number::3]
        assert np.array_equal(same, other_forgotten)
        assert not np.array_equal(same, other_retained)


@pytest.mark.parametrize("again", [False, True])
def test_after_a_window_a_client_contributes_as_if_it_never_had_the_records(cast, keeper, side, contributed, again):
    """Bit for bit, in a run that knows no order and in the window's own, with or without a restart in between."""
    own = silos()[CLIENT]
    folders = [twin(cast, "never", without(own, PLACES)), twin(cast, "had", own), twin(cast, "kept", own)]
    first = side.invitation(keeper, 0)
    side.drop()
    second = side.invitation(keeper, 1)
    for folder in folders:
        node = Node.create(folder, randomness=InsecureDeterministicRandomness(1))
        ask(node, Kind.BEGIN, cast.begin())
        ask(node, Kind.INVITE, first)
        if folder.name == "had":
            assert begun(cast, node, cast.asks(REQUEST), run_id=OTHER_RUN) is Outcome.DONE
            settled(cast, node, OTHER_RUN)
        if again:
            node.close()
            node = Node.open(folder, randomness=InsecureDeterministicRandomness(1))
        assert ask(node, Kind.INVITE, second).outcome is Outcome.DONE
        node.close()
    never, had, kept = contributed[1::2]
    assert np.array_equal(never, had)
    assert not np.array_equal(never, kept)
    assert not np.array_equal(contributed[0], contributed[2])  # before it, they differed


@pytest.mark.parametrize("again", [False, True])
def test_what_a_parked_order_covers_is_in_no_round_any_more(cast, keeper, side, contributed, again):
    """The server may have executed it, and its word be on the way: the next order must not train on these records."""
    own = silos()[CLIENT]
    folders = [
        twin(cast, "same", own),
        twin(cast, "other", altered(own, PLACES)),
        twin(cast, "kept", altered(own, KEPT)),
    ]
    one, another = cast.asks(REQUEST), cast.asks(DeletionRequest.some_records(CLIENT, (2,)))
    cast.begin(order=cast.order(another))
    first = side.invitation(keeper, 0, "unlearn/retrain")
    side.drop()
    second = side.invitation(keeper, 1)
    for folder in folders:
        node = Node.create(folder, randomness=InsecureDeterministicRandomness(1))
        begun(cast, node, one, run_id=OTHER_RUN, window=OTHER_WINDOW)
        assert begun(cast, node, another) is Outcome.DONE
        if again:
            node.close()
            node = Node.open(folder, randomness=InsecureDeterministicRandomness(1))
        assert ask(node, Kind.INVITE, first).outcome is Outcome.DONE
        settled(cast, node)
        assert ask(node, Kind.INVITE, second).outcome is Outcome.DONE
        # They are not destroyed before the server says so.
        assert gone(node) == (2,)
        assert torch.equal(node.client(CLIENT).silo.records.features[0], load(folder)[0])
        settled(cast, node, OTHER_RUN, OTHER_WINDOW)
        assert gone(node) == (0, 2, 3, 7)
        node.close()
    for number in range(2):
        same, other, kept = contributed[number::2]
        assert np.array_equal(same, other)
        assert not np.array_equal(same, kept)


def test_what_is_ordered_again_after_it_was_parked_is_there_for_the_method(cast, node):
    begun(cast, node, cast.asks(REQUEST), run_id=OTHER_RUN, window=OTHER_WINDOW)
    begun(cast, node, cast.asks(DeletionRequest.some_records(CLIENT, (0, 3, 4))))
    ordered = node.client(CLIENT)._ordered
    assert list(ordered.places) == [0, 1, 2, 3, 4, 5, 6, 8, 9]  # 7 may have been executed
    assert list(ordered.places[ordered.forgotten]) == [0, 3, 4]


def load(folder):
    with np.load(folder / "records.npz") as archive:
        return torch.from_numpy(archive["features"])


def test_training_goes_on_in_the_run_of_an_executed_order(cast, node, keeper, side):
    begun(cast, node, cast.asks(REQUEST))
    assert ask(node, Kind.INVITE, side.invitation(keeper, 0, "unlearn/retrain")).outcome is Outcome.DONE
    side.drop()
    settled(cast, node)
    assert ask(node, Kind.INVITE, side.invitation(keeper, 1)).outcome is Outcome.DONE
    side.drop()
    assert ask(node, Kind.INVITE, side.invitation(keeper, 2, "unlearn/retrain")).outcome is Outcome.REFUSED
    assert node.client(CLIENT).silo.history.rounds == (0, 1)


def test_what_a_client_remembers_after_a_window_is_what_the_order_says(cast, keeper, side, tmp_path):
    numbers = range(3)
    invitations = []
    for number in numbers:
        invitations.append(side.invitation(keeper, number))
        side.drop()
    for remembered in (-1, 1, 2):
        folder = twin(cast, f"remembers-{remembered}", silos()[CLIENT])
        with Node.create(folder) as node:
            ask(node, Kind.BEGIN, cast.begin())
            for invitation in invitations:
                ask(node, Kind.INVITE, invitation)
            history = node.client(CLIENT).silo.history
            assert history.rounds == (0, 1, 2)
            assert any(entry.sampled[list(PLACES)].any() for entry in history)
            begun(cast, node, cast.asks(REQUEST), run_id=OTHER_RUN, remembered=remembered)
            settled(cast, node, OTHER_RUN)
            history = node.client(CLIENT).silo.history
            assert history.rounds == tuple(range(remembered + 1))
            assert not any(entry.sampled[list(PLACES)].any() for entry in history)
            kept = {path.stem for path in (folder / "models").glob("*.safetensors")}
            assert kept == {digest.hex() for digest in history.digests}


def test_a_client_whose_history_is_lost_answers_with_noise_alone_and_forgets_all_the_same(
    cast, keeper, side, contributed, tmp_path
):
    folder = twin(cast, "lost", silos()[CLIENT])
    invitation = side.invitation(keeper, 0)
    side.drop()
    request = cast.asks(REQUEST)
    cast.begin(OTHER_RUN, cast.order(request, method=Eraser()))
    other = ServerSide(cast, tmp_path / "other server", OTHER_RUN)
    of_eraser = other.invitation(keeper, 0, "unlearn/eraser")
    other.close()
    with Node.create(folder) as node:
        ask(node, Kind.BEGIN, cast.begin())
        ask(node, Kind.INVITE, invitation)
    (entry,) = (folder / "histories" / CLIENT).glob("round-*.safetensors")
    entry.write_bytes(b"torn")
    with Node.open(folder, randomness=InsecureDeterministicRandomness(1)) as node:
        assert begun(cast, node, request, run_id=OTHER_RUN, method=Eraser()) is Outcome.DONE
        assert ask(node, Kind.INVITE, of_eraser).outcome is Outcome.DONE
        settled(cast, node, OTHER_RUN)
        assert not list((folder / "histories" / CLIENT).glob("round-*.safetensors"))
        assert gone(node) == PLACES


# What is gone


def traces(folder, records, places):
    """Files of a directory in which the features of any of these records are found, as they are or deflated or not."""
    found = set()
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for place in places:
                row = records.features[place].numpy()
                if any(row.astype(kind).tobytes() in content for kind in ("<f4", "<f8")):
                    found.add(path.name)
    return found


def test_wiped_records_are_in_no_file_and_not_in_memory(cast, keeper, side):
    own, folder = silos()[CLIENT], cast.folder(CLIENT)
    with Node.create(folder) as node:
        ask(node, Kind.BEGIN, cast.begin())
        ask(node, Kind.INVITE, side.invitation(keeper, 0))
        begun(cast, node, cast.asks(REQUEST), run_id=OTHER_RUN)
        assert traces(folder, own, PLACES) == {"records.npz"}  # the control: it would be found
        settled(cast, node, OTHER_RUN)
        assert traces(folder, own, PLACES) == set()
        assert traces(folder, own, KEPT) == {"records.npz"}
        silo = node.client(CLIENT).silo
        assert torch.equal(silo.records.features, own.features[list(KEPT)])
        assert torch.equal(silo.records.labels, own.labels[list(KEPT)])
        assert list(silo.places) == list(KEPT)
        brought = node.client(CLIENT)._holdings.brought
        assert not brought.labels[list(PLACES)].any()
        assert brought.groups is not None
        assert not brought.groups[list(PLACES)].any()
        assert torch.equal(brought.labels[list(KEPT)], own.labels[list(KEPT)])
    with np.load(folder / "records.npz") as archive:
        assert not archive["features"][list(PLACES)].any()
        assert not archive["groups"][list(PLACES)].any()
    with cast.open(CLIENT) as node:
        assert len(node.client(CLIENT).silo.records) == 7


def test_records_that_are_handed_in_again_do_not_come_back(cast):
    given = {CLIENT: silos()[CLIENT]}
    with Node.create(cast.folder(CLIENT), records=given) as node:
        begun(cast, node, cast.asks(REQUEST))
        settled(cast, node)
    with cast.open(CLIENT, records=given) as node:
        assert len(node.client(CLIENT).silo.records) == 7
        # A position that is gone is not forgotten again, and a class does not find what is gone.
        again = cast.asks(DeletionRequest.some_records(CLIENT, (0, 1)))
        assert begun(cast, node, again, run_id=OTHER_RUN, window=OTHER_WINDOW) is Outcome.DONE
        assert marks(node) == (1,)


def test_what_could_not_be_destroyed_is_not_confirmed_and_tried_again(cast, node, monkeypatch):
    request = cast.asks(REQUEST)
    begun(cast, node, request)
    for target in ("secure_fu.deployment.node.data.write_whole", "secure_fu.training.silo.Silo.erased"):
        with monkeypatch.context() as patch:

            def fails(*_):
                raise OSError(5, "Input/output error")

            patch.setattr(target, fails)
            assert ask(node, Kind.WIPE, cast.wipe()).outcome is Outcome.FAILED
        # Nobody has the records any more, whatever is left on disk.
        assert len(node.client(CLIENT).silo.records) == 7
        assert node.client(CLIENT).state.pending is not None
    body = settled(cast, node)
    assert node.client(CLIENT).state.pending is None
    assert traces(cast.folder(CLIENT), silos()[CLIENT], PLACES) == set()
    assert commitment_holds(cast, node, body) == {
        "private": [],
        "requests": [request.request_id.hex()],
        "undone": [],
    }


@pytest.mark.parametrize("unit", list(Unit))
def test_a_client_that_leaves_goes_on_sending_what_looks_like_all_others(tmp_path, unit):
    cast = make_cast(tmp_path / "nodes", unit=unit)
    side, keeper = ServerSide(cast, tmp_path / "server"), Node.create(cast.folder(KEEPER))
    sizes = {}
    order = cast.order(cast.asks(DeletionRequest.whole_client(CLIENT), units=10))
    cast.begin(order=order)
    invitations = [side.invitation(keeper, 0)]
    side.drop()
    invitations.append(side.invitation(keeper, 1))
    for name in CLIENTS[:2]:
        with Node.create(cast.folder(name)) as node:
            lengths = [len(ask(node, Kind.BEGIN, cast.begin(order=order)).body)]
            lengths += [len(ask(node, Kind.INVITE, invitations[0]).body)]
            lengths += [len(settled(cast, node)), len(ask(node, Kind.INVITE, invitations[1]).body)]
            sizes[name] = lengths
            assert len(node.client(name).silo.records) == (0 if name == CLIENT else 10)
    assert len({tuple(lengths) for lengths in sizes.values()}) == 1
    assert all(length > 0 for length in sizes[CLIENT][1:])
    with cast.open(CLIENT) as node:
        assert len(node.client(CLIENT).silo.records) == 0
    keeper.close()
    side.close()


# What is signed


def test_the_same_statement_again_also_after_a_restart(cast, node):
    request = cast.asks(REQUEST)
    begun(cast, node, request)
    body = settled(cast, node)
    assert settled(cast, node) == body
    assert begun(cast, node, request, run_id=OTHER_RUN) is Outcome.DONE  # the server has lost an answer
    assert begun(cast, node, cast.asks(REQUEST), run_id=OTHER_RUN) is Outcome.AHEAD  # a window has one order
    assert settled(cast, node, OTHER_RUN) == body
    node.close()
    with cast.open(CLIENT) as again:
        assert settled(cast, again) == body
        assert commitment_holds(cast, again, body) == {
            "private": [],
            "requests": [request.request_id.hex()],
            "undone": [],
        }
