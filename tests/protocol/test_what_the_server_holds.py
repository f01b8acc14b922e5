"""The server's memory, walked at every message: no single client's vector, no noise share, no opening key."""

from __future__ import annotations

import collections
import functools
import json
import sys
import types

import numpy as np
import pytest
import torch
from machines import Tape, header_of, make_machines
from memory_walk import find, needles, reachable

import secure_fu.federation.parties
from secure_fu.crypto import Identity, OpeningKey, OsRandomness, SecureStream
from secure_fu.crypto.wire import decode
from secure_fu.deletion import DeletionRequest
from secure_fu.federation import Federation
from secure_fu.learning import Records, mlp
from secure_fu.planning import make_plan
from secure_fu.protocol import Client, InProcessSums, KeyHolderOpening, KeyHolderServer
from secure_fu.protocol.header import grid_of, noise_share_of
from secure_fu.protocol.key_holder.encryption import upload_associated_data
from secure_fu.protocol.messages import Upload
from secure_fu.unlearning import Correction, Retrain

LENGTH = 30


def sentinels(client):
    """A contribution like no other: float64 numbers that no other client has, within saturation."""
    return np.random.default_rng(1000 + client).normal(0.0, 0.4, LENGTH)


def wanted_from(machines, header, names):
    """Bytes by which the server must not know any of these clients in this round."""
    wanted = {}
    for name in names:
        contribution = machines.tasks[name].contribution_given
        quantised = grid_of(header).quantise(contribution)
        noise = machines.noise(name, header)
        wanted |= needles(f"contribution of {name}", contribution)
        wanted |= needles(f"integers of {name}", quantised)
        wanted |= needles(f"noise of {name}", noise)
        wanted |= needles(f"plaintext of {name}", quantised + noise)
        wanted |= needles(f"dequantised plaintext of {name}", (quantised + noise) * header.grid_step)
    assert len(wanted) > 100 * len(names)
    return wanted


def keys_and_streams(server, items):
    """Secret objects of others among `items`."""
    found = []
    for item in items:
        if isinstance(item, type):
            continue
        if isinstance(item, (OpeningKey, SecureStream)) or type(item).__name__.endswith("Stream"):
            found.append(type(item).__name__)
        elif isinstance(item, Identity) and item is not server._identity:
            found.append(f"identity of {item.name}")
        elif type(item).__module__.startswith("tenseal") and hasattr(item, "has_secret_key") and item.has_secret_key():
            found.append("context with a secret key")
    return found


def exposures(server, wanted):
    items = list(reachable(server))
    assert len(items) > 100
    return find(wanted, items) + keys_and_streams(server, items)


def run_watched(machines, server, rounds=2):
    """Full rounds by hand; returns what the server's memory exposed at any message."""
    machines.server = server
    found = []
    for number in range(rounds):
        announcement = server.announce(machines.request(), machines.names, number)
        found += exposures(server, {b"\0no needle yet\0": ""})
        invitation = server.invite(machines.key_holder.issue_key(announcement))
        header = header_of(invitation)
        # The last client's upload is made and not sent: a drop-out.
        uploads = {name: machines.clients[name].respond(invitation) for name in machines.names}
        wanted = wanted_from(machines, header, machines.names)
        found += exposures(server, wanted)
        for name in machines.names[:-1]:
            server.receive(uploads[name])
            found += exposures(server, wanted)
        roll = server.close()
        found += exposures(server, wanted)
        opening = machines.key_holder.open(roll)
        found += exposures(server, wanted)
        server.release(opening)
        found += exposures(server, wanted)
    return found


def server_of_kind(machines, kind):
    return kind(machines.server._identity, machines.server._run, scheme=machines.scheme)


def test_the_server_never_holds_a_single_clients_numbers_or_an_opening_key(build):
    machines = build(length=LENGTH, contributions=sentinels)
    assert run_watched(machines, machines.server, rounds=3) == []


def test_without_encryption_the_same_walk_finds_the_first_upload(build):
    machines = build(length=LENGTH, contributions=sentinels, scheme_name="plain")
    found = run_watched(machines, machines.server, rounds=1)
    assert any(line.startswith("plaintext of client-0") for line in found), found
    assert not any("client-1" in line for line in found), "two uploads are a sum already"


# The same walk must see every way of keeping things: each of these servers is broken in one.


class KeepsUploads(KeyHolderServer):
    """Under scheme `plain`, what it keeps are the noised vectors."""

    def receive(self, upload):
        super().receive(upload)
        message = decode(Upload, upload)
        associated_data = upload_associated_data(message.header_digest, message.client)
        self.kept = [*getattr(self, "kept", ()), self._identity.unseal(message.body, associated_data=associated_data)]


def test_a_server_that_keeps_what_was_uploaded_is_found_out(build):
    machines = build(length=LENGTH, contributions=sentinels, scheme_name="plain")
    found = run_watched(machines, server_of_kind(machines, KeepsUploads), rounds=1)
    for client in range(3):
        assert any(line.startswith(f"plaintext of client-{client}[") for line in found)


class Slotted:
    """An object without a dictionary."""

    __slots__ = ("content",)


def in_slot(vector):
    slotted = Slotted()
    slotted.content = vector.astype(np.float32)
    return slotted


def in_closure(vector):
    return lambda: vector


def in_default(vector):
    def function(*, kept=vector):
        return kept

    return function


def in_generator(vector):
    def generate():
        kept = vector
        yield
        yield kept

    generator = generate()
    next(generator)
    return generator


def in_traceback(vector):
    def fail(kept):
        raise ValueError

    try:
        fail(vector)
    except ValueError as error:
        return error


def in_cache(vector):
    @functools.lru_cache
    def cached():
        return vector.tolist()

    cached()
    return cached


def in_class(vector):
    return type("Holder", (), {"kept": vector.tolist()})


HIDING_PLACES = {
    "array": lambda vector: vector.copy(),
    "float32 array": lambda vector: vector.astype(np.float32),
    "big-endian bytes": lambda vector: vector.astype(">f8").tobytes(),
    "negative": lambda vector: -vector,
    "part": lambda vector: vector[: LENGTH // 2].copy(),
    "view": lambda vector: vector.copy()[::-1][:2],
    "column": lambda vector: np.stack([vector, vector], axis=1),
    "list": lambda vector: vector.tolist(),
    "tuple in a dictionary": lambda vector: {"a": {"b": tuple(vector.tolist())}},
    "dictionary by coordinate": lambda vector: dict(enumerate(vector.tolist())),
    "set": lambda vector: set(vector.tolist()),
    "one number": lambda vector: float(vector[0]),
    "object array": lambda vector: np.array([vector, None], dtype=object),
    "bytearray": lambda vector: bytearray(vector.tobytes()),
    "memoryview": lambda vector: memoryview(vector.copy()),
    "text": lambda vector: str(vector.tolist()),
    "JSON": lambda vector: json.dumps({"update": vector.tolist()}),
    "hexadecimal": lambda vector: vector.tobytes().hex(),
    "deque": lambda vector: collections.deque([vector]),
    "iterator": lambda vector: iter([vector.tolist()]),
    "partial": lambda vector: functools.partial(print, vector),
    "mapping proxy": lambda vector: types.MappingProxyType({"kept": vector}),
    "tensor": lambda vector: torch.from_numpy(vector.copy()),
    "slot": in_slot,
    "closure": in_closure,
    "default argument": in_default,
    "generator": in_generator,
    "traceback": in_traceback,
    "cache": in_cache,
    "class": in_class,
}


@pytest.mark.parametrize("place", HIDING_PLACES)
@pytest.mark.parametrize("what", ["contribution", "integers", "noise"])
def test_the_walk_finds_a_vector_wherever_it_is_kept(built, place, what):
    _, vectors, wanted = built
    if what != "contribution" and place in ("one number", "set"):
        return  # one small integer, or some without their order, may be there by chance
    holder = types.SimpleNamespace(something={"else": [HIDING_PLACES[place](vectors[what])]})
    found = find(wanted, reachable(holder))
    assert found
    assert all(f"{what} of client-1" in line for line in found)
    del holder.something
    assert find(wanted, reachable(holder)) == []


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    machines = make_machines(tmp_path_factory.mktemp("holds"), length=LENGTH, contributions=sentinels)
    header = header_of(machines.collected(0))
    wanted = wanted_from(machines, header, machines.names)
    contribution = machines.tasks["client-1"].contribution_given
    vectors = {
        "contribution": contribution,
        "integers": grid_of(header).quantise(contribution),
        "noise": machines.noise("client-1", header),
    }
    yield machines, vectors, wanted
    machines.close()


def test_the_walk_finds_keys_streams_and_foreign_identities(built):
    machines, _, wanted = built
    key = machines.scheme.generate_key()
    for secret in (key, key._secret, OsRandomness().stream("noise"), machines.identities["client-1"]):
        machines.server._run.transcript.kept = [secret]
        try:
            assert exposures(machines.server, wanted)
        finally:
            del machines.server._run.transcript.kept


# The same in a whole federation, with real gradients in place of the sentinels.


class Watch:
    """Wraps a federation's parties: remembers what clients computed and drew, and searches the server each time."""

    def __init__(self, monkeypatch):
        self.tape = Tape()
        self.found = []
        self.looks = 0
        self.wanted = {}
        monkeypatch.setattr(secure_fu.federation.parties, "InProcessSums", self._sums)
        monkeypatch.setattr(secure_fu.federation.parties, "Client", self._client)

    def _sums(self, *, opening, **arguments):
        watched = KeyHolderOpening(_WatchedServer(opening.server, self), opening._key_holder)
        return InProcessSums(opening=watched, **arguments)

    def _client(self, identity, *, tasks, **arguments):
        return _WatchedClient(Client(identity, tasks=_kept(tasks), **arguments), tasks, self)

    def responded(self, name, header, contribution):
        noise = self.tape.last(f"noise/{name}").replayed(noise_share_of(header), header.length)
        quantised = grid_of(header).quantise(contribution)
        self.wanted |= needles(f"{name} contribution", contribution)
        self.wanted |= needles(f"{name} integers", quantised)
        self.wanted |= needles(f"{name} noise", noise)
        self.wanted |= needles(f"{name} plaintext", quantised + noise)

    def look(self, server):
        self.looks += 1
        if self.wanted:
            self.found += exposures(server, self.wanted)


class _Kept:
    def __init__(self, task):
        self._task = task

    def contribution(self, model, terms, stream):
        self.last = self._task.contribution(model, terms, stream)
        return self.last


def _kept(tasks):
    for purpose in tasks:
        tasks[purpose] = _Kept(tasks[purpose])
    return tasks


class _WatchedClient:
    def __init__(self, client, tasks, watch):
        self._client, self._tasks, self._watch = client, tasks, watch

    def accept(self, invitation):
        return _WatchedRound(self._client.accept(invitation), self, header_of(invitation))

    def responded(self, header):
        self._watch.responded(self._client.name, header, self._tasks[header.purpose].last)


class _WatchedRound:
    def __init__(self, accepted, client, header):
        self._accepted, self._client, self._header = accepted, client, header

    def begin(self):
        self._pending = self._accepted.begin()
        self.failure = self._pending.failure
        return self

    def finish(self):
        upload = self._pending.finish()
        self._client.responded(self._header)
        return upload


class _WatchedServer:
    def __init__(self, server, watch):
        self._server, self._watch = server, watch

    def __getattr__(self, name):
        method = getattr(self._server, name)

        def watched(*arguments):
            try:
                return method(*arguments)
            finally:
                self._watch.look(self._server)

        return watched


def federation(scheme_name, watch, directory):
    draw = np.random.default_rng(7)
    clients = {
        f"silo-{number}": Records.from_arrays(draw.normal(size=(12, 5)), draw.integers(0, 3, 12)) for number in range(4)
    }
    plan = make_plan(mlp(5, (), 3, 0), clients=4, nominal_units=48, minimum_cohort=3, rounds=2, sampling_rate=0.5)
    return Federation(
        mlp(5, (), 3, 0),
        clients,
        plan=plan,
        scheme_name=scheme_name,
        vanishes=lambda number, name: (number, name) == (1, "silo-3"),
        directory=directory,
        randomness=watch.tape,
    )


def test_through_a_whole_federation_the_server_holds_no_clients_numbers(monkeypatch, tmp_path):
    watch = Watch(monkeypatch)
    with federation("bfv", watch, tmp_path) as federated:
        federated.train()
        request = DeletionRequest.some_records("silo-1", (0, 3))
        federated.unlearn(request, Retrain(), adaptive=False)
        federated.unlearn(request, Correction(length=2), adaptive=False)
        # Neither do ledger, transcript and the parties' records, nor any module's own variables.
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert {"ledger.sqlite", "transcript.jsonl", "key_holder.sqlite", "original.sqlite"} <= {p.name for p in files}
        for path in files:
            assert find(watch.wanted, [path.read_bytes()]) == [], path.name
    monkeypatch.undo()
    modules = [vars(module) for name, module in sys.modules.items() if name.startswith("secure_fu")]
    assert find(watch.wanted, reachable(*modules)) == []
    assert watch.found == []
    rounds = 2 + 2 + 2
    assert watch.looks == rounds * 4 + rounds * 4 - 1  # announce, invite, close, release; an upload each but one
    assert len(watch.wanted) > 1000


def test_the_same_walk_through_a_federation_without_encryption_finds_them(monkeypatch, tmp_path):
    watch = Watch(monkeypatch)
    with federation("plain", watch, tmp_path) as federated:
        federated.train()
    assert any("silo-0 plaintext" in line for line in watch.found)
