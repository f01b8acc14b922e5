"""A whole federation over Flower: processes, TLS, authenticated nodes, a node killed in the middle, a certificate.

Takes two minutes, most of them Flower's polling; everything listens on the loopback address alone.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("flwr")

from captured_messages import captured, conversation, holds, tally

from secure_fu.crypto import CommitteeTerms, InsecureDeterministicRandomness
from secure_fu.crypto.identity_file import read_identities
from secure_fu.crypto.wire import encode
from secure_fu.deletion import DeletionRequest
from secure_fu.deletion.certificates import CertificateError, Evidence, check_certificate, read_certificate
from secure_fu.deletion.policy import read_deletion_policy
from secure_fu.deletion.requests import sign_request
from secure_fu.deployment.exchange.messages import Kind
from secure_fu.deployment.founding.setup import read_roster
from secure_fu.deployment.founding.terms import model_of, read_terms
from secure_fu.deployment.local import LocalNodes
from secure_fu.deployment.server import open_queue
from secure_fu.federation import Federation
from secure_fu.flower.local import LocalFlower
from secure_fu.learning import Records
from secure_fu.protocol import read_policy
from secure_fu.protocol.committee.encryption import CommitteeEncryption
from secure_fu.unlearning import Retrain

APP = Path(__file__).resolve().parents[2] / "examples" / "flower"
SEED = 7
COMMITTEE = CommitteeTerms(members=4, threshold=3, quorum=3, corrupt=1)
NODES = {
    "node-1": ("clinic-1", "member-1"),
    "node-2": ("clinic-2",),
    "node-3": ("clinic-3", "member-2"),
    "node-4": ("clinic-4", "member-3"),
    "node-5": ("clinic-5", "member-4"),
}
KILLED = "node-2"  # where the deletion is; no member, so that rounds are opened while it is away
REQUEST = DeletionRequest.some_records("clinic-2", (0, 5, 9))


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(prefix="fu") as short:  # sockets have short paths
        yield Path(short)


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(APP))
    import make_federation

    return make_federation


def node_command(directory, socket):
    return [
        sys.executable,
        str(Path(__file__).with_name("deterministic_node.py")),
        str(directory),
        str(socket),
        str(SEED),
    ]


def run_with_a_kill(flower, nodes, config):
    """Run the app; kill a node by SIGKILL when its first upload of the run has come, and start it again."""
    capture = Path(config["capture-directory"])
    before = len(uploads(capture, "clinic-2"))
    run = flower.submit(APP, config)
    looks = 0
    while len(uploads(capture, "clinic-2")) == before:
        looks += 1
        assert looks % 60 or flower.status(run) == "running", flower.wait(run)
        time.sleep(0.5)
    nodes.kill(KILLED)
    nodes.start(KILLED)
    log = flower.wait(run, timeout=600)
    assert flower.status(run) == "finished:completed", log
    return json.loads(Path(config["report"]).read_text())


def uploads(capture, client):
    """Those of a client that have come so far."""
    if not any(capture.glob("*.bin")):
        return []
    try:
        return [
            body
            for kind, party, outcome, body in conversation(capture)
            if (kind, party, outcome) == (Kind.INVITE, client, "done")
        ]
    except Exception:  # the newest file is being written
        return []


def hand_in(server, identity):
    """A signed request in the server's queue."""
    roster, now = read_roster(server / "roster.bin"), int(time.time())
    request = sign_request(
        identity, REQUEST, roster=roster, units=3, submitted=now, deadline=now + 10 * 86400, disclose=True
    )
    with open_queue(server, make=True) as queue:
        queue.submit(request, roster=roster, policy=read_deletion_policy(server / "deletion.toml"), now=now)


def in_process(terms, roster, clinics, monkeypatch):
    """The same in one process: models after training and after the deletion, and what each client encrypted."""
    encrypted = []
    begin = CommitteeEncryption.begin

    def keep(self, invitation, header, client, values):
        encrypted.append(np.array(values))
        return begin(self, invitation, header, client, values)

    monkeypatch.setattr(CommitteeEncryption, "begin", keep)
    with Federation(
        model_of(terms.model),
        {f"clinic-{place + 1}": Records.from_arrays(*arrays) for place, arrays in enumerate(clinics)},
        plan=terms.plan_for(roster),
        scheme_name=terms.scheme,
        committee=COMMITTEE,
        methods=terms.methods,
        randomness=InsecureDeterministicRandomness(SEED),
    ) as federated:
        trained = federated.train().model.digest.hex()
        federated.delete(REQUEST, Retrain(), adaptive=True)
        return trained, federated.state.model.digest.hex(), encrypted


@pytest.mark.timeout(900)
def test_train_delete_unlearn_certify_over_flower(folder, example, monkeypatch):
    terms = read_terms(APP / "federation.toml")
    terms = replace(terms, plan={**terms.plan, "rounds": 2})
    example.make(folder / "fed", terms, NODES)
    server, capture = folder / "fed" / "server", folder / "captured"
    folders = {name: folder / "fed" / "nodes" / name for name in NODES}
    sockets = {name: folder / f"{name}.sock" for name in NODES}
    config = {"server-directory": str(server), "capture-directory": str(capture), "wait-for-nodes": len(NODES)}
    config |= {"exchange-timeout": 240.0, "wait-seconds": 240.0}  # a slow machine must not leave a node out
    with (
        LocalNodes(folders, sockets, logs=folder / "logs", command=node_command) as nodes,
        LocalFlower(
            folder / "flower",
            {name: {"secure-fu-socket": str(sockets[name]), "secure-fu-return-seconds": 60.0} for name in NODES},
        ) as flower,
    ):
        trained = run_with_a_kill(flower, nodes, {**config, "job": "train", "report": str(folder / "trained.json")})
        hand_in(server, read_identities(folders[KILLED] / "keys.bin")["clinic-2"])
        unlearned = run_with_a_kill(
            flower, nodes, {**config, "job": "unlearn", "now": True, "report": str(folder / "unlearned.json")}
        )
        assert sorted(nodes.pids) == sorted(NODES)
    assert flower.pids == {} == nodes.pids
    roster = read_roster(server / "roster.bin")

    # What came of it is what comes of it in one process, bit for bit.
    clinics = example.digits(len(NODES))
    expected_trained, expected_unlearned, encrypted = in_process(terms, roster, clinics, monkeypatch)
    assert trained["model"] == expected_trained
    assert unlearned["model"] == expected_unlearned
    assert [traffic["uploads"] for traffic in trained["traffic"]] == [5, 5]
    assert [window["state"] for window in unlearned["windows"]] == ["certified"]

    check_the_certificate(server, roster, unlearned["windows"][0]["certificate"])
    check_what_travelled(capture, folder, clinics, encrypted)


def check_the_certificate(server, roster, name):
    path = server / "deletion" / "certificates" / name
    evidence = Evidence(policy=read_policy(server / "policy.toml"), transcript=server / "transcript.jsonl")
    certificate = read_certificate(path)
    check_certificate(certificate, roster=roster, evidence=evidence)
    assert [one["client"] for one in certificate.body["wiped"]] == [f"clinic-{place + 1}" for place in range(5)]
    assert certificate.body["unconfirmed"] == []
    forged = path.with_name("forged.json")
    forged.write_bytes(path.read_bytes().replace(b'"retrain"', b'"rollbac"', 1))
    with pytest.raises(CertificateError):
        check_certificate(read_certificate(forged), roster=roster, evidence=evidence)


def check_what_travelled(capture, folder, clinics, encrypted):
    # Every byte belongs to a message of the protocol: no metric, no count of examples has a field to be in.
    seen = tally(capture)
    assert seen["invite", "done"] == len(encrypted) == 4 * len(NODES)
    assert seen["wipe", "done"] == len(NODES)
    assert {kind for kind, _ in seen} == {"hello", "begin", "invite", "ballot", "quorum", "wipe"}
    assert {outcome for _, outcome in seen} <= {"asked", "done", "unknown-run"}
    # Who deletes sends as many bytes as everybody else.
    bodies = [body for kind, _, outcome, body in conversation(capture) if (kind, outcome) == (Kind.INVITE, "done")]
    assert len({len(encode(body)) for body in bodies}) == 1
    # No contribution, and no record, is anywhere outside the nodes: not on the wire, nor with the server, nor in
    # Flower's own files.
    outside = b"".join(content for _, _, content in captured(capture))
    files = [path for place in (folder / "fed" / "server", folder / "flower") for path in place.rglob("*")]
    outside += b"".join(path.read_bytes() for path in files if path.is_file())
    rows = [features[place].astype(np.float64)[8:56] for features, _ in clinics for place in (0, 5, 9)]
    for vector in [*encrypted, *(row for row in rows if len(set(row.tolist())) > 8)]:
        assert not holds(outside, vector)
        for form in ("<i8", "<f4"):  # the search finds what it looks for
            assert holds(outside + b"?" + encrypted[0].astype(form).tobytes(), encrypted[0])
