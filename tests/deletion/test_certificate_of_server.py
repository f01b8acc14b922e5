"""Certificates of a server whose clients and committee are nodes of their own, as an auditor is handed them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "deployment"))
from deployed import NOW, Deployment

from secure_fu.deletion import DeletionRequest
from secure_fu.deletion.certificate import Certificate
from secure_fu.deletion.certificate_check import Evidence, check_certificate
from secure_fu.deletion.certificate_store import CertificateStore, read_certificates
from secure_fu.unlearning import Retrain, Scrub


@pytest.fixture(scope="module")
def deployment(tmp_path_factory):
    made = Deployment(tmp_path_factory.mktemp("deployment"), rounds=3)
    yield made
    made.close()


def store(deployment):
    return CertificateStore(
        deployment.server_directory / "deletion" / "certificates",
        identity=deployment.identities["server"],
        roster=deployment.roster,
        policy_digest=deployment.policy.digest,
        clock=lambda: NOW + 5000,
    )


def test_windows_of_a_real_server_are_certified_and_checked(deployment):
    server = deployment.server
    server.train(rounds=2)
    named = deployment.request(DeletionRequest.some_records("silo-1", (0, 3)), "silo-1", units=3, disclose=True)
    hidden = deployment.request(DeletionRequest.some_records("silo-2", (7,)), "silo-2")
    first = deployment.batch(named)
    execution = server.delete(first, Retrain(), adaptive=True)
    name = store(deployment).certify(first, execution)
    deployment.restart("silo-0")
    server = deployment.reopen()
    again = server.execution(first.window_id)
    assert again == execution
    assert store(deployment).certify(first, again) == name
    second = deployment.batch(hidden, hidden_units=2, opened=NOW + 200)
    server = deployment.server
    later = server.delete(second, Scrub(length=1), adaptive=True)
    store(deployment).certify(second, later)
    folder = deployment.server_directory / "deletion" / "certificates"
    one, two = read_certificates(folder)
    evidence = Evidence(
        policy=deployment.policy,
        transcript=deployment.server_directory / "transcript.jsonl",
        ledger=server.ledger,
    )
    findings = check_certificate(one, roster=deployment.roster, evidence=evidence)
    assert "no more and no fewer" in " ".join(findings.proved)
    assert one.body["asked"]["units"] == 3
    # One that was asked for, and two at each of four clients that may have been.
    assert (two.body["asked"]["hidden_units"], two.body["asked"]["units"]) == (2, 9)
    assert [entry["client"] for entry in one.body["wiped"]] == sorted(deployment.clients)
    chained = check_certificate(
        two,
        roster=deployment.roster,
        evidence=Evidence(policy=deployment.policy, transcript=evidence.transcript, earlier=[one]),
    )
    assert "with the 1 before it" in " ".join(chained.proved)
    # The first names its client and counts what that one paid; the second counts what any client may have paid.
    assert one.body["asked"]["requests"][0]["client"] == "silo-1"
    rounds = two.body["accounting"]["rounds"]
    assert all(entry["counts"]["forgotten"] == entry["counts"]["retained"] for entry in rounds)
    body = Certificate.of(two.content).body
    assert "silo-2" not in str(body["asked"])
    assert body["forgetting"]["kind"] == "heuristic"
